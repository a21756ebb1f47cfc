#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The module shows nbdkit its entry point and the debug flags, and nothing
# else; and what it wants, nbdkit and its libraries have.

set -euo pipefail

: "${PCACHE_FILTER:?}" "${NBDKIT:?}"

symbols=$(nm -D --defined-only "$PCACHE_FILTER" | awk '{ print $3 }')
echo "$symbols"
if ! grep -qx filter_init <<< "$symbols"; then
  echo "$PCACHE_FILTER does not export filter_init"
  exit 1
fi
if other=$(grep -vxE 'filter_init|pcache_debug_[a-z0-9_]+' <<< "$symbols"); then
  echo "$PCACHE_FILTER exports what is nobody's business:"
  echo "$other"
  exit 1
fi

# nbdkit loads it and finds everything.
"$NBDKIT" --dump-plugin --filter="$PCACHE_FILTER" null >/dev/null

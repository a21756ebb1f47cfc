#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The man page is correct pod, and what the documents point to is there.

set -euo pipefail

top=${top_srcdir:-$(dirname "$0")/..}
if ! command -v podchecker >/dev/null; then
  echo "podchecker not found (Debian: perl)"
  exit 77
fi

errors=0
pod=$top/docs/nbdkit-pcache-filter.pod
# podchecker says nothing of warnings in its exit code.
output=$(podchecker -warnings -warnings "$pod" 2>&1) || errors=1
echo "$output"
case $output in *WARNING*) errors=1 ;; esac

# Links of the form [text](path) to files of ours.
for document in "$top"/README.md "$top"/docs/*.md; do
  while read -r link; do
    case $link in ''|*:*|'#'*) continue ;; esac
    if [ ! -e "$(dirname "$document")/${link%%#*}" ]; then
      echo "$document: links to $link, which does not exist"
      errors=1
    fi
  done < <(grep -oE '\]\([^) ]+\)' "$document" | sed 's/^](//; s/)$//')
done
exit $errors

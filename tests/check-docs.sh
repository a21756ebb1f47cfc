#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The man pages are correct pod, what the documents point to is there, and they
# leave out nothing that they should name.

set -euo pipefail

top=${top_srcdir:-$(dirname "$0")/..}
if ! command -v podchecker >/dev/null; then
  echo "podchecker not found (Debian: perl)"
  exit 77
fi

errors=0
# podchecker says nothing of warnings in its exit code.
check_pod ()
{
  local output

  output=$(podchecker -warnings -warnings "$@" 2>&1) || errors=1
  echo "$output"
  case $output in *WARNING*) errors=1 ;; esac
}
check_pod < <(perl "$top/docs/statistics-pod" \
                "$top/filter/engine/status_list.h" \
                "$top/docs/nbdkit-pcache-filter.pod")
check_pod "$top/docs/pcachectl.pod"

# Links of the forms [text](path) and [text]: path to files of ours.
for document in "$top"/README.md "$top"/docs/*.md; do
  while read -r link; do
    case $link in ''|*:*|'#'*) continue ;; esac
    if [ ! -e "$(dirname "$document")/${link%%#*}" ]; then
      echo "$document: links to $link, which does not exist"
      errors=1
    fi
  done < <(grep -oE '\]\([^) ]+\)|^\[[^]]+\]: .*' "$document" |
             sed 's/^](//; s/)$//; s/^\[[^]]*\]: //')
done

for test in "$top"/tests/interop/test-*.sh; do
  if ! grep -q "/${test##*/}" "$top/docs/INTEROP.md"; then
    echo "docs/INTEROP.md: nothing of ${test##*/}"
    errors=1
  fi
done

# What quickstart installs is what README tells to install.
installed ()
{
  sed -n '/^\(check_\)*packages="/,/^"/{/"/!p}' "$top/quickstart"
}
told ()
{
  sed -n '/apt-get install/,/^$/{/apt-get/!p}' "$top/README.md" | tr -d '\\'
}
if ! diff <(installed | xargs -n 1 | sort -u) <(told | xargs -n 1 | sort -u); then
  echo "quickstart (<) and README.md (>) name different packages"
  errors=1
fi
exit $errors

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# configure refuses what is too old, or does not belong together, and says what
# it found and what is needed.

set -euo pipefail
export LC_ALL=C

top=$(cd "${top_srcdir:-$(dirname "$0")/..}" && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir"
if ! [ -x "$top/configure" ]; then
  echo "there is no configure; autoreconf -fi makes it"
  exit 77
fi
# What is not about nbdkit and the libraries need not be found out each time.
sed -nE '/^## Cache variables/,/^## Output variables/ {
           /^(ac_cv_env|ac_cv_path_NBDKIT|pkg_cv)/d; /^[a-z]+_cv_[A-Za-z0-9_]*=/p }' \
    "${top_builddir:-$top}/config.log" > cache 2>/dev/null || true
# What a make around us was told.
unset NBDKIT "${!NBDKIT_@}" "${!PMEM_@}" "${!XXHASH_@}" "${!URCU_@}" \
      "${!JSON_@}" "${!LIBNBD_@}"
cases=()

# module CASE NAME VERSION: pkg-config finds it first.
module ()
{
  mkdir -p "$1/pc"
  printf 'includedir=%s\nfilterdir=/nowhere\nName: %s\nDescription: -\nVersion: %s\n' \
         "$dir/$1" "$2" "$3" > "$1/pc/$2.pc"
}

# headers CASE MAJOR MINOR MICRO: nbdkit's, as far as configure looks.
headers ()
{
  printf '#define NBDKIT_VERSION_%s %s\n' MAJOR "$2" MINOR "$3" MICRO "$4" \
    > "$1/nbdkit-filter.h"
}

# program CASE VERSION
program ()
{
  mkdir -p "$1"
  printf '#!/bin/sh\necho "nbdkit %s (test)"\n' "$2" > "$1/nbdkit"
  chmod +x "$1/nbdkit"
}

# An nbdkit that is all right.
nbdkit_1_50 ()
{
  module "$1" nbdkit 1.50.1
  headers "$1" 1 50 1
  program "$1" 1.50.1
}

# refuses CASE TEXT...: configure fails, and all of that is in its message.
refuses () { local IFS=$'\n'; cases+=("$*"); }

run ()
{
  cd "$dir/$1"
  cp ../cache .
  if PKG_CONFIG_PATH=$dir/$1/pc "$top/configure" --cache-file=cache \
                    NBDKIT="$dir/$1/nbdkit" > log 2>&1 < /dev/null
  then
    touch accepted
  fi
}

module old-nbdkit nbdkit 1.30.0
program old-nbdkit 1.30.0
refuses old-nbdkit 'nbdkit 1.30.0 is too old' 'needs nbdkit 1.32 or later'

nbdkit_1_50 no-headers
echo '#error not here' > no-headers/nbdkit-filter.h
refuses no-headers 'is nbdkit-filter.h installed and usable'

nbdkit_1_50 other-micro
program other-micro 1.50.2
refuses other-micro 'are of different versions' \
        "$dir/other-micro/nbdkit is 1.50.2" 'nbdkit-version.h is 1.50.1'

nbdkit_1_50 other-pc
module other-pc nbdkit 1.42.3
refuses other-pc 'are of different versions' 'nbdkit.pc         1.42.3' \
        'nbdkit-version.h  1.50.1'

# These come after nbdkit, which has passed then.
nbdkit_1_50 old-pmem
module old-pmem libpmem 1.9.2
refuses old-pmem 'libpmem 1.9.2 is too old' 'needs libpmem 1.10 or later'

nbdkit_1_50 old-xxhash
module old-xxhash libxxhash 0.7.4
refuses old-xxhash 'libxxhash 0.7.4 is too old' \
        'needs libxxhash 0.8.0 or later'

nbdkit_1_50 old-urcu
module old-urcu liburcu-bp 0.10.2
refuses old-urcu 'liburcu-bp 0.10.2 is too old' \
        'needs liburcu-bp 0.11 or later'

for case in "${cases[@]}"; do
  run "${case%%$'\n'*}" &
done
wait

errors=0
for case in "${cases[@]}"; do
  mapfile -t texts <<< "$case"
  name=${texts[0]}
  echo "$name:"
  sed -n 's/^.*\(configure: error:\)/\1/; /^configure: error:/,$p' "$name/log"
  if [ -e "$name/accepted" ]; then
    echo "$name: configure accepted it"
    errors=1
  fi
  for text in "${texts[@]:1}"; do
    sed -n '/configure: error:/,$p' "$name/log" | grep -qF -e "$text" || {
      echo "$name: the message does not say \"$text\""
      tail -n 5 "$name/log"
      errors=1
    }
  done
done
[ ${#cases[@]} -gt 0 ] || errors=1
exit $errors

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Each parameter of config.c and settings.h is in --help and in the man page,
# with the same values, and these name no other; each item of the statistics
# file is in the man page.

set -euo pipefail
export LC_ALL=C

top=${top_srcdir:-$(dirname "$0")/..}
config=$top/filter/config.c
settings=$top/filter/engine/settings.h
pod=$top/docs/nbdkit-pcache-filter.pod
tmp=$(mktemp -d "${TMPDIR:-/tmp}/XXXXXX")
trap 'rm -rf "$tmp"' EXIT
errors=0

# complain WHAT: about each line of the input
complain ()
{
  local line

  while read -r line; do
    echo "$line: $1"
    errors=1
  done
}

# compare FILE FILE: they have the same lines.
compare ()
{
  complain "in $1, not in $2" < <(comm -23 "$tmp/$1" "$tmp/$2")
  complain "in $2, not in $1" < <(comm -13 "$tmp/$1" "$tmp/$2")
}

# name=<VALUE> or name=a|b at the start of a line; VALUE without brackets.
parameters='^(pmem|pcache)[a-z-]*='
help_line='s/^((pmem|pcache)[a-z-]*=(<[A-Z]+>|[a-z|]+)).*/\1/p'

{
  sed -nE 's/^  \{ "([a-z-]+)", set_.*/\1/p' "$config"
  sed -nE 's/^  X \([a-z_]+, "([a-z-]+)", [A-Z]+,.*/pcache-\1/p' "$settings"
} | sort > "$tmp/config.c"
sed -n '/^const char config_help/,/;$/p' "$config" |
  sed -E 's/^ *"//' | sed -nE "$help_line" | tr -d '<>' | sort > "$tmp/help"
sed -n '/^=head1 SYNOPSIS/,/^=head1 DESCRIPTION/p' "$pod" |
  grep -oE '(pmem|pcache)[a-z-]*=[A-Za-z|]+' | sort > "$tmp/synopsis"
sed -n '/^=head1 PARAMETERS/,/^=head1 NOTES/p' "$pod" |
  sed -nE 's/^=item B<([a-z-]+)=.*/\1/p' | sort -u > "$tmp/PARAMETERS"

for file in help synopsis; do
  sed 's/=.*//' "$tmp/$file" | sort > "$tmp/names in $file"
  compare config.c "names in $file"
done
compare config.c PARAMETERS
compare help synopsis

# What the module really prints, when there is one.
if [ -n "${NBDKIT:-}" ] && [ -e "${PCACHE_FILTER:-}" ]; then
  "$NBDKIT" --filter=pcache null --help | grep -E "$parameters" |
    sed -nE "$help_line" | tr -d '<>' | sort > "$tmp/help printed"
  compare "help printed" help
fi

# Each value of a choice has its place in the text.
while IFS='=|' read -r -a words; do
  for value in "${words[@]:1}"; do
    case $value in [a-z]*) ;; *) continue ;; esac
    grep -q "^=item B<${words[0]}=$value>" "$pod" ||
      complain "not described in the man page" <<< "${words[0]}=$value"
  done
done < "$tmp/help"

# What else the man page says of the items is generated from their list.
sed -n '/^=head1 STATISTICS/,/^=head1 ENV/p' "$pod" |
  grep -qx '=for pcache STATISTICS' ||
  complain "not in the man page" <<< "=for pcache STATISTICS"
perl "$top/docs/statistics-pod" "$top/filter/engine/status_list.h" |
  sed 's/ .*//' | sort > "$tmp/statistics"
complain "twice in status_list.h" < <(uniq -d "$tmp/statistics")
# Other places of the page that name one.
grep -oE '(gauge|counter)s? C<[a-z_]+>' "$pod" | sed -E 's/.*<(.*)>/\1/' |
  sort -u > "$tmp/named"
complain "named in the man page, not in status_list.h" \
         < <(comm -13 "$tmp/statistics" "$tmp/named")

# An empty list would make all this vain.
for file in config.c help statistics; do
  [ -s "$tmp/$file" ] || complain "not found in the source" <<< "$file"
done
exit $errors

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcachectl: each command of its table is in --help and in the man page, with
# the same options and arguments, and the page names no other; bash completion
# offers all of them.

set -euo pipefail
export LC_ALL=C

top=$(cd "${top_srcdir:-$(dirname "$0")/..}" && pwd)
build=$(cd "${top_builddir:-$top}" && pwd)
pcachectl=$build/filter/pcachectl
pod=$top/docs/pcachectl.pod
tmp=$(mktemp -d "${TMPDIR:-/tmp}/XXXXXX")
trap 'rm -rf "$tmp"' EXIT
errors=0

complain ()
{
  echo "$*"
  errors=1
}

# compare FILE FILE: they have the same lines.
compare ()
{
  diff "$tmp/$1" "$tmp/$2" || complain "$1 (<) and $2 (>) differ"
}

[ -x "$pcachectl" ] || { echo "pcachectl was not built"; exit 77; }

# In the source, each command has a struct with its name, and the table its
# address.
sed -nE 's/^  &([a-z_]+)_command,$/\1/p' "$top/filter/tool/pcachectl.c" |
  sort > "$tmp/table"
"$pcachectl" --help | sed -nE 's/^  pcachectl ([a-z].*)/\1/p' > "$tmp/help"
cut -d' ' -f1 "$tmp/help" | sort > "$tmp/help's names"
compare table "help's names"
# Long ones take several lines.
sed -n '/^=head1 SYNOPSIS/,/^=head1 DESCRIPTION/p' "$pod" |
  sed -E ':a; N; $!ba; s/\n {2,}/ /g' |
  sed -nE 's/^ pcachectl ([a-z].*)/\1/p' > "$tmp/synopsis"
while read -r usage; do
  grep -qxF -e "$usage" "$tmp/synopsis" ||
    complain "the synopsis does not have: $usage"
done < "$tmp/help"
cut -d' ' -f1 "$tmp/synopsis" | sort -u > "$tmp/synopsis's names"
compare table "synopsis's names"
sed -nE 's/^=head2 pcachectl ([a-z]+) .*/\1/p' "$pod" | sort \
  > "$tmp/described"
compare table described
[ -s "$tmp/table" ] || complain "no command was found"

# Each says what it takes, and refuses what it does not.
while read -r command; do
  [ "$("$pcachectl" "$command" --help | head -n 1)" = \
    "  pcachectl $(grep "^$command " "$tmp/help")" ] ||
    complain "pcachectl $command --help does not show its usage"
  for bad in '--no-such-option' ''; do
    code=0
    # shellcheck disable=SC2086
    "$pcachectl" "$command" $bad > /dev/null 2> "$tmp/stderr" || code=$?
    [ $code -eq 2 ] || complain "pcachectl $command $bad: exit status $code"
    grep -q "^pcachectl: $command" "$tmp/stderr" ||
      complain "pcachectl $command $bad: $(cat "$tmp/stderr")"
  done
done < "$tmp/table"

# Completion. ------------------------------------------------------------

# shellcheck disable=SC1091
. "$top/docs/bash-completion/pcachectl"

# completes EXPECTED WORD...: the last word is what the cursor is at.
completes ()
{
  local expected=$1
  shift

  COMP_WORDS=("$pcachectl" "$@")
  COMP_CWORD=$#
  COMPREPLY=()
  _pcachectl
  [ "$(printf '%s\n' "${COMPREPLY[@]}" | sort | xargs)" = "$expected" ] ||
    complain "pcachectl $*: completed with ${COMPREPLY[*]}, not $expected"
}

completes "$( { cat "$tmp/table"; echo --help; echo --version; } |
                sort | xargs)" ''
completes 'metrics' met
completes '--help --json' status --
completes '--count=' watch --c
cd "$tmp"
mkdir files
"${PYTHON3:-python3}" -c '
import socket
socket.socket (socket.AF_UNIX).bind ("files/a socket")'
touch files/device
mkdir files/folder
completes 'files/' status fil
completes 'files/a socket files/folder/' status files/
completes 'files/a socket files/folder/' watch --count = 3 files/
completes '' watch --count = 3
completes '' status files/a ''
# test-control.sh completes settings, which takes a running cache.
exit $errors

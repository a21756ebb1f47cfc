#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Each layer uses only what lies beneath it (docs/DESIGN.md, layers).
#
# The table says what of the project a file may use beside itself: include
# its header, and call its functions.  In parentheses: the header is fine, for
# its types and limits, but calls are not.  The first line that fits a file
# counts; a file that no line fits is an error: put it in its place here when
# you add it.  The order of the lines is that of the layers, bottom first.
#
# The includes are read from the sources, the calls from the libraries of the
# layers if they have been built (top_builddir, or the second argument).

set -euo pipefail

top=${1:-${top_srcdir:-$(dirname "$0")/..}}
build=${2:-${top_builddir:-$top}}
filter=$top/filter

lowest="base/* engine/format engine/backend engine/latency engine/settings engine/stats engine/status_list"
media="$lowest pmem/pmem engine/twin engine/superblock engine/segment"
log="$media engine/epoch_queue engine/log engine/log_reader"
parts="$log engine/index engine/lost engine/rate engine/streams engine/flights engine/ghost engine/range_lock engine/engine (engine/cache)"
service="$parts engine/rcu engine/record_io engine/flush engine/modes engine/append engine/holes"

layers="
base/*                  base/*
pmem/*                  base/* pmem/*
engine/format           base/*
engine/backend          base/*
engine/settings         base/*
engine/status_list      base/*
engine/latency          base/*
engine/stats            base/* engine/latency engine/status_list
engine/rate             base/*
engine/twin             $lowest pmem/pmem
engine/superblock       $lowest pmem/pmem engine/twin (engine/cache)
engine/segment          $lowest pmem/pmem engine/twin engine/superblock
engine/node_pool        base/*
engine/extent_tree      base/* engine/index engine/node_pool
engine/index            base/* engine/extent_tree engine/node_pool
engine/index_load       base/* engine/index
engine/epoch_queue      $media (engine/index)
engine/lost             base/*
engine/streams          base/*
engine/flights          base/*
engine/ghost            base/*
engine/rcu              base/*
engine/rate_limit       base/*
engine/schedule         base/* engine/settings
engine/entrance         base/*
engine/passthrough      $lowest
engine/log_reader       $media (engine/index)
engine/log              $log (engine/index)
engine/range_lock       base/*
engine/record_io        $parts (engine/modes engine/holes)
engine/flush            $parts engine/record_io (engine/modes engine/holes)
engine/modes            $parts engine/flush (engine/holes)
engine/append           $parts engine/record_io engine/flush engine/modes (engine/holes)
engine/holes            $parts engine/record_io engine/flush engine/modes engine/append
engine/read             $service
engine/write            $service
engine/collect          $parts engine/index_load
engine/replay           $service engine/collect
engine/checkpoint       $service engine/replay engine/collect
engine/recovery         $service engine/replay engine/checkpoint
engine/writeback        $service engine/rate_limit
engine/gc               $service
engine/layout           $service pmem/device
engine/engine           $service
engine/cache            base/* pmem/pmem engine/*
control/*               base/* engine/cache engine/latency engine/settings engine/stats engine/status_list control/*
tool/*                  base/* pmem/pmem pmem/device pmem/overlay engine/* control/* tool/*
"

# Headers that only one layer may know: that of the slow store's host, and
# those by which one could store to persistent memory.
nbdkit_header='nbdkit-*'
pmem_headers='libpmem.h libpmem2.h'

errors=0
complain ()
{
  echo "$*" >&2
  errors=$((errors + 1))
}

# fits NAME PATTERN...
fits ()
{
  local name=$1 pattern
  shift
  for pattern; do
    # shellcheck disable=SC2053
    [[ $name == $pattern ]] && return 0
  done
  return 1
}

# Set allowed to what NAME may use; false when the table does not know it.
declare -a allowed
find_allowed ()
{
  local name=$1 first rest
  while read -r first rest; do
    if [ -n "$first" ] && fits "$name" "$first"; then
      read -ra allowed <<< "$rest"
      return 0
    fi
  done <<< "$layers"
  return 1
}

check_includes ()
{
  local file=$1 name=${1#"$filter/"}
  local line text included header

  name=${name%.[ch]}
  case $name in
    */*)
      if ! find_allowed "$name"; then
        complain "$file: is in no layer; add it to $0"
        return
      fi ;;
    *)
      # The adapter, on top of everything.
      allowed=("base/*" pmem/device pmem/pmem "engine/*" "control/*")
      for header in "$filter"/*.h; do
        header=${header##*/}
        allowed+=("${header%.h}")
      done ;;
  esac

  while IFS=: read -r line text; do
    [[ $text =~ ^[[:space:]]*\#[[:space:]]*include[[:space:]]*([<\"])([^>\"]*) ]] ||
      { complain "$file:$line: cannot read this #include"; continue; }
    included=${BASH_REMATCH[2]}
    if fits "$included" "$nbdkit_header"; then
      case $name in
        */*) complain "$file:$line: includes $included;" \
                      "only filter/*.c may know nbdkit" ;;
      esac
      continue
    fi
    # shellcheck disable=SC2086
    if fits "$included" $pmem_headers; then
      case $name in
        pmem/*) ;;
        *) complain "$file:$line: includes $included;" \
                    "only pmem/ stores to persistent memory" ;;
      esac
      continue
    fi
    # <...> that is not a file of ours is the system's; <config.h> autoconf's.
    if [ "${BASH_REMATCH[1]}" = '<' ] &&
       { [ "$included" = config.h ] || [ ! -e "$filter/$included" ]; }; then
      continue
    fi
    header=${included%.h}
    if ! fits "$header" "$name" "${allowed[@]}" &&
       ! fits "($header)" "${allowed[@]}"; then
      complain "$file:$line: includes $included," \
               "which does not lie beneath $name"
    fi
  done < <(grep -nE '^[[:space:]]*#[[:space:]]*include\b' "$file" || true)
}

# Print "USER DEFINER SYMBOL" for each use of one file's symbol by another, as
# names in the table, from the archives' symbol tables.
list_calls ()
{
  nm -A "$@" | awk -v sources="$(cd "$filter" && echo */*.c)" '
    BEGIN {
      n = split (sources, source, " ")
      for (i = 1; i <= n; i++) {
        name = source[i]
        sub (/\.c$/, "", name)
        base = name
        sub (/.*\//, "", base)
        path[base] = name
      }
    }
    {
      # libengine.a:read.o:0000000000000000 T engine_read
      if (NF < 2)
        next
      split ($1, part, ":")
      file = part[2]
      sub (/\.o$/, "", file)
      sub (/^lib[a-z]+_la-/, "", file)  # of a library with flags of its own
      file = path[file]
      type = $(NF - 1)
      if (type ~ /^[TDBRVWC]$/)
        definer[$NF] = file
      else if (type == "U")
        used[file " " $NF] = 1
    }
    END {
      for (u in used) {
        split (u, part, " ")
        if (part[2] in definer)
          print part[1], definer[part[2]], part[2]
      }
    }' | sort
}

files=0
while read -r file; do
  check_includes "$file"
  files=$((files + 1))
done < <(find "$filter" -name '*.[ch]' | LC_ALL=C sort)
if [ $files -lt 10 ]; then
  complain "$filter: found only $files source files"
fi

shopt -s nullglob
archives=("$build"/filter/.libs/lib*.a)
shopt -u nullglob
calls=0
if [ ${#archives[@]} -gt 0 ]; then
  while read -r user definer symbol; do
    calls=$((calls + 1))
    find_allowed "$user" || continue    # has been complained of
    if ! fits "$definer" "$user" "${allowed[@]}"; then
      complain "$user: uses $symbol of $definer," \
               "which does not lie beneath it"
    fi
  done < <(list_calls "${archives[@]}")
  if [ $calls -lt 10 ]; then
    complain "$build/filter/.libs: found only $calls calls between files"
  fi
fi

if [ $errors -gt 0 ]; then
  echo "the layers are broken in $errors places" >&2
  exit 1
fi
echo "$files files with $calls calls between them keep to their layers"

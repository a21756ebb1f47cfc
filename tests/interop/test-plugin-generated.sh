#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Plugins whose disk is made as it is read: data, sparse-random, pattern, random,
# partitioning and so on; and those that keep nothing.  What the cache serves, also after a
# restart and without asking again, is what the plugin alone serves.

. "$(dirname "$0")/functions.sh"
need nbdcopy
use_seed

# as_without NAME PLUGIN ARGUMENT...
as_without ()
{
  local name=$1

  shift
  if ! "$NBDKIT" "$1" --version > /dev/null 2>&1; then
    say "nbdkit has no plugin $1 here"
    return
  fi
  say "== $name"
  start_nbdkit plain -r "$@"
  nbdcopy "$(uri plain "$export")" model.img
  stop plain
  use_cache pmem
  for life in 1 2; do
    start "$name" -r "$@" ${export:+pcache-export="$export"} pmem="$cache" \
          pmem-size=34M pcache-segment-size=1M
    exercise "$name" readonly requests=10
    stop "$name"
  done
  [ "$(figure "$name" read_miss_bytes)" -eq 0 ] || fail "$name: it asked again"
}

export=
as_without data data '(0x55 0xaa)*5000 @1000001 "text" @0x200000 </etc/passwd' \
           size=3000003
as_without sparse-random sparse-random 4M seed=3 percent=30
as_without pattern pattern 2000001
as_without random random 2M seed=7
as_without zero zero
as_without null null 1M
as_without full full 1M
random_file one $((2 * MiB))
random_file two $((MiB + 512))
as_without partitioning partitioning one two
# Read only, and without block status: for both it fails by itself.
as_without split split one two --filter=noextents
mkdir tree
cp one tree/
as_without floppy floppy tree
# It looks at the name.
export=some-name
as_without info info
export=

say "Written to what is gone with nbdkit, more than fits in the cache"
for allocator in sparse malloc zstd; do
  rm -f model.img
  truncate -s 12M model.img
  use_cache pmem
  # A block status beside a write can end nbdkit with that allocator.
  case $allocator in zstd) below=(--filter=noextents) ;; *) below=() ;; esac
  start memory "${below[@]}" memory 12M allocator=$allocator pmem="$cache" \
        pmem-size=6M pcache-segment-size=1M pcache-writeback-delay=0
  exercise memory requests=100
  stop memory
  drained memory
  # Such a cache is of no use any more.
  refused memory 'plugin memory forgets' -- --filter=pcache memory 12M pmem="$cache"
  truncate -s 0 model.img
  truncate -s 12M model.img
  start memory memory 12M pmem="$cache" pcache-format=force \
        pcache-segment-size=1M
  exercise memory requests=5
  stop memory
done

say "Written to a plugin that compares it with what it serves"
start_nbdkit plain sparse-random 4M seed=3
use_cache pmem
start checked sparse-random 4M seed=3 pmem="$cache" pmem-size=6M pcache-segment-size=1M
nbdcopy --flush "$(uri plain)" "$(uri checked)"
stop plain
stop checked
drained checked
# What it does not like is kept, and said.
use_cache pmem
start checked sparse-random 4M seed=3 pmem="$cache" pmem-size=6M pcache-segment-size=1M \
      pcache-writeback-delay=0 pcache-drain-timeout=1
nbdsh -u "$(uri checked)" -c 'h.pwrite (b"not what it has", 100); h.flush ()'
stop checked
has_text checked.log 'were not written back' || fail "nobody was told"
start checked -r sparse-random 4M seed=3 pmem="$cache"
nbdsh -u "$(uri checked)" -c 'assert h.pread (15, 100) == b"not what it has"'
stop checked

say "A plugin that is always full"
use_cache pmem
start full full 4M pmem="$cache" pmem-size=6M pcache-segment-size=1M \
      pcache-writeback-delay=0 pcache-drain-timeout=1
nbdsh -u "$(uri full)" -c 'h.pwrite (b"x", 100); h.flush ()'
stop full
has_text full.log 'No space left on device' || fail "it does not say why"

say "One byte far out"
use_cache pmem
for life in 1 2; do
  start far -r data '"start" @0x7ffffffffffffffe "!"' pmem="$cache" \
        pmem-size=6M pcache-segment-size=1M
  nbdsh -u "$(uri far)" -c '
assert h.get_size () == (1 << 63) - 1
assert h.pread (5, 0) == b"start"
assert h.pread (5000, (1 << 63) - 5001) == bytes (4999) + b"!"
assert h.pread (5000, 1 << 62) == bytes (5000)
'
  stop far
done
[ "$(figure far read_miss_bytes)" -eq 0 ] || fail "it asked again"

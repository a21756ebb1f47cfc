#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A cache device that became larger is used, with what was in it, dirty data after
# kill -9 too: by pmem-size, by truncate, as a file and as persistent memory.  One
# that shall be smaller is refused as long as it has dirty data, and then made
# anew.

. "$(dirname "$0")/functions.sh"
own_mounts

reader=$top_srcdir/tests/format_reader.py
keep=(pcache-on-exit=keep pcache-writeback-delay=10m)
random_file data.img $((4 * MiB))

# begin KIND: a cache of 8 segments with clean and dirty data, killed.
begin ()
{
  use_cache "$1"
  rm -f disk.img
  truncate -s 12M disk.img
  cp disk.img expected.img
  dd if=data.img of=expected.img conv=notrunc status=none
  start first file disk.img pmem="$cache" pmem-size=10M pcache-segment-size=1M \
        pcache-gc-percent=90
  nbdsh -u "$(uri first)" \
        -c 'h.pwrite (open ("data.img", "rb").read (), 0)'
  stop first
  same disk.img expected.img
  dirty 1 pmem-size=10M
}

# dirty "BYTE..." PARAMETER...: for each 3 MiB of it somewhere in the disk, of which
# expected.img is a copy; then kill -9.
dirty ()
{
  local bytes=$1
  shift

  start dirty file disk.img pmem="$cache" "${keep[@]}" "$@"
  nbdsh -u "$(uri dirty)" -c "
with open ('expected.img', 'r+b') as f:
    for byte in map (int, '$bytes'.split ()):
        f.seek (byte * 700000)
        f.write (bytes ([byte]) * (3 << 20))
        h.pwrite (bytes ([byte]) * (3 << 20), byte * 700000)
h.flush ()"
  kill_hard dirty
}

# reader_agrees SEGMENTS: the second reader of the format sees what is expected.
reader_agrees ()
{
  python "$reader" info "$cache" > info.txt
  grep -q "^segments $1 of" info.txt || fail "$(head -n 3 info.txt)"
  python "$reader" image "$cache" disk.img read.img
  same read.img expected.img "the second reader sees something else"
}

# has NAME SEGMENTS SIZE PARAMETER...: served from a cache of that size; the
# dirty data stays.
has ()
{
  local name=$1 segments=$2 size=$3
  shift 3

  start "$name" file disk.img pmem="$cache" "${keep[@]}" "$@"
  serves "$name" expected.img
  kill_hard "$name"
  [ "$(stat -c %s "$cache")" -eq "$size" ] ||
    fail "the file has $(stat -c %s "$cache") bytes"
  reader_agrees "$segments"
}

for kind in file pmem; do
  say "As a $kind: pmem-size"
  begin $kind
  has grown 18 $((20 * MiB)) pmem-size=20M
  has_text grown.log 'grew from 8 to 18 segments' || fail "not said"
  if [ $kind = file ]; then
    [ "$(stat -c %b "$cache")" -ge $((20 * MiB / 512)) ] || fail "it has holes"
  fi
  # Dirty data where there was no room.
  dirty '2 3' pmem-size=20M
  has later 18 $((20 * MiB))
  ! has_text later.log grew || fail "it grew again"

  say "As a $kind: truncate, and more than the cache can have"
  truncate -s 60M "$cache"
  has most 40 $((60 * MiB))
  has_text most.log 'room for 58 segments.*more than 40.*pcache-format=force' ||
    fail "it does not say how to use the rest"
  dirty 4

  say "As a $kind: smaller"
  refused smaller 'pmem-size asks for 8388608 bytes' \
          '[1-9][0-9]* bytes in it are not written back' 'drain' -- \
          --filter=pcache file disk.img pmem="$cache" pmem-size=8M
  [ "$(stat -c %s "$cache")" -eq $((60 * MiB)) ] || fail "it was cut"
  reader_agrees 40
  start drain file disk.img pmem="$cache"
  nbdsh -u "$(uri drain)" -c 'h.pread (1, 0)'
  stop drain
  same disk.img expected.img
  start small file disk.img pmem="$cache" pmem-size=8M
  has_text small.log 'made anew with 8388608 bytes.*written back' ||
    fail "not said"
  serves small expected.img
  stop small
  [ "$(figure small segments_total)" -eq 6 ] || fail "another number of segments"
  [ "$(stat -c %s "$cache")" -eq $((8 * MiB)) ] || fail "it was not cut"
  dirty 5 pmem-size=8M
  reader_agrees 6

  say "As a $kind: cut by somebody"
  truncate -s 7M "$cache"
  refused cut 'needs 8388608 bytes.*only 7340032' 'nowhere else' -- \
          --filter=pcache file disk.img pmem="$cache"
done

say "A file system without room for it"
mkdir full
if mount -t tmpfs -o size=12M tmpfs full 2>/dev/null; then
  clean_up () { umount -l "$dir/full" 2>/dev/null; }
  use_cache file
  cache=$dir/full/cache.img
  rm disk.img expected.img
  truncate -s 12M disk.img expected.img
  dirty 1 pmem-size=10M pcache-segment-size=1M
  has without 8 $((10 * MiB)) pmem-size=20M
  has_text without.log \
    'cannot be extended from 10485760 to 20971520 bytes.*No space left' ||
    fail "not said"
  truncate -s 20M "$cache"
  has sparse 8 $((20 * MiB))
  has_text sparse.log 'cannot grow from 8 to 18 segments: No space left' ||
    fail "not said"
  [ "$(stat -c %b "$cache")" -lt $((11 * MiB / 512)) ] ||
    fail "the file system was filled for nothing"
else
  say "(not tried: nothing can be mounted here)"
fi

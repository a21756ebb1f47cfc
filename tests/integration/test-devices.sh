#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# What a cache device may be: an ordinary file, which pmem-size creates, fully
# written; a file that there is; a sparse one; a file on persistent memory (here
# /dev/shm, by PMEM_IS_PMEM_FORCE=1); a block device, with a warning.  And the
# same cache may be used now this way, now that.

. "$(dirname "$0")/functions.sh"

random_file data.img $((4 * MiB))
truncate -s 8M expected.img
dd if=data.img of=expected.img conv=notrunc status=none

# works NAME PARAMETER...: data survives kill -9, then reaches the disk.
works ()
{
  local name=$1
  shift

  rm -f disk.img
  truncate -s 8M disk.img
  start "$name" -v file disk.img "$@" pcache-writeback-delay=10m
  nbdsh -u "$(uri "$name")" \
        -c 'h.pwrite (open ("data.img", "rb").read (), 0)' -c 'h.flush ()'
  kill_hard "$name"
  differs disk.img expected.img "the test is about data not yet written back"
  start "$name-2" file disk.img "$@"
  nbdsh -u "$(uri "$name-2")" -c '
assert h.pread (8 << 20, 0) == open ("expected.img", "rb").read ()'
  stop "$name-2"
  same disk.img expected.img
}

say "pmem-size creates a file, every byte of it written"
works created pmem=cache.img pmem-size=20M pcache-segment-size=1M
[ "$(stat -c %s cache.img)" -eq $((20 * MiB)) ] || fail "another size"
[ "$(stat -c %b cache.img)" -ge $((20 * MiB / 512)) ] || fail "it has holes"
[ "$(stat -c %a cache.img)" = 600 ] || fail "others may read it"
if command -v filefrag >/dev/null && filefrag -v cache.img > frag.out 2>&1; then
  ! has_text frag.out unwritten || fail "it has unwritten extents"
fi
say "It is not created anew when it is there"
# Nor need the segment size be said again, as the message about a wrong one
# tells: that pmem-size is too small for the default one is of no importance now.
start there2 file disk.img pmem=cache.img pmem-size=20M
stop there2

say "A relative path, with a space and other characters in it"
mkdir "with space"
works space "pmem=with space/cache=1:%.img" pmem-size=16M pcache-segment-size=1M
[ -e "with space/cache=1:%.img" ] || fail "it is elsewhere"

say "A blank file that is there, without a hole, and sparse"
dd if=/dev/zero of=blank.img bs=1M count=16 status=none
works blank pmem=blank.img pcache-segment-size=1M
truncate -s 16M sparse.img
works sparse pmem=sparse.img pcache-segment-size=1M

say "A creation that was interrupted is finished"
for bytes in 0 4096 $((3 * MiB)); do
  rm -f part.img
  dd if=/dev/zero of=part.img bs=4096 count=$((bytes / 4096)) status=none
  works part-$bytes pmem=part.img pmem-size=16M pcache-segment-size=1M
  [ "$(stat -c %s part.img)" -eq $((16 * MiB)) ] || fail "not finished"
done

say "As persistent memory"
use_cache pmem
works pmem pmem="$cache" pmem-size=16M pcache-segment-size=1M
! grep 'pcache.*used as an ordinary file' pmem.log ||
  fail "it is not used as persistent memory"

say "Written as persistent memory, read as an ordinary file, and back"
start keep1 file disk.img pmem="$cache" pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri keep1)" -c 'h.pwrite (b"1", 0); h.flush ()'
kill_hard keep1
unset PMEM_IS_PMEM_FORCE
start keep2 -v file disk.img pmem="$cache" pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri keep2)" -c 'assert h.pread (1, 0) == b"1"' \
      -c 'h.pwrite (b"2", 1); h.flush ()'
kill_hard keep2
has_text keep2.log 'used as an ordinary file' ||
  fail "it is used as persistent memory, without being asked to"
export PMEM_IS_PMEM_FORCE=1
start keep3 file disk.img pmem="$cache"
nbdsh -u "$(uri keep3)" -c 'assert h.pread (2, 0) == b"12"'
stop keep3
[ "$(head -c 2 disk.img)" = 12 ] || fail "not written back"
unset PMEM_IS_PMEM_FORCE

say "Without data checksums"
works no-crc pmem=no-crc.img pmem-size=16M pcache-segment-size=1M \
      pcache-data-crc=false

say "pcache-format=force forgets what there was"
start old file disk.img pmem=no-crc.img pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri old)" -c 'h.pwrite (b"old", 0); h.flush ()'
stop old
start new file disk.img pmem=no-crc.img pcache-format=force \
      pcache-segment-size=1M
nbdsh -u "$(uri new)" \
  -c 'assert h.pread (3, 0) == open ("expected.img", "rb").read (3)'
stop new

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A block device as the cache device: used like a file, with a warning that
# says what would be faster; locked, and not taken from whoever has it mounted.

. "$(dirname "$0")/functions.sh"
need losetup mkfs.ext4
[ "$(id -u)" -eq 0 ] || skip "only root can set up a loop device"

random_file data.img $((4 * MiB))
truncate -s 8M disk.img expected.img
dd if=data.img of=expected.img conv=notrunc status=none
truncate -s 20M backing.img
loop=$(losetup -f --show backing.img 2>&1) ||
  skip "no loop device can be set up here: $loop"
loops+=("$loop")
[ -b "$loop" ] || skip "no loop device here: $loop"

start first file disk.img pmem="$loop" pcache-segment-size=1M \
      pcache-writeback-delay=10m
has_text first.log "warning: $loop: is a block device" ||
  fail "there is no warning: $(cat first.log)"
has_text first.log 'devdax.*fsdax' || fail "it does not name the faster ways"
nbdsh -u "$(uri first)" \
      -c 'h.pwrite (open ("data.img", "rb").read (), 0)' -c 'h.flush ()'
refused second "$loop: in use" -- --filter=pcache file disk.img pmem="$loop"
kill_hard first
differs disk.img expected.img "the test is about data not yet written back"
start third file disk.img pmem="$loop"
nbdsh -u "$(uri third)" \
      -c 'assert h.pread (8 << 20, 0) == open ("expected.img", "rb").read ()'
stop third
same disk.img expected.img

say "A mounted one"
losetup -d "$loop"
loops=()
truncate -s 0 backing.img
truncate -s 20M backing.img
mkfs.ext4 -q -F backing.img 2>/dev/null
loop=$(losetup -f --show backing.img) || skip "no second loop device"
loops+=("$loop")
refused ext4 'pcache-format=force' -- \
        --filter=pcache file disk.img pmem="$loop" pcache-segment-size=1M
mkdir mnt
if mount "$loop" mnt 2>/dev/null; then
  code=0
  (refused mounted "$loop: in use" -- --filter=pcache file disk.img \
     pmem="$loop" pcache-segment-size=1M pcache-format=force) || code=$?
  umount mnt
  [ $code -eq 0 ] || exit 1
fi

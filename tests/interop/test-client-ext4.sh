#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A file system on the cached disk: made, filled, checked, across kill -9; and
# on the disk alone, with the cache lost, it is one that a journal can repair.

. "$(dirname "$0")/functions.sh"
need mkfs.ext4 e2fsck debugfs nbdfuse nbdcopy
[ -e /dev/fuse ] || skip "there is no /dev/fuse"
own_mounts

truncate -s 96M disk.img
parameters=(file disk.img pmem=cache.img pmem-size=32M pcache-segment-size=1M)

start first "${parameters[@]}"
attach first

say "Made through the cache"
mkfs.ext4 -q -F fuse/disk 2>/dev/null
for i in 1 2 3; do
  random_file file$i $((i * 3 * MiB + i))
  debugfs -w -R "write file$i file$i" fuse/disk 2>/dev/null
done
sync fuse/disk
detach
kill_hard first
start second "${parameters[@]}" pcache-writeback-delay=10m
attach second
e2fsck -fn fuse/disk || fail "after kill -9 the file system is damaged"
for i in 1 2 3; do
  debugfs -R "dump file$i out$i" fuse/disk 2>/dev/null
  same out$i file$i
done
detach
stop second
e2fsck -fn disk.img || fail "the drained file system is damaged"

say "Mounted, with the kernel as the client"
if [ "$(id -u)" -eq 0 ] && command -v losetup >/dev/null &&
   command -v findmnt >/dev/null; then
  start third "${parameters[@]}" pcache-writeback-delay=50ms
  attach third
  if mount_loop fuse/disk; then
    cp -r "$top_srcdir/filter" mnt/
    sync -f mnt
    # More, which is under way when it happens.
    (for i in $(seq 40); do cp -r "$top_srcdir/filter" mnt/more$i || exit; done) \
      > cp.log 2>&1 &
    cp_pid=$!
    helpers+=($cp_pid)
    sleep 0.7
    kill_hard third
    wait $cp_pid 2>/dev/null || true
    umount -l mnt
    detach
    cp --sparse=always disk.img lost.img

    start fourth "${parameters[@]}"
    within 30 nbdcopy "$(uri fourth)" copy.img
    stop fourth
    # The journal is replayed, and then there is nothing left to repair.
    e2fsck -fp copy.img > e2fsck.log 2>&1 || [ $? -eq 1 ] ||
      fail "with the cache: $(cat e2fsck.log)"
    e2fsck -fn copy.img > e2fsck.log 2>&1 || fail "$(cat e2fsck.log)"
    for f in $(cd "$top_srcdir/filter" && ls ./*.c); do
      debugfs -R "dump filter/$f out.c" copy.img 2>/dev/null
      same out.c "$top_srcdir/filter/$f" "it was synced"
    done
    e2fsck -fp lost.img > e2fsck.log 2>&1 || [ $? -eq 1 ] ||
      fail "without the cache: $(cat e2fsck.log)"
    e2fsck -fn lost.img > e2fsck.log 2>&1 || fail "$(cat e2fsck.log)"
  else
    say "(no loop device over FUSE can be mounted here: that part is left out)"
    detach
    stop third
  fi
fi

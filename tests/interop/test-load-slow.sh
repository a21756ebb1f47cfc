#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A backing store so slow that writers wait for it again and again.  None of them
# fails: pcache-space-timeout, of a second here, is for one that fails.  And
# kill -9 afterwards, with the cache full, loses nothing.

. "$(dirname "$0")/functions.sh"
need_file_system ext4
need dbench
own_mounts
use_seed

# 4 MiB/s, and each request takes 20 ms.
slowly=(--filter=rate --filter=delay)
slow_parameters=(rate=32M delay-write=20ms delay-zero=20ms delay-trim=20ms)
parameters=(file disk.img pmem=cache.img pmem-size=12M
            pcache-segment-size=1M pcache-writeback-delay=0)

truncate -s 128M disk.img
random_file data $((7 * MiB))
# Made at full speed.
start first "${parameters[@]}"
attach first
make_fs ext4 fuse/disk
mount_loop fuse/disk || skip "no loop device over FUSE can be mounted here"
umount mnt
detach
stop first

start second "${slowly[@]}" "${parameters[@]}" "${slow_parameters[@]}" \
      pcache-space-timeout=1
attach second
mount_loop fuse/disk discard || fail "it cannot be mounted"
load_fsx 1
load_dbench
load copy cp data mnt/copy1
load sync dd if=data of=mnt/copy2 bs=64k oflag=dsync status=none
end_loads
sync -f mnt
sums mnt > written.sums
for log in second.log nbdfuse.log; do
  ! has_text $log 'error' || fail "not all was well: $(cat $log)"
done
kill_hard second
umount mnt
detach

start third "${parameters[@]}"
attach third
mount_loop fuse/disk || fail "it cannot be mounted after kill -9"
sums mnt > cached.sums
umount mnt
clean_fs ext4 fuse/disk "through the cache"
detach
stop third
clean_fs ext4 disk.img "after the drain"
mount_loop disk.img ro || fail "the drained disk cannot be mounted"
sums mnt > drained.sums
umount mnt
same cached.sums written.sums "after kill -9"
same drained.sums written.sums "after the drain"

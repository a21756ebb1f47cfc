#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Loads on a file system, and kill -9 of the cache beneath it at random
# moments.  First with the retry filter in front, which connects again: no load
# sees an error.  Then without, as power cuts: the file system is mounted
# again, and what was fsynced is there.  SEED=N repeats a run's choices.

# run-tests: long

. "$(dirname "$0")/functions.sh"
need_file_system ext4
need_file_system xfs
need fio stress-ng dbench sha256sum
need_plugin nbd
for filter in fua retry; do
  "$NBDKIT" --filter=$filter null --version >/dev/null 2>&1 ||
    skip "nbdkit has no filter $filter here"
done
own_mounts
use_seed

start_cache ()
{
  local delays=(0 50ms 1)

  start cache file disk.img pmem="$cache" pmem-size=24M \
        pcache-segment-size=1M \
        pcache-writeback-delay="${delays[RANDOM % ${#delays[@]}]}"
}

# disk_alone ext4|xfs SUMS: after the drain.
disk_alone ()
{
  stop cache 60
  clean_fs "$1" disk.img "after the drain"
  mount_loop disk.img ro || fail "the drained disk cannot be mounted"
  sums mnt > drained.sums
  umount mnt
  same drained.sums "$2" "after the drain"
}

# What the cache has answered and not yet stored when it is killed nobody would
# send again, so every write is one with FUA.
never_noticed ()
{
  local fs=$1 i

  start_cache
  start_nbdkit front --filter=fua --filter=retry nbd socket="$dir/cache.sock" \
               retry=60 fuamode=force retries=60 retry-delay=1 \
               retry-exponential=no
  # Each connection takes a second to find out.
  attach front -C 1
  make_fs "$fs" fuse/disk
  mount_loop fuse/disk discard ||
    skip "no loop device over FUSE can be mounted here"
  rm -f enough
  for i in 1 2; do
    load fsx$i "$PYTHON3" "$top_srcdir/tests/interop/fsx.py" run $RANDOM \
         "$dir/enough" mnt/fsx$i
  done
  load_dbench
  # Which end when they have done so much, and take their time here.
  if [ "$LOAD_SCALE" -gt 1 ]; then load_fio; load_stress; fi
  for (( i = $(load_work 2); i > 0; i-- )); do
    sleep 1.2
    sleep_up_to 800
    kill_hard cache
    start_cache
  done
  touch enough
  end_loads
  tail -q -n 1 fsx1.load.log fsx2.load.log dbench.load.log
  umount mnt
  clean_fs "$fs" fuse/disk "after $kills kills that nobody noticed"
  mount_loop fuse/disk ro || fail "it cannot be mounted again"
  sums mnt > cached.sums
  umount mnt
  detach
  stop front
  disk_alone "$fs" cached.sums
}

power_cuts ()
{
  local fs=$1 i n

  start_cache
  attach cache
  make_fs "$fs" fuse/disk
  for (( i = $(load_work 2); i > 0; i-- )); do
    mount_loop fuse/disk discard || fail "it cannot be mounted"
    for n in 1 2 3; do
      load fsx$n "$PYTHON3" "$top_srcdir/tests/interop/fsx.py" crash \
           $RANDOM mnt/fsx$n state$n
    done
    for n in 1 2 3; do until_true 60 has_text fsx$n.load.log ready; done
    sleep_up_to 1500
    kill_hard cache
    end_loads
    tail -q -n 1 fsx?.load.log
    umount mnt
    detach
    start_cache
    attach cache
    mount_loop fuse/disk || fail "after kill $kills it cannot be mounted"
    for n in 1 2 3; do
      python "$top_srcdir/tests/interop/fsx.py" check mnt/fsx$n state$n
    done
    umount mnt
    clean_fs "$fs" fuse/disk "after kill $kills"
  done
  mount_loop fuse/disk ro || fail "it cannot be mounted again"
  sums mnt > cached.sums
  umount mnt
  detach
  disk_alone "$fs" cached.sums
}

for fs in ext4:file xfs:pmem; do
  use_cache ${fs#*:}
  fs=${fs%:*}
  rm -f disk.img
  truncate -s 512M disk.img
  say "$fs that never notices"
  never_noticed $fs
  rm -f "$cache" disk.img
  truncate -s 512M disk.img
  say "$fs after power cuts"
  power_cuts $fs
done
say_kills

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# An ext4, mounted through the cache (nbdfuse, then a loop device with direct
# I/O), is written to while the cache is killed with kill -9 at random moments.
# SEED=N repeats a run's choices.
#
# First as after power cuts: the mount is dropped, the cache started again.
# The journal is replayed, then e2fsck finds nothing, and every file that was
# fsynced is there.  Now and then the disk is looked at without the cache, too:
# it is an old file system, but one that a journal repairs.
#
# Then with a file system that never notices: see test-kill-fio.sh.

. "$(dirname "$0")/functions.sh"
need mkfs.ext4 e2fsck nbdfuse losetup findmnt
[ -e /dev/fuse ] || skip "there is no /dev/fuse"
[ "$(id -u)" -eq 0 ] || skip "only root can mount"
need_plugin nbd
own_mounts
use_seed

mounts=(commit=1 "commit=1,discard")

# disk=(...) says how to get at it, delays=(...) what to choose from.
start_cache ()
{
  start cache "${disk[@]}" pmem="$cache" pmem-size=24M \
        pcache-segment-size=1M \
        pcache-writeback-delay="${delays[RANDOM % ${#delays[@]}]}"
}

files () { python "$here/ext4_files.py" "$@"; }

# mounted ATTACHED-TO...
mounted ()
{
  attach "$@"
  mount_loop fuse/disk "${mounts[RANDOM % ${#mounts[@]}]}" ||
    fail "the file system on $1 cannot be mounted"
}

unmounted ()
{
  umount mnt
  detach
}

# repaired FILE MESSAGE: the journal, and nothing else, makes it clean.
repaired ()
{
  e2fsck -fp "$1" > e2fsck.log 2>&1 || [ $? -eq 1 ] ||
    fail "$2: $(cat e2fsck.log)"
  clean "$1" "$2"
}

clean ()
{
  e2fsck -fn "$1" > e2fsck.log 2>&1 || fail "$2: $(cat e2fsck.log)"
}

# After a kill, with the cache started again.  Who replays the journal, the
# kernel or e2fsck, is a matter of chance, and so is a further kill meanwhile.
recovered ()
{
  local repairing

  attach cache
  if [ $((RANDOM % 3)) -eq 0 ]; then
    attach_loop fuse/disk
    e2fsck -fp "$loop" > e2fsck-killed.log 2>&1 &
    repairing=$!
    sleep_up_to 60
    kill_hard cache
    wait $repairing || true
    detach_loop
    detach
    start_cache
    attach cache
  fi
  if [ $((RANDOM % 2)) -eq 0 ]; then
    mount_loop fuse/disk || fail "after kill $kills it cannot be mounted"
    umount mnt
    clean fuse/disk "after kill $kills, the kernel has replayed the journal"
  else
    attach_loop fuse/disk
    repaired "$loop" "after kill $kills"
    detach_loop
  fi
  mount_loop fuse/disk "${mounts[RANDOM % ${#mounts[@]}]}" ||
    fail "after kill $kills it cannot be mounted, but e2fsck finds nothing"
  files check history mnt
}

# The disk without the cache.
alone ()
{
  cp --sparse=always disk.img alone.img
  repaired alone.img "after kill $kills, the disk alone"
  mount_loop alone.img ro || fail "the disk alone cannot be mounted"
  files oldest history mnt
  umount mnt
}

# What is on the disk now, no loss of the cache can take away.
drained ()
{
  stop cache
  clean disk.img "the drained disk"
  mount_loop disk.img ro || fail "the drained disk cannot be mounted"
  files check history mnt
  umount mnt
  files mark history
}

power_cuts ()
{
  local i working code

  delays=(0 20ms 200ms 2)
  disk=(file disk.img)
  start_cache
  attach cache
  mkfs.ext4 -q -F -J size=4 fuse/disk 2>/dev/null
  mount_loop fuse/disk ||
    skip "no loop device on FUSE can be mounted here"
  files begin history mnt
  unmounted
  drained
  # So slow that a kill finds write-back in the middle of something.
  disk=(--filter=delay file disk.img delay-write=5ms)
  start_cache
  mounted cache
  for (( i = $(scaled 7); i > 0; i-- )); do
    files work history $RANDOM mnt > work.log 2>&1 &
    working=$!
    helpers+=($working)
    sleep 0.2
    sleep_up_to 500
    is_running $working || fail "it could not go on: $(cat work.log)"
    kill_hard cache
    code=0
    wait $working || code=$?
    [ $code -eq 0 ] || fail "$(cat work.log)"
    cat work.log
    unmounted
    if [ $((i % 2)) -eq 1 ]; then alone; fi
    start_cache
    recovered
  done
  unmounted
  # The delay filter fails its requests when it is to end.
  kill_hard cache
  disk=(file disk.img)
  start_cache
  recovered
  unmounted
  drained
}

never_noticed ()
{
  local i working code=0

  rm -f enough
  # What is not durable stays so for a while.
  delays=(500ms 2)
  start_cache
  start_nbdkit front --filter=fua --filter=retry nbd socket="$dir/cache.sock" \
               retry=60 fuamode=force retries=60 retry-delay=1 \
               retry-exponential=no
  # Of several connections each would take its second to find out.
  mounted front -C 1
  files work history $RANDOM mnt enough > work.log 2>&1 &
  working=$!
  helpers+=($working)
  for (( i = $(scaled 5); i > 0; i-- )); do
    sleep 1.2
    sleep_up_to 600
    is_running $working || break
    kill_hard cache
    start_cache
  done
  touch enough
  wait $working || code=$?
  [ $code -eq 0 ] || fail "$(cat work.log)"
  cat work.log
  files check history mnt
  umount mnt
  clean fuse/disk "after $kills kills that nobody noticed"
  detach
  stop front
  drained
}

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img
  truncate -s 64M disk.img
  say "$kind: power cuts"
  power_cuts
  say "$kind: a file system that never notices"
  never_noticed
done
say_kills

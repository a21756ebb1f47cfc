#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# ext4 and XFS on the cached disk, mounted (nbdfuse, then a loop device with
# direct I/O): fsync, fallocate with all it can, discards, fstrim; twice
# meanwhile nbdkit is killed and started again, which the file system does not
# notice.  Unmounted it is clean, and so is disk.img once drained, with the same
# files in it and without what was trimmed.
#
# nbdfuse aborts when its server goes away, so it gets one that does not: an
# nbdkit with the retry filter.  That one sends again what had no answer, but not
# what had one and was not flushed; hence the fua filter.

. "$(dirname "$0")/functions.sh"
need nbdfuse losetup findmnt fallocate fstrim blkdiscard
[ -e /dev/fuse ] || skip "there is no /dev/fuse"
[ "$(id -u)" -eq 0 ] || skip "only root can mount"
need_plugin nbd
own_mounts

start_cache ()
{
  start cache file disk.img pmem=cache.img pmem-size=24M \
        pcache-segment-size=1M pcache-writeback-delay=100ms
}

# made WHAT / clean WHAT WHEN: by the tools of the file system.
made ()
{
  case $fs in
    ext4) mkfs.ext4 -q -F -E discard -J size=8 "$1" ;;
    # Smaller ones it does not make.
    xfs) mkfs.xfs -q -f "$1" ;;
  esac
}
clean ()
{
  local check

  case $fs in
    ext4) check=(e2fsck -fn "$1") ;;
    xfs) check=(xfs_repair -n -f "$1") ;;
  esac
  within 60 "${check[@]}" > fsck.log 2>&1 || fail "$2: $(cat fsck.log)"
}

# change FILE: the same for a file on the file system and one that is not.
change ()
{
  local file=$1

  cp random.img "$file"
  fallocate -p -o $((1 * MiB + 512)) -l $((2 * MiB)) "$file"
  fallocate -z -o $((4 * MiB - 512)) -l $((1 * MiB + 1024)) "$file"
  sync "$file"
  fallocate -c -o $((5 * MiB)) -l $((1 * MiB)) "$file"
  fallocate -i -o $((2 * MiB)) -l $((1 * MiB)) "$file"
  fallocate -o $((8 * MiB)) -l $((2 * MiB)) "$file"
  dd if=random.img of="$file" bs=4k seek=2100 skip=7 count=50 conv=notrunc,fsync \
     status=none
  dd if=random.img of="$file" bs=64k seek=3 skip=1 count=20 oflag=direct,dsync \
     conv=notrunc status=none
  fallocate -d "$file"
}

random_file random.img $((8 * MiB))
# What $dir is on may not know all of that.
change expected.img 2> change.err || skip "no fallocate here: $(cat change.err)"

# And what zeros and discards leave on the device.
cp random.img zeroed.img
fallocate -p -o $((1 * MiB)) -l $((2 * MiB)) zeroed.img
fallocate -p -o $((5 * MiB)) -l $((2 * MiB)) zeroed.img

for fs in ext4 xfs; do
  if ! command -v mkfs.$fs >/dev/null || ! grep -qw $fs /proc/filesystems; then
    say "$fs: not known here"
    continue
  fi
  say "$fs"
  rm -f disk.img cache.img
  truncate -s 320M disk.img
  start_cache
  start_nbdkit front --filter=fua --filter=retry nbd socket="$dir/cache.sock" \
               retry=60 fuamode=force retries=60 retry-delay=1 \
               retry-exponential=no
  # Of several connections each would take its second to find out.
  attach front -C 1
  device=$(losetup -f --show --direct-io=on fuse/disk) ||
    skip "no loop device on FUSE can be had here"
  loops+=("$device")
  dd if=random.img of="$device" bs=1M seek=8 oflag=direct status=none
  blkdiscard -z -o $((9 * MiB)) -l $((2 * MiB)) "$device"
  blkdiscard -o $((13 * MiB)) -l $((2 * MiB)) "$device"
  nbdsh -u "$(uri cache)" -c '
assert h.pread (8 << 20, 8 << 20) == open ("zeroed.img", "rb").read ()
' || fail "what was zeroed or discarded is still there"
  made "$device"
  mkdir -p mnt
  mount "$device" mnt || fail "$fs cannot be mounted"

  cp -r "$top_srcdir/filter" mnt/
  change mnt/changed
  cp random.img mnt/rubbish
  sync -f mnt
  rm -f enough
  (for i in $(seq 100); do
     [ ! -e enough ] || break
     cp -r "$top_srcdir/filter" mnt/more$i && sync mnt/more$i/* || exit
   done) > cp.log 2>&1 &
  copying=$!
  helpers+=($copying)
  for i in 1 2; do
    sleep 0.5
    is_running $copying || fail "it could not go on: $(cat cp.log)"
    kill_hard cache
    start_cache
  done
  sleep 0.2
  touch enough
  code=0
  wait $copying || code=$?
  [ $code -eq 0 ] || fail "it noticed: $(cat cp.log)"
  rm mnt/rubbish
  sync -f mnt
  fstrim -v mnt
  umount mnt
  losetup -d "$device"
  loops=()
  clean fuse/disk "$fs, unmounted"
  detach
  stop front
  stop cache 60

  clean disk.img "$fs, drained"
  mount_loop disk.img ro || fail "the drained disk cannot be mounted"
  for copy in mnt/filter mnt/more*; do
    diff -r "$top_srcdir/filter" $copy || fail "$copy has changed"
  done
  copies=$(ls -d mnt/filter mnt/more* | wc -l)
  same mnt/changed expected.img
  umount mnt
  [ "$(figure cache trims)" -gt 0 ] || fail "no trim came"
  used=$(du -k disk.img | cut -f 1)
  files=$(du -k expected.img | cut -f 1)
  files=$((files + copies * $(du -sk "$top_srcdir/filter" | cut -f 1)))
  say "$fs: $used KiB on the disk, for $files KiB of files, $copies copies"
  # The rubbish has 8 MiB.
  [ "$used" -le $((files + 7000)) ] || fail "what was trimmed is still there"
done
say_kills

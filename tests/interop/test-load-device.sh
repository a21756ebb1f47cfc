#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# fio on a block device and on a file that are the cache's disk, larger than
# the cache: random and sequential, direct and through the kernel's memory,
# with trims in between; verified through the cache and, after the drain, on
# the disk.

# run-tests: long

. "$(dirname "$0")/functions.sh"
need fio nbdfuse losetup blkdiscard
[ -e /dev/fuse ] || skip "there is no /dev/fuse"
[ "$(id -u)" -eq 0 ] || skip "only root can set up a loop device"
own_mounts
use_seed

size=$((8 * LOAD_SCALE))        # MiB, of each job
jobs=4

# A block says where it is, so that one from another place is not taken for
# it, and which round it is from, so that an old one is not.
run_fio ()
{
  local file=$1
  shift

  within $((60 + 60 * LOAD_SCALE)) fio --filename="$file" \
         --randseed="$seed" --verify=pattern \
         --verify_pattern="%o\"$round\"" --verify_fatal=1 --output=fio.log "$@" ||
    fail "fio on $file, $round: $(tail -n 40 fio.log)"
}

# The four parts, each written in a way of its own, and once whole.
parts ()
{
  local m=$((size * MiB)) only=("$@")

  verified=(
    --name=random --offset=0 --size=$m --bs=4k --rw=randwrite "${only[@]}"
    --name=large --offset=$m --size=$m --bs=256k --rw=randwrite "${only[@]}"
    --name=lines --offset=$((2 * m)) --size=$m --bs=16k --rw=write "${only[@]}"
    --name=odd --offset=$((3 * m)) --size=$m --bs=12k --ba=4k --rw=write
    "${only[@]}")
}

# reads_zeros DEVICE FIRST COUNT: these MiB.
reads_zeros ()
{
  cmp -n $(($3 * MiB)) /dev/zero \
      <(dd if="$1" iflag=direct bs=1M skip="$2" count="$3" status=none) ||
    fail "MiB $2 and $(($3 - 1)) more do not read as zeros"
}

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img
  truncate -s $((size * jobs))M disk.img
  say "cache $kind"
  start $kind file disk.img pmem="$cache" pmem-size=12M \
        pcache-segment-size=1M pcache-writeback-delay=50ms
  attach $kind
  loop=$(losetup -f --show --direct-io=on fuse/disk 2>&1) ||
    skip "no loop device over FUSE can be set up here: $loop"
  loops=("$loop")

  round=dev00001
  parts --ioengine=libaio --direct=1 --iodepth=16 --fsync=128 \
        --verify_backlog=256
  run_fio "$loop" "${verified[@]}"
  round=dev00002
  run_fio "$loop" --name=trims --size=$((size * jobs))M --bs=32k \
          --rw=randtrimwrite --ioengine=libaio --direct=1 --iodepth=8
  round=dev00003
  parts --ioengine=psync --end_fsync=1 --invalidate=1
  run_fio "$loop" "${verified[@]}"
  round=dev00004
  run_fio "$loop" --name=zones --size=$((size * jobs))M --bs=8k \
          --rw=randwrite --ioengine=libaio --direct=1 --iodepth=16 \
          --zonemode=strided --zonesize=1M --zonerange=2M --zoneskip=1M
  # A loop device's discard must leave zeros, and nbdfuse makes trims of it.
  blkdiscard --offset $((3 * MiB)) --length $((size * MiB)) "$loop"
  blkdiscard --zeroout --offset $((20 * MiB)) --length $((4 * MiB)) "$loop"
  reads_zeros "$loop" 3 $size
  reads_zeros "$loop" 20 4
  losetup -d "$loop"
  loops=()

  # All of it, last of all, so that it can be verified on the disk.
  round=last0001
  parts --ioengine=psync --end_fsync=1
  run_fio fuse/disk "${verified[@]}"
  detach
  stop $kind
  parts --ioengine=psync --verify_only
  run_fio disk.img "${verified[@]}"
  # Would it have noticed?
  round=last0000
  parts --ioengine=psync --verify_only
  ! (run_fio disk.img "${verified[@]}") > /dev/null 2>&1 ||
    fail "fio took one round for another"
  say "$(grep -E '^(evicted_segments|write_bytes|writeback_epochs|trims)' \
           $kind.stats | tr '\n' ' ')"
  [ "$(figure $kind evicted_segments)" -gt 24 ] ||
    fail "hardly anything was evicted"
  [ "$(figure $kind trims)" -gt 0 ] || fail "nothing was trimmed"
done

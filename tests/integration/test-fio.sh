#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# fio writes, reads and verifies through the cache, larger than it, in several
# patterns; and what it verified is verified again after kill -9.

. "$(dirname "$0")/functions.sh"
need fio
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio has no nbd engine"

# run_fio NAME OPTION...
run_fio ()
{
  local name=$1
  shift

  within 60 fio --ioengine=nbd --uri="$(uri "$name")" --size=32M \
         --randseed=4 --verify_fatal=1 --output=fio.log "$@" ||
    fail "fio: $(cat fio.log)"
}

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img
  truncate -s 32M disk.img
  parameters=(file disk.img pmem="$cache" pmem-size=20M
              pcache-segment-size=1M)
  start $kind "${parameters[@]}" pcache-writeback-delay=100ms
  run_fio $kind --name=random --rw=randwrite --bs=4k --iodepth=32 \
          --verify=crc32c --do_verify=1 --fsync=256
  run_fio $kind --name=odd --rw=randwrite --bsrange=512-70k --bs_unaligned=0 \
          --iodepth=16 --verify=xxhash --do_verify=1
  run_fio $kind --name=trims --rw=randtrimwrite --bs=16k --iodepth=8 \
          --verify=crc32c --do_verify=0
  # The last one writes it all, so that it can be verified later.
  run_fio $kind --name=last --rw=write --bs=8k --iodepth=32 --end_fsync=1 \
          --verify=crc32c --do_verify=0
  kill_hard $kind
  start $kind-2 "${parameters[@]}"
  run_fio $kind-2 --name=last --rw=read --bs=8k --iodepth=32 --verify=crc32c
  stop $kind-2
  within 60 fio --name=last --ioengine=sync --filename=disk.img --size=32M \
         --randseed=4 --rw=read --bs=8k --verify=crc32c --verify_fatal=1 \
         --output=fio.log || fail "on the disk: $(cat fio.log)"
done

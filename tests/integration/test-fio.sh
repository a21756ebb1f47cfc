#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# fio writes, reads and verifies through the cache, larger than it, in several
# patterns; and what it wrote last is there after kill -9, and on the disk.
# More of fio is in interop/test-client-fio.sh.

. "$(dirname "$0")/functions.sh"
need fio
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio has no nbd engine"

# run_fio NAME OPTION...
run_fio ()
{
  local name=$1
  shift

  within 60 fio --ioengine=nbd --uri="$(uri "$name")" --size=24M \
         --randseed=4 --verify_fatal=1 --output=fio.log "$@" ||
    fail "fio: $(cat fio.log)"
}

# Every block says which it is.  Of checksums fio knows later only that they fit
# the block they are in, whenever that was written.
pattern=(--bs=8k --verify=pattern --verify_pattern='"the last"%o')

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img
  truncate -s 24M disk.img
  parameters=(file disk.img pmem="$cache" pmem-size=14M
              pcache-segment-size=1M)
  start $kind "${parameters[@]}" pcache-writeback-delay=100ms
  run_fio $kind --name=random --rw=randwrite --bs=4k --iodepth=32 \
          --verify=md5 --do_verify=1 --fsync=256
  run_fio $kind --name=odd --rw=randwrite --bsrange=512-70k --bs_unaligned=0 \
          --iodepth=16 --verify=xxhash --do_verify=1
  run_fio $kind --name=trims --rw=randtrimwrite --bs=16k --iodepth=8
  # It writes it all.
  run_fio $kind --name=last --rw=write --iodepth=32 --end_fsync=1 \
          "${pattern[@]}" --do_verify=0
  kill_hard $kind
  start $kind-2 "${parameters[@]}"
  run_fio $kind-2 --name=last --rw=read --iodepth=32 "${pattern[@]}"
  stop $kind-2
  within 60 fio --name=last --ioengine=sync --filename=disk.img --size=24M \
         --rw=read "${pattern[@]}" --verify_fatal=1 --output=fio.log ||
    fail "on the disk: $(cat fio.log)"
done

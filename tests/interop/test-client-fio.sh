#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# fio's nbd engine: several jobs at once, each with 64 requests in flight, that
# read and write and verify at random; and what was written before the last
# flush is there after kill -9.  SEED=N repeats a run.

. "$(dirname "$0")/functions.sh"
need fio
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio has no nbd engine"
use_seed

# try_fio OPTION...
try_fio ()
{
  within 60 fio --ioengine=nbd --uri="$(uri server)" --size=24M \
         --randseed=$RANDOM --verify_fatal=1 --output=fio.log "$@"
}
run_fio () { try_fio "$@" || fail "fio: $(cat fio.log)"; }

# patterns WORD: every block says which it is, and who wrote it.  Unlike
# checksums, which only say that a block is one of fio's, this holds for a job
# that writes and another one that verifies.
patterns () { options=(--bs=8k --verify=pattern --verify_pattern="\"$1\"%o"); }

truncate -s 24M disk.img
for kind in file pmem; do
  use_cache $kind
  parameters=(file disk.img pmem="$cache" pmem-size=14M
              pcache-segment-size=1M pcache-writeback-delay=100ms)
  start server "${parameters[@]}"
  # Each job a part of its own, which it verifies as it goes.  The engine knows
  # no fdatasync.
  run_fio --name=jobs --numjobs=4 --size=6M --offset_increment=6M \
          --rw=randrw --rwmixread=40 --bssplit=4k/60:16k/20:64k/20 \
          --iodepth=64 --verify=md5 --verify_backlog=64 --fsync=64
  run_fio --name=odd --rw=randwrite --bsrange=512-70k --bs_unaligned=0 \
          --iodepth=64 --verify=sha1 --do_verify=1
  run_fio --name=trims --rw=randtrimwrite --bs=16k --iodepth=64
  run_fio --name=reads --numjobs=8 --thread --rw=randread --bs=4k --iodepth=64 \
          --io_size=4M
  patterns "$kind one"
  run_fio --name=one --rw=randwrite --iodepth=64 "${options[@]}"
  patterns "$kind two"
  run_fio --name=two --rw=write --iodepth=64 --end_fsync=1 --do_verify=0 \
          "${options[@]}"
  kill_hard server
  start server "${parameters[@]}"
  run_fio --name=two --rw=randread --iodepth=64 "${options[@]}"
  stop server
  within 60 fio --name=two --ioengine=sync --filename=disk.img --size=24M \
         --rw=read --verify_fatal=1 --output=fio.log "${options[@]}" ||
    fail "on the disk: $(cat fio.log)"
done

say "It does notice what is wrong"
printf x | dd of=disk.img bs=1 seek=$((20 * MiB + 5000)) conv=notrunc status=none
rm -f "$cache"
start server "${parameters[@]}"
if try_fio --name=wrong --rw=read --iodepth=64 "${options[@]}" 2> fio.err
then fail "a wrong byte was not found"; fi
has_text fio.err "got pattern '78'" || fail "$(cat fio.err)"
kill_hard server

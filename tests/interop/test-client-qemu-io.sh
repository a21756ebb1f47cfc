#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# qemu's block layer, as guests use it: 64 requests in flight of all kinds,
# with each of its cache modes; and when nbdkit is killed, qemu connects again
# and goes on, with every write that it had made durable.  SEED=N repeats a run.

. "$(dirname "$0")/functions.sh"
need qemu-io
use_seed

parameters=(file disk.img pmem=cache.img pmem-size=12M pcache-segment-size=1M
            pcache-writeback-delay=100ms)
truncate -s 24M disk.img

# in_order FILE: no request failed, and all was done.  Nothing is said of what
# went well.
in_order ()
{
  # Between prompts.
  sed -i 's/qemu-io> //g; /^$/d' "$1"
  ! grep -vx '24 MiB' "$1" || fail "qemu-io said this"
  has_text "$1" '24 MiB' || fail "qemu-io did not come to its end"
}

start first "${parameters[@]}"
for mode in writeback none writethrough directsync unsafe; do
  python "$(dirname "$this_test")/qemu_io_script.py" $RANDOM $((24 * MiB)) 30 \
         commands expected.img
  within 60 qemu-io -f raw -t $mode -d unmap "$(uri first)" < commands \
         > io.log 2>&1
  say "$mode: $(wc -l < commands) commands"
  in_order io.log
done
serves first expected.img
stop first
same disk.img expected.img

say "nbdkit is killed under it, and qemu goes on"
start second "${parameters[@]}"
# Writes have FUA then, and zeros; a discard is no write.
python "$(dirname "$this_test")/qemu_io_script.py" $RANDOM $((24 * MiB)) 200 \
       commands expected.img no-discard
# The first kill may come before it has connected.
disk=driver=nbd,server.type=unix,server.path=$dir/second.sock,reconnect-delay=60
disk+=,open-timeout=60
qemu-io --image-opts -t writethrough "$disk" < commands > io.log 2>&1 &
qemu=$!
helpers+=($qemu)
while [ $kills -lt 6 ]; do
  sleep_up_to 150
  is_running $qemu || break
  kill_hard second
  sleep_up_to 50
  # What has had no answer is sent again.
  start second "${parameters[@]}"
done
within 60 tail -s 0.05 --pid=$qemu -f /dev/null
in_order io.log
say_kills "$(wc -l < commands) commands"
serves second expected.img
stop second
same disk.img expected.img

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcache-drain-timeout bounds the time nbdkit takes to end when the plugin is
# slow: what is left is said, stays dirty, and is there next time.  A plugin
# that is stuck in one request only delays the end by that request.

# run-tests: serial

. "$(dirname "$0")/functions.sh"
need_plugin eval

random_file data.img $((8 * MiB))
truncate -s 8M disk.img
slow_plugin=(--filter=blocksize eval maxdata=64k get_size='echo 8388608'
  pread='dd if=$DISK iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k
            status=none'
  can_write='exit 0' can_flush='exit 0' flush='exit 0'
  pwrite='sleep 0.1; dd of=$DISK oflag=seek_bytes seek=$4 conv=notrunc bs=64k
             status=none')
export DISK=$dir/disk.img
parameters=(pmem=cache.img pmem-size=32M pcache-segment-size=1M)

# 64 requests in all, 0.1 s each.
write_pieces='
data = open ("data.img", "rb").read ()
for i in range (64):
  h.pwrite (data[i:i + 30000], i * 100000)
  if flush: h.flush ()
'
check_pieces='
data = open ("data.img", "rb").read ()
for i in range (64):
  assert h.pread (30000, i * 100000) == data[i:i + 30000], i
'

# ended_in_time NAME STARTED: with a limit of 2 s.
ended_in_time ()
{
  local took

  took=$(since "$2")
  say "$1: it took $took ms to end, with a limit of 2000"
  say_said "$1.log"
  [ "$took" -ge 1500 ] || fail "it did not try"
  [ "$took" -lt $((4000 * slow)) ] || fail "it took too long"
  has_text "$1.log" \
    'bytes were not written back (pcache-drain-timeout.*safely in .*/cache.img' ||
    fail "it does not say what is left"
  [ "$(figure "$1" dirty_bytes)" -gt 0 ] || fail "nothing is left?"
}

for flush in True False; do
  rm -f cache.img
  start many-$flush "${slow_plugin[@]}" "${parameters[@]}" \
        pcache-writeback-delay=10m pcache-drain-timeout=2
  nbdsh -u "$(uri many-$flush)" -c "flush = $flush" -c "$write_pieces"
  started=$(now_ms)
  stop many-$flush
  ended_in_time many-$flush "$started"

  start zero-$flush "${slow_plugin[@]}" pmem=cache.img \
        pcache-writeback-delay=10m pcache-drain-timeout=0
  nbdsh -u "$(uri zero-$flush)" -c "$check_pieces"
  started=$(now_ms)
  stop zero-$flush
  took=$(since "$started")
  say "without time to drain it took $took ms"
  [ "$took" -lt $((2000 * slow)) ] || fail "it took too long"
done

say "an idle client is connected: the limit counts from the signal"
rm -f cache.img
start idle "${slow_plugin[@]}" "${parameters[@]}" \
      pcache-writeback-delay=10m pcache-drain-timeout=2
start_client idle "flush = True$write_pieces"
started=$(now_ms)
kill -TERM "${pid_of[idle]}"
sleep 1.5
end_client
await idle 30 || fail "exit code $?"
ended_in_time idle "$started"

say "large requests: what is under way ends, and nothing is lost"
rm -f cache.img
truncate -s 0 disk.img
truncate -s 8M disk.img
start large "${slow_plugin[@]}" "${parameters[@]}" \
      pcache-writeback-delay=10m pcache-drain-timeout=1
nbdsh -u "$(uri large)" \
      -c 'h.pwrite (open ("data.img", "rb").read (2 << 20), 1 << 20)'
started=$(now_ms)
stop large
took=$(since "$started")
say "it took $took ms to end"
[ "$took" -lt $((8000 * slow)) ] || fail "it took too long"
start last file disk.img pmem=cache.img
nbdsh -u "$(uri last)" -c '
data = open ("data.img", "rb").read ()
assert h.pread (4 << 20, 0) == bytes (1 << 20) + data[:2 << 20] + bytes (1 << 20)
'
stop last

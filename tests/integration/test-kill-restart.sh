#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# kill -9 at rest: every flushed write is there after a restart, and every
# one with FUA; also when the process that found them is killed, too, before
# or while it writes them back; and the disk gets them in the end.

. "$(dirname "$0")/functions.sh"

cat > client.py <<'END'
import nbd, os, random, sys

uri, server = sys.argv[1:3]
writing = server != "-"
h = nbd.NBD()
h.connect_uri(uri)
other = nbd.NBD()
other.connect_uri(uri)
random.seed(3)
expected = bytearray(16 << 20)

def write(length, offset, flags=0, h=h):
    data = random.randbytes(length)
    if writing:
        h.pwrite(data, offset, flags)
    expected[offset:offset + length] = data

def zero(length, offset, flags=0):
    if writing:
        h.zero(length, offset, flags)
    expected[offset:offset + length] = bytes(length)

def many():
    for i in range(200):
        write(random.randint(1, 60000), random.randint(0, 15 << 20))
    zero(123456, 3 << 20)

# The last thing before the kill, which comes at once, from here; one way of
# making durable each time, so that none covers for another.
rounds = {
    "flush": lambda: (many(), writing and h.flush()),
    # Flushed by another connection: that counts for all.
    "flush-other": lambda: (write(5, 77), write(5, 2 << 20, h=other),
                            writing and other.flush()),
    "fua": lambda: write(5000, 15 << 20, nbd.CMD_FLAG_FUA),
    "fua-long": lambda: write(3 << 20, (10 << 20) + 1, nbd.CMD_FLAG_FUA),
    # Over what was certainly written.
    "fua-zero": lambda: zero(10000, 11 << 20, nbd.CMD_FLAG_FUA),
    "flush-zero": lambda: (zero(9999, 12 << 20), writing and h.flush()),
}
last = sys.argv[3]
for name, work in rounds.items():
    writing = server != "-" and name == last
    work()
    if name == last:
        break
if server != "-":
    os.kill(int(server), 9)
    sys.exit(0)
for at in range(0, 16 << 20, 1 << 20):
    got = h.pread(1 << 20, at)
    want = expected[at:at + (1 << 20)]
    if got != want:
        i = next(i for i in range(1 << 20) if got[i] != want[i])
        sys.exit("after %s: byte %d is not what was flushed" % (last, at + i))
open("expected.img", "wb").write(expected)
END

for kind in file pmem; do
  use_cache $kind
  parameters=(pmem="$cache" pmem-size=32M pcache-segment-size=1M)
  rm -f disk.img
  truncate -s 16M disk.img
  for last in flush flush-other fua fua-long fua-zero flush-zero; do
    start $last file disk.img "${parameters[@]}" pcache-writeback-delay=10m
    python client.py "$(uri $last)" "${pid_of[$last]}" $last
    kill_hard $last
    start $last-2 file disk.img "${parameters[@]}" pcache-writeback-delay=10m
    python client.py "$(uri $last-2)" - $last
    kill_hard $last-2
  done

  say "$kind: killed while it only serves"
  start second file disk.img "${parameters[@]}" pcache-writeback-delay=10m
  python client.py "$(uri second)" - flush-zero
  kill_hard second
  differs disk.img expected.img "the test is about data not yet written back"

  say "$kind: killed while it writes back, slowly"
  for i in 1 2 3; do
    start slow$i --filter=delay file disk.img "${parameters[@]}" \
          delay-write=20ms pcache-writeback-delay=0
    python client.py "$(uri slow$i)" - flush-zero
    sleep 0.3
    kill_hard slow$i
  done

  say "$kind: killed right after the start"
  for i in 1 2 3; do
    start early$i file disk.img "${parameters[@]}"
    kill_hard early$i
  done

  start last file disk.img "${parameters[@]}"
  python client.py "$(uri last)" - flush-zero
  stop last
  same disk.img expected.img
done
say_kills

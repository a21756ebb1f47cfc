#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A cache full of dirty data slows writers down to the plugin's speed: they
# wait, they do not fail, and go on as soon as there is room.  As long as there
# is room they do not feel the plugin at all.

# run-tests: serial

. "$(dirname "$0")/functions.sh"

truncate -s 64M disk.img
# 32 KiB a request of the plugin, each of at least 20 ms, one after the other:
# at most 1.6 MB/s.
start first --filter=noparallel --filter=blocksize --filter=delay \
      file disk.img serialize=all-requests maxdata=32k delay-write=20ms \
      pmem=cache.img pmem-size=10M pcache-segment-size=1M \
      pcache-writeback-threads=1 pcache-writeback-delay=0
python - "$(uri first)" <<'END'
import nbd, random, sys, time

h = nbd.NBD()
h.connect_uri(sys.argv[1])
data = random.Random(5).randbytes(12 << 20)

def write(first, last):
    t = time.monotonic()
    for at in range(first, last, 65536):
        h.pwrite(data[at:at + 65536], at)
    return time.monotonic() - t

fast = write(0, 3 << 20)
slow = write(3 << 20, 12 << 20)
print("3 MiB into the empty cache: %.2f s; then 9 MiB: %.2f s" % (fast, slow))
# The plugin would take 2 s for what fits, 6 s for the rest.
assert fast < 1, "the first writes waited for the plugin"
assert slow > 1.5, "the cache took more than it can hold"
assert h.pread(12 << 20, 0) == data
h.flush()
open("expected.img", "wb").write(data + bytes((64 - 12) << 20))
END
# The delay filter will have no more of it when nbdkit ends.
until_true 30 cmp -s disk.img expected.img
stop first
same disk.img expected.img
[ "$(figure first space_waits)" -gt 0 ] || fail "no write waited for space"

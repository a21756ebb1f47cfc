#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A cache full of clean data never stalls anyone: there is always something to
# evict at once, without a timer.  Neither reads of more than it holds nor
# writes into it wait.

# run-tests: serial

. "$(dirname "$0")/functions.sh"

random_file disk.img $((64 * MiB))
cp disk.img expected.img
for kind in file pmem; do
  use_cache $kind
  # A disk that is slower than the cache, or there would be no use for it.
  # When nbdkit stops, some versions of that filter fail all requests.
  start $kind --filter=delay file disk.img delay-read=5ms \
        pmem="$cache" pmem-size=10M pcache-segment-size=1M \
        pcache-writeback-delay=10m pcache-on-exit=keep \
        pcache-sequential-cutoff=0
  SLOW=$slow python - "$(uri $kind)" <<'END'
import nbd, os, sys, time

h = nbd.NBD()
h.connect_uri(sys.argv[1])
disk = bytearray(open("expected.img", "rb").read())
longest = 0

def timed(call, *args):
    global longest
    t = time.monotonic()
    r = call(*args)
    longest = max(longest, time.monotonic() - t)
    return r

# Full, several times over.
for at in range(0, 64 << 20, 131072):
    assert timed(h.pread, 131072, at) == disk[at:at + 131072]
# Little dirty data among much clean data.
for i, at in enumerate(range(0, 64 << 20, 131072)):
    if i % 25 == 0:
        disk[at:at + 4096] = b"w" * 4096
        timed(h.pwrite, b"w" * 4096, at)
    assert timed(h.pread, 131072, at) == disk[at:at + 131072]
print("the longest request took %.3f s" % longest)
assert longest < 0.8 * int(os.environ["SLOW"]), "a stall"
open("expected.img", "wb").write(disk)
END
  stop $kind
  start drain file disk.img pmem="$cache"
  nbdsh -u "$(uri drain)" -c pass
  stop drain
  same disk.img expected.img
  evicted=$(figure $kind evicted_segments)
  fills=$(figure $kind fill_bytes)
  say "$evicted segments evicted, $fills bytes cached"
  [ "$evicted" -gt 20 ] || fail "only $evicted segments were evicted"
  [ "$fills" -gt $((20 * MiB)) ] || fail "only $fills bytes were cached"
  cp expected.img disk.img
done

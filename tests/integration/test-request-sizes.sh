#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The largest requests nbdkit lets through work: reads and writes of 64 MiB,
# zero, trim, cache and extents of 4 GiB - 1; on disks up to 2^63 - 1 bytes,
# at their very end, and on disks of 0 and 1 bytes.  Zero and trim take the
# same short time at any length.

. "$(dirname "$0")/functions.sh"
need_plugin memory

# One write larger than half of the cache.
start first memory 8G pmem=cache.img pmem-size=140M pcache-segment-size=1M
nbdsh -u "$(uri first)" -c '
import random, time
h.set_strict_mode (0)
big = 64 << 20
all = (1 << 32) - 1
data = random.Random (1).randbytes (big)
at = (4 << 30) - 12345
h.pwrite (data, at)
assert h.pread (big, at) == data
h.pwrite (data, 1, flags=nbd.CMD_FLAG_FUA)
assert h.pread (big, 1) == data

h.pwrite (b"x" * 1000, (8 << 30) - 1000)
t = time.monotonic ()
h.zero (all, 5)
h.zero (all, 0, flags=nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)
assert time.monotonic () - t < 2, "zero of 4 GiB is slow"
assert h.pread (big, 1).count (0) == big
assert h.pread (big, at)[:12345 - 1] == bytes (12344)
# The first 5 bytes after 4 GiB were zeroed as well, but for the last one.
assert h.pread (1000, (4 << 30) - 1) == bytes (5) + data[12349:12349 + 995]
h.zero (all, (8 << 30) - all)
assert h.pread (5000, (8 << 30) - 5000) == bytes (5000)
h.pwrite (data[:1000], (8 << 30) - 1000)
t = time.monotonic ()
h.trim (all, 3)
h.trim (all, (8 << 30) - all - 1000, flags=nbd.CMD_FLAG_FUA)
assert time.monotonic () - t < 2, "trim of 4 GiB is slow"
assert h.pread (2000, (8 << 30) - 2000) == bytes (1000) + data[:1000]

# Much more than fits.  It must end, and do no harm.
h.pwrite (data[:8000], 123)
h.cache (all, 7)
assert h.pread (8000, 123) == data[:8000]
h.flush ()
'
nbdsh -c '
h.add_meta_context (nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri ("'"$(uri first)"'")
h.set_strict_mode (0)
at, zero = 0, 0
while at < h.get_size ():
  n = min ((1 << 32) - 1, h.get_size () - at)
  entries = []
  h.block_status (n, at, lambda c, o, e, err: entries.extend (e) or 0)
  assert entries
  for length, flags in zip (entries[::2], entries[1::2]):
    assert length > 0
    if flags & nbd.STATE_ZERO: zero += length
    at += length
assert at == h.get_size ()
# Nearly all of it.
assert zero > (8 << 30) - (1 << 20), zero
'
stop first

# Too large ones are refused; the connection goes on.
start second memory 200M pmem=cache2.img pmem-size=16M pcache-segment-size=1M
nbdsh -u "$(uri second)" -c '
h.set_strict_mode (0)
h.set_pread_initialize (False)
for call in (lambda: h.pwrite (bytes ((64 << 20) + 1), 0),
             lambda: h.pread (4, 200 << 20),
             lambda: h.pwrite (b"12", (200 << 20) - 1),
             lambda: h.zero (1 << 20, (200 << 20) - 1000)):
  try:
    call ()
  except nbd.Error as e:
    print ("as expected:", e.string)
  else:
    raise SystemExit ("was not refused")
  if h.aio_is_dead () or h.aio_is_closed ():
    h = nbd.NBD ()
    h.connect_uri ("'"$(uri second)"'")
    h.set_strict_mode (0)
h.pwrite (b"still here", 0)
assert h.pread (10, 0) == b"still here"
'
stop second

# The largest disk there can be, and the smallest.
for size in $(( (1 << 63) - 1 )) 0 1 4095; do
  start disk-$size memory $size pmem=cache-$size.img pmem-size=16M \
        pcache-segment-size=1M
  nbdsh -u "$(uri disk-$size)" -c '
size = '$size'
assert h.get_size () == size
for at in (0, size // 2, size - 1, size - 4095):
  if 0 <= at < size:
    h.pwrite (b"?", at)
    h.pwrite (b"!", at, flags=nbd.CMD_FLAG_FUA)
    assert h.pread (1, at) == b"!"
    n = min (1 << 30, size - at)
    h.zero (n, at)
    h.cache (n, at)
    assert h.pread (1, at) == b"\0"
    h.pwrite (b"!", at)
    h.trim (n, at)
    h.pwrite (b"!", at)
h.flush ()
'
  stop disk-$size
  [ "$(figure disk-$size dirty_bytes)" -eq 0 ] || fail "not drained"
done

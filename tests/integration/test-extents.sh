#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Extents: data in the cache is data, also before it has reached the disk, so
# tools that skip holes copy it; a zero in the cache is a hole that reads zero;
# where the cache has nothing the plugin is asked.

. "$(dirname "$0")/functions.sh"
need nbdcopy qemu-img

# The disk: data in the first MiB, a hole, data in [4, 5) MiB, a hole.
random_file random.img $MiB
truncate -s 16M disk.img
dd if=random.img of=disk.img bs=1M conv=notrunc status=none
dd if=random.img of=disk.img bs=1M seek=4 conv=notrunc status=none
cp --sparse=always disk.img expected.img

cat > client.py <<'END'
import nbd, sys

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(sys.argv[1])

def extents(flags=0):
    """As letters, one each 64 KiB: d data, z hole that reads zero."""
    size, at, text = h.get_size(), 0, ""
    while at < size:
        entries = []
        h.block_status(size - at, at,
                       lambda c, o, e, err: entries.extend(e) or 0, flags)
        for n, kind in zip(entries[::2], entries[1::2]):
            assert n % 65536 == 0, (at, n)
            letter = {0: "d", nbd.STATE_HOLE | nbd.STATE_ZERO: "z"}[kind]
            text += letter * (n // 65536)
            at += n
    return text

def expect(want):
    for flags in 0, nbd.CMD_FLAG_REQ_ONE:
        got = extents(flags)
        if got != want:
            sys.exit("extents\n%s, expected\n%s" % (got, want))

unit = 65536
empty, full = "z" * 16, "d" * 16
before = full + empty * 3 + full + empty * 11
expect(before)

# Dirty data where the disk has a hole.
h.pwrite(b"a" * unit, 2 << 20)
h.pwrite(b"b" * 3 * unit, 10 << 20)
after = before[:32] + "d" + before[33:160] + "ddd" + before[163:]
expect(after)

# Zeros where there was data, on the disk and in the cache.
h.zero(4 * unit, 4 << 20)
h.zero(unit, (10 << 20) + unit)
h.trim(2 * unit, 2 * unit)
# A hole is wanted or not: in the cache it is none of the disk's concern.
h.zero(unit, 12 << 20, nbd.CMD_FLAG_NO_HOLE)
after = after[:64] + "zzzz" + after[68:]
after = after[:161] + "z" + after[162:]
after = after[:2] + "zz" + after[4:]
expect(after)

# Reading fills the cache, and what is there is data then, zeros or not.
h.flush()
got = h.pread(h.get_size() // 2, 0)
got += h.pread(h.get_size() // 2, h.get_size() // 2)
for i, letter in enumerate(after):
    if letter == "z" and any(got[i * unit:(i + 1) * unit]):
        sys.exit("unit %d reads as data, but is said to be zero" % i)
open("expected.img", "wb").write(got)
h.shutdown()
END

# Nothing is written back meanwhile.
start first file disk.img pmem=cache.img pmem-size=64M \
      pcache-segment-size=1M pcache-writeback-delay=10m
python client.py "$(uri first)"
cp disk.img before.img
within 30 nbdcopy "$(uri first)" copy1.img
within 30 nbdcopy --synchronous "$(uri first)" copy2.img
within 30 qemu-img convert -f raw -O raw "$(uri first)" copy3.img
within 30 qemu-img convert -f raw -O qcow2 "$(uri first)" copy4.img
kill_hard first
same disk.img before.img "the test is about data not yet written back"
for i in 1 2 3; do same copy$i.img expected.img; done
within 30 qemu-img compare -f qcow2 -F raw copy4.img expected.img

# And after a restart, before and after write-back.
start second file disk.img pmem=cache.img
within 30 nbdcopy "$(uri second)" copy5.img
stop second
same copy5.img expected.img
same disk.img expected.img

# Small pieces of all kinds: nothing beyond what was asked for comes back, and
# an answer that stops early goes on where it stopped.
start third file disk.img pmem=cache3.img pmem-size=64M \
      pcache-segment-size=1M pcache-writeback-delay=10m
nbdsh -c '
h.add_meta_context (nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri ("'"$(uri third)"'")
h.zero (h.get_size (), 0)
for i in range (0, 5000):
  h.pwrite (b"x" * 512, i * 1024)
at = 0
while at < 5000 * 1024:
  entries = []
  h.block_status (5000 * 1024 - at, at,
                  lambda c, o, e, err: entries.extend (e) or 0)
  for n, kind in zip (entries[::2], entries[1::2]):
    want = (512, 0) if at % 1024 == 0 else (512, 3)
    if at + n < 5000 * 1024:
      assert (n, kind) == want, (at, n, kind)
    at += n
'
within 30 nbdcopy "$(uri third)" copy6.img
stop third
same copy6.img disk.img

# A sector that is zeros in part is data: qemu-img, which copies by the sector,
# takes it for zeros if the part at its start is said to be.
cp random.img disk2.img
truncate -s 3M disk2.img
start fourth file disk2.img pmem=cache4.img pmem-size=10M \
      pcache-segment-size=1M pcache-writeback-delay=10m
nbdsh -c '
h.add_meta_context (nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri ("'"$(uri fourth)"'")
found = []
h.zero (20000, 5000)
h.trim (100, 40000)
h.zero (1000, 50 * 512)
# In the hole of the disk.
h.pwrite (b"x" * 30000, (2 << 20) + 100)
open ("expected2.img", "wb").write (h.pread (h.get_size (), 0))
h.block_status (h.get_size (), 0, lambda c, o, e, err: found.extend (e) or 0)
at = 0
for n, kind in zip (found[::2], found[1::2]):
  assert kind == 0 or (at % 512 == 0 and n % 512 == 0), (at, n, kind)
  at += n
assert len (found) > 6, found
# Whoever asks for a part of a sector gets an answer about it.
found = []
h.block_status (100, 6000, lambda c, o, e, err: found.extend (e) or 0)
assert found == [100, 3], found
'
kill_hard fourth
start fourth file disk2.img pmem=cache4.img pcache-writeback-delay=10m
within 30 qemu-img convert -f raw -O raw "$(uri fourth)" copy7.img
same copy7.img expected2.img
stop fourth
same disk2.img expected2.img

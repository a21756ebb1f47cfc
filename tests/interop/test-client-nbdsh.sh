#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# nbdsh and what libnbd's API has beyond plain reads and writes: structured
# replies and the DF flag, or none of them, prefetching, FUA, block status,
# commands in flight on eight connections, and requests that its checks would
# not let through, which are refused and harm nothing.

. "$(dirname "$0")/functions.sh"

# Data, a hole, data, a hole, of 1 MiB each, and so on.
random_file random.img $MiB
truncate -s $((16 * MiB + 512)) disk.img
for i in 0 2 4 6 8 10 12 14; do
  dd if=random.img of=disk.img bs=1M seek=$i conv=notrunc status=none
done
cp --sparse=always disk.img before.img
parameters=(file disk.img pmem=cache.img pmem-size=12M pcache-segment-size=1M)

start first "${parameters[@]}" pcache-writeback-delay=10m
cat > client.py <<'END_CLIENT'
import errno
import nbd
import sys

uri = sys.argv[1]
want = bytearray(open("disk.img", "rb").read())
size = len(want)
MIB = 1 << 20


def connect(structured=True, strict=True):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    if structured:
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    if not strict:
        h.set_strict_mode(0)
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == structured
    assert h.can_df() == structured
    return h


def pieces(h, length, offset, flags=0):
    """A structured read: the pieces that came, put together."""
    got = []
    result = bytearray(length)

    def chunk(data, at, status, error):
        if status == nbd.READ_HOLE:
            got.append((at, None))
        else:
            assert status == nbd.READ_DATA
            result[at - offset:at - offset + len(data)] = data
            got.append((at, len(data)))
    buf = h.pread_structured(length, offset, chunk, flags)
    assert bytes(buf) == want[offset:offset + length]
    return got


h = connect()
plain = connect(structured=False)
print("structured: %r" % pieces(h, 4 * MIB, 0))
# With DF it must be one piece.
assert len(pieces(h, 3 * MIB, MIB // 2, nbd.CMD_FLAG_DF)) == 1
assert plain.pread(4 * MIB, MIB // 2) == want[MIB // 2:MIB // 2 + 4 * MIB]
for wrong in (lambda: plain.block_status(MIB, 0, lambda *a: 0),
              lambda: plain.pread(1, 0, nbd.CMD_FLAG_DF)):
    try:
        wrong()
        sys.exit("without structured replies it was done")
    except nbd.Error as e:
        print(e)

print("FUA on every kind of request, on either kind of connection")
for c, at in (h, 5 * MIB), (plain, 6 * MIB):
    c.pwrite(b"f" * 5000, at + 7, nbd.CMD_FLAG_FUA)
    want[at + 7:at + 5007] = b"f" * 5000
    c.zero(3000, at + 1000, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
    want[at + 1000:at + 4000] = bytes(3000)
    c.zero(8192, at + 16384, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)
    want[at + 16384:at + 24576] = bytes(8192)
    c.trim(8192, at + 32768, nbd.CMD_FLAG_FUA)
    want[at + 32768:at + 40960] = bytes(8192)
    assert c.pread(65536, at) == want[at:at + 65536]

print("Block status")


def status(length, offset, flags=0):
    got = []
    h.block_status(length, offset,
                   lambda c, o, e, err: got.extend(e) or 0, flags)
    return list(zip(got[::2], got[1::2]))


assert status(2 * MIB, 10 * MIB) == [(MIB, 0), (MIB, 3)]
assert status(2 * MIB, 10 * MIB, nbd.CMD_FLAG_REQ_ONE) == [(MIB, 0)]
assert status(10, 5 * MIB + 1000, nbd.CMD_FLAG_REQ_ONE) == [(10, 3)]
assert status(1, 5 * MIB + 7) == [(1, 0)]

print("64 requests in flight on each of eight connections")
all_of_them = [connect(structured=i % 2) for i in range(8)]
cookies = []
for i in range(64):
    for n, c in enumerate(all_of_them):
        at = 8 * MIB + (i * 8 + n) * 4096 + 512
        data = bytes([i * 8 + n & 255]) * 4096
        buf = nbd.Buffer.from_bytearray(bytearray(data))
        cookies.append((c, c.aio_pwrite(buf, at), buf))
        want[at:at + 4096] = data
for c in all_of_them:
    while c.aio_in_flight() > 0:
        c.poll(-1)
for c, cookie, _ in cookies:
    assert c.aio_command_completed(cookie)
# Each reads what another one has written.
reads = []
for i in range(64):
    for n, c in enumerate(all_of_them):
        at = 8 * MIB + (i * 8 + (n + 3) % 8) * 4096 + 512
        buf = nbd.Buffer(4096)
        reads.append((c, c.aio_pread(buf, at), buf, at))
for c in all_of_them:
    while c.aio_in_flight() > 0:
        c.poll(-1)
for c, cookie, buf, at in reads:
    assert c.aio_command_completed(cookie)
    assert buf.to_bytearray() == want[at:at + 4096], at
for c in all_of_them:
    c.shutdown()

print("What libnbd would not send")
loose = connect(strict=False)
end = size
bad = [
    ("read beyond the end", lambda: loose.pread(513, end - 512), "EINVAL"),
    ("read far beyond", lambda: loose.pread(1, 1 << 62), "EINVAL"),
    ("write beyond the end", lambda: loose.pwrite(b"x" * 513, end - 512),
     "ENOSPC"),
    ("zero beyond the end", lambda: loose.zero(MIB, end - 1), "ENOSPC"),
    ("trim beyond the end", lambda: loose.trim(MIB, end - 1), "EINVAL"),
    ("prefetch beyond the end", lambda: loose.cache(MIB, end - 1), "EINVAL"),
    ("status beyond the end",
     lambda: loose.block_status(MIB, end - 1, lambda *a: 0), "EINVAL"),
    ("write with an unknown flag",
     lambda: loose.pwrite(b"x", 0, 1 << 12), "EINVAL"),
    ("trim with NO_HOLE", lambda: loose.trim(512, 0, nbd.CMD_FLAG_NO_HOLE),
     "EINVAL"),
    ("write of nothing", lambda: loose.pwrite(b"", 0), "ENOSPC"),
    ("read of nothing", lambda: loose.pread(0, 0), "EINVAL"),
    ("trim of nothing", lambda: loose.trim(0, 0), "EINVAL"),
    ("status of nothing", lambda: loose.block_status(0, 0, lambda *a: 0),
     "EINVAL"),
]
for what, call, code in bad:
    try:
        call()
    except nbd.Error as e:
        print("%s: %s" % (what, e))
        assert e.errno is not None, "the connection was lost"
        assert e.errno in (code, "EINVAL"), e.errno
    else:
        sys.exit("%s: it was done" % what)
assert loose.pread(4096, 0) == want[:4096]
assert bytes(loose.pread(size, 0)) == want

open("want.img", "wb").write(want)
h.flush()
END_CLIENT
python client.py "$(uri first)"
# An nbdsh of several -c, as its manual has it.
nbdsh -u "$(uri first)" -c 'h.pwrite (b"sh" * 256, 16 << 20)' -c 'h.flush ()' \
      -c 'print (h.get_size (), h.is_read_only ())'
printf 'sh%.0s' $(seq 256) | dd of=want.img bs=512 seek=32768 conv=notrunc \
                                status=none
kill_hard first
same disk.img before.img "the rest is about what is in the cache only"

start second "${parameters[@]}"
serves second want.img
stop second
same disk.img want.img

say "Prefetched: it is in the cache, and the disk is not asked again"
parameters=(file disk.img pmem=fresh.img pmem-size=12M pcache-segment-size=1M)
start third "${parameters[@]}"
nbdsh -u "$(uri third)" -c 'h.cache (1 << 20, 2 << 20)'
stop third
start fourth "${parameters[@]}"
nbdsh -u "$(uri fourth)" \
      -c 'assert h.pread (1 << 20, 2 << 20) == open ("random.img", "rb").read ()'
stop fourth
[ "$(figure third prefetches)" -eq 1 ] || fail "no prefetch was counted"
[ "$(figure fourth read_miss_bytes)" -eq 0 ] || fail "it was not in the cache"

# SPDX-License-Identifier: BSD-3-Clause

"""Random requests over two connections, against a model of the disk.

random_requests.py URI MODEL SEED COUNT [WORD...]

MODEL is a file with what the disk must hold now; it is read through before
and after, and holds what it must hold then when this returns.  The last
request is a flush.  Words say what the stack cannot do:

  readonly    no writes
  one         one connection at a time
  no-trim     no trims, or they need not read as zeros
  plain       nothing but reads and writes
  aligned=N   requests in multiples of N bytes
"""

import random
import sys

import nbd

uri, path, seed, count = sys.argv[1:5]
words = dict((w + "=1").split("=")[:2] for w in sys.argv[5:])
align = int(words.get("aligned", 1))
rng = random.Random(seed)
with open(path, "rb") as f:
    disk = bytearray(f.read())
size = len(disk)


def connect():
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    # Ours to say, not the library's.
    h.set_strict_mode(0)
    h.set_uri_allow_local_file(True)
    h.connect_uri(uri)
    if h.get_size() != size:
        sys.exit("the disk has %d bytes, not %d" % (h.get_size(), size))
    return h


handles = [connect()] if "one" in words else [connect(), connect()]


def wrong(what, at, length):
    sys.exit("%s: wrong data in %d + %d" % (what, at, length))


def read(what, at, length):
    got = rng.choice(handles).pread(length, at)
    want = disk[at:at + length]
    if got != want:
        first = next(i for i in range(length) if got[i] != want[i])
        wrong("%s, request %d + %d" % (what, at, length), at + first, 1)


def read_all(what):
    for at in range(0, size, 1 << 18):
        read(what, at, min(1 << 18, size - at))


def block_status(h, at, length):
    def extents(context, offset, entries, err):
        # A whole disk without extents is one entry, longer than asked for.
        for n, flags in zip(entries[::2], entries[1::2]):
            if flags & nbd.STATE_ZERO and any(disk[offset:offset + n]):
                wrong("block status says zeros", offset, n)
            offset += n
    h.block_status(length, at, extents)


def one_request():
    h = rng.choice(handles)
    longest = rng.choice((600, 5000, 70000, 300000))
    length = rng.randint(1, max(1, min(longest, size) // align)) * align
    at = rng.randint(0, (size - length) // align) * align
    kind = rng.random()
    if "readonly" in words:
        kind = 0.45 + kind * 0.5
    if "plain" in words:
        kind = 0.05 + kind * 0.7
    if kind < 0.45:
        data = rng.randbytes(length)
        fua = nbd.CMD_FLAG_FUA if kind < 0.05 and h.can_fua() else 0
        h.pwrite(data, at, fua)
        disk[at:at + length] = data
    elif kind < 0.75:
        read("read", at, length)
    elif kind < 0.80:
        if h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION):
            block_status(h, at, length)
    elif kind < 0.95 and "readonly" in words:
        if h.can_cache():
            h.cache(length, at)
    elif kind < 0.90:
        if h.can_zero():
            h.zero(length, at, rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
            disk[at:at + length] = bytes(length)
    elif kind < 0.95:
        if h.can_trim() and "no-trim" not in words:
            h.trim(length, at)
            disk[at:at + length] = bytes(length)
    elif h.can_flush():
        h.flush()


read_all("at the start")
for i in range(int(count)):
    try:
        one_request()
    except nbd.Error as e:
        sys.exit("request %d: %s" % (i, e))
read_all("at the end")
for h in handles[-1:]:
    if h.can_flush() and "plain" not in words:
        h.flush()
with open(path, "wb") as f:
    f.write(disk)
for h in handles:
    h.shutdown()

# SPDX-License-Identifier: BSD-3-Clause

"""Random requests over two connections, compared with what the disk should hold.

  exercise.py URI MODEL SEED [WORD...]

MODEL is a file with the disk's content.  All of the disk is read and compared
first; then come the requests, and at last a flush; then all is compared again,
and MODEL is written anew.

  requests=N   how many (200)
  largest=N    bytes of the largest request (300000)
  aligned=N    requests are multiples of N bytes (1)
  one          one connection only
  readonly     no writes, and they are refused
  plain        nothing but reads and writes
  loose-trim   what is trimmed may read as anything: it is overwritten at once
  loose-status block status may say anything
  patient      try again what fails
"""

import os
import random
import sys

import nbd

uri, model, seed = sys.argv[1:4]
words = dict(word.partition("=")[::2] for word in sys.argv[4:])
requests = int(words.pop("requests", 200))
largest = int(words.pop("largest", 300000))
align = int(words.pop("aligned", 1))
unknown = set(words) - {"one", "readonly", "plain", "loose-trim",
                        "loose-status", "patient"}
if unknown:
    sys.exit("unknown: %s" % unknown)
rng = random.Random(int(seed))
when = "at first"

with open(model, "rb") as f:
    disk = bytearray(f.read())
size = len(disk)


def connect():
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    # What is not allowed is the server's to say.
    h.set_strict_mode(0)
    h.set_uri_allow_local_file(True)
    h.connect_uri(uri)
    if h.get_size() != size:
        sys.exit("the size is %d, not %d" % (h.get_size(), size))
    return h


def do(call, *arguments):
    for _ in range(100 if "patient" in words else 0):
        try:
            return call(*arguments)
        except nbd.Error:
            pass
    return call(*arguments)


def compare(h, offset, length):
    got = do(h.pread, length, offset)
    want = disk[offset:offset + length]
    if got != want:
        wrong = [i for i in range(length) if got[i] != want[i]]
        with open(model + ".expected", "wb") as f:
            f.write(disk)
        sys.exit("%s: read of %d at %d: %d bytes differ from %d to %d, the "
                 "first is %d, not %d; read again it is %d"
                 % (when, length, offset, len(wrong), offset + wrong[0],
                    offset + wrong[-1], got[wrong[0]], want[wrong[0]],
                    h.pread(length, offset)[wrong[0]]))


def compare_all(h):
    for at in range(0, size, 1 << 20):
        compare(h, at, min(1 << 20, size - at))


def check_status(h, offset, length):
    """What is said to be zero is."""
    entries = []
    h.block_status(length, offset, lambda c, o, e, err: entries.extend(e) or 0)
    if not entries:
        sys.exit("block status of %d at %d: nothing" % (length, offset))
    for n, flags in zip(entries[::2], entries[1::2]):
        # The last one may be longer than was asked for.
        if flags & nbd.STATE_ZERO and any(disk[offset:offset + n]):
            sys.exit("%d at %d: said to be zero" % (n, offset))
        offset += n


def some_range():
    longest = min(size, rng.choice((1000, 30000, largest, largest)))
    length = rng.randint(1, max(1, longest // align)) * align
    offset = rng.randint(0, (size - length) // align) * align
    # As clients do, and as they do not.
    if rng.random() < 0.5:
        offset &= -4096
        length = min((length + 4095) & -4096, size - offset)
        length -= length % align
    return offset, length


def write(h, offset, length, flags):
    # Zeros as data, now and then.
    data = bytes(length) if rng.random() < 0.1 else rng.randbytes(length)
    h.pwrite(data, offset, flags)
    disk[offset:offset + length] = data


def zero(h, offset, length, flags):
    if rng.random() < 0.3:
        flags |= nbd.CMD_FLAG_NO_HOLE
    h.zero(length, offset, flags)
    disk[offset:offset + length] = bytes(length)


def trim(h, offset, length, flags):
    h.trim(length, offset, flags)
    disk[offset:offset + length] = bytes(length)
    if h.can_flush() and rng.random() < 0.5:
        h.flush()
    if "loose-trim" in words or rng.random() < 0.5:
        over = zero if h.can_zero() and rng.random() < 0.5 else write
        over(h, offset, length, flags)


def one_request():
    h = rng.choice(handles)
    offset, length = some_range()
    flags = 0
    kinds = {"read": 20}
    if "readonly" not in words:
        kinds["write"] = 40
    if "plain" not in words:
        if rng.random() < 0.05 and h.can_fua():
            flags = nbd.CMD_FLAG_FUA
        if h.can_cache():
            kinds["prefetch"] = 5
        if "loose-status" not in words and \
           h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION):
            kinds["status"] = 5
        if "readonly" not in words:
            kinds.update({"zero": 15 * h.can_zero(), "trim": 5 * h.can_trim(),
                          "flush": 5 * h.can_flush()})
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "read":
        compare(h, offset, length)
    elif kind == "write":
        write(h, offset, length, flags)
    elif kind == "zero":
        zero(h, offset, length, flags)
    elif kind == "trim":
        trim(h, offset, length, flags)
    elif kind == "flush":
        h.flush()
    elif kind == "prefetch":
        do(h.cache, length, offset)
    elif kind == "status":
        check_status(h, offset, length)


def refused(call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as e:
        if e.errno != "EPERM":
            raise
    else:
        sys.exit("%s on a read-only disk" % call.__name__)


handles = [connect()] if "one" in words else [connect(), connect()]
compare_all(handles[0])
if "readonly" in words:
    assert handles[0].is_read_only()
    if size:
        refused(handles[0].pwrite, b"x", 0)
        refused(handles[0].zero, 1, 0)
        refused(handles[0].trim, 1, 0)
for i in range(requests if size else 0):
    when = "request %d" % i
    try:
        one_request()
    except nbd.Error as e:
        sys.exit("%s: %s" % (when, e))
# On one connection, for both.
if "plain" not in words and "readonly" not in words and handles[0].can_flush():
    handles[0].flush()
when = "at the end"
compare_all(handles[-1])
for h in handles:
    h.shutdown()

if "readonly" not in words:
    with open(model + ".new", "wb") as f:
        f.write(disk)
    os.rename(model + ".new", model)

# SPDX-License-Identifier: BSD-3-Clause

"""Random requests to a disk, compared with what it should hold.

  exercise.py URI MODEL SEED [key=value...]

MODEL is a file with the disk's content.  All of the disk is read and compared
first; then come random requests on two connections, flushed at the end; then
MODEL is written anew.  A range that is trimmed is written or zeroed before
anybody relies on it.

  requests=N   how many (200)
  largest=N    bytes of the largest request (300000)
  patient      try again what fails
  readonly     compare only, and see that nothing can be written
"""

import os
import random
import sys

import nbd

uri, model, seed = sys.argv[1:4]
options = dict(word.partition("=")[::2] for word in sys.argv[4:])
requests = int(options.get("requests", 200))
largest = int(options.get("largest", 300000))
rng = random.Random(int(seed))
when = "at first"

with open(model, "rb") as f:
    disk = bytearray(f.read())
size = len(disk)


def connect():
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.set_strict_mode(0)
    h.connect_uri(uri)
    return h


def do(call, *arguments):
    for _ in range(100 if "patient" in options else 0):
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
                    h.pread(1, offset + wrong[0])[0]))


def compare_all(h):
    for at in range(0, size, 1 << 20):
        compare(h, at, min(1 << 20, size - at))


def some_range():
    length = rng.randint(1, min(size, largest))
    offset = rng.randrange(size - length + 1)
    # As clients do, and as they do not.
    if rng.random() < 0.5:
        offset &= -4096
        length = min((length + 4095) & -4096, size - offset)
    return offset, length


def check_status(h, offset, length):
    """What is said to be zero is."""
    entries = []
    h.block_status(length, offset, lambda c, o, e, err: entries.extend(e) or 0)
    if not entries:
        sys.exit("block status of %d at %d: nothing" % (length, offset))
    for n, flags in zip(entries[::2], entries[1::2]):
        n = min(n, offset + length - offset, size - offset)
        if flags & nbd.STATE_ZERO and any(disk[offset:offset + n]):
            sys.exit("%d at %d: said to be zero" % (n, offset))
        offset += n
        length -= n
        if length <= 0:
            break


def refused(call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as e:
        if e.errno != "EPERM":
            raise
    else:
        sys.exit("%s on a read-only disk" % call.__name__)


first, second = connect(), connect()
if first.get_size() != size:
    sys.exit("the size is %d, not %d" % (first.get_size(), size))
compare_all(first)

if "readonly" in options:
    assert first.is_read_only()
    if size:
        refused(first.pwrite, b"x", 0)
        refused(first.zero, 1, 0)
        refused(first.trim, 1, 0)
        compare(second, 0, 1)
        check_status(second, 0, min(size, 1 << 30))
    for _ in range(requests if size else 0):
        compare(rng.choice((first, second)), *some_range())
    sys.exit()

when = "while it works"
for _ in range(requests if size else 0):
    h = rng.choice((first, second))
    offset, length = some_range()
    flags = nbd.CMD_FLAG_FUA if rng.random() < 0.05 else 0
    what = rng.random()
    if 0.6 <= what < 0.65 and h.can_trim():
        h.trim(length, offset, flags)
        if rng.random() < 0.5:
            h.flush()
        # What it holds now is nobody's business.
        what = rng.choice((0, 0.5))
    if what < 0.4:
        data = rng.randbytes(length)
        h.pwrite(data, offset, flags)
        disk[offset:offset + length] = data
    elif what < 0.6:
        if rng.random() < 0.3:
            flags |= nbd.CMD_FLAG_NO_HOLE
        h.zero(length, offset, flags)
        disk[offset:offset + length] = bytes(length)
    elif what < 0.7:
        h.flush()
    elif what < 0.75:
        do(h.cache, length, offset)
    elif what < 0.8:
        check_status(h, offset, length)
    else:
        compare(h, offset, length)
# On one connection, for both.
first.flush()
when = "at the end"
compare_all(second)

with open(model + ".new", "wb") as f:
    f.write(disk)
os.rename(model + ".new", model)

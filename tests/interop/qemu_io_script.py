# SPDX-License-Identifier: BSD-3-Clause

"""Commands for qemu-io, and what the disk must hold after them.

qemu_io_script.py SEED SIZE BATCHES COMMANDS IMAGE [no-discard]

Each batch has up to 64 requests in flight at once, on ranges that do not
overlap.  IMAGE is read, if it is there, and gets the result.
"""

import os
import random
import sys

SECTOR = 512
seed, size, batches = (int(a) for a in sys.argv[1:4])
rng = random.Random(seed)
discard = sys.argv[6:] != ['no-discard']
disk = bytearray(size)
if os.path.exists(sys.argv[5]):
    with open(sys.argv[5], 'rb') as f:
        disk = bytearray(f.read())


def batch(out):
    used = []
    for _ in range(rng.choice((1, 8, 64))):
        length = rng.choice((1, 1, 7, 8, 8, 8, 64, 128, 200)) * SECTOR
        at = rng.randrange((size - length) // SECTOR) * SECTOR
        if any(at < b and a < at + length for a, b in used):
            continue
        used.append((at, at + length))
        end, p = at + length, rng.randrange(1, 256)
        kind = rng.random()
        if kind < 0.25:
            fill = disk[at]
            if disk[at:end] == bytes([fill]) * length:
                out.append('aio_read -q -P %d %d %d' % (fill, at, length))
            continue
        if kind < 0.75:
            # Sometimes from two buffers.
            sizes = '%d' % length
            if length > SECTOR and rng.random() < 0.3:
                sizes = '%d %d' % (SECTOR, length - SECTOR)
            out.append('aio_write -q %s-P %d %d %s' % (
                '-f ' if rng.random() < 0.1 else '', p, at, sizes))
        elif kind < 0.9:
            p = 0
            out.append('aio_write -q -z %s%s%d %d' % (
                '-u ' if rng.random() < 0.5 else '',
                '-f ' if rng.random() < 0.2 else '', at, length))
        elif discard:
            # One at a time.
            p = 0
            out.append('discard -q %d %d' % (at, length))
        else:
            continue
        disk[at:end] = bytes([p]) * length
    out.append('aio_flush')
    if rng.random() < 0.2:
        out.append('flush')


def check(out):
    """All that is there, in pieces of one value each."""
    at = 0
    while at < size:
        end = at + SECTOR
        piece = disk[at:end]
        while end < size and end - at < 1 << 20 and \
              disk[end:end + SECTOR] == piece:
            end += SECTOR
        out.append('aio_read -q -P %d %d %d' % (disk[at], at, end - at))
        at = end
        if len(out) % 64 == 0:
            out.append('aio_flush')
    out.append('aio_flush')


commands = []
for _ in range(batches):
    batch(commands)
check(commands)
# Else it is not known that it came to the end.
commands.append('length')
with open(sys.argv[4], 'w') as f:
    f.write('\n'.join(commands) + '\n')
with open(sys.argv[5], 'wb') as f:
    f.write(disk)

# SPDX-License-Identifier: BSD-3-Clause

"""scatter.py URI IMAGE SEED WRITES LONGEST EVERY

Write to a disk, here and there, and the same to an image of what it has.
Flush after every EVERY writes, and in the end."""

import random
import sys

import nbd

uri, image = sys.argv[1:3]
seed, writes, longest, every = map(int, sys.argv[3:7])
rng = random.Random(seed)
h = nbd.NBD()
h.connect_uri(uri)
size = h.get_size()
with open(image, 'r+b') as f:
    for i in range(1, writes + 1):
        length = rng.randint(1, longest)
        at = rng.randrange(size - length)
        what = rng.random()
        if what < 0.05:
            length = min(3 * length, size - at)
            data = bytes(length)
            (h.zero if what < 0.03 else h.trim)(length, at)
        else:
            data = rng.randbytes(length)
            h.pwrite(data, at)
        f.seek(at)
        f.write(data)
        if i % every == 0:
            h.flush()
h.flush()
h.shutdown()

# SPDX-License-Identifier: BSD-3-Clause

"""Is what an RBD image holds while the cache writes back a legal state?

  ceph_order.py write --conf CONF --image POOL/IMAGE --uri URI --seed N
                      --epochs N
  ceph_order.py write --killed --history FILE --uri URI --seed N
  ceph_order.py check EXPORTED-IMAGE --history FILE [--flushed]

write: epochs of small writes to the cache, a flush after each.  Every block
says which write of which epoch it is from.  Meanwhile the image is snapshot
several times, and each snapshot must be what a power cut leaves of a plain disk,
promise P3: every epoch up to some e whole, and anything of e + 1.  Of these
some must lie in the middle, or nothing was shown.

With --killed it goes on until the cache is killed, and notes what it wrote.

check: the same of an image that was exported, with what write left in FILE;
with --flushed also that all is there that was flushed, promise P1."""

import argparse
import json
import random
import struct
import sys
import threading
import time

BLOCK = 4096


class Wrong(Exception):
    pass


def content(block, epoch, number):
    return struct.pack('<QQQQ', block + 1, epoch, number, 0) * (BLOCK // 32)


class History:
    """For each block the writes to it, (epoch, number), in their order."""

    def __init__(self, blocks, writes=None):
        self.blocks = blocks
        self.flushed = 0        # the last epoch that was
        self.writes = writes or [[(0, 0)] for _ in range(blocks)]

    def add(self, block, epoch, number):
        self.writes[block].append((epoch, number))

    def judge(self, image, what, flushed=0):
        """The epoch that the image is in: all before it is there.  How many
        blocks have something of it."""
        found = []
        for b in range(self.blocks):
            data = image[b * BLOCK:(b + 1) * BLOCK]
            name, epoch, number, _ = struct.unpack_from('<QQQQ', data)
            if name == 0:
                epoch = number = 0
                want = bytes(BLOCK)
            else:
                want = content(b, epoch, number)
            if data != want or (epoch, number) not in self.writes[b]:
                raise Wrong('%s: block %d is nothing that was written to it'
                            % (what, b))
            found.append((epoch, number))
        newest = max(epoch for epoch, _ in found)
        for b, got in enumerate(found):
            least = [w for w in self.writes[b]
                     if w[0] < max(newest, 1) or w[0] <= flushed][-1]
            if got < least:
                raise Wrong('%s: block %d has a write of epoch %d, though one '
                            'of epoch %d was flushed before epoch %d, which '
                            'is there as well, or is itself to be there'
                            % (what, b, got[0], least[0], newest))
        return newest, sum(1 for epoch, _ in found if epoch == newest)

    def save(self, path):
        with open(path, 'w') as f:
            json.dump([self.blocks, self.flushed, self.writes], f)

    @staticmethod
    def load(path):
        with open(path) as f:
            blocks, flushed, writes = json.load(f)
        h = History(blocks, [[tuple(w) for w in ws] for ws in writes])
        h.flushed = flushed
        return h


class Writer(threading.Thread):
    def __init__(self, options):
        import nbd
        threading.Thread.__init__(self, daemon=True)
        self.o = options
        self.rng = random.Random(options.seed)
        self.h = nbd.NBD()
        self.h.connect_uri(options.uri)
        self.history = History(self.h.get_size() // BLOCK)
        self.trouble = None

    def run(self):
        try:
            number = 0
            for epoch in range(1, self.o.epochs + 1):
                for _ in range(self.rng.randint(1, 12)):
                    number += 1
                    # Some blocks are hot.
                    b = self.rng.randrange(
                        self.rng.choice((8, self.history.blocks)))
                    self.history.add(b, epoch, number)
                    self.h.pwrite(content(b, epoch, number), b * BLOCK)
                self.h.flush()
                self.history.flushed = epoch
        except Exception as e:
            self.trouble = e


def write_killed(o):
    writer = Writer(o)
    print('writing', flush=True)
    writer.run()
    if not writer.trouble:
        raise Wrong('it was not killed')
    writer.history.save(o.history)


def write(o):
    import rados
    import rbd
    pool, name = o.image.split('/')
    cluster = rados.Rados(conffile=o.conf)
    cluster.connect(timeout=30)
    io = cluster.open_ioctx(pool)
    writer = Writer(o)
    history = writer.history
    snapshots = []
    rng = random.Random(o.seed)
    with rbd.Image(io, name) as image:
        writer.start()
        # Some while it writes, some after that: then write-back still lags.
        for i in range(8):
            time.sleep(0.05 + 0.25 * rng.random())
            image.create_snap('s%d' % i)
            snapshots.append('s%d' % i)
        writer.join(60)
        if writer.is_alive():
            raise Wrong('the writer hangs')
        if writer.trouble:
            raise writer.trouble
    middle = set()
    for s in snapshots:
        with rbd.Image(io, name, snapshot=s, read_only=True) as image:
            data = image.read(0, image.size())
        epoch, blocks = history.judge(data, 'snapshot ' + s)
        print('snapshot %s: %d epochs of %d, and %d blocks of the next'
              % (s, max(0, epoch - 1), o.epochs, blocks))
        if 0 < epoch < o.epochs:
            middle.add(epoch)
    if len(middle) < 2:
        raise Wrong('the snapshots came too early or too late to show anything')


def check(o):
    with open(o.exported, 'rb') as f:
        data = f.read()
    history = History.load(o.history)
    epoch, blocks = history.judge(data, o.exported,
                                  history.flushed if o.flushed else 0)
    print('%s: %d epochs of %d, and %d blocks of the next'
          % (o.exported, max(0, epoch - 1), history.flushed, blocks))


def main():
    p = argparse.ArgumentParser()
    p.add_argument('action', choices=('write', 'check'))
    p.add_argument('--conf')
    p.add_argument('--image')
    p.add_argument('--uri')
    p.add_argument('--seed', type=int)
    p.add_argument('--epochs', type=int, default=1 << 30)
    p.add_argument('--history')
    p.add_argument('--killed', action='store_true')
    p.add_argument('--flushed', action='store_true')
    p.add_argument('exported', nargs='?')
    o = p.parse_args()
    try:
        if o.action == 'check':
            check(o)
        elif o.killed:
            write_killed(o)
        else:
            write(o)
    except Wrong as e:
        print(e)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

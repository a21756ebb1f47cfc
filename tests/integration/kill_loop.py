# SPDX-License-Identifier: BSD-3-Clause

"""Write, kill -9 at a random moment, restart, look at everything; again.

  kill_loop.py --seed N --rounds N --disk PATH [--at-end COMMAND]
               -- NBDKIT ARGUMENT...

Each unit of the disk holds its own number and a counter that grows with every
write to it, or zeros.  So of each unit that is read it can be said which
write it came from, and that must be, promise P2,

  while the server lives   none older than the last one acknowledged before
                           the read was sent;
  after a kill             none older than the last one that was flushed, or
                           had FUA; and what was found then stays.

Writers have a connection each, and parts of the disk of their own, so the
writes to a unit have an order; any of them flushes for all.  A reader looks
everywhere.  After the last round the server ends well, and the disk must
hold what it served.  Where the disk is no file, COMMAND then makes one of it;
before, PATH is only as large."""

import argparse
import array
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

import nbd

UNIT = 1024
STRIPE = 64                     # units that belong to one writer
WRITERS = 3


class Wrong(Exception):
    pass


class History:
    """What each unit may hold.  Counters, 0 for the time before."""

    def __init__(self, units):
        self.units = units
        self.counter = itertools.count(1)
        self.issued = array.array('Q', bytes(8 * units))
        self.acked = array.array('Q', bytes(8 * units))
        self.durable = array.array('Q', bytes(8 * units))
        # Which of a unit's counters were zeros.
        self.zeros = [[0] for _ in range(units)]
        self.log = []           # (first, last, counter), as acknowledged
        self.flushed = 0        # how many of them are in durable
        self.lock = threading.Lock()

    def issue(self, first, last, zero):
        c = next(self.counter)
        for u in range(first, last):
            self.issued[u] = c
            if zero:
                self.zeros[u].append(c)
        return c

    def ack(self, first, last, c, fua):
        for u in range(first, last):
            self.acked[u] = c
            if fua:
                self.durable[u] = c
        self.log.append((first, last, c))

    def flush_begins(self):
        return len(self.log)

    def flush_ended(self, mark):
        with self.lock:
            for first, last, c in self.log[self.flushed:mark]:
                for u in range(first, last):
                    if self.durable[u] < c:
                        self.durable[u] = c
            self.flushed = max(self.flushed, mark)

    def check(self, first, data, least):
        """LEAST: the oldest counter allowed, for each unit.  Returns the
        counters found."""
        found = []
        for i in range(len(data) // UNIT):
            u = first + i
            unit = data[i * UNIT:(i + 1) * UNIT]
            number, c = struct.unpack_from('<QQ', unit)
            if number == 0 and c == 0:
                fits = [z for z in self.zeros[u] if z >= least[i]]
                if not fits or unit.count(0) != UNIT:
                    raise Wrong('unit %d is zeros, expected a write from %d '
                                'to %d' % (u, least[i], self.issued[u]))
                c = max(fits)
            else:
                if number != u + 1 or unit != unit[:16] * (UNIT // 16):
                    raise Wrong('unit %d has not one write of it: %r...'
                                % (u, unit[:16]))
                if not least[i] <= c <= self.issued[u] or c in self.zeros[u]:
                    raise Wrong('unit %d has write %d, expected from %d to %d'
                                % (u, c, least[i], self.issued[u]))
            found.append(c)
        return found

    def settle(self, first, found):
        """After a restart this is what is there."""
        for u, c in enumerate(found, first):
            if c in self.zeros[u]:
                self.zeros[u] = [c]
            else:
                self.zeros[u] = []
            self.issued[u] = self.acked[u] = self.durable[u] = c

    def settled(self):
        self.log.clear()
        self.flushed = 0


class Loop:
    def __init__(self, options):
        self.o = options
        self.rng = random.Random(options.seed)
        size = os.path.getsize(options.disk)
        self.history = History(size // UNIT)
        self.server = None
        self.trouble = None
        self.stopping = False
        self.kills = self.kills_loaded = self.writes = self.flushes = 0

    def connect(self):
        h = nbd.NBD()
        h.connect_unix('loop.sock')
        return h

    # The server.

    def launch(self, extra):
        for name in 'loop.sock', 'loop.pid':
            if os.path.exists(name):
                os.unlink(name)
        self.log = open('loop.log', 'a')
        self.server = subprocess.Popen(
            self.o.command[:1] + ['-f', '-U', 'loop.sock', '-P', 'loop.pid']
            + self.o.command[1:] + extra,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def is_ready(self):
        try:
            return os.path.getsize('loop.pid') > 0
        except OSError:
            return False

    def wait_ready(self):
        until = time.monotonic() + 60
        while not self.is_ready():
            if self.server.poll() is not None:
                raise Wrong('nbdkit did not start: exit code %d'
                            % self.server.returncode)
            if time.monotonic() > until:
                raise Wrong('nbdkit is not ready')
            time.sleep(0.005)

    def kill(self):
        self.stopping = True    # from here on errors are to be expected
        self.server.kill()
        self.server.wait()
        self.kills += 1

    # Clients.

    def client(self, work, rng):
        try:
            h = self.connect()
            while not self.stopping:
                work(h, rng)
        except nbd.Error as e:
            if not self.stopping:
                self.trouble = Wrong(e.string)
        except Wrong as e:
            self.trouble = e
            self.stopping = True

    def write(self, number):
        def work(h, rng):
            hist = self.history
            stripes = hist.units // STRIPE
            first = STRIPE * rng.randrange(number, stripes, WRITERS)
            # Some places are hot.
            if rng.random() < 0.3:
                first = first % (40 * STRIPE * WRITERS)
                if first // STRIPE % WRITERS != number:
                    return
            a = first + rng.randrange(STRIPE)
            b = min(first + STRIPE,
                    a + rng.choice((1, 1, 2, 3, 4, 4, 8, 16, 64)))
            fua = rng.random() < 0.08
            flags = nbd.CMD_FLAG_FUA if fua else 0
            op = rng.random()
            zero = op < 0.12
            c = hist.issue(a, b, zero)
            if op < 0.08:
                h.zero((b - a) * UNIT, a * UNIT, flags)
            elif zero:
                h.trim((b - a) * UNIT, a * UNIT, flags)
            else:
                h.pwrite(b''.join(struct.pack('<QQ', u + 1, c) * (UNIT // 16)
                                  for u in range(a, b)), a * UNIT, flags)
            hist.ack(a, b, c, fua)
            self.writes += 1
            if rng.random() < 0.02:
                mark = hist.flush_begins()
                h.flush()
                hist.flush_ended(mark)
                self.flushes += 1
        return work

    def read(self, h, rng):
        hist = self.history
        first = rng.randrange(hist.units)
        last = min(hist.units, first + rng.choice((1, 8, 64)))
        least = hist.acked[first:last]
        hist.check(first, h.pread((last - first) * UNIT, first * UNIT), least)

    def load(self, seconds):
        self.stopping = False
        threads = []
        for work in [self.write(i) for i in range(WRITERS)] + [self.read]:
            t = threading.Thread(
                target=self.client,
                args=(work, random.Random(self.rng.random())))
            t.start()
            threads.append(t)
        time.sleep(seconds)
        return threads

    def end_load(self, threads):
        for t in threads:
            t.join(60)
            if t.is_alive():
                raise Wrong('a client hangs')
        if self.trouble:
            raise self.trouble

    # After a restart.

    def verify(self, settle=True):
        hist = self.history
        h = self.connect()
        step = 1024
        order = list(range(0, hist.units, step))
        self.rng.shuffle(order)
        for first in order:
            last = min(first + step, hist.units)
            found = hist.check(
                first, h.pread((last - first) * UNIT, first * UNIT),
                hist.durable[first:last])
            if settle:
                hist.settle(first, found)
        if settle:
            hist.settled()
        h.shutdown()

    def round(self):
        rng = self.rng
        extra = ['pcache-writeback-delay=' + rng.choice(('0', '30ms', '1', '10')),
                 'pcache-writeback-threads=%d' % rng.choice((1, 4)),
                 'pcache-on-exit=' + rng.choice(('drain', 'keep'))]
        self.launch(extra)
        # Sometimes while it replays, or just when it begins to serve.
        while rng.random() < 0.25:
            time.sleep(rng.random() * 0.06)
            self.kill()
            self.launch(extra)
        self.wait_ready()
        if rng.random() < 0.8:
            self.verify()
            threads = self.load(rng.random() * 0.5)
            self.kills_loaded += 1
        else:
            # Killed without a look: it may get no older in between.
            threads = []
            h = self.connect()
            h.pread(UNIT, 0)
            time.sleep(rng.random() * 0.1)
        if rng.random() < 0.2:
            # While it drains, or keeps.
            self.stopping = True
            self.server.send_signal(signal.SIGTERM)
            time.sleep(rng.random() * 0.1)
        self.kill()
        self.end_load(threads)

    def run(self):
        for i in range(self.o.rounds):
            self.number = i
            self.round()
        self.launch([])
        self.wait_ready()
        self.verify()
        self.end_load(self.finish_quietly())
        self.server.terminate()
        if self.server.wait(60) != 0:
            raise Wrong('nbdkit ended with exit code %d'
                        % self.server.returncode)
        if self.o.at_end:
            subprocess.run(self.o.at_end, shell=True, check=True)
        # Nothing was lost without a kill, and the disk has it all.
        data = open(self.o.disk, 'rb').read()
        self.history.check(0, data, self.history.acked)
        print('%d kills, %d of them under load; %d writes, %d flushes'
              % (self.kills, self.kills_loaded, self.writes, self.flushes))

    def finish_quietly(self):
        threads = self.load(0.3)
        self.stopping = True
        return threads


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, required=True)
    p.add_argument('--rounds', type=int, required=True)
    p.add_argument('--disk', required=True)
    p.add_argument('--at-end')
    p.add_argument('command', nargs='+')
    loop = Loop(p.parse_args())
    loop.number = 0
    try:
        loop.run()
    except (Wrong, nbd.Error) as e:
        print('round %d: %s' % (loop.number, e))
        try:
            print('nbdkit: exit code %d' % loop.server.wait(1))
        except subprocess.TimeoutExpired:
            print('nbdkit still runs')
        return 1
    finally:
        if loop.server and loop.server.poll() is None:
            loop.server.kill()
            loop.server.wait()
    return 0


if __name__ == '__main__':
    sys.exit(main())

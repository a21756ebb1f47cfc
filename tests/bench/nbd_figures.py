# SPDX-License-Identifier: BSD-3-Clause

"""Figures with nbdkit: fio's nbd engine, or nbdcopy, over a unix socket.

Each is a ratio of requests a second.  Both servers of a figure run all the
time and are loaded in turn, A B A B.  All of both disks was written before.  fio
has one connection (one thread of its own), the servers nbdkit's default of 16
threads.

The cache has default settings: data checksums, write-back in strict order
after 5 seconds, eviction from 70 percent.  It lies over the file plugin, and
the file on the disk of TMPDIR.  A round of pairs takes less than those 5
seconds, and before it all is written back, outside of the time: else what the
measured side left dirty would be written back while the reference is measured,
on the same processors.  So what is compared is what a client waits for, not
what write-back costs later; nbd-writeback (no target) has it going all the
time.

The cache device is a file in /dev/shm taken for persistent memory
(PMEM_IS_PMEM_FORCE=1), for nbd-fsync-file an ordinary file on the disk.

fio takes about as much processor time a request as a server (results.json has
both, in microseconds), so with two processors a server that needed twice the time
would not show as half as fast.  The ratio of the servers' own processor time
hides nothing: it is printed as FIGURE <name>-server-cpu, less is better."""

import os
import shutil
import statistics
import tempfile

from nbd_stand import (BenchError, Server, Side, fill, fio, fio_options,
                       nbdcopy)

MIB = 1 << 20
DELAY = "5ms"


class Sizes:
    """A server is loaded for SECONDS at a time.  A round, before which all is
    written back, has so many pairs.  The rest is MiB.  IN_TURN: else at once,
    which is no measurement."""

    def __init__(self, rounds, pairs_of_round, seconds, disk, cache, copy,
                 copy_cache, in_turn=True):
        self.rounds, self.pairs_of_round = rounds, pairs_of_round
        self.seconds = seconds
        self.disk, self.cache = disk * MIB, cache * MIB
        self.copy, self.copy_cache = copy * MIB, copy_cache * MIB
        self.in_turn = in_turn


# fio starts one each 0.3 s at best, if it takes less than 0.1.
SIZES = {
    "full": Sizes(7, 1, 1.0, 256, 2048, 1024, 3072),
    "quick": Sizes(1, 5, 0.07, 64, 512, 64, 512),
    "smoke": Sizes(1, 1, 0.01, 4, 128, 4, 128, in_turn=False),
}


def memory(bench, size):
    """The plugin that does least."""
    return Server(bench.tools, bench.scratch, bench.new_name("memory"),
                  ["memory", str(size)])


def plain_file(bench, size):
    return Server(bench.tools, bench.scratch, bench.new_name("file"),
                  ["file", bench.new_disk(size)])


def overlay(which):
    """nbdkit's own filters keep what is written in a file of theirs: in
    memory here, as our cache device is."""
    def make(bench, size):
        arguments = ["--filter=" + which, "file", bench.new_disk(size)]
        if which == "cache":
            arguments.append("cache=writeback")
        return Server(bench.tools, bench.scratch, bench.new_name(which),
                      arguments, overlays=bench.memory)
    return make


def pcache(pmem=True, filters=(), parameters=()):
    """What is still dirty at the end goes with the files."""
    def make(bench, size):
        name = bench.new_name("pcache")
        device = os.path.join(bench.memory if pmem else bench.scratch,
                              name + ".device")
        cache = (bench.sizes.copy_cache if size == bench.sizes.copy
                 else bench.sizes.cache)
        return Server(
            bench.tools, bench.scratch, name,
            ["--filter=pcache", *("--filter=" + f for f in filters), "file",
             bench.new_disk(size), "pmem=" + device, "pmem-size=%d" % cache,
             "pcache-on-exit=keep", *parameters],
            control=True, pmem=pmem)
    return make


over_file = pcache()
on_disk = pcache(pmem=False)
over_slow = pcache(filters=["delay"],
                   parameters=["delay-read=" + DELAY, "delay-write=" + DELAY])
# Dirty data is written back at once, so always.
busy = pcache(parameters=["pcache-writeback-delay=0"])
cache_filter = overlay("cache")
cow_filter = overlay("cow")


class Bench:
    """Where the figures are measured.  TOOLS: paths of programs."""

    def __init__(self, tools, mode):
        self.tools = tools
        self.sizes = SIZES[mode]
        self.servers = {}       # (maker, size): Server
        self.names = 0
        self.scratch = self.memory = None

    def __enter__(self):
        self.scratch = tempfile.mkdtemp(prefix="pcache-bench.")
        self.memory = tempfile.mkdtemp(prefix="pcache-bench.", dir="/dev/shm")
        return self

    def __exit__(self, *exception):
        try:
            self.use([], 0)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
            shutil.rmtree(self.memory, ignore_errors=True)

    def new_name(self, kind):
        self.names += 1
        return "%s-%d" % (kind, self.names)

    def new_disk(self, size):
        path = os.path.join(self.scratch, self.new_name("disk"))
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def use(self, makers, size):
        """Servers made by MAKERS, their disks filled; others are ended."""
        wanted = [(maker, size) for maker in makers]
        for key in [key for key in self.servers if key not in wanted]:
            self.servers.pop(key).end()
        if not self.servers:
            self.clear()
        new = [key for key in wanted if key not in self.servers]
        for key in new:
            self.servers[key] = key[0](self, size)
        if new:
            fill(self.tools, [self.servers[key] for key in new], size)
        return [self.servers[key] for key in wanted]

    def clear(self):
        for directory in (self.scratch, self.memory):
            for name in os.listdir(directory):
                os.unlink(os.path.join(directory, name))


class Figure:
    """One of them: what is compared, and how it is loaded (PATTERN, DEPTH and
    EXTRA are fio's).  QUICK: also when there is little time."""

    size = "disk"

    def __init__(self, name, target, about, reference, measured, pattern=None,
                 depth=None, extra=(), quick=True):
        self.name, self.target, self.about = name, target, about
        self.reference, self.measured = reference, measured
        self.pattern, self.depth, self.extra = pattern, depth, extra
        self.quick = quick

    def run(self, bench):
        """The result, in the form of run-bench."""
        servers = bench.use([self.reference, self.measured],
                            getattr(bench.sizes, self.size))
        sides = [Side(server) for server in servers]
        for _ in range(bench.sizes.rounds):
            for server in servers:
                server.drain()
            self.load(bench, sides)
        return self.result(*sides)

    def load(self, bench, sides):
        fio(bench.tools, sides,
            fio_options(bench.sizes.disk, self.pattern, self.depth, self.extra),
            bench.sizes.seconds, bench.sizes.pairs_of_round,
            bench.sizes.in_turn)

    def result(self, reference, measured):
        ratios = [m / r for m, r in zip(measured.speeds, reference.speeds)]
        figure = {
            "name": self.name, "about": self.about,
            "median": statistics.median(ratios),
            "min": min(ratios), "max": max(ratios),
            "higher_is_better": True, "unit": "requests/s",
            "reference": reference.speeds, "measured": measured.speeds,
            "reference_us": {"server": reference.server_us(),
                             "client": reference.client_us()},
            "measured_us": {"server": measured.server_us(),
                            "client": measured.client_us()},
        }
        if self.target:
            figure["target"] = self.target
        return figure


class Copy(Figure):
    """nbdcopy of a file in memory, with its 4 connections, and a flush."""

    size = "copy"

    def load(self, bench, sides):
        source = os.path.join(bench.memory, "source")
        if not os.path.exists(source):
            with open(source, "wb") as f:
                for _ in range(bench.sizes.copy // MIB):
                    f.write(os.urandom(MIB))
        for _ in range(bench.sizes.pairs_of_round):
            for side in sides:
                nbdcopy(bench.tools, side, source)


# Those with the same servers one after the other.
FIGURES = [
    Figure("nbd-randwrite-4k-qd16", 0.95,
           "random 4K writes, depth 16 / memory plugin",
           memory, over_file, "randwrite", 16),
    Figure("nbd-randread-4k-qd16", 0.95,
           "random 4K hits, depth 16 / memory plugin",
           memory, over_file, "randread", 16),
    Figure("nbd-qd1", 0.95,
           "random 4K writes and as many hits, depth 1 / memory plugin",
           memory, over_file, "randrw", 1, ["--rwmixread=50"]),
    Copy("nbd-copy", 0.85, "nbdcopy in and flush / memory plugin",
         memory, over_file),
    Figure("nbd-vs-cow", 3.0,
           "random 4K writes, depth 16 / filter cow over the same file",
           cow_filter, over_file, "randwrite", 16),
    Figure("nbd-vs-cache", 3.0,
           "random 4K writes, depth 16 / filter cache over the same file",
           cache_filter, over_file, "randwrite", 16),
    # What a filter would reach that took no time.
    Figure("nbd-memory-vs-cow", None,
           "random 4K writes, depth 16, memory plugin / filter cow",
           cow_filter, memory, "randwrite", 16, quick=False),
    Figure("nbd-memory-vs-cache", None,
           "random 4K writes, depth 16, memory plugin / filter cache",
           cache_filter, memory, "randwrite", 16, quick=False),
    Figure("nbd-fsync-pmem", 3.0,
           "random 4K write + fsync, device in memory / file plugin on disk",
           plain_file, over_file, "randwrite", 1, ["--fsync=1"]),
    Figure("nbd-fsync-file", 1.0,
           "random 4K write + fsync, device a file on disk / file plugin there",
           plain_file, on_disk, "randwrite", 1, ["--fsync=1"]),
    Figure("nbd-slow", 0.90,
           "4K writes and re-reads, depth 16, plugin delayed by %s / memory "
           "plugin" % DELAY,
           memory, over_slow, "randrw", 16, ["--rwmixread=50"]),
    Figure("nbd-writeback", None,
           "random 4K writes, depth 16, written back at once / memory plugin",
           memory, busy, "randwrite", 16, quick=False),
]


def missing(tools):
    """What is not there, in words, or None."""
    absent = [name for name in ("fio", "nbdcopy", "nbdkit", "pcachectl")
              if not shutil.which(getattr(tools, name))]
    if not absent:
        return None
    return "%s not found (Debian: fio, libnbd-bin)" % ", ".join(absent)


def names(mode):
    return [figure.name for figure in FIGURES
            if mode == "full" or figure.quick]


def measure(tools, mode, wanted):
    """Yield the results of those of the figures that are WANTED."""
    with Bench(tools, mode) as bench:
        for figure in FIGURES:
            if figure.name in wanted:
                yield figure.run(bench)


__all__ = ["BenchError", "measure", "missing", "names"]

# SPDX-License-Identifier: BSD-3-Clause

"""Servers to measure, and clients that load them.

A server listens on a unix socket before its nbdkit runs (systemd's socket
activation), so a client that connects waits for it and nobody has to ask
whether it is ready.  It ends with the benchmark, however that ends."""

import json
import os
import socket
import subprocess
import time

START_SECONDS = 120             # a cache device is fully written at first
END_SECONDS = 120
DRAIN_SECONDS = 300


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


def run(command, seconds, log):
    """Output of COMMAND, which must succeed.  LOG: of the server it used."""
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                timeout=seconds, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError("not done within %d s: %s%s" % (
            seconds, " ".join(command), tail(log))) from None
    if result.returncode != 0:
        raise BenchError("%s failed: %s%s" % (
            command[0], (result.stderr or result.stdout).strip()[-2000:],
            tail(log)))
    return result.stdout


def tail(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            text = f.read()[-2000:].strip()
    except OSError:
        return ""
    return "\nthe server said:\n" + text if text else ""


class Server:
    """An nbdkit.  CONTROL: its cache's control socket, or None.  PMEM: take
    the cache device for persistent memory, wherever it lies."""

    def __init__(self, tools, directory, name, arguments, control=False,
                 pmem=False, overlays=None):
        self.tools = tools
        self.name = name
        self.socket = os.path.join(directory, name + ".sock")
        self.log = os.path.join(directory, name + ".log")
        self.control = (os.path.join(directory, name + ".control")
                        if control else None)
        env = dict(os.environ, LC_ALL="C", LISTEN_FDS="1")
        env.pop("PMEM_IS_PMEM_FORCE", None)
        if pmem:
            env["PMEM_IS_PMEM_FORCE"] = "1"
        if overlays:            # of the filters cache and cow
            env["TMPDIR"] = overlays
        if control:
            arguments = arguments + ["pcache-control=" + self.control]
        with socket.socket(socket.AF_UNIX) as listener, \
                open(self.log, "wb") as log:
            listener.bind(self.socket)
            listener.listen(16)
            self.process = subprocess.Popen(
                ["bash", "-c",
                 'exec 3<&"$0"; export LISTEN_PID=$$; exec "$@"',
                 str(listener.fileno()), tools.nbdkit, "--exit-with-parent"]
                + arguments, env=env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, pass_fds=[listener.fileno()])

    @property
    def uri(self):
        return "nbd+unix:///?socket=" + self.socket

    def cpu_seconds(self):
        """User and system time of all its threads."""
        with open("/proc/%d/stat" % self.process.pid, encoding="ascii") as f:
            fields = f.read().rpartition(")")[2].split()
        return ((int(fields[11]) + int(fields[12]))
                / os.sysconf("SC_CLK_TCK"))

    def drain(self):
        """Write back all that is dirty, for a cache."""
        if self.control:
            run([self.tools.pcachectl, "drain", "--quiet", self.control],
                DRAIN_SECONDS, self.log)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        os.unlink(self.socket)


class Side:
    """What a server did when it was loaded: a speed for each time, and the
    processor time of all."""

    def __init__(self, server):
        self.server = server
        self.speeds = []
        self.requests = 0
        self.server_seconds = self.client_seconds = 0.0

    def add(self, requests, seconds, client_seconds):
        self.speeds.append(requests / seconds)
        self.requests += requests
        self.client_seconds += client_seconds

    def server_us(self):
        return 1e6 * self.server_seconds / self.requests

    def client_us(self):
        return 1e6 * self.client_seconds / self.requests


def fio_options(size, pattern, depth, extra=()):
    return ["--ioengine=nbd", "--thread=1", "--bs=4k", "--randrepeat=0",
            "--norandommap=1", "--size=%d" % size, "--rw=" + pattern,
            "--iodepth=%d" % depth, *extra]


def fio(tools, sides, options, seconds=None, times=1, in_turn=True):
    """Load SIDES, one after the other or at once, so many TIMES, and note how
    fast they were, in requests a second.  All in one process: starting one takes
    longer than a short time of load."""
    sequence = sides * times
    command = [tools.fio, "--output-format=json"]
    for side in sequence:
        command += ["--name=" + side.server.name, *options,
                    "--uri=" + side.server.uri]
        if in_turn:
            command.append("--stonewall")
        if seconds:
            command += ["--time_based=1", "--runtime=%dms" % (1000 * seconds)]
    log = sides[-1].server.log
    for side in sides:
        side.server_seconds -= side.server.cpu_seconds()
    output = run(command, START_SECONDS + len(sequence) * (seconds or 0), log)
    for side in sides:
        side.server_seconds += side.server.cpu_seconds()
    jobs = json.loads(output[output.index("{"):])["jobs"]
    for side, job in zip(sequence, jobs):
        elapsed = max(job[kind]["runtime"] for kind in ("read", "write")) / 1e3
        requests = sum(job[kind]["total_ios"] for kind in ("read", "write"))
        if job["error"] or not requests:
            raise BenchError("fio failed (error %d) with %s%s" % (
                job["error"], side.server.name, tail(side.server.log)))
        side.add(requests, elapsed,
                 (job["usr_cpu"] + job["sys_cpu"]) / 100 * elapsed)


def fill(tools, servers, size):
    """Write all of the disks, by 4 KiB: a cache then has it in pieces as large
    as those that will be read, and a plugin has all its memory or blocks."""
    fio(tools, [Side(server) for server in servers],
        fio_options(size, "write", 16, ["--end_fsync=1"]), in_turn=False)


def nbdcopy(tools, side, source):
    """Copy SOURCE in, and flush; note how fast it was, in requests of 4 KiB a
    second, to be comparable."""
    requests = os.path.getsize(source) / 4096
    side.server_seconds -= side.server.cpu_seconds()
    begin = time.monotonic()
    run([tools.nbdcopy, "--flush", source, side.server.uri], START_SECONDS,
        side.server.log)
    side.add(requests, time.monotonic() - begin, 0)
    side.server_seconds += side.server.cpu_seconds()

# SPDX-License-Identifier: BSD-3-Clause

# A plugin that is as poor, as picky or as unreliable as its parameters say, for
# nbdkit's python plugin.  Its disk is the file disk.img, and what it cannot bear
# is written to the file complaints.
#
#   model=NAME     thread model: serialize_all_requests if not given
#   can=WORDS      of write, flush, trim, zero, fua, fua-emulate, extents,
#                  multi_conn, fast_zero, cache; separated by commas
#   minimum=N      block size; complains of anything that is not so aligned
#   maximum=N      of reads and writes
#   fail=PERCENT   of all calls; a write that fails has done half of its work,
#                  or all of it

import builtins
import errno
import os
import random
import threading

import nbdkit

API_VERSION = 2
parameters = {"model": "serialize_all_requests", "can": "write,flush",
              "minimum": "1", "maximum": "0", "fail": "0"}
busy = threading.Lock()
calls = random.Random(1)


def config(key, value):
    if key not in parameters:
        raise RuntimeError("unknown parameter %s" % key)
    parameters[key] = value


def can(what):
    return what in parameters["can"].split(",")


def thread_model():
    return getattr(nbdkit, "THREAD_MODEL_" + parameters["model"].upper())


def complain(text):
    with builtins.open(where + "/complaints", "a") as f:
        f.write(text + "\n")


where = os.getcwd()


def open(readonly):
    return os.open(where + "/disk.img", os.O_RDWR)


def close(h):
    os.close(h)


def get_size(h):
    return os.fstat(h).st_size


def block_size(h):
    n = int(parameters["minimum"])
    return (n, max(n, 4096), int(parameters["maximum"]) or 0xffffffff)


def can_write(h):
    return can("write")


def can_flush(h):
    return can("flush")


def can_trim(h):
    return can("trim")


def can_zero(h):
    return can("zero")


def can_fast_zero(h):
    return can("fast_zero")


def can_extents(h):
    return can("extents")


def can_multi_conn(h):
    return can("multi_conn")


def can_fua(h):
    return (nbdkit.FUA_NATIVE if can("fua") else
            nbdkit.FUA_EMULATE if can("fua-emulate") else nbdkit.FUA_NONE)


def can_cache(h):
    return nbdkit.CACHE_NATIVE if can("cache") else nbdkit.CACHE_NONE


class Call:
    """One at a time, aligned, and some of them fail."""

    def __init__(self, h, what, length, offset, limited=False):
        self.what = what
        n, most = int(parameters["minimum"]), int(parameters["maximum"])
        if offset % n or (length % n and offset + length != get_size(h)) \
           or limited and most and length > most:
            complain("%s of %d at %d" % (what, length, offset))

    def __enter__(self):
        if not busy.acquire(blocking=False):
            complain("%s overlaps" % self.what)

    def __exit__(self, *unused):
        if busy.locked():
            busy.release()


def fails(h=None, data=b"", offset=0):
    if calls.random() * 100 >= int(parameters["fail"]):
        return
    os.pwrite(h, data[:len(data) // calls.choice((1, 2))], offset) \
        if data else None
    # Some say why, some do not.
    if calls.random() < 0.5:
        nbdkit.set_error(calls.choice((errno.EIO, errno.ENOSPC, errno.ENOTSUP,
                                       errno.EAGAIN)))
    raise RuntimeError("as asked")


def pread(h, buf, offset, flags):
    with Call(h, "read", len(buf), offset, True):
        fails()
        buf[:] = os.pread(h, len(buf), offset)


def pwrite(h, buf, offset, flags):
    with Call(h, "write", len(buf), offset, True):
        fails(h, bytes(buf), offset)
        os.pwrite(h, buf, offset)


def zero(h, count, offset, flags):
    with Call(h, "zero", count, offset):
        fails(h, bytes(count), offset)
        os.pwrite(h, bytes(count), offset)


def trim(h, count, offset, flags):
    with Call(h, "trim", count, offset):
        fails()
        # Nobody may rely on what it holds.
        os.pwrite(h, b"\xe5" * count, offset)


def flush(h, flags):
    with Call(h, "flush", 0, 0):
        fails()


def cache(h, count, offset, flags):
    with Call(h, "cache", count, offset):
        fails()


def extents(h, count, offset, flags):
    with Call(h, "extents", count, offset):
        return [(offset, count, 0)]

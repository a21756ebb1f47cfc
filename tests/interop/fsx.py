# SPDX-License-Identifier: BSD-3-Clause

"""Everything that can be done to one file, at random, with each read compared
with what must be there: the idea of fsx, which Debian does not have.

  fsx.py run   SEED COUNT FILE    COUNT operations; or, if that is no number,
                                  until there is a file of that name
  fsx.py crash SEED FILE STATE    until the disk goes away, not before it has
                                  said "ready"; STATE, on another disk, gets
                                  what must have outlived that
  fsx.py check FILE STATE         whether it has

An operation that the file system does not have is left out from then on.  In
a failure's message are the last operations, the newest last; the same SEED
does the same again.

After fsync the file is dropped from memory now and then, so that the next
reads are from the disk.

crash: bytes that nothing was done to since the last fsync that ended must be
as they were then."""

import collections
import ctypes
import errno
import fcntl
import mmap
import os
import random
import struct
import sys

MAX_SIZE = 3 << 20
MAX_LENGTH = 128 << 10
BLOCK = 4096
SHOWN = 60                      # operations in a failure's message

# <linux/falloc.h>, <linux/fs.h>
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
FICLONERANGE = 0x4020940d

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int,
                           ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, at, length):
    if libc.fallocate(fd, mode, at, length) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


class Wrong(Exception):
    pass


class File:
    """data: what must be in it.  touched: a byte that is not 0 for each byte
    of it that was changed since the last fsync; synced: what it was then."""

    def __init__(self, path, rng, mapped=True):
        self.path = path
        self.rng = rng
        self.data = bytearray()
        self.synced = None
        self.touched = bytearray()
        self.resized = False
        self.log = collections.deque(maxlen=SHOWN)
        self.count = 0
        self.operations = [
            (10, self.read), (8, self.read_direct),
            (14, self.write), (8, self.write_direct),
            (3, self.truncate), (3, self.allocate), (4, self.punch),
            (4, self.zero), (2, self.collapse), (2, self.insert),
            (3, self.copy), (3, self.clone),
            (4, self.sync), (1, self.reopen), (1, self.check)]
        # Where a mapped page cannot be read, the process gets a signal.
        if mapped:
            self.operations += [(8, self.map_read), (8, self.map_write)]
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, MAX_LENGTH)

    # Choices.

    def range(self, limit, align=1):
        """Part of [0, limit), not empty if that is not."""
        if limit < align:
            return 0, 0
        at = self.rng.randrange(limit // align) * align
        length = self.rng.choice((align, BLOCK, 16 * BLOCK, MAX_LENGTH))
        length = min(self.rng.randint(1, length), limit - at)
        if align > 1:
            length = max(length // align * align, align)
        return at, length

    def two_ranges(self, align=1):
        """Two places of one length that do not overlap, both in the file."""
        at, length = self.range(len(self.data), align)
        to, _ = self.range(len(self.data) - length + 1, align)
        length = min(length, abs(to - at)) // align * align
        return at, to, length

    # What is known.

    def say(self, text, *args):
        self.log.append('%d: ' % self.count + text % args)

    def touch(self, at, length=None):
        """length None: all that follows."""
        end = MAX_SIZE if length is None else at + length
        if len(self.touched) < MAX_SIZE:
            self.touched.extend(bytes(MAX_SIZE - len(self.touched)))
        self.touched[at:end] = b'\1' * (end - at)
        if length is None:
            self.resized = True

    def grow(self, size):
        if size > len(self.data):
            self.touch(len(self.data))
            self.data.extend(bytes(size - len(self.data)))

    def compare(self, got, at, how):
        want = self.data[at:at + len(got)]
        if got == want:
            return
        first = next(i for i, (a, b) in enumerate(zip(got, want)) if a != b) \
            if len(got) == len(want) else len(want)
        last = next((i for i in range(min(len(got), len(want)) - 1, -1, -1)
                     if got[i] != want[i]), first)
        raise Wrong('%s of %d + %d: bytes %d to %d are %s..., expected %s...'
                    % (how, at, len(got), at + first, at + last,
                       got[first:first + 16].hex(),
                       want[first:first + 16].hex()))

    def pread(self, at, length):
        got = b''
        while len(got) < length:
            more = os.pread(self.fd, length - len(got), at + len(got))
            if not more:
                raise Wrong('the file ends at %d, not at %d'
                            % (at + len(got), len(self.data)))
            got += more
        return got

    # Operations.

    def read(self):
        at, length = self.range(len(self.data))
        self.say('read %d + %d', at, length)
        self.compare(self.pread(at, length), at, 'read')

    def read_direct(self):
        at, length = self.range(len(self.data), BLOCK)
        self.say('read_direct %d + %d', at, length)
        got = os.preadv(self.direct, [memoryview(self.buffer)[:length]], at)
        if got != length:
            raise Wrong('read_direct got %d of %d' % (got, length))
        self.compare(self.buffer[:length], at, 'read_direct')

    def map_read(self):
        if not self.data:
            return
        at, length = self.range(len(self.data))
        self.say('map_read %d + %d', at, length)
        with mmap.mmap(self.fd, len(self.data), access=mmap.ACCESS_READ) as m:
            self.compare(m[at:at + length], at, 'map_read')

    def changed(self, at, data):
        self.grow(at + len(data))
        self.touch(at, len(data))
        self.data[at:at + len(data)] = data

    def write(self):
        at, length = self.range(MAX_SIZE)
        self.say('write %d + %d', at, length)
        data = self.rng.randbytes(length)
        self.changed(at, data)
        done = 0
        while done < length:
            done += os.pwrite(self.fd, data[done:], at + done)

    def write_direct(self):
        at, length = self.range(MAX_SIZE, BLOCK)
        self.say('write_direct %d + %d', at, length)
        self.buffer[:length] = self.rng.randbytes(length)
        self.changed(at, self.buffer[:length])
        if os.pwritev(self.direct,
                      [memoryview(self.buffer)[:length]], at) != length:
            raise Wrong('write_direct wrote less')

    def map_write(self):
        if not self.data:
            return
        at, length = self.range(len(self.data))
        flush = self.rng.random() < 0.3
        self.say('map_write %d + %d%s', at, length, ' msync' * flush)
        data = self.rng.randbytes(length)
        self.changed(at, data)
        with mmap.mmap(self.fd, len(self.data)) as m:
            m[at:at + length] = data
            if flush:
                m.flush()

    def truncate(self):
        size = self.rng.randrange(MAX_SIZE + 1)
        self.say('truncate %d to %d', len(self.data), size)
        self.grow(size)
        self.touch(size)
        del self.data[size:]
        os.ftruncate(self.fd, size)

    def allocate(self):
        at, length = self.range(MAX_SIZE)
        mode = self.rng.choice((0, KEEP_SIZE))
        self.say('allocate %d + %d mode %d', at, length, mode)
        self.resized = True
        fallocate(self.fd, mode, at, length)
        if mode == 0:
            self.grow(at + length)

    def zeros(self, mode, at, length):
        fallocate(self.fd, mode, at, length)
        if not mode & KEEP_SIZE:
            self.grow(at + length)
        length = min(length, max(len(self.data) - at, 0))
        self.data[at:at + length] = bytes(length)

    def punch(self):
        at, length = self.range(MAX_SIZE)
        self.say('punch %d + %d', at, length)
        self.touch(at, length)
        self.zeros(PUNCH_HOLE | KEEP_SIZE, at, length)

    def zero(self):
        at, length = self.range(MAX_SIZE)
        mode = ZERO | self.rng.choice((0, KEEP_SIZE))
        self.say('zero %d + %d mode %d', at, length, mode)
        self.touch(at, length)
        self.resized = True
        self.zeros(mode, at, length)

    def collapse(self):
        at, length = self.range(len(self.data) - 1, BLOCK)
        if length == 0 or at + length >= len(self.data):
            return
        self.say('collapse %d + %d', at, length)
        self.touch(at)
        fallocate(self.fd, COLLAPSE, at, length)
        del self.data[at:at + length]

    def insert(self):
        at, length = self.range(len(self.data) - 1, BLOCK)
        if length == 0 or len(self.data) + length > MAX_SIZE:
            return
        self.say('insert %d + %d', at, length)
        self.touch(at)
        fallocate(self.fd, INSERT, at, length)
        self.data[at:at] = bytes(length)

    def copy(self):
        at, to, length = self.two_ranges()
        self.say('copy %d + %d to %d', at, length, to)
        self.changed(to, self.data[at:at + length])
        while length > 0:
            n = os.copy_file_range(self.fd, self.fd, length, at, to)
            if n == 0:
                raise Wrong('nothing to copy')
            at, to, length = at + n, to + n, length - n

    def clone(self):
        at, to, length = self.two_ranges(BLOCK)
        if length == 0:
            return
        self.say('clone %d + %d to %d', at, length, to)
        self.touch(to, length)
        fcntl.ioctl(self.fd, FICLONERANGE,
                    struct.pack('qQQQ', self.fd, at, length, to))
        self.changed(to, self.data[at:at + length])

    def sync(self):
        how, drop = self.rng.choice(((os.fsync, True), (os.fsync, False),
                                     (os.fdatasync, True)))
        self.say('%s%s', how.__name__, ', drop' * drop)
        how(self.fd)
        self.synced = bytes(self.data)
        self.touched = bytearray()
        self.resized = False
        if drop:
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def reopen(self):
        self.say('reopen')
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def check(self):
        self.say('check all %d', len(self.data))
        if os.fstat(self.fd).st_size != len(self.data):
            raise Wrong('the size is %d, expected %d'
                        % (os.fstat(self.fd).st_size, len(self.data)))
        self.compare(self.pread(0, len(self.data)), 0, 'check')

    def step(self):
        self.count += 1
        weights = [weight for weight, _ in self.operations]
        chosen, = self.rng.choices(self.operations, weights)
        try:
            chosen[1]()
        except OSError as e:
            if e.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
                raise
            self.operations.remove(chosen)

    def end(self):
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self.check()


def failed(file, seed, e):
    sys.exit('%s\nseed %s, operation %d of %s: %s'
             % ('\n'.join(file.log), seed, file.count, file.path,
                e if isinstance(e, Wrong) else repr(e)))


def run(seed, count, path):
    file = File(path, random.Random(seed))
    try:
        while file.count < int(count) if count.isdigit() \
                else not os.path.exists(count):
            file.step()
        file.end()
    except (OSError, Wrong) as e:
        failed(file, seed, e)
    print('%s: %d operations' % (os.path.basename(path), file.count))


def crash(seed, path, state):
    file = File(path, random.Random(seed), mapped=False)
    try:
        file.sync()
        print('ready', flush=True)
        while True:
            file.step()
    except Wrong as e:
        failed(file, seed, e)
    except OSError as e:
        # The rest cannot be reached from here on, only by a new mount.
        with open(state, 'wb') as f:
            f.write(struct.pack('QQ?', len(file.synced), len(file.touched),
                                file.resized))
            f.write(file.synced)
            f.write(file.touched)
        print('%s: %d operations, then %s' % (os.path.basename(path),
                                              file.count, e.strerror))


def check(path, state):
    with open(state, 'rb') as f:
        size, touched_size, resized = struct.unpack('QQ?', f.read(17))
        synced = f.read(size)
        touched = f.read(touched_size)
    with open(path, 'rb') as f:
        data = f.read()
    if not resized and len(data) != size:
        sys.exit('%s: the size is %d, at the last fsync it was %d'
                 % (path, len(data), size))
    touched += bytes(max(size - len(touched), 0))
    same = 0
    for at in range(size):
        if touched[at]:
            continue
        if at >= len(data) or data[at] != synced[at]:
            sys.exit('%s: byte %d of %d is not what it was at the last fsync'
                     % (path, at, size))
        same += 1
    print('%s: %d of %d bytes must be as they were, and are'
          % (os.path.basename(path), same, size))


if __name__ == '__main__':
    {'run': run, 'crash': crash, 'check': check}[sys.argv[1]](*sys.argv[2:])

# SPDX-License-Identifier: BSD-3-Clause

"""Eight connections with 64 requests in flight on each, to one disk.

many_connections.py URI SEED STATE SECONDS [PID HOW]

A block of 4 KiB holds one tag, over and over; a tag is never used twice.  A
request does not touch what another one in flight writes, so every read has one
right answer: the last acknowledged write's, whichever connection that came
over.  A flush on one connection, once it has returned, covers what was
acknowledged on all of them before it was sent; FUA covers its own request.

With PID the server is killed after SECONDS: with all of them in flight (HOW is
busy), or right after all had been answered and one of the connections flushed
(flushed), or with some more under way after that (more).  STATE then has what each block may hold: the value that was last made durable, or any
that came after it.  If it is there at the start, the disk is checked against
it first.  Without PID all is flushed, and STATE.img is the disk.
"""

import json
import os
import random
import select
import signal
import sys
import time

import nbd

CONNECTIONS, DEPTH = 8, 64
BLOCK = 4096
MOST = 32                       # blocks in a request

uri, seed, state_name, seconds = sys.argv[1:5]
victim = int(sys.argv[5]) if len(sys.argv) > 5 else None
how = sys.argv[6] if victim else 'flushed'
rng = random.Random(int(seed))
handles = []
for _ in range(CONNECTIONS):
    h = nbd.NBD()
    h.connect_uri(uri)
    assert h.can_multi_conn()
    handles.append(h)
blocks = handles[0].get_size() // BLOCK

# Of each block: the tags written, oldest first, from the last durable one on;
# how many of them are acknowledged; what is in flight there (-1: a write).
history = [[0] for _ in range(blocks)]
acked = [1] * blocks
busy = [0] * blocks
next_tag = 1
counts = dict.fromkeys(('read', 'write', 'zero', 'trim', 'flush'), 0)


def wrong(text):
    sys.exit('%s (seed %s)' % (text, seed))


def content(tag):
    return tag.to_bytes(8, 'little') * (BLOCK // 8)


def tag_of(data, block):
    tag = int.from_bytes(data[:8], 'little')
    if data != content(tag):
        wrong('block %d is torn' % block)
    return tag


def load():
    """What the state allows, is what is there; and all see the same."""
    global next_tag
    with open(state_name) as f:
        state = json.load(f)
    next_tag = state['next_tag']
    newer = older = 0
    for first in range(0, blocks, 256):
        h = handles[first // 256 % CONNECTIONS]
        data = h.pread(256 * BLOCK, first * BLOCK)
        for b in range(first, first + 256):
            at = (b - first) * BLOCK
            tag = tag_of(data[at:at + BLOCK], b)
            allowed = state['allowed'][b]
            if tag not in allowed:
                wrong('block %d holds %d, which is none of %r' %
                      (b, tag, allowed))
            if len(allowed) > 1:
                newer += tag == allowed[-1]
                older += tag != allowed[-1]
            history[b] = [tag]
    print('of the blocks written after the last flush, %d have the last value,'
          ' %d an older one' % (newer, older))


def durable(b, kept):
    """The first kept of the tags, but for the last of them, are history."""
    drop = kept - 1
    if drop > 0:
        del history[b][:drop]
        acked[b] -= drop
        # Flushes under way count from the start of it.
        for flush in flushes:
            flush[b] = max(flush[b] - drop, 1)


flushes = []                    # under way: acked, as it was when it was sent


def issue(h):
    global next_tag
    op = rng.random()
    if op < 0.02:
        snapshot = acked[:]
        flushes.append(snapshot)

        def flushed(error):
            if error:
                if not dying:
                    wrong('flush: error %d' % error)
                return 1
            for b in range(blocks):
                durable(b, snapshot[b])
            # By identity: two may be equal.
            for i, other in enumerate(flushes):
                if other is snapshot:
                    del flushes[i]
                    break
            counts['flush'] += 1
            return 1
        h.aio_flush(flushed)
        return True
    count = min(rng.randint(1, MOST), rng.randint(1, MOST))
    # Some are written much more often than others.
    first = int(rng.random() ** 2 * (blocks - count))
    touched = range(first, first + count)
    if op < 0.45:
        if any(busy[b] < 0 for b in touched):
            return False
        want = [history[b][acked[b] - 1] for b in touched]
        buffer = nbd.Buffer(count * BLOCK)
        for b in touched:
            busy[b] += 1

        def was_read(error):
            if error:
                if not dying:
                    wrong('read: error %d' % error)
                return 1
            data = buffer.to_bytearray()
            for i, b in enumerate(touched):
                got = tag_of(data[i * BLOCK:(i + 1) * BLOCK], b)
                if got != want[i]:
                    wrong('block %d reads %d, not %d' % (b, got, want[i]))
                busy[b] -= 1
            counts['read'] += 1
            return 1
        h.aio_pread(buffer, first * BLOCK, was_read)
        return True

    if any(busy[b] for b in touched):
        return False
    kind = 'write' if op < 0.9 else 'zero' if op < 0.95 else 'trim'
    tag = 0
    if kind == 'write':
        tag = next_tag
        next_tag += 1
    for b in touched:
        busy[b] = -1
        history[b].append(tag)
    fua = rng.random() < fua_share

    def was_written(error):
        if error:
            if not dying:
                wrong('%s: error %d' % (kind, error))
            return 1
        for b in touched:
            busy[b] = 0
            acked[b] = len(history[b])
            if fua:
                durable(b, acked[b])
        counts[kind] += 1
        return 1
    flags = nbd.CMD_FLAG_FUA if fua else 0
    if kind == 'write':
        buffer = nbd.Buffer.from_bytearray(bytearray(content(tag) * count))
        h.aio_pwrite(buffer, first * BLOCK, was_written, flags)
    elif kind == 'zero':
        if rng.random() < 0.5:
            flags |= nbd.CMD_FLAG_NO_HOLE
        h.aio_zero(count * BLOCK, first * BLOCK, was_written, flags)
    else:
        h.aio_trim(count * BLOCK, first * BLOCK, was_written, flags)
    return True


def turn(wait):
    """Send and receive what can be."""
    poll = select.poll()
    by_fd = {}
    for h in handles:
        direction = h.aio_get_direction()
        events = 0
        if direction & nbd.AIO_DIRECTION_READ:
            events |= select.POLLIN
        if direction & nbd.AIO_DIRECTION_WRITE:
            events |= select.POLLOUT
        by_fd[h.aio_get_fd()] = h
        poll.register(h.aio_get_fd(), events)
    for fd, events in poll.poll(wait):
        h = by_fd[fd]
        # Not both for one event: the first may change what it waits for.
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            if h.aio_get_direction() & nbd.AIO_DIRECTION_READ:
                h.aio_notify_read()
        elif events & select.POLLOUT:
            if h.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
                h.aio_notify_write()


def work(seconds):
    global most
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for h in handles:
            for _ in range(DEPTH):
                if h.aio_in_flight() >= DEPTH:
                    break
                issue(h)
        most = max(most, sum(h.aio_in_flight() for h in handles))
        turn(1000)


def settle():
    """Have all answers, and a flush after them, on any one connection."""
    while any(h.aio_in_flight() for h in handles):
        turn(1000)
    rng.choice(handles).flush()
    for b in range(blocks):
        durable(b, acked[b])


dying = False
most = 0
# FUA makes more durable than itself: without a flush between, nothing would
# show what a flush does.
fua_share = 0 if how == 'flushed' else 0.05
if os.path.exists(state_name):
    load()
work(float(seconds))
if how != 'busy':
    settle()
if victim is None:
    with open(state_name + '.img', 'wb') as f:
        for b in range(blocks):
            f.write(content(history[b][-1]))
    for h in handles:
        h.shutdown()
else:
    if how == 'more':
        work(rng.random() * 0.02)
    dying = True
    os.kill(victim, signal.SIGKILL)
    with open(state_name, 'w') as f:
        json.dump({'next_tag': next_tag, 'allowed': history}, f)
print('%s; at most %d in flight' %
      (', '.join('%d %s' % (n, kind) for kind, n in counts.items()), most))
if victim is None and most < CONNECTIONS * DEPTH * 3 // 4:
    sys.exit('there should have been more')
# What is in flight has no answer to come.
sys.stdout.flush()
os._exit(0)

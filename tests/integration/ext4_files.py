# SPDX-License-Identifier: BSD-3-Clause

"""Write files and fsync them until the disk goes away; later say whether
what is there is what may be there.

  ext4_files.py begin  HISTORY DIRECTORY
  ext4_files.py work   HISTORY SEED DIRECTORY [STOP-FILE]
  ext4_files.py check  HISTORY DIRECTORY
  ext4_files.py mark   HISTORY
  ext4_files.py oldest HISTORY DIRECTORY

Each worker has a directory and does one thing after the other in it: makes a
file, replaces one by rename, overwrites or appends to one, removes one; each
time it waits for fsync of the file and the directory before the next.  So
whatever a power cut leaves of a directory is its content after some number of
these steps, except for the one file that the next step was about.

begin   on an empty file system.
work    until a file STOP-FILE appears, which must not fail; or without one
        until it fails, which it must.
check   the last step that ended must be there.  From then on what was found
        is what must stay.
mark    remember this point.
oldest  all that must be there is what was when mark was called, but nothing
        from before a later step may be missing.

HISTORY is a file on another disk.  A further thread makes noise, never
synced and never looked at."""

import hashlib
import json
import os
import random
import sys
import threading

WORKERS = 2
SLOTS = 10
LENGTHS = (1, 100, 4096, 5000, 40000, 100000, 300000)
LOOKS = 3                       # at files, before each step
NOISE = 6
NOISE_LENGTH = 1 << 20


class Wrong(Exception):
    pass


def digest(data):
    return hashlib.sha256(data).hexdigest()[:20]


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Worker:
    """past: the directory after each step, as {name: digest}, and the file
    that the step after it is about, if it has begun."""

    def __init__(self, number, saved=None):
        self.name = 'worker%d' % number
        saved = saved or {'past': [[{}, None]], 'mark': 0}
        self.past = saved['past']
        self.mark = saved['mark']

    def saved(self):
        return {'past': self.past, 'mark': self.mark}

    # Writing.

    def step(self, top, rng):
        now = dict(self.past[-1][0])
        name = 'file%d' % rng.randrange(SLOTS)
        path = os.path.join(top, self.name, name)
        data = rng.randbytes(rng.choice(LENGTHS))
        for old in rng.sample(sorted(now), min(LOOKS, len(now))):
            self.old(os.path.join(top, self.name, old))
        if name not in now:
            how = self.make
        else:
            how = rng.choice((self.replace, self.replace, self.overwrite,
                              self.append, self.remove))
        self.past[-1][1] = name
        left = how(path, data)
        if left is None:
            del now[name]
        else:
            now[name] = left
        self.past.append([now, None])

    @staticmethod
    def write(path, mode, data, at=None):
        with open(path, mode, buffering=0) as f:
            if at is not None:
                f.seek(at)
            while data:
                data = data[f.write(data):]
            os.fsync(f.fileno())

    def make(self, path, data):
        self.write(path, 'wb', data)
        sync(os.path.dirname(path))
        return digest(data)

    def replace(self, path, data):
        self.write(path + '.new', 'wb', data)
        os.rename(path + '.new', path)
        sync(os.path.dirname(path))
        return digest(data)

    def old(self, path):
        with open(path, 'rb') as f:
            # What the kernel still has in memory says nothing.
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            data = f.read()
        if digest(data) != self.past[-1][0][os.path.basename(path)]:
            raise Wrong('%s has changed' % path)
        return data

    def overwrite(self, path, data):
        old = self.old(path)
        data = data[:len(old)]
        at = len(old) - len(data)
        self.write(path, 'r+b', data, at)
        return digest(old[:at] + data)

    def append(self, path, data):
        old = self.old(path)
        self.write(path, 'r+b', data, len(old))
        return digest(old + data)

    def remove(self, path, data):
        self.old(path)
        os.unlink(path)
        sync(os.path.dirname(path))
        return None

    # Looking.

    def look(self, top):
        found = {}
        directory = os.path.join(top, self.name)
        for name in os.listdir(directory):
            with open(os.path.join(directory, name), 'rb') as f:
                data = f.read()
            if not name.endswith('.new'):
                found[name] = digest(data)
        return found

    def explains(self, i, found):
        state, target = self.past[i]
        names = (set(state) | set(found)) - {target}
        return all(state.get(n) == found.get(n) for n in names)

    def check(self, found):
        last, target = self.past[-1]
        for name in sorted(set(last) | set(found)):
            if name != target and last.get(name) != found.get(name):
                raise Wrong('%s/%s is %s, after step %d it was %s'
                            % (self.name, name, found.get(name),
                               len(self.past) - 1, last.get(name)))
        if found != last:
            self.past.append([found, None])
        else:
            # It never happened, and its file is as it was.
            self.past[-1][1] = None

    def check_oldest(self, found):
        for i in range(self.mark, len(self.past)):
            if self.explains(i, found):
                return i
        raise Wrong('%s is as after none of the steps %d to %d: %r'
                    % (self.name, self.mark, len(self.past) - 1, found))


def begin(history, top):
    workers = [Worker(i) for i in range(WORKERS)]
    for w in workers:
        os.mkdir(os.path.join(top, w.name))
    sync(top)
    save(history, workers)


def load(path):
    with open(path) as f:
        return [Worker(i, saved) for i, saved in enumerate(json.load(f))]


def save(path, workers):
    with open(path + '.new', 'w') as f:
        json.dump([w.saved() for w in workers], f)
    os.rename(path + '.new', path)


def make_noise(top, rng):
    name = os.path.join(top, 'noise%d' % rng.randrange(NOISE))
    if rng.random() < 0.2 and os.path.exists(name):
        os.unlink(name)
        return
    with open(name, 'wb', buffering=0) as f:
        for _ in range(rng.randrange(NOISE_LENGTH >> 16)):
            f.write(rng.randbytes(1 << 16))


def work(history, seed, top, stop):
    rng = random.Random(int(seed))
    workers = load(history)
    failed = []

    def repeat(one, rng):
        try:
            while not (stop and os.path.exists(stop)):
                one(top, rng)
        except OSError as e:
            if stop:
                failed.append(Wrong(str(e)))
        except Exception as e:
            failed.append(e)

    steps = sum(len(w.past) for w in workers)
    jobs = [w.step for w in workers] + [make_noise]
    threads = [threading.Thread(target=repeat,
                                args=(job, random.Random(rng.random())))
               for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    save(history, workers)
    if failed:
        raise failed[0]
    print('%d steps' % (sum(len(w.past) for w in workers) - steps))


def main(command, history, *arguments):
    if command == 'begin':
        begin(history, arguments[0])
        return
    if command == 'work':
        seed, top = arguments[:2]
        work(history, seed, top, (arguments[2:] or (None,))[0])
        return
    workers = load(history)
    for w in workers:
        if command == 'mark':
            w.mark = len(w.past) - 1
        elif command == 'check':
            w.check(w.look(arguments[0]))
        elif command == 'oldest':
            i = w.check_oldest(w.look(arguments[0]))
            print('%s: step %d of %d, marked was %d'
                  % (w.name, i, len(w.past) - 1, w.mark))
        else:
            raise Wrong('unknown command %s' % command)
    save(history, workers)


if __name__ == '__main__':
    try:
        main(*sys.argv[1:])
    except Wrong as e:
        sys.exit('wrong: %s' % e)

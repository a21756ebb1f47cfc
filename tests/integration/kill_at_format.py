# SPDX-License-Identifier: BSD-3-Clause

"""kill_at_format.py PID CACHE-DEVICE PID-FILE MICROSECONDS

Let a stopped nbdkit go on, and kill -9 it so long after it begins to format
the cache device: its first bytes have changed, or those of the first segment
header.  Formatting lasts for some milliseconds, too short for luck.  Comes
back, having killed nothing, when it has started all the same."""

import os
import signal
import sys
import time

FIRST_HEADER = 1 << 20

pid, device, pid_file, delay = sys.argv[1:]
pid = int(pid)
fd = None


def look():
    """Both places; zeros where there is nothing yet."""
    global fd
    if fd is None and os.path.exists(device):
        fd = os.open(device, os.O_RDONLY)
    if fd is None:
        return bytes(72)
    return (os.pread(fd, 8, 0).ljust(8, b'\0')
            + os.pread(fd, 64, FIRST_HEADER).ljust(64, b'\0'))


before = look()
os.kill(pid, signal.SIGCONT)
while True:
    if look() != before:
        until = time.perf_counter() + int(delay) / 1e6
        while time.perf_counter() < until:
            pass
        os.kill(pid, signal.SIGKILL)
        break
    if os.path.exists(pid_file):
        break
    # Ended, with an error: whoever waits for it will say so.
    with open('/proc/%d/stat' % pid) as f:
        if f.read().rsplit(')', 1)[1].split()[0] == 'Z':
            break

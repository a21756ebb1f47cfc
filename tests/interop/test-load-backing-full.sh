#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The file system that disk.img is on is full.  What is written stays dirty in
# the cache, through kill -9 as well, and is read from it; when the cache is
# full, too, writes fail, and nothing else does.  As soon as there is room
# everything goes on, and in the end all is on the disk.

. "$(dirname "$0")/functions.sh"
need_file_system ext4
own_mounts

parameters=(file small/disk.img pmem=cache.img pmem-size=24M
            pcache-segment-size=1M pcache-writeback-delay=50ms
            pcache-space-timeout=1)

# room SIZE: for disk.img.
room () { mount -o remount,size="$1" small; }
clean_up () { umount -l small; }

# requests NAME: Python from standard input, with h, the connection; data, what
# is to be on the disk; step, how much of it goes into one request.
requests ()
{
  python -c '
import nbd, random, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
data = random.Random(3).randbytes(48 << 20)
step = 64 << 10
exec(sys.stdin.read())
' "$(uri "$1")" || fail "$1: see above"
}

mkdir small
mount -t tmpfs -o size=8M pcache small 2>/dev/null ||
  skip "no tmpfs can be mounted here"
truncate -s 48M small/disk.img

say "Requests"
start first "${parameters[@]}"
requests first <<'END'
written = 0
try:
    while written < len(data):
        h.pwrite(data[written:written + step], written)
        written += step
except nbd.Error as e:
    print("%d KiB were taken, then: %s" % (written >> 10, e.string))
    if e.errno not in ("EIO", "ENOSPC"):
        sys.exit("not what a full disk says: %s" % e.errno)
if not 16 << 20 < written < 32 << 20:
    sys.exit("%d bytes are what 8 MiB of disk and 24 MiB of cache hold"
             % written)
h.flush()
for at in range(0, written, step):
    if h.pread(step, at) != data[at:at + step]:
        sys.exit("byte %d and what follows is not what was written" % at)
with open("written", "w") as f:
    f.write(str(written))
END
has_text first.log 'write-back failed: No space left on device' ||
  fail "it does not say what is the matter"
kill_hard first

say "After kill -9, and still no room"
start second "${parameters[@]}"
requests second <<'END'
for at in range(0, int(open("written").read()), step):
    if h.pread(step, at) != data[at:at + step]:
        sys.exit("byte %d and what follows is not what was written" % at)
END
until_true 20 has_text second.log 'write-back failed: No space left on device'

say "Room"
room 80M
requests second <<'END'
for at in range(int(open("written").read()), len(data), step):
    h.pwrite(data[at:at + step], at)
h.flush()
with open("expected.img", "wb") as f:
    f.write(data)
END
until_true 10 has_text second.log 'the backing store works again'
stop second
same small/disk.img expected.img

say "A file system"
rm -f small/disk.img cache.img
truncate -s 64M small/disk.img
room 9M
# Twice this is more than the disk takes, and fits in the cache, in which requests
# of 1 MiB leave some of each segment unused.
random_file data $((6 * MiB))
start third "${parameters[@]}"
attach third
make_fs ext4 fuse/disk
mount_loop fuse/disk || skip "no loop device over FUSE can be mounted here"
for i in 1 2; do cp data mnt/data$i; done
sync -f mnt
until_true 20 has_text third.log 'write-back failed: No space left on device'
kill_hard third
umount mnt
detach
start fourth "${parameters[@]}"
attach fourth
mount_loop fuse/disk || fail "it cannot be mounted again"
for i in 1 2; do same mnt/data$i data; done
echo more > mnt/more
sync -f mnt
room 80M
umount mnt
clean_fs ext4 fuse/disk "through the cache"
detach
stop fourth
clean_fs ext4 small/disk.img "after the drain"
mount_loop small/disk.img ro || fail "the drained disk cannot be mounted"
for i in 1 2; do same mnt/data$i data; done
[ "$(cat mnt/more)" = more ] || fail "the last file is missing"
umount mnt

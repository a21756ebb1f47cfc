#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The cache device is lost: what the disk alone has is what a plain disk could
# have had after a power cut.  A client writes rounds, each with a flush at its
# end; at any instant the disk has some round whole, and beyond it nothing but
# parts of the next one.

. "$(dirname "$0")/functions.sh"

seed=${SEED:-$(date +%s)}
say "seed $seed"

cat > loop.py <<'END'
import nbd, os, random, struct, subprocess, sys, time

nbdkit, seed, tries = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
BLOCKS, BLOCK = 512, 4096
partial = torn = 0

for number in range(tries):
    for name in "cache.img", "x.sock", "x.pid":
        if os.path.exists(name):
            os.unlink(name)
    with open("disk.img", "wb") as f:
        f.truncate(BLOCKS * BLOCK)
    log = open("loop.log", "a")
    server = subprocess.Popen(
        [nbdkit, "-f", "-U", "x.sock", "-P", "x.pid", "--filter=pcache",
         # Long enough to be seen between two writes.
         "--filter=delay", "file", "disk.img", "delay-write=1ms",
         "pmem=cache.img", "pmem-size=10M", "pcache-segment-size=1M",
         "pcache-writeback-delay=%dms" % rng.choice((0, 0, 10))],
        stdout=log, stderr=log)
    while not (os.path.exists("x.pid") and os.path.getsize("x.pid")):
        assert server.poll() is None, "nbdkit did not start"
        time.sleep(0.005)
    h = nbd.NBD()
    h.connect_unix("x.sock")
    end = time.monotonic() + 0.1 + rng.random() * 0.4
    written = [[(0, 0)] * BLOCKS]       # per round: each block's (round, step)
    touched = [set()]
    step = 0
    while time.monotonic() < end:
        r = len(written)
        now, new = list(written[-1]), set()
        # A few blocks are in every round, more than once.
        for b in [1, 2, 3] + [rng.randrange(BLOCKS) for _ in range(6)] + [2]:
            step += 1
            now[b] = (r, step)
            new.add(b)
            h.pwrite(struct.pack("<QQ", *now[b]) * (BLOCK // 16), b * BLOCK)
        written.append(now)
        touched.append(new)
        if rng.random() < 0.8:
            h.flush()
        else:
            # With FUA the same order is promised.
            h.pwrite(struct.pack("<QQ", *now[1]) * (BLOCK // 16), BLOCK,
                     nbd.CMD_FLAG_FUA)
            h.flush()
    server.kill()
    server.wait()

    disk = open("disk.img", "rb").read()
    have = [struct.unpack_from("<QQ", disk, b * BLOCK) for b in range(BLOCKS)]
    newest = max(r for r, s in have)
    # Round newest has begun, so the one before is whole.
    base = written[newest - 1] if newest else written[0]
    for b in range(BLOCKS):
        if disk[b * BLOCK:(b + 1) * BLOCK] != \
           struct.pack("<QQ", *have[b]) * (BLOCK // 16):
            sys.exit("try %d: block %d is torn" % (number, b))
        if have[b][0] != newest and have[b] != base[b]:
            sys.exit("try %d: block %d has round %d, but round %d has begun "
                     "and with round %d it became %d"
                     % (number, b, have[b][0], newest, newest - 1, base[b][0]))
    whole = all(have[b] == written[newest][b] for b in range(BLOCKS))
    partial += not whole
    torn += 0 < newest < len(written) - 1
print("%d tries, %d times behind the client, %d times within a round"
      % (tries, torn, partial))
if tries >= 20 and not (torn and partial):
    sys.exit("the disk was never seen behind or within a round, "
             "so nothing was tested")
END
python loop.py "$NBDKIT" "$seed" "$(scaled 20)"

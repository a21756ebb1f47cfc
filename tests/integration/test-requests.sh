#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Every request at any offset and length gives what a plain array of bytes
# would give, whichever connection it comes over, across restarts; and the
# disk has it all in the end.
# SEED=N repeats a run.

# run-tests: tsan

. "$(dirname "$0")/functions.sh"

size=$((24 * MiB + 4096 + 77))          # not a multiple of anything
operations=$(scaled 2500)
seed=${SEED:-$(date +%s)}
say "seed $seed"

cat > client.py <<'END'
import nbd, os, pickle, random, sys

uri, seed, operations, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
rng = random.Random(seed)
disk = bytearray(open("expected.img", "rb").read())

def connect():
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    assert h.get_size() == size
    return h

clients = [connect() for _ in range(3)]

def some_range(most):
    style = rng.random()
    if style < 0.3:
        length = rng.randint(1, 600)
    elif style < 0.6:
        length = 512 * rng.randint(1, 64)
    elif style < 0.9:
        length = rng.randint(1, min(most, 300000))
    else:
        length = rng.randint(1, most)
    # Close to where others were, so that they meet.
    offset = rng.choice([rng.randint(0, size - 1), rng.randint(0, 200000),
                         4096 * rng.randint(0, 64), size - length])
    offset = max(0, offset)
    return offset, min(length, size - offset)

def compare(offset, got, what):
    want = disk[offset:offset + len(got)]
    if got != want:
        i = next(i for i in range(len(got)) if got[i] != want[i])
        sys.exit("%s at %d + %d: byte %d is %d, expected %d"
                 % (what, offset, len(got), offset + i, got[i], want[i]))

def check_extents(offset, length, h, one):
    found = []
    h.block_status(length, offset,
                   lambda ctx, at, entries, err: found.extend(entries) or 0,
                   flags=nbd.CMD_FLAG_REQ_ONE if one else 0)
    assert found and (len(found) == 2 or not one), found
    at = offset
    for n, flags in zip(found[::2], found[1::2]):
        if flags & nbd.STATE_ZERO:
            end = min(at + n, size)
            if disk[at:end].count(0) != end - at:
                sys.exit("extents: %d + %d is said to be zero" % (at, n))
        at += n

for i in range(operations):
    h = rng.choice(clients)
    fua = nbd.CMD_FLAG_FUA if rng.random() < 0.1 else 0
    op = rng.random()
    if op < 0.35:
        offset, length = some_range(2 << 20)
        data = rng.randbytes(length)
        h.pwrite(data, offset, flags=fua)
        disk[offset:offset + length] = data
    elif op < 0.65:
        offset, length = some_range(2 << 20)
        compare(offset, h.pread(length, offset), "read")
    elif op < 0.75:
        offset, length = some_range(6 << 20)
        h.zero(length, offset, flags=fua | rng.choice([0, nbd.CMD_FLAG_NO_HOLE])
               | rng.choice([0, nbd.CMD_FLAG_FAST_ZERO]))
        disk[offset:offset + length] = bytes(length)
    elif op < 0.80:
        offset, length = some_range(6 << 20)
        h.trim(length, offset, flags=fua)
        # What is read now is either zeros or what was there: and stays so.
        got = h.pread(length, offset)
        before = disk[offset:offset + length]
        for k in range(length):
            if got[k] not in (0, before[k]):
                sys.exit("trim at %d + %d: byte %d is %d, expected %d or 0"
                         % (offset, length, offset + k, got[k], before[k]))
            if length > 100000 and got.count(0) == length:
                break
        disk[offset:offset + length] = got
    elif op < 0.90:
        offset, length = some_range(6 << 20)
        check_extents(offset, length, h, rng.random() < 0.3)
    elif op < 0.95:
        offset, length = some_range(2 << 20)
        h.cache(length, offset)
    else:
        h.flush()

for offset in range(0, size, 1 << 20):
    n = min(1 << 20, size - offset)
    compare(offset, rng.choice(clients).pread(n, offset), "at the end")
clients[0].flush()
open("expected.img", "wb").write(disk)
for h in clients:
    h.shutdown()
END

truncate -s $size disk.img
random_file some.img $((5 * MiB))
dd if=some.img of=disk.img conv=notrunc bs=1M seek=2 status=none
cp disk.img expected.img

for kind in file pmem; do
  use_cache $kind
  for run in 1 2; do
    start $kind$run file disk.img pmem="$cache" pmem-size=16M \
          pcache-segment-size=1M pcache-writeback-delay=0.2
    python client.py "$(uri $kind$run)" $seed-$kind-$run "$operations" $size
    if [ $run = 1 ]; then kill_hard $kind$run; else stop $kind$run; fi
  done
  same disk.img expected.img "the drained disk"
done

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Damage to the cache device.  One copy of doubled metadata: nothing is
# noticed.  Both: refused, not formatted.  Clean data: read again from the disk.
# Dirty data: an error for its range until it is overwritten, never written
# back.  Records that may hide dirty data: refused, unless rescue is asked for.
# And whatever is damaged, wrong data is never served.

. "$(dirname "$0")/functions.sh"
need mkfs.ext4

seed=${SEED:-$(date +%s)}
say "seed $seed"
parameters=(pmem=cache.img pmem-size=16M pcache-segment-size=1M)
serve=(--filter=pcache file disk.img pmem=cache.img)

# poke OFFSET LENGTH [FILE]: turn these bytes into others.
poke ()
{
  "$PYTHON3" -c '
import sys
at, n = int (sys.argv[1]), int (sys.argv[2])
with open (sys.argv[3], "r+b") as f:
  f.seek (at); old = f.read (n)
  f.seek (at); f.write (bytes (b ^ 0x5a for b in old))
' "$1" "$2" "${3:-cache.img}"
}
# Where in the file a text is.
find_text ()
{
  "$PYTHON3" -c '
import sys
print (open (sys.argv[1], "rb").read ().index (sys.argv[2].encode ()))
' "$1" "$2"
}

random_file disk.img $((8 * MiB))
cp disk.img original.img
start first file disk.img "${parameters[@]}" pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri first)" -c '
h.pread (2 << 20, 4 << 20)
h.pwrite (b"DIRTY-DATA" * 5000, 1 << 20)
h.pwrite (b"other" * 1000, 2 << 20)
h.flush ()
'
stop first
cp cache.img good.img
"$PYTHON3" -c '
d = bytearray (open ("original.img", "rb").read ())
d[1 << 20:(1 << 20) + 50000] = b"DIRTY-DATA" * 5000
d[2 << 20:(2 << 20) + 5000] = b"other" * 1000
open ("expected.img", "wb").write (d)
'
check='assert h.pread (8 << 20, 0) == open ("expected.img", "rb").read ()'

say "One copy of superblock, control block, segment table"
for at in 0 4096 524288 528384 1048576; do
  cp good.img cache.img
  poke $((at + 16)) 3400
  start one-$at "${serve[@]:1}" pcache-on-exit=keep pcache-writeback-delay=10m
  nbdsh -u "$(uri one-$at)" -c "$check"
  stop one-$at
done

say "The start overwritten by something else"
cp good.img cache.img
poke 0 3500
cp cache.img before.img
refused foreign-start 'starts with something' 'copy B at 524288' \
        'left alone' 'pcache-damaged=rescue' 'pcache-format=force' -- \
        "${serve[@]}"
same cache.img before.img "refused, but changed"
start foreign-rescue "${serve[@]:1}" pcache-damaged=rescue \
      pcache-on-exit=keep pcache-writeback-delay=10m
nbdsh -u "$(uri foreign-rescue)" -c "$check"
stop foreign-rescue
start foreign-after "${serve[@]:1}" pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri foreign-after)" -c "$check"
stop foreign-after

say "Both copies"
for at in 0 4096; do
  cp good.img cache.img
  poke $at 3500
  poke $((at + 524288)) 3500
  cp cache.img before.img
  refused both-$at 'both copies|not a pcache cache' 'copy A at' 'copy B at' \
          'left alone|not opened' 'pcache-format=force' -- "${serve[@]}"
  same cache.img before.img "refused, but changed"
done

say "Zeros over the start: not taken for a blank device"
cp good.img cache.img
dd if=/dev/zero of=cache.img bs=1M count=1 conv=notrunc status=none
cp cache.img before.img
refused zeros 'not blank' 'pcache-format=force' -- "${serve[@]}"
same cache.img before.img "refused, but changed"

say "Put to another use: the second copy of the superblock may be left over"
cp good.img cache.img
mkfs.ext4 -q -F cache.img 2>/dev/null
cp cache.img before.img
refused reused 'left alone' 'pcache-format=force' -- "${serve[@]}"
same cache.img before.img "refused, but changed"

say "Dirty data"
cp good.img cache.img
at=$(find_text cache.img DIRTY-DATA)
poke $((at + 20000)) 3
start dirty "${serve[@]:1}"
nbdsh -u "$(uri dirty)" -c '
expected = open ("expected.img", "rb").read ()
try:
  got = h.pread (50000, 1 << 20)
except nbd.Error as e:
  assert e.errno == "EIO", e
else:
  raise SystemExit ("damaged data was served")
# Only for its range.
assert h.pread (1 << 20, 0) == expected[:1 << 20]
assert h.pread (5000, 2 << 20) == b"other" * 1000
h.flush ()
'
stop dirty
say_said dirty.log
[ "$(figure dirty checksum_errors)" -gt 0 ] || fail "not counted"
"$PYTHON3" -c '
disk = open ("disk.img", "rb").read ()
expected = open ("expected.img", "rb").read ()
original = open ("original.img", "rb").read ()
end = (1 << 20) + 50000
assert disk[:1 << 20] == expected[:1 << 20] and disk[end:] == expected[end:]
for at in range (1 << 20, end):
  assert disk[at] in (expected[at], original[at]), "written back: %d" % at
'
start again "${serve[@]:1}"
nbdsh -u "$(uri again)" -c '
try: h.pread (50000, 1 << 20)
except nbd.Error as e: assert e.errno == "EIO", e
else: raise SystemExit ("after a restart the damage is forgotten")
h.pwrite (b"DIRTY-DATA" * 5000, 1 << 20)
'"$check"
stop again
same disk.img expected.img "overwritten, so healed"

say "Clean data: not noticed by anyone"
at=$(find_text cache.img DIRTY-DATA)
# Where it was written last is clean now; and the rest of what is there.
cp cache.img clean.img
poke $((at + 30000)) 5
start clean "${serve[@]:1}"
nbdsh -u "$(uri clean)" -c "$check"
stop clean
[ "$(figure clean lost_bytes)" -eq 0 ] || fail "something was lost"

say "Record sets of dirty data"
cp original.img disk.img
cp good.img cache.img
# The last bytes of each segment in use are its first record set.
for (( at = 3 * MiB; at <= 16 * MiB; at += MiB )); do
  if [ "$(dd if=cache.img bs=1 skip=$((at - 4096)) count=4096 status=none |
          tr -d '\0' | wc -c)" -gt 0 ]
  then poke $((at - 100)) 60
  fi
done
cp cache.img before.img
# This one says more than one line: what is damaged, segment by segment.
code=0
"$NBDKIT" -f -U "$dir/sets.sock" "${serve[@]}" > sets.log 2>&1 < /dev/null ||
  code=$?
say_said sets.log
[ $code -ne 0 ] || fail "it was opened"
has_text sets.log 'cache not opened.*pcache-damaged=rescue' ||
  fail "it does not say what to do"
same cache.img before.img "refused, but changed"
start rescue "${serve[@]:1}" pcache-damaged=rescue
nbdsh -u "$(uri rescue)" -c '
got = h.pread (8 << 20, 0)
expected = open ("expected.img", "rb").read ()
original = open ("original.img", "rb").read ()
for at in range (0, 8 << 20, 1000):
  assert got[at:at + 1000] in (expected[at:at + 1000], original[at:at + 1000])
'
stop rescue

say "Anything anywhere: an error, or the right data"
cat > random_damage.py <<'END'
import nbd, os, random, subprocess, sys, time
nbdkit, seed, tries = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
good = open("good.img", "rb").read()
expected = open("expected.img", "rb").read()
original = open("original.img", "rb").read()
outcomes = {}
# What is in use.
used = [at for at in range(0, len(good), 4096) if any(good[at:at + 4096])]
for i in range(tries):
    damaged = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 10))):
        at = rng.choice(used) + rng.randrange(4096)
        n = rng.choice((1, 1, 8, 64, 4096))
        what = rng.choice(("flip", "zero", "random"))
        old = damaged[at:at + n]
        damaged[at:at + n] = {
            "flip": bytes(b ^ (1 << rng.randrange(8)) for b in old),
            "zero": bytes(len(old)), "random": rng.randbytes(len(old))}[what]
    open("cache.img", "wb").write(damaged)
    open("disk.img", "wb").write(original)
    for name in "x.sock", "x.pid":
        if os.path.exists(name):
            os.unlink(name)
    log = open("random.log", "w")
    server = subprocess.Popen(
        [nbdkit, "-f", "-U", "x.sock", "-P", "x.pid", "--filter=pcache",
         "file", "disk.img", "pmem=cache.img"], stdout=log, stderr=log)
    try:
        while not (os.path.exists("x.pid") and os.path.getsize("x.pid")):
            if server.poll() is not None:
                break
            time.sleep(0.005)
        if server.poll() is not None:
            said = open("random.log").read()
            if server.returncode != 1 or "pcache: " not in said:
                sys.exit("try %d: exit code %d, %s"
                         % (i, server.returncode, said))
            if open("cache.img", "rb").read() != damaged:
                sys.exit("try %d: refused, but changed" % i)
            outcome = "refused"
        else:
            h = nbd.NBD()
            h.connect_unix("x.sock")
            outcome = "fine"
            for at in range(0, 8 << 20, 65536):
                try:
                    got = h.pread(65536, at)
                except nbd.Error as e:
                    assert e.errno == "EIO", e
                    outcome = "EIO"
                    continue
                if got != expected[at:at + 65536]:
                    sys.exit("try %d: wrong data in %d + 65536" % (i, at))
            h.shutdown()
            server.terminate()
            if server.wait(60) != 0:
                sys.exit("try %d: exit code %d" % (i, server.returncode))
            disk = open("disk.img", "rb").read()
            for at in range(0, 8 << 20, 4096):
                block = disk[at:at + 4096]
                if block != expected[at:at + 4096] and (
                        outcome == "fine" or any(
                            a not in (b, c) for a, b, c in
                            zip(block, expected[at:], original[at:]))):
                    sys.exit("try %d: wrong data on the disk at %d" % (i, at))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
print(tries, "tries:", outcomes)
END
python random_damage.py "$NBDKIT" "$seed" "$(scaled 60)"

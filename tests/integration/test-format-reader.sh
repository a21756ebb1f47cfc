#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A reader written from docs/FORMAT.md alone sees the disk that nbdkit serves:
# after kill -9 and after a clean exit, with dirty and with clean data, on a
# file and on persistent memory.

. "$(dirname "$0")/functions.sh"

reader () { python "$top_srcdir/tests/format_reader.py" "$@"; }

cat > client.py <<'END'
import nbd, random, sys

h = nbd.NBD()
h.connect_uri(sys.argv[1])
random.seed(sys.argv[2])
size = h.get_size()
for i in range(int(sys.argv[3])):
    length = random.choice([random.randint(1, 9000), 4096,
                            random.randint(1, 300000)])
    at = random.randrange(size - length)
    what = random.random()
    fua = nbd.CMD_FLAG_FUA if random.random() < 0.1 else 0
    if what < 0.6:
        h.pwrite(random.randbytes(length), at, fua)
    elif what < 0.7:
        h.zero(length, at, fua)
    elif what < 0.75:
        h.trim(length, at, fua)
    elif what < 0.95:
        h.pread(length, at)
    else:
        h.flush()
END

# What the reader makes of copies of cache and disk must be what nbdkit serves
# from the originals.
compare ()
{
  cp "$cache" copy.cache
  cp disk.img copy.disk
  reader info copy.cache > info || fail "the reader refuses the device"
  reader image copy.cache copy.disk seen.img || fail "the reader fails"
  start_nbdkit "again$1" -r --filter=pcache file disk.img "${parameters[@]}"
  nbdsh -u "$(uri "again$1")" -c '
with open ("served.img", "wb") as f:
    for at in range (0, h.get_size (), 1 << 20):
        f.write (h.pread (min (1 << 20, h.get_size () - at), at))'
  stop "again$1"
  same served.img seen.img
}

for kind in file pmem; do
  for crc in true false; do
    use_cache $kind
    parameters=(pmem="$cache" pmem-size=34M pcache-segment-size=1M
                pcache-data-crc=$crc)
    head -c 20000777 /dev/urandom > disk.img

    say "$kind, checksums $crc: killed with dirty data"
    start first file disk.img "${parameters[@]}" pcache-writeback-delay=10m
    python client.py "$(uri first)" 1 "$(scaled 150)"
    kill_hard first
    compare 1
    differs disk.img seen.img "the test is about data not yet written back"

    say "$kind, checksums $crc: killed while writing back and evicting"
    start second file disk.img "${parameters[@]}" \
          pcache-writeback-delay=0 pcache-gc-percent=30
    python client.py "$(uri second)" 2 "$(scaled 400)"
    kill_hard second
    compare 2

    say "$kind, checksums $crc: dirty data kept at a clean exit"
    start third file disk.img "${parameters[@]}" \
          pcache-writeback-delay=10m pcache-on-exit=keep
    python client.py "$(uri third)" 3 "$(scaled 100)"
    stop third
    compare 3
    grep -q '^checkpoint: as the log' info || fail "it leaves no checkpoint"

    say "$kind, checksums $crc: drained"
    start fourth file disk.img "${parameters[@]}"
    nbdsh -u "$(uri fourth)" -c 'h.pwrite (b"last", 0)'
    stop fourth
    compare 4
    same disk.img seen.img
    grep -q '^dirty bytes 0$' info || fail "the reader sees dirty data"
    grep -q '^checkpoint: as the log' info || fail "it leaves no checkpoint"
  done
done

# Copy A of the control block and of all segment headers takes no stores any more:
# make of the device what pcache would have made of it.  $1: what else is done to
# it.
cat > alone.py <<'END'
import os, struct, sys

sys.path.insert(0, os.environ['top_srcdir'] + '/tests')
from format_reader import Cache, Refused, xxh3_without

with open(sys.argv[1], 'rb') as f:
    device = bytearray(f.read())
cache = Cache(bytes(device))


def seal(at, size, content):
    content = content[:24] + struct.pack('<Q', at) + content[32:]
    content = (content[:8]
               + struct.pack('<Q', xxh3_without(content, 8, cache.instance))
               + content[16:])
    device[at:at + size] = content


def alone(a, b, size, spare, older):
    newest = cache.control.content if size == 256 else device[b:b + size]
    sequence = struct.unpack_from('<Q', newest, 16)[0] + 2
    newest = newest[:16] + struct.pack('<Q', sequence) + newest[24:]
    seal(b, size, newest)
    seal(b + spare, size, newest)
    # Copy A: left behind.
    seal(a, size, newest[:16] + struct.pack('<Q', sequence - 1)
         + newest[24:32] + older)
    # What a crash, or damage, does to one of the two others or to both.
    for at in {'first': [b], 'second': [b + spare], 'both': [b, b + spare],
               'none': []}[sys.argv[2]]:
        device[at + size // 2] ^= 0x10


alone(4096, 528384, 256, 2048, bytes(224))
for i in range(cache.segment_count):
    # Free since long ago.
    alone(cache.table[0] + i * 256, cache.table[1] + i * 256, 120, 128,
          struct.pack('<IIQ72x', i, 1, 1))
with open(sys.argv[1], 'wb') as f:
    f.write(device)
END

say "copies that were left behind"
use_cache file
parameters=(pmem="$cache" pmem-size=34M pcache-segment-size=1M)
head -c 20000777 /dev/urandom > disk.img
start before file disk.img "${parameters[@]}" pcache-writeback-delay=10m
python client.py "$(uri before)" 5 "$(scaled 150)"
kill_hard before
cp "$cache" before.cache
cp disk.img before.disk
for what in none first second both; do
  cp before.cache "$cache"
  cp before.disk disk.img
  reader info "$cache" > info.before
  top_srcdir="$top_srcdir" python alone.py "$cache" "$what"
  if [ $what != both ]; then
    compare "-$what"
    differs disk.img seen.img "the test is about data not yet written back"
    for line in 'tail' 'replayed' 'dirty bytes'; do
      [ "$(grep "^$line" info)" = "$(grep "^$line" info.before)" ] ||
        fail "the reader sees another cache"
    done
    continue
  fi
  if reader info "$cache" > info 2> error; then
    fail "the reader believes what was left behind"
  fi
  grep -q "control block: older than what is damaged" error ||
    fail "the reader refuses for another reason: $(cat error)"
  refused left-behind 'both copies of the control block are damaged' \
          'older than what is damaged' \
          -- --filter=pcache file disk.img "${parameters[@]}"
done

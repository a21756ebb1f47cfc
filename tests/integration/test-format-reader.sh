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

    say "$kind, checksums $crc: drained"
    start fourth file disk.img "${parameters[@]}"
    nbdsh -u "$(uri fourth)" -c 'h.pwrite (b"last", 0)'
    stop fourth
    compare 4
    same disk.img seen.img
    grep -q '^dirty bytes 0$' info || fail "the reader sees dirty data"
  done
done

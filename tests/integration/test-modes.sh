#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcache-mode: what the disk has when a write is acknowledged, what kill -9
# leaves, and that each mode finds what another left.

. "$(dirname "$0")/functions.sh"

truncate -s 64M disk.img
random_file data.img $((8 * MiB))
use_cache file
parameters=(pmem="$cache" pmem-size=64M pcache-segment-size=1M
            pcache-writeback-delay=10m)

# write SERVER AT: data.img, and no flush.
write ()
{
  nbdsh -u "$(uri "$1")" -c '
data = open ("data.img", "rb").read ()
for at in range (0, len (data), 1 << 20):
  h.pwrite (data[at:at + (1 << 20)], at + '"$2"')
h.zero (1 << 20, (2 << 20) + '"$2"')
'
}

cat > check.py <<'END'
import sys
data = bytearray(open("data.img", "rb").read())
data[2 << 20:3 << 20] = bytes(1 << 20)
at = int(sys.argv[1])
if len(sys.argv) > 2:
    import nbd
    h = nbd.NBD()
    h.connect_uri(sys.argv[2])
    got = h.pread(len(data), at)
else:
    with open("disk.img", "rb") as f:
        f.seek(at)
        got = f.read(len(data))
assert got == data, "not what was written"
END

at=77
for mode in writethrough writearound; do
  say "$mode: the disk has it at once, and after kill -9"
  start first file disk.img "${parameters[@]}" pcache-mode=$mode
  write first $at
  python check.py $at
  kill_hard first
  python check.py $at

  start second file disk.img "${parameters[@]}" pcache-mode=$mode
  python check.py $at "$(uri second)"
  nbdsh -u "$(uri second)" -c 'h.flush ()'
  stop second
  python check.py $at
  at=$((at + 16 * MiB))
done

for mode in writeback writeonly; do
  say "$mode: the cache has it, and the disk when it is written back"
  cp --sparse=always disk.img before.img
  start first file disk.img "${parameters[@]}" pcache-mode=$mode
  write first $at
  nbdsh -u "$(uri first)" -c 'h.flush ()'
  same disk.img before.img "not yet written back"
  kill_hard first
  same disk.img before.img "not yet written back"

  say "$mode, then writethrough: what is left goes first"
  start second file disk.img "${parameters[@]}" pcache-mode=writethrough
  python check.py $at "$(uri second)"
  start_client second
  until_true 20 python check.py $at 2>/dev/null
  end_client
  stop second
  at=$((at + 16 * MiB))
done

say "writeonly: what is read is not cached"
start first file disk.img "${parameters[@]}" pcache-mode=writeonly
nbdsh -u "$(uri first)" -c 'h.pread (1 << 20, 0); h.pread (1 << 20, 0)'
stop first
[ "$(figure first fills)" = 0 ] || fail "reads were cached"

say "what was written around is a hole, to another reader as well"
rm "$cache" disk.img
truncate -s 64M disk.img
start first file disk.img "${parameters[@]}"
nbdsh -u "$(uri first)" -c 'h.pwrite (b"a" * 65536, 0)'
stop first
start second file disk.img "${parameters[@]}" pcache-mode=writearound
nbdsh -u "$(uri second)" -c 'h.pwrite (b"b" * 8192, 4096)'
kill_hard second
python "$here/../format_reader.py" map "$cache" > all.txt
head -n 3 all.txt > map.txt
printf '%s\n' '0 4096 data' '4096 8192 hole' '12288 53248 data' > expected.txt
same map.txt expected.txt "the map of the cache"

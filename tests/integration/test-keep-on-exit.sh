#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcache-on-exit=keep: nbdkit ends at once and leaves the disk alone; what is
# dirty, flushed or not, is in the cache when the next process starts, which
# serves it, and writes it back.

. "$(dirname "$0")/functions.sh"

truncate -s 64M disk.img
cp --sparse=always disk.img before.img
random_file data.img $((20 * MiB))

for kind in file pmem; do
  use_cache $kind
  parameters=(pmem="$cache" pmem-size=160M pcache-segment-size=1M
              pcache-writeback-delay=10m)
  cp --sparse=always before.img disk.img

  start first file disk.img "${parameters[@]}" pcache-on-exit=keep
  nbdsh -u "$(uri first)" -c '
data = open ("data.img", "rb").read ()
for at in range (0, len (data), 1 << 20):
  h.pwrite (data[at:at + (1 << 20)], at + 77)
h.zero (1 << 20, 5 << 20)
# Never flushed.
'
  started=$(now_ms)
  stop first
  [ "$(since "$started")" -lt $((3000 * slow)) ] || fail "it took long to end"
  same disk.img before.img "kept is not written"
  dirty=$(figure first dirty_bytes)
  [ "$dirty" -ge $((20 * MiB)) ] || fail "only $dirty bytes are dirty"
  has_text first.log 'were not written back.*pcache-on-exit=keep' ||
    fail "it does not say what is left"

  cat > check.py <<'END'
import sys
data = open("data.img", "rb").read()
disk = bytearray(64 << 20)
disk[77:77 + len(data)] = data
disk[5 << 20:6 << 20] = bytes(1 << 20)
if len(sys.argv) > 1:
    import nbd
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    got = h.pread(32 << 20, 0) + h.pread(32 << 20, 32 << 20)
else:
    got = open("disk.img", "rb").read()
assert got == disk
END
  say "$kind: an idle client keeps nbdkit up after the signal"
  start idle file disk.img "${parameters[@]}" pcache-on-exit=keep
  start_client idle
  kill -TERM "${pid_of[idle]}"
  sleep 0.7
  end_client
  await idle 10 || fail "exit code $?"
  same disk.img before.img "kept is not written"

  say "$kind: kept once more, then written back while it serves"
  start second file disk.img "${parameters[@]}" pcache-on-exit=keep
  python check.py "$(uri second)"
  stop second
  same disk.img before.img "kept is not written"
  start third file disk.img pmem="$cache" pcache-writeback-delay=0
  python check.py "$(uri third)"
  until_true 20 python check.py 2>/dev/null
  stop third
done

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcache-on-exit=drain, the default: when nbdkit has ended, the disk has
# everything that was ever acknowledged, flushed or not, and nothing is dirty;
# without the cache it is complete.  Also what an earlier process, killed, left.

. "$(dirname "$0")/functions.sh"

random_file data.img $((9 * MiB))
cat > write.py <<'END'
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
data = open("data.img", "rb").read()
for at in range(0, len(data), 300001):
    h.pwrite(data[at:at + 300001], at + 4711)
h.zero(1000000, 2000001)
h.trim(65536, 8 << 20)
h.pwrite(b"last", (16 << 20) - 4)
if "flush" in sys.argv:
    h.flush()
END
truncate -s 16M expected.img
"$PYTHON3" - <<'END'
data = open("data.img", "rb").read()
disk = bytearray(16 << 20)
disk[4711:4711 + len(data)] = data
disk[2000001:3000001] = bytes(1000000)
disk[8 << 20:(8 << 20) + 65536] = bytes(65536)
disk[-4:] = b"last"
open("expected.img", "wb").write(disk)
END

for kind in file pmem; do
  use_cache $kind
  parameters=(pmem="$cache" pmem-size=32M pcache-segment-size=1M
              pcache-writeback-delay=10m)

  say "$kind: never flushed, the client just goes away"
  rm -f disk.img
  truncate -s 16M disk.img
  start first file disk.img "${parameters[@]}"
  python write.py "$(uri first)"
  differs disk.img expected.img "the test is about data not yet written back"
  stop first
  same disk.img expected.img
  [ "$(figure first dirty_bytes)" -eq 0 ] || fail "something is dirty"
  # nbdkit itself says this if the signal comes before it has seen the client go.
  ! grep -v 'error: aborting sleep because of server shut down' first.log ||
    fail "it complained: $(cat first.log)"

  say "$kind: flushed and killed; the next process drains it, with no client"
  rm -f disk.img "$cache"
  truncate -s 16M disk.img
  start second file disk.img "${parameters[@]}"
  python write.py "$(uri second)" flush
  kill_hard second
  differs disk.img expected.img "the test is about data not yet written back"
  start third file disk.img "${parameters[@]}"
  nbdinfo --size "$(uri third)" >/dev/null
  stop third
  same disk.img expected.img
  [ "$(figure third dirty_bytes)" -eq 0 ] || fail "something is dirty"
done

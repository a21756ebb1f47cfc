#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# nbdkit -r and plugins that cannot write: a persistent read cache.  It never
# writes back, not even what an earlier process left dirty; but that is what it
# serves, for it is the newest.

. "$(dirname "$0")/functions.sh"
need_plugin eval

random_file before.img $((8 * MiB))
cp before.img disk.img
parameters=(pmem=cache.img pmem-size=32M pcache-segment-size=1M)

read_expected='
expected = open ("expected.img", "rb").read ()
for at in range (0, len (expected), 1 << 20):
  assert h.pread (1 << 20, at) == expected[at:at + (1 << 20)], at
'
refuses_writes='
h.set_strict_mode (0)
assert h.is_read_only ()
for call in (lambda: h.pwrite (b"no", 0), lambda: h.zero (1, 0),
             lambda: h.trim (1, 0)):
  try: call ()
  except nbd.Error as e: assert e.errno == "EPERM", e
  else: raise SystemExit ("a read-only disk was changed")
'

say "Dirty data is left from before"
start first file disk.img "${parameters[@]}" pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri first)" -c '
h.pwrite (b"new" * 1000000, 1000001)
h.zero (500000, 3000000)
h.flush ()
'
kill_hard first
"$PYTHON3" -c '
d = bytearray (open ("before.img", "rb").read ())
d[1000001:4000001] = b"new" * 1000000
d[3000000:3500000] = bytes (500000)
open ("expected.img", "wb").write (d)
'
same disk.img before.img

say "nbdkit -r"
start second -r file disk.img pmem=cache.img pcache-writeback-delay=0
nbdsh -u "$(uri second)" -c "$read_expected" -c "$refuses_writes" \
      -c 'h.flush ()' -c 'import time; time.sleep (1)'
stop second
same disk.img before.img "nbdkit -r wrote"
[ "$(figure second dirty_bytes)" -gt 0 ] || fail "the dirty data is forgotten"

say "a plugin that cannot write"
DISK=$dir/disk.img start third eval get_size='echo 8388608' \
  pread='dd if=$DISK iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k \
            status=none' \
  pwrite='cat > /dev/null; echo "EROFS no" >&2; exit 1' can_write='exit 3' \
  pmem=cache.img pcache-writeback-delay=0
nbdsh -u "$(uri third)" -c "$read_expected" -c "$refuses_writes"
stop third
same disk.img before.img
[ "$(figure third dirty_bytes)" -gt 0 ] || fail "the dirty data is forgotten"

say "a read cache: persistent, and the plugin is not asked twice"
start fourth -r --filter=log file disk.img logfile=calls pmem=cache.img
nbdsh -u "$(uri fourth)" -c "$read_expected"
stop fourth
! has_text calls ' Read ' || fail "the plugin was asked again"

say "writable again: written back"
start fifth file disk.img pmem=cache.img
nbdsh -u "$(uri fifth)" -c "$read_expected"
stop fifth
same disk.img expected.img

say "and a cache that was made by nbdkit -r"
start sixth -r file disk.img pmem=new.img pmem-size=32M \
      pcache-segment-size=1M
nbdsh -u "$(uri sixth)" -c "$read_expected" -c "$refuses_writes"
stop sixth
start seventh file disk.img pmem=new.img
nbdsh -u "$(uri seventh)" -c "$read_expected" -c 'h.pwrite (b"!", 0)'
stop seventh
[ "$(head -c 1 disk.img)" = '!' ] || fail "not written"

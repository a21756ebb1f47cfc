#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A plugin that fails for good: nbdkit ends within bounds and says what is left
# and where; it is all there in the next process, and reaches the disk once
# that works.  With the cache full, writes fail after pcache-space-timeout
# instead of hanging for ever; reads go on.

. "$(dirname "$0")/functions.sh"

random_file data.img $((4 * MiB))
truncate -s 8M disk.img expected.img
dd if=data.img of=expected.img conv=notrunc status=none
touch fail
broken=(--filter=error file disk.img error-pwrite=EIO error-pwrite-rate=100%
        error-pwrite-file="$dir/fail")
parameters=(pmem=cache.img pmem-size=16M pcache-segment-size=1M
            pcache-writeback-delay=0 pcache-drain-timeout=5)
check='assert h.pread (8 << 20, 0) == open ("expected.img", "rb").read ()'

say "It ends"
start first "${broken[@]}" "${parameters[@]}"
nbdsh -u "$(uri first)" -c 'h.pwrite (open ("data.img", "rb").read (), 0)'
started=$(now_ms)
stop first
took=$(since "$started")
say_said first.log
[ "$took" -lt $((9000 * slow)) ] || fail "it took $took ms to end"
has_text first.log '4194304 bytes were not written back (.*) *; they stay safely in .*/cache.img' ||
  fail "it does not say what is left"
[ "$(figure first dirty_bytes)" -ge $((4 * MiB)) ] || fail "dirty data is forgotten"

say "Once more, and killed"
start second "${broken[@]}" "${parameters[@]}"
nbdsh -u "$(uri second)" -c "$check"
kill_hard second

say "Full: writes fail after a while, reads do not"
start third "${broken[@]}" "${parameters[@]}" pcache-space-timeout=1
nbdsh -u "$(uri third)" -c '
import time
t = time.monotonic ()
written = 0
try:
  for i in range (64):
    h.pwrite (b"f" * (1 << 20), 0)
except nbd.Error as e:
  print ("after", i, "writes:", e)
  assert e.errno in ("EIO", "ENOSPC"), e
else:
  raise SystemExit ("64 MiB of dirty data fit into 16 MiB")
took = time.monotonic () - t
assert took < 10 * '$slow', took
h.pread (8 << 20, 0)
# What was acknowledged is still durable.
h.flush ()
'
stop third

say "It works again"
rm fail
start fourth "${broken[@]}" "${parameters[@]}"
nbdsh -u "$(uri fourth)" -c '
expected = bytearray (open ("expected.img", "rb").read ())
expected[:1 << 20] = b"f" * (1 << 20)
open ("expected.img", "wb").write (expected)
assert h.pread (8 << 20, 0) == expected
'
stop fourth
same disk.img expected.img
[ "$(figure fourth dirty_bytes)" -eq 0 ] || fail "something is dirty"

say "A plugin that cannot be opened: clients are refused, the cache waits"
start fifth file disk.img "${parameters[@]}" pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri fifth)" -c 'h.pwrite (b"dirty", 100)'
stop fifth
cp cache.img before.img
start_nbdkit sixth --filter=pcache eval open='echo EIO no disk today >&2; exit 1' \
      get_size='echo 8388608' pread='exit 1' pmem=cache.img
! nbdsh -u "$(uri sixth)" -c 'h.pread (1, 0)' 2> client.err ||
  fail "it served a plugin that could not be opened"
stop sixth
start seventh file disk.img pmem=cache.img
nbdsh -u "$(uri seventh)" -c 'assert h.pread (5, 100) == b"dirty"'
stop seventh
[ "$(dd if=disk.img bs=1 skip=100 count=5 status=none)" = dirty ] ||
  fail "not written back"

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A plugin whose writes or flushes fail for a while: clients do not notice,
# nothing is taken for written back, it is tried again (with pauses), said
# once and not a thousand times, and heals by itself.

. "$(dirname "$0")/functions.sh"
need_plugin eval

random_file data.img $((4 * MiB))
truncate -s 8M expected.img
dd if=data.img of=expected.img conv=notrunc status=none

write='h.pwrite (open ("data.img", "rb").read (), 0); h.flush ()'
check='assert h.pread (8 << 20, 0) == open ("expected.img", "rb").read ()'

# fails_for_a_while NAME ARGUMENT...: it fails while the file ./fail exists.
fails_for_a_while ()
{
  local name=$1 lines
  shift

  say "$name fails"
  rm -f disk.img
  truncate -s 8M disk.img
  touch fail
  DIR=$dir start "$name" "$@" pmem="$name.img" pmem-size=16M \
        pcache-segment-size=1M pcache-writeback-delay=0
  start_client "$name" "$write"
  until_true 10 has_text "$name.log" 'pcache: write-back failed'
  sleep 1.5
  nbdsh -u "$(uri "$name")" -c "$check"
  lines=$(grep -c 'pcache: ' "$name.log")
  [ "$lines" -le 5 ] || fail "$lines messages in less than two seconds"
  [ ! -e attempts ] || [ "$(wc -l < attempts)" -lt 100 ] ||
    fail "it is tried again without a pause: $(wc -l < attempts) times"

  rm fail
  # Dirty data is written back while an idle client is connected.
  until_true 30 has_text "$name.log" 'backing store works again'
  until_true 30 cmp -s disk.img expected.img
  end_client
  stop "$name"
  same disk.img expected.img
  [ "$(figure "$name" dirty_bytes)" -eq 0 ] || fail "something is dirty"
  [ "$(figure "$name" writeback_errors)" -gt 0 ] || fail "no error was counted"
  rm -f attempts
}

fails_for_a_while pwrite --filter=error file disk.img \
  error-pwrite=EIO error-pwrite-rate=100% error-pwrite-file="$dir/fail"
fails_for_a_while flush eval get_size='echo 8388608' can_write='exit 0' \
  pread='dd if=$DIR/disk.img iflag=skip_bytes,count_bytes skip=$4 count=$3 \
            bs=64k status=none' \
  pwrite='dd of=$DIR/disk.img oflag=seek_bytes seek=$4 conv=notrunc bs=64k \
             status=none' \
  can_flush='exit 0' \
  flush='echo >> $DIR/attempts; [ ! -e $DIR/fail ] || { echo EIO no >&2; exit 1; }'
fails_for_a_while enospc --filter=error file disk.img \
  error-pwrite=ENOSPC error-pwrite-rate=100% error-pwrite-file="$dir/fail"

say "every tenth request fails, all the time"
rm -f disk.img
truncate -s 8M disk.img
start tenth --filter=error file disk.img error=EIO error-rate=10% \
      pmem=tenth.img pmem-size=16M pcache-segment-size=1M \
      pcache-writeback-delay=0
nbdsh -u "$(uri tenth)" -c "$write" -c '
for at in range (0, 4 << 20, 65536):
  h.pwrite (b"x", at)
  h.zero (5, at + (4 << 20))
  if at % (4 * 65536) == 0: h.flush ()
'
"$PYTHON3" -c '
d = bytearray (open ("expected.img", "rb").read ())
for at in range (0, 4 << 20, 65536): d[at:at + 1] = b"x"
open ("expected10.img", "wb").write (d)
'
until_true 50 cmp -s disk.img expected10.img
stop tenth

say "every tenth of the 300 requests of one epoch fails: it gets there nevertheless"
start epoch --filter=error file disk.img error=EIO error-rate=10% \
      pmem=tenth.img pcache-writeback-delay=10m
nbdsh -u "$(uri epoch)" -c '
for at in range (0, 300 * 16384, 16384): h.pwrite (b"y", at)
'
stop epoch 60
"$PYTHON3" -c '
d = bytearray (open ("expected10.img", "rb").read ())
for at in range (0, 300 * 16384, 16384): d[at:at + 1] = b"y"
open ("expected10.img", "wb").write (d)
'
same disk.img expected10.img
[ "$(figure epoch writeback_epochs)" -le 3 ] || fail "it was not one epoch"

say "reads fail: an error for what is not in the cache, and only for that"
touch fail
start reads --filter=error file disk.img error-pread=EIO \
      error-pread-rate=100% error-pread-file="$dir/fail" \
      pmem=reads.img pmem-size=16M pcache-segment-size=1M
nbdsh -u "$(uri reads)" -c '
import os
h.pwrite (b"a" * 65536, 65536)
assert h.pread (65536, 65536) == b"a" * 65536
for length, at in ((1, 0), (65536, 65535), (1 << 20, 1 << 20)):
  try: h.pread (length, at)
  except nbd.Error as e: assert e.errno == "EIO", e
  else: raise SystemExit ("a read that failed was answered")
os.unlink ("fail")
expected = bytearray (open ("expected10.img", "rb").read ())
expected[65536:131072] = b"a" * 65536
assert h.pread (8 << 20, 0) == expected
'
stop reads

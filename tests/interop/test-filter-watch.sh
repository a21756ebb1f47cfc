#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Filters that count, log, delay, limit, pause and prefetch show what the cache
# does: hits do not reach the plugin, epochs arrive in their order with a flush
# between them, writes do not wait for a slow plugin, and what is above the
# cache can fill it.

. "$(dirname "$0")/functions.sh"
need nbdcopy
use_cache pmem

random_file source.img $((4 * MiB))
disk=(file disk.img pmem="$cache" pcache-segment-size=1M)
new=(pmem-size=12M)
at_disk () { dd if=disk.img bs=1 skip="$1" count="$2" status=none; }
disk_has () { [ "$(at_disk "$1" ${#2})" = "$2" ]; }
begin () { say "$*"; rm -f "$cache" log.out; cp source.img disk.img; }

begin "log above, stats below: hits do not reach the plugin"
for i in 1 2; do
  start_nbdkit counted --filter=log --filter=pcache --filter=stats \
     "${disk[@]}" "${new[@]}" logfile=log.out statsfile=stats.$i
  nbdsh -u "$(uri counted)" -c 'for i in range (4): h.pread (1 << 20, i << 20)' \
        -c 'for i in range (4): h.pread (1 << 20, i << 20)'
  [ "$(grep -c ' Read id=' log.out)" -eq 8 ] || fail "the log has other reads"
  stop counted
done
say_said stats.1
has_text stats.1 '^read: .* 4.00 MiB' || fail "not each byte was read once"
! has_text stats.2 '^read: ' || fail "after a restart it read again"

begin "stats above, log below: epochs in order, a flush between them"
start_nbdkit order --filter=stats --filter=pcache --filter=log "${disk[@]}" \
   "${new[@]}" logfile=log.out statsfile=stats.out pcache-writeback-delay=10m
nbdsh -u "$(uri order)" -c '
for i in range (5):
    h.pwrite (b"a" * 4096, i * 65536)
    h.pwrite (b"b" * 4096, 0)
    h.flush ()
'
stop order
grep -o ' \(Write\|Flush\) id=.*' log.out | grep -v return |
  sed 's/ id=[0-9]*//; s/ count=.*//; s/ \.\.\.//' > calls
cat calls
"$PYTHON3" -c '
import re
epochs = [re.findall ("offset=0x([0-9a-f]+)", e)
          for e in open ("calls").read ().split ("Flush")]
epochs = [sorted (int (o, 16) for o in e) for e in epochs if e]
want = [[0]] + [[0, i * 65536] for i in range (1, 5)]
assert epochs == want, epochs
'
has_text stats.out '^write: 10 ops' || fail "$(cat stats.out)"
has_text stats.out '^flush: 5 ops' || fail "$(cat stats.out)"

begin "delay below: not for what is cached, nor for writes"
start_nbdkit slow --filter=pcache --filter=delay "${disk[@]}" "${new[@]}" \
   rdelay=1 wdelay=1 pcache-on-exit=keep pcache-writeback-delay=10m
nbdsh -u "$(uri slow)" -c '
import time
began = time.monotonic ()
h.pread (65536, 0)
assert time.monotonic () - began > 0.9
began = time.monotonic ()
for i in range (100):
    h.pread (512, i * 512)
    h.pwrite (b"x" * 512, (1 << 20) + i * 512)
    h.flush ()
assert time.monotonic () - began < 100
'
stop slow

begin "rate below: write-back goes slowly, writes do not"
start_nbdkit slow --filter=pcache --filter=rate "${disk[@]}" "${new[@]}" \
   rate=4M pcache-writeback-delay=0
nbdsh -u "$(uri slow)" -c '
import random
data = random.randbytes (3 << 19)
for i in range (24): h.pwrite (data[i << 16:][:1 << 16], i << 16)
h.flush ()
assert open ("disk.img", "rb").read (3 << 19) != data
open ("want.img", "wb").write (data)
'
# When nbdkit stops, rate does not wait any more but fails (delay and retry as
# well): what it held up stays in the cache.
stop slow
say_said slow.log
has_text slow.log ' bytes were not written back ' || fail "not reported"
start slow "${disk[@]}"
cmp -n $((3 << 19)) want.img <(nbdcopy "$(uri slow)" -) || fail "it is lost"
stop slow
cmp -n $((3 << 19)) want.img disk.img || fail "not written back"

control () # SOCKET LETTER
{
  python -c '
import socket, sys
s = socket.socket (socket.AF_UNIX)
s.connect (sys.argv[1])
s.send (sys.argv[2].encode ())
assert s.recv (1).decode () == sys.argv[2].upper ()
' "$1" "$2"
}

begin "pause below: the cache goes on alone; pause above: write-back does"
start_nbdkit below --filter=pcache --filter=pause "${disk[@]}" "${new[@]}" \
   pause-control="$dir/pause1.sock" pcache-writeback-delay=0
nbdsh -u "$(uri below)" -c 'h.pread (65536, 0)'
start_client below
control pause1.sock p
nbdsh -u "$(uri below)" -c '
h.pwrite (b"below", 0)
h.flush ()
assert h.pread (5, 0) == b"below"
'
disk_has 0 below && fail "it was paused"
control pause1.sock r
until_true 20 disk_has 0 below
end_client
stop below
start_nbdkit above --filter=pause --filter=pcache "${disk[@]}" \
   pause-control="$dir/pause2.sock" pcache-writeback-delay=1s
nbdsh -u "$(uri above)" -c 'h.pwrite (b"above", 0)'
control pause2.sock p
until_true 20 disk_has 0 above
control pause2.sock r
nbdsh -u "$(uri above)" -c 'assert h.pread (5, 0) == b"above"'
stop above

begin "scan above fills the cache"
start_nbdkit scan --filter=scan --filter=pcache --filter=log "${disk[@]}" \
   pmem-size=24M logfile=log.out scan-size=256k
start_client scan
all_read () { [ "$(grep -c ' Read .*return=0\|Read id=[0-9]* return' log.out)" -ge 16 ]; }
until_true 30 all_read
end_client
stop scan
start scan "${disk[@]}"
serves scan source.img
stop scan
[ "$(figure scan read_miss_bytes)" -eq 0 ] || fail "not all of it was cached"

begin "readahead above fills the cache"
start_nbdkit ahead --filter=readahead --filter=pcache "${disk[@]}" \
   "${new[@]}" pcache-statsfile=ahead.stats
nbdsh -u "$(uri ahead)" -c 'for i in range (64): h.pread (65536, i << 16)'
stop ahead
[ "$(figure ahead prefetches)" -gt 0 ] || fail "it never asked"

begin "truncate to the right must not make the disk larger"
rm -f "$cache"
start_nbdkit larger --filter=pcache --filter=truncate "${disk[@]}" "${new[@]}" \
   truncate=5M pcache-writeback-delay=0 pcache-drain-timeout=1
nbdsh -u "$(uri larger)" -c 'h.pwrite (b"nowhere", 9 << 19)' -c 'h.flush ()'
until_true 20 has_text larger.log 'write-back failed'
stop larger
say_said larger.log
has_text larger.log ' 7 bytes were not written back ' || fail "not reported"
# To the left the client is told.
rm -f "$cache"
start_nbdkit larger --filter=truncate --filter=pcache "${disk[@]}" "${new[@]}" \
   truncate=5M
nbdsh -u "$(uri larger)" -c '
try:
    h.pwrite (b"nowhere", 9 << 19)
    assert False
except nbd.Error as e:
    assert e.errno == "ENOSPC", e.errno
'
stop larger

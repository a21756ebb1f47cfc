#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Filters below that fail or refuse: what is cached can be read, what is written
# stays dirty and is reported, and reaches the disk when it can.  Filters that
# try again, on both sides.

. "$(dirname "$0")/functions.sh"
need_plugin sh
need_plugin nbd
use_cache pmem

random_file source.img $((4 * MiB))
parameters=(pmem="$cache" pcache-segment-size=1M pcache-writeback-delay=0)
new=(pmem-size=12M)
at_disk () { dd if=disk.img bs=1 skip="$1" count="$2" status=none; }
disk_has () { [ "$(at_disk "$1" ${#2})" = "$2" ]; }
begin () { say "$*"; rm -f "$cache" trigger; cp source.img disk.img; }

begin "error below, for a while"
start below --filter=error file disk.img error=EIO error-rate=100% \
      error-file=trigger "${parameters[@]}" "${new[@]}"
nbdsh -u "$(uri below)" -c 'h.pread (65536, 0)' -c 'h.pwrite (b"one", 0)' \
      -c 'h.flush ()'
touch trigger
nbdsh -u "$(uri below)" -c '
source = open ("source.img", "rb").read ()
h.pwrite (b"two", 100000)
h.zero (5000, 200000)
h.flush ()
assert h.pread (65536, 0) == b"one" + source[3:65536]
assert h.pread (3, 100000) == b"two"
assert h.pread (5000, 200000) == bytes (5000)
try:
    h.pread (1, 3000000)
    assert False
except nbd.Error:
    pass
'
until_true 20 has_text below.log 'pcache: write-back failed'
[ "$(at_disk 100000 3)" != two ] || fail "it was to fail"
rm trigger
until_true 30 has_text below.log 'the backing store works again'
nbdsh -u "$(uri below)" -c 'h.pread (1, 3000000)'
stop below
say_said below.log
[ "$(at_disk 0 3)" = one ] || fail "one is lost"
[ "$(at_disk 100000 3)" = two ] || fail "two is lost"
[ "$(figure below writeback_errors)" -gt 0 ] || fail "no error was counted"
[ "$(figure below dirty_bytes)" -eq 0 ] || fail "still dirty"

begin "error above: a request that failed there was never made"
start_nbdkit above --filter=error --filter=pcache file disk.img error=EIO \
      error-pwrite-rate=50% "${parameters[@]}" "${new[@]}"
nbdsh -u "$(uri above)" -c '
disk = bytearray (open ("source.img", "rb").read ())
failed = 0
for i in range (60):
    data = bytes ([i]) * 1000
    at = i % 7 * 5000
    try:
        h.pwrite (data, at)
        disk[at:at + 1000] = data
    except nbd.Error:
        failed += 1
assert 0 < failed < 60
assert h.pread (100000, 0) == disk[:100000]
open ("model.img", "wb").write (disk)
'
stop above
same disk.img model.img

# Write-back fails for good with these.
for filter in "protect protect=100000-199999" checkwrite; do
  read -r name parameter <<< "$filter"
  begin "$name below: what it refuses stays in the cache, and is reported"
  start refuses --filter="$name" file disk.img $parameter \
        "${parameters[@]}" "${new[@]}" pcache-drain-timeout=1
  nbdsh -u "$(uri refuses)" -c '
h.pwrite (open ("source.img", "rb").read ()[:5000], 100000)
h.flush ()
h.pwrite (b"refused", 150000)
h.flush ()
'
  until_true 20 has_text refuses.log 'write-back failed: .* stays dirty'
  nbdsh -u "$(uri refuses)" -c 'assert h.pread (7, 150000) == b"refused"'
  stop refuses
  say_said refuses.log
  has_text refuses.log ' bytes were not written back ' || fail "not reported"
  same disk.img source.img "$name was there"
  start without file disk.img "${parameters[@]}"
  nbdsh -u "$(uri without)" -c 'assert h.pread (7, 150000) == b"refused"'
  stop without
  [ "$(at_disk 150000 7)" = refused ] || fail "$name: it is lost"
done

begin "ddrescue below: a bad range is bad, and the rest is cached"
cat > map <<'END1'
0x00000000     ?               1
0x00000000     0x00100000     +
0x00100000     0x00001000     -
0x00101000     0x002ff000     +
END1
start rescue -r --filter=ddrescue file disk.img ddrescue-mapfile=map \
      "${parameters[@]}" "${new[@]}"
for i in 1 2; do
  nbdsh -u "$(uri rescue)" -c '
source = open ("source.img", "rb").read ()
assert h.pread (1 << 20, 0) == source[:1 << 20]
assert h.pread (100000, 0x101000) == source[0x101000:0x101000 + 100000]
try:
    h.pread (10, 0x100800)
    assert False
except nbd.Error:
    pass
'
done
stop rescue
[ "$(figure rescue read_hit_bytes)" -ge $MiB ] || fail "nothing was cached"

# A plugin each of whose opens is good for one request.
cat > plugin.sh <<'END1'
#!/bin/bash
cd "$PLUGIN_DIR"
case $1 in
  open) echo open >> opens; mktemp opened.XXXXXX ;;
  get_size) echo 4194304 ;;
  can_write|can_flush) exit 0 ;;
  pread|pwrite)
    if [ ! -e "$2" ]; then echo "EIO the link is down" >&2; exit 1; fi
    rm "$2" ;;&
  pread) dd if=disk.img iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k \
            status=none ;;
  pwrite) dd of=disk.img oflag=seek_bytes seek=$4 conv=notrunc bs=64k \
             status=none ;;
  flush) ;;
  *) exit 2 ;;
esac
END1
chmod +x plugin.sh
export PLUGIN_DIR=$dir

begin "retry below opens such a plugin again, and nobody notices"
start retry --filter=retry sh ./plugin.sh retry-delay=1 \
      "${parameters[@]}" "${new[@]}"
nbdsh -u "$(uri retry)" -c '
source = open ("source.img", "rb").read ()
assert h.pread (1000, 5000) == source[5000:6000]
assert h.pread (1000, 3000000) == source[3000000:3001000]
h.pwrite (b"again", 100000)
'
# When nbdkit stops, it does not wait any more and so does not retry.
until_true 20 disk_has 100000 again
stop retry
[ "$(wc -l < opens)" -ge 3 ] || fail "it was not opened again"
[ "$(figure retry writeback_errors)" -eq 0 ] || fail "write-back noticed"
[ "$(figure retry backing_read_errors)" -eq 0 ] || fail "a read noticed"

# reader PYTHON: in the background, a client of a server that goes away.  Its code
# says at ("ready") and waits until the server is gone, then makes the file asking.
reader ()
{
  nbdsh -u "$(uri client)" -c '
import os, time
source = open ("source.img", "rb").read ()
def at (name):
    open (name, "w")
    while os.path.exists (name):
        time.sleep (0.05)
h.pread (65536, 0)
' -c "$1" > reader.log 2>&1 &
  reader=$!
  helpers+=($reader)
  until_true 20 test -e ready
  kill_hard server
  rm ready
  until_true 20 test -e asking
}

for stack in "pcache retry" "retry pcache"; do
  begin "$stack: the server behind goes away and comes back"
  start_nbdkit server file disk.img
  read -r left right <<< "$stack"
  start_nbdkit client --filter="$left" --filter="$right" \
     nbd socket="$dir/server.sock" retry-delay=1 \
     "${parameters[@]}" "${new[@]}" pcache-statsfile=client.stats
  reader '
h.pwrite (b"before", 100000)
h.flush ()
at ("ready")
h.pwrite (b"meanwhile", 200000)
assert h.pread (65536, 0) == source[:65536]
open ("asking", "w")
assert h.pread (1000, 3000000) == source[3000000:3001000]
'
  # It waits for the server.  Above, retry makes pcache open the plugin again,
  # which it does when no other client is there.
  rm asking
  start_nbdkit server file disk.img
  wait $reader || { cat reader.log; fail "$stack: it did not wait"; }
  until_true 30 disk_has 200000 meanwhile
  stop client
  stop server
  [ "$(at_disk 100000 6)" = before ] || fail "$stack: before is lost"
done

begin "Without retry: who comes again at once finds the plugin opened again"
start_nbdkit server file disk.img
start client nbd socket="$dir/server.sock" "${parameters[@]}" "${new[@]}"
reader '
at ("ready")
try:
    h.pread (1000, 3000000)
    assert False
except nbd.Error:
    pass
at ("asking")
h.shutdown ()
again = nbd.NBD ()
again.connect_uri (h.get_uri ())
assert again.pread (1000, 3000000) == source[3000000:3001000]
'
start_nbdkit server file disk.img
rm asking
wait $reader || { cat reader.log; fail "it was not opened again"; }
stop client
stop server

begin "retry-request below"
start request --filter=retry-request --filter=error file disk.img \
      retry-request-retries=20 retry-request-delay=1 error=EIO \
      error-rate=100% error-file=trigger "${parameters[@]}" "${new[@]}"
nbdsh -u "$(uri request)" -c 'h.pread (1, 0)'
touch trigger
nbdsh -u "$(uri request)" -c 'h.pwrite (b"again", 100000)' -c '
import os, threading
threading.Timer (0.2, os.unlink, ("trigger",)).start ()
assert h.pread (3, 3000000) == open ("source.img", "rb").read ()[3000000:][:3]
'
until_true 20 disk_has 100000 again
stop request
[ "$(figure request backing_read_errors)" -eq 0 ] || fail "a read noticed"

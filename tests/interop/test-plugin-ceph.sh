#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# In front of an RBD image in a Ceph cluster, served by qemu-nbd: nothing that was
# flushed is lost, whatever is killed or hangs, cache, qemu-nbd or OSD; what the image
# and its snapshots hold is at every instant a legal state; and what keeps
# two hosts from writing to one image does.

# run-tests: long timeout=180

. "$(dirname "$0")/functions.sh"
need ceph ceph-mon ceph-mgr ceph-osd rbd rados qemu-nbd
need_plugin nbd
"$PYTHON3" -c 'import rbd, rados' 2>/dev/null ||
  skip "$PYTHON3 has no rbd module (python3-rbd)"
use_seed

conf=$dir/c/ceph.conf
interop=${this_test%/*}

cluster () { within 100 "$interop/ceph-cluster" "$1" c; }
clean_up () { [ ! -d c ] || "$interop/ceph-cluster" end c; }
ceph () { within 60 ceph -c "$conf" "$@"; }
rbd () { within 60 rbd -c "$conf" "$@"; }
rados () { within 60 rados -c "$conf" -p rbd "$@"; }

# serve NAME IMAGE: qemu-nbd, on NAME.sock.
declare -A qemu_of
serve ()
{
  rm -f "$1.sock"
  qemu-nbd -f raw --socket="$dir/$1.sock" --persistent --shared=0 \
           --cache=writeback --discard=unmap "rbd:rbd/$2:conf=$conf" \
           >> "$1-qemu.log" 2>&1 < /dev/null &
  qemu_of[$1]=$!
  helpers+=($!)
  until_true 30 is_served "$1"
}
is_served ()
{
  if is_gone "${qemu_of[$1]}"; then
    if has_text "$1-qemu.log" 'Unknown protocol'; then
      skip "qemu-nbd has no rbd (qemu-block-extra)"
    fi
    fail "qemu-nbd did not start"
  fi
  nbdinfo --size "$(uri "$1")" > /dev/null 2>&1
}
# unserve NAME SIGNAL
unserve ()
{
  kill "-$2" "${qemu_of[$1]}"
  wait "${qemu_of[$1]}" 2>/dev/null || true
}

small=(pcache-segment-size=1M pmem-size=16M)

# holds NAME OFFSET BYTES: what qemu-nbd has there, BYTES being Python.
holds ()
{
  nbdsh -u "$(uri "$1")" -c 'import sys' \
        -c "sys.exit (h.pread (len ($3), $2) != $3)"
}

export_image () { rm -f "$2"; rbd --no-progress export "rbd/$1" "$2"; }

say "A cluster"
code=0
cluster start > cluster.log 2>&1 || code=$?
say_said cluster.log
[ $code -ne 77 ] || skip "$(tail -n 1 cluster.log)"
[ $code -eq 0 ] || fail "no cluster"
ceph osd pool create rbd 8 2> /dev/null
for image in loop cut order host; do
  rbd create rbd/$image --size 24M --object-size 1M
done

say "Written and killed, again and again"
serve q1 loop
truncate -s 24M disk.img
use_cache pmem
within 90 "$PYTHON3" "$here/kill_loop.py" --seed "$seed" --rounds "$(scaled 3)" \
  --disk disk.img \
  --at-end "rm disk.img; rbd -c $conf --no-progress export rbd/loop disk.img" \
  -- "$NBDKIT" --filter=pcache nbd "socket=$dir/q1.sock" "pmem=$cache" \
     "${small[@]}" \
  > kill-loop.out 2>&1 || code=$?
say_said kill-loop.out
[ $code -eq 0 ] || fail "see above"

unserve q1 TERM

say "The OSD does not answer for a while: clients do not notice"
serve q1 cut
use_cache pmem
start fails nbd "socket=$dir/q1.sock" "pmem=$cache" pcache-writeback-delay=0 "${small[@]}"
nbdsh -u "$(uri fails)" -c 'h.pread (8 << 20, 0)' # the cache knows these
cluster pause-osd
within 20 "$PYTHON3" -c '
import nbd, sys
h = nbd.NBD ()
h.connect_uri (sys.argv[1])
for i in range (200):
    h.pwrite (bytes ([i + 1]) * 10000, i * 40000)
    h.flush ()
    assert h.pread (10000, i * 40000) == bytes ([i + 1]) * 10000
' "$(uri fails)"
cluster resume-osd

say "And so does qemu-nbd, while a client is connected"
start_client fails 'h.pwrite (b"new", 4096)'
unserve q1 TERM
serve q1 cut
# The cache opens the plugin anew.
until_true 60 holds q1 4096 'b"new"'
until_true 60 holds q1 7960000 'bytes ([200]) * 10000'
end_client
stop fails 60
[ "$(figure fails dirty_bytes)" -eq 0 ] || fail "not written back"
export_image cut after.img
"$PYTHON3" -c '
disk = bytearray (24 << 20)
for i in range (200):
    disk[i * 40000:i * 40000 + 10000] = bytes ([i + 1]) * 10000
disk[4096:4099] = b"new"
assert disk == open ("after.img", "rb").read ()
' || fail "the image has something else"
unserve q1 TERM

say "Snapshots while it writes back are legal states"
serve q2 order
use_cache pmem
start order nbd "socket=$dir/q2.sock" "pmem=$cache" pcache-segment-size=1M pmem-size=34M \
      pcache-writeback-delay=0
python "$interop/ceph_order.py" write --conf "$conf" --image rbd/order \
       --uri "$(uri order)" --seed "$seed" --epochs 600 ||
  fail "a snapshot is not a legal state"

stop order 60
unserve q2 TERM

say "The host dies, with data that is only in its cache"
serve q3 host
use_cache file
: > writer.out
start host nbd "socket=$dir/q3.sock" "pmem=$cache" "${small[@]}" pcache-writeback-delay=0
"$PYTHON3" "$interop/ceph_order.py" write --killed --history history \
           --uri "$(uri host)" --seed "$seed" > writer.out 2>&1 &
writer=$!
helpers+=($writer)
until_true 30 has_text writer.out writing
sleep 1
sleep_up_to 1000
unserve q3 KILL
kill_hard host
until_true 30 is_gone $writer
wait $writer || fail "$(cat writer.out)"
export_image host lost.img
python "$interop/ceph_order.py" check lost.img --history history ||
  fail "what the pool has is not a legal state"

say "Its cache device goes to another host, which has all that was flushed"
rbd lock ls rbd/host > locks || true
say_said locks
# Fences the old one, and does not wait until it has long been silent.
read -r locker id < <(rbd lock ls rbd/host --format json | "$PYTHON3" -c '
import json, sys
for lock in json.load (sys.stdin): print (lock["locker"], lock["id"])')
rbd lock rm rbd/host "$id" "$locker"
serve q4 host
start moved nbd "socket=$dir/q4.sock" "pmem=$cache"
nbdsh -u "$(uri moved)" -c 'h.pread (1, 0)'
stop moved 60
unserve q4 TERM
export_image host moved.img
python "$interop/ceph_order.py" check moved.img --history history --flushed ||
  fail "something that was flushed is lost"

# One writer --------------------------------------------------------------

# The commands of docs/SCALING.md.

# claim HOST: take the image, or fail; the claim outlives the process.
claim ()
{
  rados lock get pcache.shared owner --lock-type exclusive \
        --lock-cookie "$1.$(date +%s%N)" 2> /dev/null
}
# claimed PART: name (for lock break) or cookie, of who has it.
claimed ()
{
  rados lock info pcache.shared owner --format json | "$PYTHON3" -c '
import json, sys
for locker in json.load (sys.stdin).get ("lockers", []):
    print (locker[sys.argv[1]])' "$1"
}
unclaim ()
{
  rados lock break pcache.shared owner "$(claimed name)" \
        --lock-cookie "$(claimed cookie)"
}

say "Two hosts: what the exclusive lock does not prevent"
rbd create rbd/shared --size 8M --object-size 1M
serve qa shared
serve qb shared
nbdsh -u "$(uri qa)" -c 'h.pwrite (b"a" * 4096, 0)' -c 'h.flush ()'
nbdsh -u "$(uri qb)" -c 'h.pwrite (b"b" * 4096, 0)' -c 'h.flush ()'
nbdsh -u "$(uri qa)" -c 'h.pwrite (b"A" * 4096, 4096)' -c 'h.flush ()' \
      -c 'assert h.pread (1, 0) == b"b"'

say "Two hosts: a claim"
claim a || fail "host a cannot claim a free image"
! claim b || fail "host b could claim it as well"
id_a=$(claimed cookie)
on_a=(nbd "socket=$dir/qa.sock" pmem=a.img "${small[@]}"
      pcache-drain-timeout=3)
start a "${on_a[@]}" "pcache-backing-id=$id_a" pcache-writeback-delay=0
nbdsh -u "$(uri a)" -c 'h.pwrite (b"1" * 65536, 0)' -c 'h.flush ()'
until_true 20 holds qa 0 'b"1" * 65536'
nbdsh -u "$(uri a)" -c 'assert h.pread (4096, 65536) == bytes (4096)'

say "Host a is cut off: fenced, and host b takes over"
address=$(rbd lock ls rbd/shared --format json | "$PYTHON3" -c '
import json, sys
print (json.load (sys.stdin)[0]["address"])')
ceph osd blocklist add "$address" 2> /dev/null
nbdsh -u "$(uri a)" -c 'h.pwrite (b"2" * 65536, 0)' -c 'h.flush ()'
unclaim
claim b || fail "host b cannot claim it"
start b nbd "socket=$dir/qb.sock" pmem=b.img "${small[@]}" \
      "pcache-backing-id=$(claimed cookie)"
nbdsh -u "$(uri b)" -c 'assert h.pread (65536, 0) == b"1" * 65536' \
      -c 'h.pwrite (b"3" * 32768, 32768)'
# What is clean in a's cache is old now, too.
nbdsh -u "$(uri b)" -c 'h.pwrite (b"4" * 4096, 65536)'
stop b
stop a
say_said a.log
has_text a.log 'bytes were not written back' || fail "a wrote though fenced"

say "Host a comes back"
[ "$(claimed cookie)" != "$id_a" ] || fail "the claim is still that of a"
unserve qa TERM
serve qa shared
start a "${on_a[@]}" "pcache-backing-id=$(claimed cookie)"
if nbdsh -u "$(uri a)" -c 'h.pread (1, 0)' 2> client.err; then
  fail "an old cache was served"
fi
stop a
has_text a.log 'belongs to the backing store with pcache-backing-id=' ||
  fail "it does not say why"
unserve qa TERM
unserve qb TERM
export_image shared shared.img
"$PYTHON3" -c '
want = bytearray (8 << 20)
want[:32768] = b"1" * 32768
want[32768:65536] = b"3" * 32768
want[65536:69632] = b"4" * 4096
assert want == open ("shared.img", "rb").read ()
' || fail "the image is not what host b left"

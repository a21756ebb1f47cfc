#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# SIGTERM while clients are connected.  Busy ones: what was answered is on the
# disk when nbdkit has ended.  An idle one, which keeps nbdkit up: the drain
# starts at the signal, and the disk is complete within seconds.

# run-tests: tsan

. "$(dirname "$0")/functions.sh"
need fio

parameters=(pmem=cache.img pmem-size=64M pcache-segment-size=1M
            pcache-writeback-delay=10m)

say "under load, several times"
for i in 1 2 3; do
  rm -f cache.img disk.img writing
  truncate -s 32M disk.img
  start busy$i file disk.img "${parameters[@]}"
  # Writes numbered blocks; says which were answered, until it cannot.
  "$PYTHON3" - "$(uri busy$i)" > answered 2> client.log <<'END' &
import nbd, struct, sys, threading
def client(n):
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    try:
        for c in range(1, 1 << 30):
            for b in range(n, 2048, 3):
                h.pwrite(struct.pack("<QQ", b, c) * 256, b * 4096)
                last[b] = c
                if b == 300:
                    open("writing", "w")
    except nbd.Error as e:
        print("client %d: %s" % (n, e), file=sys.stderr)
last = [0] * 2048
threads = [threading.Thread(target=client, args=(n,)) for n in range(3)]
for t in threads: t.start()
for t in threads: t.join()
print(*last)
END
  client=$!
  helpers+=($client)
  until_true 30 test -e writing
  sleep 0.$((3 + i))
  stop busy$i 20
  within 20 tail -s 0.05 --pid=$client -f /dev/null
  [ -s answered ] || fail "the client failed: $(cat client.log)"
  "$PYTHON3" - <<'END'
import struct, sys
last = list(map(int, open("answered").read().split()))
assert sum(last) > 100, "hardly anything was written"
disk = open("disk.img", "rb").read()
for b, c in enumerate(last):
    block = disk[b * 4096:(b + 1) * 4096]
    # The one after may have been done, but not answered.
    if block not in [struct.pack("<QQ", b, n) * 256 if n else bytes(4096)
                     for n in (c, c + 1)]:
        sys.exit("block %d: write %d was answered, the disk has %r"
                 % (b, c, struct.unpack_from("<QQ", block)))
END
  [ "$(figure busy$i dirty_bytes)" -eq 0 ] || fail "not drained"
done

say "under the load of fio"
rm -f cache.img
start fio file disk.img "${parameters[@]}"
timeout 30 fio --name=load --ioengine=nbd --uri="$(uri fio)" --rw=randwrite \
  --bs=4k --size=32M --iodepth=32 --time_based --runtime=20 \
  > fio.log 2>&1 &
fio=$!
helpers+=($fio)
sleep 1
stop fio 20
kill $fio 2>/dev/null || true
[ "$(figure fio dirty_bytes)" -eq 0 ] || fail "not drained"

say "an idle client is connected"
random_file data.img $((16 * MiB))
for kind in file pmem; do
  use_cache $kind
  rm -f disk.img
  truncate -s 16M disk.img
  start idle-$kind file disk.img pmem="$cache" "${parameters[@]:1}"
  start_client idle-$kind 'h.pwrite (open ("data.img", "rb").read (), 0)'
  differs disk.img data.img "the test is about data not yet written back"
  kill -TERM "${pid_of[idle-$kind]}"
  until_true 5 cmp -s disk.img data.img
  is_running "${pid_of[idle-$kind]}" ||
    say "(it did not even wait for the client)"
  # Then it goes, and so does nbdkit.
  end_client
  await idle-$kind 10 || fail "exit code $?"
  same disk.img data.img
  [ "$(figure idle-$kind dirty_bytes)" -eq 0 ] || fail "not drained"
done

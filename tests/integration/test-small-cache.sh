#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The smallest cache, 4 segments of 1 MiB, under load much larger than itself,
# from many clients at once, with reads, flushes and requests larger than the
# whole cache: it does not come to a standstill, and nothing is lost.

# run-tests: tsan

. "$(dirname "$0")/functions.sh"
need fio

# Its size is what the message about too small ones says.
code=0
"$NBDKIT" -U - --filter=pcache null 1M pmem=tiny.img pmem-size=1M \
   pcache-segment-size=1M > tiny.log 2>&1 || code=$?
[ $code -ne 0 ] || fail "1 MiB was taken for enough"
least=$(sed -n 's/.* at least \([0-9]*\) bytes.*/\1/p' tiny.log)
[ -n "$least" ] || fail "it does not say the minimum: $(cat tiny.log)"
[ ! -e tiny.img ] || fail "it left a file behind"

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img
  truncate -s 64M disk.img
  start $kind file disk.img pmem="$cache" pmem-size="$least" \
        pcache-segment-size=1M pcache-writeback-delay=10m
  python - "$(uri $kind)" <<'END'
import nbd, random, sys, threading

SIZE, CLIENTS = 64 << 20, 6
part = SIZE // CLIENTS
expected = [None] * CLIENTS
wrong = []

def client(n):
    rng = random.Random(n)
    disk = bytearray(part)
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    try:
        for i in range(40):
            length = rng.choice((1, 4096, 4096, 65536, 300001, 2 << 20))
            at = rng.randrange(part - length)
            data = rng.randbytes(length)
            h.pwrite(data, n * part + at,
                     nbd.CMD_FLAG_FUA if rng.random() < 0.2 else 0)
            disk[at:at + length] = data
            if rng.random() < 0.3:
                length = rng.choice((100, 65536, 1 << 20))
                at = rng.randrange(part - length)
                assert h.pread(length, n * part + at) == \
                    disk[at:at + length], "read back"
            if rng.random() < 0.1:
                h.flush()
        # Larger than the cache.
        data = rng.randbytes(9 << 20)
        h.pwrite(data, n * part + 12345)
        disk[12345:12345 + len(data)] = data
        assert h.pread(part, n * part) == disk, "at the end"
        expected[n] = disk
    except Exception as e:
        wrong.append("client %d: %r" % (n, e))

threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
for t in threads:
    t.start()
for t in threads:
    t.join()
if wrong:
    sys.exit("\n".join(wrong))
with open("expected.img", "wb") as f:
    for disk in expected:
        f.write(disk)
    f.truncate(SIZE)
END
  stop $kind
  same disk.img expected.img
  [ "$(figure $kind segments_total)" -eq 4 ] ||
    fail "$(figure $kind segments_total) segments"
  [ "$(figure $kind evicted_segments)" -gt 50 ] ||
    fail "only $(figure $kind evicted_segments) segments were reused"
done

say "The same with gc-percent at its limits"
for percent in 0 90; do
  rm -f cache.img disk.img
  truncate -s 16M disk.img
  unset PMEM_IS_PMEM_FORCE
  start gc$percent file disk.img pmem=cache.img pmem-size="$least" \
        pcache-segment-size=1M pcache-gc-percent=$percent
  within 60 fio --name=small --ioengine=nbd --uri="$(uri gc$percent)" \
         --rw=randrw --bsrange=512-64k --size=16M --verify=crc32c \
         --iodepth=8 --do_verify=1 --randseed=1 --minimal > fio.log
  stop gc$percent
done

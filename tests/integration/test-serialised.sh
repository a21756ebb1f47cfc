#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A plugin that is not fully parallel gets one call at a time, though clients
# and write-back work at once, and though nbdkit's own locks are not taken for
# a filter's threads.

# run-tests: tsan

. "$(dirname "$0")/functions.sh"
need_plugin sh
need flock

# SERIALIZE_ALL_REQUESTS, and it notices when that is not kept.
cat > plugin.sh <<'END'
#!/bin/bash
enter ()
{
  mkdir busy 2>/dev/null || { echo "$*" >> overlaps; return; }
  trap 'rmdir busy' EXIT
  echo "$1" >> calls
  # Long enough for another one to come.
  sleep 0.002
}
cd "$PLUGIN_DIR"
case $1 in
  thread_model) echo serialize_all_requests ;;
  get_size) enter "$@"; echo 8388608 ;;
  can_write|can_trim|can_zero|can_flush|can_extents|can_fast_zero) exit 0 ;;
  can_fua|can_cache) echo none ;;
  pread) enter "$@"
    dd if=disk.img iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k \
       status=none ;;
  pwrite) enter "$@"
    dd of=disk.img oflag=seek_bytes seek=$4 conv=notrunc bs=64k status=none ;;
  zero|trim) enter "$@"; fallocate -z -o $4 -l $3 disk.img ;;
  flush) enter "$@" ;;
  extents) enter "$@"; echo 0 8388608 ;;
  *) exit 2 ;;
esac
END
chmod +x plugin.sh
export PLUGIN_DIR=$dir
truncate -s 8M disk.img

start first sh ./plugin.sh pmem=cache.img pmem-size=10M \
      pcache-segment-size=1M pcache-writeback-delay=0
python - "$(uri first)" <<'END'
import nbd, random, sys, threading, time

SIZE, CLIENTS = 8 << 20, 4
part = SIZE // CLIENTS
disks = [bytearray(part) for _ in range(CLIENTS)]
wrong = []
end = time.monotonic() + 4

def client(n):
    rng = random.Random(n)
    disk = disks[n]
    try:
        while time.monotonic() < end:
            # Connections come and go: that calls the plugin as well.
            h = nbd.NBD()
            h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
            h.connect_uri(sys.argv[1])
            for i in range(8):
                length = rng.randint(1, 50000)
                at = rng.randrange(part - length)
                op = rng.random()
                if op < 0.4:
                    data = rng.randbytes(length)
                    h.pwrite(data, n * part + at)
                    disk[at:at + length] = data
                elif op < 0.8:
                    if h.pread(length, n * part + at) != \
                       disk[at:at + length]:
                        raise Exception("read %d + %d" % (at, length))
                elif op < 0.9:
                    h.zero(length, n * part + at)
                    disk[at:at + length] = bytes(length)
                elif op < 0.95:
                    h.block_status(length, at, lambda *args: 0)
                else:
                    h.flush()
            h.shutdown()
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
    for disk in disks:
        f.write(disk)
END
stop first 60
same disk.img expected.img
sort calls | uniq -c
for call in pread pwrite zero flush; do
  has_text calls "^$call" || fail "the plugin was never called for $call"
done
[ ! -e overlaps ] || fail "calls overlapped: $(sort overlaps | uniq -c)"

# The same from filters above or below it that make it so: the noparallel
# filter counts by its thread model only.
start second --filter=noparallel file disk.img serialize=connections \
      pmem=cache2.img pmem-size=10M pcache-segment-size=1M
nbdsh -u "$(uri second)" -c '
assert h.pread (8 << 20, 0) == open ("expected.img", "rb").read ()
h.pwrite (b"x", 5)
'
stop second

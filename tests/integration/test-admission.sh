#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# What reads leave in the cache: sequential ones that are longer than the cutoff pass
# by once it is full; with a fill size a miss brings in its surroundings, over
# NBD with a plugin that sees how often it is asked; eviction=ghost waits for a
# second miss.

. "$(dirname "$0")/functions.sh"

random_file disk.img $((32 * MiB))

# read_all NAME SIZE: everything, in requests of this size, in order
read_all ()
{
  python - "$(uri "$1")" "$2" <<'END'
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
step = int(sys.argv[2])
with open("disk.img", "rb") as f:
    for at in range(0, h.get_size(), step):
        n = min(step, h.get_size() - at)
        assert h.pread(n, at) == f.read(n), at
END
}

# A cache of 10 MiB: full after about 5.
for cutoff in 0 1M; do
  start cutoff-$cutoff file disk.img pmem=$cutoff.img pmem-size=12M \
        pcache-segment-size=1M pcache-sequential-cutoff=$cutoff
  read_all cutoff-$cutoff 65536
  stop cutoff-$cutoff
done
[ "$(figure cutoff-0 sequential_bytes)" -eq 0 ] || fail "passed by without cutoff"
passed=$(figure cutoff-1M sequential_bytes)
filled=$(figure cutoff-1M fill_bytes)
say "$passed bytes passed by, $filled were cached"
[ "$passed" -ge $((20 * MiB)) ] || fail "only $passed bytes passed by"
[ "$filled" -ge $((3 * MiB)) ] || fail "with room, only $filled were cached"
[ "$(figure cutoff-0 evicted_segments)" -gt 0 ] || fail "nothing was evicted"
[ "$(figure cutoff-1M evicted_segments)" -eq 0 ] ||
  fail "sequential reads drove something out"

# Two scans with the ghost: the first fills what room there is, the second finds
# what is known.
start ghost file disk.img pmem=ghost.img pmem-size=12M \
      pcache-segment-size=1M pcache-sequential-cutoff=0 pcache-eviction=ghost
read_all ghost 65536
stop ghost
[ "$(figure ghost ghost_miss_bytes)" -ge $((20 * MiB)) ] ||
  fail "the ghost let in what it did not know"

# Each request to the plugin is a line of its log; 4 KiB in each 64.
start_nbdkit unit --filter=pcache --filter=log file disk.img logfile=unit.reads \
             pmem=unit.img pmem-size=64M pcache-segment-size=1M \
             pcache-fill-size=64k pcache-statsfile=unit.stats
python - "$(uri unit)" <<'END'
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
with open("disk.img", "rb") as f:
    disk = f.read()
size = 4 << 20
for at in range(20480, size, 65536):
    assert h.pread(4096, at) == disk[at:at + 4096]
assert h.pread(size, 0) == disk[:size]
END
stop unit
reads=$(grep -c ' Read .*count=0x10000 ' unit.reads || true)
[ "$reads" -eq 64 ] || fail "$reads reads of 64 KiB reached the plugin"
[ "$(grep -c ' Read ' unit.reads)" -eq 64 ] || fail "others did, too"
[ "$(figure unit surrounding_bytes)" -eq $((64 * (65536 - 4096))) ] ||
  fail "surrounding_bytes is wrong"

refused bad 'pcache-fill-size=3000: expected 0, or a power of two' -- \
        --filter=pcache file disk.img pmem=bad.img pmem-size=64M pcache-fill-size=3000
refused bad 'pcache-eviction=lru: expected clock, fifo or ghost' -- \
        --filter=pcache file disk.img pmem=bad.img pmem-size=64M pcache-eviction=lru

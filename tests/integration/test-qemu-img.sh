#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# qemu-img and qemu-io copy, compare and check disks through the cache, in and
# out, and see what a plain disk would show; also with a qcow2 on the cached
# disk, and with a snapshot of it taken meanwhile.

. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io

"$PYTHON3" -c '
import random
r = random.Random (11)
with open ("source.img", "wb") as f:
  f.truncate (48 << 20)
  for i in range (60):
    f.seek (r.randrange (47 << 20)); f.write (r.randbytes (r.randrange (1, 400000)))
'
truncate -s 48M disk.img
parameters=(pmem=cache.img pmem-size=24M pcache-segment-size=1M)
img () { within 60 qemu-img "$@"; }

say "In, compared, out; the cache is smaller than the disk"
start first file disk.img "${parameters[@]}"
img convert -n -f raw -O raw source.img "$(uri first)"
img compare -f raw -F raw source.img "$(uri first)"
img convert -f raw -O raw "$(uri first)" copy1.img
same copy1.img source.img
img convert -f raw -O qcow2 "$(uri first)" copy2.qcow2
img compare -f raw -F qcow2 source.img copy2.qcow2
# Parallel requests, out of order.
img convert -n -m 16 -W -f qcow2 -O raw copy2.qcow2 "$(uri first)"
img compare -f raw -F raw source.img "$(uri first)"
stop first
same disk.img source.img

say "Killed in the middle of a copy, and copied again"
rm -f cache.img disk.img
truncate -s 48M disk.img
start second file disk.img "${parameters[@]}"
qemu-img convert -n -f raw -O raw source.img "$(uri second)" \
  > convert.log 2>&1 &
helpers+=($!)
sleep 0.15
kill_hard second
kill -KILL "${helpers[-1]}" 2>/dev/null || true
wait "${helpers[-1]}" 2>/dev/null || true
start third file disk.img "${parameters[@]}"
img convert -n -f raw -O raw source.img "$(uri third)"
img compare -f raw -F raw source.img "$(uri third)"
stop third
same disk.img source.img

say "qcow2 on the cached disk, with discard and zeros, killed and checked"
rm -f cache.img disk.img
truncate -s 96M disk.img
start fourth file disk.img "${parameters[@]}"
img create -f qcow2 "$(uri fourth)" 64M > /dev/null
within 60 qemu-io -f qcow2 -c 'write -P 17 1M 20M' -c 'write -z 3M 1M' \
  -c 'discard 5M 2M' -c 'write -P 18 60M 64k' -c 'flush' "$(uri fourth)" \
  > io.out
kill_hard fourth
start fifth file disk.img "${parameters[@]}"
img check -f qcow2 "$(uri fifth)"
within 60 qemu-io -f qcow2 -r -c 'read -P 17 1M 2M' -c 'read -P 0 3M 1M' \
  -c 'read -P 17 7M 14M' -c 'read -P 18 60M 64k' "$(uri fifth)" > io.out
! has_text io.out 'verification failed' || fail "$(cat io.out)"
stop fifth
img check -f qcow2 disk.img

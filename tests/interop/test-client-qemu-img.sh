#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# qemu-img copies, compares, maps, measures, benchmarks and checks disks through
# the cache, in and out, and sees what a plain disk would show; with a qcow2 on
# the cached disk, with snapshots in it, and with the cached disk as the base of
# a chain of images.

. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io

sparse_file source.img $((32 * MiB))
truncate -s 32M disk.img
parameters=(pmem=cache.img pmem-size=14M pcache-segment-size=1M)
img () { within 60 qemu-img "$@"; }
qio () { within 60 qemu-io "$@" > io.out || fail "qemu-io: $(cat io.out)"
         ! has_text io.out 'verification failed' || fail "$(cat io.out)"; }

say "In, compared, out; the cache is smaller than the disk"
start first file disk.img "${parameters[@]}"
img convert -n --target-is-zero -f raw -O raw source.img "$(uri first)"
img compare -f raw -F raw source.img "$(uri first)"
img map -f raw --output=json "$(uri first)" > map1.json
map_agrees map1.json source.img
img convert -f raw -O raw "$(uri first)" copy1.img
same copy1.img source.img
as_sparse copy1.img source.img
img convert -S 64k -f raw -O raw "$(uri first)" copy2.img
same copy2.img source.img
img convert -S 0 -f raw -O raw "$(uri first)" copy3.img
same copy3.img source.img
img convert -f raw -O qcow2 "$(uri first)" copy4.qcow2
img compare -f raw -F qcow2 source.img copy4.qcow2
img convert -c -f raw -O qcow2 "$(uri first)" copy5.qcow2
img compare -f raw -F qcow2 source.img copy5.qcow2
# Parallel requests, out of order; with no cache of its own, and with FUA.
img convert -n -m 16 -W -f qcow2 -O raw copy4.qcow2 "$(uri first)"
img compare -f raw -F raw source.img "$(uri first)"
img convert -n -t writethrough -m 16 -f qcow2 -O raw copy5.qcow2 "$(uri first)"
img compare -s -T none -f raw -F raw source.img "$(uri first)"
# Without -n it "creates" the disk: zeroes the start, and fills it.
img convert -t none -f raw -O raw source.img "$(uri first)"
img compare -f raw -F raw source.img "$(uri first)"
img map -f raw --output=json "$(uri first)" > map2.json
map_agrees map2.json source.img
for format in raw qcow2; do
  img measure -f raw -O $format source.img > measure.want
  img measure -f raw -O $format "$(uri first)" > measure.got
  same measure.got measure.want
done
img info -f raw --output=json "$(uri first)" > info
has_text info "\"virtual-size\": $((32 * MiB))" || fail "$(cat info)"

# Its count includes what it skips.
say "dd, with an odd block size"
img dd -f raw -O raw bs=69632 skip=13 count=113 if="$(uri first)" of=dd.img
cmp -n $((100 * 69632)) dd.img <(tail -c +$((13 * 69632 + 1)) source.img) ||
  fail "what dd copied is not what it should have"

say "It cannot be resized"
for size in +1M 48M; do
  if img resize -f raw "$(uri first)" $size 2> resize.err; then
    fail "the disk was resized"
  fi
  has_text resize.err 'Cannot resize NBD nodes' || fail "$(cat resize.err)"
done

say "bench"
img bench -c 2000 -d 64 -s 4096 -f raw "$(uri first)" > bench.out
img bench -w -c 2000 -d 64 -s 8192 -o $((5 * MiB)) --pattern=165 \
    --flush-interval=100 -f raw "$(uri first)" >> bench.out
img bench -w -c 400 -d 64 -S 65536 -s 512 -t writethrough --pattern=166 \
    -o 512 -f raw "$(uri first)" >> bench.out
cat bench.out
stop first
"$PYTHON3" -c '
with open ("source.img", "r+b") as f:
    f.seek (5 << 20); f.write (b"\xa5" * (2000 * 8192))
    for i in range (400):
        f.seek (512 + i * 65536); f.write (b"\xa6" * 512)
'
same disk.img source.img

say "Killed in the middle of a copy, and copied again"
rm -f cache.img disk.img
truncate -s 32M disk.img
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

say "A chain of images on it, written back into it by commit"
start base file disk.img "${parameters[@]}"
img create -q -f qcow2 -F raw -b "$(uri base)" middle.qcow2
img create -q -f qcow2 -F qcow2 -b middle.qcow2 top.qcow2
changes=(-c 'write -P 33 3M 5M' -c 'write -z 9M 2M' -c 'discard 20M 1M'
         -c 'write -P 34 31M 1M')
qio -f qcow2 -c 'write -P 31 2M 2M' -c 'write -P 32 30M 64k' middle.qcow2
qio -f qcow2 "${changes[@]}" top.qcow2
qio -f raw -c 'write -P 31 2M 2M' -c 'write -P 32 30M 64k' "${changes[@]}" \
    source.img
img compare -f qcow2 -F raw top.qcow2 source.img
img commit -q -f qcow2 top.qcow2
img commit -q -f qcow2 -t writethrough middle.qcow2
img compare -f raw -F raw "$(uri base)" source.img
# An image that becomes the difference to the cached disk.
cp --sparse=always source.img other.img
qio -f raw -c 'write -P 40 1M 64k' -c 'write -P 41 30M 1M' other.img
img create -q -f qcow2 -F raw -b other.img top.qcow2
img rebase -f qcow2 -F raw -b "$(uri base)" top.qcow2
img compare -f qcow2 -F raw top.qcow2 other.img
kill_hard base
start base file disk.img pmem=cache.img
img compare -f raw -F raw "$(uri base)" source.img
stop base
same disk.img source.img

say "qcow2 on the cached disk: discards, zeros, snapshots; killed, and checked"
rm -f cache.img disk.img
truncate -s 96M disk.img
start fourth file disk.img "${parameters[@]}"
img create -q -f qcow2 -F raw -b "$dir/source.img" \
    "$(uri fourth)" 64M
qio -f qcow2 -c 'write -P 17 1M 20M' -c 'write -z 3M 1M' \
    -c 'discard 5M 2M' -c 'write -P 18 60M 64k' -c flush "$(uri fourth)"
img snapshot -c one "$(uri fourth)"
qio -f qcow2 -c 'write -P 19 1M 12M' -c flush "$(uri fourth)"
img snapshot -c two "$(uri fourth)"
kill_hard fourth
start fifth file disk.img "${parameters[@]}"
img check -q -f qcow2 "$(uri fifth)"
img snapshot -l "$(uri fifth)" | grep -cE ' (one|two) ' | grep -qx 2 ||
  fail "there are not two snapshots"
qio -f qcow2 -c 'read -P 19 1M 12M' -c 'read -P 17 13M 8M' "$(uri fifth)"
img snapshot -a one "$(uri fifth)"
img snapshot -d two "$(uri fifth)"
qio -f qcow2 -r -c 'read -P 17 1M 2M' -c 'read -P 0 3M 1M' \
    -c 'read -P 0 5M 2M' -c 'read -P 17 7M 14M' -c 'read -P 18 60M 64k' \
    "$(uri fifth)"
img check -q -f qcow2 "$(uri fifth)"
# From one cache to another, out of the chain.
img convert -f qcow2 -O raw "$(uri fifth)" flat.img
stop fifth
img check -q -f qcow2 disk.img
img compare -f qcow2 -F raw disk.img flat.img

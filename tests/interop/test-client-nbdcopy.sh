#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# nbdcopy in both directions, over several connections at once, with 64 requests
# in flight on each or one by one, from cache to cache, with an nbdkit of its
# own; holes stay holes, and what --flush has returned for survives kill -9.

. "$(dirname "$0")/functions.sh"
need nbdcopy

size=$((32 * MiB + 512))
sparse_file source.img $size 12
copy () { within 60 nbdcopy "$@"; }

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img copy*.img
  truncate -s $size disk.img
  start $kind file disk.img pmem="$cache" pmem-size=14M \
        pcache-segment-size=1M
  copy --target-is-zero --connections=8 --threads=8 --requests=64 --flush \
       source.img "$(uri $kind)"
  kill_hard $kind
  start $kind-2 file disk.img pmem="$cache"
  copy --connections=8 --threads=8 --requests=64 "$(uri $kind-2)" copy1.img
  same copy1.img source.img
  as_sparse copy1.img source.img
  copy --synchronous "$(uri $kind-2)" copy2.img
  same copy2.img source.img
  # Over what is there: old data must not show where the source has holes.
  sparse_file other.img $size 13
  copy --connections=4 --requests=64 --sparse=0 --no-extents other.img \
       "$(uri $kind-2)"
  serves $kind-2 other.img
  copy --connections=4 --requests=64 --sparse=65536 source.img "$(uri $kind-2)"
  serves $kind-2 source.img
  copy --allocated --request-size=4096 --queue-size=65536 \
       other.img "$(uri $kind-2)"
  copy "$(uri $kind-2)" - > copy3.img
  same copy3.img other.img
  copy - "$(uri $kind-2)" < source.img
  copy --synchronous --flush "$(uri $kind-2)" "$(uri $kind-2)"
  stop $kind-2
  same disk.img source.img
done
unset PMEM_IS_PMEM_FORCE

say "From one cache to another"
rm -f disk.img other.img
cp --sparse=always source.img disk.img
truncate -s $size other.img
start from -r file disk.img pmem=from.img pmem-size=14M pcache-segment-size=1M
start to file other.img pmem=to.img pmem-size=14M pcache-segment-size=1M
copy --connections=4 --requests=64 --target-is-zero "$(uri from)" "$(uri to)"
copy "$(uri to)" copy4.img
stop from
stop to
same copy4.img source.img
same other.img source.img
as_sparse other.img source.img

say "To an nbdkit of its own, which drains before it ends"
rm -f other.img to.img
truncate -s $size other.img
copy source.img -- [ "$NBDKIT" --filter=pcache file "$dir/other.img" \
                     pmem="$dir/to.img" pmem-size=14M pcache-segment-size=1M ]
same other.img source.img

say "An nbdcopy is killed: whatever becomes of nbdkit, nothing is lost"
# nbdkit 1.32.5 itself, with no filter at all, often aborts then: "raw_send_
# socket: Assertion `sock >= 0' failed".
start killed file disk.img pmem=from.img pcache-segment-size=1M
nbdcopy --connections=4 "$(uri killed)" "$(uri killed)" > copy.out 2>&1 &
helpers+=($!)
sleep 0.1
kill -KILL "${helpers[-1]}" 2>/dev/null || true
wait "${helpers[-1]}" 2>/dev/null || true
kill -TERM "${pid_of[killed]}" 2>/dev/null || true
await killed 20 || has_text killed.log 'raw_send_socket: Assertion' ||
  fail "nbdkit ended with exit code $?"
start after file disk.img pmem=from.img
copy "$(uri after)" copy5.img
stop after
same copy5.img source.img
same disk.img source.img

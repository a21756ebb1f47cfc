#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# nbdcopy in both directions, over several connections at once, with and
# without asynchronous requests, from cache to cache.

. "$(dirname "$0")/functions.sh"
need nbdcopy

"$PYTHON3" -c '
import random
r = random.Random (12)
with open ("source.img", "wb") as f:
  f.truncate ((48 << 20) + 512)
  for i in range (60):
    f.seek (r.randrange (47 << 20)); f.write (r.randbytes (r.randrange (1, 400000)))
'
size=$(stat -c %s source.img)
copy () { within 60 nbdcopy "$@"; }

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img copy*.img
  truncate -s "$size" disk.img
  start $kind file disk.img pmem="$cache" pmem-size=24M pcache-segment-size=1M
  copy --connections=4 --requests=64 --flush source.img "$(uri $kind)"
  copy --connections=4 --requests=64 "$(uri $kind)" copy1.img
  same copy1.img source.img
  copy --synchronous "$(uri $kind)" copy2.img
  same copy2.img source.img
  copy --allocated --destination-is-zero --request-size=4096 \
       source.img "$(uri $kind)"
  copy "$(uri $kind)" - > copy3.img
  same copy3.img source.img
  stop $kind
  same disk.img source.img
done
unset PMEM_IS_PMEM_FORCE

say "From one cache to another"
rm -f disk.img other.img
cp source.img disk.img
truncate -s "$size" other.img
start from -r file disk.img pmem=from.img pmem-size=24M pcache-segment-size=1M
start to file other.img pmem=to.img pmem-size=24M pcache-segment-size=1M
copy --connections=4 "$(uri from)" "$(uri to)"
copy "$(uri to)" copy4.img
stop from
stop to
same copy4.img source.img
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

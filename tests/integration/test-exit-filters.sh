#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# exitlast and exitwhen above or below the cache end nbdkit when the last client
# is gone, and everything is on the disk then.

. "$(dirname "$0")/functions.sh"

parameters=(pmem=cache.img pmem-size=16M pcache-segment-size=1M
            pcache-writeback-delay=200ms)

for order in above below; do
  rm -f disk.img cache.img
  truncate -s 8M disk.img
  if [ $order = above ]
  then stack=(--filter=exitlast --filter=pcache)
  else stack=(--filter=pcache --filter=exitlast)
  fi
  start_nbdkit $order "${stack[@]}" file disk.img "${parameters[@]}"
  nbdsh -u "$(uri $order)" -c 'h.pwrite (b"data", 0)' -c 'h.shutdown ()'
  await $order 20 || fail "exit code $?"
  [ "$(head -c 4 disk.img)" = data ] || fail "exitlast $order: not written back"
done

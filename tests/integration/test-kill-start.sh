#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# kill -9 of a start, many times in a row, while it replays a cache with
# thousands of dirty records, seals what the kill before left open, or begins
# to write back: then all is there, and the disk gets it.  SEED=N repeats a
# run's choices.

. "$(dirname "$0")/functions.sh"
use_seed

scatter ()
{
  python "$here/scatter.py" "$(uri "$1")" expected.img $RANDOM "${@:2}"
}

delays=(0 10m)
early=0
for kind in file pmem; do
  use_cache $kind
  rm -f disk.img expected.img
  truncate -s 24M disk.img expected.img
  make=(file disk.img pmem="$cache" pmem-size=16M pcache-segment-size=1M)
  parameters=(file disk.img pmem="$cache")

  # More than the cache holds, so that it has been written back and evicted in
  # part; then what will not be.
  start fill "${make[@]}" pcache-writeback-delay=0
  scatter fill "$(scaled 2000)" 20000 200
  kill_hard fill
  start dirty "${parameters[@]}" pcache-writeback-delay=10m
  scatter dirty "$(scaled 25000)" 400 1000
  kill_hard dirty
  cp "$cache" cache.kept
  cp disk.img disk.kept
  differs disk.img expected.img "the test is about data not yet written back"

  # To the millisecond, as it is a matter of some tens of them.
  took=1000
  for (( i = 0; i < 3; i++ )); do
    cp cache.kept "$cache"
    started=$(now_ms)
    launch whole --filter=pcache "${parameters[@]}" pcache-writeback-delay=10m
    until [ -s whole.pid ] || is_gone "${pid_of[whole]}"; do :; done
    ms=$(since "$started")
    took=$((ms < took ? ms : took))
    serves whole expected.img
    kill_hard whole
  done
  say "$kind: a start takes $took ms"

  for (( i = 0; i < $(scaled 5); i++ )); do
    # As the kill left it, with segments open and copies that differ.
    cp cache.kept "$cache"
    cp disk.kept disk.img
    for (( j = 0; j < 6; j++ )); do
      start_killed "$took" early "${parameters[@]}" \
                   pcache-writeback-delay="${delays[RANDOM % 2]}"
      if [ ! -s early.pid ]; then early=$((early + 1)); fi
    done
    start late "${parameters[@]}"
    serves late expected.img "after kill $kills"
    if [ $((i % 2)) -eq 0 ]; then
      kill_hard late
    else
      stop late
      same disk.img expected.img
      [ "$(figure late dirty_bytes)" -eq 0 ] || fail "something is dirty"
    fi
  done
  start last "${parameters[@]}"
  serves last expected.img
  stop last
  same disk.img expected.img
done
[ $early -gt 0 ] || fail "no kill came before it served"
say_kills "$early before it served"

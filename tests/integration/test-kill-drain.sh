#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# kill -9 in the middle of a drain, again and again: the next start has
# everything, and the first drain that comes to its end leaves a disk that has
# everything, too.  SEED=N repeats a run's choices.
#
# The disk is slow, and behind another nbdkit: the delay filter in the same one
# would fail its requests as soon as that is to end.

. "$(dirname "$0")/functions.sh"
need_plugin nbd
use_seed

start_both ()
{
  start_nbdkit far --filter=delay file disk.img delay-write=10ms
  start cache nbd socket="$dir/far.sock" pmem="$cache" pmem-size=24M \
        pcache-segment-size=1M pcache-writeback-delay=10m
}

# With it goes what the killed one had still asked it to write: it must not
# come after what the next one asks.  Not one of the kills that are counted.
end_far ()
{
  kill -KILL "${pid_of[far]}" 2>/dev/null || true
  wait "${pid_of[far]}" 2>/dev/null || true
  unset "pid_of[far]"
}

checksum () { cksum < disk.img; }

scatter ()
{
  python "$here/scatter.py" "$(uri cache)" expected.img $RANDOM "$1" 8192 40
}

halfway=0
for kind in file pmem; do
  use_cache $kind
  rm -f disk.img expected.img
  truncate -s 16M disk.img expected.img
  for (( i = 0; i < $(scaled 12); i++ )); do
    start_both
    serves cache expected.img "after kill $kills"
    if [ $((i % 3)) -eq 0 ]; then scatter 400; fi
    connected=$((RANDOM % 3))
    # It drains all the same, but does not end.
    if [ $connected -eq 0 ]; then start_client cache; fi
    before=$(checksum)
    kill -TERM "${pid_of[cache]}"
    sleep_up_to 500
    kill_hard cache
    if [ $connected -eq 0 ]; then end_client; fi
    end_far
    if [ "$(checksum)" != "$before" ] && ! cmp -s disk.img expected.img; then
      halfway=$((halfway + 1))
    fi
  done
  start_both
  scatter 20
  stop cache
  same disk.img expected.img "drained to the end"
  [ "$(figure cache dirty_bytes)" -eq 0 ] || fail "something is dirty"
  end_far
done
[ $halfway -gt 0 ] || fail "no drain was killed in its middle"
say_kills "$halfway in the middle of a drain"

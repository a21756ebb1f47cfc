#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Eight connections of libnbd, 64 requests in flight on each: what one has
# written every other one reads, a flush on one covers the writes of all, and so
# it is after kill -9 with all of them at work.  See many_connections.py.
# SEED=N repeats a run's choices.

. "$(dirname "$0")/functions.sh"
use_seed

# load SECONDS [PID HOW]
load ()
{
  within 60 "$PYTHON3" "$(dirname "$this_test")/many_connections.py" \
         "$(uri server)" $RANDOM "$kind.state" "$@"
}

for kind in file pmem; do
  use_cache $kind
  say "$kind"
  rm -f disk.img
  truncate -s 16M disk.img
  parameters=(file disk.img pmem="$cache" pmem-size=10M pcache-segment-size=1M)
  for how in busy=50ms flushed=10 more=1 flushed=20ms; do
    start server "${parameters[@]}" pcache-writeback-delay="${how#*=}"
    load 0.$((RANDOM % 7 + 2)) "${pid_of[server]}" "${how%=*}"
    kill_hard server
  done
  start server "${parameters[@]}" pcache-writeback-delay=50ms
  load 1
  serves server "$kind.state.img"
  stop server
  same disk.img "$kind.state.img"
done
say_kills

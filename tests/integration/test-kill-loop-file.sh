#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# kill -9 in a loop, under load, while replaying, while draining: after every
# restart each flushed write is there and nothing was made up.  The cache is
# an ordinary file
# and much smaller than the disk.  SEED=N repeats a run's choices.

. "$(dirname "$0")/functions.sh"

seed=${SEED:-$(date +%s)}
say "seed $seed"
use_cache file
truncate -s 24M disk.img
python "$here/kill_loop.py" --seed "$seed" --rounds "$(scaled 40)" \
       --disk disk.img -- \
       "$NBDKIT" --filter=pcache file disk.img pmem="$cache" pmem-size=12M \
       pcache-segment-size=1M

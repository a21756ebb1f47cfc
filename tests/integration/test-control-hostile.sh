#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Whatever comes in by the control socket, nbdkit goes on, answers others, does
# not grow, and serves its disk.

. "$(dirname "$0")/functions.sh"

use_seed
truncate -s 16M disk.img
start first file disk.img pmem=cache.img pmem-size=16M \
      pcache-segment-size=1M pcache-control=control
nbdsh -u "$(uri first)" -c 'h.pwrite (b"x" * 65536, 0)'
python "$here/control_hostile.py" control "$(cat first.pid)" "$seed" $slow ||
  fail "with seed $seed"
nbdsh -u "$(uri first)" -c 'assert h.pread (65536, 0) == b"x" * 65536'
stop first

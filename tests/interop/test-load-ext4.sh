#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# fsx, fio, stress-ng and dbench at once on an ext4 that is many times as large as
# the cache: nothing in it changes, neither through the cache nor on the disk
# after the drain, and fsck finds nothing to repair.  SEED=N repeats a run's
# choices; LOAD_SCALE=20 makes it a run of many minutes.

# run-tests: long

. "$(dirname "$0")/functions.sh"
loaded_fs ext4

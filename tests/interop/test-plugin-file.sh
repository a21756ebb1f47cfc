#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The file plugin: an image of any size, a block device, one file of a
# directory.  What clients wrote is in the file, byte for byte, after lives that
# ended well, were killed and drained.

. "$(dirname "$0")/functions.sh"
use_seed

size=$((16 * MiB + 12345))
sparse_file model.img $size
cp model.img disk.img
cache_kind=file
lives image file disk.img
cache_kind=pmem
same disk.img model.img

say "Past the page cache: fadvise and cache=none"
lives uncached file disk.img fadvise=random cache=none
same disk.img model.img

say "One file of a directory, for good by its name"
mkdir files
cp disk.img files/wanted
cp disk.img files/other
cp disk.img other.img
export=wanted
lives directory file dir=files pcache-export=wanted
same files/wanted model.img
same files/other other.img "it is another export"
export=

say "A block device"
truncate -s 16M disk.img
cp disk.img model.img
[ "$(id -u)" -eq 0 ] || { say "only root can set up a loop device"; exit 0; }
loop=$(losetup -f --show disk.img 2>&1) && [ -b "$loop" ] ||
  { say "no loop device can be set up here: $loop"; exit 0; }
loops+=("$loop")
lives device file "$loop"
same "$loop" model.img
losetup -d "$loop"
loops=()
same disk.img model.img

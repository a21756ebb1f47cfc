#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Disks of any size, and plugins that insist on a block size.  (The largest disks
# and requests are in integration/test-request-sizes.sh.)

. "$(dirname "$0")/functions.sh"
use_seed

exercise_options=(requests=30)
for size in 0 1 513 65535; do
  sparse_file model.img $size
  cp model.img disk.img
  lives size-$size file disk.img
  same disk.img model.img
done

say "Requests that are not whole blocks are errors for these"
sparse_file model.img $((3 * MiB))
cp model.img disk.img
for blocks in "512 4096 32M" "4096 4096 4096" "65536 65536 1M"; do
  read -r minimum preferred maximum <<< "$blocks"
  lives at-least-$minimum --filter=blocksize-policy file disk.img \
        blocksize-minimum=$minimum blocksize-preferred=$preferred \
        blocksize-maximum=$maximum blocksize-error-policy=error
  same disk.img model.img
done

say "The last block is not whole: without the cache it cannot be had either"
sparse_file disk.img $((MiB + 1000))
policy=(--filter=blocksize-policy file disk.img blocksize-minimum=4096
        blocksize-error-policy=error)
cached=(pmem=tail.img pmem-size=10M pcache-segment-size=1M)
start tail "${policy[@]}" "${cached[@]}"
nbdsh -u "$(uri tail)" -c '
h.pread (1 << 20, 0)
h.pwrite (b"x" * 5000, 5)
try: h.pread (1, (1 << 20) + 999)
except nbd.Error as e: assert e.errno == "EINVAL" or e.errno == "EIO", e
else: raise SystemExit ("it came from nowhere")
'
stop tail
drained tail
# The truncate filter makes a disk of whole blocks of it.
dd if=disk.img of=model.img bs=1M count=1 status=none
lives whole --filter=blocksize-policy --filter=truncate file disk.img \
      blocksize-minimum=4096 blocksize-error-policy=error round-down=4096
head -c 1M disk.img | cmp - model.img || fail "not what was written"

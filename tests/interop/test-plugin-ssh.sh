#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The ssh plugin, to a real sshd: many requests at once, lives that end in each
# way, and connections that are lost while there is something to write back.

. "$(dirname "$0")/functions.sh"
need_plugin ssh
need sshd ssh-keygen
own_mounts
use_seed

start_sshd
size=$((12 * MiB + 77))
sparse_file model.img $size
cp model.img disk.img
lives ssh ssh "${ssh_options[@]}" "$dir/disk.img"
same disk.img model.img

say "8 connections, 64 requests in flight"
use_cache pmem
start many ssh "${ssh_options[@]}" "$dir/disk.img" \
      pmem="$cache" pmem-size=10M pcache-segment-size=1M \
      pcache-writeback-delay=0
nbdcopy --connections=8 --requests=8 "$(uri many)" copy.img
same copy.img model.img
random_file model.img $size
nbdcopy --connections=8 --requests=8 --flush model.img "$(uri many)"
stop many
drained many
same disk.img model.img

say "Connections are lost while there are clients"
use_cache pmem
start lost --filter=retry ssh "${ssh_options[@]}" "$dir/disk.img" \
      retry-delay=1 retry-exponential=no retries=60 \
      pmem="$cache" pmem-size=10M pcache-segment-size=1M \
      pcache-writeback-delay=0
start_client lost
exercise lost requests=50
end_sshd
exercise lost requests=50 &
exercise=$!
helpers+=($exercise)
sleep 0.5
start_sshd
wait $exercise || fail "a lost connection was noticed"
end_client
stop lost
drained lost
same disk.img model.img

say "A file that is not writable: nothing is lost"
chmod 444 disk.img
cp disk.img before.img
if [ "$(id -u)" -ne 0 ]; then
  use_cache pmem
  start refused ssh "${ssh_options[@]}" "$dir/disk.img" \
        pmem="$cache" pmem-size=10M pcache-segment-size=1M
  ! nbdsh -u "$(uri refused)" -c 'h.pwrite (b"x", 0)' || fail "it was served"
  stop refused
fi
use_cache pmem
start readonly -r ssh "${ssh_options[@]}" "$dir/disk.img" \
      pmem="$cache" pmem-size=34M pcache-segment-size=1M
exercise readonly readonly requests=50
stop readonly
same disk.img before.img

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# When write-back begins and how fast it goes, over a plugin that is slow, fails
# for a while, and heals.

. "$(dirname "$0")/functions.sh"

random_file data.img $((4 * MiB))
write='h.pwrite (open ("data.img", "rb").read (), 0); h.flush ()'

# new_disk NAME ARGUMENT...: an empty disk.img, and a cache of 14 segments.
new_disk ()
{
  local name=$1
  shift

  rm -f disk.img
  truncate -s 4M disk.img
  start "$name" "$@" pmem="$name.img" pmem-size=16M pcache-segment-size=1M
}
is_complete () { cmp -s disk.img data.img; }
has_none () { cmp -s -n $((4 * MiB)) disk.img /dev/zero; }

say "nothing happens before its time"
new_disk early file disk.img pcache-writeback-delay=10m \
         pcache-writeback-idle=10m
nbdsh -u "$(uri early)" -c "$write"
sleep 0.5
has_none || fail "it was written back"
stop early
same disk.img data.img

say "an idle client: the plugin is slow, fails, heals"
touch fail
new_disk idle --filter=error --filter=delay file disk.img delay-write=5ms \
         error-pwrite=EIO error-pwrite-rate=100% error-pwrite-file="$dir/fail" \
         pcache-writeback-delay=10m pcache-writeback-idle=200ms
start_client idle "$write"
until_true 20 has_text idle.log 'write-back failed'
has_none || fail "the plugin took what it refused"
rm fail
until_true 30 is_complete
end_client
stop idle
has_text idle.log 'works again' || fail "nobody was told that it heals"

say "much is dirty, in batch order: the same"
touch fail
new_disk high --filter=error --filter=delay file disk.img delay-write=5ms \
         error-pwrite=EIO error-pwrite-rate=100% error-pwrite-file="$dir/fail" \
         pcache-writeback-delay=10m pcache-writeback-order=batch \
         pcache-dirty-high=20 pcache-dirty-low=0
start_client high "$write"
until_true 20 has_text high.log 'write-back failed'
rm fail
until_true 30 is_complete
end_client
stop high

say "a low mark above the high one is as good as the high one"
new_disk marks file disk.img pcache-writeback-delay=10m pcache-dirty-high=0 \
         pcache-dirty-low=100
start_client marks "$write"
until_true 20 is_complete
end_client
stop marks

say "a rate at which it would take months, but not at the end"
new_disk rate file disk.img pcache-writeback-delay=0 pcache-writeback-rate=1
start_client rate "$write"
until_true 20 eval '! has_none'
sleep 0.5
! is_complete || fail "the rate was not kept"
end_client
stop rate
same disk.img data.img

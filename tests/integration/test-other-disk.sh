#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A cache belongs to one disk and has its geometry: with a disk of another size,
# another export, another name of the disk, another segment size, or when the
# device has lost its end, it is refused, and nothing is changed or lost.

. "$(dirname "$0")/functions.sh"

truncate -s 8M disk.img
truncate -s 9M longer.img
truncate -s 7M shorter.img
start first file disk.img pmem=cache.img pmem-size=16M pcache-segment-size=1M \
      pcache-backing-id=disk-7 pcache-on-exit=keep pcache-writeback-delay=10m
nbdsh -u "$(uri first)" -c 'h.pwrite (b"dirty", 4000)' -c 'h.flush ()'
kill_hard first

# It is bound to the disk when the first client comes: so are these refused.
# client_refused NAME PATTERN... -- ARGUMENT...
client_refused ()
{
  local name=$1 patterns=()
  shift

  while [ "$1" != -- ]; do patterns+=("$1"); shift; done
  shift
  start "$name" "$@" pmem=cache.img pcache-writeback-delay=0
  if nbdsh -u "$(uri "$name")" -c 'h.pread (1, 0)' 2> client.err
  then fail "$name: a client was served"
  fi
  stop "$name" 5
  say_said "$name.log"
  one_message "$name.log" "${patterns[@]}"
  # What was dirty is there still, which the end of this script looks at.
  [ "$(figure "$name" dirty_bytes)" -gt 0 ] || fail "dirty data is forgotten"
}

client_refused longer 'backing store of 8388608 bytes.* 9437184' -- \
               file longer.img
client_refused shorter 'backing store of 8388608 bytes.* 7340032' -- \
               file shorter.img
client_refused name 'pcache-backing-id=disk-7.* disk-8' -- \
               file disk.img pcache-backing-id=disk-8
client_refused export 'belongs to export ""' 'other' -- \
               file disk.img pcache-export=other pcache-any-export=true
for image in longer shorter; do
  [ "$(tr -d '\0' < $image.img | wc -c)" -eq 0 ] || fail "$image.img was written"
done

say "The device itself"
cp cache.img before.img
refused segments 'segments of 1048576' '2097152' 'pcache-segment-size' -- \
        --filter=pcache file disk.img pmem=cache.img pcache-segment-size=2M
same cache.img before.img "refused, but changed"
truncate -s 15M cache.img
cp cache.img short.img
refused truncated '16777216|needs [0-9]* bytes' 'only 15728640' 'truncated' -- \
        --filter=pcache file disk.img pmem=cache.img
same cache.img short.img "refused, but changed"
refused truncated2 'only 15728640' -- \
        --filter=pcache file disk.img pmem=cache.img pmem-size=16M \
        pcache-segment-size=1M
same cache.img short.img "refused, but changed"
cp before.img cache.img
# Larger is no harm.
truncate -s 20M cache.img

say "And with the right one everything is there"
start last file disk.img pmem=cache.img pcache-segment-size=1M \
      pcache-backing-id=disk-7
nbdsh -u "$(uri last)" -c 'assert h.pread (5, 4000) == b"dirty"'
stop last
[ "$(dd if=disk.img bs=1 skip=4000 count=5 status=none)" = dirty ] ||
  fail "not written back"

say "A disk that is resized while it is served by a plugin that looks again"
# With one context of the plugin for all clients nothing can change; with one
# a client, the later client is refused.
truncate -s 8M disk.img
start resized file disk.img pmem=cache2.img pmem-size=16M \
      pcache-segment-size=1M pcache-context=connection
start_client resized 'h.pwrite (b"x", 0)'
truncate -s 10M disk.img
! nbdsh -u "$(uri resized)" -c 'h.pread (1, 0)' 2> client.err ||
  fail "a client saw another size"
end_client
truncate -s 8M disk.img
stop resized
say_said resized.log
one_message resized.log '8388608' '10485760'

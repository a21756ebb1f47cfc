#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# cow, and cache with cache=unsafe, forget what was written when nbdkit ends.  To
# the left of the cache they keep it from the cache, which stays what the disk
# is.  To its right they would leave a cache that outlives what was written
# back: such a stack needs a new cache at every start, and an old one is
# refused.

. "$(dirname "$0")/functions.sh"
use_cache pmem

parameters=(pmem="$cache" pcache-segment-size=1M pcache-writeback-delay=0)
random_file source.img $((6 * MiB))
cp source.img disk.img

# One client's changes, seen on another connection.
write='
h.pwrite (b"written", 1000)
h.pwrite (bytes (100000), 2000000)
h.flush ()
other = nbd.NBD ()
other.connect_uri (h.get_uri ())
assert other.pread (7, 1000) == b"written"
assert other.pread (100000, 2000000) == bytes (100000)
'

for filter in cow "cache cache=unsafe"; do
  read -r name parameter <<< "$filter"

  say "$filter above: the overlay ends with nbdkit, the cache has the disk"
  rm -f "$cache"
  start_nbdkit above --filter="$name" --filter=pcache file disk.img \
        $parameter "${parameters[@]}" pmem-size=12M pcache-statsfile=above.stats
  nbdsh -u "$(uri above)" -c "$write" -c 'h.pread (6 << 20, 0)'
  stop above
  same disk.img source.img "the overlay was handed on"
  [ "$(figure above writes)" -eq 0 ] || fail "the cache was written to"
  # Also when it ends less well, and the cache is used without the overlay.
  start_nbdkit above --filter="$name" --filter=pcache file disk.img \
        $parameter "${parameters[@]}"
  serves above source.img "anew"
  nbdsh -u "$(uri above)" -c "$write"
  kill_hard above
  start without file disk.img "${parameters[@]}"
  serves without source.img "without $name"
  stop without
  same disk.img source.img

  say "$filter below, with a new cache: nothing reaches the disk"
  rm -f "$cache"
  start below --filter="$name" file disk.img \
        $parameter "${parameters[@]}" pmem-size=12M
  nbdsh -u "$(uri below)" -c "$write"
  stop below
  [ "$(figure below writeback_bytes)" -gt 0 ] || fail "nothing was written back"
  same disk.img source.img "the overlay was handed on"

  say "... and never again with that one"
  refused again "filter $name" 'to the right of pcache' 'pcache-format=force' \
          -- --filter=pcache --filter="$name" file disk.img $parameter \
             "${parameters[@]}"
  refused never 'to the right of pcache' \
          -- --filter=pcache --filter=log --filter="$name" file disk.img \
             $parameter logfile=/dev/null "${parameters[@]}"
  start forced --filter="$name" file disk.img $parameter "${parameters[@]}" \
        pcache-format=force
  serves forced source.img "with a new cache"
  stop forced
done

say "A cache with data of the disk's is not spoilt by an experiment"
rm -f "$cache"
start real file disk.img "${parameters[@]}" pmem-size=12M pcache-on-exit=keep \
      pcache-writeback-delay=10m
nbdsh -u "$(uri real)" -c 'h.pwrite (b"real", 5)' -c 'h.flush ()'
stop real
refused experiment 'filter cow' \
        -- --filter=pcache --filter=cow file disk.img "${parameters[@]}"
start real file disk.img "${parameters[@]}"
nbdsh -u "$(uri real)" -c 'assert h.pread (4, 5) == b"real"'
stop real
[ "$(dd if=disk.img bs=1 skip=5 count=4 status=none)" = real ] ||
  fail "not written back"

say "cache below that hands on what is flushed needs no such thing"
for i in 1 2; do
  start kept --filter=cache file disk.img cache=writeback "${parameters[@]}"
  nbdsh -u "$(uri kept)" -c 'h.pwrite (b"kept'$i'", 5)'
  stop kept
  [ "$(dd if=disk.img bs=1 skip=5 count=5 status=none)" = kept$i ] ||
    fail "not written back"
done

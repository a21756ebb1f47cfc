#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcache-statsfile says what has happened: hits and misses, what is dirty and
# for how long, what the replay found, errors of the plugin by kind.

. "$(dirname "$0")/functions.sh"

parameters=(pmem=cache.img pmem-size=16M pcache-segment-size=1M
            pcache-writeback-delay=10m pcache-on-exit=keep)
random_file disk.img $((8 * MiB))

# is NAME ITEM=VALUE...
is ()
{
  local name=$1 item found
  shift

  for item; do
    found=$(figure "$name" "${item%%=*}")
    [ "$found" = "${item#*=}" ] ||
      fail "$name: ${item%%=*} is $found, not ${item#*=}"
  done
}
at_least ()
{
  [ "$(figure "$1" "$2")" -ge "$3" ] ||
    fail "$1: $2 is $(figure "$1" "$2"), less than $3"
}

say "after a workload that is known"
start known file disk.img "${parameters[@]}"
nbdsh -u "$(uri known)" -c '
h.pwrite (b"x" * 8192, 0)
h.pread (4096, 0)               # hit
h.pread (8192, 4096)            # half a hit
h.pread (4096, 1 << 20)         # miss
h.pread (4096, 1 << 20)         # hit
h.zero (4096, 2 << 20)
h.flush ()
h.pwrite (b"y" * 512, 3 << 20, nbd.CMD_FLAG_FUA)
'
written=$(now_ms)
sleep 0.2
age=$(since "$written")
stop known
is known reads=4 read_bytes=20480 read_hits=2 read_partial_hits=1 \
   read_misses=1 hit_ratio=0.500000 read_hit_bytes=12288 \
   read_miss_bytes=8192 byte_hit_ratio=0.600000 writes=2 write_bytes=8704 \
   zeros=1 flushes=1 fua_writes=1 failed_requests=0 writeback_bytes=0 \
   backing_read_errors=0 replayed_records=0 dirty_bytes=12800 \
   epoch_written_back=0 lost_bytes=0 writeback_error=0 attached=1
at_least known write_latency_count 1
at_least known oldest_dirty_ms "$age"
at_least known epochs_behind 2
at_least known uptime_ms "$age"
at_least known read_latency_p999_ns "$(figure known read_latency_p50_ns)"

say "each item of the list that is a number is in the file, and nothing else"
perl "$top_srcdir/docs/statistics-pod" \
     "$top_srcdir/filter/engine/status_list.h" |
  awk '$2 == "LATENCY" { n = split ("count sum_ns p50_ns p99_ns p999_ns", s)
                         for (i = 1; i <= n; i++) print $1 "_" s[i] }
       $2 !~ /^(LATENCY|TEXT|PLACE|PLACES)$/ { print $1 }' > listed
sed -nE 's/^([a-z0-9_]+): -?[0-9]+(\.[0-9]+)?$/\1/p' known.stats > found
same listed found
[ "$(wc -l < known.stats)" -eq "$(wc -l < found)" ] ||
  fail "the file has lines of another form"

say "the next start"
start next file disk.img "${parameters[@]}" pcache-on-exit=drain
nbdsh -u "$(uri next)" -c 'h.pread (1, 0)'
stop next
# Two writes, a zero, two fills, and nothing of it is read from the log.
is next from_checkpoint=1 replayed_records=0 replay_dropped_records=0 \
   damaged_segments=0 dirty_bytes=0 oldest_dirty_ms=0 epochs_behind=0 writeback_sent_bytes=12800 \
   read_hits=1

say "a start that shall read the log"
start log file disk.img "${parameters[@]}" pcache-checkpoint=false
stop log
is log from_checkpoint=0 replayed_records=5

say "a plugin that fails"
start failing eval get_size='echo 8M' pread='echo EIO >&2; exit 1' \
      pwrite='echo EIO >&2; exit 1' can_write='exit 0' can_flush='exit 0' \
      flush='exit 0' pmem=other.img pmem-size=16M pcache-segment-size=1M \
      pcache-writeback-delay=0 pcache-on-exit=keep
nbdsh -u "$(uri failing)" -c '
h.pwrite (b"x" * 4096, 0)
try:
    h.pread (4096, 1 << 20)
    raise SystemExit ("a read did not fail")
except nbd.Error:
    pass
h.flush ()
'
until_true 10 has_text failing.log 'write-back failed'
stop failing
is failing failed_requests=1 backing_read_errors=1 backing_flush_errors=0 \
   writeback_error=-5 dirty_bytes=4096 writeback_sent_bytes=0
at_least failing backing_write_errors 1
at_least failing writeback_errors 1

/* SPDX-License-Identifier: BSD-3-Clause */

/* stats: counters of everything the cache does.
 *
 * One list makes the enum, the names and the descriptions.  Counters only
 * grow; gauges are computed when asked (cache_status).  Counting is a relaxed add to a
 * cache line of the counting thread's own, so it can be done anywhere. */

#ifndef PCACHE_STATS_H
#define PCACHE_STATS_H

#include <stdint.h>

/*   name                    description */
#define STATS_LIST(X)                                                   \
  X (reads,                  "read requests")                           \
  X (read_bytes,             "bytes of read requests")                  \
  X (read_hit_bytes,         "bytes of them answered from the cache")   \
  X (read_miss_bytes,        "bytes of them read from the backing store") \
  X (writes,                 "write requests")                          \
  X (write_bytes,            "bytes of write requests")                 \
  X (zeros,                  "zero requests")                           \
  X (zero_bytes,             "bytes of zero requests")                  \
  X (trims,                  "trim requests")                           \
  X (trim_bytes,             "bytes of trim requests")                  \
  X (flushes,                "flush requests")                          \
  X (fua_writes,             "requests with FUA")                       \
  X (prefetches,             "cache (prefetch) requests")               \
  X (fills,                  "records cached from the backing store")   \
  X (fill_bytes,             "bytes of them")                           \
  X (fills_stale,            "fills dropped: overwritten meanwhile")    \
  X (fills_skipped,          "fills dropped: no free space at hand")    \
  X (writeback_epochs,       "epochs written back")                     \
  X (writeback_records,      "records written back")                    \
  X (writeback_bytes,        "bytes written back (data, zeros, trims)") \
  X (writeback_requests,     "requests to the backing store for it")    \
  X (writeback_errors,       "write-back attempts that failed")         \
  X (backing_read_errors,    "reads from the backing store that failed") \
  X (evicted_segments,       "segments evicted")                        \
  X (evicted_records,        "records that left the cache with them")   \
  X (relocated_records,      "records kept by a second chance")         \
  X (sets_written,           "record sets written")                     \
  X (segments_opened,        "segments put in use")                     \
  X (checksum_errors,        "records whose data failed its checksum")  \
  X (media_errors,           "media errors on the cache device")        \
  X (healed_bytes,           "clean bytes dropped and read again")      \
  X (lost_bytes,             "dirty bytes given up as unreadable")            \
  X (space_waits,            "writes that had to wait for free space")  \
  X (replayed_records,       "records found at the last open")          \
  X (replay_dropped_records, "records not kept at the last open")       \
  X (damaged_segments,       "damaged segments found at the last open")

enum stats_counter {
#define X(name, description) STAT_##name,
  STATS_LIST (X)
#undef X
  STATS_COUNT
};

struct stats;

/* NULL when out of memory. */
extern struct stats *stats_new (void);
extern void stats_free (struct stats *stats);
extern void stats_add (struct stats *stats, enum stats_counter which, uint64_t n);
extern uint64_t stats_get (struct stats *stats, enum stats_counter which);
extern const char *stats_name (enum stats_counter which);
extern const char *stats_description (enum stats_counter which);

#endif /* PCACHE_STATS_H */

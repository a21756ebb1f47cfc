/* SPDX-License-Identifier: BSD-3-Clause */

/* status_list: everything that the cache tells about itself, once.
 *
 * From this list are made: the counters (stats.h), struct cache_status
 * (cache.h), text, JSON and Prometheus metrics (control/status.c), and the
 * section STATISTICS of the man page (docs/statistics-pod, which reads this
 * file: so keep its form).
 *
 *   X (KIND, name, UNIT, description)
 *
 * KIND      in struct cache_status
 * SECTION   nothing; the description is a heading, the name is not used
 * COUNTER   uint64_t   only grows, from the start of the process; counted by
 *                      stats_add
 * FOUND     uint64_t   the same, but done when the cache has been opened
 * GAUGE     uint64_t   as it is when asked
 * RATIO     uint32_t   millionths; STATUS_UNKNOWN: nothing to judge by
 * ERROR     int        0 or -errno
 * FLAG      bool
 * TEXT      const char *       constant while the cache is open; may be NULL
 * PLACE     struct status_place
 * PLACES    struct status_places
 * LATENCY   struct latency     timed by stats_begin and stats_end
 *
 * UNIT      COUNT, BYTES, MS (milliseconds), PERCENT, RATE (bytes a second).
 *           Names end in the unit where one would doubt.
 *
 * The description is a phrase without a full stop.  Names are for scripts:
 * they do not change. */

#ifndef PCACHE_STATUS_LIST_H
#define PCACHE_STATUS_LIST_H

#define STATUS_LIST(X)                                                  \
  X (SECTION, requests, COUNT, "Requests of clients")                   \
  X (COUNTER, reads, COUNT,                                             \
     "read requests; prefetches do not count here, nor among hits and misses") \
  X (COUNTER, read_bytes, BYTES, "bytes of read requests")              \
  X (COUNTER, read_hits, COUNT,                                         \
     "read requests answered from the cache alone")                     \
  X (COUNTER, read_partial_hits, COUNT,                                 \
     "read requests answered from the cache in part")                   \
  X (COUNTER, read_misses, COUNT,                                       \
     "read requests of which nothing was in the cache")                 \
  X (RATIO, hit_ratio, COUNT,                                           \
     "share of read_hits in all reads, partial ones and misses included") \
  X (COUNTER, read_hit_bytes, BYTES,                                    \
     "bytes answered from the cache, also for prefetches")              \
  X (COUNTER, read_miss_bytes, BYTES,                                   \
     "bytes read from the backing store, also for prefetches")          \
  X (RATIO, byte_hit_ratio, COUNT,                                      \
     "share of read_hit_bytes in these and read_miss_bytes")            \
  X (COUNTER, writes, COUNT, "write requests")                          \
  X (COUNTER, write_bytes, BYTES, "bytes of write requests")            \
  X (COUNTER, zeros, COUNT, "zero requests")                            \
  X (COUNTER, zero_bytes, BYTES, "bytes of zero requests")              \
  X (COUNTER, trims, COUNT, "trim requests")                            \
  X (COUNTER, trim_bytes, BYTES, "bytes of trim requests")              \
  X (COUNTER, flushes, COUNT, "flush requests")                         \
  X (COUNTER, fua_writes, COUNT, "write, zero and trim requests with FUA") \
  X (COUNTER, prefetches, COUNT, "cache (prefetch) requests")           \
  X (COUNTER, failed_requests, COUNT, "requests that failed")           \
  X (LATENCY, read_latency, MS, "time that read requests took")         \
  X (LATENCY, write_latency, MS, "time that write requests took")       \
  X (LATENCY, zero_latency, MS, "time that zero and trim requests took") \
  X (LATENCY, flush_latency, MS, "time that flush requests took")       \
                                                                        \
  X (SECTION, filling, COUNT, "Caching what is read")                   \
  X (COUNTER, fills, COUNT, "records cached from the backing store")    \
  X (COUNTER, fill_bytes, BYTES,                                        \
     "bytes of records cached from the backing store")                  \
  X (COUNTER, fills_stale, COUNT,                                       \
     "records not cached because a write came meanwhile")               \
  X (COUNTER, fills_skipped, COUNT,                                     \
     "records not cached because no free segment was at hand")          \
                                                                        \
  X (COUNTER, sequential_bytes, BYTES,                                  \
     "bytes not cached, as they were read in sequence (sequential-cutoff)") \
  X (COUNTER, ghost_hit_bytes, BYTES,                                   \
     "bytes that a full cache took in, as they had been missed before (eviction=ghost)") \
  X (COUNTER, ghost_miss_bytes, BYTES,                                  \
     "bytes that it did not, as they had not")                          \
  X (COUNTER, surrounding_bytes, BYTES,                                 \
     "bytes read from the backing store around misses (fill-size)")     \
  X (COUNTER, surrounding_waits, COUNT,                                 \
     "misses that waited for another's read around them")               \
  X (SECTION, dirty, COUNT, "Dirty data and write-back")                \
  X (GAUGE, dirty_bytes, BYTES,                                         \
     "bytes not yet written back; zeros and trims, and bytes overwritten " \
     "since, included")                                                 \
  X (GAUGE, oldest_dirty_ms, MS,                                        \
     "age of the oldest dirty data; 0 if there is none")                \
  X (GAUGE, oldest_dirty_epoch, COUNT,                                  \
     "epoch of the oldest dirty data; 0 if there is none")              \
  X (PLACE, dirty_tail, COUNT,                                          \
     "where the oldest dirty data is: its segment, and the offset in it of " \
     "the end of its record set")                                       \
  X (GAUGE, epoch, COUNT, "the epoch that is open")                     \
  X (GAUGE, epoch_written_back, COUNT, "the last epoch written back")   \
  X (GAUGE, epochs_behind, COUNT,                                       \
     "epochs from that of the oldest dirty data to the open one, both " \
     "included; 0 if nothing is dirty")                                 \
  X (FLAG, paused, COUNT, "write-back is paused")                       \
  X (GAUGE, writeback_rate, RATE,                                       \
     "bytes a second sent to the backing store by write-back, over the last " \
     "10 seconds")                                                      \
  X (COUNTER, writeback_epochs, COUNT,                                  \
     "rounds of write-back that were completed; of one epoch each with " \
     "pcache-writeback-order=strict")                                   \
  X (COUNTER, writeback_records, COUNT,                                 \
     "records in completed rounds of write-back")                       \
  X (COUNTER, writeback_bytes, BYTES,                                   \
     "bytes of the disk that completed rounds of write-back wrote, zeroed or " \
     "trimmed; of what was overwritten within a round only the last counts") \
  X (COUNTER, writeback_requests, COUNT,                                \
     "write, zero and trim requests of write-back that worked")         \
  X (COUNTER, writeback_sent_bytes, BYTES,                              \
     "bytes of writeback_requests; more than writeback_bytes when "     \
     "some had to be sent again")                                       \
  X (COUNTER, space_waits, COUNT,                                       \
     "writes that had to wait for free space")                          \
  X (TEXT, mode, COUNT,                                                 \
     "the mode in effect; the one that pcache-mode asks for comes after " \
     "draining")                                                        \
  X (COUNTER, through_requests, COUNT,                                  \
     "write, zero and trim requests that the backing store was given "  \
     "before they were acknowledged")                                   \
  X (COUNTER, through_bytes, BYTES, "bytes of these requests")          \
  X (COUNTER, invalidated_bytes, BYTES,                                 \
     "cached bytes that were dropped because somebody asked for that")  \
                                                                        \
  X (SECTION, backing, COUNT, "Errors of the backing store")            \
  X (COUNTER, backing_read_errors, COUNT,                               \
     "reads from the backing store that failed")                        \
  X (COUNTER, backing_write_errors, COUNT,                              \
     "writes to the backing store that failed")                         \
  X (COUNTER, backing_zero_errors, COUNT,                               \
     "zero and trim requests to the backing store that failed; zeros "  \
     "were then written instead")                                       \
  X (COUNTER, backing_flush_errors, COUNT,                              \
     "flushes of the backing store that failed")                        \
  X (COUNTER, writeback_errors, COUNT,                                  \
     "attempts to write back that failed, for whatever reason")         \
  X (ERROR, writeback_error, COUNT,                                     \
     "error of the last attempt to write back: 0, or a negative errno") \
  X (GAUGE, writeback_failures, COUNT,                                  \
     "attempts to write back that failed since the last that made progress") \
  X (GAUGE, writeback_failing_ms, MS,                                   \
     "how long write-back has failed; 0 if it does not")                \
  X (GAUGE, writeback_retry_ms, MS,                                     \
     "time to the next attempt to write back; 0 if it does not fail")   \
                                                                        \
  X (SECTION, device, COUNT, "Cache device")                            \
  X (TEXT, device, COUNT, "path of the cache device")                   \
  X (TEXT, version, COUNT, "version of pcache")                         \
  X (GAUGE, format_version, COUNT, "version of the cache device's format") \
  X (GAUGE, superblock_flags, COUNT, "flags of the superblock")         \
  X (GAUGE, compat_features, COUNT,                                     \
     "feature bits of the superblock that old versions may ignore")     \
  X (GAUGE, ro_compat_features, COUNT,                                  \
     "feature bits that old versions may read but not change")          \
  X (GAUGE, incompat_features, COUNT,                                   \
     "feature bits that old versions must refuse")                      \
  X (FLAG, attached, COUNT, "the backing store is open")                \
  X (FLAG, bypassed, COUNT,                                             \
     "all requests go past the cache, which has let go of its device")  \
  X (FLAG, data_crc, COUNT, "data is checksummed, as well as metadata") \
  X (FLAG, persistent_memory, COUNT,                                    \
     "the device is used as persistent memory, and not as a file")      \
  X (FLAG, lost_data, COUNT,                                            \
     "some range may have been lost (see lost_bytes), now or in an "    \
     "earlier run")                                                     \
  X (GAUGE, segment_size, BYTES, "bytes of a segment")                  \
  X (GAUGE, segments_total, COUNT, "segments")                          \
  X (GAUGE, segments_used, COUNT, "segments that are open or sealed")   \
  X (GAUGE, segments_free, COUNT, "segments that are free")             \
  X (GAUGE, segments_open, COUNT, "segments that are being written to") \
  X (GAUGE, segments_sealed, COUNT, "segments that are full")           \
  X (GAUGE, gc_percent, PERCENT, "the value of pcache-gc-percent in effect") \
  X (PLACES, heads, COUNT,                                              \
     "where the next data is written: segment and offset in it of each " \
     "head that has a segment")                                         \
  X (PLACE, tail, COUNT,                                                \
     "the segment that has been full the longest, from its start")      \
  X (GAUGE, tail_sequence, COUNT,                                       \
     "sequence number up to which clean records have been evicted")     \
  X (COUNTER, evicted_segments, COUNT, "segments evicted")              \
  X (COUNTER, evicted_records, COUNT,                                   \
     "pieces of records that left the cache by eviction")               \
  X (COUNTER, relocated_records, COUNT,                                 \
     "records kept at an eviction because they had been hit")           \
  X (COUNTER, relocated_bytes, BYTES, "bytes of them")                  \
  X (COUNTER, sets_written, COUNT, "record sets stored")                \
  X (COUNTER, segments_opened, COUNT, "segments put in use")            \
  X (GAUGE, index_bytes, BYTES, "memory that the index takes")          \
                                                                        \
  X (SECTION, damage, COUNT, "Damage to the cache device")              \
  X (COUNTER, checksum_errors, COUNT,                                   \
     "records whose data failed its checksum")                          \
  X (COUNTER, media_errors, COUNT, "errors that the device reported")   \
  X (COUNTER, healed_bytes, BYTES,                                      \
     "clean bytes that were damaged, dropped and read again")           \
  X (COUNTER, lost_bytes, BYTES,                                        \
     "dirty bytes that were found unreadable when they were to be written " \
     "back, and were given up; reads of them fail until they are "      \
     "overwritten")                                                     \
                                                                        \
  X (SECTION, start, COUNT, "Start")                                    \
  X (GAUGE, uptime_ms, MS, "time since the cache was opened")           \
  X (GAUGE, replay_ms, MS,                                              \
     "time that the start took to find out what is cached")             \
  X (FLAG, from_checkpoint, COUNT,                                      \
     "the start read what the clean stop before had left, and replayed nothing") \
  X (FOUND, replayed_records, COUNT, "records found at the start")      \
  X (FOUND, replay_dropped_records, COUNT,                              \
     "records ignored at the start because they had been evicted")      \
  X (FOUND, damaged_segments, COUNT, "damaged segments found at the start")

/* What follows KIND, if such an item is counted by stats_add, else nothing. */
#define STATUS_IF_COUNTED(kind, ...) STATUS_IF_COUNTED_##kind (__VA_ARGS__)
#define STATUS_IF_COUNTED_SECTION(...)
#define STATUS_IF_COUNTED_COUNTER(...) __VA_ARGS__
#define STATUS_IF_COUNTED_FOUND(...) __VA_ARGS__
#define STATUS_IF_COUNTED_GAUGE(...)
#define STATUS_IF_COUNTED_RATIO(...)
#define STATUS_IF_COUNTED_ERROR(...)
#define STATUS_IF_COUNTED_FLAG(...)
#define STATUS_IF_COUNTED_TEXT(...)
#define STATUS_IF_COUNTED_PLACE(...)
#define STATUS_IF_COUNTED_PLACES(...)
#define STATUS_IF_COUNTED_LATENCY(...)

/* The same, if it is timed. */
#define STATUS_IF_TIMED(kind, ...) STATUS_IF_TIMED_##kind (__VA_ARGS__)
#define STATUS_IF_TIMED_SECTION(...)
#define STATUS_IF_TIMED_COUNTER(...)
#define STATUS_IF_TIMED_FOUND(...)
#define STATUS_IF_TIMED_GAUGE(...)
#define STATUS_IF_TIMED_RATIO(...)
#define STATUS_IF_TIMED_ERROR(...)
#define STATUS_IF_TIMED_FLAG(...)
#define STATUS_IF_TIMED_TEXT(...)
#define STATUS_IF_TIMED_PLACE(...)
#define STATUS_IF_TIMED_PLACES(...)
#define STATUS_IF_TIMED_LATENCY(...) __VA_ARGS__

#endif /* PCACHE_STATUS_LIST_H */

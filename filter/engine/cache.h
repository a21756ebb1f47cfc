/* SPDX-License-Identifier: BSD-3-Clause */

/* cache: the engine's front door.
 *
 * Life: cache_open (finds, checks, formats and replays the cache device;
 * no threads, no backing store yet) -> cache_start (threads) ->
 * cache_attach / cache_detach, any number of times -> requests, while
 * attached -> cache_stop (drain or keep) -> cache_close.
 *
 * Without cache_start everything runs in the calling thread: whoever owns
 * the cache then calls cache_step, and a request that needs space runs
 * the services itself.  That is how tests make histories deterministic.
 *
 * Calls return 0 or -errno.  The reason of a failed cache_open or
 * cache_attach has been reported. */

#ifndef PCACHE_CACHE_H
#define PCACHE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"
#include "engine/backend.h"
#include "engine/settings.h"
#include "engine/stats.h"
#include "pmem/pmem.h"

struct cache;

enum cache_format {
  CACHE_FORMAT_AUTO,            /* a blank device is formatted, anything
                                 * unknown is refused */
  CACHE_FORMAT_FORCE,           /* whatever was there is gone */
  CACHE_FORMAT_NEVER,
};

#define CACHE_MIN_SEGMENT_SIZE (UINT64_C (1) << 20)
#define CACHE_MAX_SEGMENT_SIZE (UINT64_C (1) << 30)
#define CACHE_DEFAULT_SEGMENT_SIZE (UINT64_C (16) << 20)
#define CACHE_MIN_SEGMENTS 4
#define CACHE_MAX_EXPORT_NAME 1024      /* bytes, without the end */
#define CACHE_MAX_BACKING_ID 255

/* Bytes a device needs for segments of that size. */
extern uint64_t cache_min_device_size (uint64_t segment_size);

struct cache_options {
  enum cache_format format;
  uint64_t device_size;         /* bytes that a cache device which is a file shall
                                 * have; 0: as it is */
  uint64_t segment_size;        /* bytes; 0: the device's, or the default */
  bool data_crc;                /* checksum data as well as metadata */
  bool rescue;                  /* serve what a damaged device has left */
  bool checkpoint;              /* begin with one if there is one, and leave one
                                 * (unless rescue) */
  const char *backing_id;       /* the user's own name for the backing store;
                                 * NULL: not compared */
  unsigned writeback_threads;   /* requests in flight; 1..64 */
  unsigned heads;               /* 0: one per CPU, fewer on small caches */
  unsigned regions;             /* of the index; 0: default */
  uint64_t seed;                /* of the identity; 0: from the system */
  /* gc_percent is remembered by the device, unless it is
   * SETTING_REMEMBERED. */
  uint64_t setting[SETTINGS_COUNT];
};

#define CACHE_OPTIONS_DEFAULT                                           \
  { .data_crc = true, .checkpoint = true, .writeback_threads = 4,       \
    .setting = SETTINGS_DEFAULT }

/* On success the cache owns PMEM until cache_close. */
extern int cache_open (const struct cache_options *options,
                       struct pmem *pmem, struct cache **cache);

/* Start the service threads: after the last fork. */
extern int cache_start (struct cache *cache);

/* Compare the backing store with the one this cache belongs to (a new cache
 * belongs to the first that comes), then use it.  Fails with -EMEDIUMTYPE
 * when it is another one.  The backend must stay until cache_detach. */
extern int cache_attach (struct cache *cache, struct backend *backend,
                         const char *export);

/* The export that this cache belongs to.  False if it is new, and belongs to
 * none yet.  Not at the same time as cache_attach. */
extern bool cache_get_export (struct cache *cache,
                              char name[CACHE_MAX_EXPORT_NAME + 1]);

/* Stop using the backing store: waits for requests to it that are under
 * way, starts no new ones.  Dirty data stays in the cache.  What went around the
 * cache and was not flushed is only in the backing store: flush that.  No client
 * request may be under way or come until the next cache_attach. */
extern void cache_detach (struct cache *cache);

/* Requests.  Ranges lie within the backing store's size (-EINVAL if not).
 * FUA: durable when the call returns. */
extern int cache_read (struct cache *cache, void *buf, struct range range);
extern int cache_write (struct cache *cache, const void *buf,
                        struct range range, bool fua);
extern int cache_zero (struct cache *cache, struct range range,
                       bool may_trim, bool fua);
extern int cache_trim (struct cache *cache, struct range range, bool fua);
extern int cache_flush (struct cache *cache);
extern int cache_prefetch (struct cache *cache, struct range range);

/* The backing store was changed there, or may have been: drop clean data of the range,
 * durably; what is read there now is not cached.  Dirty data stays.
 * *dropped_bytes were in the cache. */
extern int cache_invalidate (struct cache *cache, struct range range,
                             uint64_t *dropped_bytes);

enum map_kind {
  MAP_HOLE,                     /* not in the cache: ask the plugin */
  MAP_DATA,
  MAP_ZERO,                     /* reads as zeros, nothing stored */
};

/* What the start of RANGE is: *length bytes of *kind (at least 1, at most
 * range.length). */
extern void cache_map (struct cache *cache, struct range range,
                       enum map_kind *kind, uint64_t *length);

/* Write back everything that was acknowledged before the call.  What comes
 * later cannot keep it from ending.  0 when it is all in the backing store
 * and flushed; -ETIMEDOUT after timeout_ms; -EIO when the backing store
 * fails (data stays dirty); -ESHUTDOWN with no backing store attached. */
extern int cache_drain (struct cache *cache, uint64_t timeout_ms);

/* The same in two: what is to be written back is fixed by the first and made
 * durable in the cache; the second may be called again after -ETIMEDOUT. */
struct cache_drain {
  uint64_t through;             /* epoch */
  uint64_t around;              /* writes that went around the cache */
  uint64_t bytes;               /* dirty when it began */
};

extern int cache_begin_drain (struct cache *cache, struct cache_drain *drain);
extern int cache_await_drain (struct cache *cache,
                              const struct cache_drain *drain,
                              uint64_t timeout_ms);

/* How much of drain->bytes is still to be written. */
extern uint64_t cache_drain_left (struct cache *cache,
                                  const struct cache_drain *drain);

/* Of the drain under way that began last: what was dirty when it began, and how
 * much of that is still to be written.  False: there is none. */
extern bool cache_get_drain (struct cache *cache, uint64_t *bytes,
                             uint64_t *left);

/* When it returns, and from then on, nothing is written back but for drains.  A
 * writer that finds no space waits, as long as it takes.  Not remembered by the
 * device. */
extern void cache_pause_writeback (struct cache *cache);
extern void cache_resume_writeback (struct cache *cache);
extern bool cache_is_paused (struct cache *cache);

/* Write everything back, make durably void what the device holds, close it, and
 * let all requests go straight to the backing store from then on.  Requests that
 * come in the last step, or are under way then, wait or are waited for: two
 * seconds at most.  The next cache_open of the device finds an empty cache of the
 * same backing store.
 *
 * 0: it is so, or was already.  Else the cache goes on as before: -ETIMEDOUT;
 * -EBUSY: another call is at it; -EIO: a range is lost, and would be read as it
 * was before (reported), or the backing store fails; -ESHUTDOWN: no backing
 * store to write to, or the server is going away.  Not at the same time as
 * cache_stop. */
extern int cache_bypass (struct cache *cache, uint64_t timeout_ms);
extern bool cache_is_bypassed (struct cache *cache);

/* With pcache-fail=passthrough the same happens by itself when the cache device
 * fails a request: fail_over in cache.c. */

/* The server is going away: from now on writes that wait for space fail
 * rather than wait for a backing store that fails or for write-back that is
 * paused.  Does not block, and does not start a drain. */
extern void cache_begin_shutdown (struct cache *cache);

/* End the service threads.  drain: write everything back first, as
 * cache_drain.  Everything acknowledged is durable in the cache afterwards, or (mode
 * writearound) in the backing store, if one is attached; or the return value says
 * that it is not. */
extern int cache_stop (struct cache *cache, bool drain, uint64_t timeout_ms);
extern void cache_close (struct cache *cache);

/* Do one unit of background work (seal, write back, evict).  True if
 * there was any.  Only without cache_start. */
extern bool cache_step (struct cache *cache);
/* Its halves. */
extern bool cache_step_eviction (struct cache *cache);
extern bool cache_step_writeback (struct cache *cache);

/* Change a setting.  -EINVAL: not such a value.  gc_percent is remembered by the
 * device when it returns 0.  A mode without dirty data is in effect only when
 * everything has been written back; until then status.mode says what is. */
extern int cache_set (struct cache *cache, enum setting which,
                      uint64_t value);
extern uint64_t cache_get_setting (struct cache *cache, enum setting which);

/* Everything in status_list.h: its header says what is what. */

#define STATUS_UNKNOWN UINT32_MAX       /* a ratio of nothing */
#define STATUS_MAX_PLACES 256           /* further heads are not told of */

struct status_place {
  bool known;
  uint32_t segment;
  uint64_t offset;              /* in the segment */
};

struct status_places {
  unsigned count;
  struct status_place place[STATUS_MAX_PLACES];
};

struct cache_status {
#define X(kind, name, unit, description) STATUS_FIELD_##kind (name)
#define STATUS_FIELD_SECTION(name)
#define STATUS_FIELD_COUNTER(name) uint64_t name;
#define STATUS_FIELD_FOUND(name) uint64_t name;
#define STATUS_FIELD_GAUGE(name) uint64_t name;
#define STATUS_FIELD_RATIO(name) uint32_t name;
#define STATUS_FIELD_ERROR(name) int name;
#define STATUS_FIELD_FLAG(name) bool name;
#define STATUS_FIELD_TEXT(name) const char *name;
#define STATUS_FIELD_PLACE(name) struct status_place name;
#define STATUS_FIELD_PLACES(name) struct status_places name;
#define STATUS_FIELD_LATENCY(name) struct latency name;
  STATUS_LIST (X)
#undef X
};

/* As of now, item by item; not one instant for all.  device, which only who
 * opened it knows, is NULL. */
extern void cache_get_status (struct cache *cache,
                              struct cache_status *status);
/* What it says of these two, for who asks often: for the rest, counters and times
 * of all threads are summed up. */
extern uint64_t cache_dirty_bytes (struct cache *cache);
extern int cache_writeback_error (struct cache *cache);
extern struct stats *cache_stats (struct cache *cache);
/* Was data of an earlier life there when it was opened? */
extern bool cache_held_data (struct cache *cache);

/* Of the disk that this cache belongs to; 0: of none yet. */
extern uint64_t cache_disk_size (struct cache *cache);

/* What a segment is there for now. */
enum segment_role {
  SEGMENT_ROLE_FREE,
  SEGMENT_ROLE_CLEAN,           /* full, and all of it is written back */
  SEGMENT_ROLE_OPEN,            /* being written to */
  SEGMENT_ROLE_DIRTY,           /* full, and not all of it is written back */
  SEGMENT_ROLE_DAMAGED,         /* its header is not valid */
  SEGMENT_ROLES
};

extern uint32_t cache_segment_count (struct cache *cache);
/* SEGMENT is less than that. */
extern enum segment_role cache_segment_role (struct cache *cache,
                                             uint32_t segment);

#endif /* PCACHE_CACHE_H */

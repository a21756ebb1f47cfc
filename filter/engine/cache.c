/* SPDX-License-Identifier: BSD-3-Clause */

/* Opens the parts, runs the services, keeps the door.
 *
 * Two threads besides write-back's helpers: "writeback" writes epochs back
 * when they are due, "gc" seals and evicts.  Both sleep on one condition
 * variable and are woken by whoever needs them; the timer is there for the
 * age of dirty data and for retries. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/cache.h"
#include "engine/checkpoint.h"
#include "engine/engine.h"
#include "engine/entrance.h"
#include "engine/gc.h"
#include "engine/holes.h"
#include "engine/layout.h"
#include "engine/passthrough.h"
#include "engine/recovery.h"
#include "engine/schedule.h"
#include "engine/writeback.h"

#define DEFAULT_REGIONS 256

/* Retry of a failing backing store: from, to.  While somebody waits for a drain
 * the upper bound is lower. */
#define BACKOFF_MIN_MS UINT64_C (100)
#define BACKOFF_MAX_MS UINT64_C (10000)
#define BACKOFF_DRAIN_MS UINT64_C (500)
/* A drain gives up after this many failures in a row. */
#define DRAIN_FAILURES 5

#define IDLE_MIN_MS UINT64_C (10)
#define IDLE_MAX_MS UINT64_C (500)

/* Longest time for which cache_bypass lets nobody in. */
#define BYPASS_HOLD_MS UINT64_C (2000)

/* A device that has failed and could not be left is not tried again before, if
 * pcache-space-timeout is not shorter. */
#define FAIL_OVER_PAUSE_MS UINT64_C (10000)

struct cache {
  struct engine engine;
  struct writeback *writeback;
  _Atomic bool started;
  pthread_t writeback_thread, gc_thread;
  struct entrance entrance;     /* all who use the cache device are inside, but
                                 * for the services */

  pthread_mutex_t lock;
  pthread_cond_t wake;          /* the services */
  pthread_cond_t progress;      /* whoever waits for write-back */
  bool stop;                    /* lock; all below too */
  bool shutting_down;
  bool busy;                    /* write-back uses the backing store */
  unsigned calling_off;         /* and must not begin to again */
  bool gc_busy;                 /* eviction uses the cache device */
  bool halted;                  /* neither must begin to */
  bool bypassing;               /* cache_bypass or fail_over is under way */
  bool failing_over;            /* it is the latter: nobody waits for space */
  bool bypassed;                /* and it has come to its end */
  bool said_stuck;              /* that fail_over failed */
  uint64_t fail_over_at_ms;     /* not before */
  bool want_space;              /* a writer waits */
  bool paused;                  /* nothing is written back but for drains */
  struct schedule schedule;
  unsigned drains;              /* how many wait for one */
  struct cache_drain drain;     /* the latest of them */
  _Atomic int bypass_error;     /* of the last write past the cache */
  uint64_t gc_calls;            /* so that no wake-up is missed */
  uint64_t attempts;            /* to write back that have ended */
  int writeback_error;          /* of the last attempt... */
  bool device_failed;           /* ...and it was the cache device */
  unsigned failures;            /* attempts in a row, since it was attached */
  bool said_failing;            /* and not yet that it works again */
  uint64_t failing_since_ms, retry_at_ms;
  int gc_error;                 /* of the last attempt */
  uint64_t gc_failing_since_ms;

  /* Constant once it is open. */
  uint64_t opened_ms, replay_ms;
  bool held_data;
  bool persistent_memory;
};

static struct cache *
cache_of (struct engine *engine)
{
  return (struct cache *) ((char *) engine - offsetof (struct cache, engine));
}

uint64_t
cache_min_device_size (uint64_t segment_size)
{
  return geometry_min_device_size (segment_size);
}

/* --- services --------------------------------------------------------- */

static void
hurry_locked (struct cache *cache)
{
  if (cache->writeback)
    writeback_hurry (cache->writeback);
}

static void
wake_services (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  cache->gc_calls++;
  pthread_cond_broadcast (&cache->wake);
  hurry_locked (cache);
}

/* A head has left a segment, or the last writer has left such a one. */
static void
on_retired (void *opaque)
{
  struct cache *cache = opaque;

  if (cache->started && !MUTATION (T14_GC_BY_TIMER))
    wake_services (cache);
}

static bool
can_write_back (const struct cache *cache)
{
  return cache->engine.backend && cache->engine.backend->can_write;
}

/* When the oldest dirty data came. */
static bool
oldest_dirty (struct engine *engine, uint64_t *since_ms)
{
  uint64_t epoch, queued, open;
  /* In the order in which it moves: nothing is missed on its way. */
  const bool in_set = log_oldest_open (engine->log, &open);
  const bool in_queue = epoch_queue_first (&engine->queue, &epoch, &queued);

  if (!in_queue && !in_set)
    return false;
  *since_ms = !in_set ? queued : !in_queue ? open : MIN (queued, open);
  return true;
}

/* Dirty segments are in the way of eviction. */
static bool
space_is_short (struct engine *engine)
{
  const uint64_t written_back
    = control_get (&engine->superblock).written_back;

  return gc_wanted (engine)
    && segment_find_evictable (&engine->segments, written_back) == NULL
    && !log_has_evictable_retired (engine->log, written_back);
}

/* Bytes of the segments that dirty records take. */
static uint64_t
dirty_space (struct engine *engine)
{
  /* In the order in which it moves: nothing is missed on its way. */
  const uint64_t in_sets = log_dirty (engine->log).space;

  return in_sets + epoch_queue_space_bytes (&engine->queue);
}

static uint64_t
count_requests (struct engine *engine)
{
  static const enum stats_counter counters[] = {
    STAT_reads, STAT_writes, STAT_zeros, STAT_trims, STAT_flushes,
    STAT_prefetches,
  };
  uint64_t sum = 0;

  for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
    sum += stats_get (engine->stats, counters[i]);
  return sum;
}

static bool
is_passable (enum write_path path)
{
  return path != PATH_CLOSED && path != PATH_BROKEN;
}

static bool
is_urgent_locked (struct cache *cache)
{
  return cache->drains > 0 || !is_passable (modes_path (&cache->engine.modes))
    || (!cache->paused
        && (cache->want_space || space_is_short (&cache->engine)));
}

static bool
is_urgent (struct engine *engine)
{
  struct cache *cache = cache_of (engine);

  HOLD_LOCK (&cache->lock);
  return is_urgent_locked (cache);
}

/* Is write-back due?  If not, *next_ms says when to look again.  lock is held. */
static bool
writeback_is_due_locked (struct cache *cache, uint64_t *next_ms)
{
  struct engine *engine = &cache->engine;
  const struct geometry *geometry = &engine->superblock.geometry;
  const enum write_path path = modes_path (&engine->modes);
  const bool pending = modes_is_pending (engine);
  struct situation situation = {
    .now_ms = now_ms (),
    .paused = cache->paused,
  };
  const bool must_flush = modes_is_flush_due (engine, situation.now_ms)
    || (cache->drains > 0 && modes_is_unflushed (&engine->modes));

  situation.oldest_ms = situation.now_ms;
  /* Another mode is as a drain, and who waits for it does so also in a pause. */
  situation.drain = cache->drains > 0 || must_flush || !is_passable (path)
    || (pending && !cache->paused);
  *next_ms = situation.now_ms + schedule_pause_ms (&engine->settings);
  if (!can_write_back (cache) || cache->calling_off > 0 || cache->halted
      || (!oldest_dirty (engine, &situation.oldest_ms) && !pending
          && !must_flush))
    return false;
  if (cache->failures > 0 && situation.now_ms < cache->retry_at_ms) {
    *next_ms = cache->retry_at_ms;
    return false;
  }
  situation.dirty_space = dirty_space (engine);
  situation.space = geometry->segment_size * geometry->segment_count;
  situation.requests = count_requests (engine);
  situation.short_of_space = cache->want_space || space_is_short (engine);
  return schedule_look (&cache->schedule, &engine->settings, &situation,
                        next_ms) != CAUSE_NONE;
}

/* PROGRESS: before the error, some of it was written back for good. */
static void
note_attempt_locked (struct cache *cache, int error, bool progress)
{
  struct engine *engine = &cache->engine;
  const uint64_t now = now_ms ();

  if (error == 0) {
    if (cache->said_failing)
      report (REPORT_WARNING, "the backing store works again; write-back "
              "goes on");
    cache->said_failing = false;
    cache->failures = 0;
  }
  else {
    const uint64_t limit = cache->drains > 0 ? BACKOFF_DRAIN_MS
      : BACKOFF_MAX_MS;
    const unsigned doublings = progress ? 0 : MIN (cache->failures, 16u);

    stats_add (engine->stats, STAT_writeback_errors, 1);
    if (progress || cache->failures == 0)
      cache->failing_since_ms = now;
    if (!cache->said_failing) {
      cache->said_failing = true;
      report (REPORT_ERROR, "write-back failed: %s; the data stays dirty in the "
              "cache, trying again", strerror (-error));
    }
    cache->failures = progress ? 1 : cache->failures + 1;
    cache->retry_at_ms = MUTATION (T15_SPIN) ? now
      : MUTATION (T15_GIVE_UP) ? UINT64_MAX
      : now + MIN (BACKOFF_MIN_MS << doublings, limit);
  }
  cache->writeback_error = error;
  cache->attempts++;
  pthread_cond_broadcast (&cache->progress);
}

/* Of epochs up to LIMIT; as writeback_step. */
static int
take_step (struct cache *cache, uint64_t limit, bool *worked)
{
  struct engine *engine = &cache->engine;

  if (!modes_begin_step (engine))
    return modes_settle_step (engine, worked);
  return modes_end_step (engine,
                         writeback_step (cache->writeback, limit, worked),
                         worked);
}

static void *
writeback_main (void *opaque)
{
  struct cache *cache = opaque;
  struct engine *engine = &cache->engine;

  mutex_lock (&cache->lock);
  while (!cache->stop) {
    uint64_t next_ms;
    uint64_t device_failures;
    bool worked;
    int r;

    if (!writeback_is_due_locked (cache, &next_ms)) {
      cache->want_space = false;
      cond_wait_until (&cache->wake, &cache->lock, next_ms);
      continue;
    }
    cache->busy = true;
    cache->want_space = false;  /* who still waits afterwards says so again */
    mutex_unlock (&cache->lock);

    device_failures = atomic_load (&engine->device_failures);
    r = take_step (cache, UINT64_MAX, &worked);

    mutex_lock (&cache->lock);
    cache->busy = false;
    cache->device_failed = r < 0
      && atomic_load (&engine->device_failures) != device_failures;
    if (r == -ECANCELED)        /* cache_detach and others wait */
      pthread_cond_broadcast (&cache->progress);
    else
      note_attempt_locked (cache, r, worked);
    if (r < 0)
      segment_wake_all (&engine->segments);     /* waiting may be vain */
    cache->gc_calls++;
    pthread_cond_broadcast (&cache->wake);
    if (r == 0 && !worked) {
      cache->want_space = false;
      cond_wait_until (&cache->wake, &cache->lock, now_ms () + IDLE_MIN_MS);
    }
  }
  mutex_unlock (&cache->lock);
  return NULL;
}

static void *
gc_main (void *opaque)
{
  struct cache *cache = opaque;
  uint64_t calls, error_ms = 0;

  mutex_lock (&cache->lock);
  while (!cache->stop) {
    bool worked;
    int r;

    if (cache->halted) {
      pthread_cond_wait (&cache->wake, &cache->lock);
      continue;
    }
    calls = cache->gc_calls;
    cache->gc_busy = true;
    mutex_unlock (&cache->lock);

    r = gc_step (&cache->engine, &worked);
    if (r < 0 && now_ms () - error_ms >= BACKOFF_MAX_MS) {
      report (REPORT_ERROR, "eviction: %s; trying again", strerror (-r));
      error_ms = now_ms ();
    }

    mutex_lock (&cache->lock);
    cache->gc_busy = false;
    if (cache->halted)
      pthread_cond_broadcast (&cache->progress);
    if (r < 0 && cache->gc_error == 0)
      cache->gc_failing_since_ms = now_ms ();
    cache->gc_error = r;
    if (r < 0)
      cond_wait_until (&cache->wake, &cache->lock, now_ms () + BACKOFF_MIN_MS);
    else if (!worked && calls == cache->gc_calls && !cache->stop)
      cond_wait_until (&cache->wake, &cache->lock, now_ms () + IDLE_MAX_MS);
  }
  mutex_unlock (&cache->lock);
  return NULL;
}

bool
cache_step_eviction (struct cache *cache)
{
  bool worked;

  assert (!cache->started);
  return !cache_is_bypassed (cache)
    && gc_step (&cache->engine, &worked) == 0 && worked;
}

bool
cache_step_writeback (struct cache *cache)
{
  bool worked;
  int r;

  assert (!cache->started);
  if (!can_write_back (cache) || cache_is_bypassed (cache))
    return false;
  r = take_step (cache, UINT64_MAX, &worked);
  cache->writeback_error = r;
  if (r < 0)
    stats_add (cache->engine.stats, STAT_writeback_errors, 1);
  return r == 0 && worked;
}

bool
cache_step (struct cache *cache)
{
  const bool evicted = cache_step_eviction (cache);

  return cache_step_writeback (cache) || evicted;
}

/* Nothing is written back until it is resumed. */
static bool
is_held_locked (const struct cache *cache)
{
  return cache->paused && cache->drains == 0;
}

static int
wait_for_space (struct engine *engine, uint64_t ticket,
                uint64_t waiting_since_ms)
{
  struct cache *cache = cache_of (engine);
  uint64_t failing_ms = 0, now;
  bool shutting_down, held, writeback_fails, vain, by_device, make_way;
  int error;

  if (!cache->started) {
    if (cache_step (cache))
      return 0;
    return cache->writeback_error < 0 ? cache->writeback_error : -ENOSPC;
  }

  mutex_lock (&cache->lock);
  now = now_ms ();
  cache->want_space = true;
  hurry_locked (cache);
  if (!MUTATION (T14_GC_BY_TIMER)) {
    cache->gc_calls++;
    pthread_cond_broadcast (&cache->wake);
  }
  /* Whichever of the two services fails, no space comes.  One that is paused
   * does not fail: whoever paused it wants writers to wait. */
  held = is_held_locked (cache);
  writeback_fails = cache->writeback_error < 0 && !held;
  error = writeback_fails ? cache->writeback_error : cache->gc_error;
  vain = !can_write_back (cache) && space_is_short (engine);
  shutting_down = cache->shutting_down;
  by_device = writeback_fails ? cache->device_failed
    : error < 0 && error != -ENOMEM && error != -EAGAIN;
  make_way = cache->failing_over
    || (by_device && now >= cache->fail_over_at_ms
        && setting_get (&engine->settings, SETTING_fail) == FAIL_PASSTHROUGH);
  if (error < 0)
    failing_ms = now - MAX (writeback_fails ? cache->failing_since_ms
                            : cache->gc_failing_since_ms, waiting_since_ms);
  mutex_unlock (&cache->lock);

  /* An invalidation, with nobody connected who could write back. */
  if (vain)
    return -ENOSPC;
  if (shutting_down && (error < 0 || held))
    return -ESHUTDOWN;
  if (make_way)
    return -ENODEV;             /* see make_way */
  if (error < 0 && failing_ms >= setting_get (&engine->settings,
                                              SETTING_space_timeout)) {
    report (REPORT_ERROR, "the cache is full and no space can be made (%s): a "
            "write was refused after %" PRIu64 " ms",
            strerror (-error), now - waiting_since_ms);
    return -EIO;
  }
  segment_wait (&engine->segments, ticket, now + IDLE_MAX_MS);
  return 0;
}

static int
wait_for_path (struct engine *engine)
{
  struct cache *cache = cache_of (engine);

  if (!cache->started) {
    (void) cache_step_writeback (cache);
    return cache->writeback_error;
  }

  HOLD_LOCK (&cache->lock);
  const uint64_t attempts = cache->attempts;

  /* Who waits here does so instead of asking the backing store, so it is asked
   * as often. */
  cache->retry_at_ms = 0;
  pthread_cond_broadcast (&cache->wake);
  while (!is_passable (modes_path (&engine->modes))) {
    if (cache->stop || !can_write_back (cache))
      return -ESHUTDOWN;
    if (cache->failing_over)
      return -ENODEV;           /* see make_way */
    if (cache->attempts != attempts && cache->writeback_error < 0)
      return cache->writeback_error;
    cond_wait_until (&cache->progress, &cache->lock, now_ms () + IDLE_MAX_MS);
  }
  return 0;
}

/* --- open and close --------------------------------------------------- */

/* Never so many that a small cache is pinned by idle heads (T13). */
static unsigned
choose_heads (const struct engine *engine)
{
  const uint32_t limit =
    MAX (engine->superblock.geometry.segment_count / 8, 1u);
  long wanted = engine->options.heads;

  if (MUTATION (T13_IDLE_HEADS))
    return engine->superblock.geometry.segment_count;
  if (wanted == 0)
    wanted = sysconf (_SC_NPROCESSORS_ONLN);
  return MIN (MAX (wanted, 1L), (long) limit);
}

static int
set_setting (struct engine *engine, enum setting which, uint64_t value)
{
  setting_put (&engine->settings, which, value);
  if (which == SETTING_mode)
    modes_setting_changed (engine);
  return which == SETTING_gc_percent
    ? control_set_gc_percent (&engine->superblock, value) : 0;
}

static uint64_t
remembered_gc_percent (struct engine *engine)
{
  const uint32_t percent = control_get (&engine->superblock).gc_percent;

  if (MUTATION (T12_PERCENT_CUT))
    return (uint8_t) percent;
  return setting_allows (SETTING_gc_percent, percent) ? percent
    : CACHE_DEFAULT_GC_PERCENT;
}

static int
settle_settings (struct engine *engine)
{
  int r = 0;

  for (unsigned i = 0; i < SETTINGS_COUNT; i++)
    if (engine->options.setting[i] == SETTING_REMEMBERED)
      setting_put (&engine->settings, i, remembered_gc_percent (engine));
    else if (r == 0)
      r = set_setting (engine, i, engine->options.setting[i]);
  return r;
}

static void
init_parts (struct engine *engine)
{
  pthread_mutex_init (&engine->superblock.control_lock, NULL);
  epoch_queue_init (&engine->queue);
  lost_init (&engine->lost);
  streams_init (&engine->streams);
  flights_init (&engine->flights);
  modes_init (&engine->modes);
  pthread_mutex_init (&engine->backing.lock, NULL);
  rate_init (&engine->writeback_rate, now_ms ());
}

static void
close_parts (struct engine *engine)
{
  log_free (engine->log);
  epoch_queue_destroy (&engine->queue);
  lost_destroy (&engine->lost);
  streams_destroy (&engine->streams);
  flights_destroy (&engine->flights);
  ghost_destroy (&engine->ghost);
  modes_destroy (&engine->modes);
  pthread_mutex_destroy (&engine->backing.lock);
  rate_destroy (&engine->writeback_rate);
  segment_table_close (&engine->segments);
  index_free (engine->index);
  stats_free (engine->stats);
  superblock_destroy (&engine->superblock);
  engine->log = NULL;
  engine->index = NULL;
  engine->stats = NULL;
}

/* Read what is on the device. */
static int
load_parts (struct cache *cache, struct recovery_result *found)
{
  struct engine *engine = &cache->engine;
  int r;

  r = layout_load_or_format (engine);
  if (r < 0)
    return r;
  engine->reader = (struct log_reader) {
    .pmem = engine->pmem, .superblock = &engine->superblock,
  };
  engine->stats = stats_new ();
  engine->index = index_new (engine->options.regions
                             ? engine->options.regions : DEFAULT_REGIONS);
  if (engine->stats == NULL || engine->index == NULL)
    return -ENOMEM;
  superblock_count_errors (&engine->superblock, engine->stats);
  r = ghost_init (&engine->ghost, engine->superblock.geometry.device_size);
  if (r < 0)
    return r;
  r = segment_table_open (&engine->segments, &engine->superblock,
                          engine->pmem, engine->stats);
  if (r < 0)
    return r;
  cache->opened_ms = now_ms ();
  cache->persistent_memory = engine->pmem->ordered;
  engine->must_replay = !layout_fits (engine);
  r = engine_recover (engine, found);
  if (r < 0)
    return r;
  cache->replay_ms = now_ms () - cache->opened_ms;
  cache->held_data = !index_is_empty (engine->index);
  return 0;
}

static int
open_parts (struct cache *cache)
{
  struct engine *engine = &cache->engine;
  struct recovery_result found;
  struct log_options log_options;
  int r;

  while ((r = load_parts (cache, &found)) == 0
         && (r = layout_fit (engine)) == LAYOUT_CHANGED) {
    close_parts (engine);
    init_parts (engine);
  }
  if (r < 0)
    return r;
  log_options = (struct log_options) {
    .pmem = engine->pmem,
    .superblock = &engine->superblock,
    .segments = &engine->segments,
    .queue = &engine->queue,
    .stats = engine->stats,
    .heads = choose_heads (engine),
    .data_crc = engine->options.data_crc,
    .sequence = found.sequence,
    .epoch = found.epoch,
    .on_retired = on_retired,
    .opaque = cache,
  };
  r = log_new (&log_options, &engine->log);
  if (r < 0)
    return r;
  return settle_settings (engine);
}

int
cache_open (const struct cache_options *options, struct pmem *pmem,
            struct cache **result)
{
  struct cache *cache = calloc (1, sizeof *cache);
  int r;

  assert (options->segment_size == 0
          || (is_power_of_2 (options->segment_size)
              && options->segment_size >= CACHE_MIN_SEGMENT_SIZE
              && options->segment_size <= CACHE_MAX_SEGMENT_SIZE));
  if (cache == NULL)
    return -ENOMEM;
  cache->engine.options = *options;
  cache->engine.pmem = pmem;
  cache->engine.wait_for_space = wait_for_space;
  cache->engine.wait_for_path = wait_for_path;
  cache->engine.is_urgent = is_urgent;
  entrance_init (&cache->entrance);
  pthread_mutex_init (&cache->lock, NULL);
  cond_init (&cache->wake);
  cond_init (&cache->progress);
  init_parts (&cache->engine);
  r = open_parts (cache);
  if (r < 0) {
    close_parts (&cache->engine);
    entrance_destroy (&cache->entrance);
    free (cache);
    return r;
  }
  *result = cache;
  return 0;
}

static int
start_writeback (struct cache *cache)
{
  /* The calling thread is one of them. */
  const unsigned helpers = cache->started
    ? MAX (cache->engine.options.writeback_threads, 1u) - 1 : 0;

  return writeback_new (&cache->engine, helpers, &cache->writeback);
}

int
cache_start (struct cache *cache)
{
  int r;

  assert (!cache->started);
  writeback_free (cache->writeback);
  cache->writeback = NULL;
  cache->started = true;
  log_use_cpus (cache->engine.log);
  r = start_writeback (cache);
  if (r < 0)
    goto failed;
  r = -pthread_create (&cache->writeback_thread, NULL, writeback_main, cache);
  if (r < 0)
    goto failed;
  r = -pthread_create (&cache->gc_thread, NULL, gc_main, cache);
  if (r == 0)
    return 0;
  mutex_lock (&cache->lock);
  cache->stop = true;
  pthread_cond_broadcast (&cache->wake);
  mutex_unlock (&cache->lock);
  pthread_join (cache->writeback_thread, NULL);
  cache->stop = false;
 failed:
  cache->started = false;
  report (REPORT_ERROR, "cannot start the service threads: %s",
          strerror (-r));
  return r;
}

static int
check_identity (struct superblock *sb, const struct backend *backend,
                const char *export, const char *backing_id)
{
  const size_t export_length = strlen (export);
  const size_t id_length = backing_id ? strlen (backing_id) : 0;

  if (sb->backing_size != backend->size && !MUTATION (T16_ANY_STORE)) {
    report (REPORT_ERROR, "the cache belongs to a backing store of %" PRIu64
            " bytes, this one has %" PRIu64 ": it was resized or is another "
            "one; not used: give the cache's own, or another cache device", sb->backing_size, backend->size);
    return -EMEDIUMTYPE;
  }
  if (sb->export_length != export_length
      || memcmp (sb->export_name, export, export_length) != 0) {
    report (REPORT_ERROR, "the cache belongs to export \"%.*s\", this is "
            "\"%s\"; not used: give another cache device", (int) sb->export_length, sb->export_name,
            export);
    return -EMEDIUMTYPE;
  }
  if (backing_id && (sb->backing_id_length != id_length
                     || memcmp (sb->backing_id, backing_id, id_length) != 0)) {
    report (REPORT_ERROR, "the cache belongs to the backing store with "
            "pcache-backing-id=%.*s, not %s; not used: give another cache "
            "device",
            (int) sb->backing_id_length, sb->backing_id, backing_id);
    return -EMEDIUMTYPE;
  }
  return 0;
}

int
cache_attach (struct cache *cache, struct backend *backend,
              const char *export)
{
  struct engine *engine = &cache->engine;
  struct superblock *sb = &engine->superblock;
  bool flushed = true;
  int r;

  assert (backend->max_request >= LOG_MAX_RESERVE && backend->max_zero > 0);
  if (sb->bound)
    r = check_identity (sb, backend, export, engine->options.backing_id);
  else {
    r = superblock_bind (sb, backend->size, export,
                         engine->options.backing_id);
    if (r < 0)
      report (REPORT_ERROR, "the backing store's identity cannot be written to "
              "the cache device: %s", strerror (-r));
  }
  if (r == 0 && cache->writeback == NULL)
    r = start_writeback (cache);
  if (r < 0)
    return r;
  /* What was written around the cache before it was detached, or by a process that
   * was killed, may not have been flushed: it must not be cached as clean yet. */
  if (backend->can_write)
    flushed = backend_flush (backend) == 0;
  HOLD_LOCK (&cache->lock);
  engine->backend = backend;
  modes_attach (engine, flushed);
  cache->failures = 0;
  cache->writeback_error = 0;
  pthread_cond_broadcast (&cache->wake);
  return 0;
}

bool
cache_get_export (struct cache *cache, char name[CACHE_MAX_EXPORT_NAME + 1])
{
  const struct superblock *sb = &cache->engine.superblock;

  if (!sb->bound)
    return false;
  memcpy (name, sb->export_name, sb->export_length);
  name[sb->export_length] = '\0';
  return true;
}

/* Write-back stops as soon as it can.  What it has not written yet stays
 * dirty. */
static void
call_off_locked (struct cache *cache)
{
  cache->calling_off++;
  if (cache->busy)
    writeback_cancel (cache->writeback);
  while (cache->busy)
    pthread_cond_wait (&cache->progress, &cache->lock);
  if (--cache->calling_off == 0 && cache->writeback)
    writeback_resume (cache->writeback);
}

void
cache_detach (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  call_off_locked (cache);
  modes_detach (&cache->engine);
  cache->engine.backend = NULL;
  pthread_cond_broadcast (&cache->progress);
}

void
cache_begin_shutdown (struct cache *cache)
{
  {
    HOLD_LOCK (&cache->lock);
    cache->shutting_down = true;
    pthread_cond_broadcast (&cache->wake);
    pthread_cond_broadcast (&cache->progress);
  }
  segment_wake_all (&cache->engine.segments);
}

static bool
is_drained (struct engine *engine, const struct cache_drain *goal)
{
  uint64_t epoch, since;

  return (!epoch_queue_first (&engine->queue, &epoch, &since)
          || epoch > goal->through)
    && modes_is_flushed (&engine->modes, goal->around);
}

static int
drain_by_hand (struct cache *cache, const struct cache_drain *goal)
{
  while (!is_drained (&cache->engine, goal)) {
    bool worked;
    int r = can_write_back (cache)
      ? take_step (cache, goal->through, &worked) : -ESHUTDOWN;

    cache->writeback_error = r;
    if (r < 0)
      return r;
  }
  return 0;
}

/* The caller is inside, or nobody is. */
static int
mark_drain (struct cache *cache, struct cache_drain *drain)
{
  struct engine *engine = &cache->engine;
  int r;

  /* What comes after this belongs to later epochs, which the drain does not
   * wait for (T25). */
  r = engine_flush (engine);
  if (r < 0)
    return r;
  drain->through = log_closed_through (engine->log);
  drain->bytes = epoch_queue_dirty_through (&engine->queue, drain->through);
  drain->around = modes_around (&engine->modes);
  return 0;
}

/* for_bypass: it ends when the server goes away, too. */
static int
await_drain (struct cache *cache, const struct cache_drain *drain,
             uint64_t until_ms, bool for_bypass)
{
  struct engine *engine = &cache->engine;
  struct cache_drain goal = *drain;
  int r = 0;

  if (!cache->started)
    return drain_by_hand (cache, &goal);

  HOLD_LOCK (&cache->lock);
  if (cache->drains++ == 0 || drain->through >= cache->drain.through)
    cache->drain = *drain;
  cache->failures = MIN (cache->failures, 1u);
  cache->retry_at_ms = 0;
  pthread_cond_broadcast (&cache->wake);
  hurry_locked (cache);
  if (MUTATION (T25_ENDLESS_DRAIN))
    goal.through = UINT64_MAX;
  while (!is_drained (engine, &goal)) {
    if (!can_write_back (cache) || (for_bypass && cache->shutting_down))
      r = -ESHUTDOWN;
    else if (cache->failures >= DRAIN_FAILURES)
      r = cache->writeback_error;
    else if (!cond_wait_until (&cache->progress, &cache->lock, until_ms)
             && !is_drained (engine, &goal))
      r = cache->writeback_error < 0 ? cache->writeback_error : -ETIMEDOUT;
    if (r < 0)
      break;
  }
  cache->drains--;
  return r;
}

/* There is nothing to write back; make durable what went past the cache. */
static int
flush_bypassed (struct cache *cache)
{
  struct backend *backend = cache->engine.backend;

  return backend && backend->can_write ? backend_flush (backend) : 0;
}

int
cache_begin_drain (struct cache *cache, struct cache_drain *drain)
{
  int r;

  *drain = (struct cache_drain) { 0 };
  if (!entrance_enter (&cache->entrance))
    return flush_bypassed (cache);
  r = mark_drain (cache, drain);
  entrance_leave (&cache->entrance);
  return r;
}

int
cache_await_drain (struct cache *cache, const struct cache_drain *drain,
                   uint64_t timeout_ms)
{
  return cache_is_bypassed (cache) ? 0
    : await_drain (cache, drain, now_ms () + timeout_ms, false);
}

int
cache_drain (struct cache *cache, uint64_t timeout_ms)
{
  const uint64_t until_ms = now_ms () + timeout_ms;
  struct cache_drain drain;
  int r = cache_begin_drain (cache, &drain);

  return r < 0 || cache_is_bypassed (cache) ? r
    : await_drain (cache, &drain, until_ms, false);
}

static uint64_t
drain_left_locked (struct cache *cache, const struct cache_drain *drain)
{
  return cache->writeback == NULL ? 0
    : MIN (writeback_left (cache->writeback, drain->through), drain->bytes);
}

uint64_t
cache_drain_left (struct cache *cache, const struct cache_drain *drain)
{
  HOLD_LOCK (&cache->lock);

  return drain_left_locked (cache, drain);
}

bool
cache_get_drain (struct cache *cache, uint64_t *bytes, uint64_t *left)
{
  HOLD_LOCK (&cache->lock);

  *bytes = *left = 0;
  if (cache->drains == 0)
    return false;
  *bytes = cache->drain.bytes;
  *left = drain_left_locked (cache, &cache->drain);
  return true;
}

/* --- pause ------------------------------------------------------------ */

void
cache_pause_writeback (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  cache->paused = true;
  if (cache->drains == 0)
    call_off_locked (cache);
}

void
cache_resume_writeback (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  /* The time it was paused is not time in which it failed. */
  if (cache->paused && cache->failures > 0)
    cache->failing_since_ms = now_ms ();
  cache->paused = false;
  cache->retry_at_ms = 0;
  pthread_cond_broadcast (&cache->wake);
}

bool
cache_is_paused (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  return cache->paused;
}

static void
stop_threads (struct cache *cache)
{
  if (!cache->started)
    return;
  mutex_lock (&cache->lock);
  cache->stop = true;
  /* What it has not written yet stays dirty. */
  writeback_cancel (cache->writeback);
  pthread_cond_broadcast (&cache->wake);
  mutex_unlock (&cache->lock);
  pthread_join (cache->writeback_thread, NULL);
  pthread_join (cache->gc_thread, NULL);
  cache->started = false;
}

/* --- bypass ----------------------------------------------------------- */

bool
cache_is_bypassed (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  return cache->bypassed;
}

/* The services leave the cache device alone, or go on. */
static void
set_halted (struct cache *cache, bool halted)
{
  HOLD_LOCK (&cache->lock);

  cache->halted = halted;
  pthread_cond_broadcast (&cache->wake);
  while (halted && (cache->busy || cache->gc_busy))
    pthread_cond_wait (&cache->progress, &cache->lock);
}

/* Nobody is inside, nothing is dirty. */
static bool
find_lost (struct engine *engine, struct range *found)
{
  struct range range;

  for (size_t i = 0; lost_get (&engine->lost, i, &range); i++) {
    struct index_cursor cursor;
    struct piece piece;
    bool is_lost = false;

    index_lock (engine->index, range);
    index_walk_locked (&cursor, engine->index, range, false);
    while (!is_lost && index_next_piece (&cursor, &piece))
      is_lost = !piece.is_hole && piece.extent.kind == EXTENT_LOST;
    index_unlock (engine->index, range);
    if (is_lost) {
      *found = piece.range;
      return true;
    }
  }
  return false;
}

/* What fail_over tries again and again is said once. */
static bool
may_complain (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  return !cache->failing_over || !cache->said_stuck;
}

static int
refuse_lost (struct cache *cache)
{
  struct range lost;

  if (!find_lost (&cache->engine, &lost))
    return 0;
  if (may_complain (cache))
    report (REPORT_ERROR, "the cache cannot be left: dirty data at %" PRIu64
            "+%" PRIu64 " was lost, and without the cache the range would be "
            "read as it was before; overwrite it first", lost.start,
            lost.length);
  return -EIO;
}

/* Make void what the device holds.  Nobody is inside, nothing is dirty, the
 * services are halted. */
static int
void_device (struct cache *cache)
{
  struct engine *engine = &cache->engine;
  uint64_t written_back = 0;
  unsigned sealed;
  int r = refuse_lost (cache);

  if (r < 0)
    return r;
  if (log_is_distrusted (engine->log))
    written_back = log_closed_through (engine->log);
  else {
    /* So that damage that comes later is known to hide nothing dirty. */
    log_retire_heads (engine->log);
    log_seal_retired (engine->log, &sealed);
  }
  /* Every record there is is clean.  Crash before: they all are valid, and the
   * backing store agrees with them, as no write has gone past them yet.  After:
   * replay ignores them all. */
  r = MUTATION (BYPASS_WITHOUT_TAIL) ? 0
    : control_advance (&engine->superblock, log_sequence (engine->log),
                       written_back);
  if (r < 0 && may_complain (cache))
    report (REPORT_ERROR, "the cache cannot be left: what the cache device "
            "holds cannot be made void: %s", strerror (-r));
  return r;
}

/* With nobody inside.  0; -EAGAIN: something is dirty again. */
static int
leave_device (struct cache *cache)
{
  struct engine *engine = &cache->engine;
  const struct cache_drain everything = { .through = UINT64_MAX };
  struct cache_drain drain;
  int r;

  r = mark_drain (cache, &drain);
  if (r == 0)
    r = await_drain (cache, &drain, now_ms () + BYPASS_HOLD_MS, true);
  if (r < 0)
    return r == -ETIMEDOUT ? -EAGAIN : r;
  set_halted (cache, true);
  /* Records that eviction or write-back wrote elsewhere meanwhile. */
  r = log_dirty_bytes (engine->log) > 0 || !is_drained (engine, &everything)
    ? -EAGAIN : void_device (cache);
  if (r < 0)
    set_halted (cache, false);
  return r;
}

/* For as long as they had to wait.  False: the time is over, or the server goes
 * away. */
static bool
let_requests_pass (struct cache *cache, uint64_t until_ms)
{
  const uint64_t now = now_ms ();
  HOLD_LOCK (&cache->lock);

  while (!cache->shutting_down && now + BYPASS_HOLD_MS < until_ms
         && cond_wait_until (&cache->progress, &cache->lock,
                             now + BYPASS_HOLD_MS))
    ;
  return !cache->shutting_down && now_ms () < until_ms;
}

static int
bypass (struct cache *cache, uint64_t until_ms)
{
  int r;

  do {
    struct cache_drain drain;

    /* Most of it while requests go on. */
    r = cache_begin_drain (cache, &drain);
    if (r == 0)
      r = await_drain (cache, &drain, until_ms, true);
    if (r < 0)
      return r;
    if (!entrance_shut (&cache->entrance, now_ms () + BYPASS_HOLD_MS))
      r = -EAGAIN;
    else {
      r = leave_device (cache);
      if (r == 0)
        return 0;
      entrance_open (&cache->entrance, false);
    }
  } while (r == -EAGAIN && let_requests_pass (cache, until_ms));
  return r == -EAGAIN ? -ETIMEDOUT : r;
}

/* The services have been halted, and nobody else is inside. */
static void
close_device (struct cache *cache)
{
  struct pmem *pmem = cache->engine.pmem;

  {
    HOLD_LOCK (&cache->lock);
    cache->bypassed = true;
    cache->engine.pmem = NULL;
    cache->schedule = (struct schedule) { 0 };
    cache->writeback_error = 0;
  }
  stop_threads (cache);
  pmem_close (pmem);
}

int
cache_bypass (struct cache *cache, uint64_t timeout_ms)
{
  int r;

  {
    HOLD_LOCK (&cache->lock);
    if (cache->bypassed)
      return 0;
    if (!cache->engine.superblock.bound)
      return -ESHUTDOWN;        /* it would have to be, later */
    if (cache->bypassing)
      return -EBUSY;
    cache->bypassing = true;
  }
  r = bypass (cache, now_ms () + timeout_ms);
  if (r == 0) {
    close_device (cache);
    entrance_open (&cache->entrance, true);
    report (REPORT_WARNING, "the cache is bypassed: it is empty, the cache "
            "device is no longer used, and requests go straight to the backing "
            "store");
  }
  HOLD_LOCK (&cache->lock);
  cache->bypassing = false;
  pthread_cond_broadcast (&cache->progress);
  return r;
}

/* --- fail-over -------------------------------------------------------- */

/* pcache-fail=passthrough.  The cache device has failed a request: leave it, as
 * cache_bypass does, with what is different then.
 *
 * A store that was refused.  Everything else is as it should be: what was stored
 * and synced is durable.
 *
 * A sync that failed.  What was stored since the last good one may be gone, and
 * no later sync will tell.  The records of these epochs are not durable, and yet
 * they have to go to the backing store, which is against T24: a crash might then
 * find, as clean, what is older than the backing store.  So all that is clean is
 * made void first, by a mark of its own: the sync is forgiven, but for the mark
 * only.
 *
 *   crash before the mark     as after any crash: no flush has returned since
 *                             the last good one
 *   between it and the last   what is dirty and durable counts, on top of the
 *                             backing store: the epochs that are durable are called
 *                             written back one by one, as always; of the others
 *                             some records may be there, and their data is verified.
 *                             Their like in the backing store is as new or newer.
 *                             What is older than both is flushed, and what is
 *                             newer is not: it may be there or not
 *   after the last mark       nothing counts
 *
 * Until the last mark nobody is told that anything is durable; if it cannot be
 * made, the sync has failed as before. */

/* Nobody is inside, and the services are halted. */
static int
start_over (struct cache *cache)
{
  struct engine *engine = &cache->engine;
  int r = engine_flush (engine);

  /* It may have failed where nothing of the log was to be synced. */
  if (r == 0)
    r = pmem_sync (engine->pmem);
  if (r == 0)
    return 0;
  if (!pmem_trust (engine->pmem, true))
    return r;                   /* sets that no place takes */
  log_distrust (engine->log);
  /* The mark would make void what says that it is lost, too. */
  r = refuse_lost (cache);
  if (r == 0 && !MUTATION (FAIL_OVER_WITHOUT_MARK))
    r = control_advance (&engine->superblock, log_sequence (engine->log), 0);
  return r < 0 ? r : log_close_distrusted (engine->log);
}

static uint64_t
backing_failures (struct engine *engine)
{
  return stats_get (engine->stats, STAT_backing_write_errors)
    + stats_get (engine->stats, STAT_backing_flush_errors);
}

/* Of a backing store that fails.  False: it has had its time. */
static bool
wait_for_backing (struct cache *cache, unsigned failures, uint64_t until_ms)
{
  const uint64_t retry_ms = now_ms () + MIN (BACKOFF_MIN_MS << failures,
                                             BACKOFF_DRAIN_MS);
  HOLD_LOCK (&cache->lock);

  while (!cache->shutting_down && cache->calling_off == 0
         && retry_ms < until_ms
         && cond_wait_until (&cache->progress, &cache->lock, retry_ms))
    ;
  return !cache->shutting_down && cache->calling_off == 0
    && retry_ms < until_ms;
}

/* As busy as the write-back service would be: cache_detach waits. */
static int
write_back_step (struct cache *cache)
{
  bool worked;
  int r;

  {
    HOLD_LOCK (&cache->lock);
    if (!can_write_back (cache) || cache->calling_off > 0)
      return -ESHUTDOWN;
    cache->busy = true;
  }
  r = writeback_step (cache->writeback, UINT64_MAX, &worked);
  HOLD_LOCK (&cache->lock);
  cache->busy = false;
  pthread_cond_broadcast (&cache->progress);
  return r;
}

static int
write_all_back (struct cache *cache, uint64_t until_ms)
{
  struct engine *engine = &cache->engine;
  const struct cache_drain everything = {
    .through = UINT64_MAX,
    .bytes = epoch_queue_dirty_bytes (&engine->queue),
  };
  unsigned failures = 0;
  int r = 0;

  {
    HOLD_LOCK (&cache->lock);
    cache->drains++;            /* at any rate */
    cache->drain = everything;
  }
  while (r == 0 && !is_drained (engine, &everything)) {
    const uint64_t before = backing_failures (engine);

    r = write_back_step (cache);
    if (r == 0)
      failures = 0;
    else if (backing_failures (engine) != before
             && wait_for_backing (cache, MIN (failures++, 8u), until_ms))
      r = 0;
  }
  HOLD_LOCK (&cache->lock);
  cache->drains--;
  return r;
}

/* Nobody is inside. */
static int
leave_failed_device (struct cache *cache, uint64_t until_ms)
{
  struct engine *engine = &cache->engine;
  int r;

  {
    HOLD_LOCK (&cache->lock);
    cache->halted = true;
    call_off_locked (cache);
  }
  set_halted (cache, true);
  r = start_over (cache);
  if (r == 0)
    r = write_all_back (cache, until_ms);
  if (r == 0 && log_dirty_bytes (engine->log) > 0)
    r = -EIO;
  if (r == 0)
    r = void_device (cache);
  if (r == 0)
    return 0;
  if (log_is_distrusted (engine->log))
    pmem_trust (engine->pmem, false);
  set_halted (cache, false);
  return r;
}

/* Between the attempts those who wait are let in: whoever is inside may wait for
 * one of them. */
static bool
shut_in_time (struct cache *cache, uint64_t until_ms)
{
  while (!entrance_shut (&cache->entrance, now_ms () + BYPASS_HOLD_MS))
    if (now_ms () >= until_ms)
      return false;
  return true;
}

/* True: the cache has been left, by this call or another. */
static bool
fail_over (struct cache *cache)
{
  struct engine *engine = &cache->engine;
  const uint64_t patience_ms = setting_get (&engine->settings,
                                            SETTING_space_timeout);
  const uint64_t until_ms = now_ms () + patience_ms;
  bool complain;
  int r = -EAGAIN;

  {
    HOLD_LOCK (&cache->lock);
    while (cache->bypassing)
      pthread_cond_wait (&cache->progress, &cache->lock);
    if (cache->bypassed || now_ms () < cache->fail_over_at_ms
        || cache->shutting_down)
      return cache->bypassed;
    cache->bypassing = cache->failing_over = true;
  }
  segment_wake_all (&engine->segments);
  if (shut_in_time (cache, until_ms)) {
    r = leave_failed_device (cache, until_ms);
    if (r == 0)
      close_device (cache);
    entrance_open (&cache->entrance, r == 0);
  }
  complain = may_complain (cache);
  if (r == 0)
    report (REPORT_WARNING, "the cache device has failed, and was left: "
            "everything is in the backing store, and requests go straight "
            "there");
  else if (complain)
    report (REPORT_ERROR, "the cache device has failed and cannot be left "
            "(%s): the cache stays in use, and flushes or writes fail", r == -EBADMSG
            ? "without data checksums it is not known what is still right"
            : strerror (-r));
  HOLD_LOCK (&cache->lock);
  cache->bypassing = cache->failing_over = false;
  cache->said_stuck |= r < 0;
  cache->fail_over_at_ms = now_ms () + MIN (FAIL_OVER_PAUSE_MS, patience_ms);
  pthread_cond_broadcast (&cache->progress);
  return r == 0;
}

/* All is durable and sealed, the services have ended. */
static void
leave_checkpoint (struct cache *cache)
{
  /* Free segments are written to: nobody may acquire one meanwhile. */
  if (cache_is_bypassed (cache)
      || !entrance_shut (&cache->entrance, now_ms ()))
    return;
  (void) checkpoint_write (&cache->engine);
  entrance_open (&cache->entrance, false);
}

int
cache_stop (struct cache *cache, bool drain, uint64_t timeout_ms)
{
  struct engine *engine = &cache->engine;
  unsigned sealed;
  int r = 0, s;

  if (drain)
    r = cache_drain (cache, timeout_ms);
  stop_threads (cache);
  {
    HOLD_LOCK (&cache->lock);
    writeback_free (cache->writeback);
    cache->writeback = NULL;
  }
  if (cache_is_bypassed (cache))
    return r;

  /* T17: a failure here means that acknowledged data may be gone, and is
   * never swallowed. */
  s = engine_flush (engine);
  if (s == 0) {
    /* Sealed segments say how many sets they have, so damage that comes
     * while nobody looks is noticed at the next start. */
    log_retire_heads (engine->log);
    s = log_seal_retired (engine->log, &sealed);
  }
  /* What went around the cache is nowhere else. */
  if (engine->backend && modes_is_unflushed (&engine->modes)) {
    const int flushed = modes_settle (engine);

    r = r < 0 ? r : flushed;
  }
  if (s < 0 && !MUTATION (T17_LAST_FLUSH_IGNORED)) {
    report (REPORT_ERROR, "the cache device failed at the last flush: %s; data "
            "written since the one before may be lost", strerror (-s));
    return s;
  }
  if (s == 0)
    leave_checkpoint (cache);
  return r;
}

void
cache_close (struct cache *cache)
{
  struct pmem *pmem;

  if (cache == NULL)
    return;
  stop_threads (cache);
  writeback_free (cache->writeback);
  pmem = cache->engine.pmem;
  close_parts (&cache->engine);
  entrance_destroy (&cache->entrance);
  pthread_cond_destroy (&cache->wake);
  pthread_cond_destroy (&cache->progress);
  pthread_mutex_destroy (&cache->lock);
  free (cache);
  pmem_close (pmem);
}

/* --- requests --------------------------------------------------------- */

static bool
is_on_disk (const struct cache *cache, struct range range)
{
  return cache->engine.backend
    && range_is_valid (range, cache->engine.backend->size);
}

/* A request came out with R.  START: of stats_begin. */
static int
ended (struct engine *engine, enum stats_timer timer, uint64_t start, int r)
{
  stats_end (engine->stats, timer, start);
  if (r < 0)
    stats_add (engine->stats, STAT_failed_requests, 1);
  return r;
}

/* One try of a request. */
struct attempt {
  bool inside;
  uint64_t failures;            /* of the device, before it */
  uint64_t since_ms;            /* when it first had to make way; 0: never */
};

/* As entrance_enter. */
static bool
begin_attempt (struct cache *cache, struct attempt *attempt)
{
  attempt->inside = entrance_enter (&cache->entrance);
  attempt->failures = atomic_load (&cache->engine.device_failures);
  return attempt->inside;
}

/* It waits for space, which a failed device will never have: it was sent out, that
 * the device can be left.  If that fails, it waits on. */
static bool
make_way (struct cache *cache, struct attempt *attempt)
{
  const uint64_t patience_ms = setting_get (&cache->engine.settings,
                                            SETTING_space_timeout);

  if (attempt->since_ms == 0)
    attempt->since_ms = now_ms ();
  return fail_over (cache) || now_ms () - attempt->since_ms < patience_ms;
}

/* It came out with *R, and has left.  True: it is to be tried again, in most cases
 * past the device.  A part of it may have been done, and is done again: it has not been
 * acknowledged, so it counts as newer than all that was. */
static bool
try_past_device (struct cache *cache, struct attempt *attempt, int *r)
{
  struct engine *engine = &cache->engine;

  if (!attempt->inside || *r >= 0)
    return false;
  if (*r == -ENODEV) {
    *r = -EIO;
    return make_way (cache, attempt);
  }
  return atomic_load (&engine->device_failures) != attempt->failures
    && setting_get (&engine->settings, SETTING_fail) == FAIL_PASSTHROUGH
    && fail_over (cache);
}

/* After a request that went past the cache. */
static int
note_bypass (struct cache *cache, int r)
{
  if (atomic_load (&cache->bypass_error) != r)
    atomic_store (&cache->bypass_error, r);
  return r;
}

static int
read_bypassed (struct cache *cache, void *buf, struct range range)
{
  struct engine *engine = &cache->engine;
  int r = passthrough_read (engine->backend, buf, range);

  if (r < 0)
    stats_add (engine->stats, STAT_backing_read_errors, 1);
  else
    stats_add (engine->stats, STAT_read_miss_bytes, range.length);
  return r;
}

int
cache_read (struct cache *cache, void *buf, struct range range)
{
  struct engine *engine = &cache->engine;
  uint64_t start;
  int r;

  if (!is_on_disk (cache, range))
    return -EINVAL;
  start = stats_begin (engine->stats, TIMER_read_latency);
  stats_add (engine->stats, STAT_reads, 1);
  stats_add (engine->stats, STAT_read_bytes, range.length);
  if (!entrance_enter (&cache->entrance))
    r = read_bypassed (cache, buf, range);
  else {
    r = engine_read (engine, buf, range);
    entrance_leave (&cache->entrance);
  }
  return ended (engine, TIMER_read_latency, start, r);
}

int
cache_write (struct cache *cache, const void *buf, struct range range,
             bool fua)
{
  struct engine *engine = &cache->engine;
  struct attempt attempt = { 0 };
  uint64_t start;
  int r;

  if (!is_on_disk (cache, range))
    return -EINVAL;
  if (!engine->backend->can_write)
    return -EROFS;
  start = stats_begin (engine->stats, TIMER_write_latency);
  stats_add (engine->stats, STAT_writes, 1);
  stats_add (engine->stats, STAT_write_bytes, range.length);
  if (fua)
    stats_add (engine->stats, STAT_fua_writes, 1);
  do
    if (!begin_attempt (cache, &attempt))
      r = note_bypass (cache, passthrough_write (engine->backend, buf, range,
                                                 fua));
    else {
      r = engine_write (engine, buf, range, fua);
      entrance_leave (&cache->entrance);
    }
  while (try_past_device (cache, &attempt, &r));
  return ended (engine, TIMER_write_latency, start, r);
}

int
cache_zero (struct cache *cache, struct range range, bool may_trim, bool fua)
{
  struct engine *engine = &cache->engine;
  struct attempt attempt = { 0 };
  uint64_t start;
  int r;

  if (!is_on_disk (cache, range))
    return -EINVAL;
  if (!engine->backend->can_write)
    return -EROFS;
  start = stats_begin (engine->stats, TIMER_zero_latency);
  stats_add (engine->stats, STAT_zeros, 1);
  stats_add (engine->stats, STAT_zero_bytes, range.length);
  if (fua)
    stats_add (engine->stats, STAT_fua_writes, 1);
  do
    if (!begin_attempt (cache, &attempt))
      r = note_bypass (cache, passthrough_zero (engine->backend, range,
                                                may_trim, fua));
    else {
      /* A trim record may be written back as trim, which promises nothing about
       * what is read then: only where zeroing can be asked to trim. */
      r = engine_write_zeros (engine, may_trim && engine->backend->can_zero
                              ? RECORD_TRIM : RECORD_ZERO, range, fua);
      entrance_leave (&cache->entrance);
    }
  while (try_past_device (cache, &attempt, &r));
  return ended (engine, TIMER_zero_latency, start, r);
}

int
cache_trim (struct cache *cache, struct range range, bool fua)
{
  struct engine *engine = &cache->engine;
  struct attempt attempt = { 0 };
  uint64_t start;
  int r;

  if (!is_on_disk (cache, range))
    return -EINVAL;
  if (!engine->backend->can_write)
    return -EROFS;
  start = stats_begin (engine->stats, TIMER_zero_latency);
  stats_add (engine->stats, STAT_trims, 1);
  stats_add (engine->stats, STAT_trim_bytes, range.length);
  if (fua)
    stats_add (engine->stats, STAT_fua_writes, 1);
  do
    if (!begin_attempt (cache, &attempt))
      r = note_bypass (cache, passthrough_trim (engine->backend, range, fua));
    else {
      r = engine_write_zeros (engine, RECORD_TRIM, range, fua);
      entrance_leave (&cache->entrance);
    }
  while (try_past_device (cache, &attempt, &r));
  return ended (engine, TIMER_zero_latency, start, r);
}

int
cache_flush (struct cache *cache)
{
  struct engine *engine = &cache->engine;
  const uint64_t start = stats_begin (engine->stats, TIMER_flush_latency);
  struct attempt attempt = { 0 };
  int r;

  stats_add (engine->stats, STAT_flushes, 1);
  do
    if (!begin_attempt (cache, &attempt))
      r = note_bypass (cache, flush_bypassed (cache));
    else {
      r = modes_flush (engine);
      entrance_leave (&cache->entrance);
    }
  while (try_past_device (cache, &attempt, &r));
  return ended (engine, TIMER_flush_latency, start, r);
}

int
cache_prefetch (struct cache *cache, struct range range)
{
  int r;

  if (!is_on_disk (cache, range))
    return -EINVAL;
  stats_add (cache->engine.stats, STAT_prefetches, 1);
  if (cache_get_setting (cache, SETTING_mode) == MODE_WRITEONLY
      || !entrance_enter (&cache->entrance))
    return 0;
  r = engine_prefetch (&cache->engine, range);
  entrance_leave (&cache->entrance);
  if (r < 0)
    stats_add (cache->engine.stats, STAT_failed_requests, 1);
  return r;
}

void
cache_map (struct cache *cache, struct range range, enum map_kind *kind,
           uint64_t *length)
{
  assert (is_on_disk (cache, range));
  if (!entrance_enter (&cache->entrance)) {
    *kind = MAP_HOLE;
    *length = range.length;
    return;
  }
  engine_map (&cache->engine, range, kind, length);
  entrance_leave (&cache->entrance);
}

int
cache_invalidate (struct cache *cache, struct range range,
                  uint64_t *dropped_bytes)
{
  int r;

  *dropped_bytes = 0;
  if (!range_is_valid (range, cache_disk_size (cache)))
    return -EINVAL;
  if (!entrance_enter (&cache->entrance))
    return 0;                   /* nothing is cached */
  r = holes_invalidate (&cache->engine, range, dropped_bytes);
  entrance_leave (&cache->entrance);
  return r;
}

int
cache_set (struct cache *cache, enum setting which, uint64_t value)
{
  int r = 0;

  if (!setting_allows (which, value))
    return -EINVAL;
  if (entrance_enter (&cache->entrance)) {
    r = set_setting (&cache->engine, which, value);
    entrance_leave (&cache->entrance);
  }
  else
    setting_put (&cache->engine.settings, which, value);
  wake_services (cache);
  if (which == SETTING_mode) {
    HOLD_LOCK (&cache->lock);
    pthread_cond_broadcast (&cache->progress);  /* who waits may go on */
  }
  return r;
}

uint64_t
cache_get_setting (struct cache *cache, enum setting which)
{
  return setting_get (&cache->engine.settings, which);
}

struct engine *
cache_engine (struct cache *cache)
{
  return &cache->engine;
}

static uint32_t
ratio (uint64_t part, uint64_t rest)
{
  const uint64_t whole = part + rest;

  return whole == 0 ? STATUS_UNKNOWN
    : (uint32_t) ((double) part / (double) whole * 1e6 + 0.5);
}

/* Counters and times as they are, and what follows from them. */
static void
get_counted (struct stats *stats, struct cache_status *status)
{
#define X(kind, name, unit, description)                                \
  STATUS_IF_COUNTED (kind, status->name = stats_get (stats, STAT_##name);) \
  STATUS_IF_TIMED (kind, stats_get_latency (stats, TIMER_##name,        \
                                            &status->name);)
  STATUS_LIST (X)
#undef X
  status->hit_ratio = ratio (status->read_hits, status->read_partial_hits
                             + status->read_misses);
  status->byte_hit_ratio = ratio (status->read_hit_bytes,
                                  status->read_miss_bytes);
}

static const char *
mode_name (enum cache_mode mode)
{
  switch (mode) {
  case MODE_WRITEBACK: return "writeback";
  case MODE_WRITETHROUGH: return "writethrough";
  case MODE_WRITEAROUND: return "writearound";
  case MODE_WRITEONLY: return "writeonly";
  }
  return "?";
}

static void
get_dirty (struct engine *engine, uint64_t now, struct cache_status *status)
{
  struct set_entry open, queued, *oldest;
  /* In the order in which it moves: nothing is missed on its way. */
  const uint64_t in_sets = log_dirty_bytes (engine->log);
  const bool in_set = log_oldest_open_set (engine->log, &open);
  const uint64_t in_queue = epoch_queue_dirty_bytes (&engine->queue);
  const bool is_queued = epoch_queue_oldest (&engine->queue, &queued);

  status->mode = mode_name (modes_in_effect (engine));
  status->dirty_bytes = in_sets + in_queue;
  status->epoch = log_epoch (engine->log);
  if (!in_set && !is_queued)
    return;
  oldest = !in_set || (is_queued && queued.since_ms <= open.since_ms)
    ? &queued : &open;
  status->oldest_dirty_ms = now - MIN (now, oldest->since_ms);
  status->oldest_dirty_epoch = oldest->epoch;
  status->epochs_behind = status->epoch - MIN (status->epoch, oldest->epoch)
    + 1;
  status->dirty_tail = (struct status_place) {
    true, oldest->segment, oldest->end,
  };
}

static void
get_segments (struct engine *engine, struct cache_status *status)
{
  const struct segment_counts counts = segment_counts (&engine->segments);
  struct status_places *heads = &status->heads;
  uint32_t segment, offset;

  status->segment_size = engine->superblock.geometry.segment_size;
  status->segments_total = engine->superblock.geometry.segment_count;
  status->segments_free = counts.free;
  status->segments_open = counts.open;
  status->segments_sealed = counts.sealed;
  status->segments_used = counts.open + counts.sealed;
  for (unsigned i = 0; i < log_head_count (engine->log)
         && heads->count < STATUS_MAX_PLACES; i++)
    if (log_head_position (engine->log, i, &segment, &offset))
      heads->place[heads->count++] = (struct status_place) {
        true, segment, offset,
      };
  if (segment_oldest_sealed (&engine->segments, &segment))
    status->tail = (struct status_place) { true, segment, 0 };
}

static void
get_device (struct cache *cache, struct cache_status *status)
{
  struct engine *engine = &cache->engine;
  const struct media_superblock media = superblock_media (&engine->superblock);
  const struct control control = control_get (&engine->superblock);

  status->version = PACKAGE_VERSION;
  status->format_version = le32_get (media.version);
  status->superblock_flags = le32_get (media.flags);
  status->compat_features = le64_get (media.compat);
  status->ro_compat_features = le64_get (media.ro_compat);
  status->incompat_features = le64_get (media.incompat);
  status->data_crc = engine->options.data_crc;
  status->persistent_memory = cache->persistent_memory;
  status->from_checkpoint = engine->from_checkpoint;
  status->lost_data = control.lost;
  status->epoch_written_back = control.written_back;
  status->tail_sequence = control.tail_sequence;
  status->gc_percent = setting_get (&engine->settings, SETTING_gc_percent);
  status->index_bytes = index_memory (engine->index);
}

static int
writeback_error_locked (const struct cache *cache)
{
  return cache->bypassed ? atomic_load (&cache->bypass_error)
    : cache->writeback_error;
}

static void
get_backoff_locked (const struct cache *cache, uint64_t now,
                    struct cache_status *status)
{
  status->attached = cache->engine.backend != NULL;
  status->writeback_error = writeback_error_locked (cache);
  status->paused = cache->paused;
  status->bypassed = cache->bypassed;
  status->writeback_failures = cache->failures;
  if (cache->failures > 0) {
    status->writeback_failing_ms = now - MIN (now, cache->failing_since_ms);
    status->writeback_retry_ms = MAX (now, cache->retry_at_ms) - now;
  }
}

void
cache_get_status (struct cache *cache, struct cache_status *status)
{
  struct engine *engine = &cache->engine;
  const uint64_t now = now_ms ();

  memset (status, 0, sizeof *status);
  get_counted (engine->stats, status);
  get_dirty (engine, now, status);
  get_segments (engine, status);
  get_device (cache, status);
  status->writeback_rate = rate_get (&engine->writeback_rate, now);
  status->uptime_ms = now - cache->opened_ms;
  status->replay_ms = cache->replay_ms;
  HOLD_LOCK (&cache->lock);
  get_backoff_locked (cache, now, status);
}

uint64_t
cache_dirty_bytes (struct cache *cache)
{
  struct engine *engine = &cache->engine;
  /* In the order in which it moves: nothing is missed on its way. */
  const uint64_t in_sets = log_dirty_bytes (engine->log);

  return in_sets + epoch_queue_dirty_bytes (&engine->queue);
}

int
cache_writeback_error (struct cache *cache)
{
  HOLD_LOCK (&cache->lock);

  return writeback_error_locked (cache);
}

uint64_t
cache_disk_size (struct cache *cache)
{
  const struct media_superblock media =
    superblock_media (&cache->engine.superblock);

  return le64_get (media.backing_size);
}

uint32_t
cache_segment_count (struct cache *cache)
{
  return cache->engine.superblock.geometry.segment_count;
}

enum segment_role
cache_segment_role (struct cache *cache, uint32_t id)
{
  struct engine *engine = &cache->engine;
  const struct segment segment = segment_snapshot (&engine->segments, id);

  if (segment.damaged)
    return SEGMENT_ROLE_DAMAGED;
  switch (segment.state) {
  case SEGMENT_FREE:
    return SEGMENT_ROLE_FREE;
  case SEGMENT_OPEN:
    return SEGMENT_ROLE_OPEN;
  case SEGMENT_SEALED:
    break;
  }
  return segment.epoch_max > control_get (&engine->superblock).written_back
    ? SEGMENT_ROLE_DIRTY : SEGMENT_ROLE_CLEAN;
}

struct stats *
cache_stats (struct cache *cache)
{
  return cache->engine.stats;
}

bool
cache_held_data (struct cache *cache)
{
  return cache->held_data;
}

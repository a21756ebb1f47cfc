/* SPDX-License-Identifier: BSD-3-Clause */

/* Whatever fails, whenever: no promise is broken.
 *
 * One history of everything the front door offers is lived through again and
 * again.  In the Nth life the Nth operation of some kind fails (an
 * allocation, a request to the backing store, a store to the cache device...),
 * once or from then on, until a life in which nothing failed any more.
 *
 * In each: no crash, no hang, no call fails that has no reason to, every read
 * gives bytes that are allowed (expected.h), and once the fault is gone the
 * same cache goes on: all is read, flushed, drained, and then the backing
 * store is the disk, byte by byte.  Where the fault stays to the end, opening
 * the cache again finds all that was flushed. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "base/thread.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "faults/expected.h"
#include "support/faults.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"
#include "support/scale.h"
#include "support/seed.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define DISK (3 * MIB + 4096 + 512)
#define PIECE (128 * KIB)
#define LIFE_SECONDS 60         /* more is a hang */

/* Make a call of the engine: what it does counts and may fail. */
#define ENGINE(call)                                                    \
  ({                                                                    \
    faults_spare_me (false);                                            \
    __typeof__ (call) result_ = (call);                                 \
    faults_spare_me (true);                                             \
    result_;                                                            \
  })

/* --- histories -------------------------------------------------------- */

enum op_kind {
  OP_WRITE, OP_WRITE_LARGE, OP_WRITE_UNALIGNED, OP_WRITE_FUA,
  OP_ZERO, OP_ZERO_FUA, OP_TRIM, OP_FLUSH,
  OP_READ, OP_READ_LARGE, OP_PREFETCH, OP_MAP,
  OP_STEP, OP_DRAIN, OP_RESTART, OP_STEPS,
};

static const char *const op_names[] = {
  "write", "large write", "unaligned write", "FUA write",
  "zero", "FUA zero", "trim", "flush",
  "read", "large read", "prefetch", "map",
  "step", "drain", "restart", "steps",
};

struct op {
  enum op_kind kind;
  struct range range;
};

/* More is written than the cache has room for, so that segments are evicted
 * and used again. */
static const enum op_kind long_life[] = {
  OP_WRITE_LARGE, OP_WRITE_UNALIGNED, OP_FLUSH, OP_READ, OP_WRITE_FUA,
  OP_ZERO, OP_TRIM, OP_STEP, OP_WRITE, OP_PREFETCH, OP_MAP, OP_READ,
  OP_FLUSH, OP_WRITE_LARGE, OP_READ_LARGE, OP_DRAIN, OP_STEPS,
  OP_WRITE_LARGE, OP_WRITE_UNALIGNED, OP_READ, OP_STEP, OP_WRITE_LARGE,
  OP_ZERO_FUA, OP_WRITE_LARGE, OP_FLUSH, OP_READ_LARGE, OP_STEPS, OP_WRITE,
  OP_RESTART, OP_READ, OP_WRITE_LARGE, OP_TRIM, OP_WRITE_LARGE, OP_READ,
  OP_WRITE_UNALIGNED, OP_READ_LARGE, OP_WRITE_LARGE, OP_WRITE_FUA,
  OP_WRITE_LARGE, OP_PREFETCH, OP_FLUSH, OP_WRITE_LARGE, OP_WRITE_LARGE,
  OP_WRITE_LARGE, OP_WRITE_LARGE, OP_STEPS, OP_READ, OP_WRITE_LARGE, OP_ZERO,
  OP_WRITE_UNALIGNED,
};

/* What made the image that a cache is opened from: much of it dirty. */
static const enum op_kind early_life[] = {
  OP_WRITE_LARGE, OP_READ_LARGE, OP_WRITE, OP_DRAIN, OP_WRITE_UNALIGNED,
  OP_FLUSH, OP_WRITE_LARGE, OP_ZERO, OP_FLUSH, OP_WRITE_LARGE, OP_TRIM,
  OP_WRITE_FUA, OP_FLUSH, OP_WRITE_UNALIGNED, OP_WRITE,
};

static const enum op_kind later_life[] = {
  OP_READ, OP_WRITE, OP_READ_LARGE, OP_WRITE_LARGE, OP_FLUSH, OP_STEP,
  OP_WRITE_UNALIGNED, OP_RESTART, OP_READ, OP_WRITE_FUA, OP_STEPS,
  OP_WRITE_LARGE, OP_WRITE_LARGE, OP_TRIM, OP_READ,
};

struct history {
  const char *name;
  const enum op_kind *kinds;
  unsigned count;
  bool from_image, threads;
  bool larger;                  /* the image, on a larger device */
};

#define KINDS(a) a, sizeof a / sizeof *a

static const struct history fresh = { "a new cache", KINDS (long_life),
                                      false, false, false };
static const struct history recovered = { "a cache with dirty data",
                                          KINDS (later_life), true, false,
                                          false };
static const enum op_kind short_life[] = { OP_READ, OP_WRITE, OP_FLUSH };
static const struct history grown = { "a cache that can grow",
                                      KINDS (short_life), true, false, true };
static const struct history threaded = { "with threads", KINDS (long_life),
                                         false, true, false };

static struct op
make_op (enum op_kind kind, uint64_t *random)
{
  uint64_t start, length, step = 512;

  switch (kind) {
  case OP_WRITE_LARGE:
  case OP_READ_LARGE:
    length = 256 * KIB + random_below (random, 8) * 32 * KIB;
    step = 4096;
    break;
  case OP_WRITE_UNALIGNED:
    length = 1 + random_below (random, 70 * KIB);
    step = 1;
    break;
  case OP_ZERO:
  case OP_TRIM:
    length = 512 * (1 + random_below (random, 2500));
    break;
  case OP_READ:
  case OP_PREFETCH:
  case OP_MAP:
    length = 1 + random_below (random, 200 * KIB);
    step = 1;
    break;
  default:
    length = 4096 * (1 + random_below (random, 16));
    break;
  }
  start = random_below (random, (DISK - length) / step + 1) * step;
  return (struct op) { kind, { start, length } };
}

/* --- one life --------------------------------------------------------- */

enum ending {
  LIFT_AND_GO_ON,               /* the fault goes, the cache stays open */
  TO_THE_END,                   /* the fault goes when the cache is closed */
};

struct image {
  struct memory_device *device;
  uint8_t *disk;
  struct expected expected;
};

struct life {
  const struct history *history;
  enum fault fault;
  uint64_t nth;
  bool sticky;
  enum ending ending;

  struct memory_device *device;
  struct memory_backend *mb;
  struct cache *cache;
  struct expected expected;
  uint64_t random, next_id;
  unsigned failed_calls;
  uint64_t gc_percent;
  uint8_t *content;             /* what the disk was last read as */
  bool saw[STATS_COUNT];        /* counters that moved */
  bool saw_checkpoint;          /* an index that was read from one */
  struct range changing;        /* by the call under way */
  uint64_t given_up;            /* bytes, by this cache, as was reported */
};

static struct life life;
static const char *doing = "nothing";

/* What was reported as lost since the last look: from any thread. */
static pthread_mutex_t reports_lock = PTHREAD_MUTEX_INITIALIZER;
static struct lost_report {
  struct range range;
  enum lost how;
  bool is_old;
} lost_report[256];
static unsigned lost_reports;
static char last_report[512];

static void
look_at_report (enum report_level level, const char *format, va_list args)
{
  struct range range;
  int end = 0;

  HOLD_LOCK (&reports_lock);
  vsnprintf (last_report, sizeof last_report, format, args);
  if (getenv ("PCACHE_TRACE"))
    printf ("# report: %s\n", last_report);
  if (level == REPORT_ERROR
      && sscanf (last_report, "dirty data at %" SCNu64 "+%" SCNu64
                 " cannot be read (%n", &range.start, &range.length,
                 &end) == 2 && end > 0) {
    const bool given_up = strstr (last_report, "cannot be written back");

    if (given_up)
      life.given_up += range.length;
    assert (lost_reports < 256);
    lost_report[lost_reports].range = range;
    lost_report[lost_reports].is_old = false;
    lost_report[lost_reports++].how =
      given_up && !life.history->threads ? LOST : LOST_PERHAPS;
  }
}

#define wrong(...)                                                      \
  do {                                                                  \
    print_life ();                                                      \
    fail_msg (__VA_ARGS__);                                             \
  } while (0)

static void
print_life (void)
{
  faults_lift ();
  printf ("# %s %" PRIu64 "%s fails, %s, %s; in: %s; last report: %s\n"
          "# seed %" PRIu64 "\n",
          fault_name (life.fault), life.nth, life.sticky ? " and all after it"
          : "", life.history->name, life.ending == LIFT_AND_GO_ON
          ? "then goes on" : "to the end", doing, last_report, seed);
  fflush (stdout);
}

static void
hangs (int signo)
{
  static const char text[] = "# hangs\n";
  ssize_t ignored = write (1, text, sizeof text - 1);

  (void) ignored;
  (void) signo;
  print_life ();                /* not safe here, but all is lost anyway */
  abort ();
}

/* Could a call that does this fail because of the fault? */
static void
check_error (enum op_kind kind, bool opening, int error)
{
  bool expected = false;

  if (error == 0)
    return;
  if (error > 0)
    wrong ("%s gave %d", doing, error);
  if (faults_struck () == 0)
    wrong ("%s: %s, and nothing had failed yet", doing, strerror (-error));
  life.failed_calls++;
  switch (life.fault) {
  case FAULT_ALLOCATION:
    expected = error == -ENOMEM || error == -ENOSPC;
    break;
  case FAULT_THREAD:
    expected = opening && error == -EAGAIN;
    break;
  case FAULT_SPACE:
    expected = opening && error == -ENOSPC;
    break;
  case FAULT_BACKING_READ:
    expected = error == -EIO && (kind == OP_READ || kind == OP_READ_LARGE
                                 || kind == OP_PREFETCH);
    break;
  case FAULT_BACKING_WRITE:
  case FAULT_BACKING_FLUSH:
    /* P6: writes only when the cache is full; reads and flushes never. */
    expected = error == -EIO && !opening && kind != OP_FLUSH
      && kind != OP_READ && kind != OP_READ_LARGE && kind != OP_PREFETCH;
    break;
  case FAULT_BACKING_ZERO:
  case FAULT_BACKING_TRIM:
    break;                      /* it is done by writing */
  case FAULT_STORE:
  case FAULT_FENCE:
    /* A place that refuses a record set is left: one that does fails no
     * flush. */
    expected = (error == -EIO || error == -ENOSPC) && kind != OP_READ
      && kind != OP_READ_LARGE && kind != OP_PREFETCH
      && (kind != OP_FLUSH || life.sticky);
    break;
  case FAULT_SYNC:
    expected = (error == -EIO || error == -ENOSPC) && kind != OP_READ
      && kind != OP_READ_LARGE && kind != OP_PREFETCH;
    break;
  case FAULT_READ:
  case FAULT_CHECKSUM:
    expected = error == -EIO
      || (opening && (error == -EUCLEAN || error == -EMEDIUMTYPE))
      || (!opening && error == -ENOSPC);
    break;
  case FAULT_COUNT:
    break;
  }
  if (!expected)
    wrong ("%s: %s is no error for it", doing, strerror (-error));
}

/* What is lost is lost once, until it is overwritten. */
static void
check_not_lost_before (struct range range)
{
  while (range.length > 0) {
    enum lost how;
    const uint64_t length = expected_lost_run (&life.expected, range, &how);

    if (how == LOST)
      wrong ("at %" PRIu64 " it was lost before", range.start);
    range.start += length;
    range.length -= length;
  }
}

static bool
look_at_lost (unsigned i, struct lost_report *report)
{
  HOLD_LOCK (&reports_lock);

  if (i >= lost_reports)
    return false;
  *report = lost_report[i];
  lost_report[i].is_old = true;
  return true;
}

/* Everything that was reported as lost; RANGE was changed meanwhile, and
 * could be lost again after that. */
static void
note_lost (struct range changed)
{
  struct lost_report lost;

  for (unsigned i = 0; look_at_lost (i, &lost); i++) {
    if (life.fault != FAULT_READ && life.fault != FAULT_CHECKSUM)
      wrong ("dirty data reported as lost at %" PRIu64, lost.range.start);
    if (!lost.is_old && lost.how == LOST
        && !range_overlaps (lost.range, life.changing))
      check_not_lost_before (lost.range);
    if (!lost.is_old || changed.length == 0)
      expected_lost (&life.expected, lost.range, lost.how);
    if (range_overlaps (lost.range, changed))
      expected_lost (&life.expected, range_clip (lost.range, changed),
                     LOST_PERHAPS);
  }
}

/* But for what was reported after the last look. */
static void
forget_lost (void)
{
  unsigned kept = 0;

  HOLD_LOCK (&reports_lock);
  for (unsigned i = 0; i < lost_reports; i++)
    if (!lost_report[i].is_old)
      lost_report[kept++] = lost_report[i];
  lost_reports = kept;
}

static void
note_counters (void)
{
  const uint64_t lost = stats_get (cache_stats (life.cache), STAT_lost_bytes);

  /* P4: counted and logged, and nothing twice. */
  if (lost != life.given_up && !life.history->threads)
    wrong ("%" PRIu64 " bytes are counted as lost, %" PRIu64 " were reported",
           lost, life.given_up);
  for (int i = 0; i < STATS_COUNT; i++)
    life.saw[i] |= stats_get (cache_stats (life.cache), i) > 0;
  life.saw_checkpoint |= cache_engine (life.cache)->from_checkpoint;
}

static struct cache_options
options (void)
{
  struct cache_options o = CACHE_OPTIONS_DEFAULT;

  o.segment_size = MIB;
  o.setting[SETTING_gc_percent] = life.gc_percent;
  o.heads = 1;
  o.regions = 4;
  o.seed = 99;
  o.setting[SETTING_writeback_delay] = 20;
  o.writeback_threads = 2;
  o.setting[SETTING_space_timeout] = 150;
  return o;
}

/* Open, attach, and start.  A fault that is in the way is gone at the second
 * attempt, and that must do. */
static void
open_cache (void)
{
  const struct cache_options o = options ();
  int r = -1;

  life.cache = NULL;
  life.given_up = 0;
  for (unsigned attempt = 0; attempt < 2 && life.cache == NULL; attempt++) {
    struct pmem *pmem =
      fault_pmem_new (memory_pmem_open (life.device));

    doing = "open";
    r = ENGINE (cache_open (&o, pmem, &life.cache));
    if (r < 0) {
      pmem_close (pmem);
      check_error (OP_STEP, true, r);
      faults_lift ();
      life.cache = NULL;
    }
  }
  if (life.cache == NULL)
    wrong ("cannot be opened again: %s", strerror (-r));
  if (life.history->threads) {
    doing = "start";
    r = ENGINE (cache_start (life.cache));
    check_error (OP_STEP, true, r);
    if (r < 0) {
      faults_lift ();
      r = ENGINE (cache_start (life.cache));
    }
    if (r < 0)
      wrong ("cannot be started again: %s", strerror (-r));
  }
  doing = "attach";
  r = ENGINE (cache_attach (life.cache, &life.mb->backend, "x"));
  check_error (OP_STEP, true, r);
  if (r < 0) {
    faults_lift ();
    r = ENGINE (cache_attach (life.cache, &life.mb->backend, "x"));
    if (r == -EIO && life.fault == FAULT_SYNC) {
      /* It never syncs again. */
      cache_close (life.cache);
      open_cache ();
      return;
    }
  }
  if (r < 0)
    wrong ("cannot be attached again: %s", strerror (-r));
}

static void
close_cache (void)
{
  note_counters ();
  doing = "close";
  faults_spare_me (false);
  cache_close (life.cache);
  faults_spare_me (true);
  life.cache = NULL;
}

/* Stop and close; afterwards expected knows what may be gone. */
static void
stop_and_close (bool drain)
{
  int r;

  doing = drain ? "stop with drain" : "stop";
  r = ENGINE (cache_stop (life.cache, drain, 5000));
  check_error (OP_DRAIN, false, r);
  note_lost ((struct range) { 0, 0 });
  forget_lost ();
  /* P6: the backing store's errors do not lose data. */
  if (r == 0 || fault_is_backing (life.fault))
    expected_flushed (&life.expected);
  close_cache ();
  if (r < 0 && !fault_is_backing (life.fault)) {
    expected_crashed (&life.expected);
    if (life.device->tracker) {
      /* What was not made durable may be gone, by and by. */
      struct memory_device *image =
        memory_device_crash (life.device, &life.random);

      memory_device_free (life.device);
      life.device = image;
    }
  }
}

static void
restart (void)
{
  stop_and_close (false);
  life.gc_percent = 60;
  open_cache ();
}

/* RANGE was read into BUF, or not. */
static void
check_read (const uint8_t *buf, struct range range)
{
  const uint64_t at = expected_check (&life.expected, buf, range, false);

  if (at < range_end (range))
    wrong ("wrong byte at %" PRIu64 ": %#x (read from %" PRIu64 "+%" PRIu64
           ")", at, buf[at - range.start], range.start, range.length);
}

static void
change (const struct op *op)
{
  static uint8_t buf[MIB];
  const uint64_t id = op->kind >= OP_ZERO ? 0 : life.next_id++;
  const bool fua = op->kind == OP_WRITE_FUA || op->kind == OP_ZERO_FUA;
  int r;

  if (id != 0)
    change_bytes (buf, op->range, id);
  life.changing = op->range;
  if (op->kind == OP_TRIM)
    r = ENGINE (cache_trim (life.cache, op->range, false));
  else if (id == 0)
    r = ENGINE (cache_zero (life.cache, op->range, false, fua));
  else
    r = ENGINE (cache_write (life.cache, buf, op->range, fua));
  check_error (op->kind, false, r);
  note_lost ((struct range) { 0, 0 });
  expected_change (&life.expected, op->range, id, r == 0, fua);
  note_lost (op->range);        /* it may have been written back already */
  forget_lost ();
  life.changing = (struct range) { 0, 0 };
}

static void
read_some (const struct op *op)
{
  static uint8_t buf[MIB];
  int r = ENGINE (cache_read (life.cache, buf, op->range));

  check_error (op->kind, false, r);
  note_lost ((struct range) { 0, 0 });
  if (r == 0)
    check_read (buf, op->range);
}

static void
map (struct range range)
{
  while (range.length > 0) {
    enum map_kind kind;
    uint64_t length = 0;

    cache_map (life.cache, range, &kind, &length);
    if (length == 0 || length > range.length)
      wrong ("map gave a length of %" PRIu64, length);
    range.start += length;
    range.length -= length;
  }
}

static void
steps (unsigned n)
{
  while (n-- > 0 && !life.history->threads && ENGINE (cache_step (life.cache)))
    ;
}

static void
live (const struct op *op)
{
  int r;

  doing = op_names[op->kind];
  if (getenv ("PCACHE_TRACE"))
    printf ("# %s %" PRIu64 "+%" PRIu64 "\n", doing, op->range.start,
            op->range.length);
  switch (op->kind) {
  case OP_WRITE:
  case OP_WRITE_LARGE:
  case OP_WRITE_UNALIGNED:
  case OP_WRITE_FUA:
  case OP_ZERO:
  case OP_ZERO_FUA:
  case OP_TRIM:
    change (op);
    break;
  case OP_FLUSH:
    r = ENGINE (cache_flush (life.cache));
    check_error (op->kind, false, r);
    if (r == 0)
      expected_flushed (&life.expected);
    break;
  case OP_READ:
  case OP_READ_LARGE:
    read_some (op);
    break;
  case OP_PREFETCH:
    check_error (op->kind, false,
                 ENGINE (cache_prefetch (life.cache, op->range)));
    break;
  case OP_MAP:
    map (op->range);
    break;
  case OP_STEP:
    steps (1);
    break;
  case OP_STEPS:
    steps (8);
    break;
  case OP_DRAIN:
    r = ENGINE (cache_drain (life.cache, 5000));
    check_error (op->kind, false, r);
    break;
  case OP_RESTART:
    restart ();
    break;
  }
  note_lost ((struct range) { 0, 0 });
  forget_lost ();
}

/* Read it all, once nothing fails any more. */
static void
read_all (void)
{
  doing = "reading all";
  for (uint64_t at = 0; at < DISK;) {
    struct range range = { at, MIN (PIECE - at % PIECE, DISK - at) };
    enum lost how;
    int r;

    range.length = expected_lost_run (&life.expected, range, &how);
    r = cache_read (life.cache, life.content + at, range);
    if (r == -EIO && how == NOT_LOST && life.history->threads) {
      /* Write-back was told so before all was well again, and may have reported
       * it after the last look. */
      note_lost ((struct range) { 0, 0 });
      forget_lost ();
      if (expected_lost_run (&life.expected, range, &how) < range.length
          || how != NOT_LOST)
        continue;
    }
    if (r == -EIO && how != NOT_LOST)
      expected_lost (&life.expected, range, LOST);
    else if (r < 0 || how == LOST)
      wrong ("read %" PRIu64 "+%" PRIu64 ": %s, although %s", range.start,
             range.length, strerror (-r), how == LOST ? "it is lost"
             : "nothing fails any more");
    else
      check_read (life.content + at, range);
    at += range.length;
  }
  forget_lost ();
}

/* After a drain the backing store is the disk; of what is lost, it has
 * something older. */
static void
compare_backing_store (void)
{
  doing = "comparing the backing store";
  for (uint64_t at = 0; at < DISK;) {
    struct range range = { at, DISK - at };
    enum lost how;

    range.length = expected_lost_run (&life.expected, range, &how);
    if (how == NOT_LOST) {
      const bool same = memcmp (life.mb->bytes + at, life.content + at,
                                range.length) == 0;

      for (uint64_t i = at; !same && i < range_end (range); i++)
        if (life.mb->bytes[i] != life.content[i])
          wrong ("drained, but the backing store has %#x at %" PRIu64
                 ", not %#x", life.mb->bytes[i], i, life.content[i]);
    }
    else {
      const uint64_t i = expected_check (&life.expected,
                                         life.mb->bytes + at, range, true);

      if (i < range_end (range))
        wrong ("what was lost was written back as something else, at %"
               PRIu64, i);
    }
    at += range.length;
  }
}

/* The segment that a head appends to. */
static uint32_t
segment_of_head (enum log_purpose purpose)
{
  struct engine *engine = cache_engine (life.cache);
  struct reservation res;
  uint64_t at;
  int r = log_reserve (engine->log, purpose, 0, 1, &res);

  if (r < 0)
    wrong ("no room for a record: %s", strerror (-r));
  at = res.at;
  log_release (engine->log, &res);
  return (at - segment_at (&engine->superblock, 0))
    / engine->superblock.geometry.segment_size;
}

static void
step_to_the_end (void)
{
  for (unsigned n = 0; ENGINE (cache_step (life.cache)); n++)
    if (n == 1000)
      wrong ("there is always something left to do");
}

/* What failed half-way, and what its head has left because it refused a set,
 * pins no segment for good: when nothing is left to do, only those are open
 * that heads append to, the one for writes and the one for what is lost. */
static void
nothing_is_pinned (void)
{
  struct engine *engine = cache_engine (life.cache);
  const uint32_t total = engine->superblock.geometry.segment_count;
  uint32_t of_write, of_lost;
  bool open[64];

  assert_true (total <= sizeof open);
  /* To ask is to open one, if the last was full: then there is more to do. */
  do {
    step_to_the_end ();
    for (uint32_t i = 0; i < total; i++)
      open[i] = segment_snapshot (&engine->segments, i).state == SEGMENT_OPEN;
    /* (In this order: as long as nothing was lost, both are the same.) */
    of_write = segment_of_head (LOG_WRITE);
    of_lost = segment_of_head (LOG_LOST);
  } while (!open[of_write] || !open[of_lost]);
  for (uint32_t i = 0; i < total; i++)
    if (open[i] && i != of_write && i != of_lost)
      wrong ("segment %" PRIu32 " is open, and no head has it", i);
}

/* The same, of a cache that has threads of its own to do it. */
static void
nothing_stays_pinned (void)
{
  const uint64_t until = now_ms () + 5000;
  struct cache_status status;

  for (;;) {
    cache_get_status (life.cache, &status);
    if (status.segments_open <= 2)
      return;
    if (now_ms () > until)
      wrong ("%" PRIu64 " segments stay open, for two heads",
             status.segments_open);
    usleep (1000);
  }
}

/* No fault any more: everything works, and all is there. */
static void
be_well (void)
{
  struct op op;
  int r;

  read_all ();
  op = make_op (OP_WRITE_UNALIGNED, &life.random);
  doing = "a write when all is well";
  change (&op);
  doing = "flush when all is well";
  r = cache_flush (life.cache);
  if (r < 0)
    wrong ("flush: %s", strerror (-r));
  expected_flushed (&life.expected);
  doing = "drain when all is well";
  r = cache_drain (life.cache, 10000);
  if (r < 0)
    wrong ("drain: %s", strerror (-r));
  note_lost ((struct range) { 0, 0 });
  read_all ();
  compare_backing_store ();
  steps (20);
  read_all ();
  steps (20);
  if (life.history->threads)
    nothing_stays_pinned ();
  else
    nothing_is_pinned ();
}

static void
begin_life (const struct image *image)
{
  alarm (LIFE_SECONDS);
  if (image) {
    life.device = memory_device_clone (image->device);
    life.device->ordered = image->device->ordered;
    expected_copy (&life.expected, &image->expected);
    if (life.history->larger)
      memory_device_resize (life.device, life.device->size + 4 * MIB);
  }
  else
    life.device = memory_device_new (cache_min_device_size (MIB),
                                     life.fault == FAULT_FENCE
                                     || (life.fault != FAULT_SYNC
                                         && seed % 2 == 0));
  /* (Tracking is for one thread.) */
  if ((life.fault == FAULT_SYNC || life.fault == FAULT_FENCE)
      && !life.history->threads)
    memory_device_track (life.device, seed);
  life.mb = memory_backend_new (DISK);
  if (image)
    memcpy (life.mb->bytes, image->disk, DISK);
  else {
    change_bytes (life.mb->bytes, (struct range) { 0, DISK }, 7);
    expected_init (&life.expected, life.mb->bytes, DISK);
  }
  if (life.fault == FAULT_BACKING_FLUSH)
    memory_backend_track (life.mb);
  life.mb->backend.can_zero = life.fault != FAULT_BACKING_TRIM;
  fault_backend_use (life.mb);
  life.next_id = 1000 + life.expected.count;
  life.gc_percent = SETTING_REMEMBERED;
  life.failed_calls = 0;
  life.random = seed;
  life.content = malloc (DISK);
  assert_non_null (life.content);
  lost_reports = 0;
  last_report[0] = '\0';
}

static void
end_life (void)
{
  alarm (0);
  free (life.content);
  expected_free (&life.expected);
  memory_device_free (life.device);
  memory_backend_free (life.mb);
}

static void
live_script (const struct history *history)
{
  for (unsigned i = 0; i < history->count; i++) {
    const struct op op = make_op (history->kinds[i], &life.random);

    live (&op);
  }
}

/* True if something failed. */
static bool
live_through (const struct history *history, const struct image *image,
              enum fault fault, uint64_t nth, bool sticky,
              enum ending ending)
{
  uint64_t struck;

  life = (struct life) { .history = history, .fault = fault, .nth = nth,
                         .sticky = sticky, .ending = ending };
  begin_life (image);
  faults_arm (fault, nth, sticky);
  open_cache ();
  live_script (history);
  if (ending == TO_THE_END) {
    stop_and_close (true);
    faults_lift ();
    open_cache ();
  }
  faults_lift ();
  struck = faults_struck ();
  /* One thing that goes wrong is one call that fails, or none. */
  if (!sticky && !history->threads && life.failed_calls > 1
      && fault != FAULT_READ && fault != FAULT_CHECKSUM)
    wrong ("%u calls failed, of one fault", life.failed_calls);
  be_well ();
  stop_and_close (true);
  life.gc_percent = SETTING_REMEMBERED;
  open_cache ();
  read_all ();
  compare_backing_store ();
  close_cache ();
  end_life ();
  return struck > 0;
}

/* --- all lives -------------------------------------------------------- */

/* A cache with dirty data, cut off in the middle of things. */
static void
make_image (struct image *image, bool ordered)
{
  uint64_t random = seed + 5;

  life = (struct life) { .history = &recovered };
  life.fault = ordered ? FAULT_FENCE : FAULT_SYNC;
  begin_life (NULL);
  open_cache ();
  for (unsigned i = 0; i < sizeof early_life / sizeof *early_life; i++) {
    const struct op op = make_op (early_life[i], &life.random);

    live (&op);
  }
  image->device = memory_device_crash (life.device, &random);
  image->disk = malloc (DISK);
  assert_non_null (image->disk);
  memcpy (image->disk, life.mb->bytes, DISK);
  expected_crashed (&life.expected);
  expected_copy (&image->expected, &life.expected);
  close_cache ();
  end_life ();
}

static void
free_image (struct image *image)
{
  memory_device_free (image->device);
  free (image->disk);
  expected_free (&image->expected);
}

/* STRIDE: look only at every so manieth operation. */
static void
fail_each (const struct history *history, enum fault fault, unsigned stride)
{
  const uint64_t started = now_ms ();
  uint64_t random = seed + fault, lives = 0, nth;
  struct image image;
  bool struck = true;

  if (history->from_image)
    make_image (&image, fault == FAULT_FENCE
                || (fault != FAULT_SYNC && seed % 4 < 2));
  for (nth = 1 + random_below (&random, stride); struck; nth += stride) {
    const struct image *from = history->from_image ? &image : NULL;

    const enum ending ending = (nth / stride + seed) % 2 ? TO_THE_END
      : LIFT_AND_GO_ON;

    if (fault == FAULT_SYNC)    /* fails for good */
      struck = live_through (history, from, fault, nth, true, TO_THE_END);
    else {
      struck = live_through (history, from, fault, nth, false,
                             LIFT_AND_GO_ON);
      struck |= live_through (history, from, fault, nth, true, ending);
      lives++;
    }
    lives++;
  }
  if (history->from_image)
    free_image (&image);
  printf ("# %s, %s: %" PRIu64 " places, %" PRIu64 " lives, %" PRIu64
          " ms\n", fault_name (fault), history->name, nth - stride - 1,
          lives, now_ms () - started);
  fflush (stdout);
}

/* Each N in the usual run.  Where a sanitizer makes it slow, a part, and another
 * one with each seed; the smallest part of what there is most, and still less
 * for the one that is about threads. */
static unsigned
stride_of (enum fault fault)
{
  const unsigned stride = 100 / test_scale () * (test_scale () < 10 ? 3 : 1);

  if (test_scale () >= 100)
    return 1;
  switch (fault) {
  case FAULT_ALLOCATION:
  case FAULT_READ:
    return 4 * stride;
  case FAULT_STORE:
  case FAULT_FENCE:
  case FAULT_SYNC:
    return 2 * stride;
  default:
    return stride;
  }
}

static void
fail_each_alone (enum fault fault)
{
  const unsigned stride = stride_of (fault);

  fail_each (&fresh, fault, stride);
  fail_each (&recovered, fault, stride);
  /* Of the reads, which are many and but for the growth as above, a part, another
   * one with each seed. */
  if (!fault_is_backing (fault))
    fail_each (&grown, fault, fault == FAULT_READ ? 20 * stride : stride);
}

/* The histories do what they are for. */
static void
nothing_fails_of_itself (void **state)
{
  static const enum stats_counter wanted[] = {
    STAT_read_hit_bytes, STAT_read_miss_bytes, STAT_fills,
    STAT_writeback_epochs, STAT_writeback_requests, STAT_evicted_segments,
    STAT_evicted_records, STAT_relocated_records, STAT_space_waits,
  };
  struct image image;

  (void) state;
  assert_false (live_through (&fresh, NULL, FAULT_ALLOCATION, UINT64_MAX,
                              false, LIFT_AND_GO_ON));
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
    if (!life.saw[wanted[i]])
      fail_msg ("the history has no %s", stats_description (wanted[i]));
  assert_true (life.saw_checkpoint);
  make_image (&image, true);
  assert_false (live_through (&recovered, &image, FAULT_ALLOCATION,
                              UINT64_MAX, false, LIFT_AND_GO_ON));
  assert_true (life.saw[STAT_replayed_records] && life.saw_checkpoint);
  free_image (&image);
}

static void
every_allocation_may_fail (void **state)
{
  (void) state;
  fail_each_alone (FAULT_ALLOCATION);
}

static void
every_request_to_the_backing_store_may_fail (void **state)
{
  (void) state;
  fail_each_alone (FAULT_BACKING_READ);
  fail_each_alone (FAULT_BACKING_WRITE);
  fail_each_alone (FAULT_BACKING_ZERO);
  fail_each_alone (FAULT_BACKING_TRIM);
  fail_each_alone (FAULT_BACKING_FLUSH);
}

static void
every_store_may_fail (void **state)
{
  (void) state;
  fail_each_alone (FAULT_STORE);
  fail_each_alone (FAULT_SPACE);
}

static void
every_fence_may_fail (void **state)
{
  (void) state;
  fail_each_alone (FAULT_FENCE);
}

static void
every_sync_may_fail (void **state)
{
  (void) state;
  fail_each_alone (FAULT_SYNC);
}

static void
every_read_of_the_cache_device_may_fail (void **state)
{
  (void) state;
  fail_each_alone (FAULT_READ);
  fail_each_alone (FAULT_CHECKSUM);
}

static void
everything_may_fail_under_threads (void **state)
{
  (void) state;
  for (int fault = 0; fault < FAULT_COUNT; fault++)
    fail_each (&threaded, fault, fault == FAULT_THREAD ? 1
               : 100 * 100 / test_scale ());
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (nothing_fails_of_itself),
    cmocka_unit_test (every_allocation_may_fail),
    cmocka_unit_test (every_request_to_the_backing_store_may_fail),
    cmocka_unit_test (every_store_may_fail),
    cmocka_unit_test (every_fence_may_fail),
    cmocka_unit_test (every_sync_may_fail),
    cmocka_unit_test (every_read_of_the_cache_device_may_fail),
    cmocka_unit_test (everything_may_fail_under_threads),
  };

  seed_choose (argc, argv);
  /* Keep the memory of one life for the next. */
  mallopt (M_MMAP_THRESHOLD, 64 << 20);
  mallopt (M_TRIM_THRESHOLD, 512 << 20);
  faults_spare_me (true);
  signal (SIGALRM, hangs);
  report_set_sink (look_at_report);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

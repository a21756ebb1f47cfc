/* SPDX-License-Identifier: BSD-3-Clause */

/* When write-back is due, how fast it goes, that it can be paused, and that a
 * drain ends and says how far it is.
 *
 * What depends on time is tested without a clock (schedule, rate_limit); what
 * has threads waits for what is to happen, however long that takes. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "engine/cache.h"
#include "engine/rate_limit.h"
#include "engine/schedule.h"
#include "support/reports.h"
#include "support/seed.h"
#include "support/whole_cache.h"
#include "support/small_engine.h"

#define DISK (UINT64_C (32) * MIB)
#define LONG 60000              /* ms */

/* --- when it is due --------------------------------------------------- */

static struct settings settings;
static struct schedule schedule;
static struct situation now;
static uint64_t next_ms;

static void
begin_schedule (void)
{
  const uint64_t defaults[SETTINGS_COUNT] = SETTINGS_DEFAULT;

  for (unsigned i = 0; i < SETTINGS_COUNT; i++)
    setting_put (&settings, i, defaults[i]);
  schedule = (struct schedule) { 0 };
  now = (struct situation) {
    .now_ms = 1000000, .oldest_ms = 1000000, .space = 1000 * MIB,
    .requests = 1,
  };
}

static enum writeback_cause
look (void)
{
  return schedule_look (&schedule, &settings, &now, &next_ms);
}

static enum writeback_cause
look_after (uint64_t ms)
{
  now.now_ms += ms;
  return look ();
}

static enum writeback_cause
look_with_dirty (unsigned permille)
{
  now.dirty_space = permille * MIB;
  return look ();
}

static void
it_is_due_when_old_enough (void **state)
{
  (void) state;
  begin_schedule ();
  setting_put (&settings, SETTING_writeback_delay, 700);
  assert_int_equal (look (), CAUSE_NONE);
  assert_int_equal (look_after (699), CAUSE_NONE);
  assert_int_equal (next_ms, now.now_ms + 1);
  assert_int_equal (look_after (1), CAUSE_AGE);
  setting_put (&settings, SETTING_writeback_delay, 701);
  assert_int_equal (look (), CAUSE_NONE);
  setting_put (&settings, SETTING_writeback_delay, 0);
  now.oldest_ms = now.now_ms;
  assert_int_equal (look (), CAUSE_AGE);
}

/* Nobody tells that the first dirty data has come. */
static void
what_comes_is_noticed_soon_enough (void **state)
{
  (void) state;
  begin_schedule ();
  setting_put (&settings, SETTING_writeback_delay, 0);
  assert_true (schedule_pause_ms (&settings) <= 10);
  setting_put (&settings, SETTING_writeback_delay, 400);
  assert_true (schedule_pause_ms (&settings) <= 100);
  setting_put (&settings, SETTING_writeback_delay, HOURS_24_MS);
  assert_true (schedule_pause_ms (&settings) <= 500);
  setting_put (&settings, SETTING_writeback_idle, 20);
  assert_true (schedule_pause_ms (&settings) <= 10);
}

static void
what_is_most_urgent_is_the_cause (void **state)
{
  (void) state;
  begin_schedule ();
  setting_put (&settings, SETTING_writeback_idle, 1);
  look ();
  assert_int_equal (look_after (1), CAUSE_IDLE);
  now.oldest_ms = 0;
  assert_int_equal (look (), CAUSE_AGE);
  assert_int_equal (look_with_dirty (800), CAUSE_DIRTY);
  now.short_of_space = true;
  assert_int_equal (look (), CAUSE_SPACE);
  now.drain = true;
  assert_int_equal (look (), CAUSE_DRAIN);
  now.paused = true;
  assert_int_equal (look (), CAUSE_DRAIN);
  now.drain = false;
  assert_int_equal (look (), CAUSE_NONE);
}

static void
between_the_marks_it_goes_on_as_it_did (void **state)
{
  (void) state;
  begin_schedule ();
  setting_put (&settings, SETTING_dirty_high, 50);
  setting_put (&settings, SETTING_dirty_low, 20);
  assert_int_equal (look_with_dirty (300), CAUSE_NONE);
  assert_int_equal (look_with_dirty (500), CAUSE_NONE);
  assert_int_equal (look_with_dirty (501), CAUSE_DIRTY);
  assert_int_equal (look_with_dirty (300), CAUSE_DIRTY);
  assert_int_equal (look_with_dirty (201), CAUSE_DIRTY);
  assert_int_equal (look_with_dirty (200), CAUSE_NONE);
  assert_int_equal (look_with_dirty (500), CAUSE_NONE);
}

/* One after the other, in either order, and from one pair to any other. */
static void
the_marks_can_be_changed_one_by_one (void **state)
{
  (void) state;
  begin_schedule ();
  setting_put (&settings, SETTING_dirty_high, 10);
  assert_int_equal (look_with_dirty (101), CAUSE_DIRTY);
  assert_int_equal (look_with_dirty (100), CAUSE_NONE);
  setting_put (&settings, SETTING_dirty_low, 5);
  assert_int_equal (look_with_dirty (100), CAUSE_NONE);
  assert_int_equal (look_with_dirty (101), CAUSE_DIRTY);
  assert_int_equal (look_with_dirty (51), CAUSE_DIRTY);
  setting_put (&settings, SETTING_dirty_low, 90);
  assert_int_equal (look_with_dirty (99), CAUSE_NONE);
  setting_put (&settings, SETTING_dirty_high, 95);
  assert_int_equal (look_with_dirty (950), CAUSE_NONE);
  assert_int_equal (look_with_dirty (951), CAUSE_DIRTY);
  assert_int_equal (look_with_dirty (900), CAUSE_NONE);
}

static void
the_ends_of_the_scale (void **state)
{
  (void) state;
  begin_schedule ();
  setting_put (&settings, SETTING_dirty_high, 0);
  assert_int_equal (look_with_dirty (0), CAUSE_NONE);
  now.dirty_space = 1;
  assert_int_equal (look (), CAUSE_DIRTY);
  setting_put (&settings, SETTING_dirty_high, 100);     /* never */
  assert_int_equal (look (), CAUSE_NONE);
  assert_int_equal (look_with_dirty (1000), CAUSE_NONE);
}

static void
idle_means_no_request_for_a_while (void **state)
{
  (void) state;
  begin_schedule ();
  setting_put (&settings, SETTING_writeback_delay, NEVER);
  assert_int_equal (look_after (10000), CAUSE_NONE);    /* off */
  setting_put (&settings, SETTING_writeback_idle, 400);
  now.requests++;
  assert_int_equal (look (), CAUSE_NONE);
  /* Not that it would sleep over it. */
  assert_true (next_ms <= now.now_ms + 100);
  assert_int_equal (look_after (399), CAUSE_NONE);
  now.requests++;
  assert_int_equal (look_after (1), CAUSE_NONE);
  assert_int_equal (look_after (399), CAUSE_NONE);
  assert_int_equal (look_after (1), CAUSE_IDLE);
  assert_int_equal (look_after (1), CAUSE_IDLE);
  now.requests++;
  assert_int_equal (look_after (1), CAUSE_NONE);
}

/* --- how fast it goes ------------------------------------------------- */

/* Requests of BYTES as fast as they are let, for SECONDS. */
static uint64_t
sent_in (unsigned seconds, uint64_t rate, uint64_t bytes)
{
  struct rate_limit limit = { 0 };
  uint64_t sent = 0, ms = 5000;

  while (ms < 5000 + seconds * 1000) {
    const uint64_t wait = rate_limit_wait_ms (&limit, rate, ms);

    ms += wait;
    if (wait == 0) {
      rate_limit_spend (&limit, bytes);
      sent += bytes;
    }
  }
  return sent;
}

static void
the_rate_is_kept_whatever_the_size (void **state)
{
  static const uint64_t sizes[] = { 1, 512, 4096, 65536, MIB };
  static const uint64_t rates[] = { 1, 1000, 100 * KIB, MIB, 77 * MIB };

  (void) state;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (size_t j = 0; j < sizeof rates / sizeof *rates; j++) {
      uint64_t sent;

      if (rates[j] / sizes[i] > 1000000)
        continue;               /* a long wait for the test */
      sent = sent_in (100, rates[j], sizes[i]);
      /* One request and the burst too many at most. */
      assert_true (sent <= rates[j] * 100 + rates[j] / 10 + sizes[i]);
      assert_true (sent >= rates[j] * 99);
    }
}

static void
no_credit_is_saved_up (void **state)
{
  struct rate_limit limit = { 0 };
  uint64_t sent = 0;

  (void) state;
  assert_int_equal (rate_limit_wait_ms (&limit, MIB, 1), 0);
  while (rate_limit_wait_ms (&limit, MIB, 3600000) == 0) {
    rate_limit_spend (&limit, KIB);
    sent += KIB;
  }
  assert_true (sent <= MIB / 10 + KIB);
}

static void
another_rate_counts_at_once (void **state)
{
  struct rate_limit limit = { 0 };

  (void) state;
  assert_int_equal (rate_limit_wait_ms (&limit, 1, 1000), 0);
  rate_limit_spend (&limit, MIB);
  assert_true (rate_limit_wait_ms (&limit, 1, 1000) > 1000 * (MIB - 1));
  assert_true (rate_limit_wait_ms (&limit, MIB, 1000) <= 1000);
  assert_int_equal (rate_limit_wait_ms (&limit, INT64_MAX, 1001), 0);
  rate_limit_spend (&limit, MIB);
  assert_int_equal (rate_limit_wait_ms (&limit, INT64_MAX, 1001), 0);
}

/* --- a cache ---------------------------------------------------------- */


static int
set_up (void **state)
{
  (void) state;
  set_up_cache (20 * MIB, DISK);
  return 0;
}

static struct cache_status
status (void)
{
  struct cache_status s;

  cache_get_status (cache, &s);
  return s;
}

static void
set (enum setting which, uint64_t value)
{
  assert_int_equal (cache_set (cache, which, value), 0);
}

static void
set_error (int *which, int error)
{
  HOLD_LOCK (&disk->lock);

  *which = error;
}

static unsigned
count_writes (void)
{
  HOLD_LOCK (&disk->lock);

  return disk->writes;
}

/* Until it is true, or the test takes too long. */
#define AWAIT(condition)                                                \
  do {                                                                  \
    const uint64_t until_ = now_ms () + LONG;                           \
    while (!(condition)) {                                              \
      assert_true (now_ms () < until_);                                 \
      usleep_ms (2);                                                    \
    }                                                                   \
  } while (0)

static void
usleep_ms (unsigned ms)
{
  nanosleep (&(struct timespec) { 0, ms * 1000000L }, NULL);
}

/* Writes that the disk has taken. */
static uint64_t
counted_requests (void)
{
  return stats_get (cache_stats (cache), STAT_writeback_requests);
}

#define EPOCH (256 * KIB)

/* One step each. */
static void
write_epochs (uint64_t first, uint64_t end)
{
  for (uint64_t i = first; i < end; i++) {
    write_bytes (i * EPOCH, EPOCH, 1);
    assert_int_equal (cache_flush (cache), 0);
  }
}

static void
above_the_high_mark_it_is_written_back_to_the_low_one (void **state)
{
  (void) state;
  options.setting[SETTING_dirty_high] = 40;
  options.setting[SETTING_dirty_low] = 20;
  options.setting[SETTING_gc_percent] = 90;
  open_cache (true);
  write_epochs (0, 24);
  usleep_ms (50);
  assert_int_equal (count_writes (), 0);
  cache_pause_writeback (cache);
  write_epochs (24, 36);
  cache_resume_writeback (cache);
  AWAIT (status ().dirty_bytes <= 18 * MIB / 5);
  usleep_ms (50);
  assert_true (status ().dirty_bytes > 18 * MIB / 5 - 2 * EPOCH);

  /* As it is set while it runs. */
  set (SETTING_dirty_high, 0);
  AWAIT (status ().dirty_bytes == 0);
}

static void
an_idle_cache_becomes_clean (void **state)
{
  (void) state;
  open_cache (true);
  write_bytes (0, 4096, 1);
  usleep_ms (50);
  assert_int_equal (count_writes (), 0);
  set (SETTING_writeback_idle, 20);
  AWAIT (status ().dirty_bytes == 0);
  assert_int_equal (disk->bytes[0], 1);
}

/* At a byte per second nothing comes after the first request. */
static void
the_rate_holds_write_back_but_no_drain (void **state)
{
  (void) state;
  options.setting[SETTING_writeback_rate] = 1;
  options.setting[SETTING_writeback_delay] = 0;
  for (int way = 0; way < 4; way++) {
    const uint64_t dirty = 8 * 64 * KIB;

    open_cache (true);
    for (uint64_t i = 0; i < 8; i++)
      write_bytes (i * MIB, 64 * KIB, 1 + way);
    AWAIT (counted_requests () > 0);
    usleep_ms (50);
    assert_true (status ().dirty_bytes > 0);
    assert_true (status ().dirty_bytes <= dirty);
    switch (way) {
    case 0:
      assert_int_equal (cache_drain (cache, LONG), 0);
      break;
    case 1:
      set (SETTING_writeback_rate, 0);
      break;
    case 2:
      set (SETTING_writeback_rate, UINT64_C (1) << 40);
      break;
    case 3:
      assert_int_equal (cache_stop (cache, true, LONG), 0);
      break;
    }
    AWAIT (status ().dirty_bytes == 0);
    for (uint64_t i = 0; i < 8; i++)
      assert_int_equal (disk->bytes[i * MIB + 64 * KIB - 1], 1 + way);
    cache_close (cache);
    cache = NULL;
    memset (disk->bytes, 0, DISK);
  }
}

/* Whoever waits for the rate does not keep the cache from ending. */
static void
a_stop_does_not_wait_for_the_rate (void **state)
{
  (void) state;
  options.setting[SETTING_writeback_rate] = 1;
  options.setting[SETTING_writeback_delay] = 0;
  open_cache (true);
  for (uint64_t i = 0; i < 8; i++)
    write_bytes (i * MIB, 64 * KIB, 1);
  AWAIT (counted_requests () > 0);
  cache_detach (cache);
  assert_true (status ().dirty_bytes > 0);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
  assert_int_equal (cache_stop (cache, false, 0), 0);
  assert_true (status ().dirty_bytes > 0);
}

/* 12 MiB through 4 MiB at a byte per second would take months. */
static void
the_rate_gives_way_when_space_is_short (void **state)
{
  (void) state;
  use_four_segments (true);
  options.setting[SETTING_writeback_rate] = 1;
  options.setting[SETTING_writeback_delay] = 0;
  open_cache (true);
  for (uint64_t i = 0; i < 12; i++)
    write_bytes (i * MIB, MIB, 1);
}

/* --- pause ------------------------------------------------------------ */

static _Atomic bool written;

static void *
write_until_full (void *unused)
{
  static uint8_t block[65536];

  (void) unused;
  memset (block, 5, sizeof block);
  for (uint64_t at = 0; at < 8 * MIB; at += sizeof block) {
    int r = cache_write (cache, block, (struct range) { at, sizeof block },
                         false);

    if (r < 0)
      return (void *) (intptr_t) r;
  }
  written = true;
  return NULL;
}

static uint64_t
waits (void)
{
  return stats_get (cache_stats (cache), STAT_space_waits);
}

/* A cache with no room left, paused, and a writer that waits. */
static pthread_t
fill_while_paused (void)
{
  pthread_t thread;

  use_four_segments (true);
  options.setting[SETTING_space_timeout] = 0;
  options.setting[SETTING_writeback_delay] = 0;
  open_cache (true);
  cache_pause_writeback (cache);
  written = false;
  pthread_create (&thread, NULL, write_until_full, NULL);
  AWAIT (waits () > 0);
  usleep_ms (100);
  assert_false (written);
  assert_int_equal (count_writes (), 0);
  return thread;
}

static void
while_it_is_paused_writers_wait (void **state)
{
  pthread_t thread;
  void *result;

  (void) state;
  thread = fill_while_paused ();
  assert_true (cache_is_paused (cache));
  assert_true (status ().paused);
  cache_resume_writeback (cache);
  assert_false (cache_is_paused (cache));
  pthread_join (thread, &result);
  assert_null (result);
  assert_true (written);
}

/* What is under way is called off: whoever has paused it can rely on that. */
static void
a_pause_begins_at_once (void **state)
{
  unsigned writes;

  (void) state;
  options.setting[SETTING_writeback_rate] = 1;
  options.setting[SETTING_writeback_delay] = 0;
  open_cache (true);
  for (uint64_t i = 0; i < 8; i++)
    write_bytes (i * MIB, 64 * KIB, 1);
  AWAIT (counted_requests () > 0);
  cache_pause_writeback (cache);
  writes = count_writes ();
  set (SETTING_writeback_rate, 0);
  usleep_ms (50);
  assert_int_equal (count_writes (), writes);
  assert_true (status ().dirty_bytes > 0);
  cache_resume_writeback (cache);
  AWAIT (status ().dirty_bytes == 0);
}

static void
a_drain_is_done_in_spite_of_a_pause (void **state)
{
  pthread_t thread;
  void *result;

  (void) state;
  thread = fill_while_paused ();
  while (!written)
    assert_int_equal (cache_drain (cache, LONG), 0);
  pthread_join (thread, &result);
  assert_null (result);
  assert_true (cache_is_paused (cache));
  assert_int_equal (cache_stop (cache, true, LONG), 0);
  assert_true (disk->bytes[8 * MIB - 1] == 5);
}

/* Also when it failed before it was paused; the time it was paused does not
 * count. */
static void
a_pause_is_no_failure (void **state)
{
  pthread_t thread;
  void *result;

  (void) state;
  use_four_segments (true);
  options.setting[SETTING_space_timeout] = 50;
  options.setting[SETTING_writeback_delay] = 0;
  disk->write_error = -EIO;
  open_cache (true);
  write_bytes (0, 4096, 1);
  AWAIT (status ().writeback_error == -EIO);
  cache_pause_writeback (cache);
  written = false;
  pthread_create (&thread, NULL, write_until_full, NULL);
  AWAIT (waits () > 0);
  usleep_ms (700);              /* it looks each half a second */
  assert_false (written);
  set_error (&disk->write_error, 0);
  cache_resume_writeback (cache);
  pthread_join (thread, &result);
  assert_null (result);
}

static void
a_shutdown_does_not_wait_for_a_pause (void **state)
{
  pthread_t thread;
  void *result;

  (void) state;
  thread = fill_while_paused ();
  cache_begin_shutdown (cache);
  pthread_join (thread, &result);
  assert_int_equal ((intptr_t) result, -ESHUTDOWN);
  assert_int_equal (count_writes (), 0);
}

/* --- a drain that ends ------------------------------------------------ */

static _Atomic bool stop_writing;
static _Atomic unsigned hot_writes;

static void *
rewrite_one_block (void *unused)
{
  static uint8_t block[4096];

  (void) unused;
  while (!stop_writing) {
    int r = cache_write (cache, block, (struct range) { 0, sizeof block },
                         hot_writes % 2);

    assert (r == 0 || r == -ESHUTDOWN);
    (void) r;
    hot_writes++;
  }
  return NULL;
}

/* T25: with a slow disk and a block that is written all the time, in either
 * order, and whatever the rate.  A new drain each time it has timed out would
 * never see its end. */
static void
a_drain_ends_whatever_is_written (void **state)
{
  (void) state;
  for (int order = WRITEBACK_STRICT; order <= WRITEBACK_BATCH; order++) {
    struct cache_drain drain;
    uint64_t left, before;
    pthread_t thread;
    int r;

    stop_writing = false;
    options.setting[SETTING_writeback_order] = order;
    options.setting[SETTING_writeback_rate] = 1;
    open_cache (true);
    for (uint64_t i = 0; i < 10; i++) {
      write_bytes (MIB + i * 64 * KIB, 4096, 1);
      if (order == WRITEBACK_STRICT)
        assert_int_equal (cache_flush (cache), 0);
    }
    disk->delay_us = 10000;
    pthread_create (&thread, NULL, rewrite_one_block, NULL);
    assert_int_equal (cache_begin_drain (cache, &drain), 0);
    assert_true (drain.bytes >= 10 * 4096);
    before = drain.bytes;
    while ((r = cache_await_drain (cache, &drain, 10)) == -ETIMEDOUT) {
      left = cache_drain_left (cache, &drain);
      assert_true (left <= before);
      before = left;
    }
    assert_int_equal (r, 0);
    assert_int_equal (cache_drain_left (cache, &drain), 0);
    for (uint64_t i = 0; i < 10; i++)
      assert_int_equal (disk->bytes[MIB + i * 64 * KIB], 1);
    stop_writing = true;
    pthread_join (thread, NULL);
    disk->delay_us = 0;
    cache_close (cache);
    cache = NULL;
    memset (disk->bytes, 0, DISK);
  }
}

static void *
drain_thread (void *unused)
{
  (void) unused;
  return (void *) (intptr_t) cache_drain (cache, LONG);
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_moved = PTHREAD_COND_INITIALIZER;
static unsigned let_through, came;      /* gate */

static void
wait_at_gate (struct memory_backend *mb, enum backend_event event,
              struct range range, const void *unused, void *opaque)
{
  HOLD_LOCK (&gate);

  (void) mb;
  (void) range;
  (void) unused;
  (void) opaque;
  if (event != BACKEND_WRITE)
    return;
  came++;
  pthread_cond_broadcast (&gate_moved);
  while (came > let_through)
    pthread_cond_wait (&gate_moved, &gate);
}

/* Lets N writes pass, and waits until the next one has come. */
static void
let_pass (unsigned n)
{
  HOLD_LOCK (&gate);

  let_through = n;
  pthread_cond_broadcast (&gate_moved);
  while (came <= n)
    pthread_cond_wait (&gate_moved, &gate);
}

/* Within one epoch, too. */
static void
a_drain_says_how_far_it_is (void **state)
{
  uint64_t bytes, left;
  pthread_t thread;
  void *result;

  (void) state;
  let_through = came = 0;
  options.writeback_threads = 1;
  open_cache (true);
  assert_false (cache_get_drain (cache, &bytes, &left));
  for (uint64_t i = 0; i < 10; i++)
    write_bytes (i * 64 * KIB, 4096, 1);
  disk->before = wait_at_gate;
  pthread_create (&thread, NULL, drain_thread, NULL);
  for (unsigned i = 0; i < 10; i++) {
    let_pass (i);
    assert_true (cache_get_drain (cache, &bytes, &left));
    assert_int_equal (bytes, 10 * 4096);
    assert_int_equal (left, (10 - i) * 4096);
    write_bytes (MIB, 4096, i); /* is none of its business */
  }
  {
    HOLD_LOCK (&gate);
    let_through = 1000;
    pthread_cond_broadcast (&gate_moved);
  }
  pthread_join (thread, &result);
  assert_null (result);
  assert_false (cache_get_drain (cache, &bytes, &left));
}

/* --- batch order ------------------------------------------------------ */

#define BLOCK UINT64_C (4096)
#define BLOCKS 256

/* What it promises: between batches the disk is as it was at some flush, though
 * the store fails, and loses what it had not flushed when the power goes; each
 * hot block is written once a batch; nothing acknowledged is lost. */
static void
between_batches_the_disk_is_legal (void **state)
{
  uint64_t random = seed;
  struct small_engine *small = small_engine_new (16, true, BLOCKS * BLOCK);
  unsigned version[BLOCKS] = { 0 }, batches = 0, failures = 0, cuts = 0;

  (void) state;
  reports_collect ();
  small->engine.options.setting[SETTING_writeback_order] = WRITEBACK_BATCH;
  memory_backend_track (small->disk);
  small_engine_open (small);
  memory_device_track (small->device, random_next (&random));
  for (unsigned round = 1; batches < 60 || failures < 20 || cuts < 10;
       round++) {
    const unsigned flushes = 1 + random_below (&random, 4);
    const unsigned writes = small->disk->writes;
    bool worked = false;

    for (unsigned i = 0; i < flushes; i++) {
      for (unsigned j = random_below (&random, 12) + 1; j > 0; j--) {
        const unsigned n = random_below (&random, j % 2 ? 8 : BLOCKS);

        version[n] = (round * 4 + i) % 1000 + 1;
        put (small, n * BLOCK, BLOCK, version[n]);
      }
      flush (small);
    }
    while (!worked) {
      const unsigned dice = random_below (&random, 4);
      int r;

      small->disk->write_error = dice == 0 ? -EIO : 0;
      small->disk->flush_error = dice == 1 ? -EIO : 0;
      r = writeback_step (small->writeback, UINT64_MAX, &worked);
      if (r < 0) {
        /* It loses what it had not flushed, as a server that is restarted. */
        memory_backend_crash (small->disk, &random);
        failures++;
        worked = false;
      }
      else if (small->disk->writes - writes > BLOCKS)
        fail_msg ("seed %ju: a batch took %u writes", (uintmax_t) seed,
                  small->disk->writes - writes);
    }
    small->disk->write_error = small->disk->flush_error = 0;
    batches++;
    memory_backend_crash (small->disk, &random);
    for (unsigned n = 0; n < BLOCKS; n++)
      expect_on_disk (small, n * BLOCK, BLOCK, version[n]);
    if (random_below (&random, 4) == 0) {
      struct memory_device *image = memory_device_crash (small->device,
                                                         &random);

      small_engine_use (small, image);
      memory_device_track (image, random_next (&random));
      small_engine_open (small);
      for (unsigned n = 0; n < BLOCKS; n++)
        expect (small, n * BLOCK, BLOCK, version[n]);
      cuts++;
    }
  }
  small_engine_free (small);
}

/* --- space ------------------------------------------------------------ */

/* A segment that has only to be sealed to be evicted is no reason to write back
 * before the time has come. */
static void
what_is_clean_and_left_counts_as_evictable (void **state)
{
  struct small_engine *small = small_engine_new (8, true, BLOCKS * BLOCK);
  uint64_t written_back;

  (void) state;
  reports_collect ();
  small_engine_open (small);
#define HAS_ONE                                                         \
  (written_back = control_get (&small->engine.superblock).written_back, \
   log_has_evictable_retired (small->engine.log, written_back))
  assert_false (HAS_ONE);
  put (small, 0, BLOCK, 1);
  flush (small);
  log_retire_heads (small->engine.log);
  assert_false (HAS_ONE);       /* dirty */
  write_back (small);
  assert_true (HAS_ONE);
  seal (small);
  assert_false (HAS_ONE);
  put (small, 0, BLOCK, 2);
  log_retire_heads (small->engine.log);
  assert_false (HAS_ONE);       /* dirty, in memory */
#undef HAS_ONE
  small_engine_free (small);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down_cache)
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (it_is_due_when_old_enough),
    cmocka_unit_test (what_comes_is_noticed_soon_enough),
    cmocka_unit_test (what_is_most_urgent_is_the_cause),
    cmocka_unit_test (between_the_marks_it_goes_on_as_it_did),
    cmocka_unit_test (the_marks_can_be_changed_one_by_one),
    cmocka_unit_test (the_ends_of_the_scale),
    cmocka_unit_test (idle_means_no_request_for_a_while),
    cmocka_unit_test (the_rate_is_kept_whatever_the_size),
    cmocka_unit_test (no_credit_is_saved_up),
    cmocka_unit_test (another_rate_counts_at_once),
    TEST (above_the_high_mark_it_is_written_back_to_the_low_one),
    TEST (an_idle_cache_becomes_clean),
    TEST (the_rate_holds_write_back_but_no_drain),
    TEST (a_stop_does_not_wait_for_the_rate),
    TEST (the_rate_gives_way_when_space_is_short),
    TEST (while_it_is_paused_writers_wait),
    TEST (a_pause_begins_at_once),
    TEST (a_drain_is_done_in_spite_of_a_pause),
    TEST (a_pause_is_no_failure),
    TEST (a_shutdown_does_not_wait_for_a_pause),
    TEST (a_drain_ends_whatever_is_written),
    TEST (a_drain_says_how_far_it_is),
    cmocka_unit_test (between_batches_the_disk_is_legal),
    cmocka_unit_test (what_is_clean_and_left_counts_as_evictable),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

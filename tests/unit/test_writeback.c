/* SPDX-License-Identifier: BSD-3-Clause */

/* Write-back: the backing store passes only through states that a plain disk
 * could have been in (P3), and nothing is called clean before it is
 * there. */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/writeback.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"
#include "support/small_engine.h"

#define DISK (UINT64_C (16) * MIB)
#define BLOCK UINT64_C (4096)

static struct small_engine *small;
static uint8_t buf[MIB];

static int
set_up (void **state)
{
  (void) state;
  reports_collect ();
  small = small_engine_new (16, true, DISK);
  fill_version (small->disk->bytes, 0, DISK, 1);
  small_engine_open (small);
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  small_engine_free (small);
  return 0;
}

static void
put_block (uint64_t n, unsigned version)
{
  put (small, n * BLOCK, BLOCK, version);
}

static int
step (bool *worked)
{
  return writeback_step (small->writeback, UINT64_MAX, worked);
}

static uint64_t
written_back (void)
{
  return control_get (&small->engine.superblock).written_back;
}

static void
set_order (bool batch)
{
  setting_put (&small->engine.settings, SETTING_writeback_order,
               batch ? WRITEBACK_BATCH : WRITEBACK_STRICT);
}

/* What the disk was asked, as text: "W0+4096 F W8192+100 Z0+5 ". */
static char requests[4096];

static void
note_request (struct memory_backend *mb, enum backend_event event,
              struct range range, const void *unused, void *opaque)
{
  char *at = requests + strlen (requests);

  (void) mb;
  (void) unused;
  (void) opaque;
  if (at > requests + sizeof requests - 60)
    return;
  if (event == BACKEND_FLUSH)
    strcpy (at, "F ");
  else
    sprintf (at, "%c%ju+%ju ", "RWZT"[event], (uintmax_t) range.start,
             (uintmax_t) range.length);
}

static void
watch (void)
{
  requests[0] = '\0';
  small->disk->before = note_request;
}

/* --- order (P3) ------------------------------------------------------- */

static void
one_step_writes_one_epoch_and_flushes (void **state)
{
  bool worked;

  (void) state;
  put_block (5, 2);
  put_block (1, 2);
  flush (small);
  put_block (1, 3);
  put_block (9, 3);
  flush (small);
  watch ();
  assert_int_equal (step (&worked), 0);
  assert_true (worked);
  assert_string_equal (requests, "W4096+4096 W20480+4096 F ");
  /* The older content first, although it has been overwritten. */
  expect_on_disk (small, BLOCK, BLOCK, 2);
  requests[0] = '\0';
  assert_int_equal (step (&worked), 0);
  assert_string_equal (requests, "W4096+4096 W36864+4096 F ");
  assert_int_equal (step (&worked), 0);
  assert_false (worked);
}

static void
batch_order_writes_the_newest_once (void **state)
{
  bool worked;

  (void) state;
  set_order (true);
  for (unsigned i = 2; i < 7; i++) {
    put_block (1, i);
    flush (small);
  }
  watch ();
  assert_int_equal (step (&worked), 0);
  assert_string_equal (requests, "W4096+4096 F ");
  expect_on_disk (small, BLOCK, BLOCK, 6);
  assert_int_equal (step (&worked), 0);
  assert_false (worked);
}

/* Also by a byte, in either direction; what only touches is as good as alone. */
static void
of_what_overlaps_within_an_epoch_the_newest_is_written (void **state)
{
  bool worked;

  (void) state;
  put (small, 0, 1001, 2);
  put (small, 1000, 500, 3);
  put (small, 1500, 500, 2);
  flush (small);
  put (small, 9999, 500, 3);
  put (small, 9000, 1000, 4);
  flush (small);
  watch ();
  assert_int_equal (step (&worked), 0);
  assert_string_equal (requests, "W0+2000 F ");
  expect_on_disk (small, 0, 1000, 2);
  expect_on_disk (small, 1000, 500, 3);
  expect_on_disk (small, 1500, 500, 2);
  requests[0] = '\0';
  assert_int_equal (step (&worked), 0);
  assert_string_equal (requests, "W9000+1499 F ");
  expect_on_disk (small, 9000, 1000, 4);
  expect_on_disk (small, 10000, 499, 3);
}

static void
a_limit_is_kept (void **state)
{
  uint64_t limit;
  bool worked;

  (void) state;
  for (int batch = 0; batch < 2; batch++) {
    set_order (batch);
    put_block (1, 2);
    flush (small);
    limit = log_closed_through (small->engine.log);
    put_block (2, 2);
    flush (small);
    worked = true;
    while (worked)
      assert_int_equal (writeback_step (small->writeback, limit, &worked), 0);
    expect_on_disk (small, BLOCK, BLOCK, 2);
    expect_on_disk (small, 2 * BLOCK, BLOCK, batch ? 2 : 1);
    assert_int_equal (written_back (), limit);
    write_back (small);
  }
}

/* T20 */
static void
a_fua_write_is_not_overtaken (void **state)
{
  bool worked;

  (void) state;
  tear_down (NULL);
  small = small_engine_new (24, true, DISK);
  small->heads = 3;
  small_engine_open (small);
  put_block (1, 2);
  fill_version (buf, 2 * BLOCK, BLOCK, 2);
  assert_int_equal (engine_write (&small->engine, buf, (struct range)
                                  { 2 * BLOCK, BLOCK }, true), 0);
  put_block (3, 2);
  watch ();
  assert_int_equal (step (&worked), 0);
  assert_string_equal (requests, "W4096+8192 F ");
  write_back (small);
  expect_on_disk (small, 3 * BLOCK, BLOCK, 2);
}

/* --- T24 -------------------------------------------------------------- */

static void
crash_and_compare (struct memory_backend *mb, enum backend_event event,
                   struct range range, const void *unused, void *opaque)
{
  struct small_engine *other;
  unsigned *seen = opaque;

  (void) range;
  (void) unused;
  if (event != BACKEND_WRITE)
    return;
  /* The disk already has version 2; the cache must, too. */
  other = small_engine_beside (small, memory_device_crash (small->device,
                                                           &seed));
  small_engine_open (other);
  expect (other, BLOCK, BLOCK, 2);
  small_engine_free (other);
  ++*seen;
  (void) mb;
}

static void
nothing_reaches_the_disk_before_it_is_durable_here (void **state)
{
  unsigned seen = 0;

  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    tear_down (NULL);
    reports_collect ();
    small = small_engine_new (8, ordered, DISK);
    small_engine_open (small);
    put_block (1, 1);
    write_back (small);
    memory_device_track (small->device, seed);
    small->disk->after = crash_and_compare;
    small->disk->opaque = &seen;
    put_block (1, 2);
    write_back (small);
    assert_int_equal (seen, ordered + 1);
  }
}

static void
an_epoch_that_cannot_be_made_durable_is_not_written_back (void **state)
{
  bool worked;

  (void) state;
  put_block (1, 2);
  small->device->copy_error = -EIO;
  assert_int_equal (step (&worked), -EIO);
  assert_int_equal (small->disk->writes, 0);
  small->device->copy_error = 0;
  write_back (small);
  expect_on_disk (small, BLOCK, BLOCK, 2);
}

/* --- failures --------------------------------------------------------- */

/* T7, P6 */
static void
nothing_is_clean_until_the_disk_has_flushed_it (void **state)
{
  bool worked;

  (void) state;
  for (int what = 0; what < 3; what++) {
    const uint64_t mark = written_back ();

    put_block (what, 2);
    seal (small);
    small->disk->flush_error = what == 0 ? -EIO : 0;
    small->disk->write_error = what == 1 ? -ENOSPC : 0;
    if (what == 2)              /* the mark */
      small->device->refused = (struct range) { 0, MIB };
    assert_true (step (&worked) < 0);
    assert_int_equal (written_back (), mark);
    assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue), BLOCK);
    assert_null (segment_find_evictable (&small->engine.segments, mark));
    small->disk->flush_error = small->disk->write_error = 0;
    small->device->refused.length = 0;
    small_engine_restart (small);
    assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue), BLOCK);

    write_back (small);
    expect_on_disk (small, what * BLOCK, BLOCK, 2);
    assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue), 0);
    tear_down (NULL);
    set_up (NULL);
  }
}

/* A store that fails some requests, and then has lost all it was given since its
 * last flush, as a server that was restarted. */
struct flaky {
  unsigned every;               /* which request fails; 0: none */
  unsigned count;
  uint64_t random;
};

static void
fail_now_and_then (struct memory_backend *mb, enum backend_event event,
                   struct range range, const void *unused, void *opaque)
{
  struct flaky *flaky = opaque;

  note_request (mb, event, range, unused, NULL);
  mb->write_error = 0;
  if (event == BACKEND_WRITE && flaky->every > 0
      && ++flaky->count % flaky->every == 0) {
    memory_backend_crash (mb, &flaky->random);
    mb->write_error = -EIO;
  }
}

static void
make_flaky (struct flaky *flaky, unsigned every)
{
  *flaky = (struct flaky) { .every = every, .random = seed };
  watch ();
  memory_backend_track (small->disk);
  small->disk->before = fail_now_and_then;
  small->disk->opaque = flaky;
}

static void
after_a_failure_the_store_is_flushed_in_between (void **state)
{
  struct flaky flaky;
  bool worked;

  (void) state;
  for (uint64_t n = 0; n < 8; n++)
    put_block (2 * n, 2);
  flush (small);
  make_flaky (&flaky, 4);
  assert_int_equal (step (&worked), -EIO);
  assert_false (worked);
  assert_string_equal (requests, "W0+4096 W8192+4096 W16384+4096 "
                       "W24576+4096 ");
  watch ();
  small->disk->before = fail_now_and_then;
  flaky.every = 7;              /* the third from here */
  assert_int_equal (step (&worked), -EIO);
  assert_true (worked);
  assert_string_equal (requests, "W0+4096 W8192+4096 F W16384+4096 ");
  /* It goes on from there, with the smallest portion and then larger ones. */
  watch ();
  small->disk->before = fail_now_and_then;
  flaky.every = 0;
  assert_int_equal (step (&worked), 0);
  assert_true (worked);
  assert_string_equal (requests, "W16384+4096 F W24576+4096 W32768+4096 F "
                       "W40960+4096 W49152+4096 W57344+4096 F ");
  for (uint64_t n = 0; n < 8; n++)
    expect_on_disk (small, 2 * n * BLOCK, BLOCK, 2);
}

static void
a_store_that_fails_often_takes_everything_in_the_end (void **state)
{
  (void) state;
  for (int batch = 0; batch < 2; batch++) {
    struct flaky flaky;
    unsigned failed = 0;
    bool worked = true;

    set_order (batch);
    for (uint64_t n = 0; n < 600; n++) {
      const struct range gap = { (2 * n + 1) * BLOCK, BLOCK };

      put_block (2 * n, 2);
      if (n % 3 == 0)
        assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO, gap,
                                              false), 0);
      if (n == 100 || n == 200)
        flush (small);
    }
    flush (small);
    make_flaky (&flaky, 10);
    while (worked && failed < 1000) {
      const int r = step (&worked);

      if (r < 0) {
        assert_int_equal (r, -EIO);
        failed++;
        worked = true;
      }
    }
    assert_false (worked);
    assert_true (flaky.count >= 600 && flaky.count <= 3000);
    assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue), 0);
    memory_backend_crash (small->disk, &flaky.random);
    for (uint64_t n = 0; n < 600; n++) {
      expect_on_disk (small, 2 * n * BLOCK, BLOCK, 2);
      expect_on_disk (small, (2 * n + 1) * BLOCK, BLOCK, n % 3 == 0 ? 0 : 1);
    }
    tear_down (NULL);
    set_up (NULL);
  }
}

/* Between two attempts anything may change: how far the step goes, which store
 * it is (with other limits, and with nothing of the last attempt), what of the sets
 * can be read.  Nothing is left out. */
static void
whatever_changes_between_attempts_everything_gets_there (void **state)
{
  enum { RUNS = 256 };          /* of 16 KiB; every 40th one is zeros */
  const uint64_t run = 4 * BLOCK;
  uint64_t random = seed;

  (void) state;
  for (unsigned round = 0; round < scaled (20, 2); round++) {
    struct flaky flaky;
    unsigned version[RUNS], last = 1, attempts = 0;
    uint64_t limit = 0;

    for (unsigned i = 0; i < RUNS; i++)
      version[i] = 1;
    set_order (round % 2);
    for (unsigned i = 0; i < 2 * RUNS; i++) {
      const unsigned n = random_below (&random, RUNS);
      const struct range range = { n * run, run };

      if (n % 40 == 0) {
        assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                              range, false), 0);
        version[n] = 0;
      }
      else
        put (small, range.start, run, version[n] = ++last);
      if (random_below (&random, 200) == 0)
        flush (small);
    }
    flush (small);
    make_flaky (&flaky, 0);
    while (epoch_queue_dirty_bytes (&small->engine.queue) > 0) {
      const unsigned what = random_below (&random, 10);
      bool worked;

      flaky.every = ++attempts < 1000 ? 1 + random_below (&random, 30) : 0;
      small->device->bad_length = 0;
      if (what < 3)
        limit = written_back () + 1 + random_below (&random, 8);
      else if (what < 6)
        limit = UINT64_MAX;
      else if (what == 6) {
        writeback_resume (small->writeback);    /* as cache_detach does */
        memory_backend_crash (small->disk, &random);
        small->disk->backend.max_request = random_below (&random, 2) ? MIB
          : 256 * 1024;
      }
      else if (what == 7 && attempts < 1000) {
        const uint64_t at = set_at (small->device, 0,
                                    random_below (&random, 4));

        small->device->bad_at = at;
        small->device->bad_length = at > 0 ? 64 : 0;
      }
      requests[0] = '\0';
      assert_in_range (-writeback_step (small->writeback, limit, &worked),
                       0, EIO);
      assert_true (attempts < 2000);
    }
    memory_backend_crash (small->disk, &random);
    for (unsigned i = 0; i < RUNS; i++)
      expect_on_disk (small, i * run, run, version[i]);
    tear_down (NULL);
    set_up (NULL);
  }
}

/* The part of the epoch that holds the damage is not done again. */
static void
what_is_lost_in_a_portion_is_durable_before_it_counts_as_clean (void **state)
{
  struct flaky flaky;
  uint64_t random = seed;
  bool worked;

  (void) state;
  for (uint64_t n = 0; n < 8; n++)
    put_block (2 * n, 2);
  flush (small);
  rot (small, 0);
  memory_device_track (small->device, seed);
  make_flaky (&flaky, 4);
  assert_int_equal (step (&worked), -EIO);
  flaky.every = 7;
  assert_int_equal (step (&worked), -EIO);
  assert_true (worked);
  flaky.every = 0;
  assert_int_equal (step (&worked), 0);
  assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue), 0);
  for (int i = 0; i < 20; i++) {
    struct small_engine *other =
      small_engine_beside (small, memory_device_crash (small->device,
                                                       &random));

    small_engine_open (other);
    assert_int_equal (get (other, 0, BLOCK, buf), -EIO);
    expect (other, 2 * BLOCK, BLOCK, 2);
    small_engine_free (other);
  }
}

static void
a_disk_that_cannot_zero_gets_zeros (void **state)
{
  const struct range range = { 100, 3 * MIB + 5 };

  (void) state;
  for (int how = 0; how < 4; how++) {
    struct backend *b = &small->disk->backend;

    fill_version (small->disk->bytes, 0, DISK, 1);
    b->can_zero = how < 2;
    b->can_trim = how < 3;
    small->disk->zero_error = how == 1 ? -EIO : 0;
    assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO, range,
                                          false), 0);
    write_back (small);
    expect_on_disk (small, range.start, range.length, 0);
    expect_on_disk (small, 0, 100, 1);
    expect_on_disk (small, range_end (range), MIB, 1);
    /* A zero is never made a trim, which may leave anything. */
    assert_int_equal (small->disk->trims, 0);
  }
  small->disk->backend.can_trim = true;
  assert_int_equal (engine_write_zeros (&small->engine, RECORD_TRIM, range,
                                        false), 0);
  write_back (small);
  assert_int_equal (small->disk->trims, 1);
}

static void
requests_are_as_large_as_the_disk_takes (void **state)
{
  (void) state;
  for (uint64_t i = 0; i < 64; i++)
    put (small, 8 * MIB + (63 - i) * 65536, 65536, 2);
  assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                        (struct range) { 0, 2 * MIB }, false),
                    0);
  small->disk->backend.max_request = MIB / 2;
  small->disk->backend.max_zero = MIB;
  watch ();
  write_back (small);
  assert_int_equal (small->disk->zeros, 2);
  assert_int_equal (small->disk->writes, 8);
  expect_on_disk (small, 8 * MIB, 4 * MIB, 2);
}

/* --- damage (P4) ------------------------------------------------------ */

static void
damaged_dirty_data_is_never_written_back (void **state)
{
  (void) state;
  for (int media_error = 0; media_error < 2; media_error++) {
    put_block (4, 2);
    put_block (5, 2);
    put_block (6, 2);
    put (small, 5 * BLOCK + 100, 10, 3);
    if (media_error) {
      small->device->bad_at = extent_at (small, 5 * BLOCK).record_at;
      small->device->bad_length = 1;
    }
    else
      rot (small, 5 * BLOCK);
    write_back (small);
    expect_on_disk (small, 4 * BLOCK, BLOCK, 2);
    expect_on_disk (small, 5 * BLOCK, 100, 1);
    expect_on_disk (small, 5 * BLOCK + 100, 10, 3);
    expect_on_disk (small, 5 * BLOCK + 110, BLOCK - 110, 1);
    expect_on_disk (small, 6 * BLOCK, BLOCK, 2);
    assert_true (reports_have (REPORT_ERROR, "dirty data at 20480+100|EIO"));
    assert_int_equal (counted (small, STAT_lost_bytes), BLOCK - 10);

    /* Everything else goes on, and a restart changes nothing. */
    for (int i = 0; i < 3; i++) {
      assert_int_equal (get (small, 5 * BLOCK, 100, buf), -EIO);
      assert_int_equal (get (small, 5 * BLOCK + 110, 1, buf), -EIO);
      assert_int_equal (get (small, 6 * BLOCK - 1, 1, buf), -EIO);
      expect (small, 5 * BLOCK + 100, 10, 3);
      expect (small, 6 * BLOCK, BLOCK, 2);
      small->device->bad_length = 0;
      small_engine_restart (small);
    }
    put_block (5, 4);
    expect (small, 5 * BLOCK, BLOCK, 4);
    write_back (small);
    expect_on_disk (small, 5 * BLOCK, BLOCK, 4);
    tear_down (NULL);
    set_up (NULL);
  }
}

/* How many there are on the device. */
static unsigned
lost_records (void)
{
  unsigned found = 0;

  for (uint32_t id = 0; id < small->engine.superblock.geometry.segment_count;
       id++)
    for (uint32_t i = 0; i < sets_on (small->device, id); i++) {
      struct media_set *set = set_on (small->device, id, i);

      for (uint32_t j = 0; j < le32_get (set->records); j++)
        found += record_in (set, j)->kind == RECORD_LOST;
    }
  return found;
}

/* At no instant does a crash make it look clean. */
static void
cut_the_power (struct memory_device *d, enum memory_event event, uint64_t at,
               size_t length, void *opaque)
{
  (void) event;
  (void) at;
  (void) length;
  for (uint64_t i = scaled (4, 1); i > 0; i--) {
    struct small_engine *other =
      small_engine_beside (small, memory_device_crash (d, opaque));

    small_engine_open (other);
    assert_int_equal (get (other, 5 * BLOCK, BLOCK, buf), -EIO);
    expect (other, 6 * BLOCK, BLOCK, 2);
    small_engine_free (other);
  }
}

static void
no_crash_makes_damaged_dirty_data_look_clean (void **state)
{
  uint64_t random = seed;

  (void) state;
  put_block (5, 2);
  put_block (6, 2);
  rot (small, 5 * BLOCK);
  flush (small);
  memory_device_track (small->device, seed);
  small->device->hook = cut_the_power;
  small->device->opaque = &random;
  write_back (small);
  assert_int_equal (get (small, 5 * BLOCK, BLOCK, buf), -EIO);
}

/* However often it is tried to write it back, or to read it. */
static void
what_is_lost_is_counted_once (void **state)
{
  bool worked;

  (void) state;
  put_block (5, 2);
  put_block (9, 2);
  rot (small, 5 * BLOCK);
  flush (small);
  small->disk->flush_error = -EIO;
  for (int i = 0; i < 4; i++) {
    assert_int_equal (get (small, 5 * BLOCK, BLOCK, buf), -EIO);
    assert_int_equal (step (&worked), -EIO);
  }
  small->disk->flush_error = 0;
  write_back (small);
  assert_int_equal (get (small, 5 * BLOCK, BLOCK, buf), -EIO);
  assert_int_equal (counted (small, STAT_lost_bytes), BLOCK);
  assert_int_equal (lost_records (), 1);
}

static int
no_space (struct engine *engine, uint64_t ticket, uint64_t since_ms)
{
  (void) engine;
  (void) ticket;
  (void) since_ms;
  return -ENOSPC;
}

/* Blocks, dirty, until nothing more finds room.  Returns how many. */
static uint64_t
fill_the_cache (uint64_t from)
{
  int (*wait) (struct engine *, uint64_t, uint64_t) =
    small->engine.wait_for_space;
  uint64_t n = from;
  int r;

  small->engine.wait_for_space = no_space;
  do {
    fill_version (buf, n * BLOCK, BLOCK, 2);
    r = engine_write (&small->engine, buf, (struct range)
                      { n * BLOCK, BLOCK }, false);
    n += r == 0;
  } while (r == 0);
  assert_int_equal (r, -ENOSPC);
  small->engine.wait_for_space = wait;
  return n;
}

struct full {
  uint64_t random;
  uint64_t epoch;
  unsigned seen;
};

static void
cut_the_power_of_a_full_cache (struct memory_device *d,
                               enum memory_event event, uint64_t at,
                               size_t length, void *opaque)
{
  struct full *full = opaque;
  struct small_engine *other;

  (void) at;
  (void) length;
  if (event == MEMORY_BEFORE_COPY || full->seen++ % 16 != 0)
    return;
  other = small_engine_beside (small, memory_device_crash (d, &full->random));
  small_engine_open (other);
  for (uint64_t n = 0; n < 100; n += 7)
    assert_int_equal (get (other, n * BLOCK, BLOCK, buf), -EIO);
  expect (other, BLOCK, BLOCK, 2);
  small_engine_free (other);
}

/* No space will come before what cannot be written back has been said to be
 * lost, and to say that takes space. */
static void
a_cache_full_of_dirty_data_can_lose_some (void **state)
{
  struct full full = { .random = seed };
  uint64_t blocks;

  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    tear_down (NULL);
    reports_collect ();
    small = small_engine_new (4, ordered, DISK);
    fill_version (small->disk->bytes, 0, DISK, 1);
    small_engine_open (small);
    blocks = fill_the_cache (0);
    assert_true (blocks > 700);
    for (uint64_t n = 0; n < blocks; n += 7)
      rot (small, n * BLOCK);
    /* Where stores are not ordered, what rots in the last epoch looks as if it
     * had never been there. */
    seal (small);
    memory_device_track (small->device, seed);
    small->device->hook = cut_the_power_of_a_full_cache;
    small->device->opaque = &full;
    write_back (small);
    small->device->hook = NULL;
    assert_true (full.seen > scaled (8, 2));
    assert_int_equal (counted (small, STAT_lost_bytes),
                      (blocks + 6) / 7 * BLOCK);

    /* And everything goes on: round and round, in what is left. */
    for (unsigned round = 4; round < 6; round++) {
      for (uint64_t n = 1; n < blocks; n++)
        if (n % 7 != 0)
          put_block (n, round);
      for (uint64_t n = 0; n < blocks; n++)
        if (n % 7 == 0)
          assert_int_equal (get (small, n * BLOCK, BLOCK, buf), -EIO);
        else
          expect (small, n * BLOCK, BLOCK, round);
      small_engine_restart (small);
    }
    write_back (small);
    for (uint64_t n = 0; n < blocks; n++)
      expect_on_disk (small, n * BLOCK, BLOCK, n % 7 == 0 ? 1 : 5);
  }
}

/* More than the room kept for it can name: it stops, loses nothing, and says
 * why once. */
static void
more_than_can_be_said_to_be_lost_stays_dirty (void **state)
{
  static struct reservation res[MIB / SET_BYTES (1) + 1];
  unsigned count = 0;
  bool worked;

  (void) state;
  tear_down (NULL);
  reports_collect ();
  small = small_engine_new (4, true, DISK);
  fill_version (small->disk->bytes, 0, DISK, 1);
  small_engine_open (small);
  fill_the_cache (0);
  rot (small, 7 * BLOCK);
  flush (small);
  while (log_reserve (small->engine.log, LOG_LOST, 0, 1, &res[count]) == 0)
    count++;
  for (int i = 0; i < 3; i++)
    assert_int_equal (step (&worked), -ENOSPC);
  assert_int_equal (reports_count (REPORT_ERROR), 1);
  assert_true (reports_have (REPORT_ERROR, "28672+4096|too full"));
  assert_int_equal (written_back (), 0);
  assert_int_equal (counted (small, STAT_lost_bytes), 0);
  assert_int_equal (get (small, 7 * BLOCK, BLOCK, buf), -EIO);
  expect (small, 8 * BLOCK, BLOCK, 2);
  while (count > 0)
    log_release (small->engine.log, &res[--count]);
  while (evict_one (small))
    ;
  write_back (small);
  assert_int_equal (counted (small, STAT_lost_bytes), BLOCK);
}

static void
damaged_data_that_was_overwritten_is_nobodys_loss (void **state)
{
  (void) state;
  put_block (5, 2);
  rot (small, 5 * BLOCK);
  flush (small);
  put_block (5, 3);
  write_back (small);
  expect_on_disk (small, 5 * BLOCK, BLOCK, 3);
  expect (small, 5 * BLOCK, BLOCK, 3);
  assert_int_equal (counted (small, STAT_lost_bytes), 0);
}

/* --- damaged record sets ---------------------------------------------- */

/* Make the set unreadable: by a flipped bit, or a media error. */
static void
damage_set (uint32_t id, uint32_t ordinal, bool media_error)
{
  if (media_error) {
    small->device->bad_at = set_at (small->device, id, ordinal);
    small->device->bad_length = 1;
  }
  else
    set_on (small->device, id, ordinal)->epoch.raw ^= 1;
}

static void
zero (uint64_t start, uint64_t length, enum record_kind kind)
{
  assert_int_equal (engine_write_zeros (&small->engine, kind, (struct range)
                                        { start, length }, false), 0);
}

/* The index still knows what it held. */
static void
what_a_damaged_set_held_is_written_back (void **state)
{
  bool worked;

  (void) state;
  for (int media_error = 0; media_error < 2; media_error++) {
    put_block (1, 2);
    flush (small);
    put_block (5, 2);
    put_block (6, 2);
    put_block (7, 2);
    zero (2 * MIB + 100, 5 * MIB, RECORD_ZERO);
    zero (9 * MIB, 2 * MIB, RECORD_TRIM);
    flush (small);
    put (small, 5 * BLOCK + 100, 10, 3);
    put (small, 4 * MIB, BLOCK, 3);
    put_block (7, 3);
    flush (small);
    damage_set (0, 1, media_error);

    assert_int_equal (step (&worked), 0);
    expect_on_disk (small, BLOCK, BLOCK, 2);
    small->disk->flush_error = -EIO;
    for (int i = 0; i < 3; i++)
      assert_int_equal (step (&worked), -EIO);
    assert_int_equal (written_back (), 1);
    small->disk->flush_error = 0;
    assert_int_equal (step (&worked), 0);
    assert_true (worked);
    assert_int_equal (written_back (), 2);
    expect_on_disk (small, 5 * BLOCK, 100, 2);
    expect_on_disk (small, 5 * BLOCK + 110, BLOCK - 110, 2);
    expect_on_disk (small, 6 * BLOCK, BLOCK, 2);
    expect_on_disk (small, 2 * MIB, 100, 1);
    expect_on_disk (small, 2 * MIB + 100, 2 * MIB - 100, 0);
    expect_on_disk (small, 4 * MIB + BLOCK, 3 * MIB + 100 - BLOCK, 0);
    expect_on_disk (small, 7 * MIB + 100, MIB, 1);
    expect_on_disk (small, 9 * MIB, 2 * MIB, 0);
    /* It is not known any more what this was before it was overwritten. */
    expect_on_disk (small, 7 * BLOCK, BLOCK, 1);
    expect_on_disk (small, 4 * MIB, BLOCK, 1);
    write_back (small);
    expect_on_disk (small, 5 * BLOCK + 100, 10, 3);
    expect_on_disk (small, 7 * BLOCK, BLOCK, 3);
    expect_on_disk (small, 4 * MIB, BLOCK, 3);
    assert_int_equal (reports_count (REPORT_ERROR), 1);
    assert_true (reports_have (REPORT_ERROR, "segment 0|set 1|damaged"));
    assert_int_equal (counted (small, STAT_lost_bytes), 0);

    /* Once more from the disk alone, after a restart and without the segment. */
    for (int i = 0; i < 2; i++) {
      expect (small, 5 * BLOCK, 100, 2);
      expect (small, 5 * BLOCK + 100, 10, 3);
      expect (small, 6 * BLOCK, BLOCK, 2);
      expect (small, 7 * BLOCK, BLOCK, 3);
      expect (small, 3 * MIB, MIB, 0);
      if (i == 0)
        small_engine_restart (small);
    }
    while (evict_one (small))
      ;
    expect (small, 5 * BLOCK, 100, 2);
    expect (small, 6 * BLOCK, BLOCK, 2);
    expect (small, 3 * MIB, MIB, 0);
    tear_down (NULL);
    set_up (NULL);
  }
}

/* Each zero stands in two regions, of which each knows only what overwrote its
 * own half. */
static void
a_damaged_set_brings_back_no_zeros (void **state)
{
  (void) state;
  for (uint64_t n = 1; n <= 8; n++)
    zero (n * MIB - 2 * BLOCK, 4 * BLOCK, n % 2 ? RECORD_ZERO : RECORD_TRIM);
  for (uint64_t n = 1; n <= 8; n++) {
    put (small, n * MIB - 2 * BLOCK, 2 * BLOCK, 2);
    put (small, n * MIB, 2 * BLOCK, 2);
  }
  flush (small);
  damage_set (0, 0, false);
  write_back (small);
  for (uint64_t n = 1; n <= 8; n++)
    expect_on_disk (small, n * MIB - 2 * BLOCK, 4 * BLOCK, 2);
}

/* Block 5 has version 2 clean in an older segment, block 6 has it on the disk
 * only; version 3 of both is in a set that is damaged, and is promised; block 6
 * got version 4 in another head, in DRAM. */
static void
damage_versions (void)
{
  tear_down (NULL);
  reports_collect ();
  small = small_engine_new (24, true, DISK);
  small->heads = 2;
  fill_version (small->disk->bytes, 0, DISK, 2);
  small_engine_open (small);
  put_block (5, 2);
  write_back (small);
  seal (small);
  fill_version (buf, 5 * BLOCK, 2 * BLOCK, 3);
  assert_int_equal (engine_write (&small->engine, buf, (struct range)
                                  { 5 * BLOCK, 2 * BLOCK }, false), 0);
  flush (small);
  put_block (6, 4);
  assert_int_not_equal (segment_of (small, 5 * BLOCK),
                        segment_of (small, 6 * BLOCK));
  damage_set (segment_of (small, 5 * BLOCK), 0, false);
}

static void
look_for_stale_versions (struct memory_device *d, enum memory_event event,
                         uint64_t at, size_t length, void *opaque)
{
  struct full *full = opaque;

  (void) event;
  (void) at;
  (void) length;
  for (uint64_t i = scaled (4, 1); i > 0; i--) {
    struct small_engine *other =
      small_engine_beside (small, memory_device_crash (d, &full->random));

    if (small_engine_try_open (other) < 0) {
      /* Not written back yet, so it is damage: one copy may say so torn. */
      assert_true (le64_get (control_on (other->device, 0)->written_back)
                   < full->epoch
                   || le64_get (control_on (other->device, 1)->written_back)
                      < full->epoch);
    }
    else if (control_get (&other->engine.superblock).written_back
             >= full->epoch) {
      expect (other, 5 * BLOCK, BLOCK, 3);
      expect (other, 6 * BLOCK, BLOCK, 4);
      full->seen++;
    }
    small_engine_free (other);
  }
}

/* T23, P1. */
static void
nothing_stale_comes_to_light_behind_a_damaged_set (void **state)
{
  struct full full = { .random = seed };
  bool worked;

  (void) state;
  damage_versions ();
  full.epoch = log_closed_through (small->engine.log);
  memory_device_track (small->device, seed);
  small->device->hook = look_for_stale_versions;
  small->device->opaque = &full;
  assert_int_equal (step (&worked), 0);
  assert_int_equal (written_back (), full.epoch);
  look_for_stale_versions (small->device, MEMORY_SYNCED, 0, 0, &full);
  small->device->hook = NULL;
  assert_true (full.seen > scaled (4, 1));
  write_back (small);
  while (evict_one (small))
    ;
  expect (small, 5 * BLOCK, BLOCK, 3);
  expect (small, 6 * BLOCK, BLOCK, 4);
}

/* A writer that is in the segment of a damaged set may end what it does. */
static void
a_damaged_set_waits_for_its_segment (void **state)
{
  struct reservation res;
  bool worked;

  (void) state;
  put_block (5, 2);
  flush (small);
  damage_set (0, 0, false);
  assert_int_equal (log_reserve (small->engine.log, LOG_WRITE, 64, 1, &res),
                    0);
  assert_int_equal (step (&worked), 0);
  assert_false (worked);
  assert_int_equal (written_back (), 0);
  log_release (small->engine.log, &res);
  write_back (small);
  expect_on_disk (small, 5 * BLOCK, BLOCK, 2);
}

static void
put_block_9 (struct memory_backend *mb, enum backend_event event,
             struct range range, const void *unused, void *opaque)
{
  (void) range;
  (void) unused;
  (void) opaque;
  if (event != BACKEND_FLUSH)
    return;
  mb->before = NULL;
  put_block (9, 2);
}

/* "Lost" that stood in the damaged set is said again. */
static void
what_is_lost_stays_lost_when_its_set_is_damaged (void **state)
{
  bool worked;
  uint32_t id;

  (void) state;
  put_block (7, 2);
  rot (small, 7 * BLOCK);
  flush (small);
  small->disk->before = put_block_9;
  assert_int_equal (step (&worked), 0);
  id = segment_of (small, 9 * BLOCK);
  assert_int_equal (sets_on (small->device, id), 2);
  assert_int_equal (lost_records (), 1);
  damage_set (id, 1, false);
  write_back (small);
  expect_on_disk (small, 9 * BLOCK, BLOCK, 2);
  assert_int_equal (get (small, 7 * BLOCK, BLOCK, buf), -EIO);
  assert_int_equal (counted (small, STAT_lost_bytes), BLOCK);
  small_engine_kill (small);
  /* Who starts it now cannot know that the damage hides nothing of the kind. */
  assert_int_equal (small_engine_try_open (small), -EUCLEAN);
  for (int i = 0; i < 2; i++) {
    small->engine.options.rescue = i == 0;
    if (small->is_open)
      small_engine_kill (small);
    small_engine_open (small);
    assert_int_equal (get (small, 7 * BLOCK, BLOCK, buf), -EIO);
    expect (small, 9 * BLOCK, BLOCK, 2);
    while (evict_one (small))
      ;
  }
}

/* --- several at once -------------------------------------------------- */

static void
helpers_share_the_work (void **state)
{
  (void) state;
  writeback_free (small->writeback);
  assert_int_equal (writeback_new (&small->engine, 3, &small->writeback), 0);
  for (unsigned round = 2; round < 12; round++) {
    for (uint64_t i = 0; i < 40; i++)
      put (small, i * 3 * BLOCK, BLOCK, round);
    flush (small);
  }
  small->disk->delay_us = 50;
  write_back (small);
  for (uint64_t i = 0; i < 40; i++) {
    expect_on_disk (small, i * 3 * BLOCK, BLOCK, 11);
    expect_on_disk (small, i * 3 * BLOCK + BLOCK, BLOCK, 1);
  }
  assert_int_equal (small->disk->flushes, 10);

  /* An error of any of them is an error. */
  put_block (0, 20);
  put_block (2, 20);
  small->disk->write_error = -EIO;
  {
    bool worked;

    assert_int_equal (step (&worked), -EIO);
  }
  small->disk->write_error = 0;
  write_back (small);
  expect_on_disk (small, 0, BLOCK, 20);
}

static _Atomic int writing, zeroing;    /* requests under way */
static _Atomic bool met;

static void
note_begin (struct memory_backend *mb, enum backend_event event,
            struct range range, const void *unused, void *opaque)
{
  (void) mb;
  (void) range;
  (void) unused;
  (void) opaque;
  if (event == BACKEND_WRITE) {
    writing++;
    if (zeroing > 0)
      met = true;
  }
  else if (event == BACKEND_ZERO || event == BACKEND_TRIM) {
    zeroing++;
    if (writing > 0)
      met = true;
  }
  usleep (300);
}

static void
note_end (struct memory_backend *mb, enum backend_event event,
          struct range range, const void *unused, void *opaque)
{
  (void) mb;
  (void) range;
  (void) unused;
  (void) opaque;
  if (event == BACKEND_WRITE)
    writing--;
  else if (event == BACKEND_ZERO || event == BACKEND_TRIM)
    zeroing--;
}

/* Not even of different blocks: the backing store's may be larger. */
static void
data_and_zeros_are_not_written_at_the_same_time (void **state)
{
  (void) state;
  writeback_free (small->writeback);
  assert_int_equal (writeback_new (&small->engine, 3, &small->writeback), 0);
  for (uint64_t i = 0; i < 41; i++) {
    put_block (i * 3, 2);
    zero ((i * 3 + 1) * BLOCK, BLOCK, i % 2 ? RECORD_ZERO : RECORD_TRIM);
  }
  flush (small);
  small->disk->before = note_begin;
  small->disk->after = note_end;
  write_back (small);
  small->disk->before = small->disk->after = NULL;
  assert_false (met);
  for (uint64_t i = 0; i < 41; i++) {
    expect_on_disk (small, i * 3 * BLOCK, BLOCK, 2);
    expect_on_disk (small, (i * 3 + 1) * BLOCK, BLOCK, 0);
    expect_on_disk (small, (i * 3 + 2) * BLOCK, BLOCK, 1);
  }
}

#define WRITERS 4
#define BLOCKS_EACH 8
#define WRITES_EACH 100

/* What a flush or FUA that returned 0 has promised of a writer's blocks. */
static unsigned promised[WRITERS][BLOCKS_EACH];
static unsigned refusals;

static void *
write_and_flush (void *opaque)
{
  const uintptr_t writer = (uintptr_t) opaque;
  unsigned newest[BLOCKS_EACH] = { 0 };
  uint64_t random = seed + writer;
  uint8_t block[BLOCK];

  for (unsigned version = 1; version <= WRITES_EACH; version++) {
    const unsigned n = random_below (&random, BLOCKS_EACH);
    const uint64_t start = (writer * BLOCKS_EACH + n) * BLOCK;
    const bool fua = random_below (&random, 4) == 0;
    int r;

    fill_version (block, start, BLOCK, version);
    do {
      r = engine_write (&small->engine, block, (struct range)
                        { start, BLOCK }, fua);
      if (r < 0)
        __atomic_fetch_add (&refusals, 1, __ATOMIC_RELAXED);
    } while (r < 0);
    newest[n] = version;
    if (fua)
      promised[writer][n] = version;
    if (random_below (&random, 4) == 0
        && engine_flush (&small->engine) == 0)
      memcpy (promised[writer], newest, sizeof newest);
  }
  return NULL;
}

/* While sets move to other heads, which other flushes have closed already. */
static void
what_moves_is_covered_by_every_flush (void **state)
{
  (void) state;
  for (int round = 0; round < 10; round++) {
    pthread_t thread[WRITERS];

    tear_down (NULL);
    reports_collect ();
    small = small_engine_new (120, true, DISK);
    small->heads = 4;
    small_engine_open (small);
    memset (promised, 0, sizeof promised);
    small->device->refused = (struct range) {
      segment_start (small->device, 0), 120 * MIB,
    };
    small->device->refuse_every = 7;
    for (uintptr_t i = 0; i < WRITERS; i++)
      pthread_create (&thread[i], NULL, write_and_flush, (void *) i);
    for (int i = 0; i < WRITERS; i++)
      pthread_join (thread[i], NULL);
    assert_true (log_moves (small->engine.log) > 0);
    small->device->refused.length = 0;
    small_engine_kill (small);
    small_engine_open (small);
    for (uint64_t n = 0; n < WRITERS * BLOCKS_EACH; n++) {
      const unsigned least = promised[n / BLOCKS_EACH][n % BLOCKS_EACH];
      unsigned version = least;

      assert_int_equal (get (small, n * BLOCK, BLOCK, buf), 0);
      while (version <= WRITES_EACH
             && !is_version (buf, n * BLOCK, BLOCK, version))
        version++;
      if (version > WRITES_EACH)
        fail_msg ("block %ju: older than version %u", (uintmax_t) n, least);
    }
    write_back (small);
  }
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (one_step_writes_one_epoch_and_flushes),
    TEST (batch_order_writes_the_newest_once),
    TEST (of_what_overlaps_within_an_epoch_the_newest_is_written),
    TEST (a_limit_is_kept),
    TEST (a_fua_write_is_not_overtaken),
    TEST (nothing_reaches_the_disk_before_it_is_durable_here),
    TEST (an_epoch_that_cannot_be_made_durable_is_not_written_back),
    TEST (nothing_is_clean_until_the_disk_has_flushed_it),
    TEST (after_a_failure_the_store_is_flushed_in_between),
    TEST (a_store_that_fails_often_takes_everything_in_the_end),
    TEST (whatever_changes_between_attempts_everything_gets_there),
    TEST (what_is_lost_in_a_portion_is_durable_before_it_counts_as_clean),
    TEST (a_disk_that_cannot_zero_gets_zeros),
    TEST (requests_are_as_large_as_the_disk_takes),
    TEST (damaged_dirty_data_is_never_written_back),
    TEST (no_crash_makes_damaged_dirty_data_look_clean),
    TEST (what_is_lost_is_counted_once),
    TEST (a_cache_full_of_dirty_data_can_lose_some),
    TEST (more_than_can_be_said_to_be_lost_stays_dirty),
    TEST (damaged_data_that_was_overwritten_is_nobodys_loss),
    TEST (what_a_damaged_set_held_is_written_back),
    TEST (a_damaged_set_brings_back_no_zeros),
    TEST (nothing_stale_comes_to_light_behind_a_damaged_set),
    TEST (a_damaged_set_waits_for_its_segment),
    TEST (what_is_lost_stays_lost_when_its_set_is_damaged),
    TEST (helpers_share_the_work),
    TEST (data_and_zeros_are_not_written_at_the_same_time),
    TEST (what_moves_is_covered_by_every_flush),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* Writing: acknowledged means mapped and in the log, and a write that fails
 * leaves everything as it was. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"
#include "support/small_engine.h"

#define DISK (UINT64_C (16) * MIB)

static struct small_engine *small;
static uint8_t buf[4 * 1024 * 1024];

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

static int
try_put (uint64_t start, uint64_t length, unsigned version, bool fua)
{
  fill_version (buf, start, length, version);
  return engine_write (&small->engine, buf, (struct range) { start, length },
                       fua);
}

static void
a_write_of_any_place_and_length_is_read_back (void **state)
{
  uint64_t random = seed;

  (void) state;
  for (unsigned i = 0; i < 300; i++) {
    const uint64_t length = 1 + random_below (&random, i % 10 ? 70000
                                              : 3 * MIB);
    const uint64_t start = random_below (&random, DISK - length + 1);

    assert_int_equal (try_put (start, length, i % 200 + 2, i % 7 == 0), 0);
    expect (small, start, length, i % 200 + 2);
  }
}

static void
the_newest_of_overlapping_writes_wins (void **state)
{
  (void) state;
  put (small, 0, 65536, 2);
  put (small, 1000, 5000, 3);
  put (small, 3000, 1, 4);
  expect (small, 0, 1000, 2);
  expect (small, 1000, 2000, 3);
  expect (small, 3000, 1, 4);
  expect (small, 3001, 2999, 3);
  small_engine_restart (small);
  expect (small, 0, 1000, 2);
  expect (small, 3000, 1, 4);
  expect (small, 6000, 59536, 2);
}

/* The store under way is the last that the device takes. */
static void
refuse_from_now_on (struct memory_device *d, enum memory_event event,
                    uint64_t at, size_t length, void *opaque)
{
  (void) at;
  (void) length;
  (void) opaque;
  if (event == MEMORY_COPIED)
    d->copy_error = -EIO;
}

static void
heal (void)
{
  small->device->hook = NULL;
  small->device->copy_error = 0;
}

/* T6: the set is full and cannot be closed. */
static void
a_write_that_fails_leaves_the_old_mapping (void **state)
{
  (void) state;
  put (small, 0, 4096, 2);
  for (unsigned i = 1; i < SET_MAX_RECORDS; i++)
    put (small, i * 4096, 1, 2);
  /* The data can be stored, the set cannot. */
  small->device->hook = refuse_from_now_on;
  assert_int_equal (try_put (0, 4096, 3, false), -EIO);
  expect (small, 0, 4096, 2);
  assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                        (struct range) { 0, 4096 }, false),
                    -EIO);
  expect (small, 0, 4096, 2);
  assert_int_equal (small->disk->reads, 0);

  heal ();
  put (small, 0, 100, 4);
  small_engine_restart (small);
  expect (small, 0, 100, 4);
  expect (small, 100, 3996, 2);
}

/* T6: no store works at all. */
static void
a_dead_device_fails_writes_and_changes_nothing (void **state)
{
  (void) state;
  put (small, 0, 4096, 2);
  small->device->copy_error = -EIO;
  assert_int_equal (try_put (0, 4096, 3, false), -EIO);
  assert_int_equal (try_put (5000, 4096, 3, true), -EIO);
  expect (small, 0, 4096, 2);
  assert_int_equal (get (small, 5000, 4096, buf), 0);
  assert_true (is_version (buf, 5000, 4096, 1));
}

/* One bad place on the device is not the client's business. */
static void
a_store_that_fails_is_made_elsewhere (void **state)
{
  (void) state;
  put (small, 0, 4096, 2);
  small->device->copies_left = 0;
  put (small, 0, 4096, 3);
  expect (small, 0, 4096, 3);
  assert_int_equal (counted (small, STAT_media_errors), 1);
  small_engine_restart (small);
  expect (small, 0, 4096, 3);
}

/* P1 */
static void
fua_survives_a_kill_without_a_flush (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    tear_down (NULL);
    reports_collect ();
    small = small_engine_new (16, ordered, DISK);
    small_engine_open (small);
    memory_device_track (small->device, seed);
    assert_int_equal (try_put (0, 4096, 2, true), 0);
    assert_int_equal (try_put (5000, MIB, 3, true), 0);
    assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                          (struct range) { 100, 50 }, true),
                      0);
    assert_int_equal (engine_write_zeros (&small->engine, RECORD_TRIM,
                                          (struct range) { 300, 50 }, true),
                      0);
    for (int i = 0; i < 5; i++) {
      struct small_engine *other =
        small_engine_beside (small, memory_device_crash (small->device,
                                                         &seed));

      small_engine_open (other);
      expect (other, 0, 100, 2);
      expect (other, 100, 50, 0);
      expect (other, 150, 150, 2);
      expect (other, 300, 50, 0);
      expect (other, 350, 4096 - 350, 2);
      expect (other, 5000, MIB, 3);
      small_engine_free (other);
    }
  }
}

static void
a_fua_that_cannot_be_kept_is_an_error (void **state)
{
  (void) state;
  /* The data goes well, the set does not. */
  put (small, 0, 10, 2);
  small->device->hook = refuse_from_now_on;
  assert_int_equal (try_put (0, 4096, 3, true), -EIO);
  heal ();
  /* And it is not in the way of what comes. */
  assert_int_equal (try_put (0, 10, 4, true), 0);
  small_engine_kill (small);
  small_engine_open (small);
  expect (small, 0, 10, 4);
}

/* --- places that refuse sets ------------------------------------------ */

/* Segment 0 takes no set any more from its ORDINALth on. */
static void
refuse_sets (uint32_t ordinal)
{
  const uint64_t start = segment_start (small->device, 0);

  small->device->refused = (struct range) { start + MIB / 2, MIB / 2 };
  if (ordinal > 0)
    small->device->refused.length =
      set_at (small->device, 0, ordinal - 1) + 64
      - SET_BYTES (le32_get (set_on (small->device, 0, ordinal - 1)->records))
      - small->device->refused.start;
}

static void
expect_all (struct small_engine *e)
{
  expect (e, 0, 1000, 2);
  expect (e, 1000, 100, 3);
  expect (e, 1100, 65536 - 1100, 2);
  expect (e, 65536, 4096, 4);
  expect (e, MIB + 100, MIB, 0);
  expect (e, 2 * MIB + 100, 500, 5);
  expect (e, 2 * MIB + 600, MIB - 500, 0);
  expect (e, 3 * MIB + 100, 1000, 1);
  expect (e, 4 * MIB, 4096, 1);
}

struct cuts {
  uint64_t random;
  unsigned images;
};

/* What was flushed before is there, and nothing that was never written. */
static void
cut_the_power (struct memory_device *d, enum memory_event event, uint64_t at,
               size_t length, void *opaque)
{
  struct cuts *cuts = opaque;
  uint8_t bytes[4096];

  (void) event;
  (void) at;
  (void) length;
  for (uint64_t i = scaled (3, 1); i > 0; i--) {
    struct small_engine *other =
      small_engine_beside (small, memory_device_crash (d, &cuts->random));

    small_engine_open (other);
    expect (other, 65536, 4096, 4);
    expect (other, 3 * MIB + 100, 1000, 1);
    assert_int_equal (get (other, 4096, 4096, bytes), 0);
    assert_true (is_version (bytes, 4096, 4096, 2)
                 || is_version (bytes, 4096, 4096, 1));
    assert_int_equal (get (other, MIB + 8192, 4096, bytes), 0);
    assert_true (is_version (bytes, MIB + 8192, 4096, 0)
                 || is_version (bytes, MIB + 8192, 4096, 1));
    small_engine_free (other);
    cuts->images++;
  }
}

/* A flush, or a write with FUA, moves them elsewhere. */
static void
a_place_that_refuses_sets_is_left (void **state)
{
  (void) state;
  for (int how = 0; how < 12; how++) {
    const bool ordered = how & 1, first = how & 2;
    struct cuts cuts = { .random = seed };
    uint32_t sets = first ? 0 : 1;

    tear_down (NULL);
    reports_collect ();
    small = small_engine_new (8, ordered, DISK);
    fill_version (small->disk->bytes, 0, DISK, 1);
    small_engine_open (small);
    if (!first) {
      put (small, 65536, 4096, 4);
      flush (small);
    }
    else {
      fill_version (small->disk->bytes + 65536, 65536, 4096, 4);
    }
    put (small, 0, 65536, 2);
    put (small, 1000, 100, 3);
    assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                          (struct range) { MIB + 100, MIB },
                                          false), 0);
    assert_int_equal (engine_write_zeros (&small->engine, RECORD_TRIM,
                                          (struct range) { 2 * MIB + 100,
                                                           MIB }, false), 0);
    put (small, 2 * MIB + 100, 500, 5);
    expect (small, 4 * MIB, 4096, 1);   /* a fill: clean */
    assert_int_equal (segment_of (small, 4 * MIB), 0);
    refuse_sets (sets);
    memory_device_track (small->device, seed);
    small->device->hook = cut_the_power;
    small->device->opaque = &cuts;
    switch (how / 4) {
    case 0:
      assert_int_equal (engine_flush (&small->engine), 0);
      break;
    case 1:                     /* FUA, of the same set */
      assert_int_equal (try_put (5000, 10, 2, true), 0);
      assert_int_equal (engine_flush (&small->engine), 0);
      break;
    case 2:
      assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                            (struct range) { MIB + 100, 5 },
                                            true), 0);
      assert_int_equal (engine_flush (&small->engine), 0);
      break;
    }
    small->device->hook = NULL;
    assert_true (cuts.images > scaled (10, 3));
    assert_true (reports_have (REPORT_WARNING, "segment 0|refuses"));
    assert_int_equal (reports_count (REPORT_ERROR), 0);
    assert_int_equal (segment_snapshot (&small->engine.segments, 0).state,
                      SEGMENT_SEALED);
    assert_int_equal (segment_snapshot (&small->engine.segments, 0).sets,
                      sets);
    expect_all (small);
    assert_false (is_cached (small, 4 * MIB + 100, 1) && !first
                  && segment_of (small, 4 * MIB + 100) == 0);

    /* P1. */
    for (int i = 0; i < 5; i++) {
      struct small_engine *other =
        small_engine_beside (small, memory_device_crash (small->device,
                                                         &cuts.random));

      small_engine_open (other);
      assert_int_equal (counted (other, STAT_damaged_segments), 0);
      expect_all (other);
      write_back (other);
      expect_on_disk (other, 1000, 100, 3);
      expect_on_disk (other, MIB + 100, MIB, 0);
      expect_on_disk (other, 2 * MIB + 100, 500, 5);
      small_engine_free (other);
    }
    write_back (small);
    expect_on_disk (small, 0, 1000, 2);
    expect_on_disk (small, MIB + 100, MIB, 0);
    while (evict_one (small))
      ;
    expect_all (small);
  }
}

/* A writer that fills the set finds out first. */
static void
a_full_set_that_is_refused_fails_no_write (void **state)
{
  (void) state;
  refuse_sets (0);
  for (unsigned i = 0; i < 3 * SET_MAX_RECORDS; i++)
    if (i % 3 == 0)
      assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                            (struct range) { i * 4096, 4096 },
                                            false), 0);
    else
      put (small, i * 4096, 100, 2);
  assert_int_equal (engine_flush (&small->engine), 0);
  small_engine_kill (small);
  small_engine_open (small);
  for (unsigned i = 0; i < 3 * SET_MAX_RECORDS; i++)
    expect (small, i * 4096, 100, i % 3 == 0 ? 0 : 2);
}

/* When everything refuses it is an error, soon, and reads go on; when that is
 * over, nothing is missing. */
static void
a_device_that_refuses_everything_is_an_error (void **state)
{
  unsigned copies;

  (void) state;
  put (small, 0, 65536, 2);
  small->device->copy_error = -EIO;
  copies = small->device->copies;
  for (int i = 0; i < 3; i++)
    assert_int_equal (engine_flush (&small->engine), -EIO);
  assert_true (small->device->copies - copies < 100);
  expect (small, 0, 65536, 2);
  small->device->copy_error = 0;
  assert_int_equal (engine_flush (&small->engine), 0);
  small_engine_kill (small);
  small_engine_open (small);
  expect (small, 0, 65536, 2);
}

/* What cannot be read can move only as lost (P4). */
static void
what_is_refused_and_unreadable_is_lost (void **state)
{
  uint8_t byte;

  (void) state;
  put (small, 0, 4096, 2);
  put (small, 4096, 4096, 2);
  put (small, 1000, 10, 3);
  rot (small, 0);
  refuse_sets (0);
  assert_int_equal (engine_flush (&small->engine), 0);
  assert_int_equal (counted (small, STAT_lost_bytes), 4086);
  for (int i = 0; i < 2; i++) {
    assert_int_equal (get (small, 0, 1, &byte), -EIO);
    assert_int_equal (get (small, 1010, 1, &byte), -EIO);
    expect (small, 1000, 10, 3);
    expect (small, 4096, 4096, 2);
    small_engine_kill (small);
    small_engine_open (small);
  }
  /* And that is moved as well. */
  assert_true (reports_have (REPORT_ERROR, "0+1000|EIO"));
}

/* Several heads at once: what one refused must not go to where another has
 * refused as well. */
static void
places_of_several_heads_that_refuse_are_left (void **state)
{
  (void) state;
  for (unsigned first = 0; first < 3; first++) {
    tear_down (NULL);
    reports_collect ();
    small = small_engine_new (16, true, DISK);
    small->heads = 3;
    fill_version (small->disk->bytes, 0, DISK, 1);
    small_engine_open (small);
    for (unsigned i = 0; i < 30 + first; i++)
      put (small, i * 65536, 4096, 2);
    small->device->refused = (struct range) {
      segment_start (small->device, 0) + MIB / 2, MIB / 2
    };
    small->device->refused_too = (struct range) {
      segment_start (small->device, 1) + MIB / 2, MIB / 2
    };
    assert_int_equal (engine_flush (&small->engine), 0);
    assert_int_equal (reports_count (REPORT_ERROR), 0);
    small_engine_kill (small);
    small_engine_open (small);
    for (unsigned i = 0; i < 30 + first; i++)
      expect (small, i * 65536, 4096, 2);
  }
}

/* The place to which the records go may refuse a set that becomes full with
 * them. */
static void
records_move_on_from_another_place_that_refuses (void **state)
{
  (void) state;
  tear_down (NULL);
  reports_collect ();
  small = small_engine_new (16, true, DISK);
  small_engine_open (small);
  /* One set, but each record of the first half has become two pieces. */
  for (unsigned i = 0; i < SET_MAX_RECORDS / 2 - 4; i++)
    put (small, i * 4096, 4096, 2);
  for (unsigned i = 0; i < SET_MAX_RECORDS / 2 - 4; i++)
    put (small, i * 4096 + 1000, 100, 3);
  small->device->refused = (struct range) {
    segment_start (small->device, 0) + MIB / 2, MIB / 2
  };
  small->device->refused_too = (struct range) {
    segment_start (small->device, 1) + MIB / 2, MIB / 2
  };
  assert_int_equal (engine_flush (&small->engine), 0);
  assert_true (reports_have (REPORT_WARNING, "segment 1|refuses"));
  small_engine_kill (small);
  small_engine_open (small);
  for (unsigned i = 0; i < SET_MAX_RECORDS / 2 - 4; i++) {
    expect (small, i * 4096, 1000, 2);
    expect (small, i * 4096 + 1000, 100, 3);
    expect (small, i * 4096 + 1100, 2996, 2);
  }
}

/* What mkfs does to a large disk with a small cache, and then its set is
 * refused: a record for each chunk would never find room. */
static void
long_zeros_that_are_refused_take_no_more_room (void **state)
{
  const uint64_t size = UINT64_C (64) << 30, piece = UINT64_C (2) << 30;
  uint64_t sequence;

  (void) state;
  tear_down (NULL);
  reports_collect ();
  small = small_engine_new (4, true, 4096);
  small->disk->backend.size = size;     /* nobody reads it */
  small_engine_open (small);
  for (uint64_t at = 0; at < size; at += piece)
    assert_int_equal (engine_write_zeros (&small->engine, RECORD_TRIM,
                                          (struct range) { at, piece },
                                          false), 0);
  put (small, 5 * MIB, 4096, 2);        /* the first one is now two */
  put (small, piece, 4096, 2);
  sequence = log_sequence (small->engine.log);
  refuse_sets (0);
  assert_int_equal (engine_flush (&small->engine), 0);
  assert_int_equal (log_sequence (small->engine.log) - sequence,
                    size / piece + 1 + 2);
  for (int i = 0; i < 2; i++) {
    for (uint64_t at = 0; at < size; at += piece)
      expect (small, at + piece - 5000, 5000, 0);
    expect (small, 5 * MIB - 5000, 5000, 0);
    expect (small, 5 * MIB, 4096, 2);
    expect (small, 5 * MIB + 4096, 5000, 0);
    expect (small, piece, 4096, 2);
    small_engine_kill (small);
    small_engine_open (small);
  }
}

static void
a_zero_of_any_length_is_one_record (void **state)
{
  const uint64_t huge = UINT64_C (10) << 30;

  (void) state;
  tear_down (NULL);
  small = small_engine_new (16, true, 4096);
  small->disk->backend.size = huge;     /* nobody reads it */
  small_engine_open (small);
  assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                        (struct range) { 0, huge }, true), 0);
  assert_true (log_sequence (small->engine.log) <= 4);
  expect (small, huge - 5000, 5000, 0);
  small_engine_restart (small);
  expect (small, huge / 2 - 1000, 5000, 0);
}

/* T13: four segments, and far more is written than fits. */
static void
a_small_cache_takes_any_amount (void **state)
{
  (void) state;
  for (int full_of = 0; full_of < 3; full_of++) {
    tear_down (NULL);
    reports_collect ();
    small = small_engine_new (4, true, DISK);
    small_engine_open (small);
    for (unsigned round = 1; round < 5; round++)
      for (uint64_t at = 0; at < DISK; at += 16384) {
        switch (full_of) {
        case 0:
          put (small, at, 16384, round);
          break;
        case 1:                 /* of tiny records */
          if (at % MIB < 131072)
            for (uint64_t i = 0; i < 16384; i += 512)
              put (small, at + i, 1, round);
          break;
        case 2:                 /* hot: second chances are wanted */
          put (small, at, 16384, round);
          expect (small, at, 16384, round);
          expect (small, at % MIB, 16384, round);
          break;
        }
      }
    write_back (small);
    if (full_of != 1)
      expect_on_disk (small, 0, DISK, 4);
  }
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (a_write_of_any_place_and_length_is_read_back),
    TEST (the_newest_of_overlapping_writes_wins),
    TEST (a_write_that_fails_leaves_the_old_mapping),
    TEST (a_dead_device_fails_writes_and_changes_nothing),
    TEST (a_store_that_fails_is_made_elsewhere),
    TEST (fua_survives_a_kill_without_a_flush),
    TEST (a_fua_that_cannot_be_kept_is_an_error),
    TEST (a_place_that_refuses_sets_is_left),
    TEST (a_full_set_that_is_refused_fails_no_write),
    TEST (a_device_that_refuses_everything_is_an_error),
    TEST (what_is_refused_and_unreadable_is_lost),
    TEST (places_of_several_heads_that_refuse_are_left),
    TEST (records_move_on_from_another_place_that_refuses),
    TEST (long_zeros_that_are_refused_take_no_more_room),
    TEST (a_zero_of_any_length_is_one_record),
    TEST (a_small_cache_takes_any_amount),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

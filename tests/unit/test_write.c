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

/* T6: the set is full and cannot be closed. */
static void
a_write_that_fails_leaves_the_old_mapping (void **state)
{
  (void) state;
  put (small, 0, 4096, 2);
  for (unsigned i = 1; i < SET_MAX_RECORDS; i++)
    put (small, i * 4096, 1, 2);
  /* The data can be stored, the set cannot. */
  small->device->copies_left = 1;
  assert_int_equal (try_put (0, 4096, 3, false), -EIO);
  expect (small, 0, 4096, 2);
  small->device->copies_left = 0;
  assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                        (struct range) { 0, 4096 }, false),
                    -EIO);
  expect (small, 0, 4096, 2);
  assert_int_equal (small->disk->reads, 0);

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
  small->device->copies_left = 1;
  put (small, 0, 10, 2);
  small->device->copies_left = 1;
  assert_int_equal (try_put (0, 4096, 3, true), -EIO);
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
    TEST (a_zero_of_any_length_is_one_record),
    TEST (a_small_cache_takes_any_amount),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

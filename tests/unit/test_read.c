/* SPDX-License-Identifier: BSD-3-Clause */

/* Reading: what comes from the cache was verified, what comes from the disk
 * is cached unless something newer came, and damage is healed where the disk
 * has the bytes too. */

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
#include "support/reports.h"
#include "support/seed.h"
#include "support/small_engine.h"

#define DISK (64 * MIB)

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

static void
what_was_read_once_is_read_from_the_cache (void **state)
{
  (void) state;
  expect (small, 12345, 300000, 1);
  assert_true (small->disk->reads > 0);
  small->disk->reads = 0;
  expect (small, 12345, 300000, 1);
  expect (small, 100000, 1, 1);
  assert_int_equal (small->disk->reads, 0);
  assert_int_equal (counted (small, STAT_fill_bytes), 300000);
  assert_int_equal (counted (small, STAT_read_miss_bytes), 300000);
  assert_int_equal (counted (small, STAT_read_hit_bytes), 300001);
  assert_false (is_cached (small, 12344, 1));
  assert_false (is_cached (small, 312345, 1));

  /* It is clean: there is nothing to write back, also after a restart. */
  small_engine_restart (small);
  expect (small, 12345, 300000, 1);
  write_back (small);
  assert_int_equal (small->disk->reads + small->disk->writes, 0);
}

static void
only_the_holes_are_read_from_the_disk (void **state)
{
  uint64_t misses = 0;

  (void) state;
  for (uint64_t i = 0; i < 200; i++)
    put (small, i * 8192 + 100, 4096, 2);
  assert_int_equal (get (small, 0, 200 * 8192, buf), 0);
  for (uint64_t i = 0; i < 200; i++) {
    const uint64_t at = i * 8192;

    assert_true (is_version (buf + at, at, 100, 1));
    assert_true (is_version (buf + at + 100, at + 100, 4096, 2));
    assert_true (is_version (buf + at + 4196, at + 4196, 8192 - 4196, 1));
    misses += 4096;
  }
  assert_int_equal (counted (small, STAT_read_miss_bytes), misses);
  assert_true (is_cached (small, 0, 200 * 8192));
}

static void
neighbouring_holes_are_one_request (void **state)
{
  (void) state;
  expect (small, MIB - 1000, MIB, 1);
  assert_int_equal (small->disk->reads, 1);
  small->disk->backend.max_request = MIB;
  expect (small, 8 * MIB, 4 * MIB, 1);
  assert_int_equal (small->disk->reads, 5);
}

/* --- fills and writes ------------------------------------------------- */

static struct range intruder;
static unsigned intrusions;

/* While the disk is being read, somebody writes; and it is so new that the
 * bytes read are already old. */
static void
write_meanwhile (struct memory_backend *mb, enum backend_event event,
                 struct range range, const void *unused, void *opaque)
{
  (void) mb;
  (void) event;
  (void) range;
  (void) unused;
  (void) opaque;
  if (intruder.length > 0) {
    const struct range r = intruder;

    intruder.length = 0;
    put (small, r.start, r.length, 2);
    intrusions++;
  }
}

/* T10 */
static void
a_fill_never_covers_a_newer_write (void **state)
{
  static const struct range writes[] = {
    { 0, 65536 }, { 0, 1 }, { 65535, 1 }, { 30000, 512 }, { 32768, 32768 },
  };

  (void) state;
  for (size_t i = 0; i < sizeof writes / sizeof *writes; i++)
    for (int done = 0; done < 2; done++) {
      const struct range w = writes[i];

      tear_down (NULL);
      set_up (NULL);
      *(done ? &small->disk->read_done : &small->disk->before)
        = write_meanwhile;
      intruder = w;
      assert_int_equal (get (small, 0, 65536, buf), 0);
      assert_int_equal (intruder.length, 0);
      /* What the read gives is the old or the new, but then the new. */
      assert_true (is_version (buf, 0, 65536, 1));
      expect (small, w.start, w.length, 2);
      if (w.start > 0)
        expect (small, 0, w.start, 1);
      assert_int_equal (counted (small, STAT_fills_stale), 1);
      small_engine_restart (small);
      expect (small, w.start, w.length, 2);
    }
}

/* T10: it was written, written back and evicted before the read came
 * back. */
static void
evict_meanwhile (struct memory_backend *mb, enum backend_event event,
                 struct range range, const void *unused, void *opaque)
{
  if (event != BACKEND_READ || intruder.length == 0)
    return;
  write_meanwhile (mb, event, range, unused, opaque);
  seal (small);
  write_back (small);
  while (evict_one (small))
    ;
}

static void
a_fill_is_stale_even_when_the_write_has_left_the_cache (void **state)
{
  (void) state;
  small->disk->read_done = evict_meanwhile;
  intruder = (struct range) { 4096, 4096 };
  assert_int_equal (get (small, 0, 65536, buf), 0);
  small->disk->read_done = NULL;
  assert_int_equal (counted (small, STAT_fills_stale), 1);
  expect (small, 4096, 4096, 2);
  expect (small, 0, 4096, 1);
}

/* A write next to it is none of its business. */
static void
a_write_elsewhere_does_not_spoil_a_fill (void **state)
{
  (void) state;
  small->disk->read_done = write_meanwhile;
  intruder = (struct range) { 65536, 4096 };
  expect (small, 0, 65536, 1);
  assert_int_equal (counted (small, STAT_fills_stale), 0);
  assert_true (is_cached (small, 0, 65536));
}

static void
a_failed_read_caches_nothing (void **state)
{
  (void) state;
  small->disk->read_error = -EIO;
  assert_int_equal (get (small, 0, 300000, buf), -EIO);
  assert_false (is_cached (small, 0, 1));
  assert_int_equal (counted (small, STAT_backing_read_errors), 1);
  /* Cached bytes can still be read. */
  put (small, 5000, 10, 2);
  expect (small, 5000, 10, 2);
  small->disk->read_error = 0;
  expect (small, 0, 5000, 1);
}

static void
a_full_cache_does_not_keep_a_read_from_the_disk (void **state)
{
  (void) state;
  setting_put (&small->engine.settings, SETTING_sequential_cutoff, 0);
  for (uint64_t at = 0; at + 262144 <= 40 * MIB; at += 262144)
    expect (small, at, 262144, 1);
  assert_true (counted (small, STAT_fills_skipped) > 0);
  assert_true (segment_counts (&small->engine.segments).free
               >= log_kept_for_writes (small->engine.log));
  assert_int_equal (counted (small, STAT_space_waits), 0);
  expect (small, 50 * MIB, MIB, 1);
}

/* A fill that cannot be stored is not mapped. */
static void
a_fill_that_fails_is_only_a_fill (void **state)
{
  (void) state;
  expect (small, MIB, 10, 1);
  small->device->copy_error = -EIO;
  expect (small, 0, 65536, 1);
  small->device->copy_error = 0;
  assert_false (is_cached (small, 0, 1));
  expect (small, 0, 65536, 1);
}

/* --- verification ----------------------------------------------------- */

/* T19: every read, of any part of the record. */
static void
every_read_verifies_what_it_gives (void **state)
{
  static const struct range reads[] = {
    { 0, 65536 }, { 0, 1 }, { 65535, 1 }, { 1000, 20 }, { 40000, 25536 },
  };

  (void) state;
  for (size_t i = 0; i < sizeof reads / sizeof *reads; i++) {
    put (small, 0, 65536, 2);
    expect (small, reads[i].start, reads[i].length, 2);
    rot (small, 40001);
    assert_int_equal (get (small, reads[i].start, reads[i].length, buf), -EIO);
    assert_int_equal (counted (small, STAT_checksum_errors), i + 1);
  }
  /* A piece of a record that was overwritten around it. */
  put (small, 0, 65536, 2);
  put (small, 1000, 100, 3);
  put (small, 2000, 100, 3);
  rot (small, 60000);
  assert_int_equal (get (small, 1500, 10, buf), -EIO);
  expect (small, 1000, 100, 3);
}

static void
without_checksums_nothing_is_verified (void **state)
{
  (void) state;
  small_engine_kill (small);
  small->engine.options.data_crc = false;
  small_engine_open (small);
  put (small, 0, 4096, 2);
  rot (small, 0);
  assert_int_equal (get (small, 0, 4096, buf), 0);
  assert_int_equal (counted (small, STAT_checksum_errors), 0);
}

/* P4 */
static void
damaged_clean_data_is_read_again_from_the_disk (void **state)
{
  (void) state;
  /* Clean because it was a fill, because it was written back, or because it
   * was written back and its segment is sealed; known from the open set, from
   * the set on media, or from the header. */
  for (int how = 0; how < 5; how++)
    for (int media_error = 0; media_error < 2; media_error++) {
      struct extent extent;

      tear_down (NULL);
      set_up (NULL);
      if (how < 2)
        expect (small, 0, 65536, 1);
      else
        put (small, 0, 65536, 1);
      if (how > 0)
        flush (small);
      if (how >= 2)
        write_back (small);
      if (how == 3)
        seal (small);
      if (how == 4)
        small_engine_restart (small);
      if (media_error) {
        extent = extent_at (small, 100);
        small->device->bad_at = extent.record_at + extent.delta;
        small->device->bad_length = 1;
      }
      else
        rot (small, 100);
      expect (small, 50, 1000, 1);
      assert_true (counted (small, STAT_healed_bytes) >= 1000);
      assert_int_equal (counted (small, media_error ? STAT_media_errors
                                 : STAT_checksum_errors), 1);
      assert_int_equal (counted (small, STAT_lost_bytes), 0);
      assert_int_equal (reports_count (REPORT_ERROR), 0);
      small->device->bad_length = 0;
      /* And cached again. */
      small->disk->reads = 0;
      expect (small, 50, 1000, 1);
      assert_int_equal (small->disk->reads, 0);
    }
}

/* P4: and only that. */
static void
damaged_dirty_data_is_eio_for_exactly_its_range (void **state)
{
  (void) state;
  for (int restart = 0; restart < 2; restart++) {
    tear_down (NULL);
    set_up (NULL);
    put (small, 0, 4096, 2);
    put (small, 4096, 4096, 2);
    put (small, 8192, 4096, 2);
    rot (small, 4096);
    if (restart)
      small_engine_restart (small);
    assert_int_equal (get (small, 4096, 4096, buf), -EIO);
    assert_int_equal (get (small, 0, 12288, buf), -EIO);
    assert_int_equal (get (small, 8191, 1, buf), -EIO);
    expect (small, 0, 4096, 2);
    expect (small, 8192, 4096, 2);
    /* Nobody has given it up yet. */
    assert_int_equal (counted (small, STAT_lost_bytes), 0);
    assert_true (reports_have (REPORT_ERROR, "dirty data at 4096+4096|EIO"));

    /* Until it is overwritten. */
    put (small, 4096, 4000, 3);
    expect (small, 4096, 4000, 3);
    assert_int_equal (get (small, 8096, 96, buf), -EIO);
    assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                          (struct range) { 8096, 96 }, false),
                      0);
    expect (small, 8096, 96, 0);
  }
}

/* Many pieces, some damaged: more than fit in one look. */
static void
any_number_of_pieces_is_healed (void **state)
{
  (void) state;
  for (uint64_t i = 0; i < 300; i++)
    put (small, i * 512, 512, i % 200 + 1);
  write_back (small);
  for (uint64_t i = 0; i < 300; i++)
    if (i % 3 > 0)
      rot (small, i * 512);
  assert_int_equal (get (small, 0, 300 * 512, buf), 0);
  for (uint64_t i = 0; i < 300; i++)
    assert_true (is_version (buf + i * 512, i * 512, 512, i % 200 + 1));
  assert_int_equal (counted (small, STAT_healed_bytes), 200 * 512);
}

/* --- zeros, maps ------------------------------------------------------ */

static void
a_zero_reads_as_zeros_and_maps_as_one (void **state)
{
  enum map_kind kind;
  uint64_t length;

  (void) state;
  assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                        (struct range) { 1000, 40 * MIB },
                                        false), 0);
  put (small, 30 * MIB, 512, 2);
  expect (small, 1000, MIB, 0);
  expect (small, 20 * MIB - 5, 10, 0);
  assert_int_equal (small->disk->reads, 0);
  engine_map (&small->engine, (struct range) { 0, DISK }, &kind, &length);
  assert_int_equal (kind, MAP_HOLE);
  assert_int_equal (length, 1000);
  engine_map (&small->engine, (struct range) { 1000, DISK - 1000 }, &kind,
              &length);
  assert_int_equal (kind, MAP_ZERO);
  assert_int_equal (length, 30 * MIB - 1000);
  engine_map (&small->engine, (struct range) { 30 * MIB, DISK / 4 }, &kind,
              &length);
  assert_int_equal (kind, MAP_DATA);
  assert_int_equal (length, 512);
}

static void
a_prefetch_fills_the_cache (void **state)
{
  (void) state;
  assert_int_equal (engine_prefetch (&small->engine, (struct range)
                                     { 5000, 3 * MIB }), 0);
  small->disk->reads = 0;
  expect (small, 5000, 3 * MIB, 1);
  assert_int_equal (small->disk->reads, 0);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (what_was_read_once_is_read_from_the_cache),
    TEST (only_the_holes_are_read_from_the_disk),
    TEST (neighbouring_holes_are_one_request),
    TEST (a_fill_never_covers_a_newer_write),
    TEST (a_fill_is_stale_even_when_the_write_has_left_the_cache),
    TEST (a_write_elsewhere_does_not_spoil_a_fill),
    TEST (a_failed_read_caches_nothing),
    TEST (a_full_cache_does_not_keep_a_read_from_the_disk),
    TEST (a_fill_that_fails_is_only_a_fill),
    TEST (every_read_verifies_what_it_gives),
    TEST (without_checksums_nothing_is_verified),
    TEST (damaged_clean_data_is_read_again_from_the_disk),
    TEST (damaged_dirty_data_is_eio_for_exactly_its_range),
    TEST (any_number_of_pieces_is_healed),
    TEST (a_zero_reads_as_zeros_and_maps_as_one),
    TEST (a_prefetch_fills_the_cache),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

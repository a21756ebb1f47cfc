/* SPDX-License-Identifier: BSD-3-Clause */

/* Eviction: space comes back, and no crash in the middle of it brings back
 * what was overwritten, nor loses what was not. */

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

#include "engine/engine.h"
#include "engine/gc.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"
#include "support/small_engine.h"

#define DISK (UINT64_C (5) * MIB)
#define BLOCK UINT64_C (4096)

static struct small_engine *small;

static int
set_up (void **state)
{
  (void) state;
  reports_collect ();
  small = small_engine_new (8, true, DISK);
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

static void
expect_block (uint64_t n, unsigned version)
{
  expect (small, n * BLOCK, BLOCK, version);
}

/* --- crashes in the middle -------------------------------------------- */

struct eviction {
  struct small_engine *of;
  uint64_t random;
  unsigned images;
  void (*look) (struct small_engine *after_crash);
};

/* At every store, fence and sync: what the power cut leaves, opened again. */
static void
cut_the_power (struct memory_device *d, enum memory_event event, uint64_t at,
               size_t length, void *opaque)
{
  struct eviction *eviction = opaque;

  (void) event;
  (void) at;
  (void) length;
  for (uint64_t i = scaled (3, 1); i > 0; i--) {
    struct small_engine *other =
      small_engine_beside (eviction->of,
                           memory_device_crash (d, &eviction->random));

    small_engine_open (other);
    eviction->look (other);
    small_engine_free (other);
    eviction->images++;
  }
}

static void
evict_under_power_cuts (void (*look) (struct small_engine *))
{
  struct eviction eviction = {
    .of = small, .random = seed, .look = look,
  };

  small->device->hook = cut_the_power;
  small->device->opaque = &eviction;
  assert_true (evict_one (small));
  small->device->hook = NULL;
  cut_the_power (small->device, MEMORY_SYNCED, 0, 0, &eviction);
  assert_true (eviction.images > scaled (20, 6));
}

static void
expect_version_3 (struct small_engine *other)
{
  expect (other, 7 * BLOCK, BLOCK, 3);
}

/* T4, T5: the newest copy of a block is evicted; older ones lie in segments
 * that stay. */
static void
an_older_copy_never_comes_back (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++)
    for (int reused = 0; reused < 2; reused++) {
      tear_down (NULL);
      reports_collect ();
      small = small_engine_new (8, ordered, DISK);
      small_engine_open (small);
      /* Version 2 is in segment 0, version 3 in segment 1; 1 is evicted first
       * because 0 still has something dirty. */
      put_block (7, 2);
      seal (small);
      put_block (7, 3);
      seal (small);
      write_back (small);
      {
        struct segment *first = &small->engine.segments.segments[0];

        first->epoch_max = UINT64_MAX / 4;
      }
      memory_device_track (small->device, seed);
      evict_under_power_cuts (expect_version_3);
      assert_int_equal (segment_snapshot (&small->engine.segments, 1).state,
                        SEGMENT_FREE);
      if (reused) {
        /* T4: and the space is used for something else. */
        for (unsigned i = 0; i < 1000; i++)
          put_block (100 + i, 9);
        flush (small);
        small_engine_use (small, memory_device_crash (small->device, &seed));
        small_engine_open (small);
        expect_version_3 (small);
      }
    }
}

/* T22: all of the evicted segment was superseded, by what is in DRAM only:
 * after a crash that is gone, and the disk has what was evicted. */
static void
a_dead_segment_takes_its_past_with_it (void **state)
{
  (void) state;
  put_block (7, 2);
  seal (small);
  put_block (7, 3);
  seal (small);
  write_back (small);
  small->engine.segments.segments[0].epoch_max = UINT64_MAX / 4;
  put_block (7, 4);             /* not flushed */
  memory_device_track (small->device, seed);
  evict_under_power_cuts (expect_version_3);
  expect_block (7, 4);
}

/* T21: the evicted segment has higher sequence numbers than a dirty record
 * that another head took. */
static void
eviction_never_costs_a_dirty_record (void **state)
{
  uint32_t clean_segment;

  (void) state;
  tear_down (NULL);
  reports_collect ();
  small = small_engine_new (24, true, DISK);
  small->heads = 2;
  small_engine_open (small);
  put_block (1, 5);             /* head 0: lower numbers */
  put_block (2, 5);             /* head 1 */
  clean_segment = segment_of (small, 2 * BLOCK);
  assert_int_not_equal (segment_of (small, BLOCK), clean_segment);
  seal (small);
  /* Head 1's records are said to be clean already; head 0's are not. */
  for (uint32_t id = 0; id < 24; id++)
    if (id != clean_segment)
      small->engine.segments.segments[id].epoch_max = UINT64_MAX / 4;
  small->engine.segments.segments[clean_segment].epoch_max = 0;
  memcpy (small->disk->bytes + 2 * BLOCK,
          small->device->bytes + extent_at (small, 2 * BLOCK).record_at,
          BLOCK);
  assert_true (evict_one (small));
  assert_true (control_get (&small->engine.superblock).tail_sequence
               > 0);
  small_engine_kill (small);
  small_engine_open (small);
  expect_block (1, 5);
  assert_int_equal (small->disk->reads, 0);
  write_back (small);
  expect_on_disk (small, BLOCK, BLOCK, 5);
}

static void
dirty_segments_are_not_evicted (void **state)
{
  (void) state;
  for (unsigned i = 0; i < 5; i++) {
    put_block (i, 2);
    seal (small);
  }
  assert_false (evict_one (small));
  write_back (small);
  for (unsigned i = 0; i < 5; i++) {
    assert_true (is_cached (small, i * BLOCK, BLOCK));
    assert_true (evict_one (small));
    assert_false (is_cached (small, i * BLOCK, BLOCK));
  }
  assert_false (evict_one (small));
  assert_int_equal (segment_counts (&small->engine.segments).free, 8);
  for (unsigned i = 0; i < 5; i++)
    expect_block (i, 2);
}

static void
an_eviction_that_fails_leaves_the_segment_in_use (void **state)
{
  bool worked;

  (void) state;
  put_block (1, 2);
  seal (small);
  write_back (small);
  setting_put (&small->engine.settings, SETTING_gc_percent, 0);
  /* The tail, on either side. */
  small->device->refused = (struct range) { CONTROL_AT (0), MEDIA_PAGE };
  small->device->refused_too = (struct range) { CONTROL_AT (1), MEDIA_PAGE };
  assert_int_equal (gc_step (&small->engine, &worked), -EIO);
  small->device->refused.length = small->device->refused_too.length = 0;
  assert_int_equal (segment_snapshot (&small->engine.segments, 0).state,
                    SEGMENT_SEALED);
  expect_block (1, 2);
  assert_int_equal (control_get (&small->engine.superblock).tail_sequence, 0);
  setting_put (&small->engine.settings, SETTING_gc_percent, 70);
  assert_true (evict_one (small));
  expect_block (1, 2);
}

/* --- second chances --------------------------------------------------- */

static void
what_was_hit_stays_and_the_rest_goes (void **state)
{
  (void) state;
  for (unsigned i = 0; i < 10; i++)
    put_block (i, 2);
  seal (small);
  write_back (small);
  expect_block (3, 2);
  expect (small, 7 * BLOCK + 100, 5, 2);
  put (small, 7 * BLOCK + 2000, 10, 3);
  assert_true (evict_one (small));
  small->disk->reads = 0;
  expect_block (3, 2);
  expect (small, 7 * BLOCK, 100, 2);
  expect (small, 7 * BLOCK + 2000, 10, 3);
  expect (small, 7 * BLOCK + 2010, 1000, 2);
  assert_int_equal (small->disk->reads, 0);
  for (unsigned i = 0; i < 10; i++)
    if (i != 3 && i != 7)
      assert_false (is_cached (small, i * BLOCK, 1));

  /* Clean copies: nothing to write back, and there after a restart. */
  small->disk->writes = 0;
  small_engine_restart (small);
  expect_block (3, 2);
  assert_int_equal (small->disk->reads, 0);
  write_back (small);
  assert_int_equal (small->disk->writes, 1);    /* the ten bytes */
}

static void
a_segment_full_of_hits_gives_back_half_of_itself (void **state)
{
  (void) state;
  for (unsigned i = 0; i < 240; i++)
    put_block (i, 2);
  seal (small);
  write_back (small);
  for (unsigned i = 0; i < 240; i++)
    expect_block (i, 2);
  assert_true (evict_one (small));
  assert_true (counted (small, STAT_relocated_records) >= 100);
  assert_true (counted (small, STAT_relocated_records) <= 128);
  for (unsigned i = 0; i < 240; i++)
    expect_block (i, 2);
}

/* Damaged bytes do not get a new checksum. */
static void
damaged_data_gets_no_second_chance (void **state)
{
  (void) state;
  put_block (1, 2);
  seal (small);
  write_back (small);
  expect_block (1, 2);
  rot (small, BLOCK);
  assert_true (evict_one (small));
  assert_false (is_cached (small, BLOCK, 1));
  expect_block (1, 2);
}

static void
a_damaged_set_does_not_pin_its_segment (void **state)
{
  (void) state;
  for (unsigned i = 0; i < 10; i++) {
    put_block (i, 2);
    flush (small);
  }
  seal (small);
  write_back (small);
  set_on (small->device, 0, 4)->epoch.raw ^= 1;
  assert_true (evict_one (small));
  assert_true (reports_have (REPORT_WARNING, "segment 0|damaged"));
  for (unsigned i = 0; i < 10; i++) {
    assert_false (is_cached (small, i * BLOCK, 1));
    expect_block (i, 2);
  }
}

/* --- lost data (P4) --------------------------------------------------- */

static void
expect_lost (struct small_engine *e, uint64_t n)
{
  uint8_t buf[BLOCK];

  assert_int_equal (get (e, n * BLOCK, BLOCK, buf), -EIO);
}

static void
expect_block_7_lost (struct small_engine *other)
{
  expect_lost (other, 7);
}

/* Block 7's newest bytes are gone, for good; the disk has older ones. */
static void
lose_block_7 (void)
{
  put_block (7, 2);
  rot (small, 7 * BLOCK);
  write_back (small);
  expect_lost (small, 7);
  expect_on_disk (small, 7 * BLOCK, BLOCK, 1);
  flush (small);
}

static void
what_is_lost_stays_lost_through_evictions (void **state)
{
  (void) state;
  lose_block_7 ();
  for (int i = 0; i < 10; i++) {
    put_block (100 + i, 2);
    seal (small);
    write_back (small);
    while (evict_one (small))
      ;
    expect_lost (small, 7);
    small_engine_restart (small);
    expect_lost (small, 7);
  }
  expect_on_disk (small, 7 * BLOCK, BLOCK, 1);
  put (small, 7 * BLOCK, 100, 3);
  expect (small, 7 * BLOCK, 100, 3);
  put_block (7, 3);
  seal (small);
  write_back (small);
  while (evict_one (small))
    ;
  small_engine_restart (small);
  expect_block (7, 3);
}

/* The record that takes over from the evicted one is durable first. */
static void
no_crash_makes_lost_data_look_clean (void **state)
{
  (void) state;
  lose_block_7 ();
  seal (small);
  memory_device_track (small->device, seed);
  evict_under_power_cuts (expect_block_7_lost);
  if (evict_one (small))
    cut_the_power (small->device, MEMORY_SYNCED, 0, 0,
                   &(struct eviction) { .of = small, .random = seed,
                                        .look = expect_block_7_lost });
}

/* The segment whose sets have a record of KIND. */
static uint32_t
segment_with (enum record_kind kind)
{
  for (uint32_t id = 0; id < small->engine.superblock.geometry.segment_count;
       id++)
    for (uint32_t i = 0; i < sets_on (small->device, id); i++) {
      struct media_set *set = set_on (small->device, id, i);

      for (uint32_t j = 0; j < le32_get (set->records); j++)
        if (record_in (set, j)->kind == kind)
          return id;
    }
  fail_msg ("no such record");
  return 0;
}

/* The tail moves past it with the eviction of another head's segment. */
static void
the_tail_does_not_make_lost_data_look_clean (void **state)
{
  uint32_t pinned;

  (void) state;
  tear_down (NULL);
  reports_collect ();
  small = small_engine_new (24, true, DISK);
  fill_version (small->disk->bytes, 0, DISK, 1);
  small->heads = 2;
  small_engine_open (small);
  lose_block_7 ();
  for (unsigned i = 0; i < 100; i++)
    put_block (100 + i, 2);
  write_back (small);
  seal (small);
  pinned = segment_with (RECORD_LOST);
  small->engine.segments.segments[pinned].epoch_max = UINT64_MAX / 4;
  while (evict_one (small))
    ;
  assert_int_equal (segment_snapshot (&small->engine.segments, pinned).state,
                    SEGMENT_SEALED);
  assert_true (counted (small, STAT_evicted_segments) > 0);
  for (int i = 0; i < 3; i++) {
    expect_lost (small, 7);
    flush (small);
    small_engine_kill (small);
    small_engine_open (small);
  }
  expect_lost (small, 7);

  /* And when it was overwritten, and that is evicted, it is over. */
  put_block (7, 3);
  write_back (small);
  seal (small);
  small->engine.segments.segments[pinned].epoch_max = UINT64_MAX / 4;
  while (evict_one (small))
    ;
  expect_block (7, 3);
  small_engine_kill (small);
  small_engine_open (small);
  expect_block (7, 3);
}

/* T22 once more: the record that says "lost" goes, and what overwrote the range is
 * in DRAM only.  A crash must not leave what the backing store has. */
static void
what_overwrote_lost_data_is_durable_before_the_tail (void **state)
{
  (void) state;
  lose_block_7 ();
  seal (small);
  put_block (7, 3);
  while (evict_one (small))
    ;
  assert_true (counted (small, STAT_evicted_segments) > 0);
  small_engine_kill (small);
  small_engine_open (small);
  expect_block (7, 3);
}

/* Nothing finds room but what says again that block 7 is lost. */
static void
fill_the_log (void)
{
  struct reservation res;

  for (uint32_t bytes = LOG_MAX_RESERVE; bytes >= 64; bytes /= 2)
    while (log_reserve (small->engine.log, LOG_WRITE, bytes, 1, &res) == 0)
      log_release (small->engine.log, &res);
  assert_int_equal (segment_counts (&small->engine.segments).free, 1);
}

static void
lost_data_can_be_evicted_from_a_full_cache (void **state)
{
  uint32_t lost;

  (void) state;
  lose_block_7 ();
  seal (small);
  lost = segment_with (RECORD_LOST);
  memory_device_track (small->device, seed);
  fill_the_log ();
  seal (small);
  /* The others are as good as dirty. */
  for (uint32_t id = 0; id < 8; id++)
    if (id != lost)
      small->engine.segments.segments[id].epoch_max = UINT64_MAX / 4;
  evict_under_power_cuts (expect_block_7_lost);
  while (evict_one (small))
    expect_lost (small, 7);
  small_engine_kill (small);
  small_engine_open (small);
  expect_lost (small, 7);
}

/* The first segment in the list would need room for what is lost, and there is
 * none; others do not. */
static void
what_needs_no_room_is_evicted_first (void **state)
{
  static struct reservation res[MIB / SET_BYTES (1) + 1];
  unsigned count = 0;
  uint32_t lost;
  bool worked;

  (void) state;
  put_block (1, 2);
  write_back (small);
  seal (small);
  lose_block_7 ();
  seal (small);
  lost = segment_with (RECORD_LOST);
  while (small->engine.segments.sealed.first->id != lost)
    segment_postpone (&small->engine.segments,
                      small->engine.segments.sealed.first);
  fill_the_log ();
  while (log_reserve (small->engine.log, LOG_LOST, 0, 1, &res[count]) == 0)
    count++;
  assert_int_equal (segment_counts (&small->engine.segments).free, 0);

  assert_int_equal (gc_step (&small->engine, &worked), 0);
  assert_int_equal (segment_snapshot (&small->engine.segments, 0).state,
                    SEGMENT_FREE);
  assert_int_equal (segment_snapshot (&small->engine.segments, lost).state,
                    SEGMENT_SEALED);
  /* And that makes room for the other. */
  while (evict_one (small))
    ;
  assert_int_equal (segment_snapshot (&small->engine.segments, lost).state,
                    SEGMENT_FREE);
  while (count > 0)
    log_release (small->engine.log, &res[--count]);
  expect_lost (small, 7);
  small_engine_kill (small);
  small_engine_open (small);
  expect_lost (small, 7);
  expect_block (1, 2);
}

/* --- readers ---------------------------------------------------------- */

static _Atomic bool stop_reading;

static void *
keep_reading (void *opaque)
{
  uint64_t random = (uintptr_t) opaque + seed;
  uint8_t *buf = malloc (65536);

  while (!stop_reading) {
    const uint64_t start = random_below (&random, 4 * MIB - 65536);
    const uint64_t length = 1 + random_below (&random, 65536);
    int r = engine_read (&small->engine, buf,
                         (struct range) { start, length });

    assert (r == 0);
    assert (is_version (buf, start, length, 1));
    (void) r;
  }
  free (buf);
  return NULL;
}

/* T4: a segment is not reused while someone still copies from it.  Without
 * checksums nothing else would notice. */
static void
readers_never_see_a_reused_segment (void **state)
{
  pthread_t thread[3];
  bool worked;

  (void) state;
  tear_down (NULL);
  small = small_engine_new (8, true, 16 * MIB);
  fill_version (small->disk->bytes, 0, 16 * MIB, 1);
  small->engine.options.data_crc = false;
  small_engine_open (small);
  stop_reading = false;
  for (uintptr_t i = 0; i < 3; i++)
    pthread_create (&thread[i], NULL, keep_reading, (void *) i);
  setting_put (&small->engine.settings, SETTING_gc_percent, 30);
  for (unsigned i = 0; i < 600; i++) {
    assert_int_equal (gc_step (&small->engine, &worked), 0);
    /* Other content on the same device. */
    put (small, 8 * MIB + i % 64 * 65536, 65536, 2);
    if (i % 8 == 0)
      write_back (small);
  }
  stop_reading = true;
  for (int i = 0; i < 3; i++)
    pthread_join (thread[i], NULL);
  assert_true (counted (small, STAT_evicted_segments) > 20);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (an_older_copy_never_comes_back),
    TEST (a_dead_segment_takes_its_past_with_it),
    TEST (eviction_never_costs_a_dirty_record),
    TEST (dirty_segments_are_not_evicted),
    TEST (an_eviction_that_fails_leaves_the_segment_in_use),
    TEST (what_was_hit_stays_and_the_rest_goes),
    TEST (a_segment_full_of_hits_gives_back_half_of_itself),
    TEST (damaged_data_gets_no_second_chance),
    TEST (a_damaged_set_does_not_pin_its_segment),
    TEST (what_is_lost_stays_lost_through_evictions),
    TEST (no_crash_makes_lost_data_look_clean),
    TEST (the_tail_does_not_make_lost_data_look_clean),
    TEST (what_overwrote_lost_data_is_durable_before_the_tail),
    TEST (lost_data_can_be_evicted_from_a_full_cache),
    TEST (what_needs_no_room_is_evicted_first),
    TEST (readers_never_see_a_reused_segment),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* What is let into the cache, and what is kept: eviction by each policy,
 * sequential reads that pass by, units that are read around a miss. */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/gc.h"
#include "support/reports.h"
#include "support/seed.h"
#include "support/small_engine.h"

#define SEGMENTS 16
#define DISK (64 * MIB - 1000)
#define BLOCK (4 * KIB)

static struct small_engine *small;

static int
set_up (void **state)
{
  (void) state;
  reports_collect ();
  small = small_engine_new (SEGMENTS, true, DISK);
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
set (enum setting which, uint64_t value)
{
  assert_true (setting_allows (which, value));
  setting_put (&small->engine.settings, which, value);
}

/* As the thread would. */
static unsigned
evict_what_is_wanted (void)
{
  bool worked = true;
  unsigned steps = 0;

  while (worked) {
    assert_int_equal (gc_step (&small->engine, &worked), 0);
    steps += worked;
    assert_true (steps < 10 * SEGMENTS);
  }
  return steps;
}

static void
read_blocks (uint64_t from, uint64_t count)
{
  for (uint64_t n = from; n < from + count; n++) {
    expect (small, n * BLOCK, BLOCK, 1);
    evict_what_is_wanted ();
  }
}

/* Blocks of the last quarter of the disk, backwards, until the cache has begun to
 * evict. */
static void
fill_the_cache (void)
{
  uint64_t n = DISK / BLOCK;

  while (counted (small, STAT_evicted_segments) < 2) {
    assert_int_equal (engine_prefetch (&small->engine, (struct range)
                                       { --n * BLOCK, BLOCK }), 0);
    evict_what_is_wanted ();
  }
  assert_true (n * BLOCK > DISK - 16 * MIB);
}

static uint64_t
cached_blocks (uint64_t from, uint64_t count)
{
  uint64_t cached = 0;

  for (uint64_t n = from; n < from + count; n++)
    cached += is_cached (small, n * BLOCK, BLOCK);
  return cached;
}

/* --- eviction --------------------------------------------------------- */

static void
a_hit_is_a_second_chance_but_not_with_fifo (void **state)
{
  (void) state;
  for (uint64_t policy = EVICTION_CLOCK; policy <= EVICTION_FIFO; policy++) {
    const uint64_t before = counted (small, STAT_relocated_bytes);

    set (SETTING_eviction, policy);
    read_blocks (0, 100);
    read_blocks (10, 5);
    seal (small);
    while (evict_one (small))
      ;
    if (policy == EVICTION_FIFO) {
      assert_int_equal (counted (small, STAT_relocated_bytes), before);
      assert_int_equal (cached_blocks (0, 100), 0);
    }
    else {
      assert_int_equal (counted (small, STAT_relocated_bytes),
                        before + 5 * BLOCK);
      assert_int_equal (cached_blocks (0, 100), 5);
      /* Nobody asked again: it does not get a third one. */
      seal (small);
      while (evict_one (small))
        ;
      assert_int_equal (cached_blocks (0, 100), 0);
    }
  }
}

/* Each segment that is evicted gives back half of itself at least. */
static void
eviction_ends_although_everything_is_hot (void **state)
{
  static const uint64_t policies[] = { EVICTION_CLOCK, EVICTION_GHOST };

  (void) state;
  for (unsigned i = 0; i < 2; i++) {
    uint64_t blocks = 0;

    set (SETTING_eviction, policies[i]);
    set (SETTING_gc_percent, CACHE_MAX_GC_PERCENT);
    while (!gc_wanted (&small->engine)) {
      assert_int_equal (engine_prefetch (&small->engine, (struct range)
                                         { blocks * BLOCK, BLOCK }), 0);
      blocks++;
    }
    for (unsigned turn = 0; turn < 3; turn++) {
      for (uint64_t n = 0; n < blocks; n++)
        if (is_cached (small, n * BLOCK, BLOCK))
          expect (small, n * BLOCK, BLOCK, 1);
      seal (small);
      set (SETTING_gc_percent, 80 - 20 * turn);
      assert_true (gc_wanted (&small->engine));
      assert_in_range (evict_what_is_wanted (), 1, 2 * SEGMENTS);
      assert_false (gc_wanted (&small->engine));
      assert_true (cached_blocks (0, blocks) > 0);
    }
    set (SETTING_gc_percent, 0);
    evict_what_is_wanted ();
  }
}

static void
a_ghost_lets_in_what_was_missed_twice (void **state)
{
  (void) state;
  set (SETTING_eviction, EVICTION_GHOST);
  fill_the_cache ();
  assert_int_equal (counted (small, STAT_ghost_miss_bytes), 0);

  read_blocks (0, 100);
  assert_in_range (cached_blocks (0, 100), 0, 20);
  read_blocks (0, 100);
  assert_int_equal (cached_blocks (0, 100), 100);
  small->disk->reads = 0;
  read_blocks (0, 100);
  assert_int_equal (small->disk->reads, 0);
  assert_in_range (counted (small, STAT_ghost_miss_bytes), 80 * BLOCK,
                   100 * BLOCK);
  assert_in_range (counted (small, STAT_ghost_hit_bytes), 100 * BLOCK,
                   120 * BLOCK);

  /* What is written, and what is asked for, needs no introduction. */
  put (small, 4 * MIB, BLOCK, 2);
  assert_true (is_cached (small, 4 * MIB, BLOCK));
  assert_int_equal (engine_prefetch (&small->engine, (struct range)
                                     { 5 * MIB, 64 * KIB }), 0);
  assert_true (is_cached (small, 5 * MIB, 64 * KIB));
}

static void
a_ghost_remembers_as_much_as_the_cache_holds (void **state)
{
  const uint64_t granules = 4096;
  uint64_t at, remembered = 0, invented = 0;
  struct ghost ghost;

  (void) state;
  assert_int_equal (ghost_init (&ghost, granules * GHOST_GRANULE), 0);
  for (uint64_t n = 0; n < 100 * granules; n++) {
    at = (seed + n * 3) % (UINT64_C (1) << 40);
    invented += ghost_recall (&ghost, (struct range)
                              { at * GHOST_GRANULE, GHOST_GRANULE });
  }
  /* Eight marks a word, of 255. */
  assert_in_range (invented, 0, 100 * granules / 20);
  for (uint64_t n = 99 * granules + granules / 2; n < 100 * granules; n++) {
    at = (seed + n * 3) % (UINT64_C (1) << 40);
    remembered += ghost_recall (&ghost, (struct range)
                                { at * GHOST_GRANULE, GHOST_GRANULE });
  }
  assert_in_range (remembered, granules / 2 * 8 / 10, granules / 2);

  /* A range counts by its larger part; recalling it forgets it. */
  const struct range range = { 0, 64 * KIB }, wider = { 0, 128 * KIB };

  memset (ghost.words, 0, ghost.count * sizeof *ghost.words);
  assert_false (ghost_recall (&ghost, range));
  assert_true (ghost_recall (&ghost, wider));
  assert_false (ghost_recall (&ghost, wider));
  assert_true (ghost_recall (&ghost, (struct range) { 100 * KIB, 1 }));
  ghost_destroy (&ghost);
}

/* --- sequential reads ------------------------------------------------- */

static void
long_sequential_reads_pass_by_a_full_cache (void **state)
{
  const uint64_t cutoff = MIB, blocks = 24 * MIB / BLOCK;
  uint64_t hits;

  (void) state;
  set (SETTING_sequential_cutoff, cutoff);
  fill_the_cache ();
  read_blocks (0, blocks);
  assert_in_range (cached_blocks (0, blocks), cutoff / BLOCK - 1,
                   cutoff / BLOCK + 1);
  assert_in_range (counted (small, STAT_sequential_bytes),
                   24 * MIB - cutoff - BLOCK, 24 * MIB);

  /* Large requests too; what is cached is served from there. */
  put (small, 20 * MIB, 10000, 2);
  put (small, 20 * MIB, 10000, 1);
  hits = counted (small, STAT_read_hit_bytes);
  small->disk->reads = 0;
  for (uint64_t at = 2 * MIB; at < 24 * MIB; at += 128 * KIB)
    expect (small, at, 128 * KIB, 1);
  assert_int_equal (counted (small, STAT_read_hit_bytes) - hits, 10000);
  assert_int_equal (small->disk->reads, 22 * 8);
  assert_false (is_cached (small, 23 * MIB, 1));

  /* Switched off while it runs. */
  set (SETTING_sequential_cutoff, 0);
  expect (small, 30 * MIB, 128 * KIB, 1);
  expect (small, 30 * MIB + 128 * KIB, 128 * KIB, 1);
  assert_true (is_cached (small, 30 * MIB, 256 * KIB));
}

static void
a_cache_with_room_keeps_sequential_reads (void **state)
{
  (void) state;
  set (SETTING_sequential_cutoff, 64 * KIB);
  for (uint64_t at = 0; at < 8 * MIB; at += 128 * KIB)
    expect (small, at, 128 * KIB, 1);
  assert_true (is_cached (small, 0, 8 * MIB));
  assert_int_equal (counted (small, STAT_sequential_bytes), 0);
}

static void
a_prefetch_never_passes_by (void **state)
{
  (void) state;
  set (SETTING_sequential_cutoff, 64 * KIB);
  fill_the_cache ();
  for (uint64_t at = 0; at < 2 * MIB; at += 128 * KIB) {
    assert_int_equal (engine_prefetch (&small->engine, (struct range)
                                       { at, 128 * KIB }), 0);
    evict_what_is_wanted ();
  }
  assert_true (is_cached (small, 0, 2 * MIB));
}

static uint64_t
note (struct streams *streams, uint64_t start, uint64_t length)
{
  return streams_note (streams, (struct range) { start, length });
}

static void
streams_may_be_many_and_out_of_order (void **state)
{
  const uint64_t each = 256 * KIB;
  uint64_t random = seed, longest[8] = { 0 };
  struct streams streams;

  (void) state;
  streams_init (&streams);
  /* Eight at once, each with requests that were shuffled by eights, and random
   * reads between them. */
  for (uint64_t turn = 0; turn < 8; turn++) {
    uint64_t order[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };

    for (unsigned i = 8; i > 1; i--) {
      const unsigned j = random_below (&random, i);
      const uint64_t other = order[j];

      order[j] = order[i - 1];
      order[i - 1] = other;
    }
    for (unsigned i = 0; i < 8; i++)
      for (unsigned s = 0; s < 8; s++) {
        const uint64_t run = note (&streams, s * 1000 * MIB
                                   + (turn * 8 + order[i]) * each, each);

        longest[s] = MAX (longest[s], run);
        note (&streams, random_below (&random, 1 << 20) * 100 * MIB
              + 50 * MIB, BLOCK);
      }
  }
  for (unsigned s = 0; s < 8; s++)
    assert_int_equal (longest[s], 64 * each);
  streams_destroy (&streams);
}

static void
random_reads_are_no_stream (void **state)
{
  static const uint64_t spaces[] = { 1 * MIB, 4 * MIB, 16 * MIB, 1024 * MIB };
  uint64_t random = seed;
  struct streams streams;

  (void) state;
  for (unsigned i = 0; i < 4; i++)
    for (uint64_t length = BLOCK; length <= 16 * BLOCK; length *= 4) {
      unsigned taken_for_one = 0;

      streams_init (&streams);
      for (unsigned n = 0; n < 50000; n++) {
        const uint64_t at = random_below (&random, spaces[i] / length);

        taken_for_one += note (&streams, at * length, length) > 4 * MIB;
      }
      /* Not one in a hundred; and all it costs is that it is not cached. */
      assert_in_range (taken_for_one, 0, 500);
      streams_destroy (&streams);
    }
}

/* --- units ------------------------------------------------------------ */

static void
a_miss_brings_in_its_unit (void **state)
{
  (void) state;
  set (SETTING_fill_size, 64 * KIB);
  expect (small, MIB + 20000, 100, 1);
  assert_int_equal (small->disk->reads, 1);
  assert_true (is_cached (small, MIB, 64 * KIB));
  assert_false (is_cached (small, MIB - 1, 1));
  assert_false (is_cached (small, MIB + 64 * KIB, 1));
  expect (small, MIB, 64 * KIB, 1);
  assert_int_equal (small->disk->reads, 1);
  assert_int_equal (counted (small, STAT_read_miss_bytes), 100);
  assert_int_equal (counted (small, STAT_surrounding_bytes), 64 * KIB - 100);
  assert_int_equal (counted (small, STAT_fill_bytes), 64 * KIB);

  /* Over a border: both. */
  expect (small, 3 * MIB + 64 * KIB - 10, 20, 1);
  assert_true (is_cached (small, 3 * MIB, 128 * KIB));
  expect (small, 6 * MIB - 10, 20, 1);
  assert_true (is_cached (small, 6 * MIB - 64 * KIB, 128 * KIB));

  /* At the end of the disk. */
  expect (small, DISK - 10, 10, 1);
  assert_true (is_cached (small, DISK / (64 * KIB) * 64 * KIB,
                          DISK % (64 * KIB)));

  /* Whole units are read as ever. */
  small->disk->reads = 0;
  expect (small, 8 * MIB, 256 * KIB, 1);
  assert_int_equal (small->disk->reads, 1);
  set (SETTING_fill_size, 0);
  expect (small, 10 * MIB, 10, 1);
  assert_false (is_cached (small, 10 * MIB + 10, 1));
}

/* And no request more is sent than without it: the unit is read as far as the
 * holes go on from the ends of the request. */
static void
only_holes_are_filled (void **state)
{
  const uint64_t at = 2 * MIB;

  (void) state;
  set (SETTING_fill_size, MIB);
  put (small, at + 100 * KIB, 5000, 2);
  put (small, at + 300 * KIB, 5000, 3);
  put (small, at + 600 * KIB, 5000, 4);

  /* Between two of them. */
  expect (small, at + 200 * KIB, 1000, 1);
  assert_int_equal (small->disk->reads, 1);
  assert_true (is_cached (small, at + 100 * KIB, 200 * KIB + 5000));
  assert_false (is_cached (small, at + 100 * KIB - 1, 1));
  assert_false (is_cached (small, at + 300 * KIB + 5000, 1));

  /* From a hole into one. */
  small->disk->reads = 0;
  expect (small, at + 590 * KIB, 10 * KIB, 1);
  assert_int_equal (small->disk->reads, 1);
  assert_true (is_cached (small, at + 100 * KIB, 500 * KIB + 5000));
  assert_false (is_cached (small, at + 600 * KIB + 5000, 1));

  /* Out of one into a hole. */
  expect (small, at + 600 * KIB, 5000, 4);
  assert_int_equal (small->disk->reads, 1);
  expect (small, at + 605 * KIB, 1, 1);
  assert_true (is_cached (small, at + 100 * KIB, MIB - 100 * KIB));
  assert_false (is_cached (small, at + MIB, 1));
  expect (small, at + 100 * KIB, 5000, 2);
  expect (small, at + 300 * KIB, 5000, 3);
  expect (small, at + 600 * KIB, 5000, 4);
}

/* --- errors and races ------------------------------------------------- */

static uint64_t bad_at;

static void
fail_at_bad (struct memory_backend *mb, enum backend_event event,
             struct range range, const void *buf, void *opaque)
{
  (void) event;
  (void) buf;
  (void) opaque;
  mb->read_error = range_overlaps (range, (struct range) { bad_at, 1 })
    ? -EIO : 0;
}

static void
what_fails_around_a_read_does_not_fail_it (void **state)
{
  uint8_t buf[100];

  (void) state;
  set (SETTING_fill_size, 64 * KIB);
  bad_at = MIB + 40 * KIB;
  small->disk->before = fail_at_bad;
  expect (small, MIB + 10 * KIB, 100, 1);
  assert_true (is_cached (small, MIB + 10 * KIB, 100));
  assert_false (is_cached (small, MIB, 1));
  assert_int_equal (get (small, bad_at - 50, 100, buf), -EIO);
  small->disk->before = NULL;
  small->disk->read_error = 0;
  expect (small, bad_at - 50, 100, 1);
  assert_true (is_cached (small, MIB + 10 * KIB, 54 * KIB));
}

static void
write_beside (struct memory_backend *mb, enum backend_event event,
              struct range range, const void *buf, void *opaque)
{
  (void) event;
  (void) range;
  (void) buf;
  (void) opaque;
  mb->read_done = NULL;
  put (small, MIB + 5000, 3000, 2);
}

/* T10, for every byte of the unit. */
static void
a_unit_never_covers_a_newer_write (void **state)
{
  (void) state;
  set (SETTING_fill_size, 64 * KIB);
  small->disk->read_done = write_beside;
  expect (small, MIB + 60000, 100, 1);
  expect (small, MIB + 5000, 3000, 2);
  expect (small, MIB, 5000, 1);
  expect (small, MIB + 8000, 56 * KIB, 1);
}

static pthread_t other_reader;
static atomic_bool other_asked;

static void *
read_neighbour (void *opaque)
{
  uint8_t buf[100];

  (void) opaque;
  assert_int_equal (engine_read (&small->engine, buf, (struct range)
                                 { MIB + 1000, sizeof buf }), 0);
  assert_true (is_version (buf, MIB + 1000, sizeof buf, 1));
  return NULL;
}

static void
let_another_read (struct memory_backend *mb, enum backend_event event,
                  struct range range, const void *buf, void *opaque)
{
  (void) mb;
  (void) event;
  (void) range;
  (void) buf;
  (void) opaque;
  if (atomic_exchange (&other_asked, true))
    return;
  assert_int_equal (pthread_create (&other_reader, NULL, read_neighbour, NULL),
                    0);
  /* Time to come here, which it must not. */
  usleep (20000);
}

static void
a_unit_is_read_once_however_many_miss_it (void **state)
{
  (void) state;
  set (SETTING_fill_size, 64 * KIB);
  other_asked = false;
  small->disk->before = let_another_read;
  expect (small, MIB + 60000, 100, 1);
  assert_int_equal (pthread_join (other_reader, NULL), 0);
  assert_int_equal (small->disk->reads, 1);
}

/* With a ghost nothing is read around what is not let in. */
static void
a_ghost_looks_at_whole_units (void **state)
{
  (void) state;
  set (SETTING_eviction, EVICTION_GHOST);
  fill_the_cache ();
  set (SETTING_fill_size, 64 * KIB);
  expect (small, 4 * MIB, BLOCK, 1);
  assert_false (is_cached (small, 4 * MIB, BLOCK));
  assert_int_equal (counted (small, STAT_surrounding_bytes), 0);
  expect (small, 4 * MIB + 8 * BLOCK, BLOCK, 1);
  assert_true (is_cached (small, 4 * MIB, 64 * KIB));
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (a_hit_is_a_second_chance_but_not_with_fifo),
    TEST (eviction_ends_although_everything_is_hot),
    TEST (a_ghost_lets_in_what_was_missed_twice),
    TEST (a_ghost_remembers_as_much_as_the_cache_holds),
    TEST (long_sequential_reads_pass_by_a_full_cache),
    TEST (a_cache_with_room_keeps_sequential_reads),
    TEST (a_prefetch_never_passes_by),
    TEST (streams_may_be_many_and_out_of_order),
    TEST (random_reads_are_no_stream),
    TEST (a_miss_brings_in_its_unit),
    TEST (only_holes_are_filled),
    TEST (what_fails_around_a_read_does_not_fail_it),
    TEST (a_unit_never_covers_a_newer_write),
    TEST (a_unit_is_read_once_however_many_miss_it),
    TEST (a_ghost_looks_at_whole_units),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* Records loaded at once, in any order and by several threads, against the same
 * inserted one by one in the order of their sequence numbers. */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/workers.h"
#include "engine/index_load.h"
#include "engine/node_pool.h"
#include "support/seed.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define MAX_WORKERS 3

static uint64_t rng;

struct record {
  struct extent extent;
  bool is_hole;
};

struct history {
  unsigned regions;
  uint64_t disk;                /* bytes */
  uint64_t grain;               /* all starts and lengths are multiples */
  uint64_t longest;             /* of one chunk */
  unsigned percent_wide, percent_data;
  size_t count;
  struct record *records;       /* in the order of their numbers */
};

static uint64_t
below (uint64_t n)
{
  return random_below (&rng, n);
}

static struct record
random_record (const struct history *h, uint64_t sequence)
{
  static const enum extent_kind kinds[] = {
    EXTENT_ZERO, EXTENT_TRIM, EXTENT_LOST,
  };
  const bool wide = below (100) < h->percent_wide;
  const bool is_data = !wide && below (100) < h->percent_data;
  struct record record = { .is_hole = !is_data && below (2) };
  struct extent *e = &record.extent;
  const uint64_t start = below (h->disk / h->grain) * h->grain;
  const uint64_t room = wide ? h->disk - start
    : MIN (h->disk, round_down (start, INDEX_CHUNK) + INDEX_CHUNK) - start;
  const uint64_t most = MIN (room, wide ? h->disk : h->longest);

  e->range = (struct range) { start, (1 + below (most / h->grain)) * h->grain };
  if (is_data) {
    e->kind = EXTENT_DATA;
    e->has_checksum = below (2);
    e->record_at = sequence * 64;
    e->record_length = e->range.length;
    e->checksum = random_next (&rng);
  }
  else {
    e->kind = kinds[below (3)];
    e->sequence = sequence;
  }
  return record;
}

static void
insert_in_order (struct index *index, const struct history *h)
{
  for (size_t i = 0; i < h->count; i++) {
    const struct extent *e = &h->records[i].extent;

    index_lock (index, e->range);
    assert_int_equal (index_reserve_locked (index, e->range, 1), 0);
    if (h->records[i].is_hole)
      index_drop_locked (index, e->range);
    else
      index_insert_locked (index, e);
    index_unlock (index, e->range);
  }
}

struct adding {
  struct index_load *load;
  const struct history *h;
  const size_t *order;
  unsigned workers;
};

/* Every so manieth is this worker's. */
static void
add (void *opaque, unsigned worker)
{
  const struct adding *adding = opaque;

  for (size_t i = worker; i < adding->h->count; i += adding->workers) {
    const struct record *record = &adding->h->records[adding->order[i]];
    const uint64_t sequence = adding->order[i] + 1;
    int r = record->is_hole
      ? index_load_drop (adding->load, worker, record->extent.range, sequence)
      : index_load_add (adding->load, worker, &record->extent, sequence);

    assert_int_equal (r, 0);
  }
}

static void
load_at_once (struct index *index, const struct history *h)
{
  const unsigned workers = 1 + below (MAX_WORKERS);
  size_t *order = malloc ((h->count + 1) * sizeof *order);
  struct adding adding = {
    .load = index_load_new (index, workers), .h = h, .order = order,
    .workers = workers,
  };

  assert_true (order && adding.load);
  for (size_t i = 0; i < h->count; i++) {
    const size_t j = below (i + 1);

    order[i] = order[j];
    order[j] = i;
  }
  if (below (3) == 0) {
    workers_run (workers, add, &adding);
    index_load_clear (adding.load);
  }
  workers_run (workers, add, &adding);
  assert_int_equal (index_load_build (adding.load), 0);
  index_load_free (adding.load);
  free (order);
}

/* Two walks over one chunk, cut where either has a border. */
static void
compare_chunk (struct index *a, struct index *b, struct range chunk)
{
  struct index_cursor cursor[2];
  struct piece piece[2] = { 0 };
  uint64_t at = chunk.start;

  index_lock (a, chunk);
  index_lock (b, chunk);
  index_walk_locked (&cursor[0], a, chunk, false);
  index_walk_locked (&cursor[1], b, chunk, false);
  while (at < range_end (chunk)) {
    const struct extent *x = &piece[0].extent, *y = &piece[1].extent;

    for (int i = 0; i < 2; i++)
      if (range_end (piece[i].range) <= at)
        assert_true (index_next_piece (&cursor[i], &piece[i]));
    assert_int_equal (piece[0].is_hole, piece[1].is_hole);
    if (!piece[0].is_hole) {
      assert_int_equal (x->kind, y->kind);
      assert_int_equal (extent_name (x), extent_name (y));
      assert_int_equal (x->has_checksum, y->has_checksum);
      assert_int_equal (x->checksum, y->checksum);
      assert_int_equal (x->record_length, y->record_length);
      assert_false (x->hit || y->hit);
      if (x->kind == EXTENT_DATA)
        assert_int_equal (x->delta - x->range.start, y->delta - y->range.start);
    }
    at = MIN (range_end (piece[0].range), range_end (piece[1].range));
  }
  index_unlock (a, chunk);
  index_unlock (b, chunk);
}

static void
compare (struct index *a, struct index *b, uint64_t disk)
{
  for (uint64_t at = 0; at < disk; at += INDEX_CHUNK)
    compare_chunk (a, b, (struct range) { at, MIN (INDEX_CHUNK, disk - at) });
}

static void
play (struct history h)
{
  struct index *one_by_one = index_new (h.regions);
  struct index *at_once = index_new (h.regions);

  h.records = malloc ((h.count + 200) * sizeof *h.records);
  assert_true (one_by_one && at_once && h.records);
  for (size_t i = 0; i < h.count; i++)
    h.records[i] = random_record (&h, i + 1);
  insert_in_order (one_by_one, &h);
  load_at_once (at_once, &h);
  index_check (at_once);
  compare (one_by_one, at_once, h.disk);

  /* It is an index like any other. */
  for (size_t i = 0; i < 200; i++)
    h.records[i] = random_record (&h, h.count + i + 1);
  h.count = 200;
  insert_in_order (one_by_one, &h);
  insert_in_order (at_once, &h);
  index_check (at_once);
  compare (one_by_one, at_once, h.disk);
  index_free (one_by_one);
  index_free (at_once);
  free (h.records);
}

/* Few places, many records of each. */
static void
the_newest_record_of_each_byte_wins (void **state)
{
  static const unsigned regions[] = { 1, 4, 64 };

  (void) state;
  for (unsigned turn = 0; turn < 300; turn++)
    play ((struct history) {
        .regions = regions[below (3)],
        .disk = (1 + below (5 * KIB / 4)) * 4 * KIB,
        .grain = below (2) ? KIB : 4 * KIB,
        .longest = (4 + below (61)) * KIB,
        .percent_wide = below (3) ? below (30) : 0,
        .percent_data = 20 + below (80),
        .count = 1 + below (below (2) ? 10 : 400),
      });
}

/* Long ones lie beneath everything, or over it, or both. */
static void
long_zeros_lie_beneath_and_above (void **state)
{
  (void) state;
  play ((struct history) {
      .regions = 16, .disk = 300 * MIB, .grain = 4 * KIB,
      .longest = 64 * KIB, .percent_wide = 1, .percent_data = 95,
      .count = 10000,
    });
}

/* So many that they come in huge pages, on a disk on which few meet. */
static void
many_records_are_loaded (void **state)
{
  (void) state;
  play ((struct history) {
      .regions = 256, .disk = 4096 * MIB, .grain = 512,
      .longest = 64 * KIB, .percent_data = 99, .count = 60000,
    });
}

/* So many in so little room that those which are hidden go before the end. */
static void
hidden_records_go_early (void **state)
{
  static const unsigned regions[] = { 1, 4 };

  (void) state;
  for (unsigned turn = 0; turn < 4; turn++)
    play ((struct history) {
        .regions = regions[turn % 2], .disk = (4 + below (8)) * MIB,
        .grain = below (2) ? KIB : 4 * KIB,
        .longest = (4 + below (2) * 12) * KIB,
        .percent_wide = turn % 2 ? 50 : 0, .percent_data = below (100),
        .count = 60000,
      });
}

static void
overwritten_records_take_no_memory (void **state)
{
  struct index *index = index_new (1);
  const size_t before = index_memory (index);
  struct index_load *load = index_load_new (index, 1);

  (void) state;
  assert_true (load != NULL);
  for (uint64_t i = 1; i <= 500000; i++) {
    const struct extent extent = {
      .range = { i % 100 * 4 * KIB, 4 * KIB }, .kind = EXTENT_DATA,
      .record_at = i * 64, .record_length = 4 * KIB,
    };

    assert_int_equal (index_load_add (load, 0, &extent, i), 0);
  }
  assert_true (index_memory (index) <= before + NODE_POOL_SLAB);
  assert_int_equal (index_load_build (load), 0);
  assert_int_equal (index_check (index), 100);
  index_load_free (load);
  index_free (index);
}

static void
nothing_is_loaded (void **state)
{
  (void) state;
  play ((struct history) {
      .regions = 4, .disk = MIB, .grain = KIB, .longest = 4 * KIB,
    });
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (nothing_is_loaded),
    cmocka_unit_test (the_newest_record_of_each_byte_wins),
    cmocka_unit_test (long_zeros_lie_beneath_and_above),
    cmocka_unit_test (many_records_are_loaded),
    cmocka_unit_test (hidden_records_go_early),
    cmocka_unit_test (overwritten_records_take_no_memory),
  };

  seed_choose (argc, argv);
  rng = seed;
  return cmocka_run_group_tests (tests, NULL, NULL);
}

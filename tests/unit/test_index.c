/* SPDX-License-Identifier: BSD-3-Clause */

/* The index against a flat array.
 *
 * The model is an array of cells (of 1 byte, 512 bytes, 4 KiB or 1 MiB), each
 * of which says which record it belongs to and at which delta.  Histories
 * come from one seed, printed at the start; "--seed N" or PCACHE_SEED=N
 * replays it.
 *
 * PCACHE_BENCH=1 prints the time of lookups and overwrites.
 *
 * Linked with -Wl,--wrap=aligned_alloc, memory can be made to run out. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/arith.h"
#include "base/thread.h"
#include "engine/index.h"
#include "support/scale.h"
#include "support/seed.h"

/* A second copy of the tree, of small nodes: it becomes tall with few
 * extents, so that what is rare in the real one happens all the time. */
#define EXTENT_TREE_NODE_SIZE 352
#define extent_tree_reserve small_tree_reserve
#define extent_tree_trim small_tree_trim
#define extent_tree_clear small_tree_clear
#define extent_tree_node_size small_tree_node_size
#define extent_tree_insert small_tree_insert
#define extent_tree_append small_tree_append
#define extent_tree_remove small_tree_remove
#define extent_tree_prefetch small_tree_prefetch
#define extent_tree_find small_tree_find
#define extent_tree_get small_tree_get
#define extent_tree_advance small_tree_advance
#define extent_tree_mark_hit small_tree_mark_hit
#define extent_tree_check small_tree_check
#include "../../filter/engine/extent_tree.c"

/* Seeds that once failed. */
static const uint64_t old_seeds[] = { 1 };

/*-- Memory that runs out. --*/

/* Allocations that still succeed; -1: all. */
static int allocations_left = -1;
static unsigned long allocations;

extern void *__real_aligned_alloc (size_t alignment, size_t size)
  __attribute__ ((weak));
extern void *__wrap_aligned_alloc (size_t alignment, size_t size);

extern void *__real_node_pool_take (struct node_pool *pool)
  __attribute__ ((weak));
extern void *__wrap_node_pool_take (struct node_pool *pool);

static bool
may_allocate (void)
{
  if (allocations_left == 0)
    return false;
  if (allocations_left > 0)
    allocations_left--;
  __atomic_add_fetch (&allocations, 1, __ATOMIC_RELAXED);
  return true;
}

void *
__wrap_aligned_alloc (size_t alignment, size_t size)
{
  return may_allocate () ? __real_aligned_alloc (alignment, size) : NULL;
}

/* One slab has room for many. */
void *
__wrap_node_pool_take (struct node_pool *pool)
{
  return may_allocate () ? __real_node_pool_take (pool) : NULL;
}

/* ThreadSanitizer's own search for deadlocks ends the process when a thread
 * holds 64 locks; an index has more.  wide_locks_do_not_deadlock looks for
 * them in its own way. */
extern const char *__tsan_default_options (void);

const char *
__tsan_default_options (void)
{
  return "detect_deadlocks=0";
}

/*-- Short stories. --*/

#define KB UINT64_C (1024)
#define MB (KB * KB)

static struct range
range (uint64_t start, uint64_t length)
{
  return (struct range) { start, length };
}

/* Record number NAME; a data record begins at START. */
static struct extent
data (uint64_t name, uint64_t start, uint64_t length)
{
  return (struct extent) {
    .range = { start, length },
    .kind = EXTENT_DATA,
    .has_checksum = true,
    .record_at = name * 64,
    .record_length = length,
    .checksum = ~name,
  };
}

static struct extent
no_data (enum extent_kind kind, uint64_t name, uint64_t start,
         uint64_t length)
{
  return (struct extent) {
    .range = { start, length },
    .kind = kind,
    .sequence = name,
  };
}

static void
insert (struct index *index, struct extent extent)
{
  index_lock (index, extent.range);
  assert_int_equal (index_reserve_locked (index, extent.range, 1), 0);
  index_insert_locked (index, &extent);
  index_unlock (index, extent.range);
}

static unsigned
removed (struct index *index, struct range r, struct extent extent)
{
  unsigned n;

  index_lock (index, r);
  n = index_remove_locked (index, r, &extent);
  index_unlock (index, r);
  return n;
}

/* The pieces of a range as text: "D7+0:4096 hole:512 Z9:100". */
static const char *
pieces (struct index *index, struct range r)
{
  static char text[4096];
  struct index_cursor cursor;
  struct piece piece;
  size_t n = 0;

  text[0] = '\0';
  index_lock (index, r);
  index_walk_locked (&cursor, index, r, false);
  while (index_next_piece (&cursor, &piece) && n < sizeof text - 100) {
    const struct extent *e = &piece.extent;

    if (n > 0)
      text[n++] = ' ';
    if (piece.is_hole)
      n += sprintf (text + n, "hole");
    else if (e->kind == EXTENT_DATA)
      n += sprintf (text + n, "D%" PRIu64 "+%" PRIu32, e->record_at / 64,
                    e->delta);
    else
      n += sprintf (text + n, "%c%" PRIu64, "DZTL"[e->kind], e->sequence);
    n += sprintf (text + n, ":%" PRIu64, piece.range.length);
  }
  index_unlock (index, r);
  return text;
}

static struct index *
new_index (unsigned regions)
{
  struct index *index = index_new (regions);

  assert_non_null (index);
  return index;
}

static void
an_extent_comes_back_as_it_was (void **state)
{
  struct index *index = new_index (4);
  struct extent in = {
    .range = { 5 * MB + 123, 60001 },
    .kind = EXTENT_DATA,
    .has_checksum = true,
    .hit = true,
    .record_at = (UINT64_C (1) << 50) - 64,
    .record_length = INDEX_MAX_RECORD,
    .delta = INDEX_MAX_RECORD - 60001,
    .checksum = UINT64_C (0xfedcba9876543210),
  };
  struct index_cursor cursor;
  struct piece piece;

  (void) state;
  insert (index, in);
  index_lock (index, in.range);
  index_walk_locked (&cursor, index, in.range, false);
  assert_true (index_next_piece (&cursor, &piece));
  assert_false (piece.is_hole);
  assert_int_equal (piece.extent.range.start, in.range.start);
  assert_int_equal (piece.extent.range.length, in.range.length);
  assert_int_equal (piece.extent.kind, in.kind);
  assert_true (piece.extent.has_checksum);
  assert_true (piece.extent.hit);
  assert_int_equal (piece.extent.record_at, in.record_at);
  assert_int_equal (piece.extent.record_length, in.record_length);
  assert_int_equal (piece.extent.delta, in.delta);
  assert_true (piece.extent.checksum == in.checksum);
  assert_false (index_next_piece (&cursor, &piece));
  index_unlock (index, in.range);
  index_free (index);
}

static void
an_overwrite_clips_and_splits_what_was_there (void **state)
{
  struct index *index = new_index (1);

  (void) state;
  insert (index, data (1, 1000, 1000));
  assert_string_equal (pieces (index, range (0, 3000)),
                       "hole:1000 D1+0:1000 hole:1000");
  insert (index, data (2, 1200, 100));
  assert_string_equal (pieces (index, range (1000, 1000)),
                       "D1+0:200 D2+0:100 D1+300:700");
  insert (index, data (3, 1900, 200));
  insert (index, data (4, 900, 200));
  assert_string_equal (pieces (index, range (900, 1200)),
                       "D4+0:200 D1+100:100 D2+0:100 D1+300:600 D3+0:200");
  insert (index, data (5, 1150, 900));
  assert_string_equal (pieces (index, range (1000, 1100)),
                       "D4+100:100 D1+100:50 D5+0:900 D3+150:50");
  insert (index, data (6, 1150, 900));
  insert (index, data (7, 900, 20));
  assert_string_equal (pieces (index, range (900, 300)),
                       "D7+0:20 D4+20:180 D1+100:50 D6+0:50");
  index_check (index);
  index_free (index);
}

/* A 4 GiB zero over a disk of many chunks, of which some lie in the same
 * region and some do not. */
static void
a_long_extent_is_seen_in_every_chunk (void **state)
{
  static const unsigned regions[] = { 1, 4, 256, 1024 };
  uint64_t length = 4 * 1024 * MB - 1;
  unsigned i;

  (void) state;
  for (i = 0; i < 4; ++i) {
    struct index *index = new_index (regions[i]);
    uint64_t chunk;

    insert (index, no_data (EXTENT_ZERO, 7, MB / 2, length));
    insert (index, data (8, 9 * MB + 100, 100));
    assert_string_equal (pieces (index, range (9 * MB, MB)),
                         "Z7:100 D8+0:100 Z7:1048376");
    for (chunk = 1; chunk < 4096; ++chunk)
      if (chunk != 9)
        assert_string_equal (pieces (index, range (chunk * MB, MB)),
                             "Z7:1048576");
    assert_string_equal (pieces (index, range (0, MB)),
                         "hole:524288 Z7:524288");
    assert_string_equal (pieces (index, range (4096 * MB, MB)),
                         "Z7:524287 hole:524289");

    /* A trim of some chunks, then all of the zero goes. */
    insert (index, no_data (EXTENT_TRIM, 9, 20 * MB, 10 * MB));
    assert_string_equal (pieces (index, range (19 * MB, MB)), "Z7:1048576");
    assert_string_equal (pieces (index, range (29 * MB, MB)), "T9:1048576");
    removed (index, range (MB / 2, length),
             no_data (EXTENT_ZERO, 7, MB / 2, length));
    for (chunk = 0; chunk < 4097; ++chunk) {
      const char *expect = "hole:1048576";

      if (chunk == 9)
        expect = "hole:100 D8+0:100 hole:1048376";
      else if (chunk >= 20 && chunk < 30)
        expect = "T9:1048576";
      assert_string_equal (pieces (index, range (chunk * MB, MB)), expect);
    }
    index_check (index);
    index_free (index);
  }
}

static void
removal_takes_the_named_record_only (void **state)
{
  struct index *index = new_index (4);
  struct range all = range (MB, MB);

  (void) state;
  insert (index, data (1, MB, 8192));
  insert (index, data (2, MB + 4096, 1024));
  insert (index, no_data (EXTENT_ZERO, 1, MB + 8192, 4096));
  insert (index, no_data (EXTENT_TRIM, 1, MB + 12288, 4096));

  assert_int_equal (removed (index, all, data (3, MB, 8192)), 0);
  assert_int_equal (removed (index, all, data (1, MB, 8192)), 2);
  assert_string_equal (pieces (index, range (MB, 16384)),
                       "hole:4096 D2+0:1024 hole:3072 Z1:4096 T1:4096");
  assert_int_equal (removed (index, all,
                             no_data (EXTENT_TRIM, 1, MB, MB)), 1);
  assert_int_equal (removed (index, all,
                             no_data (EXTENT_LOST, 1, MB, MB)), 0);
  assert_string_equal (pieces (index, range (MB, 16384)),
                       "hole:4096 D2+0:1024 hole:3072 Z1:4096 hole:4096");
  index_free (index);
}

static void
removal_clips_at_the_borders_of_its_range (void **state)
{
  struct index *index = new_index (1);

  (void) state;
  insert (index, data (1, 0, 100));
  assert_int_equal (removed (index, range (90, 50), data (1, 0, 100)), 1);
  assert_int_equal (removed (index, range (0, 10), data (1, 0, 100)), 1);
  assert_string_equal (pieces (index, range (0, 200)),
                       "hole:10 D1+10:80 hole:110");

  /* In the middle it needs room, here there is some in the leaf. */
  assert_int_equal (removed (index, range (40, 10), data (1, 0, 100)), 1);
  assert_string_equal (pieces (index, range (0, 200)),
                       "hole:10 D1+10:30 hole:10 D1+50:40 hole:110");
  index_free (index);
}

static void
a_device_range_goes_from_all_regions (void **state)
{
  struct index *index = new_index (256);
  uint64_t i;

  (void) state;
  for (i = 0; i < 1000; ++i)
    insert (index, data (i, i * MB, 4096));
  insert (index, no_data (EXTENT_ZERO, 150 * 64, 2000 * MB, 4096));
  index_remove_device_range (index, 100 * 64, 100 * 64);
  for (i = 0; i < 1000; ++i) {
    struct extent e = data (i, i * MB, 4096);

    index_lock (index, e.range);
    assert_int_equal (index_is_locked (index, e.range, &e),
                      i < 100 || i >= 200);
    index_unlock (index, e.range);
  }
  assert_string_equal (pieces (index, range (2000 * MB, 4096)), "Z9600:4096");
  index_check (index);
  index_free (index);
}

static void
only_what_was_read_is_marked_as_hit (void **state)
{
  struct index *index = new_index (1);
  struct index_cursor cursor;
  struct piece piece;
  unsigned hits = 0;

  (void) state;
  insert (index, data (1, 0, 100));
  insert (index, data (2, 100, 100));
  insert (index, no_data (EXTENT_ZERO, 3, 200, 100));
  insert (index, no_data (EXTENT_LOST, 4, 300, 100));
  insert (index, data (5, 400, 100));

  /* Neither a walk that does not mark nor inserts mark. */
  index_lock (index, range (0, 500));
  index_walk_locked (&cursor, index, range (0, 500), false);
  while (index_next_piece (&cursor, &piece))
    ;
  index_walk_locked (&cursor, index, range (0, 500), false);
  while (index_next_piece (&cursor, &piece))
    assert_false (piece.extent.hit);

  /* The walk ends where 5 begins. */
  index_walk_locked (&cursor, index, range (150, 250), true);
  while (index_next_piece (&cursor, &piece))
    ;
  index_walk_locked (&cursor, index, range (0, 500), false);
  while (index_next_piece (&cursor, &piece)) {
    if (piece.extent.kind == EXTENT_DATA)
      assert_int_equal (piece.extent.hit, piece.extent.record_at == 2 * 64);
    else
      assert_int_equal (piece.extent.hit, piece.extent.kind == EXTENT_ZERO);
    hits += piece.extent.hit;
  }
  assert_int_equal (hits, 2);
  index_unlock (index, range (0, 500));

  /* A newer record starts anew. */
  insert (index, data (6, 100, 100));
  index_lock (index, range (100, 100));
  index_walk_locked (&cursor, index, range (100, 100), false);
  assert_true (index_next_piece (&cursor, &piece));
  assert_false (piece.extent.hit);
  index_unlock (index, range (100, 100));
  index_free (index);
}

static void
begin_fill (struct index *index, struct fill *fill, struct range r)
{
  index_lock (index, r);
  index_fill_begin_locked (index, fill, r);
  index_unlock (index, r);
}

static bool
end_fill (struct index *index, struct fill *fill)
{
  struct range r = fill->range;
  bool fresh;

  index_lock (index, r);
  fresh = index_fill_end_locked (index, fill);
  index_unlock (index, r);
  return fresh;
}

static void
a_fill_is_stale_after_an_insert_over_it (void **state)
{
  struct index *index = new_index (4);
  struct fill fills[5];
  unsigned i;

  (void) state;
  for (i = 0; i < 5; ++i)
    begin_fill (index, &fills[i], range (10 * MB + i * 1000, 1000));
  insert (index, data (1, 10 * MB + 1999, 2));
  assert_true (end_fill (index, &fills[3]));
  assert_false (end_fill (index, &fills[1]));
  insert (index, data (2, 10 * MB + 1999, 2));
  assert_false (end_fill (index, &fills[2]));
  assert_true (end_fill (index, &fills[0]));

  /* A long one that starts chunks before, and what is removed again. */
  insert (index, no_data (EXTENT_TRIM, 3, 3 * MB, 20 * MB));
  removed (index, range (3 * MB, 20 * MB),
           no_data (EXTENT_TRIM, 3, 3 * MB, 20 * MB));
  assert_false (end_fill (index, &fills[4]));

  begin_fill (index, &fills[0], range (10 * MB, 1000));
  assert_true (end_fill (index, &fills[0]));
  index_free (index);
}

static void
a_record_is_found_only_if_it_has_the_whole_range (void **state)
{
  struct index *index = new_index (1);
  struct extent one = data (1, 1000, 1000);

  (void) state;
  insert (index, one);
  index_lock (index, range (0, 4000));
  assert_true (index_is_locked (index, range (1000, 1000), &one));
  assert_true (index_is_locked (index, range (1500, 1), &one));
  assert_false (index_is_locked (index, range (999, 2), &one));
  assert_false (index_is_locked (index, range (1500, 501), &one));
  index_unlock (index, range (0, 4000));
  insert (index, data (2, 1500, 1));
  index_lock (index, range (0, 4000));
  assert_true (index_is_locked (index, range (1000, 500), &one));
  assert_false (index_is_locked (index, range (1000, 1000), &one));
  assert_true (index_is_locked (index, range (1501, 499), &one));
  index_unlock (index, range (0, 4000));
  index_free (index);
}

/* Write-back sorts an epoch with an index of one region. */
static void
one_region_is_walked_over_the_whole_disk (void **state)
{
  struct index *index = new_index (1);
  uint64_t end = UINT64_C (1) << 63;

  (void) state;
  insert (index, data (3, end - 512, 512));
  insert (index, data (1, 4096, 4096));
  insert (index, data (2, UINT64_C (1) << 50, 4096));
  assert_string_equal (pieces (index, range (0, end)),
                       "hole:4096 D1+0:4096 hole:1125899906834432"
                       " D2+0:4096 hole:9222246136947928576 D3+0:512");
  index_free (index);
}

/*-- Random histories. --*/

#define NO_RECORD 0
#define MAX_FILLS 8

struct cell {
  uint32_t record;              /* NO_RECORD: hole */
  uint32_t delta;               /* in cells */
  bool was_read;                /* marked since it came */
};

struct model {
  struct index *index;
  uint64_t rng;
  uint64_t base;                /* of the first cell */
  uint64_t cell;                /* bytes */
  uint32_t cells;
  uint32_t wide;                /* cells of the longest extent without data */
  unsigned percent_wide;
  bool mostly_single;           /* data of one cell: many extents */

  struct cell *map;
  uint32_t records;             /* record 0 is none */
  uint32_t max_records;
  uint8_t *kinds;
  bool *read;                   /* the record was ever read with a mark */

  struct fill fills[MAX_FILLS];
  bool filling[MAX_FILLS], stale[MAX_FILLS];
};

static uint32_t
model_random (struct model *m, uint32_t n)
{
  return random_below (&m->rng, n);
}

static struct range
model_range (const struct model *m, uint32_t first, uint32_t n)
{
  return range (m->base + first * m->cell, n * m->cell);
}

/* Cells from FIRST to the end of its chunk. */
static uint32_t
cells_in_chunk (const struct model *m, uint32_t first)
{
  uint64_t at = m->base + first * m->cell;
  uint64_t n = (round_down (at, INDEX_CHUNK) + INDEX_CHUNK - at) / m->cell;

  return MIN (n, m->cells - first);
}

static uint64_t
checksum_of (uint32_t record)
{
  return record * UINT64_C (0x100000001b3);
}

static struct extent
model_extent (const struct model *m, uint32_t record, uint32_t first,
              uint32_t n)
{
  struct extent e = { .range = model_range (m, first, n),
                      .kind = m->kinds[record] };

  if (e.kind == EXTENT_DATA) {
    e.record_at = record * UINT64_C (64);
    e.record_length = e.range.length;
    e.has_checksum = record % 3 != 0;
    e.checksum = checksum_of (record);
  }
  else
    e.sequence = record;
  return e;
}

static void
model_insert (struct model *m, uint32_t record, uint32_t first, uint32_t n)
{
  struct extent e = model_extent (m, record, first, n);
  uint32_t i;
  unsigned f;

  index_insert_locked (m->index, &e);
  for (i = 0; i < n; ++i)
    m->map[first + i] = (struct cell) { record, i, false };
  for (f = 0; f < MAX_FILLS; ++f)
    if (m->filling[f] && range_overlaps (m->fills[f].range, e.range))
      m->stale[f] = true;
}

static bool
room_for_record (const struct model *m)
{
  return m->records < m->max_records;
}

static void
op_write (struct model *m)
{
  uint32_t first = model_random (m, m->cells);
  uint32_t n = MIN (cells_in_chunk (m, first), INDEX_MAX_RECORD / m->cell);
  uint32_t record;
  struct range r;

  if (n == 0 || !room_for_record (m))
    return;
  n = m->mostly_single && model_random (m, 50) ? 1 : 1 + model_random (m, n);
  record = m->records++;
  m->kinds[record] = EXTENT_DATA;
  r = model_range (m, first, n);
  index_lock (m->index, r);
  assert_int_equal (index_reserve_locked (m->index, r, 1), 0);
  model_insert (m, record, first, n);
  index_unlock (m->index, r);
}

/* Several inserts in one hold of the lock, with reservations in parts. */
static void
op_write_many (struct model *m)
{
  uint32_t first = model_random (m, m->cells);
  uint32_t n = 1 + model_random (m, MIN (m->cells - first, 256u));
  struct range r = model_range (m, first, n);
  unsigned i, parts = 1 + model_random (m, 20);

  index_lock (m->index, r);
  assert_int_equal (index_reserve_locked (m->index, r, parts / 2), 0);
  assert_int_equal (index_reserve_locked (m->index, r, parts - parts / 2), 0);
  for (i = 0; i < parts && room_for_record (m); ++i) {
    uint32_t at = first + model_random (m, n);
    uint32_t max = MIN (first + n - at, INDEX_MAX_RECORD / m->cell);
    uint32_t record = m->records++;

    max = MIN (max, cells_in_chunk (m, at));
    if (max == 0)
      continue;
    m->kinds[record] = EXTENT_DATA;
    model_insert (m, record, at, 1 + model_random (m, max));
  }
  index_unlock (m->index, r);
}

static void
op_wide (struct model *m)
{
  uint32_t first = model_random (m, m->cells);
  uint32_t n = 1 + model_random (m, MIN (m->cells - first, m->wide));
  uint32_t record;
  struct range r = model_range (m, first, n);

  if (!room_for_record (m))
    return;
  record = m->records++;
  m->kinds[record] = EXTENT_ZERO + model_random (m, 3);
  index_lock (m->index, r);
  assert_int_equal (index_reserve_locked (m->index, r, 1), 0);
  model_insert (m, record, first, n);
  index_unlock (m->index, r);
}

static void
op_fill (struct model *m)
{
  unsigned f = model_random (m, MAX_FILLS);
  uint32_t first = model_random (m, m->cells);
  uint32_t n = cells_in_chunk (m, first);

  if (m->filling[f]) {
    assert_int_equal (end_fill (m->index, &m->fills[f]), !m->stale[f]);
    m->filling[f] = false;
  }
  else if (n > 0) {
    begin_fill (m->index, &m->fills[f],
                model_range (m, first, 1 + model_random (m, n)));
    m->filling[f] = true;
    m->stale[f] = false;
  }
}

/* Remove the record at some cell: from where it has to be sought or, with
 * a reservation, from a random part. */
static void
op_remove (struct model *m)
{
  uint32_t at = model_random (m, m->cells);
  uint32_t record = m->map[at].record, first, end, i;
  bool partial = model_random (m, 4) == 0, was_there = false;
  unsigned n;
  struct extent e;
  struct range r;

  if (record == NO_RECORD) {
    if (m->records < 2)
      return;
    record = 1 + model_random (m, m->records - 1);
    partial = true;
  }
  if (partial) {
    first = at - model_random (m, MIN (at + 1, m->wide));
    end = at + 1 + model_random (m, MIN (m->cells - at, m->wide));
  }
  else {
    uint32_t reach = m->kinds[record] == EXTENT_DATA
      ? INDEX_MAX_RECORD / m->cell : m->wide;

    first = at - m->map[at].delta;
    end = MIN (first + reach, m->cells);
  }
  e = model_extent (m, record, at, 1);
  r = model_range (m, first, end - first);
  index_lock (m->index, r);
  if (partial)
    assert_int_equal (index_reserve_locked (m->index, r, 1), 0);
  for (i = first; i < end; ++i)
    if (m->map[i].record == record) {
      m->map[i].record = NO_RECORD;
      was_there = true;
    }
  n = index_remove_locked (m->index, r, &e);
  if (was_there)
    assert_true (n > 0);
  else if (e.kind == EXTENT_DATA)
    assert_int_equal (n, 0);
  index_unlock (m->index, r);
}

static void
op_remove_device_range (struct model *m)
{
  uint32_t first, n, i;

  if (m->records < 2)
    return;
  first = 1 + model_random (m, m->records - 1);
  n = 1 + model_random (m, 1 + m->records / 50);
  index_remove_device_range (m->index, first * UINT64_C (64),
                             n * UINT64_C (64));
  for (i = 0; i < m->cells; ++i) {
    uint32_t record = m->map[i].record;

    if (record >= first && record < first + n &&
        m->kinds[record] == EXTENT_DATA)
      m->map[i].record = NO_RECORD;
  }
}

static void
check_piece (struct model *m, const struct piece *piece, bool mark)
{
  const struct extent *e = &piece->extent;
  uint32_t first = (piece->range.start - m->base) / m->cell;
  uint32_t n = piece->range.length / m->cell;
  uint32_t i, record;

  assert_int_equal ((piece->range.start - m->base) % m->cell, 0);
  assert_int_equal (piece->range.length % m->cell, 0);
  assert_true (n > 0);
  if (piece->is_hole) {
    for (i = first; i < first + n; ++i)
      assert_int_equal (m->map[i].record, NO_RECORD);
    return;
  }

  assert_int_equal (e->range.start, piece->range.start);
  assert_int_equal (e->range.length, piece->range.length);
  record = e->kind == EXTENT_DATA ? e->record_at / 64 : e->sequence;
  assert_int_equal (e->kind, m->kinds[record]);
  if (e->kind == EXTENT_DATA) {
    assert_int_equal (e->delta, m->map[first].delta * m->cell);
    assert_int_equal (e->has_checksum, record % 3 != 0);
    assert_true (e->checksum == checksum_of (record));
    assert_true (e->delta + e->range.length <= e->record_length);
  }
  if (mark && e->kind != EXTENT_LOST)
    m->read[record] = true;
  if (e->hit)
    assert_true (m->read[record]);
  for (i = first; i < first + n; ++i) {
    struct cell *c = &m->map[i];

    assert_int_equal (c->record, record);
    assert_int_equal (c->delta, m->map[first].delta + (i - first));
    if (c->was_read)
      assert_true (e->hit);
    if (mark && e->kind != EXTENT_LOST)
      c->was_read = true;
  }
}

/* In the caller's hold of the lock. */
static void
walk_and_compare (struct model *m, uint32_t first, uint32_t n, bool mark)
{
  struct range r = model_range (m, first, n);
  uint64_t at = r.start;
  struct index_cursor cursor;
  struct piece piece;
  bool hole_before = false;

  index_walk_locked (&cursor, m->index, r, mark);
  while (index_next_piece (&cursor, &piece)) {
    assert_int_equal (piece.range.start, at);
    at = range_end (piece.range);
    assert_true (at <= range_end (r));
    assert_false (hole_before && piece.is_hole);
    hole_before = piece.is_hole;
    check_piece (m, &piece, mark);
  }
  assert_int_equal (at, range_end (r));
}

static void
op_walk (struct model *m)
{
  uint32_t first = model_random (m, m->cells);
  uint32_t n = cells_in_chunk (m, first);
  struct range r;

  if (n == 0)
    n = 1;
  n = 1 + model_random (m, MIN (n, 300u));
  r = model_range (m, first, n);
  index_lock (m->index, r);
  walk_and_compare (m, first, n, model_random (m, 2));
  index_unlock (m->index, r);
}

static void
op_is (struct model *m)
{
  uint32_t first = model_random (m, m->cells);
  uint32_t max = cells_in_chunk (m, first);
  uint32_t record = m->map[first].record, n, i;
  bool expect = true;
  struct range r;
  struct extent e;

  if (record == NO_RECORD || max == 0)
    return;
  n = 1 + model_random (m, MIN (max, 20u));
  for (i = first; i < first + n; ++i)
    expect &= m->map[i].record == record;
  e = model_extent (m, record, first, n);
  r = model_range (m, first, n);
  index_lock (m->index, r);
  assert_int_equal (index_is_locked (m->index, r, &e), expect);
  index_unlock (m->index, r);
}

static void
compare_all (struct model *m)
{
  uint32_t first = 0, n;

  for (; first < m->cells; first += n) {
    struct range r;

    n = MAX (cells_in_chunk (m, first), 1u);
    r = model_range (m, first, n);
    index_lock (m->index, r);
    walk_and_compare (m, first, n, false);
    index_unlock (m->index, r);
  }
  index_check (m->index);
}

static void
model_start (struct model *m, unsigned regions, uint64_t from_seed)
{
  m->index = new_index (regions);
  m->rng = from_seed;
  m->records = 1;
  m->map = calloc (m->cells, sizeof m->map[0]);
  m->kinds = calloc (m->max_records, sizeof m->kinds[0]);
  m->read = calloc (m->max_records, sizeof m->read[0]);
  assert_true (m->map && m->kinds && m->read);
}

static void
model_end (struct model *m)
{
  unsigned f;

  for (f = 0; f < MAX_FILLS; ++f)
    if (m->filling[f])
      assert_int_equal (end_fill (m->index, &m->fills[f]), !m->stale[f]);
  index_free (m->index);
  free (m->map);
  free (m->kinds);
  free (m->read);
}

static void
history (struct model m, unsigned regions, unsigned ops, uint64_t from_seed)
{
  unsigned op;

  ops = scaled (ops, 1);
  m.max_records = ops * 3 + 1;
  model_start (&m, regions, from_seed);
  for (op = 0; op < ops; ++op) {
    unsigned dice = model_random (&m, 1000);

    if (dice < 450)
      op_write (&m);
    else if (dice < 480)
      op_write_many (&m);
    else if (dice < 480 + m.percent_wide * 10)
      op_wide (&m);
    else if (dice < 720)
      op_remove (&m);
    else if (dice < 780)
      op_fill (&m);
    else if (dice < 850)
      op_is (&m);
    else
      op_walk (&m);
    if (model_random (&m, 5000) == 0)
      op_remove_device_range (&m);
    if (model_random (&m, 10000) == 0)
      compare_all (&m);
  }
  compare_all (&m);
  model_end (&m);
}

static void
histories_of (uint64_t from_seed)
{
  static const unsigned regions[] = { 1, 4, 256 };
  unsigned i;

  for (i = 0; i < 3; ++i) {
    /* Bytes, around the border of two chunks. */
    history ((struct model) { .base = 7 * MB - 1500, .cell = 1,
                              .cells = 3000, .wide = 3000,
                              .percent_wide = 2 },
             regions[i], 40000, from_seed + i);
    /* Blocks, over some dozen chunks; wide ones touch all of them. */
    history ((struct model) { .base = 3 * MB, .cell = 4096,
                              .cells = 48 * 256, .wide = 4000,
                              .percent_wide = 1 },
             regions[i], 40000, from_seed + 10 + i);
    /* Many more chunks than regions, at the end of the address space. */
    history ((struct model) { .base = (UINT64_C (1) << 63) - 5000 * MB,
                              .cell = 512 * KB, .cells = 10000,
                              .wide = 8000, .percent_wide = 15 },
             regions[i], 5000, from_seed + 20 + i);
  }
}

static void
the_index_is_a_flat_array (void **state)
{
  unsigned i;

  (void) state;
  for (i = 0; i < sizeof old_seeds / sizeof old_seeds[0]; ++i)
    histories_of (old_seeds[i]);
  histories_of (seed);
}

/* Some hundred thousand extents: a tall tree. */
static void
a_large_index_is_a_flat_array (void **state)
{
  (void) state;
  history ((struct model) { .base = 1000 * MB, .cell = 512,
                            .cells = 1 << 19, .wide = 100,
                            .percent_wide = 1, .mostly_single = true },
           1, 500000, seed + 100);
}

/*-- The tree of small nodes. --*/

#define SMALL_CELLS 10000

static void
compare_small_tree (const struct extent_tree *tree, const uint32_t *map,
                    const uint32_t *deltas)
{
  struct tree_position position = small_tree_find (tree, 0);
  uint64_t at = 0;
  struct extent e;

  for (; small_tree_get (position, &e); small_tree_advance (&position)) {
    for (; at < e.range.start; ++at)
      assert_int_equal (map[at], 0);
    for (; at < range_end (e.range); ++at) {
      assert_int_equal (map[at], e.record_at / 64);
      assert_int_equal (deltas[at], e.delta + at - e.range.start);
    }
  }
  for (; at < SMALL_CELLS; ++at)
    assert_int_equal (map[at], 0);
}

struct small_tree {
  struct node_pool pool;
  struct extent_tree tree;
  uint32_t map[SMALL_CELLS], deltas[SMALL_CELLS];
  unsigned tallest;
};

static void
small_tree_note (struct small_tree *t, uint32_t first, uint32_t n,
                 uint32_t name)
{
  for (uint32_t i = 0; i < n; ++i) {
    t->map[first + i] = name;
    t->deltas[first + i] = i;
  }
}

static void
small_tree_start (struct small_tree *t)
{
  memset (t, 0, sizeof *t);
  node_pool_init (&t->pool, small_tree_node_size ());
  t->tree.pool = &t->pool;
}

static void
small_tree_end (struct small_tree *t)
{
  small_tree_clear (&t->tree);
  assert_int_equal (node_pool_memory (&t->pool), 0);
  node_pool_destroy (&t->pool);
}

/* Mostly small inserts and removals, at times in long sweeps, so that the
 * tree grows to several levels and shrinks again; sound after each. */
static void
play_small_tree (struct small_tree *t, unsigned steps, uint64_t *rng)
{
  for (unsigned step = 1; step < steps; ++step) {
    bool growing = step / 3000 % 2 == 0;
    uint32_t max = random_below (rng, 1000) == 0 ? SMALL_CELLS / 3 : 3, i;
    uint32_t first = random_below (rng, SMALL_CELLS);
    uint32_t n = 1 + random_below (rng, MIN (max, SMALL_CELLS - first));
    struct range r = range (first, n);

    assert_int_equal (small_tree_reserve (&t->tree, 1), 0);
    if (random_below (rng, 10) < (growing ? 8 : 2)) {
      struct extent e = data (step, first, n);

      small_tree_insert (&t->tree, &e);
      small_tree_note (t, first, n, step);
    }
    else {
      uint32_t from = random_below (rng, step), to = from + step / 2;
      struct record_match match = { EXTENT_DATA, from * 64, to * 64 };
      bool all = random_below (rng, 2);

      small_tree_remove (&t->tree, r, all ? NULL : &match);
      for (i = 0; i < n; ++i)
        if (all || (t->map[first + i] >= from && t->map[first + i] <= to))
          t->map[first + i] = 0;
    }
    small_tree_check (&t->tree);
    t->tallest = MAX (t->tallest, t->tree.height);
    if (step % 50 == 0)
      compare_small_tree (&t->tree, t->map, t->deltas);
    small_tree_trim (&t->tree);
  }
  compare_small_tree (&t->tree, t->map, t->deltas);
}

static void
a_tall_tree_is_sound_after_every_step (void **state)
{
  static struct small_tree t;
  uint64_t rng = seed;

  (void) state;
  small_tree_start (&t);
  play_small_tree (&t, 30000, &rng);
  assert_true (t.tallest >= 3);
  small_tree_end (&t);
}

/* Of any number of extents; sound after each, and as good a tree as any
 * from then on. */
static void
an_appended_tree_is_as_good (void **state)
{
  static struct small_tree t;
  uint64_t rng = seed;

  (void) state;
  for (unsigned turn = 0; turn < 20; ++turn) {
    const uint32_t until = SMALL_CELLS >> random_below (&rng, 12);
    struct tree_node *last[EXTENT_TREE_MAX_HEIGHT];
    uint32_t first = 0, n;

    small_tree_start (&t);
    for (uint32_t name = 1; first < until; ++name, first += n) {
      struct extent e;

      n = 1 + random_below (&rng, MIN (3u, SMALL_CELLS - first));
      if (random_below (&rng, 4) == 0)
        continue;
      e = data (name, first, n);
      assert_int_equal (small_tree_append (&t.tree, last, &e), 0);
      small_tree_note (&t, first, n, name);
      if (turn == 0)
        small_tree_check (&t.tree);
    }
    small_tree_trim (&t.tree);
    small_tree_check (&t.tree);
    compare_small_tree (&t.tree, t.map, t.deltas);
    play_small_tree (&t, 500, &rng);
    small_tree_end (&t);
  }
}

/* How many levels an insert into the path's leaf would split. */
static unsigned
levels_to_split (const struct extent_tree *tree, const struct path *path)
{
  const struct tree_node *parent;
  unsigned at, level;

  if (path->node[0]->count + 2 <= LEAF_MAX)
    return 0;
  if (tree->height == 1)
    return 1;
  parent = path->node[1];
  at = path->slot[1];
  if (at > 0 && parent->children[at - 1]->count + SHIFT_MIN <= LEAF_MAX)
    return 0;
  if (at + 1u < parent->count &&
      parent->children[at + 1]->count + SHIFT_MIN <= LEAF_MAX)
    return 0;
  for (level = 1; level < tree->height; ++level)
    if (path->node[level]->count < BRANCH_MAX)
      break;
  return level;
}

/* Split an extent in the leaf where that costs most. */
static void
insert_at_the_worst_place (struct extent_tree *tree, uint64_t name)
{
  struct tree_position position = small_tree_find (tree, 0);
  struct extent e, found = { .range = { 0, 0 } };
  unsigned worst = 0;

  for (; small_tree_get (position, &e); small_tree_advance (&position)) {
    struct path path;
    unsigned levels;

    if (e.range.length < 3)
      continue;
    if (found.range.length > 0 && position.slot > 0)
      continue;                 /* one of each leaf */
    descend (tree, e.range.start, &path);
    levels = levels_to_split (tree, &path);
    if (found.range.length == 0 || levels > worst) {
      worst = levels;
      found = e;
    }
  }
  e = data (name, found.range.start + 1, 1);
  small_tree_insert (tree, &e);
}

/* Trees of all sizes; then all memory is gone, and the inserts come where
 * they need most. */
static void
the_worst_inserts_need_no_more_than_reserved (void **state)
{
  struct node_pool pool;
  uint64_t rng = seed;
  unsigned round, i;

  (void) state;
  node_pool_init (&pool, small_tree_node_size ());
  for (round = 0; round < 1500; ++round) {
    struct extent_tree tree = { .pool = &pool };
    unsigned extents = 1 + random_below (&rng, 1200);
    unsigned n = 1 + random_below (&rng, round % 10 ? 5 : 60);
    unsigned first = random_below (&rng, n + 1);
    bool random = round % 3;

    for (i = 0; i < extents; ++i) {
      uint64_t at = random ? random_below (&rng, 4000) : i;
      struct extent e = data (i, at * 200, 200);

      assert_int_equal (small_tree_reserve (&tree, 1), 0);
      small_tree_insert (&tree, &e);
    }
    small_tree_trim (&tree);
    free_spares (&tree, 0);
    assert_int_equal (small_tree_reserve (&tree, first), 0);
    assert_int_equal (small_tree_reserve (&tree, n - first), 0);
    for (i = 0; i < n; ++i)     /* asserts if there is no node */
      insert_at_the_worst_place (&tree, 10000 + i);
    small_tree_check (&tree);
    small_tree_clear (&tree);
  }
  node_pool_destroy (&pool);
}

/*-- Memory. --*/

#define MILLION 1000000

static double
bytes_per_extent (struct index *index)
{
  uint64_t extents = index_check (index);

  return (double) index_memory (index) / extents;
}

static void
assert_memory (struct index *index, const char *what, unsigned regions,
               double limit)
{
  double bytes = bytes_per_extent (index);

  print_message ("             %s, %u regions: %.1f bytes an extent\n", what,
                 regions, bytes);
  /* Fewer do not fill their slabs. */
  if (test_scale () >= 100)
    assert_true (bytes <= limit);
}

/* N extents of 4 KiB, from the start of the disk. */
static void
build (struct index *index, uint64_t n)
{
  for (unsigned region = 0; region < index_region_count (index); ++region) {
    struct index_builder builder;

    index_build_begin (&builder, index, region);
    for (uint64_t k = 0; k < n; ++k)
      if (index_region_of (index, k * 4096) == region) {
        const struct extent extent = data (k, k * 4096, 4096);

        assert_int_equal (index_build_add (&builder, &extent), 0);
      }
      else
        k += MB / 4096 - 1;     /* the whole chunk */
    index_build_end (&builder);
  }
}

static void
an_extent_costs_at_most_48_bytes (void **state)
{
  static const unsigned regions[] = { 1, 256 };
  const uint64_t many = scaled (MILLION, 1);
  unsigned i;
  uint64_t k;

  (void) state;
  for (i = 0; i < 2; ++i) {
    uint64_t rng = seed;
    struct index *index = new_index (regions[i]);

    /* Of 1 TiB: few come twice. */
    for (k = 0; k < many; ++k)
      insert (index, data (k, random_below (&rng, 1 << 28) * 4096, 4096));
    assert_memory (index, "random", regions[i], 48);

    /* Half of them go. */
    rng = seed;
    for (k = 0; k < many; ++k) {
      uint64_t at = random_below (&rng, 1 << 28) * 4096;

      if (k % 2 == 0)
        removed (index, range (at, 4096), data (k, at, 4096));
    }
    /* What that leaves free is here and there in the slabs, for others to
     * come. */
    assert_memory (index, "half removed", regions[i], 96);
    index_free (index);

    index = new_index (regions[i]);
    for (k = 0; k < many; ++k)
      insert (index, data (k, k * 4096, 4096));
    assert_memory (index, "ascending", regions[i], 40);
    index_free (index);

    index = new_index (regions[i]);
    build (index, many);
    assert_memory (index, "built", regions[i], 40);
    index_free (index);

    index = new_index (regions[i]);
    for (k = 0; k < many; ++k)
      insert (index, data (k, (many - k) * 4096, 4096));
    assert_memory (index, "descending", regions[i], 40);
    index_free (index);

    /* Whole chunks in random order, each ascending. */
    index = new_index (regions[i]);
    rng = seed;
    for (k = 0; k < many / 256; ++k) {
      uint64_t chunk = random_below (&rng, 1 << 20);
      unsigned j;

      for (j = 0; j < 256; ++j)
        insert (index, data (k, chunk * MB + j * 4096, 4096));
    }
    assert_memory (index, "chunks", regions[i], 48);
    index_free (index);
  }
}

static void
an_empty_index_keeps_no_memory (void **state)
{
  static const unsigned regions[] = { 1, 256 };
  unsigned i;
  uint64_t k;

  (void) state;
  for (i = 0; i < 2; ++i) {
    struct index *index = new_index (regions[i]);
    size_t before = index_memory (index);

    for (k = 0; k < 100000; ++k)
      insert (index, data (k, k * 7 % 100000 * 4096, 4096));
    for (k = 0; k < 100000; ++k)
      assert_int_equal (removed (index, range (k * 7 % 100000 * 4096, 4096),
                                 data (k, k * 7 % 100000 * 4096, 4096)), 1);
    assert_int_equal (index_check (index), 0);
    assert_int_equal (index_memory (index), before);

    /* Overwritten all at once, and that removed. */
    for (k = 0; k < 100000; ++k)
      insert (index, data (k, k * 4096, 4096));
    insert (index, no_data (EXTENT_ZERO, 1, 0, 100000 * 4096));
    assert_true (index_check (index) <= regions[i]);
    removed (index, range (0, 100000 * 4096),
             no_data (EXTENT_ZERO, 1, 0, 100000 * 4096));
    assert_int_equal (index_memory (index), before);
    index_free (index);
  }
}

/* What was over-reserved goes with the lock. */
static void
an_unused_reservation_is_given_back (void **state)
{
  struct index *index = new_index (4);
  size_t before;

  (void) state;
  insert (index, data (1, 0, 4096));
  before = index_memory (index);
  index_lock (index, range (0, 10 * MB));
  assert_int_equal (index_reserve_locked (index, range (0, 10 * MB), 1000), 0);
  assert_true (index_memory (index) > before + 1000 * 1000);
  index_unlock (index, range (0, 10 * MB));
  assert_int_equal (index_memory (index), before);
  index_free (index);
}

/* Reserve N inserts, let memory run out, do them: in the worst places
 * there are. */
static void
reserved_inserts_need_no_memory (void **state)
{
  static const unsigned sizes[] = { 1, 2, 3, 16, 64, 1000 };
  uint64_t rng = seed;
  unsigned i, j, round;

  (void) state;
  if (__real_aligned_alloc == NULL) {
    skip ();
    return;
  }
  for (round = 0; round < 60; ++round) {
    struct index *index = new_index (1);
    struct range all = range (0, 1 << 30);
    unsigned n = sizes[round % 6];
    uint64_t old = 0;

    if (round % 3 > 0) {
      /* A tree of full leaves of long extents. */
      old = 20000 * (round % 3);
      for (i = 0; i < old; ++i)
        insert (index, data (i, i * 16384, 16384));
    }
    index_lock (index, all);
    assert_int_equal (index_reserve_locked (index, all, n), 0);
    allocations_left = 0;
    for (j = 0; j < n; ++j) {
      /* Splits an extent in two: one insert that adds two. */
      struct extent e = data (500000 + j, random_below (&rng, 32768) * 16384
                              + 100 + j, 50);

      if (round % 2)            /* all in one place */
        e.range.start = 16384 * 77 + 1000 + j;
      index_insert_locked (index, &e);
    }
    allocations_left = -1;
    index_unlock (index, all);
    index_check (index);
    index_free (index);
  }
}

static void
running_out_of_memory_changes_nothing (void **state)
{
  unsigned long fail;
  uint64_t k;
  bool failed = true;

  (void) state;
  if (__real_aligned_alloc == NULL) {
    skip ();
    return;
  }

  allocations_left = 0;
  assert_null (index_new (4));
  allocations_left = -1;

  /* The reservation fails at its first allocation, its second... */
  for (fail = 0; failed; ++fail) {
    struct index *index = new_index (4);
    struct range r = range (0, 10 * MB);
    size_t before;
    uint64_t extents;

    for (k = 0; k < 2560; ++k)
      insert (index, data (k, k * 4096, 4096));
    extents = index_check (index);
    before = index_memory (index);

    index_lock (index, r);
    assert_int_equal (index_reserve_locked (index, r, 1), 0);
    allocations_left = fail;
    failed = index_reserve_locked (index, r, 40) == -ENOMEM;
    allocations_left = 0;
    /* The older reservation still holds. */
    for (k = 0; k < (failed ? 1 : 41); ++k) {
      struct extent e = data (5000, 100 + 4096 * 60 * k % (10 * MB), 100);

      index_insert_locked (index, &e);
    }
    allocations_left = -1;
    index_unlock (index, r);
    if (failed) {
      assert_int_equal (index_check (index), extents + 2);
      assert_true (index_memory (index) <= before + NODE_POOL_SLAB);
      assert_string_equal (pieces (index, range (0, 8192)),
                           "D0+0:100 D5000+0:100 D0+200:3896 D1+0:4096");
      for (k = 1; k < 2560; ++k) {
        struct extent e = data (k, k * 4096, 4096);

        index_lock (index, e.range);
        assert_true (index_is_locked (index, e.range, &e));
        index_unlock (index, e.range);
      }
    }
    index_free (index);
  }
  assert_true (fail > 40);
}

/* The common cases take no memory. */
static void
overwrites_do_not_allocate (void **state)
{
  struct index *index = new_index (256);
  unsigned long before;
  uint64_t k;

  (void) state;
  if (__real_aligned_alloc == NULL) {
    skip ();
    return;
  }
  for (k = 0; k < 100000; ++k)
    insert (index, data (k, k * 4096, 4096));
  before = allocations;
  for (k = 0; k < 100000; ++k)
    insert (index, data (100000 + k, k * 7919 % 100000 * 4096, 4096));
  assert_int_equal (allocations, before);
  index_free (index);
}

/*-- Threads. --*/

#define THREADS 4
#define SHARED_CHUNKS 16
#define BLOCK 4096
#define SHARED_BLOCKS (SHARED_CHUNKS * 256)

/* Guarded by the index's own locks: where those fail, ThreadSanitizer and
 * the comparison see it. */
static uint32_t shared[SHARED_BLOCKS];

struct worker {
  struct index *index;
  unsigned number;
  unsigned ops;
  unsigned fills_stale, fills_fresh;
};

static void
worker_write (struct worker *w, uint64_t *rng, uint32_t name)
{
  bool wide = random_below (rng, 20) == 0;
  uint32_t first = random_below (rng, SHARED_BLOCKS);
  uint32_t max = wide ? SHARED_BLOCKS - first : MIN (256 - first % 256, 16u);
  uint32_t n = 1 + random_below (rng, max), i;
  struct range r = range ((uint64_t) first * BLOCK, (uint64_t) n * BLOCK);
  struct extent e = wide ? no_data (EXTENT_ZERO, name, r.start, r.length)
                         : data (name, r.start, r.length);

  index_lock (w->index, r);
  assert_int_equal (index_reserve_locked (w->index, r, 1), 0);
  index_insert_locked (w->index, &e);
  for (i = first; i < first + n; ++i)
    shared[i] = name;
  index_unlock (w->index, r);
}

static void
worker_read (struct worker *w, uint64_t *rng)
{
  uint32_t first = random_below (rng, SHARED_BLOCKS);
  uint32_t n = 1 + random_below (rng, 256 - first % 256), i;
  struct range r = range ((uint64_t) first * BLOCK, (uint64_t) n * BLOCK);
  struct index_cursor cursor;
  struct piece piece;

  index_lock (w->index, r);
  index_walk_locked (&cursor, w->index, r, true);
  while (index_next_piece (&cursor, &piece)) {
    const struct extent *e = &piece.extent;
    uint64_t name = piece.is_hole ? 0
      : e->kind == EXTENT_DATA ? e->record_at / 64 : e->sequence;

    for (i = 0; i < piece.range.length / BLOCK; ++i)
      assert_int_equal (shared[piece.range.start / BLOCK + i], name);
  }
  index_unlock (w->index, r);
}

static void
worker_fill (struct worker *w, uint64_t *rng, uint32_t name)
{
  uint32_t first = random_below (rng, SHARED_BLOCKS), before;
  struct range r = range ((uint64_t) first * BLOCK, BLOCK);
  struct extent e = data (name, r.start, r.length);
  struct fill fill;
  bool fresh;

  index_lock (w->index, r);
  before = shared[first];
  index_fill_begin_locked (w->index, &fill, r);
  index_unlock (w->index, r);
  sched_yield ();
  index_lock (w->index, r);
  fresh = index_fill_end_locked (w->index, &fill);
  if (fresh)
    assert_true (shared[first] == before || shared[first] == 0);
  if (fresh) {
    assert_int_equal (index_reserve_locked (w->index, r, 1), 0);
    index_insert_locked (w->index, &e);
    shared[first] = name;
    w->fills_fresh++;
  }
  else
    w->fills_stale++;
  index_unlock (w->index, r);
}

static void
worker_remove (struct worker *w, uint64_t *rng)
{
  uint32_t chunk = random_below (rng, SHARED_CHUNKS);
  uint32_t first = chunk * 256 + random_below (rng, 256), i, name;
  struct range r = range (chunk * MB, MB);
  struct extent e;

  index_lock (w->index, r);
  name = shared[first];
  e = data (name, 0, BLOCK);
  if (index_remove_locked (w->index, r, &e) > 0)
    for (i = chunk * 256; i < chunk * 256 + 256; ++i)
      if (shared[i] == name)
        shared[i] = 0;
  index_unlock (w->index, r);
}

static void *
work (void *arg)
{
  struct worker *w = arg;
  uint64_t rng = seed + w->number;
  uint32_t name = 1 + w->number * 1000000;
  unsigned i;

  for (i = 0; i < w->ops; ++i, ++name) {
    switch (random_below (&rng, 8)) {
    case 0 ... 2: worker_write (w, &rng, name); break;
    case 3 ... 4: worker_read (w, &rng); break;
    case 5: worker_fill (w, &rng, name); break;
    case 6: worker_remove (w, &rng); break;
    case 7:
      (void) index_memory (w->index);
      if (random_below (&rng, 100) == 0)
        index_remove_device_range (w->index, UINT64_C (1) << 40, 1 << 20);
      break;
    }
  }
  return NULL;
}

static void
threads_see_one_index (void **state)
{
  static const unsigned regions[] = { 1, 8, 32 };
  unsigned i, t;

  (void) state;
  for (i = 0; i < 3; ++i) {
    struct index *index = new_index (regions[i]);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    memset (shared, 0, sizeof shared);
    for (t = 0; t < THREADS; ++t) {
      workers[t] = (struct worker) { .index = index, .number = t,
                                     .ops = 20000 };
      assert_int_equal (pthread_create (&threads[t], NULL, work,
                                        &workers[t]), 0);
    }
    for (t = 0; t < THREADS; ++t)
      pthread_join (threads[t], NULL);
    index_check (index);
    index_free (index);
  }
}

/* Ranges that share regions in every order: whoever locked them as they
 * come would soon wait for ever. */
static void *
lock_wide_ranges (void *arg)
{
  struct worker *w = arg;
  uint64_t rng = seed + w->number;
  unsigned i;

  for (i = 0; i < w->ops; ++i) {
    struct range r = range (random_below (&rng, 1000) * MB,
                            (1 + random_below (&rng, 8)) * MB);

    index_lock (w->index, r);
    index_unlock (w->index, r);
  }
  return NULL;
}

static void
wide_locks_do_not_deadlock (void **state)
{
  struct index *index = new_index (16);
  struct worker workers[THREADS];
  pthread_t threads[THREADS];
  unsigned t;

  (void) state;
  for (t = 0; t < THREADS; ++t) {
    workers[t] = (struct worker) { .index = index, .number = t,
                                   .ops = 50000 };
    assert_int_equal (pthread_create (&threads[t], NULL, lock_wide_ranges,
                                      &workers[t]), 0);
  }
  for (t = 0; t < THREADS; ++t)
    pthread_join (threads[t], NULL);
  index_free (index);
}

/* Two holders of overlapping ranges exclude each other, whatever the
 * number of chunks of each. */
static void *
count_under_lock (void *arg)
{
  struct worker *w = arg;
  uint64_t rng = seed + w->number;
  unsigned i;

  for (i = 0; i < w->ops; ++i) {
    uint64_t before = random_below (&rng, 40), behind = random_below (&rng, 40);
    struct range r = range ((50 - before) * MB, (before + 1 + behind) * MB);

    index_lock (w->index, r);
    shared[0]++;
    index_unlock (w->index, r);
  }
  return NULL;
}

static void
overlapping_ranges_exclude_each_other (void **state)
{
  static const unsigned regions[] = { 1, 4, 32 };
  unsigned i, t;

  (void) state;
  for (i = 0; i < 3; ++i) {
    struct index *index = new_index (regions[i]);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    shared[0] = 0;
    for (t = 0; t < THREADS; ++t) {
      workers[t] = (struct worker) { .index = index, .number = t,
                                     .ops = 20000 };
      assert_int_equal (pthread_create (&threads[t], NULL, count_under_lock,
                                        &workers[t]), 0);
    }
    for (t = 0; t < THREADS; ++t)
      pthread_join (threads[t], NULL);
    assert_int_equal (shared[0], THREADS * 20000);
    index_free (index);
  }
}

/*-- Time, on request. --*/

static double
now_ns (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static void
bench (unsigned regions, bool sparse)
{
  enum { N = 2000000 };
  uint64_t *at = malloc (MILLION * sizeof *at);
  uint64_t *order = malloc (N * sizeof *order);  /* of offsets in at */
  struct index *index = new_index (regions);
  uint64_t rng = seed, i, sum = 0;
  double start, inserts, lookups, overwrites, walks;

  assert_true (at && order);
  for (i = 0; i < MILLION; ++i)
    at[i] = random_below (&rng, sparse ? 1 << 28 : 1 << 20) * 4096;
  for (i = 0; i < N; ++i)
    order[i] = at[random_below (&rng, MILLION)];

  start = now_ns ();
  for (i = 0; i < MILLION; ++i) {
    struct extent e = data (i, at[i], 4096);

    index_lock (index, e.range);
    if (index_reserve_locked (index, e.range, 1) < 0)
      abort ();
    index_insert_locked (index, &e);
    index_unlock (index, e.range);
  }
  inserts = (now_ns () - start) / MILLION;

  start = now_ns ();
  for (i = 0; i < N; ++i) {
    struct range r = range (order[i], 4096);
    struct index_cursor cursor;
    struct piece piece;

    index_lock (index, r);
    index_walk_locked (&cursor, index, r, true);
    while (index_next_piece (&cursor, &piece))
      sum += piece.extent.record_at;
    index_unlock (index, r);
  }
  lookups = (now_ns () - start) / N;

  start = now_ns ();
  for (i = 0; i < N; ++i) {
    struct extent e = data (i, order[i], 4096);

    index_lock (index, e.range);
    if (index_reserve_locked (index, e.range, 1) < 0)
      abort ();
    index_insert_locked (index, &e);
    index_unlock (index, e.range);
  }
  overwrites = (now_ns () - start) / N;

  start = now_ns ();
  for (i = 0; i < 10000; ++i) {
    struct range r = range (order[i] / MB * MB, MB);
    struct index_cursor cursor;
    struct piece piece;

    index_lock (index, r);
    index_walk_locked (&cursor, index, r, true);
    while (index_next_piece (&cursor, &piece))
      sum += piece.extent.record_at;
    index_unlock (index, r);
  }
  walks = (now_ns () - start) / 10000;

  print_message ("             %s, %u regions: insert %.0f ns, lookup %.0f ns,"
                 " overwrite %.0f ns, walk of a chunk %.0f ns (%d)\n",
                 sparse ? "1 TiB" : "4 GiB", regions, inserts, lookups,
                 overwrites, walks, (int) (sum & 1));
  index_free (index);
  free (at);
  free (order);
}

static void
time_is_printed_on_request (void **state)
{
  (void) state;
  if (getenv ("PCACHE_BENCH") == NULL) {
    skip ();
    return;
  }
  bench (1, true);
  bench (64, true);
  bench (256, true);
  bench (1, false);
  bench (256, false);
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (an_extent_comes_back_as_it_was),
    cmocka_unit_test (an_overwrite_clips_and_splits_what_was_there),
    cmocka_unit_test (a_long_extent_is_seen_in_every_chunk),
    cmocka_unit_test (removal_takes_the_named_record_only),
    cmocka_unit_test (removal_clips_at_the_borders_of_its_range),
    cmocka_unit_test (a_device_range_goes_from_all_regions),
    cmocka_unit_test (only_what_was_read_is_marked_as_hit),
    cmocka_unit_test (a_fill_is_stale_after_an_insert_over_it),
    cmocka_unit_test (a_record_is_found_only_if_it_has_the_whole_range),
    cmocka_unit_test (one_region_is_walked_over_the_whole_disk),
    cmocka_unit_test (the_index_is_a_flat_array),
    cmocka_unit_test (a_large_index_is_a_flat_array),
    cmocka_unit_test (a_tall_tree_is_sound_after_every_step),
    cmocka_unit_test (an_appended_tree_is_as_good),
    cmocka_unit_test (the_worst_inserts_need_no_more_than_reserved),
    cmocka_unit_test (an_extent_costs_at_most_48_bytes),
    cmocka_unit_test (an_empty_index_keeps_no_memory),
    cmocka_unit_test (an_unused_reservation_is_given_back),
    cmocka_unit_test (reserved_inserts_need_no_memory),
    cmocka_unit_test (running_out_of_memory_changes_nothing),
    cmocka_unit_test (overwrites_do_not_allocate),
    cmocka_unit_test (threads_see_one_index),
    cmocka_unit_test (wide_locks_do_not_deadlock),
    cmocka_unit_test (overlapping_ranges_exclude_each_other),
    cmocka_unit_test (time_is_printed_on_request),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

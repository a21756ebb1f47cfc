/* SPDX-License-Identifier: BSD-3-Clause */

/* index: regions, their locks, and the fills under way in them.
 *
 *   chunk number --hash--> region: lock, tree, fills
 *
 * Every call begins by working out the regions of its range.  Nearly always
 * the range lies in one chunk, and that is one multiplication; a longer range
 * gets a set of regions, one bit each.  All calls, index_lock among them, work
 * out the same set, so what a call touches is locked. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "engine/extent_tree.h"
#include "engine/index.h"

/* CPUs fetch lines of 64 bytes in pairs. */
#define REGION_ALIGNMENT 128

/* A range of more chunks than this for each region is taken to touch
 * all regions: nearly true, and it bounds the time to find them. */
#define CHUNKS_PER_REGION 4

#define MAX_OFFSET (UINT64_C (1) << 63)
#define MAX_RECORD_AT (UINT64_C (1) << 50)

struct region {
  alignas (REGION_ALIGNMENT) pthread_mutex_t lock;
  bool locked;                  /* lock; so that _locked can assert it */
  struct fill *fills;           /* lock */
  struct extent_tree tree;      /* lock */
};

struct index {
  struct node_pool pool;
  unsigned nr_regions;
  unsigned shift;               /* makes a hash a region's number */
  struct region regions[];
};

struct index *
index_new (unsigned regions)
{
  struct index *index;
  size_t size = sizeof *index + regions * sizeof index->regions[0];
  unsigned i;

  assert (is_power_of_2 (regions) && regions <= INDEX_MAX_REGIONS);
  index = aligned_alloc (alignof (struct index),
                         round_up (size, alignof (struct index)));
  if (index == NULL)
    return NULL;
  memset (index, 0, size);
  index->nr_regions = regions;
  index->shift = 63 - __builtin_ctz (regions);
  node_pool_init (&index->pool, extent_tree_node_size ());
  for (i = 0; i < regions; ++i) {
    pthread_mutex_init (&index->regions[i].lock, NULL);
    index->regions[i].tree.pool = &index->pool;
  }
  return index;
}

void
index_free (struct index *index)
{
  unsigned i;

  if (index == NULL)
    return;
  for (i = 0; i < index->nr_regions; ++i) {
    struct region *region = &index->regions[i];

    assert (!region->locked && region->fills == NULL);
    extent_tree_clear (&region->tree);
    pthread_mutex_destroy (&region->lock);
  }
  node_pool_destroy (&index->pool);
  free (index);
}

size_t
index_memory (struct index *index)
{
  return sizeof *index + index->nr_regions * sizeof index->regions[0]
    + node_pool_memory (&index->pool);
}

/*-- The regions of a range. --*/

/* Multiplying by the golden ratio spreads neighbouring chunks evenly. */
static inline unsigned
region_number (const struct index *index, uint64_t chunk)
{
  uint64_t hash = chunk * UINT64_C (0x9e3779b97f4a7c15);

  return (hash >> 1) >> index->shift;
}

static inline struct region *
region_of_chunk (struct index *index, uint64_t chunk)
{
  return &index->regions[region_number (index, chunk)];
}

static inline bool
is_in_one_region (const struct index *index, struct range range)
{
  return index->nr_regions == 1 ||
    range.start / INDEX_CHUNK == (range_end (range) - 1) / INDEX_CHUNK;
}

static inline struct region *
region_of (struct index *index, uint64_t offset)
{
  return region_of_chunk (index, offset / INDEX_CHUNK);
}

/* An iteration over the distinct regions of a range, ascending. */
struct region_walk {
  struct index *index;
  struct region *only;
  unsigned word, words;         /* words: 0 if there is but one region */
  uint64_t bits[INDEX_MAX_REGIONS / 64];
};

static void
collect_regions (struct region_walk *walk, struct range range)
{
  struct index *index = walk->index;
  uint64_t chunk = range.start / INDEX_CHUNK;
  uint64_t last = (range_end (range) - 1) / INDEX_CHUNK;

  walk->words = (index->nr_regions + 63) / 64;
  if (last - chunk >= (uint64_t) CHUNKS_PER_REGION * index->nr_regions) {
    memset (walk->bits, 0xff, walk->words * sizeof walk->bits[0]);
    if (index->nr_regions < 64)
      walk->bits[0] = (UINT64_C (1) << index->nr_regions) - 1;
    return;
  }
  memset (walk->bits, 0, walk->words * sizeof walk->bits[0]);
  for (; chunk <= last; ++chunk) {
    size_t i = region_of_chunk (index, chunk) - index->regions;

    walk->bits[i / 64] |= UINT64_C (1) << i % 64;
  }
}

static inline void
region_walk_start (struct region_walk *walk, struct index *index,
                   struct range range)
{
  assert (range_is_valid (range, MAX_OFFSET));
  walk->index = index;
  walk->only = NULL;
  walk->word = walk->words = 0;
  if (is_in_one_region (index, range))
    walk->only = region_of (index, range.start);
  else
    collect_regions (walk, range);
}

static inline struct region *
region_walk_next (struct region_walk *walk)
{
  struct region *region = walk->only;

  walk->only = NULL;
  for (; region == NULL && walk->word < walk->words; walk->word++) {
    uint64_t *bits = &walk->bits[walk->word];

    if (*bits != 0) {
      region = &walk->index->regions[walk->word * 64 + __builtin_ctzll (*bits)];
      *bits &= *bits - 1;
      break;
    }
  }
  return region;
}

/*-- Locks. --*/

static inline void
region_lock (struct region *region)
{
  mutex_lock (&region->lock);
  region->locked = true;
}

static inline void
region_unlock (struct region *region)
{
  assert (region->locked);
  extent_tree_trim (&region->tree);
  region->locked = false;
  mutex_unlock (&region->lock);
}

void
index_lock (struct index *index, struct range range)
{
  struct region_walk walk;
  struct region *region;

  region_walk_start (&walk, index, range);
  while ((region = region_walk_next (&walk)) != NULL)
    region_lock (region);
}

void
index_unlock (struct index *index, struct range range)
{
  struct region_walk walk;
  struct region *region;

  region_walk_start (&walk, index, range);
  while ((region = region_walk_next (&walk)) != NULL)
    region_unlock (region);
}

void
index_await_locks (struct index *index)
{
  unsigned i;

  for (i = 0; i < index->nr_regions; ++i) {
    region_lock (&index->regions[i]);
    region_unlock (&index->regions[i]);
  }
}

void
index_prefetch (struct index *index, struct range range)
{
  struct region *region = region_of (index, range.start);

  region_lock (region);
  extent_tree_prefetch (&region->tree, range.start);
  /* Not region_unlock: nothing was reserved here, so there is nothing to trim, and
   * the tree would only be looked at once more. */
  region->locked = false;
  mutex_unlock (&region->lock);
}

/*-- Changes. --*/

int
index_reserve_locked (struct index *index, struct range range,
                      unsigned extents)
{
  struct region_walk walk;
  struct region *region;
  int r;

  region_walk_start (&walk, index, range);
  while ((region = region_walk_next (&walk)) != NULL) {
    assert (region->locked);
    /* On failure the regions before keep what they got until they are
     * unlocked: giving it back could break an older reservation. */
    r = extent_tree_reserve (&region->tree, extents);
    if (r < 0)
      return r;
  }
  return 0;
}

static inline void
check_extent (const struct index *index, const struct extent *extent)
{
  assert (range_is_valid (extent->range, MAX_OFFSET));
  assert (extent->range.length <= UINT32_MAX);
  if (extent->kind == EXTENT_DATA) {
    assert (is_in_one_region (index, extent->range));
    assert (extent->record_at % 64 == 0 && extent->record_at < MAX_RECORD_AT);
    assert (extent->record_length <= INDEX_MAX_RECORD);
    assert (extent->delta < extent->record_length &&
            extent->range.length <= extent->record_length - extent->delta);
  }
}

static void
make_fills_stale (struct region *region, struct range range)
{
  struct fill *fill;

  assert (region->locked);
  for (fill = region->fills; fill != NULL; fill = fill->next)
    if (range_overlaps (fill->range, range))
      fill->stale = true;
}

void
index_insert_locked (struct index *index, const struct extent *extent)
{
  struct region_walk walk;
  struct region *region;

  check_extent (index, extent);
  region_walk_start (&walk, index, extent->range);
  while ((region = region_walk_next (&walk)) != NULL) {
    make_fills_stale (region, extent->range);
    extent_tree_insert (&region->tree, extent);
  }
}

void
index_drop_locked (struct index *index, struct range range)
{
  struct region_walk walk;
  struct region *region;

  region_walk_start (&walk, index, range);
  while ((region = region_walk_next (&walk)) != NULL) {
    make_fills_stale (region, range);
    extent_tree_remove (&region->tree, range, NULL);
  }
}

void
index_make_fills_stale_locked (struct index *index, struct range range)
{
  assert (is_in_one_region (index, range));
  make_fills_stale (region_of (index, range.start), range);
}

/* The records of which EXTENT is a part: there is one. */
static struct record_match
match_record (const struct extent *extent)
{
  uint64_t name = extent->kind == EXTENT_DATA ? extent->record_at
                                              : extent->sequence;

  return (struct record_match) { extent->kind, name, name };
}

unsigned
index_remove_locked (struct index *index, struct range range,
                     const struct extent *extent)
{
  struct record_match match = match_record (extent);
  struct region_walk walk;
  struct region *region;
  unsigned removed = 0;

  region_walk_start (&walk, index, range);
  while ((region = region_walk_next (&walk)) != NULL) {
    assert (region->locked);
    removed += extent_tree_remove (&region->tree, range, &match);
  }
  return removed;
}

void
index_remove_device_range (struct index *index, uint64_t at, uint64_t length)
{
  struct record_match match = { EXTENT_DATA, at, at + length - 1 };
  unsigned i;

  assert (range_is_valid ((struct range) { at, length }, MAX_RECORD_AT));
  for (i = 0; i < index->nr_regions; ++i) {
    struct region *region = &index->regions[i];

    region_lock (region);
    extent_tree_remove (&region->tree, (struct range) { 0, MAX_OFFSET },
                        &match);
    region_unlock (region);
  }
}

/*-- Extents by the names of their records. --*/

struct extent_array {
  struct extent *extents;
  size_t count, room;
};

static int
array_add (struct extent_array *array, const struct extent *extent)
{
  /* The chunks of a long zero that follow each other. */
  if (array->count > 0 && extent->kind != EXTENT_DATA) {
    struct extent *last = &array->extents[array->count - 1];

    if (extent_name (last) == extent_name (extent)
        && range_end (last->range) == extent->range.start) {
      last->range.length += extent->range.length;
      return 0;
    }
  }
  if (array->count == array->room) {
    const size_t room = array->room ? array->room * 2 : 64;
    struct extent *more = realloc (array->extents, room * sizeof *more);

    if (more == NULL)
      return -ENOMEM;
    array->extents = more;
    array->room = room;
  }
  array->extents[array->count++] = *extent;
  return 0;
}

/* Those parts of EXTENT, found in REGION's tree, of which that tree knows. */
static int
add_own_parts (struct index *index, const struct region *region,
               const struct extent *extent, struct extent_array *array)
{
  struct extent part = *extent;
  uint64_t at = extent->range.start;
  int r = 0;

  /* What is left of a long zero may lie in one chunk, and that not be one of this
   * tree's, which then does not know what overwrote it. */
  if (is_in_one_region (index, extent->range))
    return region_of (index, at) == region ? array_add (array, extent) : 0;
  while (r == 0 && at < range_end (extent->range)) {
    const uint64_t end = MIN (round_down (at, INDEX_CHUNK) + INDEX_CHUNK,
                              range_end (extent->range));

    part.range = (struct range) { at, end - at };
    if (region_of (index, at) == region)
      r = array_add (array, &part);
    at = end;
  }
  return r;
}

int
index_find_records (struct index *index, uint64_t *names, size_t count,
                    struct extent **found, size_t *found_count)
{
  struct extent_array array = { 0 };
  int r = 0;

  qsort (names, count, sizeof *names, compare_u64);
  for (unsigned i = 0; i < index->nr_regions && r == 0; ++i) {
    struct region *region = &index->regions[i];
    struct tree_position position;
    struct extent extent;

    region_lock (region);
    position = extent_tree_find (&region->tree, 0);
    while (r == 0 && extent_tree_get (position, &extent)) {
      const uint64_t name = extent_name (&extent);

      if (bsearch (&name, names, count, sizeof *names, compare_u64))
        r = add_own_parts (index, region, &extent, &array);
      extent_tree_advance (&position);
    }
    region_unlock (region);
  }
  if (r < 0) {
    free (array.extents);
    return r;
  }
  *found = array.extents;
  *found_count = array.count;
  return 0;
}

/*-- Walks. --*/

void
index_walk_locked (struct index_cursor *cursor, struct index *index,
                   struct range range, bool mark_hit)
{
  struct region *region = region_of (index, range.start);
  struct tree_position position;

  assert (range_is_valid (range, MAX_OFFSET));
  assert (is_in_one_region (index, range));
  assert (region->locked);
  position = extent_tree_find (&region->tree, range.start);
  cursor->index = index;
  cursor->rest = range;
  cursor->mark_hit = mark_hit;
  cursor->node = position.node;
  cursor->slot = position.slot;
}

bool
index_next_piece (struct index_cursor *cursor, struct piece *piece)
{
  struct tree_position position = { cursor->node, cursor->slot };
  struct extent *extent = &piece->extent;
  uint64_t start = cursor->rest.start, end = range_end (cursor->rest);
  uint64_t piece_end = end;

  if (cursor->rest.length == 0)
    return false;

  piece->is_hole = true;
  if (extent_tree_get (position, extent)) {
    if (extent->range.start > start)
      piece_end = MIN (end, extent->range.start);
    else {
      piece->is_hole = false;
      piece_end = MIN (end, range_end (extent->range));
    }
  }
  piece->range = (struct range) { start, piece_end - start };
  cursor->rest = (struct range) { piece_end, end - piece_end };
  if (piece->is_hole)
    return true;

  if (extent->kind == EXTENT_DATA)
    extent->delta += start - extent->range.start;
  if (cursor->mark_hit && !extent->hit && extent->kind != EXTENT_LOST) {
    extent_tree_mark_hit (position);
    extent->hit = true;
  }
  extent->range = piece->range;
  if (cursor->rest.length > 0) {
    extent_tree_advance (&position);
    cursor->node = position.node;
    cursor->slot = position.slot;
  }
  return true;
}

bool
index_is_locked (struct index *index, struct range range,
                 const struct extent *extent)
{
  struct record_match match = match_record (extent);
  struct index_cursor cursor;
  struct piece piece;

  index_walk_locked (&cursor, index, range, false);
  while (index_next_piece (&cursor, &piece)) {
    struct record_match found;

    if (piece.is_hole)
      return false;
    found = match_record (&piece.extent);
    if (found.kind != match.kind || found.first != match.first)
      return false;
  }
  return true;
}

/*-- A copy. --*/

static void
scan_region (struct index_scan *scan, unsigned region)
{
  const struct tree_position position =
    extent_tree_find (&scan->index->regions[region].tree, 0);

  scan->region = region;
  scan->node = position.node;
  scan->slot = position.slot;
}

void
index_scan_start (struct index_scan *scan, struct index *index)
{
  scan->index = index;
  scan_region (scan, 0);
}

bool
index_scan_next (struct index_scan *scan, struct extent *extent)
{
  struct tree_position position = { scan->node, scan->slot };

  while (!extent_tree_get (position, extent)) {
    if (scan->region + 1 == scan->index->nr_regions)
      return false;
    scan_region (scan, scan->region + 1);
    position = (struct tree_position) { scan->node, scan->slot };
  }
  extent_tree_advance (&position);
  scan->node = position.node;
  scan->slot = position.slot;
  return true;
}

void
index_clear (struct index *index)
{
  for (unsigned i = 0; i < index->nr_regions; ++i) {
    struct region *region = &index->regions[i];

    region_lock (region);
    extent_tree_clear (&region->tree);
    region_unlock (region);
  }
}

/*-- Fills. --*/

void
index_fill_begin_locked (struct index *index, struct fill *fill,
                         struct range range)
{
  struct region *region = region_of (index, range.start);

  assert (range_is_valid (range, MAX_OFFSET));
  assert (is_in_one_region (index, range));
  assert (region->locked);
  fill->range = range;
  fill->stale = false;
  fill->next = region->fills;
  fill->link = &region->fills;
  if (fill->next)
    fill->next->link = &fill->next;
  region->fills = fill;
}

bool
index_fill_end_locked (struct index *index, struct fill *fill)
{
  assert (region_of (index, fill->range.start)->locked);
  *fill->link = fill->next;
  if (fill->next)
    fill->next->link = fill->link;
  fill->next = NULL;
  fill->link = NULL;
  return !fill->stale;
}

/*-- Build. --*/

unsigned
index_region_count (const struct index *index)
{
  return index->nr_regions;
}

unsigned
index_region_of (const struct index *index, uint64_t offset)
{
  return region_number (index, offset / INDEX_CHUNK);
}

void
index_regions_of (struct index *index, struct range range,
                  uint64_t bits[INDEX_MAX_REGIONS / 64])
{
  struct region_walk walk;
  struct region *region;

  memset (bits, 0, INDEX_MAX_REGIONS / 8);
  region_walk_start (&walk, index, range);
  while ((region = region_walk_next (&walk)) != NULL) {
    const size_t i = region - index->regions;

    bits[i / 64] |= UINT64_C (1) << i % 64;
  }
}

void
index_build_begin (struct index_builder *builder, struct index *index,
                   unsigned region)
{
  assert (region < index->nr_regions);
  region_lock (&index->regions[region]);
  assert (index->regions[region].tree.height == 0);
  assert (index->regions[region].fills == NULL);
  builder->index = index;
  builder->region = region;
}

int
index_build_add (struct index_builder *builder, const struct extent *extent)
{
  struct index *index = builder->index;

  check_extent (index, extent);
  return extent_tree_append (&index->regions[builder->region].tree,
                             builder->last, extent);
}

void
index_build_end (struct index_builder *builder)
{
  region_unlock (&builder->index->regions[builder->region]);
}

void *
index_node_take (struct index *index)
{
  assert (extent_tree_node_size () == INDEX_NODE_BYTES);
  return node_pool_take (&index->pool);
}

void
index_node_put (struct index *index, void *memory)
{
  node_pool_put (&index->pool, memory);
}

/*-- Check. --*/

uint64_t
index_check (struct index *index)
{
  uint64_t extents = 0;
  unsigned i;

  for (i = 0; i < index->nr_regions; ++i) {
    struct region *region = &index->regions[i];

    region_lock (region);
    extents += extent_tree_check (&region->tree);
    region_unlock (region);
  }
  return extents;
}

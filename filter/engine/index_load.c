/* SPDX-License-Identifier: BSD-3-Clause */

/* Inserted one by one, records that are scattered over the disk cost a few cache
 * misses each.  So they are first dealt out, each region's to its blocks:
 *
 *   worker 0   region 0: [15 items] -> [15 items]    region 1: ...
 *   worker 1   region 0: [15 items]                  region 1: ...
 *
 * and then the regions are built one after another (each by one worker), with all
 * that is needed in the CPU's cache: sort the region's items by where they start;
 * sweep over them, with those that cover the place where the sweep is in a heap,
 * newest on top; what is on top goes to the tree.
 *
 * An item that touches several regions waits in a list of its own.  When all
 * are there they are swept over in the same way, and what is left of each, which is not
 * hidden by another of these, is dealt out to all regions that it touches: no
 * more than will stand in the index, unless small items hide it.
 *
 * A log holds many records that newer ones have replaced.  So that these do not
 * take memory until the end, a worker sweeps over a bucket, or over his wide
 * items, whenever there are twice as many as the last time, and keeps what is not
 * hidden by others of the same bucket: what is hidden by one of them would be in
 * the end, too. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/mutation.h"
#include "base/workers.h"
#include "engine/index_load.h"

/* A record.  All that is data has at most INDEX_MAX_RECORD bytes. */
struct item {
  uint64_t start;
  uint64_t sequence;
  uint64_t value;               /* data: checksum; else: length */
  uint64_t place;               /* data: record_at << PLACE_SHIFT, which leaves room
                                 * for the length less one, and PLACE_ bits */
};

#define PLACE_KIND UINT64_C (3)
#define PLACE_HAS_CHECKSUM UINT64_C (4)
#define PLACE_HOLE UINT64_C (8) /* of no kind that is data */
#define PLACE_LENGTH_SHIFT 4
#define PLACE_SHIFT 14          /* of a multiple of 64 below 2^50 */

static_assert (sizeof (struct item) == 32, "memory per record");
static_assert (INDEX_MAX_RECORD <= 1 << (PLACE_SHIFT + 6 - PLACE_LENGTH_SHIFT),
               "room for the length");

/* In a node of the index, which is where the memory goes in the end. */
#define BLOCK_ITEMS (INDEX_NODE_BYTES / sizeof (struct item) - 1)

struct block {
  struct block *next;
  _Alignas (32) struct item item[BLOCK_ITEMS];
};

static_assert (sizeof (struct block) <= INDEX_NODE_BYTES, "memory per record");

/* So many items are kept without looking whether all of them count. */
#define COMPACT_MIN 8192

/* The items of one region. */
struct bucket {
  struct block *block;          /* all full but the first */
  uint32_t count;               /* in that */
  uint32_t full;                /* blocks */
  size_t limit;                 /* of items, before the next look */
};

struct key {
  uint64_t start;
  const struct item *item;
};

struct key_array {
  struct key *keys;
  size_t count, room;
};

struct item_array {
  struct item *items;
  size_t count, room;
  size_t limit;                 /* as a bucket's */
};

struct load_worker {
  _Alignas (64) struct bucket *buckets; /* of each region */
  struct item_array wide;       /* of several regions */
  /* While building: */
  struct key_array keys;        /* of the region */
  struct key *spare;            /* as much room as they have */
};

struct index_load {
  struct index *index;
  unsigned regions;
  unsigned workers;
  _Atomic unsigned next_region;
  _Atomic bool failed;          /* -ENOMEM */
  struct load_worker worker[];
};

static inline enum extent_kind
item_kind (const struct item *item)
{
  return item->place & PLACE_KIND;
}

static inline uint64_t
item_length (const struct item *item)
{
  return item_kind (item) == EXTENT_DATA
    ? (item->place >> PLACE_LENGTH_SHIFT) % INDEX_MAX_RECORD + 1
    : item->value;
}

static inline uint64_t
item_end (const struct item *item)
{
  return item->start + item_length (item);
}

static inline bool
is_newer (const struct item *a, const struct item *b)
{
  return (a->sequence > b->sequence) != MUTATION (NEWEST_LOSES);
}

/* --- adding ------------------------------------------------------------- */

struct index_load *
index_load_new (struct index *index, unsigned workers)
{
  const unsigned regions = index_region_count (index);
  const size_t size = sizeof (struct index_load)
    + workers * sizeof (struct load_worker);
  struct index_load *load = aligned_alloc (64, round_up (size, 64));

  if (load == NULL)
    return NULL;
  memset (load, 0, size);
  load->index = index;
  load->regions = regions;
  for (; load->workers < workers; load->workers++) {
    struct load_worker *w = &load->worker[load->workers];

    w->buckets = calloc (regions, sizeof *w->buckets);
    if (w->buckets == NULL) {
      index_load_free (load);
      return NULL;
    }
  }
  return load;
}

static void
empty_bucket (struct index_load *load, struct bucket *bucket)
{
  struct block *block;

  while ((block = bucket->block) != NULL) {
    bucket->block = block->next;
    index_node_put (load->index, block);
  }
  *bucket = (struct bucket) { 0 };
}

static void
free_region (struct index_load *load, unsigned region)
{
  for (unsigned i = 0; i < load->workers; i++)
    empty_bucket (load, load->worker[i].buckets + region);
}

void
index_load_clear (struct index_load *load)
{
  for (unsigned region = 0; region < load->regions; region++)
    free_region (load, region);
  for (unsigned i = 0; i < load->workers; i++)
    load->worker[i].wide.count = load->worker[i].wide.limit = 0;
}

void
index_load_free (struct index_load *load)
{
  if (load == NULL)
    return;
  index_load_clear (load);
  for (unsigned i = 0; i < load->workers; i++) {
    struct load_worker *w = &load->worker[i];

    free (w->buckets);
    free (w->wide.items);
    free (w->keys.keys);
    free (w->spare);
  }
  free (load);
}

static inline size_t
bucket_count (const struct bucket *bucket)
{
  return bucket->full * BLOCK_ITEMS + bucket->count;
}

/* NULL: out of memory. */
static inline struct item *
new_item (struct index_load *load, struct bucket *bucket)
{
  struct item *item;

  if (bucket->block == NULL || bucket->count == BLOCK_ITEMS) {
    struct block *block = index_node_take (load->index);

    if (block == NULL)
      return NULL;
    bucket->full += bucket->block != NULL;
    block->next = bucket->block;
    bucket->block = block;
    bucket->count = 0;
  }
  item = &bucket->block->item[bucket->count++];
  /* The next one comes when many others have been dealt out. */
  __builtin_prefetch (item + 2, 1);
  return item;
}

static struct item *
new_wide (struct load_worker *w)
{
  struct item_array *wide = &w->wide;

  if (wide->count == wide->room) {
    const size_t room = wide->room ? wide->room * 2 : 64;
    struct item *more = realloc (wide->items, room * sizeof *more);

    if (more == NULL)
      return NULL;
    wide->items = more;
    wide->room = room;
  }
  return &wide->items[wide->count++];
}

static int compact_bucket (struct index_load *load, struct load_worker *w,
                           struct bucket *bucket);
static int compact_wide (struct load_worker *w);

/* Where the next one goes, after a look at those that are there, if it is time. */
static inline struct item *
place_for (struct index_load *load, struct load_worker *w, struct range range)
{
  struct bucket *bucket;

  if (load->regions > 1
      && range.start / INDEX_CHUNK != (range_end (range) - 1) / INDEX_CHUNK) {
    if (w->wide.count >= MAX (w->wide.limit, (size_t) COMPACT_MIN)
        && compact_wide (w) < 0)
      return NULL;
    return new_wide (w);
  }
  bucket = &w->buckets[index_region_of (load->index, range.start)];
  if (bucket->count == BLOCK_ITEMS
      && bucket_count (bucket) >= MAX (bucket->limit, (size_t) COMPACT_MIN)
      && compact_bucket (load, w, bucket) < 0)
    return NULL;
  return new_item (load, bucket);
}

static inline int
add_item (struct index_load *load, unsigned worker, struct range range,
          uint64_t sequence, uint64_t value, uint64_t place)
{
  struct item *item;

  assert (worker < load->workers);
  item = place_for (load, &load->worker[worker], range);
  if (item == NULL)
    return -ENOMEM;
  /* Not made elsewhere and copied: that copy would wait for the stores. */
  item->start = range.start;
  item->sequence = sequence;
  item->value = value;
  item->place = place;
  return 0;
}

int
index_load_add (struct index_load *load, unsigned worker,
                const struct extent *extent, uint64_t sequence)
{
  const uint64_t kind = extent->kind;

  if (kind != EXTENT_DATA) {
    assert (extent->sequence == sequence);
    return add_item (load, worker, extent->range, sequence,
                     extent->range.length, kind);
  }
  assert (extent->delta == 0
          && extent->range.length == extent->record_length
          && extent->record_length <= INDEX_MAX_RECORD);
  return add_item (load, worker, extent->range, sequence, extent->checksum,
                   kind | extent->record_at << PLACE_SHIFT
                   | (uint64_t) (extent->record_length - 1)
                     << PLACE_LENGTH_SHIFT
                   | (extent->has_checksum ? PLACE_HAS_CHECKSUM : 0));
}

int
index_load_drop (struct index_load *load, unsigned worker, struct range range,
                 uint64_t sequence)
{
  return add_item (load, worker, range, sequence, range.length,
                   EXTENT_ZERO | PLACE_HOLE);
}

/* --- sorting ------------------------------------------------------------ */

static void
insertion_sort (struct key *keys, size_t count)
{
  for (size_t i = 1; i < count; i++) {
    const struct key key = keys[i];
    size_t at = i;

    for (; at > 0 && keys[at - 1].start > key.start; at--)
      keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

/* By start, digit by digit from the lowest, of those bits only in which they
 * differ: blocks of 4 KiB on a disk of 16 GiB are two digits apart. */
#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)
#define FEW_KEYS 64

static void
sort_by_digit (const struct key *from, struct key *to, size_t count,
               unsigned shift)
{
  uint32_t place[DIGITS] = { 0 }, sum = 0;

  for (size_t i = 0; i < count; i++)
    place[from[i].start >> shift & (DIGITS - 1)]++;
  for (unsigned digit = 0; digit < DIGITS; digit++) {
    const uint32_t n = place[digit];

    place[digit] = sum;
    sum += n;
  }
  for (size_t i = 0; i < count; i++)
    to[place[from[i].start >> shift & (DIGITS - 1)]++] = from[i];
}

static void
sort_keys (struct load_worker *w)
{
  struct key *keys = w->keys.keys;
  const size_t count = w->keys.count;
  uint64_t differ = 0;

  assert (count <= UINT32_MAX);
  if (count <= FEW_KEYS) {
    insertion_sort (keys, count);
    return;
  }
  for (size_t i = 1; i < count; i++)
    differ |= keys[i].start ^ keys[0].start;
  while (differ != 0) {
    const unsigned shift = __builtin_ctzll (differ);

    sort_by_digit (w->keys.keys, w->spare, count, shift);
    keys = w->spare;
    w->spare = w->keys.keys;
    w->keys.keys = keys;
    differ &= shift + DIGIT_BITS < 64 ? ~UINT64_C (0) << (shift + DIGIT_BITS)
      : 0;
  }
}

/* --- sweeping ------------------------------------------------------------ */

/* Over items sorted by where they start, piece by piece of what is newest. */
struct sweep {
  const struct key *next, *end;
  const struct item **heap;     /* those taken, newest on top.  Room for all */
  size_t count;
  uint64_t at;                  /* all before is swept over */
};

#define SWEEP_AHEAD 8           /* keys: their items come from all over */

struct swept {
  const struct item *item;
  uint64_t start, end;          /* part of the item's range */
};

static void
heap_push (struct sweep *sweep, const struct item *item)
{
  const struct item **heap = sweep->heap;
  size_t i = sweep->count++;

  for (; i > 0 && is_newer (item, heap[(i - 1) / 2]); i = (i - 1) / 2)
    heap[i] = heap[(i - 1) / 2];
  heap[i] = item;
}

static void
heap_pop (struct sweep *sweep)
{
  const struct item **heap = sweep->heap, *item = heap[--sweep->count];
  size_t i = 0, child;

  for (; (child = 2 * i + 1) < sweep->count; i = child) {
    if (child + 1 < sweep->count && is_newer (heap[child + 1], heap[child]))
      child++;
    if (!is_newer (heap[child], item))
      break;
    heap[i] = heap[child];
  }
  heap[i] = item;
}

/* ITEM covers the place where the sweep is, or ends before it. */
static void
take_item (struct sweep *sweep, const struct item *item)
{
  /* Of a block that was written a million times all start here: those that can
   * never be on top again do not stay. */
  if (sweep->count > 0 && is_newer (sweep->heap[0], item)
      && item_end (item) <= item_end (sweep->heap[0]))
    return;
  while (sweep->count > 0 && is_newer (item, sweep->heap[0])
         && item_end (sweep->heap[0]) <= item_end (item))
    heap_pop (sweep);
  heap_push (sweep, item);
}

static void
sweep_start (struct sweep *sweep, const struct key_array *keys,
             struct key *spare)
{
  *sweep = (struct sweep) {
    .next = keys->keys,
    .end = keys->keys + keys->count,
    .heap = (const struct item **) spare,
  };
}

/* Make the newest item at the first place that any covers, at or after
 * sweep->at, the top of the heap.  False: there is none. */
static bool
sweep_to_item (struct sweep *sweep)
{
  for (;;) {
    for (; sweep->next < sweep->end && sweep->next->start <= sweep->at;
         sweep->next++)
      take_item (sweep, sweep->next->item);
    while (sweep->count > 0 && item_end (sweep->heap[0]) <= sweep->at)
      heap_pop (sweep);
    if (sweep->count > 0)
      return true;
    if (sweep->next == sweep->end)
      return false;
    sweep->at = sweep->next->start;
  }
}

static bool
sweep_next (struct sweep *sweep, struct swept *piece)
{
  uint64_t end;

  while (sweep->count > 0 && item_end (sweep->heap[0]) <= sweep->at)
    heap_pop (sweep);
  if (sweep->end - sweep->next > SWEEP_AHEAD)
    __builtin_prefetch (sweep->next[SWEEP_AHEAD].item);
  /* Nearly all overlap with nothing. */
  if (sweep->count == 0 && sweep->next < sweep->end
      && (sweep->next + 1 == sweep->end
          || sweep->next[1].start >= item_end (sweep->next->item))) {
    piece->item = sweep->next->item;
    piece->start = sweep->next->start;
    piece->end = sweep->at = item_end (piece->item);
    sweep->next++;
    return true;
  }

  if (!sweep_to_item (sweep))
    return false;
  piece->item = sweep->heap[0];
  end = item_end (piece->item);
  for (; sweep->next < sweep->end && sweep->next->start < end; sweep->next++) {
    if (is_newer (sweep->next->item, piece->item)) {
      end = sweep->next->start;
      break;
    }
    if (item_end (sweep->next->item) > end)
      heap_push (sweep, sweep->next->item);
  }
  piece->start = sweep->at;
  piece->end = sweep->at = end;
  return true;
}

/* --- building ------------------------------------------------------------ */

/* Room for COUNT keys, and as many spare ones. */
static int
make_room (struct load_worker *w, size_t count)
{
  if (count <= w->keys.room)
    return 0;
  /* Nothing of it is needed any more. */
  free (w->keys.keys);
  free (w->spare);
  w->keys.room = count + count / 8;
  w->keys.keys = malloc (w->keys.room * sizeof *w->keys.keys);
  w->spare = malloc (w->keys.room * sizeof *w->spare);
  if (w->keys.keys && w->spare)
    return 0;
  w->keys.room = 0;
  return -ENOMEM;
}

static void
add_key (struct key_array *keys, const struct item *item)
{
  keys->keys[keys->count++] = (struct key) { item->start, item };
}

static inline void
prefetch_block (const struct block *block)
{
  if (block)
    for (unsigned i = 0; i < BLOCK_ITEMS; i += 2)
      __builtin_prefetch (&block->item[i]);
}

static void
collect_bucket (const struct bucket *bucket, struct key_array *keys)
{
  unsigned count = bucket->count;

  for (const struct block *b = bucket->block; b; b = b->next) {
    prefetch_block (b->next);
    for (unsigned j = 0; j < count; j++)
      add_key (keys, &b->item[j]);
    count = BLOCK_ITEMS;
  }
}

/* The part of what PIECE is of that is to be kept: of data all, since it is named as
 * a whole, so that it may be kept twice. */
static struct item
kept_item (const struct swept *piece)
{
  struct item item = *piece->item;

  if (item_kind (&item) != EXTENT_DATA) {
    item.start = piece->start;
    item.value = piece->end - piece->start;
  }
  return item;
}

/* Keep in BUCKET, which is W's, what is not hidden by others in it. */
static int
compact_bucket (struct index_load *load, struct load_worker *w,
                struct bucket *bucket)
{
  struct bucket kept = { 0 };
  const struct item *last = NULL;
  struct sweep sweep;
  struct swept piece;

  if (make_room (w, bucket_count (bucket)) < 0)
    return -ENOMEM;
  w->keys.count = 0;
  collect_bucket (bucket, &w->keys);
  sort_keys (w);
  sweep_start (&sweep, &w->keys, w->spare);
  while (sweep_next (&sweep, &piece)) {
    struct item *item;

    if (piece.item == last && item_kind (last) == EXTENT_DATA)
      continue;
    last = piece.item;
    item = new_item (load, &kept);
    if (item == NULL) {
      empty_bucket (load, &kept);
      return -ENOMEM;
    }
    *item = kept_item (&piece);
  }
  /* Pieces can be more than there were items. */
  if (bucket_count (&kept) < bucket_count (bucket)) {
    empty_bucket (load, bucket);
    *bucket = kept;
  }
  else
    empty_bucket (load, &kept);
  bucket->limit = 2 * bucket_count (bucket);
  return 0;
}

/* The same of the items that touch several regions, of which none is data. */
static int
compact_wide (struct load_worker *w)
{
  struct item_array *wide = &w->wide;
  struct item *kept = malloc (wide->count * sizeof *kept);
  struct sweep sweep;
  struct swept piece;
  size_t count = 0;

  if (kept == NULL || make_room (w, wide->count) < 0) {
    free (kept);
    return -ENOMEM;
  }
  w->keys.count = 0;
  for (size_t i = 0; i < wide->count; i++)
    add_key (&w->keys, &wide->items[i]);
  sort_keys (w);
  sweep_start (&sweep, &w->keys, w->spare);
  while (count < wide->count && sweep_next (&sweep, &piece))
    kept[count++] = kept_item (&piece);
  if (count < wide->count) {
    memcpy (wide->items, kept, count * sizeof *kept);
    wide->count = count;
  }
  wide->limit = 2 * wide->count;
  free (kept);
  return 0;
}

/* Deal out the items that touch several regions. */
static int
spread_wide (struct index_load *load)
{
  struct load_worker *w = &load->worker[0];
  struct sweep sweep;
  struct swept piece;
  size_t count = 0;
  int r;

  for (unsigned i = 0; i < load->workers; i++)
    count += load->worker[i].wide.count;
  r = make_room (w, count);
  if (r < 0)
    return r;
  w->keys.count = 0;
  for (unsigned i = 0; i < load->workers; i++)
    for (size_t j = 0; j < load->worker[i].wide.count; j++)
      add_key (&w->keys, &load->worker[i].wide.items[j]);
  sort_keys (w);
  sweep_start (&sweep, &w->keys, w->spare);
  while (sweep_next (&sweep, &piece)) {
    uint64_t bits[INDEX_MAX_REGIONS / 64];

    index_regions_of (load->index,
                      (struct range) { piece.start, piece.end - piece.start },
                      bits);
    for (unsigned region = 0; region < load->regions; region++)
      if (bits[region / 64] >> region % 64 & 1) {
        struct item *part = new_item (load, &w->buckets[region]);

        if (part == NULL)
          return -ENOMEM;
        *part = kept_item (&piece);
      }
  }
  return 0;
}

static inline int
build_piece (struct index_builder *builder, const struct swept *piece)
{
  const struct item *item = piece->item;
  const uint64_t place = item->place;
  struct extent extent;

  if (place & PLACE_HOLE)
    return 0;
  extent.range.start = piece->start;
  extent.range.length = piece->end - piece->start;
  extent.kind = place & PLACE_KIND;
  extent.hit = false;
  extent.has_checksum = place & PLACE_HAS_CHECKSUM;
  extent.record_at = round_down (place >> PLACE_SHIFT, 64);
  extent.record_length = item_length (item);
  extent.delta = piece->start - item->start;
  extent.checksum = item->value;
  extent.sequence = item->sequence;
  return index_build_add (builder, &extent);
}

static size_t
count_items (const struct index_load *load, unsigned region)
{
  size_t count = 0;

  for (unsigned i = 0; i < load->workers; i++)
    count += bucket_count (&load->worker[i].buckets[region]);
  return count;
}

static void
collect_keys (const struct index_load *load, unsigned region,
              struct key_array *keys)
{
  keys->count = 0;
  for (unsigned i = 0; i < load->workers; i++)
    collect_bucket (&load->worker[i].buckets[region], keys);
}

static int
build_region (struct index_load *load, struct load_worker *w, unsigned region)
{
  const size_t count = count_items (load, region);
  struct index_builder builder;
  struct sweep sweep;
  struct swept piece;
  int r;

  r = make_room (w, count);
  if (r < 0 || count == 0)
    return r;
  collect_keys (load, region, &w->keys);
  sort_keys (w);

  sweep_start (&sweep, &w->keys, w->spare);
  index_build_begin (&builder, load->index, region);
  while (r == 0 && sweep_next (&sweep, &piece))
    r = build_piece (&builder, &piece);
  index_build_end (&builder);
  free_region (load, region);
  return r;
}

static void
build_regions (void *opaque, unsigned worker)
{
  struct index_load *load = opaque;
  unsigned region;

  while (!atomic_load (&load->failed)
         && (region = atomic_fetch_add (&load->next_region, 1))
            < load->regions)
    if (build_region (load, &load->worker[worker], region) < 0)
      atomic_store (&load->failed, true);
}

int
index_load_build (struct index_load *load)
{
  int r = spread_wide (load);

  if (r < 0)
    return r;
  load->next_region = 0;
  load->failed = false;
  workers_run (load->workers, build_regions, load);
  index_load_clear (load);
  return load->failed ? -ENOMEM : 0;
}

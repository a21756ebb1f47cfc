/* SPDX-License-Identifier: BSD-3-Clause */

/* index: where the newest bytes of each logical range live.
 *
 * Extents never overlap; a range without one is a hole, to be read from
 * the backing store.  Nothing here is persistent: replay.c rebuilds it
 * from the log.
 *
 * The disk is cut into chunks of INDEX_CHUNK bytes and chunks are spread
 * over regions by a hash.  A region is one lock and one B+tree.  Extents
 * with data never cross a chunk boundary.  An extent without data (zero,
 * trim, lost) may be longer; it then stands in full in the tree of every
 * region that its range touches, and each tree is only ever consulted for
 * the chunks that belong to its region, so what a tree says about foreign
 * chunks does not matter.  That makes a 4 GiB zero as cheap as there are
 * regions, not as there are chunks.
 *
 * Locking: index_lock takes the locks of all regions of a range, in
 * ascending order.  That is the only way to hold more than one, so it cannot
 * deadlock.  Functions named _locked want the range they are given locked,
 * by itself or as a part of a longer one.  Inside a region's lock the
 * log's head locks may be taken, and what lies beneath these, and that of the
 * nodes' memory.
 *
 * Memory is only taken by index_new, index_reserve_locked, index_build_add and
 * index_node_take.  An extent costs 32 bytes, and 40 to 44 with what is free in
 * the tree's nodes (extent_tree.c); an empty tree keeps nothing. */

#ifndef PCACHE_INDEX_H
#define PCACHE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"

#define INDEX_CHUNK (UINT64_C (1) << 20)
#define INDEX_MAX_RECORD 65536  /* bytes of data one extent may refer to */
#define INDEX_MAX_REGIONS 1024
#define INDEX_MAX_HEIGHT 10     /* of a region's tree */
#define INDEX_NODE_BYTES 512    /* of one of its nodes */

enum extent_kind {
  EXTENT_DATA,
  EXTENT_ZERO,
  EXTENT_TRIM,
  EXTENT_LOST,                  /* dirty data that can no longer be read */
};

/* What a range of the disk maps to.  The range may be a part of what the
 * record covered: its bytes are then at record_at + delta.  Fields of other
 * kinds are ignored on the way in and 0 on the way out. */
struct extent {
  struct range range;           /* logical; length < 2^32, end <= 2^63 */
  enum extent_kind kind;
  bool has_checksum;            /* data only */
  bool hit;                     /* read since it came */
  /* EXTENT_DATA: */
  uint64_t record_at;           /* where the record's data starts on the
                                 * device; multiple of 64, below 2^50.  Names
                                 * the record as long as its segment lives. */
  uint32_t record_length;       /* 1..INDEX_MAX_RECORD */
  uint32_t delta;               /* of the first byte, within the record */
  uint64_t checksum;            /* of the whole record's data */
  /* the other kinds: */
  uint64_t sequence;            /* names the record */
};

/* The name of the record that EXTENT is a part of, in one number. */
static inline uint64_t
extent_name (const struct extent *extent)
{
  return extent->kind == EXTENT_DATA ? extent->record_at
    : extent->sequence | UINT64_C (1) << 63;
}

struct index;

/* REGIONS is a power of two, INDEX_MAX_REGIONS at most.  NULL when out
 * of memory. */
extern struct index *index_new (unsigned regions);
extern void index_free (struct index *index);

/* Bytes of DRAM in use, for status.  Takes no lock. */
extern size_t index_memory (struct index *index);

/* Unlock with the same range.  A range of many more chunks than there are
 * regions locks them all. */
extern void index_lock (struct index *index, struct range range);
extern void index_unlock (struct index *index, struct range range);

/* The start of RANGE will soon be mapped anew by this thread, which has other things
 * to do first: fetch what that needs into the CPU's cache meanwhile.  Takes the
 * lock for a moment. */
extern void index_prefetch (struct index *index, struct range range);

/* Whoever has any region locked when this is called has let go of it when it
 * returns. */
extern void index_await_locks (struct index *index);

/* Make sure that EXTENTS later calls of index_insert_locked for extents
 * in RANGE, or clips by them, need no memory.  0, or -ENOMEM with nothing
 * changed.  Holds until the range is unlocked.
 *
 * Reservations add up, and each insert uses up one in the regions it touches.
 * As the memory is set aside in every region of RANGE, whoever inserts much
 * had better reserve chunk by chunk. */
extern int index_reserve_locked (struct index *index, struct range range,
                                 unsigned extents);

/* Map extent->range to EXTENT; whatever was there before is replaced, clipped
 * or split.  Fills under way that overlap become stale.  Cannot fail:
 * index_reserve_locked came before. */
extern void index_insert_locked (struct index *index,
                                 const struct extent *extent);

/* Make RANGE a hole, whatever it was mapped to.  Fills under way that overlap
 * become stale.  Cannot fail: index_reserve_locked came before, for one. */
extern void index_drop_locked (struct index *index, struct range range);

/* Fills under way that overlap RANGE, in one chunk, become stale. */
extern void index_make_fills_stale_locked (struct index *index,
                                           struct range range);

/* True if the whole of RANGE (in one chunk) is mapped to the record that
 * EXTENT names. */
extern bool index_is_locked (struct index *index, struct range range,
                             const struct extent *extent);

/* Unmap those parts of RANGE that are mapped to the record EXTENT names
 * (by record_at for data, by sequence and kind otherwise).  Returns the number
 * of extents that went or were clipped, in each region that had them.
 *
 * Never needs memory if RANGE is the record's whole range, nor if it reaches to
 * the start or the end of each extent it touches: those inside go, those
 * crossing one border are clipped.  Only an extent that begins before RANGE
 * and ends after it becomes two: who asks for that has reserved one insert
 * before (asserted when memory is needed). */
extern unsigned index_remove_locked (struct index *index, struct range range,
                                     const struct extent *extent);

/* Unmap every data extent whose record starts in [at, at + length) of the
 * device: for a segment whose records cannot be enumerated any more.  Takes the
 * locks itself, one region after another, and reads the whole index. */
extern void index_remove_device_range (struct index *index, uint64_t at,
                                       uint64_t length);

/* All that is mapped to records of these COUNT names (which are sorted): a new
 * array of *found_count extents, in no particular order; of the caller's.
 * Takes the locks itself, one region after another, and reads the whole index.
 * 0 or -ENOMEM. */
extern int index_find_records (struct index *index, uint64_t *names,
                               size_t count, struct extent **found,
                               size_t *found_count);

/* One piece of a range: an extent clipped to what was asked (delta moved
 * along), or a hole. */
struct piece {
  bool is_hole;
  struct range range;
  struct extent extent;         /* not for holes; .range is piece.range */
};

struct tree_node;

struct index_cursor {
  struct index *index;
  struct range rest;            /* not yet walked */
  bool mark_hit;
  struct tree_node *node;       /* the index's: the next extent, if any */
  unsigned slot;
};

/* Walk RANGE, which lies in one chunk (or anywhere, if the index has but
 * one region), in ascending order: every byte is in exactly one piece.
 * The range stays locked, and the index unchanged, from the start to the
 * last call.  mark_hit: extents seen are marked as hit, unless they are
 * lost.
 *
 *   index_walk_locked (&cursor, index, range, mark_hit);
 *   while (index_next_piece (&cursor, &piece)) ...
 */
extern void index_walk_locked (struct index_cursor *cursor,
                               struct index *index, struct range range,
                               bool mark_hit);
extern bool index_next_piece (struct index_cursor *cursor,
                              struct piece *piece);

/* A read from the backing store on its way into the cache.  It is entered
 * under the lock of its range, in the same hold in which the range was seen to
 * be a hole; the lock is then let go while the backing store is read.  If
 * anything was inserted over the range in the meantime, what was read may be
 * old, and the fill is stale: give the bytes to the reader, do not cache
 * them. */
struct fill {
  struct range range;           /* in one chunk */
  bool stale;
  struct fill *next, **link;    /* the index's */
};

extern void index_fill_begin_locked (struct index *index, struct fill *fill,
                                     struct range range);
/* Takes the fill out again; true if it is still fresh.  Must be called for
 * each begin.  To cache the bytes, insert in the same hold of the lock. */
extern bool index_fill_end_locked (struct index *index, struct fill *fill);

/* Filling an empty index: each region by itself, with extents in ascending order.
 * Several threads may each fill a region of their own.
 *
 *   index_build_begin (&builder, index, region);
 *   while (...)
 *     r = index_build_add (&builder, &extent);
 *   index_build_end (&builder);
 *
 * It takes the memory of the extents and no more, some 36 bytes each.  Far faster
 * than inserting them one by one, in whatever order. */
struct index_builder {
  struct index *index;
  unsigned region;
  struct tree_node *last[INDEX_MAX_HEIGHT];     /* the index's */
};

extern unsigned index_region_count (const struct index *index);

/* The region of the chunk in which OFFSET lies. */
extern unsigned index_region_of (const struct index *index, uint64_t offset);

/* Set the bits of the regions that have a chunk of RANGE: an extent without data
 * stands in all of them. */
extern void index_regions_of (struct index *index, struct range range,
                              uint64_t bits[INDEX_MAX_REGIONS / 64]);

/* Locks the region, which is empty. */
extern void index_build_begin (struct index_builder *builder,
                               struct index *index, unsigned region);
/* EXTENT begins at or after the end of the last one.  0; -ENOMEM: what was added
 * before is there. */
extern int index_build_add (struct index_builder *builder,
                            const struct extent *extent);
extern void index_build_end (struct index_builder *builder);

/* INDEX_NODE_BYTES bytes from where the index takes its memory, for whoever gathers what
 * is to be built: it then serves the index.  NULL: out of memory. */
extern void *index_node_take (struct index *index);
extern void index_node_put (struct index *index, void *memory);

/* All extents as they stand in the trees, region after region, ascending in
 * each, for whoever keeps a copy of them.  Nobody else uses the index meanwhile.
 *
 *   index_scan_start (&scan, index);
 *   while (index_scan_next (&scan, &extent)) ... scan.region ... */
struct index_scan {
  struct index *index;
  unsigned region;              /* where the last one stands */
  struct tree_node *node;
  unsigned slot;
};

extern void index_scan_start (struct index_scan *scan, struct index *index);
extern bool index_scan_next (struct index_scan *scan, struct extent *extent);

/* Nobody else uses the index meanwhile. */
static inline bool
index_is_empty (struct index *index)
{
  struct index_scan scan;
  struct extent extent;

  index_scan_start (&scan, index);
  return !index_scan_next (&scan, &extent);
}

/* Unmap everything, whatever it was. */
extern void index_clear (struct index *index);

/* For tests: assert that all trees are sound.  Takes the locks itself.
 * Returns the number of extents, counted in each region that has them. */
extern uint64_t index_check (struct index *index);

#endif /* PCACHE_INDEX_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* segment: who may use which segment.
 *
 *   free --acquire--> open --seal--> sealed --free--> (freed) --release--> free
 *
 * Each arrow but the last is durable when its call returns; the header on
 * media is doubled (twin.h), each copy with a spare place.  Freeing advances the generation, so no set of an earlier
 * life is ever valid again and nothing needs erasing.  A freed segment is
 * handed out again only after segment_release: the caller waits for its
 * readers in between.
 *
 * A segment whose header cannot be written goes to the end of its list, so
 * that others have their turn before it is tried again. */

#ifndef PCACHE_SEGMENT_H
#define PCACHE_SEGMENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/format.h"
#include "engine/stats.h"
#include "engine/superblock.h"
#include "engine/twin.h"
#include "pmem/pmem.h"

struct segment {
  uint32_t id;
  enum segment_state state;
  bool damaged;                 /* neither copy of the header is valid */
  bool unordered;
  uint64_t generation;
  uint32_t sets;                /* sealed: the next four are set */
  uint64_t epoch_max;           /* of dirty records */
  uint64_t sequence_min, sequence_max;
  struct twin twin;             /* private */
  struct segment *next;         /* table->lock: in its list */
};

struct segment_list {
  struct segment *first, **last;
  uint32_t count;
};

struct segment_table {
  struct pmem *pmem;
  struct superblock *superblock;
  struct stats *stats;
  struct segment *segments;     /* superblock->geometry.segment_count */

  pthread_mutex_t lock;
  pthread_cond_t released;      /* a segment was released, or wake_all */
  struct segment_list free;     /* lock */
  struct segment_list sealed;   /* lock; in the order they were sealed */
  uint32_t open;                /* lock */
  uint64_t wakeups;             /* lock: so that no wake-up is missed */
};

/* Offset on the device of a segment. */
static inline uint64_t
segment_at (const struct superblock *sb, uint32_t id)
{
  return sb->geometry.first_segment_at
    + (uint64_t) id * sb->geometry.segment_size;
}

/* Write the headers of a new cache: all free. */
extern int segment_table_format (struct superblock *superblock);

/* Write the headers, all free, of segments that are to join a cache which has fewer than
 * SEGMENT_COUNT now.  Durable when it returns 0. */
extern int segment_table_extend (struct superblock *superblock,
                                 uint32_t segment_count, uint64_t generation);

/* Read all headers.  Damaged ones are marked; nothing is on a list yet:
 * recovery sorts that out with segment_adopt.  -ENOMEM. */
extern int segment_table_open (struct segment_table *table,
                               struct superblock *superblock,
                               struct pmem *pmem, struct stats *stats);
extern void segment_table_close (struct segment_table *table);

/* Put a free or sealed segment on its list as it is. */
extern void segment_adopt (struct segment_table *table,
                           struct segment *segment);

/* Take a free segment if more than KEEP are free.  0; -EAGAIN when there are
 * not; -EIO when headers cannot be written. */
extern int segment_acquire (struct segment_table *table, uint32_t keep,
                            struct segment **segment);

/* Everything in the segment is durable and no more will come. */
extern int segment_seal (struct segment_table *table, struct segment *segment,
                         uint32_t sets, uint64_t epoch_max,
                         uint64_t sequence_min, uint64_t sequence_max);

/* The same in memory only, where segment_seal failed: what is in the segment is
 * read, written back and evicted like any other.  On media it stays open, and the
 * next open finds the same; nobody gets it before its header can be
 * written. */
extern void segment_keep (struct segment_table *table, struct segment *segment,
                          uint32_t sets, uint64_t epoch_max,
                          uint64_t sequence_min, uint64_t sequence_max);

/* Make both copies of the header say the same again.  Failing to is no
 * reason not to go on. */
extern void segment_repair (struct segment_table *table,
                            struct segment *segment);

/* Give a segment whose header is damaged a new one: free, with this generation,
 * which none of the sets in it has.  0, or -errno: it is damaged as before.  On
 * no list afterwards. */
extern int segment_rebuild (struct segment_table *table,
                            struct segment *segment, uint64_t generation);

/* The first sealed segment, in sealing order, with epoch_max at or below
 * WRITTEN_BACK; NULL if there is none. */
extern struct segment *segment_find_evictable (struct segment_table *table,
                                               uint64_t written_back);

/* Let a sealed segment be the last to be found evictable. */
extern void segment_postpone (struct segment_table *table,
                              struct segment *segment);

/* Make an open or sealed segment free on media, with its generation
 * advanced.  On success it is on no list; on error nothing has changed. */
extern int segment_free (struct segment_table *table,
                         struct segment *segment);
extern void segment_release (struct segment_table *table,
                             struct segment *segment);

/* What is known of a segment at this moment. */
extern struct segment segment_snapshot (struct segment_table *table,
                                        uint32_t id);

/* The one that has been sealed the longest; false if there is none. */
extern bool segment_oldest_sealed (struct segment_table *table, uint32_t *id);

struct segment_counts {
  uint32_t free, open, sealed;
};

extern struct segment_counts segment_counts (struct segment_table *table);

/* Waiting for space without missing a wake-up:
 *   ticket = segment_ticket (table);
 *   if (try again fails) segment_wait (table, ticket, until_ms); */
extern uint64_t segment_ticket (struct segment_table *table);
extern void segment_wait (struct segment_table *table, uint64_t ticket,
                          uint64_t until_ms);
extern void segment_wake_all (struct segment_table *table);

#endif /* PCACHE_SEGMENT_H */

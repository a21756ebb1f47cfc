/* SPDX-License-Identifier: BSD-3-Clause */

/* superblock: whose cache this is, how it is laid out, and the control
 * block.
 *
 * Both are doubled (twin.h).  The superblock changes only when the cache is
 * bound to its backing store; the control block with every step of write-back
 * and every eviction. */

#ifndef PCACHE_SUPERBLOCK_H
#define PCACHE_SUPERBLOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/format.h"
#include "engine/twin.h"
#include "pmem/pmem.h"

struct geometry {
  uint64_t device_size;
  uint64_t segment_size;
  uint32_t segment_count;
  uint32_t segment_capacity;
  uint64_t segment_table_at[2];
  uint64_t first_segment_at;
};

/* The settings and marks of the control block. */
struct control {
  uint64_t tail_sequence;
  uint64_t written_back;
  uint32_t gc_percent;
  bool lost;                    /* some range may be lost */
};

struct superblock {
  struct pmem *pmem;
  struct geometry geometry;
  uint64_t instance;

  uint32_t usable_segments;     /* both copies know of so many.  Fewer than there
                                 * are: one was stored to when the cache grew, the
                                 * other not yet */
  bool start_is_foreign;        /* copy B is valid, but where copy A was there
                                 * is something else: perhaps the device was
                                 * put to another use */
  bool read_only;               /* superblock_look: a newer pcache made it, and
                                 * only that may change it */
  bool bound;                   /* the next two are set */
  uint64_t backing_size;
  uint8_t export_name[MEDIA_EXPORT_BYTES];
  uint32_t export_length;
  uint8_t backing_id[MEDIA_BACKING_ID_BYTES];
  uint32_t backing_id_length;

  struct twin twin;             /* private */
  struct media_superblock media;

  pthread_mutex_t control_lock;
  struct twin control_twin;     /* control_lock */
  struct media_checkpoint checkpoint;   /* control_lock */
  /* What control_get gives; written under control_lock once it is durable.  Read
   * without: an update takes two syncs, and nobody should wait for them. */
  _Atomic uint64_t tail_sequence, written_back;
  _Atomic uint32_t gc_percent;
  _Atomic bool lost;
};

/* The smallest device for CACHE_MIN_SEGMENTS segments. */
extern uint64_t geometry_min_device_size (uint64_t segment_size);

/* Lay out a device.  -ENOSPC when it is too small. */
extern int geometry_make (struct geometry *geometry, uint64_t device_size,
                          uint64_t segment_size);

/* So many segments, laid out like this, would fit into DEVICE_SIZE bytes,
 * whatever the segment table has slots for. */
extern uint64_t geometry_room (const struct geometry *geometry,
                               uint64_t device_size);

enum superblock_verdict {
  SUPERBLOCK_OK,
  SUPERBLOCK_UNFORMATTED,       /* no superblock: blank where one would be */
  SUPERBLOCK_HALF_FORMATTED,    /* formatting was interrupted */
  SUPERBLOCK_CUT,               /* a cache like any other, but the device is
                                 * smaller; not reported */
  SUPERBLOCK_REFUSED,           /* anything else; the reason was reported */
};

/* Read and check superblock and control block.  Changes nothing. */
extern enum superblock_verdict
superblock_read (struct superblock *superblock, struct pmem *pmem);

/* The same for a mere reader, who need not know the features that only forbid
 * changes: then read_only is set. */
extern enum superblock_verdict
superblock_look (struct superblock *superblock, struct pmem *pmem);

/* Make a new cache: FORMATTING mark, control block, segment table (by
 * the callback, once the mark is durable), superblock.  A crash at any point leaves
 * the device as it was, or SUPERBLOCK_HALF_FORMATTED, or the new cache. */
extern int superblock_format (struct superblock *superblock,
                              struct pmem *pmem,
                              const struct geometry *geometry,
                              const uint8_t uuid[16], uint64_t instance,
                              int (*format_segments) (struct superblock *));

/* Make the cache belong to this backing store, durably. */
extern int superblock_bind (struct superblock *superblock,
                            uint64_t backing_size, const char *export,
                            const char *backing_id);

/* Let the cache have SEGMENT_COUNT segments, more than now, of which the headers of the
 * new ones say that they are free, durably.  0: on media; here nothing has changed,
 * it is to be read again.  -errno: the cache is used as it was; the next
 * superblock_read may find either. */
extern int superblock_grow (struct superblock *superblock,
                            uint32_t segment_count);

/* Make both copies say the same again, after a crash between the two or a
 * media error in one. */
extern int superblock_repair (struct superblock *superblock);

/* From now on count in STATS what media errors the control block survives. */
extern void superblock_count_errors (struct superblock *superblock,
                                     struct stats *stats);

extern void superblock_destroy (struct superblock *superblock);

/* Marks only move forward: the larger of old and new value is kept. */
extern int control_advance (struct superblock *superblock,
                            uint64_t tail_sequence, uint64_t written_back);
extern int control_set_gc_percent (struct superblock *superblock,
                                   uint32_t gc_percent);
/* To true before the first record that says "lost". */
extern int control_set_lost (struct superblock *superblock, bool lost);
extern struct control control_get (struct superblock *superblock);

/* What the control block says of a checkpoint.  All of the changes above make it
 * say that there is none. */
extern int control_set_checkpoint (struct superblock *superblock,
                                   const struct media_checkpoint *checkpoint);
extern struct media_checkpoint
control_checkpoint (struct superblock *superblock);

/* As it is on the device now.  From any thread. */
extern struct media_superblock superblock_media (struct superblock *superblock);

#endif /* PCACHE_SUPERBLOCK_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* image: a cache device that nobody has open, as it is now.
 *
 * Read through the engine's own border (superblock, twins, log_reader,
 * replay), so what counts, what is clean and what is damage is decided by the same
 * code as when the cache is opened; but nothing is stored.  Damage because of
 * which the filter would refuse the cache does not keep it from being looked
 * at. */

#ifndef PCACHE_IMAGE_H
#define PCACHE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/replay.h"
#include "pmem/pmem.h"

enum image_verdict {
  IMAGE_OK,
  IMAGE_RESCUE,                 /* the filter wants pcache-damaged=rescue */
  IMAGE_NO_CACHE,               /* none, or one that cannot be read at all */
};

struct image {
  struct engine engine;         /* no log, no backing store */
  struct replay replay;
  uint64_t *dirty;              /* names of dirty records, sorted */
  size_t dirty_count;
  const struct finding **findings;      /* by segment; NULL: nothing counts */
};

/* Look at what PMEM, which stays the caller's, holds.  0, or -errno when that cannot
 * be done.  What there is to say of it is reported.  image_close in any
 * case. */
extern int image_read (struct image *image, struct pmem *pmem,
                       enum image_verdict *verdict);
extern void image_close (struct image *image);

/* The record of EXTENT is not in the backing store. */
extern bool image_is_dirty (const struct image *image,
                            const struct extent *extent);
extern bool image_record_is_dirty (const struct image *image,
                                   const struct set *set,
                                   const struct record *record);

/* Walk what is cached, in ascending order:
 *
 *   image_walk_start (&cursor, image);
 *   while (image_walk_next (&cursor, &extent)) ... */
extern void image_walk_start (struct index_cursor *cursor,
                              struct image *image);
extern bool image_walk_next (struct index_cursor *cursor,
                             struct extent *extent);

/* The finding of a segment, or NULL if nothing in it counts. */
extern const struct finding *image_finding (const struct image *image,
                                            uint32_t id);

/* The damage may hide dirty data. */
extern bool image_hides_dirty (const struct image *image,
                               const struct finding *finding);

/* Segment that AT, a place on the device, lies in. */
extern uint32_t image_segment_of (const struct image *image, uint64_t at);

/* How a segment's space is used, in bytes. */
struct segment_use {
  uint64_t dirty;               /* data not in the backing store */
  uint64_t clean;               /* data that reads are answered with */
  uint64_t dead;                /* superseded data */
  uint64_t sets;
  uint64_t set_count, records, dirty_records;
};

/* An array of one per segment, of the caller's, or NULL when out of memory or
 * when the device can no longer be read. */
extern struct segment_use *image_use (struct image *image);

/* What is dirty, by epoch, ascending. */
struct epoch_use {
  uint64_t epoch, records, bytes;
};

/* A new array of *COUNT.  0 or -ENOMEM. */
extern int image_epochs (struct image *image, struct epoch_use **epochs,
                         size_t *count);

#endif /* PCACHE_IMAGE_H */

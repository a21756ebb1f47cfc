/* SPDX-License-Identifier: BSD-3-Clause */

/* snapshot: a cache device that nobody has open, as it is now.
 *
 * Read through the engine's own border (superblock, twins, log_reader,
 * replay), so what counts, what is clean and what is damage is decided by the same
 * code as when the cache is opened; but nothing is stored.  Damage because of
 * which the filter would refuse the cache does not keep it from being looked
 * at. */

#ifndef PCACHE_SNAPSHOT_H
#define PCACHE_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/replay.h"
#include "pmem/pmem.h"

enum snapshot_verdict {
  SNAPSHOT_OK,
  SNAPSHOT_RESCUE,                 /* the filter wants pcache-damaged=rescue */
  SNAPSHOT_NO_CACHE,               /* none, or one that cannot be read at all */
};

struct snapshot {
  struct engine engine;         /* no log, no backing store */
  struct replay replay;
  bool has_checkpoint;          /* that a start would look at */
  uint64_t *dirty;              /* names of dirty records, sorted */
  size_t dirty_count;
  const struct finding **findings;      /* by segment; NULL: nothing counts */
};

/* Look at what PMEM, which stays the caller's, holds.  0, or -errno when that cannot
 * be done.  What there is to say of it is reported.  snapshot_close in any
 * case. */
extern int snapshot_read (struct snapshot *snap, struct pmem *pmem,
                       enum snapshot_verdict *verdict);
extern void snapshot_close (struct snapshot *snap);

/* The record of EXTENT is not in the backing store. */
extern bool snapshot_is_dirty (const struct snapshot *snap,
                            const struct extent *extent);
extern bool snapshot_record_is_dirty (const struct snapshot *snap,
                                   const struct set *set,
                                   const struct record *record);

/* Walk what is cached, in ascending order:
 *
 *   snapshot_walk_start (&cursor, snap);
 *   while (snapshot_walk_next (&cursor, &extent)) ... */
extern void snapshot_walk_start (struct index_cursor *cursor,
                              struct snapshot *snap);
extern bool snapshot_walk_next (struct index_cursor *cursor,
                             struct extent *extent);

/* The finding of a segment, or NULL if nothing in it counts. */
extern const struct finding *snapshot_finding (const struct snapshot *snap,
                                            uint32_t id);

/* The damage may hide dirty data. */
extern bool snapshot_hides_dirty (const struct snapshot *snap,
                               const struct finding *finding);

/* Segment that AT, a place on the device, lies in. */
extern uint32_t snapshot_segment_of (const struct snapshot *snap, uint64_t at);

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
extern struct segment_use *snapshot_use (struct snapshot *snap);

/* What is dirty, by epoch, ascending. */
struct epoch_use {
  uint64_t epoch, records, bytes;
};

/* A new array of *COUNT.  0 or -ENOMEM. */
extern int snapshot_epochs (struct snapshot *snap, struct epoch_use **epochs,
                         size_t *count);

#endif /* PCACHE_SNAPSHOT_H */

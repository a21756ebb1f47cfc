/* SPDX-License-Identifier: BSD-3-Clause */

/* holes: ranges of which the backing store has the truth.
 *
 * A range becomes a hole again when its extents are evicted, which the tail makes
 * durable, or by a record (RECORD_HOLE), which makes every older record of the
 * range void at replay.  Only what is clean may be unmapped so: then all older
 * records of the range are written back as well, and nothing dirty is ever hidden.
 * That record is clean itself and needs no care at eviction: the tail moves over
 * it and over all that is older at once.
 *
 * A hole in the index is certain if a crash finds it, too, without a new
 * record. */

#ifndef PCACHE_HOLES_H
#define PCACHE_HOLES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arith.h"

struct engine;

struct holes {
  _Atomic uint64_t uncertain_through;   /* until the tail has reached it */
  _Atomic unsigned under_way;   /* who has appended such records and not yet
                                 * made them durable */
};

/* Extents of records up to SEQUENCE are about to be unmapped with no record of
 * that.  Inline, as also who lies beneath says it. */
static inline void
holes_note_unmapped (struct holes *holes, uint64_t sequence)
{
  uint64_t before = atomic_load (&holes->uncertain_through);

  while (before < sequence
         && !atomic_compare_exchange_weak (&holes->uncertain_through, &before,
                                           sequence))
    ;
}

/* Before a write that goes around the cache: unmap RANGE, durably, but for what is
 * lost.  *lost: there is such.  -ESTALE: the path is not AROUND any more; less
 * may have been unmapped. */
extern int holes_begin_write (struct engine *engine, struct range range,
                              bool *lost);
/* The new bytes are in the backing store for good: unmap what is lost. */
extern int holes_end_lost (struct engine *engine, struct range range);

/* Unmap what of RANGE is clean, durably; fills under way are not cached.
 * *dropped_bytes were cached. */
extern int holes_invalidate (struct engine *engine, struct range range,
                             uint64_t *dropped_bytes);

#endif /* PCACHE_HOLES_H */

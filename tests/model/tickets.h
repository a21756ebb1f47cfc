/* SPDX-License-Identifier: BSD-3-Clause */

/* tickets: sectors that many threads write at once, and what may be found in
 * them.
 *
 * Every change of a run of sectors has a number, and a written sector says
 * the number and its own place, in all its bytes.  Each change notes when
 * it began and when it was acknowledged, on one clock for all.  So of what
 * is found in a sector can be said
 *   - that it is whole: one change's bytes, made for this place;
 *   - that it is not old: that no change of the sector that began after this
 *     one was acknowledged had itself been acknowledged before the read began
 *     (or been flushed before the crash).
 *
 *   found:  |--- a ---|
 *   newer:                |--- b ---|    read: stale
 *   newer:        |--- c ---|            read: may be a, the order is free
 *
 * Only a crash or a restart begins a new round: what is found then is where
 * the next one starts from.  All of it lies in memory that may be shared with
 * a child that will be killed. */

#ifndef PCACHE_MODEL_TICKETS_H
#define PCACHE_MODEL_TICKETS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/cache.h"
#include "model/harness.h"

#define SECTOR 512

struct ticket_op {
  _Atomic uint64_t end;         /* 0: not acknowledged */
  uint64_t start;
  uint32_t sector, count;
  bool zero, fua;
};

struct ticket_sector {
  _Atomic uint64_t acked;       /* start of the latest change that was
                                 * acknowledged in this round; 0: none */
  _Atomic uint64_t zero_end;    /* end of the latest acknowledged zero */
  _Atomic uint32_t zeroing;     /* zeros under way */
  uint64_t base;                /* number found when the round began; 0:
                                 * zeros */
};

struct tickets {
  uint64_t at;                  /* of sector 0 on the disk */
  uint32_t sectors;
  uint64_t capacity;            /* operations a round */
  uint64_t first;               /* number of op[0] */
  _Atomic uint64_t clock, count, flushed_at;
  struct ticket_sector *sector;
  struct ticket_op *op;
};

/* Shared with children.  The sectors are all zeros. */
extern struct tickets *tickets_new (uint64_t at, uint32_t sectors,
                                    uint64_t capacity);
extern void tickets_free (struct tickets *tickets);

/* No more operations fit this round. */
extern bool tickets_full (struct tickets *tickets);

/* Requests: any thread.  BUF has room for MAX_COUNT sectors.  Reads check what
 * they find.  0, or the error that the cache gave. */
extern int tickets_change (struct tickets *tickets, struct cache *cache,
                           uint32_t sector, uint32_t count, bool zero,
                           bool fua, uint8_t *buf);
extern int tickets_read (struct tickets *tickets, struct cache *cache,
                         uint32_t sector, uint32_t count, uint8_t *buf);
extern int tickets_flush (struct tickets *tickets, struct cache *cache);
/* A mixture of all of these. */
extern int tickets_anything (struct tickets *tickets, struct cache *cache,
                             struct rng *rng, uint32_t max_count,
                             uint8_t *buf);

/* Nobody is at work any more.  FOUND: the sectors as they are after a
 * restart, or after a crash.  Check them, and begin the next round. */
extern void tickets_begin_round (struct tickets *tickets,
                                 const uint8_t *found, bool crashed);
/* Check only. */
extern void tickets_check (struct tickets *tickets, const uint8_t *found,
                           const char *what);

#endif /* PCACHE_MODEL_TICKETS_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* collect: what the sets found by replay say, on its way to the index and to the
 * epoch queue.
 *
 * Sets come in any order, from several threads; sequence numbers decide what is
 * newest.  Nothing is in the index or the queue before collector_finish. */

#ifndef PCACHE_COLLECT_H
#define PCACHE_COLLECT_H

#include <stdint.h>

#include "engine/engine.h"

/* What of a record counts. */
struct collect_marks {
  uint64_t evicted_through;     /* the tail on media */
  uint64_t tail;                /* that, or higher because of damage */
  uint64_t written_back;
};

struct collector;

/* NULL: out of memory. */
extern struct collector *collector_new (struct engine *engine,
                                        unsigned workers);
extern void collector_free (struct collector *collector);

/* Take all that SET of SEGMENT says.  Each thread has a WORKER number of its own.
 * 0 or -ENOMEM. */
extern int collect_set (struct collector *collector, unsigned worker,
                        const struct collect_marks *marks,
                        const struct segment *segment,
                        const struct set *set);

/* Of SET only what the queue has to know of it.  As collect_set. */
extern int collect_dirty (struct collector *collector, unsigned worker,
                          const struct collect_marks *marks,
                          const struct segment *segment,
                          const struct set *set);

/* Forget all that was taken (but the ranges that may be lost: no mark changes
 * which). */
extern void collector_clear (struct collector *collector);

/* Fill the index, which is empty, the queue, and the counters.  0 or -ENOMEM. */
extern int collector_finish (struct collector *collector);

/* Only the queue: the index has come from elsewhere.  0; -ENOMEM: it is empty. */
extern int collector_fill_queue (struct collector *collector);

#endif /* PCACHE_COLLECT_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* stats: counters of everything the cache does, and how long requests took.
 *
 * What there is stands in status_list.h.  Counters only grow; gauges are computed
 * when asked (cache_get_status).  Counting takes no lock, and each thread counts
 * in memory of its own, so it can be done anywhere. */

#ifndef PCACHE_STATS_H
#define PCACHE_STATS_H

#include <stdint.h>

#include "engine/latency.h"
#include "engine/status_list.h"

enum stats_counter {
#define X(kind, name, unit, description) \
  STATUS_IF_COUNTED (kind, STAT_##name,)
  STATUS_LIST (X)
#undef X
  STATS_COUNT
};

enum stats_timer {
#define X(kind, name, unit, description) STATUS_IF_TIMED (kind, TIMER_##name,)
  STATUS_LIST (X)
#undef X
  STATS_TIMERS
};

struct stats;

/* NULL when out of memory. */
extern struct stats *stats_new (void);
extern void stats_free (struct stats *stats);

extern void stats_add (struct stats *stats, enum stats_counter which, uint64_t n);
extern uint64_t stats_get (struct stats *stats, enum stats_counter which);
extern const char *stats_name (enum stats_counter which);
extern const char *stats_description (enum stats_counter which);

/* Around a request, by one thread:
 *
 *   start = stats_begin (stats, which);
 *   ...
 *   stats_end (stats, which, start);
 *
 * Reading the clock twice would take 5 % of a write of 4 KiB to persistent memory.
 * So while requests of a thread are short (STATS_SHORT_NS), only one in
 * STATS_SAMPLE of them is timed, at random, and stands for those before it that
 * were not: percentiles and averages come out the same, up to chance.  From the
 * first that is longer each is timed.  0: this one is not. */
#define STATS_SHORT_NS 5000
#define STATS_SAMPLE 16

extern uint64_t stats_begin (struct stats *stats, enum stats_timer which);
extern void stats_note_time (struct stats *stats, enum stats_timer which,
                             uint64_t start);

static inline void
stats_end (struct stats *stats, enum stats_timer which, uint64_t start)
{
  if (start != 0)
    stats_note_time (stats, which, start);
}

/* Those not timed since the last that was are not in it yet. */
extern void stats_get_latency (struct stats *stats, enum stats_timer which,
                               struct latency *latency);

#endif /* PCACHE_STATS_H */

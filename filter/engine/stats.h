/* SPDX-License-Identifier: BSD-3-Clause */

/* stats: counters of everything the cache does, and how long requests took.
 *
 * What there is stands in status_list.h.  Counters only grow; gauges are computed
 * when asked (cache_get_status).  Counting takes no lock, and each thread counts
 * in memory of its own, so it can be done anywhere. */

#ifndef PCACHE_STATS_H
#define PCACHE_STATS_H

#include <stdint.h>
#include <time.h>

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

static inline uint64_t
stats_clock_ns (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* A request that took NS nanoseconds. */
extern void stats_time (struct stats *stats, enum stats_timer which, uint64_t ns);
extern void stats_get_latency (struct stats *stats, enum stats_timer which,
                               struct latency *latency);

#endif /* PCACHE_STATS_H */

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "engine/stats.h"

/* Threads are dealt out over this many sets of counters. */
#define LANES 16

struct lane {
  _Alignas (64) _Atomic uint64_t counter[STATS_COUNT];
};

struct stats {
  struct lane lane[LANES];
};

static _Atomic unsigned next_lane;
static _Thread_local unsigned my_lane;  /* 0: none yet, else lane + 1 */

static const struct {
  const char *name, *description;
} about[] = {
#define X(name, description) { #name, description },
  STATS_LIST (X)
#undef X
};

struct stats *
stats_new (void)
{
  struct stats *stats = aligned_alloc (_Alignof (struct stats),
                                       sizeof (struct stats));

  if (stats)
    memset (stats, 0, sizeof *stats);
  return stats;
}

void
stats_free (struct stats *stats)
{
  free (stats);
}

void
stats_add (struct stats *stats, enum stats_counter which, uint64_t n)
{
  if (my_lane == 0)
    my_lane = 1 + atomic_fetch_add_explicit (&next_lane, 1,
                                             memory_order_relaxed) % LANES;
  atomic_fetch_add_explicit (&stats->lane[my_lane - 1].counter[which], n,
                             memory_order_relaxed);
}

uint64_t
stats_get (struct stats *stats, enum stats_counter which)
{
  uint64_t sum = 0;

  for (unsigned i = 0; i < LANES; i++)
    sum += atomic_load_explicit (&stats->lane[i].counter[which],
                                 memory_order_relaxed);
  return sum;
}

const char *
stats_name (enum stats_counter which)
{
  return about[which].name;
}

const char *
stats_description (enum stats_counter which)
{
  return about[which].description;
}

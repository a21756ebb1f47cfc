/* SPDX-License-Identifier: BSD-3-Clause */

/* Each thread has a number, and in each struct stats a lane of that number for
 * itself alone: so counting needs no atomic read-modify-write, which would cost
 * more than all else that is done here.  When a thread ends, another takes its
 * number and goes on in its lanes; so there are as many lanes as there were
 * threads at one time, and what was counted stays.
 *
 * Threads beyond the last number share lane 0, and so does who finds no memory
 * for a lane; there the addition is atomic. */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "engine/stats.h"

#define LANES 256               /* with the shared one */
#define SHARED 0

struct times {
  _Atomic uint64_t sum_ns;
  _Atomic uint64_t bucket[LATENCY_BUCKETS];
};

struct lane {
  _Alignas (64) _Atomic uint64_t counter[STATS_COUNT];
  struct times times[STATS_TIMERS];
};

struct stats {
  struct lane *_Atomic lane[LANES];
  struct lane shared;
};

/* Numbers of threads. --------------------------------------------------- */

static _Thread_local unsigned my_number;        /* SHARED: none (yet) */
static _Thread_local bool has_asked;

static pthread_mutex_t numbers_lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_taken[LANES] = { [SHARED] = true };      /* numbers_lock */

/* Its destructor tells that a thread ends. */
static pthread_key_t end_key;
static bool has_key;

static void
give_back_number (void *is_taken_mine)
{
  HOLD_LOCK (&numbers_lock);
  *(bool *) is_taken_mine = false;
  /* Destructors of other keys may still count. */
  my_number = SHARED;
}

/* nbdkit unloads us when its threads have ended, but not those of plugins. */
__attribute__ ((constructor)) static void
make_key (void)
{
  has_key = pthread_key_create (&end_key, give_back_number) == 0;
}

__attribute__ ((destructor)) static void
delete_key (void)
{
  if (has_key)
    pthread_key_delete (end_key);
}

static void
ask_for_number (void)
{
  HOLD_LOCK (&numbers_lock);

  has_asked = true;
  for (unsigned i = 0; has_key && i < LANES; i++)
    if (!is_taken[i]) {
      if (pthread_setspecific (end_key, &is_taken[i]) != 0)
        return;
      is_taken[i] = true;
      my_number = i;
      return;
    }
}

/* Lanes. ------------------------------------------------------------------ */

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
  if (stats == NULL)
    return;
  for (unsigned i = 0; i < LANES; i++)
    free (stats->lane[i]);
  free (stats);
}

static struct lane *
new_lane (struct stats *stats)
{
  struct lane *lane;

  if (!has_asked)
    ask_for_number ();
  if (my_number == SHARED)
    return &stats->shared;
  lane = atomic_load_explicit (&stats->lane[my_number], memory_order_relaxed);
  if (lane)
    return lane;
  lane = aligned_alloc (_Alignof (struct lane), sizeof *lane);
  if (lane == NULL)
    return &stats->shared;
  memset (lane, 0, sizeof *lane);
  atomic_store_explicit (&stats->lane[my_number], lane, memory_order_release);
  return lane;
}

static inline struct lane *
my_lane (struct stats *stats)
{
  /* Lane SHARED is never set here. */
  struct lane *lane = atomic_load_explicit (&stats->lane[my_number],
                                            memory_order_relaxed);

  return __builtin_expect (lane != NULL, 1) ? lane : new_lane (stats);
}

static inline void
add (struct stats *stats, const struct lane *lane, _Atomic uint64_t *to,
     uint64_t n)
{
  if (__builtin_expect (lane == &stats->shared, 0))
    atomic_fetch_add_explicit (to, n, memory_order_relaxed);
  else
    atomic_store_explicit (to, atomic_load_explicit (to, memory_order_relaxed)
                           + n, memory_order_relaxed);
}

/* The I-th lane that there is, from *i on; NULL after the last. */
static struct lane *
next_lane (struct stats *stats, unsigned *i)
{
  while (*i < LANES) {
    const unsigned number = (*i)++;
    struct lane *lane = number == SHARED ? &stats->shared
      : atomic_load_explicit (&stats->lane[number], memory_order_acquire);

    if (lane)
      return lane;
  }
  return NULL;
}

/* Counters. ---------------------------------------------------------------- */

static const struct {
  const char *name, *description;
} about[] = {
#define X(kind, name, unit, description)                        \
  STATUS_IF_COUNTED (kind, { #name, description },)
  STATUS_LIST (X)
#undef X
};

void
stats_add (struct stats *stats, enum stats_counter which, uint64_t n)
{
  struct lane *lane = my_lane (stats);

  add (stats, lane, &lane->counter[which], n);
}

uint64_t
stats_get (struct stats *stats, enum stats_counter which)
{
  const struct lane *lane;
  uint64_t sum = 0;
  unsigned i = 0;

  while ((lane = next_lane (stats, &i)) != NULL)
    sum += atomic_load_explicit (&lane->counter[which], memory_order_relaxed);
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

/* Times. ------------------------------------------------------------------- */

void
stats_time (struct stats *stats, enum stats_timer which, uint64_t ns)
{
  struct lane *lane = my_lane (stats);
  struct times *times = &lane->times[which];

  add (stats, lane, &times->sum_ns, ns);
  add (stats, lane, &times->bucket[latency_bucket (ns)], 1);
}

void
stats_get_latency (struct stats *stats, enum stats_timer which,
                   struct latency *latency)
{
  const struct lane *lane;
  unsigned next = 0;

  memset (latency, 0, sizeof *latency);
  while ((lane = next_lane (stats, &next)) != NULL) {
    const struct times *times = &lane->times[which];

    latency->sum_ns += atomic_load_explicit (&times->sum_ns,
                                             memory_order_relaxed);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
      latency->bucket[i] += atomic_load_explicit (&times->bucket[i],
                                                  memory_order_relaxed);
  }
  /* Of the buckets, so that they add up to it. */
  for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
    latency->count += latency->bucket[i];
}

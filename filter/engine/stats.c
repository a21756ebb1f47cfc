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
#include <time.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "engine/stats.h"

#define LANES 256               /* with the shared one */
#define SHARED 0

struct times {
  /* The owner's; not of the shared lane. */
  uint32_t to_skip, skipped;    /* requests until the next that is timed */
  uint32_t random;
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

static THREAD_LOCAL unsigned my_number; /* SHARED: none (yet) */
static THREAD_LOCAL bool has_asked;

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

/* The lane of a thread that has none in STATS yet; not in line, as it is taken
 * once. */
__attribute__ ((cold, noinline)) static struct lane *
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

/* NULL: this thread has none in STATS, or none at all. */
static inline struct lane *
own_lane (struct stats *stats)
{
  /* Lane SHARED is never set here. */
  return atomic_load_explicit (&stats->lane[my_number], memory_order_relaxed);
}

/* To what only this thread adds. */
static inline void
add_own (_Atomic uint64_t *to, uint64_t n)
{
  atomic_store_explicit (to, atomic_load_explicit (to, memory_order_relaxed)
                         + n, memory_order_relaxed);
}

static void
add (struct stats *stats, const struct lane *lane, _Atomic uint64_t *to,
     uint64_t n)
{
  if (lane == &stats->shared)
    atomic_fetch_add_explicit (to, n, memory_order_relaxed);
  else
    add_own (to, n);
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

__attribute__ ((cold, noinline)) static void
add_first (struct stats *stats, enum stats_counter which, uint64_t n)
{
  struct lane *lane = new_lane (stats);

  add (stats, lane, &lane->counter[which], n);
}

void
stats_add (struct stats *stats, enum stats_counter which, uint64_t n)
{
  struct lane *lane = own_lane (stats);

  if (lane)
    add_own (&lane->counter[which], n);
  else
    add_first (stats, which, n);
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

static uint64_t
clock_ns (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

uint64_t
stats_begin (struct stats *stats, enum stats_timer which)
{
  struct lane *lane = own_lane (stats);

  if (lane) {
    struct times *times = &lane->times[which];

    if (times->skipped < times->to_skip) {
      times->skipped++;
      return 0;
    }
  }
  return clock_ns ();
}

/* 0 .. 2 * (STATS_SAMPLE - 1), so that nothing that goes by turns is missed, or
 * hit, each time. */
static uint32_t
choose_skip (struct times *times)
{
  times->random = times->random * 1664525 + 1013904223;
  return (uint64_t) times->random * (2 * STATS_SAMPLE - 1) >> 32;
}

void
stats_note_time (struct stats *stats, enum stats_timer which, uint64_t start)
{
  const uint64_t ns = clock_ns () - start;
  struct lane *lane = own_lane (stats) ?: new_lane (stats);
  struct times *times = &lane->times[which];
  uint64_t weight = 1;

  if (lane != &stats->shared) {
    weight += times->skipped;
    times->skipped = 0;
    times->to_skip = ns < STATS_SHORT_NS ? choose_skip (times) : 0;
  }
  add (stats, lane, &times->sum_ns, ns * weight);
  add (stats, lane, &times->bucket[latency_bucket (ns)], weight);
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

/* SPDX-License-Identifier: BSD-3-Clause */

/* flights: ranges that are being read around a miss, so that a slow plugin is
 * not asked for the same bytes by each of several readers. */

#ifndef PCACHE_FLIGHTS_H
#define PCACHE_FLIGHTS_H

#include <pthread.h>
#include <stdbool.h>

#include "base/arith.h"

struct flight {
  struct range range;
  struct flight *next, **link;  /* the list's */
};

struct flights {
  pthread_mutex_t lock;
  pthread_cond_t landed;
  struct flight *first;         /* lock */
};

extern void flights_init (struct flights *flights);
extern void flights_destroy (struct flights *flights);

/* Put FLIGHT in the list if no other overlaps RANGE.  Otherwise wait until
 * those that did are gone, and return false: what they read may be in the cache
 * now.  No lock is held, and no fill is under way. */
extern bool flights_enter (struct flights *flights, struct flight *flight,
                           struct range range);
extern void flights_leave (struct flights *flights, struct flight *flight);

#endif /* PCACHE_FLIGHTS_H */

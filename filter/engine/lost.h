/* SPDX-License-Identifier: BSD-3-Clause */

/* lost: which ranges may be mapped as lost.
 *
 * Nearly always there are none.  A range stands here from before it is
 * mapped as lost until eviction finds that it no longer is.  Locks itself. */

#ifndef PCACHE_LOST_H
#define PCACHE_LOST_H

#include <pthread.h>
#include <stddef.h>

#include "base/arith.h"

struct lost_ranges {
  pthread_mutex_t lock;
  struct range *ranges;         /* lock */
  size_t count, room;           /* lock */
};

extern void lost_init (struct lost_ranges *lost);
extern void lost_destroy (struct lost_ranges *lost);

/* 0, also if it is there already, or -ENOMEM. */
extern int lost_add (struct lost_ranges *lost, struct range range);
extern void lost_remove (struct lost_ranges *lost, struct range range);

/* The Ith range, in no particular order.  False if there are not so many. */
extern bool lost_get (struct lost_ranges *lost, size_t i,
                      struct range *range);

#endif /* PCACHE_LOST_H */

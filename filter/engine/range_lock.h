/* SPDX-License-Identifier: BSD-3-Clause */

/* range_lock: who works on which range of the disk, one at a time.
 *
 * Holds of ranges that overlap are granted in the order in which they were asked
 * for; others do not wait for each other.  A thread has one hold at most, and
 * no other lock while it waits for it.
 *
 * A hold can carry an epoch: what its owner has appended to the log, and not yet
 * finished, belongs to that one or to a later one. */

#ifndef PCACHE_RANGE_LOCK_H
#define PCACHE_RANGE_LOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arith.h"

#define RANGE_LOCK_NO_EPOCH UINT64_MAX

struct range_hold {
  struct range range;
  uint64_t epoch;               /* the lock's mutex */
  struct range_hold *next, *previous;   /* the lock's; in order of asking */
};

struct range_lock {
  pthread_mutex_t mutex;
  pthread_cond_t released;
  struct range_hold *first, *last;      /* mutex */
  _Atomic unsigned count;       /* of holds, granted or waiting; changed under
                                 * mutex */
};

extern void range_lock_init (struct range_lock *lock);
extern void range_lock_destroy (struct range_lock *lock);

extern void range_lock_acquire (struct range_lock *lock,
                                struct range_hold *hold, struct range range);
extern void range_lock_release (struct range_lock *lock,
                                struct range_hold *hold);

/* Is there any hold?  Whoever asked for one before this call is seen. */
static inline bool
range_lock_is_used (struct range_lock *lock)
{
  return atomic_load (&lock->count) > 0;
}

/* Is there a hold that overlaps RANGE?  Takes no lock but its own: may be called
 * with an index region held. */
extern bool range_lock_covers (struct range_lock *lock, struct range range);

/* Give HOLD the epoch that is open now, as OPEN_EPOCH says, which is asked in the
 * same hold of the mutex: whoever then finds no such epoch in a hold knows that
 * there will be none below the one that was open before he looked. */
extern void range_lock_begin_epoch (struct range_lock *lock,
                                    struct range_hold *hold,
                                    uint64_t (*open_epoch) (void *),
                                    void *opaque);
extern void range_lock_end_epoch (struct range_lock *lock,
                                  struct range_hold *hold);
/* The lowest epoch of all holds; RANGE_LOCK_NO_EPOCH if none has one. */
extern uint64_t range_lock_oldest_epoch (struct range_lock *lock);

#endif /* PCACHE_RANGE_LOCK_H */

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "engine/range_lock.h"

void
range_lock_init (struct range_lock *lock)
{
  *lock = (struct range_lock) { .mutex = PTHREAD_MUTEX_INITIALIZER };
  cond_init (&lock->released);
}

void
range_lock_destroy (struct range_lock *lock)
{
  pthread_cond_destroy (&lock->released);
  pthread_mutex_destroy (&lock->mutex);
}

static bool
must_wait_locked (const struct range_hold *hold)
{
  const struct range_hold *earlier;

  for (earlier = hold->previous; earlier; earlier = earlier->previous)
    if (range_overlaps (earlier->range, hold->range))
      return true;
  return false;
}

void
range_lock_acquire (struct range_lock *lock, struct range_hold *hold,
                    struct range range)
{
  HOLD_LOCK (&lock->mutex);

  *hold = (struct range_hold) {
    .range = range, .epoch = RANGE_LOCK_NO_EPOCH, .previous = lock->last,
  };
  if (lock->last)
    lock->last->next = hold;
  else
    lock->first = hold;
  lock->last = hold;
  atomic_fetch_add (&lock->count, 1);
  while (must_wait_locked (hold))
    pthread_cond_wait (&lock->released, &lock->mutex);
}

void
range_lock_release (struct range_lock *lock, struct range_hold *hold)
{
  HOLD_LOCK (&lock->mutex);

  if (hold->previous)
    hold->previous->next = hold->next;
  else
    lock->first = hold->next;
  if (hold->next)
    hold->next->previous = hold->previous;
  else
    lock->last = hold->previous;
  atomic_fetch_sub (&lock->count, 1);
  if (lock->first)
    pthread_cond_broadcast (&lock->released);
}

bool
range_lock_covers (struct range_lock *lock, struct range range)
{
  const struct range_hold *hold;

  if (!range_lock_is_used (lock))
    return false;
  HOLD_LOCK (&lock->mutex);
  for (hold = lock->first; hold; hold = hold->next)
    if (range_overlaps (hold->range, range))
      return true;
  return false;
}

void
range_lock_begin_epoch (struct range_lock *lock, struct range_hold *hold,
                        uint64_t (*open_epoch) (void *), void *opaque)
{
  HOLD_LOCK (&lock->mutex);

  hold->epoch = open_epoch (opaque);
}

void
range_lock_end_epoch (struct range_lock *lock, struct range_hold *hold)
{
  HOLD_LOCK (&lock->mutex);

  hold->epoch = RANGE_LOCK_NO_EPOCH;
}

uint64_t
range_lock_oldest_epoch (struct range_lock *lock)
{
  HOLD_LOCK (&lock->mutex);
  const struct range_hold *hold;
  uint64_t oldest = RANGE_LOCK_NO_EPOCH;

  for (hold = lock->first; hold; hold = hold->next)
    oldest = MIN (oldest, hold->epoch);
  return oldest;
}

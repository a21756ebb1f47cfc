/* SPDX-License-Identifier: BSD-3-Clause */

/* cleanup: release by scope.
 *
 *   CLEANUP_FREE char *name = strdup (s);
 *   HOLD_LOCK (&cache->lock);      -- until the end of the block
 */

#ifndef PCACHE_CLEANUP_H
#define PCACHE_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/thread.h"

static inline void
cleanup_free (void *ptr)
{
  free (*(void **) ptr);
}

static inline void
cleanup_close (int *fd)
{
  if (*fd >= 0)
    close (*fd);
}

static inline void
cleanup_unlock (pthread_mutex_t **lock)
{
  mutex_unlock (*lock);
}

static inline pthread_mutex_t *
cleanup_lock (pthread_mutex_t *lock)
{
  mutex_lock (lock);
  return lock;
}

#define CLEANUP_FREE __attribute__ ((cleanup (cleanup_free)))
#define CLEANUP_CLOSE __attribute__ ((cleanup (cleanup_close)))

#define HOLD_LOCK_NAME2(line) _held_##line
#define HOLD_LOCK_NAME(line) HOLD_LOCK_NAME2 (line)
#define HOLD_LOCK(lock)                                                 \
  __attribute__ ((cleanup (cleanup_unlock), unused))                    \
  pthread_mutex_t *HOLD_LOCK_NAME (__LINE__) = cleanup_lock (lock)

#endif /* PCACHE_CLEANUP_H */

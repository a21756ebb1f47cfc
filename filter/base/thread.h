/* SPDX-License-Identifier: BSD-3-Clause */

/* thread: mutexes that cannot fail quietly, and time that only goes
 * forward.
 *
 * Condition variables made by cond_init count on CLOCK_MONOTONIC, as
 * now_ms does. */

#ifndef PCACHE_THREAD_H
#define PCACHE_THREAD_H

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Of each thread, found without a call: the usual one of a module that is loaded
 * while the program runs is looked up by a function, each time, and made when it
 * is first touched.  There is little room for these, so: small ones. */
#ifdef __GLIBC__
#define THREAD_LOCAL                                                    \
  _Thread_local __attribute__ ((tls_model ("initial-exec")))
#else
#define THREAD_LOCAL _Thread_local
#endif

static inline void
mutex_lock (pthread_mutex_t *lock)
{
  int r = pthread_mutex_lock (lock);

  assert (r == 0);
  (void) r;
}

static inline void
mutex_unlock (pthread_mutex_t *lock)
{
  int r = pthread_mutex_unlock (lock);

  assert (r == 0);
  (void) r;
}

static inline void
cond_init (pthread_cond_t *cond)
{
  pthread_condattr_t attr;

  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (cond, &attr);
  pthread_condattr_destroy (&attr);
}

static inline uint64_t
now_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The same, up to a timer tick (10 ms at most) ago, and much cheaper. */
static inline uint64_t
coarse_now_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC_COARSE, &ts);
  return (uint64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Wait until COND is signalled or the clock reaches UNTIL_MS.  False when
 * the time is over. */
static inline bool
cond_wait_until (pthread_cond_t *cond, pthread_mutex_t *lock,
                 uint64_t until_ms)
{
  struct timespec ts = {
    .tv_sec = until_ms / 1000,
    .tv_nsec = (until_ms % 1000) * 1000000,
  };

  return pthread_cond_timedwait (cond, lock, &ts) != ETIMEDOUT;
}

#endif /* PCACHE_THREAD_H */

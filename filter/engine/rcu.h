/* SPDX-License-Identifier: BSD-3-Clause */

/* rcu: readers copy from segments; eviction waits for them before a segment is
 * reused.
 *
 * This is liburcu-bp.  ThreadSanitizer does not see how it orders things, so it
 * is told: what a reader did comes before the end of a wait that waited for
 * it, and what was done before a wait comes before readers that began after. */

#ifndef PCACHE_RCU_H
#define PCACHE_RCU_H

#include <urcu-bp.h>

#ifdef __SANITIZE_THREAD__
extern void __tsan_acquire (void *);
extern void __tsan_release (void *);
extern char rcu_tsan_readers, rcu_tsan_updaters;
#define RCU_TSAN_ACQUIRE(what) __tsan_acquire (&rcu_tsan_##what)
#define RCU_TSAN_RELEASE(what) __tsan_release (&rcu_tsan_##what)
#else
#define RCU_TSAN_ACQUIRE(what) ((void) 0)
#define RCU_TSAN_RELEASE(what) ((void) 0)
#endif

static inline void
readers_enter (void)
{
  rcu_read_lock ();
  RCU_TSAN_ACQUIRE (updaters);
}

static inline void
readers_leave (void)
{
  RCU_TSAN_RELEASE (readers);
  rcu_read_unlock ();
}

/* Everybody who was between readers_enter and readers_leave has left. */
static inline void
readers_wait (void)
{
  RCU_TSAN_RELEASE (updaters);
  synchronize_rcu ();
  RCU_TSAN_ACQUIRE (readers);
}

#endif /* PCACHE_RCU_H */

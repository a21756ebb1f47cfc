/* SPDX-License-Identifier: BSD-3-Clause */

/* lifecycle: from get_ready to cleanup.
 *
 * get_ready runs before nbdkit forks, where errors still reach the user:
 * there the cache device is opened, checked and replayed.  after_fork runs
 * in the process that serves, and must not fail.  The parent's copy of all
 * this does nothing when it exits. */

#ifndef PCACHE_LIFECYCLE_H
#define PCACHE_LIFECYCLE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/cache.h"

/* 0, or -1 after the reason was reported. */
extern int lifecycle_get_ready (int thread_model);
extern void lifecycle_after_fork (void);
extern void lifecycle_cleanup (void);

/* The engine, from get_ready to cleanup. */
extern struct cache *the_cache (void);

/* Can clients be served?  False when after_fork failed. */
extern bool lifecycle_is_running (void);

/* There is something new to look after. */
extern void lifecycle_wake (void);

/* When a drain that starts now has to end, in now_ms time. */
extern uint64_t lifecycle_drain_deadline (void);

/* Write back what is dirty, telling how far it has come.  As cache_drain. */
extern int lifecycle_drain (uint64_t until_ms);

extern uint64_t lifecycle_dirty_bytes (void);

#endif /* PCACHE_LIFECYCLE_H */

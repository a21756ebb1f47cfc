/* SPDX-License-Identifier: BSD-3-Clause */

/* workers: work that several threads do together, and then it is done. */

#ifndef PCACHE_WORKERS_H
#define PCACHE_WORKERS_H

#include <stdint.h>

#define WORKERS_MAX 16

/* How many are worth it: one for each CPU, and each with EACH tasks at least. */
extern unsigned workers_wanted (uint64_t tasks, uint64_t each);

/* Calls WORK in COUNT threads at once, with numbers from 0, which is the calling
 * thread; returns when all have.  There may be fewer threads when no more can be
 * started: so WORK takes one task after another from where all take them. */
extern void workers_run (unsigned count,
                         void (*work) (void *opaque, unsigned worker),
                         void *opaque);

#endif /* PCACHE_WORKERS_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* target: an image file, a block device or an NBD server as a backing store. */

#ifndef PCACHE_TARGET_H
#define PCACHE_TARGET_H

#include "engine/backend.h"

struct target;

/* NAME: a path, or an NBD URI.  0, or -errno after the reason was reported.
 * EXPECTED: its size. */
extern int target_open (const char *name, uint64_t expected,
                        struct target **target);
/* One that takes everything and keeps nothing. */
extern int target_open_nothing (uint64_t size, struct target **target);
extern void target_close (struct target *target);

extern struct backend *target_backend (struct target *target);

/* Called after each request that went well, with the bytes of all so far. */
extern void target_watch (struct target *target,
                          void (*watch) (void *opaque, uint64_t bytes),
                          void *opaque);
extern uint64_t target_bytes (const struct target *target);

#endif /* PCACHE_TARGET_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* block_status: what a range of the disk is, from the cache and, where it
 * has nothing, from the plugin. */

#ifndef PCACHE_BLOCK_STATUS_H
#define PCACHE_BLOCK_STATUS_H

#include <stdbool.h>

#include <nbdkit-filter.h>

#include "base/arith.h"
#include "engine/cache.h"

/* Add the extents of RANGE to EXTENTS: at least one, none beyond its end,
 * and not necessarily all.  ONE: only the first is wanted.  0 or -errno. */
extern int block_status (struct cache *cache, struct range range, bool one,
                         struct nbdkit_extents *extents);

#endif /* PCACHE_BLOCK_STATUS_H */

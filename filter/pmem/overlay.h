/* SPDX-License-Identifier: BSD-3-Clause */

/* overlay: a device whose stores stay in memory.
 *
 * Reads give what is beneath, with the stores over it; closing it forgets
 * them.  So code that stores can run on a device that must not change, and
 * what it would have changed can be looked at.  For one thread. */

#ifndef PCACHE_OVERLAY_H
#define PCACHE_OVERLAY_H

#include <stdbool.h>

#include "base/arith.h"
#include "pmem/pmem.h"

/* OWN: closing the overlay closes BELOW.  0 or -ENOMEM. */
extern int overlay_open (struct pmem *below, bool own, struct pmem **overlay);

/* The first run of pages at or after AT of which a byte differs from what is
 * beneath; false if there is none.  Not longer than LIMIT. */
extern bool overlay_next_change (struct pmem *overlay, uint64_t at,
                                 uint64_t limit, struct range *change);

#endif /* PCACHE_OVERLAY_H */

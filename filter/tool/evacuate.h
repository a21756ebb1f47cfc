/* SPDX-License-Identifier: BSD-3-Clause */

/* evacuate: move what can be read of a damaged segment to a free one.
 *
 * Records keep their sequence numbers and sets their epochs, so replay and
 * write-back take them as before. */

#ifndef PCACHE_EVACUATE_H
#define PCACHE_EVACUATE_H

#include "tool/snapshot.h"

/* *MOVED: records.  0 when they are durable in a sealed segment and FINDING's is
 * free; -ENOSPC: there is no free segment; or -errno: FINDING's segment is as it
 * was. */
extern int evacuate (struct snapshot *snap, const struct finding *finding,
                     uint64_t *moved);

#endif /* PCACHE_EVACUATE_H */

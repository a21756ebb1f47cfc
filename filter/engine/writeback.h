/* SPDX-License-Identifier: BSD-3-Clause */

/* writeback: dirty data to the backing store, epoch by epoch.
 *
 * One step takes the oldest epoch (batch order: all closed ones) from the
 * epoch queue, reads its records from the log, keeps the newest per range,
 * writes them in large ascending requests, several at once, flushes the backing
 * store, and only when that has succeeded marks the epoch as written
 * back.  It reads the log, not the index: a block that a later epoch overwrote
 * still goes out with its older content first, so the backing store passes
 * through states that a plain disk could have been in (P3). */

#ifndef PCACHE_WRITEBACK_H
#define PCACHE_WRITEBACK_H

#include <stdbool.h>

#include "engine/engine.h"

struct writeback;

/* HELPERS threads besides the caller's; 0: none, everything runs in the
 * caller's. */
extern int writeback_new (struct engine *engine, unsigned helpers,
                          struct writeback **writeback);
extern void writeback_free (struct writeback *writeback);

/* One step, of epochs up to THROUGH at most.  What the step needs closed it closes
 * (engine_flush).  0; *worked: there was something to do.  Or -errno with
 * nothing marked: everything of it is still dirty.  *worked: but a part of it has
 * reached the backing store for good, and the next step goes on from there.
 * A backing store must be attached for the duration. */
extern int writeback_step (struct writeback *writeback, uint64_t through,
                           bool *worked);

/* What of epochs up to THROUGH, in bytes, is still to be written back.  What the
 * step under way has written counts as done. */
extern uint64_t writeback_left (struct writeback *writeback,
                                uint64_t through);

/* It may be urgent from now on (engine->is_urgent): look whether there still is
 * a reason to wait for the rate. */
extern void writeback_hurry (struct writeback *writeback);

/* Make a step under way, and all that follow, end soon with -ECANCELED: as
 * soon as the requests that are with the backing store now have come back.
 * Until writeback_resume. */
extern void writeback_cancel (struct writeback *writeback);
extern void writeback_resume (struct writeback *writeback);

#endif /* PCACHE_WRITEBACK_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* checkpoint: the index as it was at a clean stop, so that the next start need
 * not read the whole log.
 *
 * It says what a replay would find, but for clean data that cannot be read; nothing is
 * ever built on its being there.  Nobody has to make it void either: it counts as long as
 * the log is what it was.  The log cannot change without one of
 *   - the header of a segment: a set or data goes into a segment only after its
 *     header says open, and nothing is open when a checkpoint is made; eviction and
 *     repair change headers as well.  A digest of all headers tells;
 *   - the control block: marks, "lost".  Each change of it but for the one that
 *     names a checkpoint leaves that out.
 * Both hold for a program that does not know of checkpoints.
 *
 * What changes neither is harmless:
 *   - a start, and a life that only reads what is cached: the log is what it was;
 *   - an unreadable place that such a life dropped from its index: the next start
 *     has it again, as a replay would;
 *   - a write around the cache, to a hole of which a replay would make nothing: nor does
 *     the checkpoint, which has no clean records up to the tail either;
 *   - tools that change nothing, and those that work on a copy.  Those that repair
 *     change headers or the control block, and what they undo is again all as it was;
 *   - the superblock: the size of its disk never changes, and with more segments
 *     the digest is another;
 *   - damage to data: its checksum is in the index.
 * A copy of a header that is written again makes a checkpoint void for nothing.
 *
 * Its pieces lie in free segments, from where the next one to be acquired may take
 * them: that changes a header first.  Which they are follows from the headers, so no
 * address is read from media.  Each piece has the checksum of the one before, and the
 * control block that of the last: they count all together or not at all. */

#ifndef PCACHE_CHECKPOINT_H
#define PCACHE_CHECKPOINT_H

#include <stdbool.h>

#include "engine/engine.h"
#include "engine/replay.h"

/* Leave one.  All is flushed and sealed, nobody uses the cache, and none of its
 * threads is left.  0: there is one; -errno: there is none, and that does not
 * matter. */
extern int checkpoint_write (struct engine *engine);

/* Does the control block name one, of the segments as they are?  Its pieces are not
 * looked at. */
extern bool checkpoint_is_current (struct engine *engine);

/* As replay_read, from a checkpoint.  False: there is none that counts, and all is as
 * it was before. */
extern bool checkpoint_load (struct engine *engine, struct replay *replay);

#endif /* PCACHE_CHECKPOINT_H */

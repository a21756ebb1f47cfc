/* SPDX-License-Identifier: BSD-3-Clause */

/* layout: the cache on its device: found, made, enlarged, made smaller.
 *
 * Only while the cache is being opened.  A cache is enlarged in place: the slots of
 * the new segments in both copies of the segment table say "free", and only then does
 * the superblock count them.  It is made smaller by making it anew, which is
 * done only if it can be proved that the backing store has everything that
 * is in it. */

#ifndef PCACHE_LAYOUT_H
#define PCACHE_LAYOUT_H

#include "engine/engine.h"

/* Read the superblock; make a new cache if there is none, and the options allow it.
 * 0 or -errno, reported. */
extern int layout_load_or_format (struct engine *engine);

#define LAYOUT_CHANGED 1

/* Will layout_fit leave the size as it is, without a doubt?  Another one is only
 * for a cache of which all has been read. */
extern bool layout_fits (const struct engine *engine);

/* After recovery, before anything is appended: let the cache have the size that the
 * device has and the options ask for.  0; LAYOUT_CHANGED: it has another one now,
 * and is to be read again from the start; -errno, reported. */
extern int layout_fit (struct engine *engine);

#endif /* PCACHE_LAYOUT_H */

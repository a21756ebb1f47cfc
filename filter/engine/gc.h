/* SPDX-License-Identifier: BSD-3-Clause */

/* gc: makes free segments out of clean ones.
 *
 * One step evicts the segment that was sealed first among those whose
 * records are all written back.  Extents that were read since they came are
 * copied to a head as clean records (second chance), the rest leave the
 * index. */

#ifndef PCACHE_GC_H
#define PCACHE_GC_H

#include <stdbool.h>

#include "engine/engine.h"

/* More segments are in use than gc-percent allows, or too few are free. */
extern bool gc_wanted (struct engine *engine);

/* Seal what heads have left, and evict one segment if that is wanted.
 * *worked: something was done; when nothing was although gc_wanted, what is in
 * use is dirty or in the heads. */
extern int gc_step (struct engine *engine, bool *worked);

#endif /* PCACHE_GC_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* recovery: from what lies on the device to an index.
 *
 * What counts, replay.h decides; this writes it down: it seals what a crash left
 * open, makes durable what is built on, and puts every segment on its list.
 *
 * Opening twice, or crashing while opening, changes nothing: all that is
 * written here are segment headers that say what was found. */

#ifndef PCACHE_RECOVERY_H
#define PCACHE_RECOVERY_H

#include <stdint.h>

#include "engine/engine.h"

struct recovery_result {
  uint64_t sequence;            /* the last one used */
  uint64_t epoch;               /* the first one not used */
};

/* The engine has pmem, superblock, segments, queue, reader, index and stats.  0, or -errno
 * after the reason was reported: -EUCLEAN when there is damage that may
 * hide dirty data (unless options.rescue). */
extern int engine_recover (struct engine *engine,
                           struct recovery_result *result);

#endif /* PCACHE_RECOVERY_H */

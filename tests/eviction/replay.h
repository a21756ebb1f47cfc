/* SPDX-License-Identifier: BSD-3-Clause */

/* replay: the engine itself, reading a trace in one thread, on a cache device
 * in memory in front of a disk of zeros. */

#ifndef PCACHE_REPLAY_H
#define PCACHE_REPLAY_H

#include <stdbool.h>

#include "engine/settings.h"
#include "eviction/trace.h"

#define REPLAY_BLOCK 4096

struct replay {
  uint32_t segments;            /* of 1 MiB */
  uint64_t setting[SETTINGS_COUNT];
};

/* As many segments, and settings as they are by default, but that 90 % of the
 * segments are used. */
extern struct replay replay_default (uint32_t segments);

/* The most blocks that it ever caches. */
extern uint32_t replay_capacity (const struct replay *replay);

struct replay_result {
  size_t hits;                  /* after the warm-up */
  uint64_t filled, relocated;   /* blocks, after it */
};

extern struct replay_result replay_run (const struct replay *replay,
                                        const struct trace *trace,
                                        size_t warm_up);

#endif /* PCACHE_REPLAY_H */

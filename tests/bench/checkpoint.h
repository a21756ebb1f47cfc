/* SPDX-License-Identifier: BSD-3-Clause */

/* checkpoint: what a cache that left its index behind when it stopped would do to
 * have it again, and nothing else: check it, part by part, and fill a new index
 * with its extents, which are in the order of the index.  There is no such thing
 * in the engine; this says what it would be worth (docs/PERFORMANCE.md). */

#ifndef PCACHE_BENCH_CHECKPOINT_H
#define PCACHE_BENCH_CHECKPOINT_H

#include <stdint.h>

struct checkpoint;

/* Of the first BLOCKS blocks of the disk, each an extent of its own; in memory. */
extern struct checkpoint *checkpoint_new (uint64_t blocks);
extern void checkpoint_free (struct checkpoint *checkpoint);

/* Extents a second, by as many threads as replay has. */
extern double checkpoint_load (struct checkpoint *checkpoint);

#endif /* PCACHE_BENCH_CHECKPOINT_H */

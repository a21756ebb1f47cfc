/* SPDX-License-Identifier: BSD-3-Clause */

/* replay_figures: how fast a cache is opened.
 *
 *   replay-records    records replayed a second / records that a bare loop
 *                     decodes and checks
 *   replay-records-dirty
 *                     the same, with nothing written back
 *   replay-vs-checkpoint, replay-vs-checkpoint-dirty
 *                     such a cache opened by replay / from its checkpoint
 *   open-time-ms, open-memory-mib
 *                     by replay, against the size of a cache full of 4K records;
 *                     and figures of a start from a checkpoint, and of the stop
 *
 * The cache device is a real one, filled by the engine, in a file in memory that
 * is used as persistent memory.  But replay reads no data, so what the records
 * speak of is given back to the system as soon as it is written: the file takes
 * little more than its record sets. */

#ifndef PCACHE_BENCH_REPLAY_FIGURES_H
#define PCACHE_BENCH_REPLAY_FIGURES_H

#include <stdbool.h>

#include "bench/measure.h"

/* DIRECTORY is in memory.  PMEM_IS_PMEM_FORCE is set. */
extern void replay_figures_run (struct results *results, bool quick,
                                const char *directory);

#endif /* PCACHE_BENCH_REPLAY_FIGURES_H */

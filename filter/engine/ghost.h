/* SPDX-License-Identifier: BSD-3-Clause */

/* ghost: what was missed not long ago and not let into the cache.
 *
 * A byte for each 4 KiB of the disk that is remembered, in words of eight; in
 * each the newest drives out the oldest.  One in thirty that was never missed
 * seems to have been, which only lets it in.  There is no lock: of two
 * who note something in one word at once, one may be forgotten. */

#ifndef PCACHE_GHOST_H
#define PCACHE_GHOST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"

#define GHOST_GRANULE UINT64_C (4096)

/* All zeros remembers nothing, and is to be given memory before use. */
struct ghost {
  _Atomic uint64_t *words;
  size_t count;
};

/* Remember as much as CACHE_BYTES.  Takes a byte for each 4 KiB of it, when they
 * are first written.  0 or -ENOMEM. */
extern int ghost_init (struct ghost *ghost, uint64_t cache_bytes);
extern void ghost_destroy (struct ghost *ghost);

/* True if at least half of RANGE is remembered; it is then forgotten.  If not,
 * it is remembered from now on. */
extern bool ghost_recall (struct ghost *ghost, struct range range);

#endif /* PCACHE_GHOST_H */

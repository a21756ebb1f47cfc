/* SPDX-License-Identifier: BSD-3-Clause */

/* store: the memory backing store with moods.
 *
 * It has a write cache of its own: what was written since the last
 * successful flush may be lost, by a power cut, or when a flush fails (which is
 * what Linux does with pages that it could not write).  Calls fail all the
 * time, or now and then, as told. */

#ifndef PCACHE_MODEL_STORE_H
#define PCACHE_MODEL_STORE_H

#include "model/harness.h"
#include "support/memory_backend.h"

struct store {
  struct memory_backend *mb;
  const struct backend_ops *inner;
  struct rng rng;
  uint8_t *stable;              /* what a power cut leaves */
  struct range *volatiles;      /* written since the last flush */
  size_t count, room;
  bool trim_leaves_garbage;
  /* One call in so many fails; 0: none. */
  unsigned fail_reads, fail_writes, fail_zeros, fail_flushes;
  uint64_t failures;            /* so far */
  uint64_t writes;              /* calls that change bytes */
};

/* There is one at a time, for one thread. */
extern struct store *store_new (uint64_t size, uint64_t seed);
extern void store_free (struct store *store);

/* Set bytes of the disk as they were before anything began. */
extern void store_all_stable (struct store *store);
extern void store_heal (struct store *store);
/* Any part of what is not flushed is gone. */
extern void store_power_cut (struct store *store);

#endif /* PCACHE_MODEL_STORE_H */

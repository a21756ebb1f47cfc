/* SPDX-License-Identifier: BSD-3-Clause */

/* index_load: many records into an empty index at once.
 *
 * They come in any order; where ranges overlap, the highest sequence number wins,
 * as if they had been inserted, and dropped, one by one in that order.
 *
 * Several threads may add: each has a number of its own.  Then index_load_build,
 * by one, starts as many.
 *
 * Memory: 34 bytes a record, in the index's own nodes, until its region is built;
 * beyond that, 32 bytes for each record of the region, for each thread.  Of
 * records that newer ones hide there are never many: as many as of the others, or
 * 8192 a region and thread. */

#ifndef PCACHE_INDEX_LOAD_H
#define PCACHE_INDEX_LOAD_H

#include <stdint.h>

#include "engine/index.h"

struct index_load;

/* NULL: out of memory. */
extern struct index_load *index_load_new (struct index *index,
                                          unsigned workers);
extern void index_load_free (struct index_load *load);

/* The range of EXTENT, a whole record, is mapped to it.  SEQUENCE is its own.  0 or
 * -ENOMEM. */
extern int index_load_add (struct index_load *load, unsigned worker,
                           const struct extent *extent, uint64_t sequence);

/* RANGE is a hole. */
extern int index_load_drop (struct index_load *load, unsigned worker,
                            struct range range, uint64_t sequence);

/* Forget all that was added. */
extern void index_load_clear (struct index_load *load);

/* Into the index, and forget it.  0; -ENOMEM: the index is good for nothing. */
extern int index_load_build (struct index_load *load);

#endif /* PCACHE_INDEX_LOAD_H */

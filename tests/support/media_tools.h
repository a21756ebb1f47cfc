/* SPDX-License-Identifier: BSD-3-Clause */

/* media_tools: read, damage and forge what lies on a memory_device, with
 * the checksum made right again.
 *
 * They go by docs/FORMAT.md and not through the engine, so what one writes
 * and the other reads is a second opinion. */

#ifndef PCACHE_MEDIA_TOOLS_H
#define PCACHE_MEDIA_TOOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/format.h"
#include "support/memory_pmem.h"

/* Pointers into the device's bytes: copy is 0 or 1; 2 and 3 are their spare
 * places, which the superblock has not. */
extern struct media_superblock *
superblock_on (struct memory_device *device, int copy);
extern struct media_control *
control_on (struct memory_device *device, int copy);
extern struct media_segment *
segment_on (struct memory_device *device, uint32_t id, int copy);

/* Make the checksum of a twin right again: it starts at TWIN and has BYTES
 * bytes. */
extern void twin_seal (struct memory_device *device, void *twin,
                       size_t bytes);

/* The same with this seed, whatever the superblock says now. */
extern void twin_seal_as (void *twin, size_t bytes, uint64_t checksum_seed);

extern uint64_t segment_start (struct memory_device *device, uint32_t id);

/* Where the header of segment ID's set ORDINAL lies on the device, by
 * walking down from its end; 0 if there is none. */
extern uint64_t set_at (struct memory_device *device, uint32_t id,
                        uint32_t ordinal);
extern struct media_set *set_on (struct memory_device *device, uint32_t id,
                                 uint32_t ordinal);
/* How many sets of the segment's generation there are. */
extern uint32_t sets_on (struct memory_device *device, uint32_t id);
extern struct media_record *record_in (struct media_set *set, uint32_t i);
extern void set_seal (struct memory_device *device, struct media_set *set);
extern void set_seal_as (struct media_set *set, uint64_t checksum_seed);

/* Put a set of COUNT records into segment ID, to end at END of it, as if it
 * had been written there.  Returns where the next one ends. */
extern uint32_t set_forge (struct memory_device *device, uint32_t id,
                           uint32_t end, const struct media_set *header,
                           const struct media_record *records,
                           uint32_t count);

/* Some values at which things break. */
extern const uint64_t edge_values[];
extern const unsigned edge_value_count;

/* The same for a field of BYTES bytes that holds ORIGINAL: what fits into it,
 * the neighbours of what it holds, and the EXTRA_COUNT of EXTRA with theirs; no
 * value twice, and not ORIGINAL.  Returns how many there are. */
#define EDGE_VALUES_MAX 256
extern unsigned edge_values_near (uint64_t original, unsigned bytes,
                                  const uint64_t *extra,
                                  unsigned extra_count,
                                  uint64_t values[EDGE_VALUES_MAX]);

#endif /* PCACHE_MEDIA_TOOLS_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* memory_pmem: a cache device in the test's own memory.
 *
 * The bytes outlive the struct pmem, so a test can close a cache and open
 * it again, or damage what lies there in between.  As it stands it forgets
 * nothing.
 *
 * Asked to (memory_device_track), it keeps apart what would survive a power
 * cut: pmem.h says what a fence and a sync make durable.  Everything else is up
 * to chance, which memory_device_crash draws from a seed:
 *   - ordered: each aligned 8-byte word stored since the fence is kept or not;
 *   - not ordered: each page stored to since the sync is kept whole, lost
 *     whole, or kept in some of its sectors; and the kernel may have written
 *     it back at any moment, so what is kept may be what it held earlier.
 * Tracking is for tests with one thread. */

#ifndef PCACHE_MEMORY_PMEM_H
#define PCACHE_MEMORY_PMEM_H

#include <stdbool.h>
#include <stdint.h>

#include "pmem/pmem.h"

enum memory_event {
  MEMORY_BEFORE_COPY,
  MEMORY_COPIED,
  MEMORY_FENCED,
  MEMORY_SYNCED,
};

struct memory_device;

/* AT and LENGTH: of the store; 0 for fences and syncs. */
typedef void memory_hook (struct memory_device *device,
                          enum memory_event event, uint64_t at,
                          size_t length, void *opaque);

struct memory_device {
  uint8_t *bytes;
  uint64_t size;
  bool ordered;
  bool sync_is_near;            /* what pmem_sync_is_near says */
  bool can_resize;              /* pmem_resize works... */
  uint64_t room;                /* ...up to this size; 0: to any */
  uint64_t bad_at, bad_length;  /* reads of this range give -EIO */
  int copy_error, sync_error;   /* -errno that these give while set */
  struct range refused;         /* stores to this range give -EIO */
  unsigned refuse_every;        /* only each so manieth of all stores, if it
                                 * goes there; 0: every */
  struct range refused_too;
  int copies_left;              /* after so many stores one fails, half done;
                                 * -1: none does */
  /* So manieth sync from now fails, and what it was to make durable becomes so
   * only by chance; all later ones fail too, until pmem_trust.  0: none. */
  _Atomic unsigned break_sync;
  bool drop_broken;             /* and the rest reads as it was before */
  bool sync_broken;
  unsigned syncs, copies;       /* calls, for tests that count */

  memory_hook *hook;            /* sees all that succeeds */
  void *opaque;

  struct memory_tracker *tracker;       /* private; NULL: not tracked */
};

extern struct memory_device *memory_device_new (uint64_t size, bool ordered);
extern void memory_device_free (struct memory_device *device);

/* Closing it leaves the device as it is. */
extern struct pmem *memory_pmem_open (struct memory_device *device);

/* While nobody has it open.  What is new is zeros. */
extern void memory_device_resize (struct memory_device *device,
                                  uint64_t size);

/* A new device that holds what this one shows; hooks and faults are not
 * copied. */
extern struct memory_device *
memory_device_clone (const struct memory_device *device);

/* From now on know what is durable; what lies there now is.  RANDOM is a
 * seed. */
extern void memory_device_track (struct memory_device *device,
                                 uint64_t random);

/* A new device (not tracked) that holds what a power cut at this instant
 * might leave. */
extern struct memory_device *
memory_device_crash (struct memory_device *device, uint64_t *random);

#endif /* PCACHE_MEMORY_PMEM_H */

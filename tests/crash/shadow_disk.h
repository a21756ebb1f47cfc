/* SPDX-License-Identifier: BSD-3-Clause */

/* shadow_disk: a backing store with a volatile write cache, that knows what
 * a power cut could leave: what was flushed, and any subset of the requests that
 * came after the last flush, applied in their order; of each any of its
 * sectors. */

#ifndef PCACHE_SHADOW_DISK_H
#define PCACHE_SHADOW_DISK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"
#include "engine/backend.h"

#define SHADOW_SECTOR 512

struct shadow_disk;

/* A request has changed the disk, or has been flushed.  No lock is held. */
typedef void shadow_disk_hook (struct shadow_disk *disk, void *opaque);

struct shadow_disk {
  struct backend backend;
  uint8_t *bytes;               /* what reads see */
  uint8_t *stable;              /* what every power cut leaves */
  shadow_disk_hook *changed;
  void *opaque;
  pthread_mutex_t lock;         /* of all that is above and below */
  size_t pending;               /* requests not flushed */
  struct shadow_request *requests;      /* private */
  size_t room;
};

extern struct shadow_disk *shadow_disk_new (uint64_t size);
extern void shadow_disk_free (struct shadow_disk *disk);

/* All of it durable; nothing is pending. */
extern void shadow_disk_set (struct shadow_disk *disk, const uint8_t *bytes);

/* What a power cut leaves that keeps request I if keep[I].  TEAR: a seed; of each
 * kept request only some sectors are kept; 0: all of them. */
extern void shadow_disk_image (const struct shadow_disk *disk,
                               const bool *keep, uint64_t tear,
                               uint8_t *image);
/* What some power cut at this moment leaves.  Other threads may go on, which
 * they may not with the two above. */
extern void shadow_disk_random_image (struct shadow_disk *disk,
                                      uint64_t *random, uint8_t *image);

#endif /* PCACHE_SHADOW_DISK_H */

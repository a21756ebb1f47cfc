/* SPDX-License-Identifier: BSD-3-Clause */

/* shadow_device: a cache device that knows what a power cut could leave.
 *
 * Every store is kept, with the thread that made it, until a fence or sync makes
 * it durable.  At any moment what is pending falls into units that a power cut
 * keeps or loses one by one:
 *   - ordered (persistent memory): cache lines of 64 bytes.  A thread's stores
 *     are durable when that thread has fenced.  A line may be torn at 8
 *     bytes.
 *   - not ordered (a plain file): pages of 4 KiB in the kernel's cache.  All is
 *     durable when somebody has synced.  A page may be torn at 512 bytes.
 * A unit that was stored to several times may be left as it was after any of
 * them.
 *
 * Whatever happens to a device can be taken back (shadow_mark, shadow_rollback),
 * so that millions of states can be tried without copying images.  A
 * follower is a second device that always shows what is durable on this one: the
 * place to try them. */

#ifndef PCACHE_SHADOW_DEVICE_H
#define PCACHE_SHADOW_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pmem/pmem.h"

#define SHADOW_LINE 64
#define SHADOW_PAGE 4096

struct shadow_device;

/* A fence or sync is about to make what is pending durable. */
typedef void shadow_hook (struct shadow_device *device, void *opaque);

struct shadow_device {
  uint8_t *bytes;               /* what loads see */
  uint8_t *durable;             /* what every power cut leaves */
  uint64_t size;
  bool ordered;
  bool tracks;                  /* false: only what loads see is kept, for
                                 * runs of which nobody asks more */
  uint64_t hash;                /* of what is durable */
  struct shadow_device *follower;       /* or NULL */

  shadow_hook *before_barrier;
  void *opaque;
  struct shadow_pending *pending;       /* private */
  struct shadow_undo *undo;             /* private */
};

/* All zeros. */
extern struct shadow_device *shadow_device_new (uint64_t size, bool ordered);
extern void shadow_device_free (struct shadow_device *device);

/* Closing it leaves the device as it is. */
extern struct pmem *shadow_pmem_open (struct shadow_device *device);

/* As if nothing had been stored since the mark, and nothing were pending.  The
 * follower goes back as well; it must be back at its own start. */
extern size_t shadow_mark (const struct shadow_device *device);
extern void shadow_rollback (struct shadow_device *device, size_t mark);

/* Put bytes there, durable at once. */
extern void shadow_place (struct shadow_device *device, uint64_t at,
                          const void *from, size_t length);
/* After a rollback into the middle of something: what loads see there is
 * pending. */
extern void shadow_not_durable (struct shadow_device *device, uint64_t at,
                                size_t length);
/* The power goes: loads see what is durable, nothing is pending. */
extern void shadow_forget (struct shadow_device *device);

/* Held: nothing is stored or made durable meanwhile.  The hook runs under
 * it. */
extern pthread_mutex_t *shadow_device_lock (struct shadow_device *device);

/* A line or page with pending stores, in the order of the first one. */
struct shadow_unit {
  uint64_t at;
  uint32_t length;
  uint32_t stores;              /* how many */
  uint32_t first;               /* private */
};

/* How a unit is left: with its first STORES stores; of the last of these only
 * the parts (words of 8 bytes, sectors of 512) whose bit is set. */
struct shadow_choice {
  uint32_t stores;
  uint8_t parts;
};

#define SHADOW_WHOLE 0xff

/* What is pending.  The result is valid until the next store or barrier.
 * Returns how many. */
extern size_t shadow_units (struct shadow_device *device,
                            const struct shadow_unit **units);
/* The bytes of a unit left so: unit->length of them. */
extern void shadow_unit_bytes (const struct shadow_device *device,
                               const struct shadow_unit *unit,
                               struct shadow_choice choice, uint8_t *bytes);
/* What device->hash would change by, were they durable. */
extern uint64_t shadow_hash_change (const struct shadow_device *device,
                                    uint64_t at, const uint8_t *bytes,
                                    size_t length);

#endif /* PCACHE_SHADOW_DEVICE_H */

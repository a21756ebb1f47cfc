/* SPDX-License-Identifier: BSD-3-Clause */

/* whole_cache: one cache with its device and its disk, all of them in memory,
 * through the front door (engine/cache.h), for unit tests.
 *
 *   set_up_cache (...)    what is there, with segments of 1 MiB and no
 *                         write-back by age; change options as you like
 *   open_cache (...)      as often as you like, with close_cache between
 *   tear_down_cache       for cmocka
 *
 * What does not go well fails the test, but for try_.... */

#ifndef PCACHE_WHOLE_CACHE_H
#define PCACHE_WHOLE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/cache.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"

#define NEVER 3600000           /* ms */

extern struct memory_device *device;
extern struct memory_backend *disk;
extern struct cache_options options;
extern struct cache *cache;     /* NULL: not open */
extern uint8_t buf[4 << 20];    /* of the calls below, and for reading */

extern void set_up_cache (uint64_t device_size, uint64_t disk_size);
extern int tear_down_cache (void **state);

/* A blank device that is just large enough for a cache. */
extern void use_four_segments (bool ordered);

extern int try_open (void);
/* With threads or without; and attach the disk. */
extern void open_cache (bool threads);
extern void close_cache (void);

extern int try_write (uint64_t start, uint64_t length, uint8_t byte, bool fua);
extern void write_bytes (uint64_t start, uint64_t length, uint8_t byte);

#endif /* PCACHE_WHOLE_CACHE_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* stand: a cache to be measured, through its front door (engine/cache.h), with all
 * its threads: on a real file as cache device, in front of a disk in memory or
 * in a file. */

#ifndef PCACHE_BENCH_STAND_H
#define PCACHE_BENCH_STAND_H

#include "bench/workload.h"
#include "engine/cache.h"
#include "pmem/pmem.h"

struct disk;

/* In memory; pages that nobody has written take none. */
extern struct disk *disk_new (uint64_t size);
/* In a file of DIRECTORY, which is removed at once. */
extern struct disk *disk_new_file (const char *directory, uint64_t size);
extern void disk_free (struct disk *disk);
extern int disk_fd (const struct disk *disk);   /* -1: in memory */

struct stand_options {
  const char *directory;        /* for the cache device */
  uint64_t device_size, disk_size;      /* bytes */
  const char *disk_directory;   /* NULL: in memory */
  bool checksum;
  bool write_back;              /* as by default; else not before it must */
};

struct stand {
  struct stand_options options;
  char path[4096];
  struct cache *cache;
  struct disk *disk;
  struct pmem *pmem;
  struct pmem_ops ops;          /* its own, but for close */
  const struct pmem_ops *device_ops;
};

extern struct stand *stand_new (const struct stand_options *options);
extern void stand_free (struct stand *stand);

/* Let the cache be empty, whatever is dirty in it; the disk is left as it is. */
extern void stand_empty (struct stand *stand);
/* Stop it cleanly, drained or not. */
extern void stand_close (struct stand *stand, bool drain);
/* Write everything back, then evict so many segments with nothing else going on.
 * Nanoseconds for one, less what the thread had to wait for a CPU. */
extern double stand_evict (struct stand *stand, unsigned segments);

/* Requests a second. */
extern double stand_run (struct stand *stand, const struct workload *workload);
/* Write, or read, the range once, in order. */
extern void stand_fill (struct stand *stand, uint64_t start, uint64_t length);
extern void stand_read_all (struct stand *stand, uint64_t length);

extern struct cache_status stand_status (struct stand *stand);

#endif /* PCACHE_BENCH_STAND_H */

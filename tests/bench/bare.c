/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <libpmem.h>
#include <xxhash.h>

#include "bench/bare.h"

#define SET_BYTES 128
#define FLUSH_ROOM (UINT64_C (1) << 20) /* behind the blocks */

struct bare {
  uint8_t *base;
  uint64_t size;                /* without FLUSH_ROOM */
};

/* So that the checksums are not optimized away. */
static _Atomic uint64_t sum_of_all;
static _Thread_local uint64_t sum;
static _Thread_local uint64_t flushes;  /* in units of SET_BYTES: where the next
                                         * goes */

struct bare *
bare_new (const char *directory, uint64_t size)
{
  struct bare *bare = malloc (sizeof *bare);
  char path[4096];
  int fd;

  snprintf (path, sizeof path, "%s/bare.XXXXXX", directory);
  fd = mkstemp (path);
  must (bare && fd >= 0 && unlink (path) == 0
        && posix_fallocate (fd, 0, size + FLUSH_ROOM) == 0,
        "a file for the bare loop");
  bare->size = size;
  bare->base = mmap (NULL, size + FLUSH_ROOM, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_POPULATE, fd, 0);
  must (bare->base != MAP_FAILED, "mmap");
  close (fd);
  for (uint64_t at = 0; at < size; at += 4096)
    memset (bare->base + at, (int) (at / 4096), 64);
  return bare;
}

void
bare_free (struct bare *bare)
{
  munmap (bare->base, bare->size + FLUSH_ROOM);
  free (bare);
}

static inline void
copy_past_caches (void *to, const void *from, size_t length)
{
  pmem_memcpy (to, from, length,
               PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN);
}

static inline void
bare_write (void *opaque, const uint8_t *buf, uint64_t at, uint32_t length,
            bool checksum)
{
  struct bare *bare = opaque;

  copy_past_caches (bare->base + at, buf, length);
  if (checksum)
    sum += XXH3_64bits (buf, length);
  pmem_drain ();
}

static inline void
bare_read (void *opaque, uint8_t *buf, uint64_t at, uint32_t length,
           bool checksum)
{
  struct bare *bare = opaque;

  memcpy (buf, bare->base + at, length);
  /* The bytes are wanted, checksum or not. */
  __asm__ volatile ("" : : "r" (buf) : "memory");
  if (checksum)
    sum += XXH3_64bits (buf, length);
}

static inline void
bare_flush (void *opaque)
{
  static const uint8_t set[SET_BYTES] = { 1 };
  struct bare *bare = opaque;
  const uint64_t at = flushes++ * SET_BYTES % FLUSH_ROOM;

  copy_past_caches (bare->base + bare->size + at, set, SET_BYTES);
  pmem_drain ();
}

static void *
bare_main (void *opaque)
{
  static const struct target target = { bare_write, bare_read, bare_flush };
  const struct worker *worker = opaque;

  /* As far from each other as there is room. */
  flushes = FLUSH_ROOM / SET_BYTES / worker->workload->threads
    * worker->number;
  worker_run (opaque, &target);
  atomic_fetch_add (&sum_of_all, sum);
  return NULL;
}

double
bare_run (struct bare *bare, const struct workload *workload)
{
  must (workload->working_set <= bare->size, "a working set that large");
  return workload_threads (workload, "bare-load", bare_main, bare);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* small_engine: the parts of a cache, opened on a memory_device, without
 * threads and without cache.c, so that a test decides when which service
 * takes which step.
 *
 * Content is told by versions: version V of a range is its bytes each made
 * of V and of their place on the disk, so that a byte of another range is
 * noticed.  Version 0 is zeros, as a new disk is. */

#ifndef PCACHE_SMALL_ENGINE_H
#define PCACHE_SMALL_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/recovery.h"
#include "engine/writeback.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)

struct small_engine {
  struct engine engine;         /* first */
  struct memory_device *device;
  struct memory_backend *disk;
  struct writeback *writeback;
  unsigned heads;
  bool is_open;
  uint64_t instance;            /* of the next formatting */
};

/* A device for that many segments of 1 MiB, not yet open; change
 * .engine.options and .heads as needed.  The disk is small_engine's too. */
extern struct small_engine *small_engine_new (uint32_t segments,
                                              bool ordered,
                                              uint64_t disk_size);
extern void small_engine_free (struct small_engine *small);

/* Format the device if it is blank, then open it: 0 or -errno. */
extern int small_engine_try_open (struct small_engine *small);
/* It must work. */
extern void small_engine_open (struct small_engine *small);
/* As a kill does: nothing is flushed. */
extern void small_engine_kill (struct small_engine *small);
/* Flush, seal, kill, open. */
extern void small_engine_restart (struct small_engine *small);
/* Go on with IMAGE (it becomes small's) in place of the device. */
extern void small_engine_use (struct small_engine *small,
                              struct memory_device *image);
/* Another one on IMAGE, which becomes its own, with a copy of the same disk;
 * not open. */
extern struct small_engine *
small_engine_beside (const struct small_engine *small,
                     struct memory_device *image);

/* These must work. */
extern void put (struct small_engine *small, uint64_t start,
                 uint64_t length, unsigned version);
extern void flush (struct small_engine *small);
/* Write back all there is. */
extern void write_back (struct small_engine *small);
/* Seal what is not sealed. */
extern void seal (struct small_engine *small);
/* Evict one segment, wanted or not; false if there is none. */
extern bool evict_one (struct small_engine *small);

/* The bytes of a version. */
extern void fill_version (void *buf, uint64_t start, uint64_t length,
                          unsigned version);
extern bool is_version (const void *buf, uint64_t start, uint64_t length,
                        unsigned version);

/* Read through the engine.  0 or -errno. */
extern int get (struct small_engine *small, uint64_t start, uint64_t length,
                void *buf);
/* It must be this version, by cache or by disk. */
extern void expect (struct small_engine *small, uint64_t start,
                    uint64_t length, unsigned version);
/* Is the range mapped throughout? */
extern bool is_cached (struct small_engine *small, uint64_t start,
                       uint64_t length);
/* The extent that START is mapped to; fails the test if there is none. */
extern struct extent extent_at (struct small_engine *small, uint64_t start);
extern uint32_t segment_of (struct small_engine *small, uint64_t start);
extern void expect_on_disk (struct small_engine *small, uint64_t start,
                            uint64_t length, unsigned version);

/* Flip a bit of the data behind START. */
extern void rot (struct small_engine *small, uint64_t start);

extern uint64_t counted (struct small_engine *small,
                         enum stats_counter which);

#endif /* PCACHE_SMALL_ENGINE_H */

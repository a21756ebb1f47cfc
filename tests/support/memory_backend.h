/* SPDX-License-Identifier: BSD-3-Clause */

/* memory_backend: a backing store in the test's own memory, with faults.
 *
 * Asked to (memory_backend_track), it has a volatile write cache: what was
 * written is read back at once, but a power cut loses any subset of the
 * requests, sector by sector, that came after the last flush. */

#ifndef PCACHE_MEMORY_BACKEND_H
#define PCACHE_MEMORY_BACKEND_H

#include <pthread.h>
#include <stdint.h>

#include "base/arith.h"
#include "engine/backend.h"

enum backend_event {
  BACKEND_READ,
  BACKEND_WRITE,
  BACKEND_ZERO,
  BACKEND_TRIM,
  BACKEND_FLUSH,
};

struct memory_backend;

/* BUF: what is to be written; NULL for all but writes. */
typedef void backend_hook (struct memory_backend *mb,
                           enum backend_event event, struct range range,
                           const void *buf, void *opaque);

struct memory_backend {
  struct backend backend;
  uint8_t *bytes;
  pthread_mutex_t lock;
  unsigned reads, writes, zeros, trims, flushes;        /* calls; lock */
  /* -errno that these calls give while set: lock. */
  int read_error, write_error, flush_error, zero_error;
  _Atomic unsigned delay_us;    /* of each call but flush */

  /* before: the call has not begun.  read_done: what pread gives is in its
   * buffer.  after: what was asked has been done without an error.  No lock is
   * held. */
  backend_hook *before, *read_done, *after;
  void *opaque;

  uint8_t *stable;              /* what a power cut leaves; lock */
  struct range *unflushed;      /* requests since the last flush; lock */
  size_t unflushed_count, unflushed_room;
};

/* Writable, with zero and trim; change .backend as needed. */
extern struct memory_backend *memory_backend_new (uint64_t size);
extern void memory_backend_free (struct memory_backend *mb);

extern void memory_backend_track (struct memory_backend *mb);
/* The power goes and comes back. */
extern void memory_backend_crash (struct memory_backend *mb,
                                  uint64_t *random);

#endif /* PCACHE_MEMORY_BACKEND_H */

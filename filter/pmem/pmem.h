/* SPDX-License-Identifier: BSD-3-Clause */

/* pmem: the only code that stores to the cache device.
 *
 * A device is a linear space of bytes behind an ops table: persistent
 * memory (pmem_dax.c), an ordinary file or block device (pmem_file.c), or
 * in tests a shadow that models what a crash leaves.
 *
 * Durability.  A store made with pmem_copy is visible to pmem_read at once,
 * and durable no earlier than
 *   - on an ordered device: when the storing thread has called pmem_fence;
 *   - on any device: when some thread has called pmem_sync after the store
 *     (and, on an ordered device, after the storing thread's fence).
 * Until then a crash leaves any part of it: on an ordered device any subset
 * of its aligned 8-byte words, otherwise any subset of its 512-byte sectors.
 * Stores separated by a fence (ordered) or a sync (any) become durable in
 * that order; on a device that is not ordered a fence does nothing.
 *
 * Every call but pmem_close returns 0 or -errno; -EIO is a media error.  A
 * media error in the mapping (SIGBUS) ends only the call it hit.  All calls
 * may be made by several threads at once. */

#ifndef PCACHE_PMEM_H
#define PCACHE_PMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"

struct pmem;

struct pmem_ops {
  int (*copy) (struct pmem *, uint64_t at, const void *from, size_t length);
  int (*fence) (struct pmem *);
  int (*sync) (struct pmem *);
  /* NULL: it never is. */
  bool (*sync_is_near) (struct pmem *);
  /* NULL: a sync never fails. */
  bool (*trust) (struct pmem *, bool trust);
  int (*make_durable) (struct pmem *, uint64_t at, size_t length);
  int (*read) (struct pmem *, void *to, uint64_t at, size_t length);
  int (*checksum) (struct pmem *, uint64_t at, size_t length, uint64_t *sum);
  /* NULL: there is nothing to gain. */
  void (*prefetch) (struct pmem *, uint64_t at, size_t length);
  int (*allocate) (struct pmem *);
  int (*resize) (struct pmem *, uint64_t size);
  void (*close) (struct pmem *);
  /* NULL: nothing is known to be zero. */
  void (*next_data) (struct pmem *, uint64_t at, struct range *data);
};

struct pmem {
  const struct pmem_ops *ops;
  uint64_t size;                /* bytes; only pmem_resize changes it */
  bool can_resize;              /* it is a file: pmem_resize may be called */
  bool ordered;                 /* a fence makes stores durable */
  const char *kind;             /* "pmem", "file"...: for messages */
};

/* Non-temporal store of LENGTH bytes to AT.  After an error any part of the
 * bytes may have been stored. */
static inline int
pmem_copy (struct pmem *pmem, uint64_t at, const void *from, size_t length)
{
  return pmem->ops->copy (pmem, at, from, length);
}

static inline int
pmem_fence (struct pmem *pmem)
{
  return pmem->ops->fence (pmem);
}

/* After a failure nothing is known of the stores since the last success;
 * all later calls fail as well (but see pmem_trust). */
static inline int
pmem_sync (struct pmem *pmem)
{
  return pmem->ops->sync (pmem);
}

/* Has every few stores been followed by a sync of late, so that another is to be
 * expected before long?  What is stored until then begins to be written at once. */
static inline bool
pmem_sync_is_near (struct pmem *pmem)
{
  return pmem->ops->sync_is_near && pmem->ops->sync_is_near (pmem);
}

/* TRUST: pmem_sync may succeed again although one has failed.  It then speaks only
 * of the stores made after this call: what was stored since the last success
 * may be gone, now or later.  Otherwise: every later pmem_sync fails, as if one
 * had.  Nobody else uses the device meanwhile.  True: one had failed. */
static inline bool
pmem_trust (struct pmem *pmem, bool trust)
{
  return pmem->ops->trust && pmem->ops->trust (pmem, trust);
}

/* Make durable what a read of the range gives now, whoever stored it: a
 * process that was killed between its store and its fence leaves lines that are
 * visible and yet in the CPU's cache only, and no fence of another thread is for
 * them.  Not while somebody stores to the range. */
static inline int
pmem_make_durable (struct pmem *pmem, uint64_t at, size_t length)
{
  return pmem->ops->make_durable (pmem, at, length);
}

static inline int
pmem_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  return pmem->ops->read (pmem, to, at, length);
}

/* The range will soon be read: let the CPU fetch it meanwhile. */
static inline void
pmem_prefetch (struct pmem *pmem, uint64_t at, size_t length)
{
  if (pmem->ops->prefetch)
    pmem->ops->prefetch (pmem, at, length);
}

/* XXH3 (64 bits, no seed) of the bytes as they lie on the device. */
static inline int
pmem_checksum (struct pmem *pmem, uint64_t at, size_t length, uint64_t *sum)
{
  return pmem->ops->checksum (pmem, at, length, sum);
}

/* Make sure every byte of the device has storage behind it, keeping the
 * content of what has.  -ENOSPC when it cannot.  Not while a pmem_copy may be
 * under way: a store into a hole could be overwritten with zeros. */
static inline int
pmem_allocate (struct pmem *pmem)
{
  return pmem->ops->allocate (pmem);
}

/* Let the device have SIZE bytes, what is new being zeros, all written and durable.
 * Only if it can, and while nobody else uses it.  0; or -errno, and it is as it
 * was. */
static inline int
pmem_resize (struct pmem *pmem, uint64_t size)
{
  return pmem->ops->resize (pmem, size);
}

/* The first run of bytes at or after AT that are not known to be zero
 * without reading them (holes of a sparse file are); length 0 when there is
 * none. */
static inline void
pmem_next_data (struct pmem *pmem, uint64_t at, struct range *data)
{
  if (pmem->ops->next_data)
    pmem->ops->next_data (pmem, at, data);
  else
    *data = (struct range) { at, pmem->size - at };
}

static inline void
pmem_close (struct pmem *pmem)
{
  if (pmem)
    pmem->ops->close (pmem);
}

#endif /* PCACHE_PMEM_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* backend: the backing store as the engine sees it.
 *
 * Calls may come from any thread, several at once, any alignment.  Lengths
 * are at most max_request (pread, pwrite) or max_zero (zero, trim).  Each
 * returns 0 or -errno.  What pwrite, zero and trim did is durable after a
 * flush that started later and returned 0. */

#ifndef PCACHE_BACKEND_H
#define PCACHE_BACKEND_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;

struct backend_ops {
  int (*pread) (struct backend *, void *buf, size_t length, uint64_t offset);
  int (*pwrite) (struct backend *, const void *buf, size_t length,
                 uint64_t offset);
  /* The range reads as zeros afterwards.  may_trim: storage behind it may
   * be given back.  Any error means: write zeros instead. */
  int (*zero) (struct backend *, uint64_t length, uint64_t offset,
               bool may_trim);
  /* The content of the range is no longer needed. */
  int (*trim) (struct backend *, uint64_t length, uint64_t offset);
  int (*flush) (struct backend *);
};

struct backend {
  const struct backend_ops *ops;
  uint64_t size;                /* bytes of the disk */
  bool can_write;
  bool can_zero;                /* zero is cheaper than writing zeros */
  bool can_trim;
  size_t max_request;           /* bytes; at least 256 KiB */
  uint64_t max_zero;            /* bytes; at least 1 */
};

/* These mean something of its own to the engine; EIO serves as well for a store that
 * fails (NFS has ESTALE). */
static inline int
backend_result (int r)
{
  return r == -ESTALE || r == -EAGAIN || r == -ECANCELED ? -EIO : r;
}

static inline int
backend_pread (struct backend *b, void *buf, size_t length, uint64_t offset)
{
  return backend_result (b->ops->pread (b, buf, length, offset));
}

static inline int
backend_pwrite (struct backend *b, const void *buf, size_t length,
                uint64_t offset)
{
  return backend_result (b->ops->pwrite (b, buf, length, offset));
}

static inline int
backend_zero (struct backend *b, uint64_t length, uint64_t offset,
              bool may_trim)
{
  return backend_result (b->ops->zero (b, length, offset, may_trim));
}

static inline int
backend_trim (struct backend *b, uint64_t length, uint64_t offset)
{
  return backend_result (b->ops->trim (b, length, offset));
}

/* There is a cheap way to zero, or to trim, if that will do. */
static inline bool
backend_knows_zero (const struct backend *b, bool trim_will_do)
{
  return b->can_zero || (trim_will_do && b->can_trim);
}

/* Zero the range in the cheap way if there is one; or trim it, if that will do.
 * -ENOTSUP: there is none.  Any error means: write zeros instead. */
static inline int
backend_try_zero (struct backend *b, uint64_t length, uint64_t offset,
                  bool may_trim, bool trim_will_do)
{
  if (b->can_zero)
    return backend_zero (b, length, offset, may_trim);
  if (trim_will_do && b->can_trim)
    return backend_trim (b, length, offset);
  return -ENOTSUP;
}

static inline int
backend_flush (struct backend *b)
{
  return backend_result (b->ops->flush (b));
}

#endif /* PCACHE_BACKEND_H */

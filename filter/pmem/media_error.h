/* SPDX-License-Identifier: BSD-3-Clause */

/* media_error: using a mapping without dying of it.
 *
 * Touching a page of a mapping that cannot be had ends in SIGBUS: a media
 * error of persistent memory, a file whose page cannot be read, a file made
 * shorter underneath, a hole on a full file system.  A guarded call turns
 * that into -EIO for the one call that hit it.  Any other SIGBUS goes where
 * it would have gone without us.
 *
 * SIGBUS must not be blocked in threads that make guarded calls: the kernel
 * kills a process which cannot take the signal of its own fault. */

#ifndef PCACHE_MEDIA_ERROR_H
#define PCACHE_MEDIA_ERROR_H

#include <stddef.h>
#include <stdint.h>

struct mapping {
  char *base;
  size_t length;                /* bytes */
};

/* Guarded calls are possible between the two.  They nest, and the last
 * release puts back the handler that the first catch found: this code may
 * be dlclose()d afterwards. */
extern void media_error_catch (void);
extern void media_error_release (void);

/* Call ACCESS (ARG), which touches MAPPING.  -EIO if a part of the mapping
 * could not be had; ACCESS was then left in the middle, so it must not hold
 * or own anything.  Guarded calls do not nest. */
extern int mapping_guard (const struct mapping *mapping,
                          void (*access) (void *), void *arg);

/* Touches nothing that cannot be had, so it needs no guard. */
static inline void
mapping_prefetch (const struct mapping *mapping, uint64_t at, size_t length)
{
  for (size_t i = 0; i < length; i += 64)
    __builtin_prefetch (mapping->base + at + i);
}

/* Guarded.  AT + LENGTH lies within the mapping. */
extern int mapping_read (const struct mapping *mapping, void *to, uint64_t at,
                         size_t length);
extern int mapping_checksum (const struct mapping *mapping, uint64_t at,
                             size_t length, uint64_t *sum);

#endif /* PCACHE_MEDIA_ERROR_H */

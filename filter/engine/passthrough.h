/* SPDX-License-Identifier: BSD-3-Clause */

/* passthrough: requests straight to the backing store, when the cache is no
 * longer used (cache_bypass).
 *
 * Ranges lie within its size.  0 or -errno, of which the backing store may have
 * done a part.  FUA: durable there when the call returns. */

#ifndef PCACHE_PASSTHROUGH_H
#define PCACHE_PASSTHROUGH_H

#include <stdbool.h>

#include "base/arith.h"
#include "engine/backend.h"

extern int passthrough_read (struct backend *backend, void *buf,
                             struct range range);
extern int passthrough_write (struct backend *backend, const void *buf,
                              struct range range, bool fua);
/* The range reads as zeros afterwards. */
extern int passthrough_zero (struct backend *backend, struct range range,
                             bool may_trim, bool fua);
/* What the range reads as afterwards is the backing store's affair. */
extern int passthrough_trim (struct backend *backend, struct range range,
                             bool fua);

#endif /* PCACHE_PASSTHROUGH_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* policy: caches of blocks that are nothing but their order of eviction, to
 * measure the engine against. */

#ifndef PCACHE_POLICY_H
#define PCACHE_POLICY_H

#include "eviction/trace.h"

#define POLICIES_LIST(X)                                                \
  X (fifo, "FIFO")                                                      \
  X (lru, "LRU")                                                        \
  X (sieve, "SIEVE")                                                    \
  X (s3_fifo, "S3-FIFO")                                                \
  X (belady, "Belady")

enum policy {
#define X(name, ...) POLICY_##name,
  POLICIES_LIST (X)
#undef X
  POLICIES_COUNT
};

extern const char *policy_name (enum policy policy);

/* How many reads of TRACE a cache of CAPACITY blocks answers.  The first
 * WARM_UP are not counted. */
extern size_t policy_hits (enum policy policy, const struct trace *trace,
                           uint32_t capacity, size_t warm_up);

#endif /* PCACHE_POLICY_H */

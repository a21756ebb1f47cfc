/* SPDX-License-Identifier: BSD-3-Clause */

/* latency: how long requests took, as a histogram.
 *
 * Each power of two of nanoseconds is cut into 8 buckets of equal width, so a
 * percentile is never too low, and too high by at most an eighth: it is the
 * upper end of the bucket that the exact one lies in.  Below LATENCY_MIN_NS
 * there is one bucket, and so there is from LATENCY_MAX_NS on. */

#ifndef PCACHE_LATENCY_H
#define PCACHE_LATENCY_H

#include <stdint.h>

#define LATENCY_SUB_BITS 3              /* 8 buckets a power of two */
#define LATENCY_MIN_BITS 8              /* 256 ns */
#define LATENCY_MAX_BITS 38             /* 275 s */
#define LATENCY_MIN_NS (UINT64_C (1) << LATENCY_MIN_BITS)
#define LATENCY_MAX_NS (UINT64_C (1) << LATENCY_MAX_BITS)
#define LATENCY_BUCKETS \
  (((LATENCY_MAX_BITS - LATENCY_MIN_BITS) << LATENCY_SUB_BITS) + 2)

struct latency {
  uint64_t count;
  uint64_t sum_ns;
  uint64_t bucket[LATENCY_BUCKETS];
};

static inline unsigned
latency_bucket (uint64_t ns)
{
  unsigned bits;

  if (ns < LATENCY_MIN_NS)
    return 0;
  if (ns >= LATENCY_MAX_NS)
    return LATENCY_BUCKETS - 1;
  bits = 63 - __builtin_clzll (ns);
  return 1 + ((bits - LATENCY_MIN_BITS) << LATENCY_SUB_BITS)
    + (ns >> (bits - LATENCY_SUB_BITS)) - (1 << LATENCY_SUB_BITS);
}

/* What is in BUCKET is less than this.  Of the last one: LATENCY_MAX_NS, for
 * want of a better one. */
extern uint64_t latency_bound_ns (unsigned bucket);

/* As long as this, or less, PER_MILLE thousandths of the requests took: 990
 * is p99.  0 if there were none. */
extern uint64_t latency_percentile_ns (const struct latency *latency,
                                       unsigned per_mille);

#endif /* PCACHE_LATENCY_H */

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "base/arith.h"
#include "engine/latency.h"

uint64_t
latency_bound_ns (unsigned bucket)
{
  const unsigned subs = 1 << LATENCY_SUB_BITS;
  const unsigned octave = (bucket - 1) >> LATENCY_SUB_BITS;

  if (bucket == 0)
    return LATENCY_MIN_NS;
  if (bucket >= LATENCY_BUCKETS - 1)
    return LATENCY_MAX_NS;
  return (uint64_t) (subs + (bucket - 1) % subs + 1)
    << (octave + LATENCY_MIN_BITS - LATENCY_SUB_BITS);
}

uint64_t
latency_percentile_ns (const struct latency *latency, unsigned per_mille)
{
  /* Rounded up, without overflow: the rank of the request in question. */
  const uint64_t rank = MAX (latency->count / 1000 * per_mille
                             + (latency->count % 1000 * per_mille + 999)
                               / 1000, UINT64_C (1));
  uint64_t sum = 0;

  if (latency->count == 0)
    return 0;
  for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
    sum += latency->bucket[i];
    if (sum >= rank)
      return latency_bound_ns (i);
  }
  return LATENCY_MAX_NS;
}

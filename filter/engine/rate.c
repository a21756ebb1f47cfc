/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "engine/rate.h"

void
rate_init (struct rate *rate, uint64_t now_ms)
{
  *rate = (struct rate) {
    .lock = PTHREAD_MUTEX_INITIALIZER, .since_ms = now_ms,
  };
}

void
rate_destroy (struct rate *rate)
{
  pthread_mutex_destroy (&rate->lock);
}

void
rate_add (struct rate *rate, uint64_t now_ms, uint64_t n)
{
  const uint64_t second = now_ms / 1000;
  HOLD_LOCK (&rate->lock);
  __typeof__ (&rate->slot[0]) slot = &rate->slot[second % RATE_SECONDS];

  if (slot->second < second) {
    slot->second = second;
    slot->sum = 0;
  }
  slot->sum += n;
}

uint64_t
rate_get (struct rate *rate, uint64_t now_ms)
{
  const uint64_t second = now_ms / 1000;
  HOLD_LOCK (&rate->lock);
  /* The second that is under way, and whole ones before it; of a rate that is
   * younger only what there was of it, but no less than one. */
  const uint64_t window_ms = MIN ((RATE_SECONDS - 1) * UINT64_C (1000)
                                  + now_ms % 1000,
                                  now_ms - MIN (rate->since_ms, now_ms));
  uint64_t sum = 0;

  for (unsigned i = 0; i < RATE_SECONDS; i++)
    if (rate->slot[i].second + RATE_SECONDS > second)
      sum += rate->slot[i].sum;
  return sum * 1000 / MAX (window_ms, UINT64_C (1000));
}

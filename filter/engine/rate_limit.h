/* SPDX-License-Identifier: BSD-3-Clause */

/* rate_limit: a token bucket.
 *
 * Whoever wants to send waits until it is not in debt, sends, and says how much
 * that was.  So a request of any size goes out whole, and the next waits for as
 * long as it cost.  What was not used is kept for RATE_BURST_MS only: after a
 * pause nothing comes in a flood.  The rate may be another one each time. */

#ifndef PCACHE_RATE_LIMIT_H
#define PCACHE_RATE_LIMIT_H

#include <stdint.h>

#define RATE_BURST_MS 100

/* All zeros: a new one.  Who shares it has a lock for it. */
struct rate_limit {
  int64_t credit;               /* thousandths of a byte */
  uint64_t then_ms;             /* when it was right */
};

/* 0: send now.  Otherwise ask again after so many ms.  RATE is in bytes per
 * second, and not 0. */
extern uint64_t rate_limit_wait_ms (struct rate_limit *limit, uint64_t rate,
                                    uint64_t now_ms);
extern void rate_limit_spend (struct rate_limit *limit, uint64_t bytes);

#endif /* PCACHE_RATE_LIMIT_H */

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>

#include "base/arith.h"
#include "engine/rate_limit.h"

/* Nobody writes as fast, and nothing overflows. */
#define MAX_RATE (INT64_MAX / 1000000)

uint64_t
rate_limit_wait_ms (struct rate_limit *limit, uint64_t rate, uint64_t now_ms)
{
  uint64_t passed_ms, debt;
  int64_t most;

  assert (rate > 0);
  rate = MIN (rate, (uint64_t) MAX_RATE);
  most = rate * RATE_BURST_MS;
  /* Bytes per second are thousandths of bytes per millisecond. */
  if (limit->credit < most) {
    passed_ms = now_ms - limit->then_ms;
    if (passed_ms >= (uint64_t) (most - limit->credit) / rate + 1)
      limit->credit = most;
    else
      limit->credit += passed_ms * rate;
  }
  limit->credit = MIN (limit->credit, most);
  limit->then_ms = now_ms;
  if (limit->credit > 0)
    return 0;
  debt = -limit->credit;
  return debt / rate + 1;
}

void
rate_limit_spend (struct rate_limit *limit, uint64_t bytes)
{
  limit->credit -= (int64_t) bytes * 1000;
}

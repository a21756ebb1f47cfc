/* SPDX-License-Identifier: BSD-3-Clause */

/* The histogram against the exact figures. */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/arith.h"
#include "engine/latency.h"

static void
put (struct latency *latency, uint64_t ns)
{
  latency->bucket[latency_bucket (ns)]++;
  latency->count++;
}

/* Buckets lie without gap or overlap, each an eighth of its power of two. */
static void
each_time_has_one_bucket (void **state)
{
  assert_int_equal (latency_bucket (0), 0);
  assert_int_equal (latency_bucket (LATENCY_MIN_NS - 1), 0);
  assert_int_equal (latency_bucket (LATENCY_MAX_NS), LATENCY_BUCKETS - 1);
  assert_int_equal (latency_bucket (UINT64_MAX), LATENCY_BUCKETS - 1);
  for (unsigned i = 0; i < LATENCY_BUCKETS - 1; i++) {
    const uint64_t bound = latency_bound_ns (i);

    assert_int_equal (latency_bucket (bound - 1), i);
    assert_int_equal (latency_bucket (bound), i + 1);
    if (i > 0)
      assert_true ((bound - latency_bound_ns (i - 1)) * 8
                   <= latency_bound_ns (i - 1));
  }
  assert_int_equal (latency_bound_ns (LATENCY_BUCKETS - 2), LATENCY_MAX_NS);
}

static int
compare (const void *a, const void *b)
{
  const uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

  return (x > y) - (x < y);
}

/* Never too low, and at most an eighth too high. */
static void
percentiles_are_right_to_an_eighth (void **state)
{
  static const unsigned per_mille[] = { 1, 500, 900, 990, 999, 1000 };
  static const size_t counts[] = { 1, 2, 3, 10, 999, 1000, 1001, 20000 };
  static uint64_t times[20000];
  uint64_t x = 88172645463325252;       /* xorshift: the same each time */

  for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
    struct latency latency = { 0 };

    for (size_t i = 0; i < counts[c]; i++) {
      x ^= x << 13;
      x ^= x >> 7;
      x ^= x << 17;
      /* Spread over all powers of two, in the range and below. */
      times[i] = (x >> 20) >> (x % 40 + 6);
      put (&latency, times[i]);
    }
    qsort (times, counts[c], sizeof times[0], compare);
    for (size_t i = 0; i < sizeof per_mille / sizeof per_mille[0]; i++) {
      const size_t rank = MAX ((counts[c] * per_mille[i] + 999) / 1000, 1u);
      const uint64_t exact = times[rank - 1];
      const uint64_t told = latency_percentile_ns (&latency, per_mille[i]);

      assert_true (told > exact);
      assert_true (told <= MAX (exact + exact / 8 + 1, LATENCY_MIN_NS));
    }
  }
}

static void
of_nothing_there_is_none (void **state)
{
  const struct latency none = { 0 };
  struct latency long_ones = { 0 };

  assert_int_equal (latency_percentile_ns (&none, 500), 0);
  put (&long_ones, UINT64_MAX);
  assert_int_equal (latency_percentile_ns (&long_ones, 500), LATENCY_MAX_NS);
  /* A rank does not overflow. */
  long_ones.bucket[3] = long_ones.count = UINT64_MAX;
  assert_int_equal (latency_percentile_ns (&long_ones, 999),
                    latency_bound_ns (3));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (each_time_has_one_bucket),
    cmocka_unit_test (percentiles_are_right_to_an_eighth),
    cmocka_unit_test (of_nothing_there_is_none),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}

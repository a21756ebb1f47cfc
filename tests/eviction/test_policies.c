/* SPDX-License-Identifier: BSD-3-Clause */

/* Eviction, measured: the simulated policies are what they are called, none is
 * better than the optimum, and the engine is as good as it should be.  Small;
 * report.c has the large ones. */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eviction/policy.h"
#include "eviction/replay.h"
#include "support/reports.h"
#include "support/seed.h"

#define SEGMENTS 16
#define REQUESTS_PER_BLOCK 12   /* of the cache */

/* --- the simulations -------------------------------------------------- */

/* The same by arrays, as slowly as they can be. */
static size_t
naive_hits (enum policy policy, const struct trace *trace, uint32_t capacity)
{
  uint32_t *cached = malloc ((capacity + 1) * sizeof *cached);
  uint32_t count = 0;
  size_t hits = 0;

  assert_non_null (cached);
  for (size_t i = 0; i < trace->length; i++) {
    uint32_t out = 0, found = 0;

    while (found < count && cached[found] != trace->block[i])
      found++;
    if (found < count) {
      hits++;
      if (policy != POLICY_lru)
        continue;
      memmove (cached + found, cached + found + 1,
               (--count - found) * sizeof *cached);
    }
    cached[count++] = trace->block[i];
    if (count <= capacity)
      continue;
    if (policy == POLICY_belady) {
      size_t latest = 0;

      for (uint32_t j = 0; j < count; j++) {
        size_t next = i + 1;

        while (next < trace->length && trace->block[next] != cached[j])
          next++;
        if (next > latest) {
          latest = next;
          out = j;
        }
      }
    }
    memmove (cached + out, cached + out + 1, (--count - out) * sizeof *cached);
  }
  free (cached);
  return hits;
}

static void
a_simulation_is_what_it_is_called (void **state)
{
  static const enum policy policies[] = {
    POLICY_fifo, POLICY_lru, POLICY_belady,
  };
  uint64_t random = seed;

  (void) state;
  for (enum trace_kind kind = 0; kind < TRACES_COUNT; kind++) {
    struct trace trace = trace_make (kind, 100, 2500, random_next (&random));

    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
      assert_int_equal (policy_hits (policies[i], &trace, 100, 0),
                        naive_hits (policies[i], &trace, 100));
    trace_free (&trace);
  }
}

/* By hand, from the papers' descriptions. */
static void
sieve_and_s3_fifo_keep_what_they_should (void **state)
{
  /* SIEVE, 10 blocks: 0 is hit, so 10 drives out 1, and 11 drives out 2; the
   * hand is past 0 then and does not come back to it. */
  uint32_t sieve[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 10, 0, 11, 0, 1, 3 };
  /* S3-FIFO, 10 blocks of which 1 on probation: 0 is hit twice, so it moves to
   * the main queue when 10 comes and 1 goes, to the ghosts.  1 comes back to
   * the main queue. */
  uint32_t s3_fifo[] = { 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 11, 12,
                         13, 14, 15, 16, 17, 18, 19, 20, 21, 0, 1 };
  struct trace trace = { sieve, sizeof sieve / sizeof *sieve, 20 };

  (void) state;
  assert_int_equal (policy_hits (POLICY_sieve, &trace, 10, 0), 3);
  trace = (struct trace) { s3_fifo, sizeof s3_fifo / sizeof *s3_fifo, 30 };
  assert_int_equal (policy_hits (POLICY_s3_fifo, &trace, 10, 0), 5);
}

/* --- the engine ------------------------------------------------------- */

struct ratios {
  double policy[POLICIES_COUNT], fifo, clock, clock_cutoff, ghost;
};

static struct ratios
measure (enum trace_kind kind)
{
  struct replay replay = replay_default (SEGMENTS);
  const uint32_t capacity = replay_capacity (&replay);
  const size_t length = (size_t) REQUESTS_PER_BLOCK * capacity;
  const size_t warm_up = length / 5;
  const double counted = length - warm_up;
  struct trace trace = trace_make (kind, capacity, length, seed);
  struct ratios ratios;

  for (enum policy p = 0; p < POLICIES_COUNT; p++)
    ratios.policy[p] = policy_hits (p, &trace, capacity, warm_up) / counted;
  replay.setting[SETTING_sequential_cutoff] = 0;
  replay.setting[SETTING_eviction] = EVICTION_FIFO;
  ratios.fifo = replay_run (&replay, &trace, warm_up).hits / counted;
  replay.setting[SETTING_eviction] = EVICTION_CLOCK;
  ratios.clock = replay_run (&replay, &trace, warm_up).hits / counted;
  replay.setting[SETTING_eviction] = EVICTION_GHOST;
  ratios.ghost = replay_run (&replay, &trace, warm_up).hits / counted;
  replay.setting[SETTING_eviction] = EVICTION_CLOCK;
  replay.setting[SETTING_sequential_cutoff] = 256 << 10;
  ratios.clock_cutoff = replay_run (&replay, &trace, warm_up).hits / counted;
  trace_free (&trace);

  printf ("# %s: FIFO %.3f LRU %.3f SIEVE %.3f S3-FIFO %.3f Belady %.3f; "
          "fifo %.3f clock %.3f, with cutoff %.3f, ghost %.3f\n",
          trace_name (kind), ratios.policy[POLICY_fifo],
          ratios.policy[POLICY_lru], ratios.policy[POLICY_sieve],
          ratios.policy[POLICY_s3_fifo], ratios.policy[POLICY_belady],
          ratios.fifo, ratios.clock, ratios.clock_cutoff, ratios.ghost);
  for (enum policy p = 0; p < POLICIES_COUNT; p++)
    assert_true (ratios.policy[p] <= ratios.policy[POLICY_belady]);
  assert_true (ratios.fifo <= ratios.policy[POLICY_belady]);
  assert_true (ratios.clock <= ratios.policy[POLICY_belady]);
  assert_true (ratios.clock_cutoff <= ratios.policy[POLICY_belady]);
  assert_true (ratios.ghost <= ratios.policy[POLICY_belady]);
  return ratios;
}

static void
a_second_chance_pays_where_some_blocks_are_hot (void **state)
{
  (void) state;
  for (enum trace_kind kind = TRACE_zipf_07; kind <= TRACE_zipf_11; kind++) {
    const struct ratios r = measure (kind);

    assert_true (r.clock > r.fifo + 0.01);
    assert_true (r.ghost > r.fifo + 0.01);
    /* Whole segments, and open ones, cost little. */
    assert_true (r.fifo > r.policy[POLICY_fifo] - 0.05);
    assert_true (r.clock > r.policy[POLICY_lru] - 0.05);
    assert_true (r.ghost > r.policy[POLICY_s3_fifo] - 0.05);
    /* Random reads are no streams. */
    assert_true (r.clock_cutoff > r.clock - 0.005);
  }
}

static void
scans_do_not_drive_out_what_is_hot (void **state)
{
  const struct ratios plain = measure (TRACE_zipf_09);
  const struct ratios r = measure (TRACE_scans);

  (void) state;
  /* A quarter of the requests belongs to scans, and cannot be hits. */
  assert_true (r.clock_cutoff > r.clock + 0.01);
  assert_true (r.ghost > r.clock + 0.02);
  assert_true (r.ghost > plain.ghost * 0.75 - 0.05);
}

static void
a_loop_that_does_not_fit_is_kept_in_part (void **state)
{
  const struct ratios r = measure (TRACE_loop);

  (void) state;
  assert_true (r.clock < 0.05);
  assert_true (r.clock_cutoff > 0.2);
  assert_true (r.ghost > 0.4);
}

static void
what_was_hot_does_not_stay_for_good (void **state)
{
  const struct ratios r = measure (TRACE_shifting);

  (void) state;
  assert_true (r.clock > r.fifo - 0.02);
  assert_true (r.ghost > r.fifo - 0.10);
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (a_simulation_is_what_it_is_called),
    cmocka_unit_test (sieve_and_s3_fifo_keep_what_they_should),
    cmocka_unit_test (a_second_chance_pays_where_some_blocks_are_hot),
    cmocka_unit_test (scans_do_not_drive_out_what_is_hot),
    cmocka_unit_test (a_loop_that_does_not_fit_is_kept_in_part),
    cmocka_unit_test (what_was_hot_does_not_stay_for_good),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

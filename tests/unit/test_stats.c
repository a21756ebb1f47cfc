/* SPDX-License-Identifier: BSD-3-Clause */

/* What threads count is neither lost nor mixed up, however many of them come
 * and go; and times are right though not all are taken. */

#include <config.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "engine/rate.h"
#include "engine/stats.h"

#define ROUNDS 20
#define AT_ONCE 300             /* more than there are lanes */
#define EACH 100

static struct stats *stats, *others;
static _Thread_local uint64_t clock_now = 1;

/* In place of the real one: time passes when a test says so. */
extern int __wrap_clock_gettime (clockid_t which, struct timespec *ts);

int
__wrap_clock_gettime (clockid_t which, struct timespec *ts)
{
  *ts = (struct timespec) { clock_now / 1000000000, clock_now % 1000000000 };
  return 0;
}

static void
request (uint64_t ns)
{
  const uint64_t start = stats_begin (stats, TIMER_read_latency);

  clock_now += ns;
  stats_end (stats, TIMER_read_latency, start);
}
static pthread_barrier_t all_here;

static void *
count (void *opaque)
{
  for (unsigned i = 0; i < EACH; i++) {
    stats_add (stats, STAT_reads, 1);
    stats_add (others, STAT_reads, 3);
    stats_add (stats, STAT_read_bytes, 4096);
    request (STATS_SHORT_NS);   /* each is timed */
  }
  if (opaque)
    pthread_barrier_wait (&all_here);
  return NULL;
}

static void
expect (uint64_t threads)
{
  struct latency latency;

  assert_int_equal (stats_get (stats, STAT_reads), threads * EACH);
  assert_int_equal (stats_get (others, STAT_reads), threads * EACH * 3);
  assert_int_equal (stats_get (stats, STAT_read_bytes),
                    threads * EACH * 4096);
  assert_int_equal (stats_get (stats, STAT_writes), 0);
  stats_get_latency (stats, TIMER_read_latency, &latency);
  assert_int_equal (latency.count, threads * EACH);
  assert_int_equal (latency.bucket[latency_bucket (STATS_SHORT_NS)],
                    threads * EACH);
  assert_int_equal (latency.sum_ns, threads * EACH * STATS_SHORT_NS);
  stats_get_latency (stats, TIMER_write_latency, &latency);
  assert_int_equal (latency.count, 0);
}

static void
set_up (void)
{
  stats = stats_new ();
  others = stats_new ();
  assert_true (stats && others);
}

static void
tear_down (void)
{
  stats_free (stats);
  stats_free (others);
}

static void
run (unsigned threads, bool at_once)
{
  pthread_t thread[AT_ONCE];

  for (unsigned i = 0; i < threads; i++)
    assert_int_equal (pthread_create (&thread[i], NULL, count,
                                      at_once ? thread : NULL), 0);
  for (unsigned i = 0; i < threads; i++)
    pthread_join (thread[i], NULL);
}

/* A number that a thread leaves is another's, with what was counted. */
static void
threads_come_and_go (void **state)
{
  set_up ();
  for (unsigned i = 0; i < ROUNDS; i++)
    run (4, false);
  expect (ROUNDS * 4);
  tear_down ();
}

/* All of them are there at one time: some have to share. */
static void
there_may_be_more_threads_than_lanes (void **state)
{
  set_up ();
  assert_int_equal (pthread_barrier_init (&all_here, NULL, AT_ONCE), 0);
  run (AT_ONCE, true);
  pthread_barrier_destroy (&all_here);
  expect (AT_ONCE);
  /* The numbers have come back. */
  run (1, false);
  expect (AT_ONCE + 1);
  tear_down ();
}

/* Of many short requests with a few long ones in between. */
static void
those_that_are_timed_stand_for_the_others (void **state)
{
  const uint64_t total = 200000;
  struct latency latency;
  uint64_t x = 88172645463325252, sum = 0, long_ones = 0, told;

  set_up ();
  for (uint64_t i = 0; i < total; i++) {
    uint64_t ns;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    ns = x >> 40 & 63 ? 1000 + (x >> 20 & 1023) : 1000000;
    long_ones += ns == 1000000;
    sum += ns;
    request (ns);
  }
  stats_get_latency (stats, TIMER_read_latency, &latency);
  /* But for those since the last. */
  assert_in_range (latency.count, total - 2 * STATS_SAMPLE, total);
  told = latency.bucket[latency_bucket (1000000)];
  assert_in_range (told, long_ones * 85 / 100, long_ones * 115 / 100);
  assert_in_range (latency.sum_ns, sum / 100 * 85, sum / 100 * 115);
  tear_down ();
}

/* While it is slow nothing is left out. */
static void
each_request_is_timed_from_the_first_long_one (void **state)
{
  struct latency latency;
  uint64_t before;

  set_up ();
  for (unsigned i = 0; i < 1000; i++)
    request (100);
  do {
    request (20000);
    stats_get_latency (stats, TIMER_read_latency, &latency);
  } while (latency.bucket[latency_bucket (20000)] == 0);
  before = latency.count;
  for (unsigned i = 0; i < 100; i++)
    request (30000);
  stats_get_latency (stats, TIMER_read_latency, &latency);
  assert_int_equal (latency.count, before + 100);
  assert_int_equal (latency.bucket[latency_bucket (30000)], 100);
  tear_down ();
}

static void
a_rate_is_that_of_the_last_seconds (void **state)
{
  struct rate rate;

  rate_init (&rate, 1500);
  assert_int_equal (rate_get (&rate, 1500), 0);
  /* Young: over no less than a second. */
  rate_add (&rate, 1600, 700);
  assert_int_equal (rate_get (&rate, 1600), 700);
  assert_int_equal (rate_get (&rate, 3500), 350);
  /* 100 a second, for long. */
  for (uint64_t ms = 4000; ms < 60000; ms += 10)
    rate_add (&rate, ms, 1);
  assert_in_range (rate_get (&rate, 59999), 99, 101);
  assert_in_range (rate_get (&rate, 60000), 99, 101);
  /* And then nothing. */
  assert_in_range (rate_get (&rate, 64999), 45, 55);
  assert_int_equal (rate_get (&rate, 70000), 0);
  /* Of a clock that another thread read earlier. */
  rate_add (&rate, 100000, 50);
  rate_add (&rate, 99999, 50);
  assert_int_equal (rate_get (&rate, 100999), 100 * 1000 / 9999);
  rate_destroy (&rate);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (threads_come_and_go),
    cmocka_unit_test (there_may_be_more_threads_than_lanes),
    cmocka_unit_test (those_that_are_timed_stand_for_the_others),
    cmocka_unit_test (each_request_is_timed_from_the_first_long_one),
    cmocka_unit_test (a_rate_is_that_of_the_last_seconds),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}

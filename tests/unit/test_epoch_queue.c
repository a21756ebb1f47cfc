/* SPDX-License-Identifier: BSD-3-Clause */

/* The epoch queue: whatever order sets are closed in, write-back gets them
 * by epoch. */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/epoch_queue.h"
#include "support/seed.h"

static struct epoch_queue queue;

static int
set_up (void **state)
{
  (void) state;
  epoch_queue_init (&queue);
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  epoch_queue_destroy (&queue);
  return 0;
}

static void
add (uint64_t epoch, uint32_t ordinal, uint64_t dirty_bytes)
{
  struct set_entry *entry = calloc (1, sizeof *entry);

  assert_non_null (entry);
  entry->epoch = epoch;
  entry->ordinal = ordinal;
  entry->dirty_bytes = dirty_bytes;
  entry->since_ms = 1000 + ordinal;
  epoch_queue_add (&queue, entry);
}

static uint64_t
list (uint64_t through, struct set_entry **entries)
{
  uint64_t count;

  assert_int_equal (epoch_queue_list (&queue, through, entries, &count), 0);
  return count;
}

static void
the_lowest_epoch_comes_first (void **state)
{
  uint64_t epoch, since;

  (void) state;
  assert_false (epoch_queue_first (&queue, &epoch, &since));
  add (7, 1, 10);
  add (5, 2, 20);
  add (6, 3, 30);
  assert_true (epoch_queue_first (&queue, &epoch, &since));
  assert_int_equal (epoch, 5);
  assert_int_equal (since, 1002);
  assert_int_equal (epoch_queue_dirty_bytes (&queue), 60);
}

static void
a_list_has_all_sets_of_its_epochs_and_leaves_them_there (void **state)
{
  struct set_entry *entries;
  uint64_t epoch, since;

  (void) state;
  add (7, 1, 10);
  add (5, 2, 20);
  add (6, 3, 30);
  add (5, 4, 40);
  assert_int_equal (list (4, &entries), 0);
  free (entries);
  assert_int_equal (list (6, &entries), 3);
  assert_int_equal (entries[0].ordinal, 2);
  assert_int_equal (entries[1].ordinal, 4);
  assert_int_equal (entries[2].ordinal, 3);
  free (entries);

  epoch_queue_drop (&queue, 5);
  assert_true (epoch_queue_first (&queue, &epoch, &since));
  assert_int_equal (epoch, 6);
  assert_int_equal (epoch_queue_dirty_bytes (&queue), 40);
  epoch_queue_drop (&queue, UINT64_MAX);
  assert_false (epoch_queue_first (&queue, &epoch, &since));
  assert_int_equal (epoch_queue_dirty_bytes (&queue), 0);
}

/* Against an array of counters. */
static void
any_history_keeps_the_order (void **state)
{
  uint64_t random = seed, bytes[100] = { 0 }, count[100] = { 0 };
  uint64_t base = 0;

  (void) state;
  for (int i = 0; i < 20000; i++) {
    const uint64_t epoch = base + random_below (&random, 100 - base);
    uint64_t sum = 0, n = 0, last = 0, got;
    struct set_entry *entries;

    if (random_below (&random, 20) > 0) {
      const uint64_t dirty = random_below (&random, 1000);

      add (epoch, i, dirty);
      bytes[epoch] += dirty;
      count[epoch]++;
    }
    else {
      epoch_queue_drop (&queue, epoch);
      for (uint64_t e = 0; e <= epoch; e++)
        bytes[e] = count[e] = 0;
      base = random_below (&random, 90);
    }
    for (int e = 0; e < 100; e++)
      sum += bytes[e];
    assert_int_equal (epoch_queue_dirty_bytes (&queue), sum);
    if (i % 64 > 0)
      continue;
    for (uint64_t e = 0; e <= epoch; e++)
      n += count[e];
    got = list (epoch, &entries);
    assert_int_equal (got, n);
    for (uint64_t j = 0; j < got; j++) {
      assert_true (entries[j].epoch >= last && entries[j].epoch <= epoch);
      last = entries[j].epoch;
    }
    free (entries);
  }
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (the_lowest_epoch_comes_first),
    TEST (a_list_has_all_sets_of_its_epochs_and_leaves_them_there),
    TEST (any_history_keeps_the_order),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* pcachectl repair: what can be proved is put in order, what cannot is left, and
 * a crash in the middle leaves what another repair finishes. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pmem/overlay.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/seed.h"
#include "support/small_engine.h"
#include "tool/backup.h"
#include "tool/check.h"
#include "tool/repair.h"

#define DISK (UINT64_C (4) * MIB)
#define BLOCK UINT64_C (4096)
#define CLEAN_BLOCKS 64         /* 0 to 63: version 2, written back */
#define DIRTY_BLOCKS 32         /* 0 to 31: version 3, not written back */
#define SET_BLOCKS 8            /* in each of the dirty sets */

static struct small_engine *small;
static uint32_t clean_segment, dirty_segment;
static uint64_t random_state;

static void
make_cache (bool ordered)
{
  reports_collect ();
  small = small_engine_new (8, ordered, DISK);
  fill_version (small->disk->bytes, 0, DISK, 1);
  small_engine_open (small);
  for (uint64_t n = 0; n < CLEAN_BLOCKS; n++)
    put (small, n * BLOCK, BLOCK, 2);
  clean_segment = segment_of (small, 0);
  flush (small);
  write_back (small);
  seal (small);
  for (uint64_t n = 0; n < DIRTY_BLOCKS; n++) {
    put (small, n * BLOCK, BLOCK, 3);
    if ((n + 1) % SET_BLOCKS == 0)
      flush (small);
  }
  dirty_segment = segment_of (small, 0);
  assert_int_not_equal (clean_segment, dirty_segment);
  seal (small);
  small_engine_kill (small);
}

static int
set_up_ordered (void **state)
{
  make_cache (true);
  return 0;
}

static int
set_up_unordered (void **state)
{
  make_cache (false);
  return 0;
}

static int
tear_down (void **state)
{
  small_engine_free (small);
  return 0;
}

/* --- helpers ---------------------------------------------------------- */

static struct repair
repair_device (struct memory_device *device, bool drop, int want)
{
  struct repair repair = { .drop = drop };
  struct pmem *pmem = memory_pmem_open (device);

  assert_int_equal (repair_run (&repair, pmem), want);
  pmem_close (pmem);
  return repair;
}

static struct snapshot snapshot;

static enum snapshot_verdict
verdict_of (struct memory_device *device, uint64_t *damaged)
{
  struct pmem *pmem = memory_pmem_open (device);
  enum snapshot_verdict verdict;
  struct check_result result;

  assert_int_equal (snapshot_read (&snapshot, pmem, &verdict), 0);
  if (damaged) {
    assert_int_equal (check_snapshot (&snapshot, NULL, &result), 0);
    *damaged = result.damaged + result.dirty_damaged;
    check_free (&result);
  }
  snapshot_close (&snapshot);
  pmem_close (pmem);
  return verdict;
}

/* LOST_SET: this dirty set was given up; -1: none; -2: all. */
static void
expect_content (struct memory_device *device, int lost_set)
{
  struct small_engine *other =
    small_engine_beside (small, memory_device_clone (device));

  small_engine_open (other);
  for (int n = 0; n < CLEAN_BLOCKS; n++)
    expect (other, n * BLOCK, BLOCK,
            n < DIRTY_BLOCKS && n / SET_BLOCKS != lost_set && lost_set != -2
            ? 3 : 2);
  expect (other, CLEAN_BLOCKS * BLOCK, BLOCK, 1);
  /* And what is dirty arrives. */
  write_back (other);
  expect_on_disk (other, 31 * BLOCK, BLOCK,
                  lost_set == -2 || lost_set == 3 ? 2 : 3);
  small_engine_free (other);
}

struct cut {
  bool drop;
  int lost_set;
  unsigned images;
};

/* At every store, fence and sync: what a power cut leaves is repaired anew. */
static void
cut_the_power (struct memory_device *device, enum memory_event event,
               uint64_t at, size_t length, void *opaque)
{
  struct cut *cut = opaque;
  struct memory_device *left;
  struct repair repair;
  uint64_t damaged;

  if (event == MEMORY_BEFORE_COPY)
    return;
  left = memory_device_crash (device, &random_state);
  repair = repair_device (left, cut->drop, 0);
  assert_int_equal (repair.left, 0);
  assert_int_equal (verdict_of (left, &damaged), SNAPSHOT_OK);
  assert_int_equal (damaged, 0);
  expect_content (left, cut->lost_set);
  memory_device_free (left);
  cut->images++;
}

/* The damage is done.  Repair it, whatever crashes; then all is well. */
static void
expect_repaired (bool drop, int lost_set)
{
  struct memory_device *device = memory_device_clone (small->device);
  struct cut cut = { .drop = drop, .lost_set = lost_set };
  struct repair repair;
  uint64_t damaged;

  memory_device_track (device, random_next (&random_state));
  device->hook = cut_the_power;
  device->opaque = &cut;
  repair = repair_device (device, drop, 0);
  device->hook = NULL;
  assert_int_equal (repair.left, 0);
  assert_true (repair.steps > 0);
  assert_true (cut.images > 3);
  assert_int_equal (repair.drops > 0, lost_set != -1);
  assert_int_equal (verdict_of (device, &damaged), SNAPSHOT_OK);
  assert_int_equal (damaged, 0);
  expect_content (device, lost_set);
  /* There is nothing more to do. */
  assert_int_equal (repair_device (device, drop, 0).steps, 0);
  memory_device_free (device);
}

static void
expect_left_alone (void)
{
  struct memory_device *device = memory_device_clone (small->device);
  const struct repair repair = repair_device (device, false, 0);

  assert_int_equal (repair.left, 1);
  assert_int_equal (repair.steps, 0);
  assert_memory_equal (device->bytes, small->device->bytes, device->size);
  memory_device_free (device);
}

static void
spoil (void *bytes)
{
  ((uint8_t *) bytes)[40] ^= 0x10;
}

/* --- tests ------------------------------------------------------------ */

static void
a_whole_cache_is_not_touched (void **state)
{
  const unsigned copies = small->device->copies;
  const struct repair repair = repair_device (small->device, true, 0);

  assert_int_equal (repair.steps + repair.left + repair.left_harmless, 0);
  assert_int_equal (small->device->copies, copies);
}

static void
one_copy_is_enough (void **state)
{
  spoil (superblock_on (small->device, 1));
  spoil (control_on (small->device, 0));
  spoil (segment_on (small->device, clean_segment, 0));
  spoil (segment_on (small->device, dirty_segment, 1));
  expect_repaired (false, -1);
}

static void
damage_that_hides_clean_data_is_cleared_away (void **state)
{
  spoil (set_on (small->device, clean_segment, 0));
  expect_repaired (false, -1);
}

static void
a_header_whose_segment_is_written_back_is_made_anew (void **state)
{
  spoil (segment_on (small->device, clean_segment, 0));
  spoil (segment_on (small->device, clean_segment, 1));
  expect_repaired (false, -1);
}

static void
a_header_over_dirty_data_is_left_alone (void **state)
{
  spoil (segment_on (small->device, dirty_segment, 0));
  spoil (segment_on (small->device, dirty_segment, 1));
  expect_left_alone ();
  expect_repaired (true, -2);
}

/* Not even a set that nobody can read is taken for nothing. */
static void
a_header_over_a_torn_set_is_left_alone (void **state)
{
  for (uint32_t i = 0; i < sets_on (small->device, clean_segment); i++)
    spoil (set_on (small->device, clean_segment, i));
  spoil (segment_on (small->device, clean_segment, 0));
  spoil (segment_on (small->device, clean_segment, 1));
  expect_left_alone ();
}

static void
dirty_sets_are_given_up_only_when_asked (void **state)
{
  spoil (set_on (small->device, dirty_segment, 1));
  expect_left_alone ();
  expect_repaired (true, 1);
}

static void
the_last_set_can_be_given_up (void **state)
{
  spoil (set_on (small->device, dirty_segment, 3));
  expect_left_alone ();
  expect_repaired (true, 3);
}

static void
no_free_segment_no_evacuation (void **state)
{
  struct repair repair;

  small_engine_open (small);
  /* All are in use; more would evict. */
  for (unsigned version = 4; segment_counts (&small->engine.segments).free > 1;
       version++) {
    put (small, 64 * BLOCK, BLOCK, version);
    seal (small);
  }
  while (segment_counts (&small->engine.segments).free > 0) {
    struct segment *segment;

    assert_int_equal (segment_acquire (&small->engine.segments, 0, &segment),
                      0);
  }
  small_engine_kill (small);
  spoil (set_on (small->device, dirty_segment, 1));
  repair = repair_device (small->device, true, 0);
  assert_int_equal (repair.left, 1);
  assert_int_equal (repair.drops, 0);
}

/* What a store refuses is an error, and the next repair goes on. */
static void
a_failing_device_is_an_error (void **state)
{
  spoil (set_on (small->device, dirty_segment, 1));
  for (int stores = 0;; stores++) {
    struct memory_device *device = memory_device_clone (small->device);
    struct pmem *pmem = memory_pmem_open (device);
    struct repair repair = { .drop = true };
    int r;

    device->copies_left = stores;
    r = repair_run (&repair, pmem);
    pmem_close (pmem);
    device->copies_left = -1;
    if (r < 0)
      assert_int_equal (repair_device (device, true, 0).left, 0);
    expect_content (device, 1);
    memory_device_free (device);
    if (r == 0)
      return;
  }
}

static void
a_repair_can_be_taken_back (void **state)
{
  struct memory_device *device = memory_device_clone (small->device);
  struct pmem *pmem, *overlay;
  struct repair repair = { .drop = true };
  const char *path = "test_repair.backup";

  spoil (set_on (device, dirty_segment, 1));
  spoil (control_on (device, 0));
  pmem = memory_pmem_open (device);
  remove (path);
  assert_int_equal (overlay_open (pmem, false, &overlay), 0);
  assert_int_equal (repair_run (&repair, overlay), 0);
  assert_int_equal (backup_save (path, pmem, overlay,
                                 small->engine.superblock.geometry
                                 .first_segment_at), 0);
  /* Nothing is written over. */
  assert_int_equal (backup_save (path, pmem, overlay, DISK), -EEXIST);
  pmem_close (overlay);

  struct memory_device *before = memory_device_clone (device);
  const uint64_t metadata = small->engine.superblock.geometry.first_segment_at;

  assert_int_equal (repair_run (&repair, pmem), 0);
  assert_memory_not_equal (before->bytes, device->bytes, metadata);
  assert_int_equal (backup_restore (path, pmem), 0);
  assert_memory_equal (before->bytes, device->bytes, metadata);
  /* Once more does no harm, but not when it was used since. */
  assert_int_equal (backup_restore (path, pmem), 0);
  control_on (device, 0)->written_back = le64_of (77);
  assert_int_equal (backup_restore (path, pmem), -ESTALE);
  pmem_close (pmem);
  remove (path);
  memory_device_free (before);
  memory_device_free (device);
}

#define TEST(name)                                                      \
  { #name " (pmem)", name, set_up_ordered, tear_down, NULL },           \
  { #name " (file)", name, set_up_unordered, tear_down, NULL }

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    TEST (a_whole_cache_is_not_touched),
    TEST (one_copy_is_enough),
    TEST (damage_that_hides_clean_data_is_cleared_away),
    TEST (a_header_whose_segment_is_written_back_is_made_anew),
    TEST (a_header_over_dirty_data_is_left_alone),
    TEST (a_header_over_a_torn_set_is_left_alone),
    TEST (dirty_sets_are_given_up_only_when_asked),
    TEST (the_last_set_can_be_given_up),
    TEST (no_free_segment_no_evacuation),
    TEST (a_failing_device_is_an_error),
    TEST (a_repair_can_be_taken_back),
  };

  seed_choose (argc, argv);
  random_state = seed;
  return cmocka_run_group_tests (tests, NULL, NULL);
}

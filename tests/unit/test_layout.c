/* SPDX-License-Identifier: BSD-3-Clause */

/* A device that became larger is used, with what the cache had; one that is to be
 * smaller, only if all of that is in the backing store (P5). */

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

#include "base/arith.h"
#include "engine/cache.h"
#include "support/media_tools.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define DISK (UINT64_C (16) * MIB)
#define BLOCK (64 * KIB)
#define BLOCKS (DISK / BLOCK)

/* Two MiB are metadata. */
#define SMALL (10 * MIB)
#define SMALL_SEGMENTS 8
#define LARGE (18 * MIB)
#define LARGE_SEGMENTS 16

static bool ordered;
static struct memory_device *device;
static struct memory_backend *disk;
static struct cache_options options;
static struct cache *cache;
static uint8_t newest[BLOCKS];  /* what each block of the disk is full of */
static uint8_t buf[BLOCK];

static int
set_up (void **state)
{
  (void) state;
  reports_collect ();
  device = memory_device_new (SMALL, ordered);
  disk = memory_backend_new (DISK);
  options = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  options.segment_size = MIB;
  options.heads = 1;
  options.seed = 4711;
  memset (newest, 0, sizeof newest);
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  cache_close (cache);
  cache = NULL;
  memory_device_free (device);
  memory_backend_free (disk);
  return 0;
}

static int
try_open (void)
{
  struct pmem *pmem = memory_pmem_open (device);
  int r = cache_open (&options, pmem, &cache);

  if (r < 0) {
    pmem_close (pmem);
    cache = NULL;
  }
  return r;
}

static void
open_cache (void)
{
  reports_collect ();
  assert_int_equal (try_open (), 0);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
}

static void
close_cache (void)
{
  cache_close (cache);
  cache = NULL;
}

/* As a crash of the process does; with a last flush. */
static void
leave_cache (void)
{
  assert_int_equal (cache_flush (cache), 0);
  close_cache ();
}

static void
stop_cache (bool drain)
{
  assert_int_equal (cache_stop (cache, drain, 0), 0);
  close_cache ();
}

static int
try_write (unsigned block, uint8_t byte)
{
  memset (buf, byte, BLOCK);
  return cache_write (cache, buf, (struct range) { block * BLOCK, BLOCK },
                      false);
}

static void
write_blocks (unsigned first, unsigned count, uint8_t byte)
{
  for (unsigned i = first; i < first + count; i++) {
    assert_int_equal (try_write (i, byte), 0);
    newest[i] = byte;
  }
}

static void
expect_first (unsigned count)
{
  for (unsigned i = 0; i < count; i++) {
    assert_int_equal (cache_read (cache, buf, (struct range) { i * BLOCK,
                                                               BLOCK }), 0);
    if (buf[0] != newest[i] || memcmp (buf, buf + 1, BLOCK - 1) != 0)
      fail_msg ("block %u begins with %u, it should be full of %u", i, buf[0],
                newest[i]);
  }
}

static void
expect_all (void)
{
  expect_first (BLOCKS);
}

/* Without filling anything in. */
static void
expect_all_in_a_copy (struct memory_device *image)
{
  struct memory_device *my_device = device;
  struct cache *my_cache = cache;

  device = memory_device_clone (image);
  open_cache ();
  expect_all ();
  close_cache ();
  memory_device_free (device);
  device = my_device;
  cache = my_cache;
}

static struct cache_status
status (void)
{
  struct cache_status s;

  cache_get_status (cache, &s);
  return s;
}

/* Not opened, for this reason, told once; nothing was stored. */
static void
assert_refused (int error, const char *words)
{
  struct memory_device *before = memory_device_clone (device);

  reports_collect ();
  assert_int_equal (try_open (), error);
  if (reports_count (REPORT_ERROR) != 1 || !reports_have (REPORT_ERROR, words))
    fail_msg ("expected one line with \"%s\", got:\n%s", words,
              reports_text (REPORT_ERROR));
  assert_int_equal (device->size, before->size);
  assert_memory_equal (device->bytes, before->bytes, device->size);
  memory_device_free (before);
}

static void
assert_warned (const char *words)
{
  if (reports_count (REPORT_WARNING) != 1
      || !reports_have (REPORT_WARNING, words))
    fail_msg ("expected one line with \"%s\", got:\n%s", words,
              reports_text (REPORT_WARNING));
}

/* Clean data and, if so wanted, dirty data. */
static void
make_cache (bool dirty)
{
  open_cache ();
  write_blocks (0, 20, 1);
  assert_int_equal (cache_drain (cache, 0), 0);
  if (dirty) {
    write_blocks (10, 20, 2);
    leave_cache ();
  }
  else
    stop_cache (true);
}

/* --- larger ----------------------------------------------------------- */

static void
a_larger_device_is_used_with_what_the_cache_has (void **state)
{
  uint64_t dirty;

  (void) state;
  make_cache (true);
  open_cache ();
  dirty = status ().dirty_bytes;
  assert_int_equal (status ().segments_total, SMALL_SEGMENTS);
  leave_cache ();

  memory_device_resize (device, LARGE);
  open_cache ();
  assert_warned ("grew from 8 to 16 segments");
  assert_int_equal (status ().segments_total, LARGE_SEGMENTS);
  assert_int_equal (status ().dirty_bytes, dirty);
  expect_all_in_a_copy (device);

  /* More than there was room for: nothing is written back for it. */
  write_blocks (100, 120, 3);
  assert_int_equal (disk->bytes[100 * BLOCK], 0);
  leave_cache ();
  for (int again = 0; again < 2; again++) {
    open_cache ();
    assert_int_equal (reports_count (REPORT_WARNING), 0);
    assert_int_equal (status ().segments_total, LARGE_SEGMENTS);
    assert_true (status ().dirty_bytes >= 120 * BLOCK);
    expect_all ();
    leave_cache ();
  }
  open_cache ();
  assert_int_equal (cache_drain (cache, 0), 0);
  for (unsigned i = 0; i < BLOCKS; i++)
    assert_int_equal (disk->bytes[i * BLOCK], newest[i]);
}

static void
part_of_a_segment_is_no_room (void **state)
{
  (void) state;
  make_cache (true);
  memory_device_resize (device, SMALL + MIB - 1);
  open_cache ();
  assert_int_equal (status ().segments_total, SMALL_SEGMENTS);
  assert_int_equal (reports_count (REPORT_WARNING), 0);
}

/* The segment table has slots for four times what the device could hold. */
static void
beyond_four_times_it_says_what_to_do (void **state)
{
  (void) state;
  make_cache (true);
  memory_device_resize (device, 64 * MIB);
  open_cache ();
  assert_int_equal (status ().segments_total, 40);
  assert_true (reports_have (REPORT_WARNING, "room for 62 segments|"
                             "more than 40|drain|pcache-format=force"));
  assert_true (reports_have (REPORT_WARNING, "grew from 8 to 40"));
  expect_all ();
  leave_cache ();
  open_cache ();
  assert_warned ("room for 62 segments");
  expect_all ();
}

/* Blocks full of BYTE are in none. */
static void
expect_none_of (struct memory_device *image, uint8_t byte)
{
  struct memory_device *my_device = device;
  struct cache *my_cache = cache;

  device = image;
  open_cache ();
  for (unsigned i = 0; i < BLOCKS; i++) {
    assert_int_equal (cache_read (cache, buf, (struct range) { i * BLOCK,
                                                               BLOCK }), 0);
    if (buf[0] == byte)
      fail_msg ("block %u was never that in this life", i);
  }
  close_cache ();
  device = my_device;
  cache = my_cache;
}

/* Whatever it may be, even what another copy of this cache, which grew as well, has
 * left there. */
static void
what_the_new_space_holds_is_not_believed (void **state)
{
  struct memory_device *backup;
  unsigned opened = 0;

  (void) state;
  make_cache (true);
  backup = memory_device_clone (device);
  memory_device_resize (device, LARGE);
  open_cache ();
  for (unsigned i = 0; i < 210; i++)
    assert_int_equal (try_write (BLOCKS - 1 - i, 77), 0);
  leave_cache ();
  memset (disk->bytes + 20 * BLOCK, 0, DISK - 20 * BLOCK);

  memcpy (device->bytes, backup->bytes, SMALL);
  memory_device_free (backup);
  for (int copy = 0; copy < 2; copy++)
    memset (segment_on (device, SMALL_SEGMENTS, copy), 0xa5,
            MEDIA_SLOT * (LARGE_SEGMENTS - SMALL_SEGMENTS));
  options.seed = 815;           /* no two copies of a cache grow alike */
  open_cache ();
  assert_warned ("grew from 8 to 16 segments");
  expect_all_in_a_copy (device);
  for (unsigned i = 70; i < 250; i++) {
    const uint32_t before = status ().segments_free;

    write_blocks (i, 1, 5);
    /* The header of one says that it is in use, and no set has been stored. */
    if (status ().segments_free != before) {
      struct memory_device *image = memory_device_clone (device);

      expect_none_of (image, 77);
      memory_device_free (image);
      opened++;
    }
    if (i % 5 == 0)
      assert_int_equal (cache_flush (cache), 0);
  }
  assert_true (opened > SMALL_SEGMENTS);
  leave_cache ();
  open_cache ();
  expect_all ();
}

/* A store of the growth fails: the cache is there all the same. */
static void
a_failed_growth_is_no_loss (void **state)
{
  unsigned failed = 0, grown = 0;

  (void) state;
  make_cache (true);
  memory_device_resize (device, LARGE);
  for (int n = 0;; n++) {
    struct memory_device *before = memory_device_clone (device);

    device->copies_left = n;
    reports_collect ();
    if (try_open () == 0) {
      const bool over = device->copies_left >= 0;

      device->copies_left = -1;
      assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
      failed += status ().segments_total == SMALL_SEGMENTS;
      grown += status ().segments_total == LARGE_SEGMENTS;
      assert_true (status ().segments_total == SMALL_SEGMENTS
                   || status ().segments_total == LARGE_SEGMENTS);
      expect_first (60);
      write_blocks (50, 3, n + 10);
      leave_cache ();
      open_cache ();
      assert_int_equal (status ().segments_total, LARGE_SEGMENTS);
      expect_first (60);
      leave_cache ();
      if (over) {
        memory_device_free (before);
        break;
      }
    }
    device->copies_left = -1;
    open_cache ();
    expect_first (60);
    leave_cache ();
    memory_device_free (device);
    device = before;
    memset (newest + 50, 0, 3);
  }
  assert_true (failed > 10 && grown > 0);
}

/* One copy of the superblock takes no stores.  If it became the only one, what lies in
 * segments of which it does not know would be gone without a word. */
static void
a_copy_that_does_not_know_the_new_segments_keeps_them_unused (void **state)
{
  (void) state;
  for (int copy = 0; copy < 2; copy++) {
    make_cache (true);
    memory_device_resize (device, LARGE);
    device->refused = (struct range) { SUPERBLOCK_AT (copy), 4096 };
    for (int life = 0; life < 3; life++) {
      struct memory_device *worn;

      open_cache ();
      assert_int_equal (status ().segments_free + status ().segments_open
                        + status ().segments_sealed, SMALL_SEGMENTS);
      if (life == 0)
        assert_true (reports_have (REPORT_WARNING, "cannot grow from 8 to 16"));
      for (unsigned i = 0; i < 200; i++)
        write_blocks (100 + i % 100, 1, i + life);
      assert_int_equal (cache_flush (cache), 0);
      worn = memory_device_clone (device);
      memset (worn->bytes + SUPERBLOCK_AT (!copy), 0, 1);
      expect_all_in_a_copy (worn);
      memory_device_free (worn);
      leave_cache ();
    }
    /* It takes them again. */
    device->refused.length = 0;
    open_cache ();
    leave_cache ();
    open_cache ();
    assert_int_equal (status ().segments_free + status ().segments_open
                      + status ().segments_sealed, LARGE_SEGMENTS);
    expect_all ();
    close_cache ();
    tear_down (NULL);
    set_up (NULL);
  }
}

static void
damage_is_not_built_upon (void **state)
{
  (void) state;
  open_cache ();
  write_blocks (0, 20, 1);
  stop_cache (true);
  set_on (device, 0, 0)->checksum = le64_of (0);
  memory_device_resize (device, LARGE);
  open_cache ();
  assert_int_equal (status ().segments_total, SMALL_SEGMENTS);
  expect_all ();
}

/* --- pmem-size -------------------------------------------------------- */

static void
the_size_that_is_asked_for_is_made (void **state)
{
  (void) state;
  device->can_resize = true;
  make_cache (true);
  options.device_size = SMALL;
  open_cache ();
  assert_int_equal (reports_count (REPORT_WARNING), 0);
  leave_cache ();
  options.device_size = LARGE;
  open_cache ();
  assert_warned ("grew from 8 to 16 segments");
  assert_int_equal (device->size, LARGE);
  assert_int_equal (status ().segments_total, LARGE_SEGMENTS);
  expect_all ();
  leave_cache ();
  /* No more than is of use. */
  options.device_size = 100 * MIB;
  open_cache ();
  assert_int_equal (status ().segments_total, 40);
  assert_int_equal (device->size, 42 * MIB);
  expect_all ();
}

static void
without_room_it_goes_on_as_it_was (void **state)
{
  (void) state;
  device->can_resize = true;
  make_cache (true);
  options.device_size = LARGE;
  device->room = LARGE - 1;
  open_cache ();
  assert_warned ("cannot be extended from 10485760 to 18874368|pmem-size|"
                 "No space left");
  assert_int_equal (device->size, SMALL);
  assert_int_equal (status ().segments_total, SMALL_SEGMENTS);
  expect_all ();
}

static void
a_device_keeps_its_size (void **state)
{
  (void) state;
  make_cache (true);
  for (int i = 0; i < 2; i++) {
    options.device_size = i ? LARGE : SMALL - MIB;
    open_cache ();
    assert_int_equal (reports_count (REPORT_WARNING), 0);
    assert_int_equal (status ().segments_total, SMALL_SEGMENTS);
    expect_all ();
    leave_cache ();
  }
}

static void
a_new_cache_has_the_size_that_is_asked_for (void **state)
{
  (void) state;
  device->can_resize = true;
  options.device_size = LARGE;
  open_cache ();
  assert_int_equal (device->size, LARGE);
  assert_int_equal (status ().segments_total, LARGE_SEGMENTS);
  stop_cache (true);
  options.device_size = SMALL;
  options.format = CACHE_FORMAT_FORCE;
  open_cache ();
  assert_int_equal (device->size, SMALL);
  assert_int_equal (status ().segments_total, SMALL_SEGMENTS);
}

/* --- smaller ---------------------------------------------------------- */

static void
dirty_data_keeps_the_size (void **state)
{
  char words[100];

  (void) state;
  device->can_resize = true;
  make_cache (true);
  open_cache ();
  snprintf (words, sizeof words, "8388608 bytes|10485760|%llu bytes|drain",
            (unsigned long long) status ().dirty_bytes);
  stop_cache (false);           /* a refusal then has nothing left to store */
  options.device_size = 8 * MIB;
  assert_refused (-EBUSY, words);
  options.device_size = SMALL - 1;
  assert_refused (-EBUSY, "not written back");
  options.rescue = true;
  assert_refused (-EBUSY, "not written back");
  options.device_size = 0;
  open_cache ();
  expect_all ();
  stop_cache (true);
  options.device_size = 8 * MIB;
  open_cache ();
  assert_int_equal (status ().segments_total, 6);
}

static void
a_drained_cache_is_made_anew_for_the_same_disk (void **state)
{
  (void) state;
  device->can_resize = true;
  options.setting[SETTING_gc_percent] = 33;
  options.backing_id = "mine";
  make_cache (false);
  options.setting[SETTING_gc_percent] = SETTING_REMEMBERED;
  options.segment_size = 0;
  options.device_size = 8 * MIB;
  reports_collect ();
  assert_int_equal (try_open (), 0);
  assert_warned ("made anew|8388608|10485760|written back");
  assert_int_equal (device->size, 8 * MIB);
  assert_int_equal (status ().segments_total, 6);
  assert_int_equal (status ().gc_percent, 33);
  assert_int_equal (cache_attach (cache, &disk->backend, "other"),
                    -EMEDIUMTYPE);
  options.backing_id = "yours";
  close_cache ();
  assert_int_equal (try_open (), 0);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"),
                    -EMEDIUMTYPE);
  options.backing_id = "mine";
  close_cache ();
  open_cache ();
  expect_all ();
  write_blocks (0, 200, 9);
  leave_cache ();
  open_cache ();
  expect_all ();
}

/* What an interrupted attempt to make it smaller may leave, too. */
static void
what_the_cache_does_not_use_is_cut (void **state)
{
  (void) state;
  device->can_resize = true;
  make_cache (true);
  memory_device_resize (device, LARGE);
  options.device_size = SMALL;
  open_cache ();
  assert_warned ("was cut from 18874368 to 10485760");
  assert_int_equal (device->size, SMALL);
  assert_int_equal (status ().segments_total, SMALL_SEGMENTS);
  expect_all ();
}

static void
too_small_never_and_not_a_cache_are_refused (void **state)
{
  (void) state;
  device->can_resize = true;
  make_cache (false);
  options.device_size = 5 * MIB;
  assert_refused (-ENOSPC, "5242880 bytes|at least 6291456");
  options.device_size = 8 * MIB;
  options.format = CACHE_FORMAT_NEVER;
  assert_refused (-EINVAL, "pcache-format=never");
  options.format = CACHE_FORMAT_AUTO;
  memset (device->bytes, 'x', 4096);
  memset (device->bytes + SUPERBLOCK_AT (1), 'x', 4096);
  assert_refused (-EMEDIUMTYPE, "not a pcache cache");
  options.device_size = LARGE;
  assert_refused (-EMEDIUMTYPE, "not a pcache cache");
}

/* It is not in the backing store, and must not be read from there. */
static void
lost_data_keeps_the_size (void **state)
{
  struct media_record *record;

  (void) state;
  device->can_resize = true;
  open_cache ();
  write_blocks (0, 1, 1);
  assert_int_equal (cache_flush (cache), 0);
  record = record_in (set_on (device, 0, 0), 0);
  device->bytes[segment_start (device, 0) + le32_get (record->place)] ^= 1;
  assert_int_equal (cache_drain (cache, 0), 0);
  stop_cache (true);
  options.device_size = 8 * MIB;
  assert_refused (-EUCLEAN, "damaged|pcache-format=force");
  options.device_size = 0;
  memory_device_resize (device, SMALL - MIB);
  assert_refused (-EMEDIUMTYPE, "nowhere else");
}

/* --- the device has lost its end -------------------------------------- */

static void
a_cut_device_is_used_only_if_it_was_drained (void **state)
{
  (void) state;
  make_cache (true);
  open_cache ();
  stop_cache (false);
  memory_device_resize (device, SMALL - MIB);
  assert_refused (-EMEDIUMTYPE, "needs 10485760|only 9437184|truncated|"
                  "nowhere else");
  options.rescue = true;
  assert_refused (-EMEDIUMTYPE, "nowhere else");
  options.rescue = false;

  /* Drained, but a segment is open: nobody wrote down what is in it. */
  tear_down (NULL);
  set_up (NULL);
  open_cache ();
  write_blocks (0, 20, 1);
  assert_int_equal (cache_drain (cache, 0), 0);
  leave_cache ();
  memory_device_resize (device, SMALL - MIB);
  assert_refused (-EMEDIUMTYPE, "nowhere else");
  memory_device_resize (device, SMALL);

  open_cache ();
  stop_cache (true);
  memory_device_resize (device, SMALL - MIB);
  options.format = CACHE_FORMAT_NEVER;
  assert_refused (-EINVAL, "pcache-format=never");
  options.format = CACHE_FORMAT_AUTO;
  open_cache ();
  assert_warned ("needs 10485760|only 9437184|made anew");
  assert_int_equal (status ().segments_total, SMALL_SEGMENTS - 1);
  expect_all ();
  close_cache ();
  assert_int_equal (try_open (), 0);
  assert_int_equal (cache_attach (cache, &disk->backend, "other"),
                    -EMEDIUMTYPE);
}

static void
one_unreadable_header_of_a_cut_device_proves_nothing (void **state)
{
  (void) state;
  make_cache (false);
  memory_device_resize (device, SMALL - MIB);
  for (int copy = 0; copy < 2; copy++)
    segment_on (device, SMALL_SEGMENTS - 1, copy)->epoch_max = le64_of (1);
  assert_refused (-EMEDIUMTYPE, "nowhere else");
}

#define TEST(f) cmocka_unit_test_setup_teardown (f, set_up, tear_down)

static const struct CMUnitTest tests[] = {
  TEST (a_larger_device_is_used_with_what_the_cache_has),
  TEST (part_of_a_segment_is_no_room),
  TEST (beyond_four_times_it_says_what_to_do),
  TEST (what_the_new_space_holds_is_not_believed),
  TEST (a_failed_growth_is_no_loss),
  TEST (a_copy_that_does_not_know_the_new_segments_keeps_them_unused),
  TEST (damage_is_not_built_upon),
  TEST (the_size_that_is_asked_for_is_made),
  TEST (without_room_it_goes_on_as_it_was),
  TEST (a_device_keeps_its_size),
  TEST (a_new_cache_has_the_size_that_is_asked_for),
  TEST (dirty_data_keeps_the_size),
  TEST (a_drained_cache_is_made_anew_for_the_same_disk),
  TEST (what_the_cache_does_not_use_is_cut),
  TEST (too_small_never_and_not_a_cache_are_refused),
  TEST (lost_data_keeps_the_size),
  TEST (a_cut_device_is_used_only_if_it_was_drained),
  TEST (one_unreadable_header_of_a_cut_device_proves_nothing),
};

int
main (int argc, char **argv)
{
  int failed = 0;

  (void) argc;
  (void) argv;
  for (int i = 0; i < 2; i++) {
    ordered = i == 0;
    failed += cmocka_run_group_tests_name (ordered ? "pmem" : "file", tests,
                                           NULL, NULL);
  }
  return failed;
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* What the explorer stands on: the shadow device, the shadow disk and the
 * oracle. */

#include <config.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "crash/oracle.h"
#include "crash/shadow_device.h"
#include "crash/shadow_disk.h"
#include "crash/state_set.h"

#define SIZE (UINT64_C (1) << 20)

static const struct shadow_choice nothing = { 0, SHADOW_WHOLE };

static void
store (struct pmem *pmem, uint64_t at, uint8_t byte, size_t length)
{
  uint8_t buf[8192];

  memset (buf, byte, length);
  assert_int_equal (pmem_copy (pmem, at, buf, length), 0);
}

static bool
all_are (const uint8_t *p, uint8_t byte, size_t length)
{
  for (size_t i = 0; i < length; i++)
    if (p[i] != byte)
      return false;
  return true;
}

/* --- the device ------------------------------------------------------- */

static void
a_store_is_pending_line_by_line_until_the_fence (void **state)
{
  struct shadow_device *d = shadow_device_new (SIZE, true);
  struct pmem *pmem = shadow_pmem_open (d);
  const struct shadow_unit *units;
  uint8_t line[SHADOW_LINE];

  (void) state;
  store (pmem, 100, 7, 100);    /* lines 64, 128, 192 */
  assert_true (all_are (d->bytes + 100, 7, 100));
  assert_true (all_are (d->durable, 0, SIZE));
  assert_int_equal (shadow_units (d, &units), 3);
  assert_int_equal (units[0].at, 64);
  assert_int_equal (units[2].at, 192);
  shadow_unit_bytes (d, &units[0], nothing, line);
  assert_true (all_are (line, 0, 64));
  shadow_unit_bytes (d, &units[0],
                     (struct shadow_choice) { 1, SHADOW_WHOLE }, line);
  assert_true (all_are (line, 0, 36) && all_are (line + 36, 7, 28));

  assert_int_equal (pmem_sync (pmem), 0);       /* not what it takes here */
  assert_int_equal (shadow_units (d, &units), 3);
  assert_int_equal (pmem_fence (pmem), 0);
  assert_int_equal (shadow_units (d, &units), 0);
  assert_true (all_are (d->durable + 100, 7, 100));
  pmem_close (pmem);
  shadow_device_free (d);
}

static void
a_line_tears_at_words_and_keeps_any_of_its_stores (void **state)
{
  struct shadow_device *d = shadow_device_new (SIZE, true);
  struct pmem *pmem = shadow_pmem_open (d);
  const struct shadow_unit *units;
  uint8_t line[SHADOW_LINE];

  (void) state;
  store (pmem, 0, 1, 64);
  store (pmem, 8, 2, 40);
  assert_int_equal (shadow_units (d, &units), 1);
  assert_int_equal (units[0].stores, 2);
  shadow_unit_bytes (d, &units[0],
                     (struct shadow_choice) { 1, SHADOW_WHOLE }, line);
  assert_true (all_are (line, 1, 64));
  /* Words 2 and 3 of the second store arrived. */
  shadow_unit_bytes (d, &units[0], (struct shadow_choice) { 2, 0x0c }, line);
  assert_true (all_are (line, 1, 16) && all_are (line + 16, 2, 16)
               && all_are (line + 32, 1, 32));
  pmem_close (pmem);
  shadow_device_free (d);
}

static void *
fence_in_another_thread (void *pmem)
{
  store (pmem, 4096, 9, 64);
  pmem_fence (pmem);
  return NULL;
}

static void
a_fence_is_for_the_stores_of_its_own_thread (void **state)
{
  struct shadow_device *d = shadow_device_new (SIZE, true);
  struct pmem *pmem = shadow_pmem_open (d);
  const struct shadow_unit *units;
  pthread_t thread;

  (void) state;
  store (pmem, 0, 1, 64);
  assert_int_equal (pthread_create (&thread, NULL, fence_in_another_thread,
                                    pmem), 0);
  pthread_join (thread, NULL);
  assert_int_equal (shadow_units (d, &units), 1);
  assert_int_equal (units[0].at, 0);
  assert_true (all_are (d->durable + 4096, 9, 64));
  pmem_close (pmem);
  shadow_device_free (d);
}

static void
a_plain_file_has_pages_and_only_a_sync_helps (void **state)
{
  struct shadow_device *d = shadow_device_new (SIZE, false);
  struct pmem *pmem = shadow_pmem_open (d);
  const struct shadow_unit *units;
  uint8_t page[SHADOW_PAGE];

  (void) state;
  store (pmem, 4000, 3, 200);   /* two pages */
  store (pmem, 4200, 4, 8);
  assert_int_equal (pmem_fence (pmem), 0);
  assert_int_equal (shadow_units (d, &units), 2);
  assert_int_equal (units[1].at, 4096);
  assert_int_equal (units[1].stores, 2);
  /* Sector 0 of the last store's page is not there, so nothing of it. */
  shadow_unit_bytes (d, &units[1], (struct shadow_choice) { 2, 0xfe }, page);
  assert_int_equal (page[0], 3);
  assert_int_equal (page[104], 0);
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (shadow_units (d, &units), 0);
  assert_int_equal (d->durable[4200], 4);
  pmem_close (pmem);
  shadow_device_free (d);
}

static void
everything_can_be_taken_back (void **state)
{
  struct shadow_device *d = shadow_device_new (SIZE, true);
  struct shadow_device *follower = shadow_device_new (SIZE, true);
  struct pmem *pmem = shadow_pmem_open (d);
  const struct shadow_unit *units;
  uint64_t hash;
  size_t mark;
  uint8_t bytes[64];

  (void) state;
  d->follower = follower;
  store (pmem, 0, 1, 256);
  pmem_fence (pmem);
  hash = d->hash;
  assert_int_equal (follower->hash, hash);
  mark = shadow_mark (d);

  store (pmem, 64, 2, 64);
  assert_int_equal (shadow_units (d, &units), 1);
  shadow_unit_bytes (d, units, (struct shadow_choice) { 1, SHADOW_WHOLE },
                     bytes);
  hash += shadow_hash_change (d, 64, bytes, 64);
  pmem_fence (pmem);
  assert_int_equal (d->hash, hash);     /* as foretold */
  assert_int_equal (follower->bytes[64], 2);
  store (pmem, 128, 3, 64);

  shadow_rollback (d, mark);
  assert_int_equal (shadow_units (d, &units), 0);
  assert_true (all_are (d->bytes, 1, 256) && all_are (d->durable, 1, 256));
  assert_true (all_are (follower->bytes, 1, 256));
  assert_int_equal (follower->hash, d->hash);

  store (pmem, 0, 5, 64);
  shadow_forget (d);            /* the power goes */
  assert_true (all_are (d->bytes, 1, 256));
  pmem_close (pmem);
  shadow_device_free (d);
  shadow_device_free (follower);
}

/* --- the disk --------------------------------------------------------- */

static void
a_disk_loses_any_subset_of_what_is_not_flushed (void **state)
{
  struct shadow_disk *disk = shadow_disk_new (8192);
  struct backend *b = &disk->backend;
  uint8_t buf[1024], image[8192];
  const bool second[] = { false, true, false }, all[] = { true, true, true };
  bool torn = false;

  (void) state;
  memset (buf, 1, sizeof buf);
  backend_pwrite (b, buf, 512, 0);
  backend_flush (b);
  memset (buf, 2, sizeof buf);
  backend_pwrite (b, buf, 512, 0);
  backend_pwrite (b, buf, 1024, 1024);
  backend_zero (b, 512, 0, true);
  assert_int_equal (disk->pending, 3);
  assert_int_equal (disk->bytes[0], 0);

  shadow_disk_image (disk, second, 0, image);
  assert_true (all_are (image, 1, 512) && all_are (image + 1024, 2, 1024));
  shadow_disk_image (disk, all, 0, image);
  assert_true (all_are (image, 0, 512));
  for (uint64_t seed = 1; seed < 50; seed++) {
    shadow_disk_image (disk, second, seed, image);
    torn |= image[1024] != image[1536];
  }
  assert_true (torn);
  backend_flush (b);
  assert_int_equal (disk->pending, 0);
  assert_int_equal (disk->stable[0], 0);
  shadow_disk_free (disk);
}

/* --- the oracle ------------------------------------------------------- */

#define CELL(n) ((struct range) { (n) * 100, 100 })
#define WHOLE ((struct range) { 0, 400 })

static const uint32_t cells[] = { 100, 200, 300 };
static uint8_t disk[400];

static void
put (struct range range, int version)
{
  memcpy (disk + range.start, oracle_pattern (version) + range.start,
          range.length);
}

static void
what_is_durable_must_be_there_and_nothing_else_may_be (void **state)
{
  static struct oracle o;
  int a, b;

  (void) state;
  memset (disk, 0, sizeof disk);
  oracle_init (&o, sizeof disk, cells, 3);
  a = oracle_write (&o, CELL (0), false);
  assert_null (oracle_check_crash (&o, disk));  /* it may be lost */
  assert_non_null (oracle_check_now (&o, disk, WHOLE)); /* not now */
  oracle_flush (&o);
  assert_non_null (oracle_check_crash (&o, disk));
  put (CELL (0), a);
  assert_null (oracle_check_crash (&o, disk));
  b = oracle_write (&o, CELL (0), false);
  put ((struct range) { 0, 50 }, b);    /* half of it */
  assert_null (oracle_check_crash (&o, disk));
  disk[10] ^= 1;
  assert_non_null (oracle_check_crash (&o, disk));
  disk[10] ^= 1;
  oracle_fua (&o, CELL (0));
  assert_non_null (oracle_check_crash (&o, disk));
  put (CELL (0), b);
  assert_null (oracle_check_crash (&o, disk));
  /* The right version of another place is wrong. */
  memcpy (disk + 300, oracle_pattern (b), 100);
  assert_non_null (oracle_check_crash (&o, disk));
}

static void
a_backing_store_is_legal_epoch_by_epoch (void **state)
{
  static struct oracle o;
  int a, b, c;

  (void) state;
  memset (disk, 0, sizeof disk);
  oracle_init (&o, sizeof disk, cells, 3);
  a = oracle_write (&o, CELL (0), false);
  b = oracle_write (&o, CELL (1), false);
  oracle_flush (&o);
  c = oracle_write (&o, CELL (2), false);
  oracle_flush (&o);
  assert_null (oracle_check_backing (&o, disk));
  put (CELL (1), b);            /* some of the first epoch */
  assert_null (oracle_check_backing (&o, disk));
  put (CELL (2), c);            /* and of the second, too early */
  assert_non_null (oracle_check_backing (&o, disk));
  put (CELL (0), a);
  assert_null (oracle_check_backing (&o, disk));
  put (CELL (1), 0);            /* back again */
  assert_non_null (oracle_check_backing (&o, disk));
}

static void
a_crash_decides_what_there_is (void **state)
{
  static struct oracle o;
  int a, b, c;

  (void) state;
  memset (disk, 0, sizeof disk);
  oracle_init (&o, sizeof disk, cells, 3);
  a = oracle_write (&o, CELL (0), false);
  b = oracle_write (&o, CELL (0), false);
  c = oracle_write (&o, CELL (0), false);
  put (CELL (0), b);
  oracle_settle (&o, disk);
  assert_null (oracle_check_now (&o, disk, WHOLE));
  /* A is older, C is lost: neither can come back. */
  put (CELL (0), a);
  assert_non_null (oracle_check_crash (&o, disk));
  put (CELL (0), c);
  assert_non_null (oracle_check_crash (&o, disk));
  assert_non_null (oracle_check_backing (&o, disk));
  /* But the backing store may have got as far as A. */
  put (CELL (0), a);
  assert_null (oracle_check_backing (&o, disk));
}

static void
a_set_knows_what_it_has_seen (void **state)
{
  struct state_set *set = state_set_new (1000);

  (void) state;
  for (uint64_t i = 0; i < 1000; i++)
    assert_true (state_set_add (set, i * 1500));
  for (uint64_t i = 0; i < 1000; i++)
    assert_false (state_set_add (set, i * 1500));
  assert_int_equal (state_set_count (set), 1000);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (a_store_is_pending_line_by_line_until_the_fence),
    cmocka_unit_test (a_line_tears_at_words_and_keeps_any_of_its_stores),
    cmocka_unit_test (a_fence_is_for_the_stores_of_its_own_thread),
    cmocka_unit_test (a_plain_file_has_pages_and_only_a_sync_helps),
    cmocka_unit_test (everything_can_be_taken_back),
    cmocka_unit_test (a_disk_loses_any_subset_of_what_is_not_flushed),
    cmocka_unit_test (what_is_durable_must_be_there_and_nothing_else_may_be),
    cmocka_unit_test (a_backing_store_is_legal_epoch_by_epoch),
    cmocka_unit_test (a_crash_decides_what_there_is),
    cmocka_unit_test (a_set_knows_what_it_has_seen),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}

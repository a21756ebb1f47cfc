/* SPDX-License-Identifier: BSD-3-Clause */

/* Leaving the cache (cache_bypass): whatever happens on the way, nobody is ever
 * served anything old, then or at the next start. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/thread.h"
#include "engine/cache.h"
#include "support/media_tools.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define DISK (UINT64_C (16) * MIB)
#define NEVER 3600000           /* ms */
#define LONG 60000              /* ms */

static struct memory_device *device;
static struct memory_backend *disk;
static struct cache_options options;
static struct cache *cache;
static uint8_t buf[2 * 1024 * 1024];

static int
set_up (void **state)
{
  (void) state;
  reports_collect ();
  device = memory_device_new (10 * MIB, true);
  disk = memory_backend_new (DISK);
  options = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  options.segment_size = MIB;
  options.setting[SETTING_writeback_delay] = NEVER;
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

static void
use_four_segments (bool ordered)
{
  memory_device_free (device);
  device = memory_device_new (cache_min_device_size (MIB), ordered);
}

static struct cache *
open_on (struct memory_device *on)
{
  struct cache *opened;

  assert_int_equal (cache_open (&options, memory_pmem_open (on), &opened), 0);
  return opened;
}

static void
open_cache (bool threads)
{
  cache = open_on (device);
  if (threads)
    assert_int_equal (cache_start (cache), 0);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
}

static void
close_cache (void)
{
  cache_close (cache);
  cache = NULL;
}

static int
try_write (uint64_t start, uint64_t length, uint8_t byte, bool fua)
{
  memset (buf, byte, length);
  return cache_write (cache, buf, (struct range) { start, length }, fua);
}

static void
write_bytes (uint64_t start, uint64_t length, uint8_t byte)
{
  assert_int_equal (try_write (start, length, byte, false), 0);
}

static bool
is_all (const uint8_t *p, uint64_t length, uint8_t byte)
{
  return length == 0
    || (p[0] == byte && memcmp (p, p + 1, length - 1) == 0);
}

static void
expect_bytes (struct cache *from, uint64_t start, uint64_t length,
              uint8_t byte)
{
  assert_int_equal (cache_read (from, buf, (struct range) { start, length }),
                    0);
  assert_true (is_all (buf, length, byte));
}

static struct cache_status
status (void)
{
  struct cache_status s;

  cache_get_status (cache, &s);
  return s;
}

static uint64_t
counted (enum stats_counter which)
{
  return stats_get (cache_stats (cache), which);
}

static void
bypass (void)
{
  assert_int_equal (cache_bypass (cache, LONG), 0);
  assert_true (cache_is_bypassed (cache));
}

static void
assert_going_on (void)
{
  const unsigned copies = device->copies;

  assert_false (cache_is_bypassed (cache));
  write_bytes (10 * MIB, 4096, 77);
  expect_bytes (cache, 10 * MIB, 4096, 77);
  assert_true (device->copies > copies);
}

/* --- what it does ----------------------------------------------------- */

static void
a_bypassed_cache_is_drained_and_its_device_let_go (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++) {
    unsigned copies, syncs;

    open_cache (threads);
    for (uint64_t i = 0; i < 40; i++)
      write_bytes (i * 128 * KIB, 5000, i + 1);
    bypass ();
    for (uint64_t i = 0; i < 40; i++)
      assert_true (is_all (disk->bytes + i * 128 * KIB, 5000, i + 1));
    assert_int_equal (status ().dirty_bytes, 0);
    assert_true (status ().bypassed);
    assert_true (reports_have (REPORT_WARNING, "bypassed"));

    /* Closed: nothing that is asked of the cache reaches it. */
    copies = device->copies;
    syncs = device->syncs;
    device->bad_at = 0;
    device->bad_length = device->size;
    write_bytes (0, 5000, 99);
    expect_bytes (cache, 0, 5000, 99);
    expect_bytes (cache, 128 * KIB, 5000, 2);
    assert_int_equal (disk->bytes[0], 99);
    assert_int_equal (cache_flush (cache), 0);
    assert_int_equal (cache_set (cache, SETTING_gc_percent, 50), 0);
    assert_int_equal (cache_get_setting (cache, SETTING_gc_percent), 50);
    assert_int_equal (cache_prefetch (cache, (struct range) { 0, MIB }), 0);
    assert_int_equal (cache_drain (cache, 0), 0);
    assert_int_equal (cache_bypass (cache, 0), 0);
    cache_detach (cache);
    assert_int_equal (cache_drain (cache, 0), 0);
    assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
    expect_bytes (cache, 0, 5000, 99);
    assert_int_equal (cache_stop (cache, true, LONG), 0);
    assert_int_equal (device->copies, copies);
    assert_int_equal (device->syncs, syncs);
    close_cache ();

    /* An empty cache of the same backing store. */
    device->bad_length = 0;
    open_cache (false);
    assert_int_equal (counted (STAT_replayed_records), 0);
    expect_bytes (cache, 0, 5000, 99);
    assert_int_equal (disk->bytes[0], 99);
    close_cache ();
    disk->backend.size = DISK - 512;
    cache = open_on (device);
    assert_int_equal (cache_attach (cache, &disk->backend, "export"),
                      -EMEDIUMTYPE);
    disk->backend.size = DISK;
    close_cache ();
    memset (disk->bytes, 0, DISK);
  }
}

static void
the_device_is_as_good_as_new_afterwards (void **state)
{
  (void) state;
  open_cache (false);
  for (int round = 0; round < 5; round++) {
    for (uint64_t at = 0; at < 6 * MIB; at += 64 * KIB)
      write_bytes (at, 64 * KIB, round * 3 + 1);
    bypass ();
    write_bytes (0, MIB, round * 3 + 2);
    assert_int_equal (cache_stop (cache, true, LONG), 0);
    close_cache ();
    open_cache (round % 2);
    expect_bytes (cache, 0, MIB, round * 3 + 2);
    expect_bytes (cache, MIB, MIB, round * 3 + 1);
    write_bytes (2 * MIB, MIB, round * 3 + 3);
    assert_int_equal (cache_stop (cache, false, 0), 0);
    close_cache ();
    open_cache (false);
    expect_bytes (cache, 2 * MIB, MIB, round * 3 + 3);
  }
}

/* --- the requests ----------------------------------------------------- */

static uint64_t longest_request, longest_zero;

static void
measure (struct memory_backend *mb, enum backend_event event,
         struct range range, const void *unused, void *opaque)
{
  (void) mb;
  (void) unused;
  (void) opaque;
  if (event == BACKEND_READ || event == BACKEND_WRITE)
    longest_request = MAX (longest_request, range.length);
  else
    longest_zero = MAX (longest_zero, range.length);
}

static void
requests_go_straight_to_the_backing_store (void **state)
{
  enum map_kind kind;
  uint64_t length;
  unsigned flushes;

  (void) state;
  disk->backend.max_request = 256 * KIB;
  disk->backend.max_zero = 300 * KIB;
  open_cache (false);
  write_bytes (0, MIB, 1);
  bypass ();
  longest_request = longest_zero = 0;
  disk->before = measure;

  write_bytes (100, MIB, 2);
  assert_true (is_all (disk->bytes + 100, MIB, 2));
  assert_int_equal (disk->bytes[99], 1);
  expect_bytes (cache, 100, MIB, 2);
  assert_int_equal (longest_request, 256 * KIB);

  for (int way = 0; way < 8; way++) {
    const bool may_trim = way & 1;
    const struct range range = { 5 * MIB + 3, MIB };

    disk->backend.can_zero = way & 2;
    disk->zero_error = way & 4 ? -EIO : 0;
    memset (disk->bytes + 5 * MIB, 3, 2 * MIB);
    assert_int_equal (cache_zero (cache, range, may_trim, false), 0);
    assert_true (is_all (disk->bytes + range.start, MIB, 0));
    assert_int_equal (disk->bytes[range.start - 1], 3);
    assert_int_equal (disk->bytes[range_end (range)], 3);
  }
  disk->zero_error = 0;
  assert_int_equal (longest_zero, 300 * KIB);
  disk->trims = 0;
  disk->backend.can_zero = false;
  assert_int_equal (cache_trim (cache, (struct range) { 0, MIB }, false), 0);
  assert_int_equal (disk->trims, 4);
  disk->backend.can_trim = false;
  assert_int_equal (cache_trim (cache, (struct range) { 0, MIB }, false), 0);
  assert_int_equal (disk->trims, 4);

  flushes = disk->flushes;
  assert_int_equal (try_write (0, 512, 4, true), 0);
  assert_int_equal (disk->flushes, ++flushes);
  assert_int_equal (cache_zero (cache, (struct range) { 0, 9 }, true, true),
                    0);
  assert_int_equal (disk->flushes, ++flushes);
  assert_int_equal (cache_trim (cache, (struct range) { 0, 9 }, true), 0);
  assert_int_equal (disk->flushes, ++flushes);
  assert_int_equal (cache_flush (cache), 0);
  assert_int_equal (disk->flushes, ++flushes);

  cache_map (cache, (struct range) { 5, MIB }, &kind, &length);
  assert_int_equal (kind, MAP_HOLE);
  assert_int_equal (length, MIB);

  assert_int_equal (cache_read (cache, buf, (struct range) { DISK, 1 }),
                    -EINVAL);
  assert_int_equal (try_write (DISK - 1, 2, 1, false), -EINVAL);
  disk->backend.can_write = false;
  assert_int_equal (try_write (0, 1, 1, false), -EROFS);
  disk->backend.can_write = true;
}

static void
errors_of_the_backing_store_are_the_clients (void **state)
{
  (void) state;
  open_cache (false);
  bypass ();
  disk->read_error = -EIO;
  assert_int_equal (cache_read (cache, buf, (struct range) { 0, 1 }), -EIO);
  assert_int_equal (counted (STAT_backing_read_errors), 1);
  disk->read_error = 0;
  disk->write_error = -ENOSPC;
  assert_int_equal (try_write (0, MIB, 1, false), -ENOSPC);
  assert_int_equal (status ().writeback_error, -ENOSPC);
  disk->write_error = 0;
  disk->flush_error = -EIO;
  assert_int_equal (cache_flush (cache), -EIO);
  assert_int_equal (try_write (0, MIB, 1, true), -EIO);
  assert_int_equal (cache_drain (cache, LONG), -EIO);
  disk->flush_error = 0;
  assert_int_equal (try_write (0, MIB, 1, true), 0);
  assert_int_equal (status ().writeback_error, 0);
}

/* --- when it cannot be done ------------------------------------------- */

static void
without_a_backing_store_it_is_refused (void **state)
{
  (void) state;
  cache = open_on (device);
  assert_int_equal (cache_bypass (cache, LONG), -ESHUTDOWN);
  close_cache ();
  open_cache (true);
  write_bytes (0, 4096, 1);
  cache_detach (cache);
  assert_int_equal (cache_bypass (cache, LONG), -ESHUTDOWN);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
  assert_going_on ();
  assert_int_equal (cache_drain (cache, LONG), 0);
  cache_detach (cache);
  bypass ();                    /* nothing is to be written */
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
  expect_bytes (cache, 0, 4096, 1);
}

static void
a_failing_backing_store_keeps_its_cache (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++) {
    open_cache (threads);
    write_bytes (0, 4096, 1 + threads);
    disk->write_error = -EIO;
    assert_int_equal (cache_bypass (cache, LONG), -EIO);
    assert_going_on ();
    {
      mutex_lock (&disk->lock);
      disk->write_error = 0;
      mutex_unlock (&disk->lock);
    }
    bypass ();
    assert_int_equal (disk->bytes[0], 1 + threads);
    close_cache ();
  }
}

static void
a_drain_that_takes_too_long_keeps_the_cache (void **state)
{
  (void) state;
  open_cache (true);
  for (uint64_t i = 0; i < 100; i++) {
    write_bytes (i * 8192, 10, 1);
    assert_int_equal (cache_flush (cache), 0);
  }
  disk->delay_us = 20000;
  assert_int_equal (cache_bypass (cache, 100), -ETIMEDOUT);
  assert_going_on ();
  disk->delay_us = 0;
  bypass ();
}

/* What is lost gives EIO, and must not turn into what was there before. */
static void
lost_data_keeps_the_cache (void **state)
{
  uint8_t *data;

  (void) state;
  open_cache (false);
  memset (disk->bytes, 9, 4096);
  write_bytes (0, 4096, 0xa7);
  assert_int_equal (cache_flush (cache), 0);
  memset (buf, 0xa7, 4096);
  data = memmem (device->bytes, device->size, buf, 4096);
  assert_non_null (data);
  data[17] ^= 1;
  assert_int_equal (cache_bypass (cache, LONG), -EIO);
  assert_true (reports_have (REPORT_ERROR, "0+4096|lost|overwrite"));
  assert_int_equal (cache_read (cache, buf, (struct range) { 0, 1 }), -EIO);
  assert_going_on ();
  write_bytes (0, 4096, 5);
  bypass ();
  assert_true (is_all (disk->bytes, 4096, 5));
}

/* Every store on the way may be the one that fails. */
static void
a_device_that_refuses_keeps_its_cache (void **state)
{
  int r = -EIO;

  (void) state;
  for (int n = 0; r < 0; n++) {
    assert_true (n < 200);
    open_cache (false);
    write_bytes (0, 4096, 1);
    assert_int_equal (cache_drain (cache, LONG), 0);
    expect_bytes (cache, MIB, 4096, 0);         /* cached, clean */
    device->copies_left = n;
    r = cache_bypass (cache, LONG);
    device->copies_left = -1;
    if (r < 0)
      assert_false (cache_is_bypassed (cache));
    write_bytes (0, 4096, 2);
    expect_bytes (cache, 0, 4096, 2);
    assert_int_equal (cache_stop (cache, false, 0), 0);
    close_cache ();
    open_cache (false);
    expect_bytes (cache, 0, 4096, 2);
    assert_int_equal (cache_drain (cache, LONG), 0);
    close_cache ();
    memory_device_free (device);
    device = memory_device_new (10 * MIB, true);
    memset (disk->bytes, 0, DISK);
  }
}

/* --- power cuts ------------------------------------------------------- */

#define CONTENT (256 * KIB)

/* An image of the device is opened with the disk as it is. */
static void
expect_content (struct memory_device *image, uint8_t byte)
{
  struct cache *found = open_on (image);

  assert_int_equal (cache_attach (found, &disk->backend, "export"), 0);
  expect_bytes (found, 0, CONTENT, byte);
  cache_close (found);
}

static uint64_t random_state;
static unsigned cuts;
static uint8_t expected;

static void
cut_power (void)
{
  for (unsigned i = 0; i < 3; i++) {
    struct memory_device *image = memory_device_crash (device, &random_state);

    expect_content (image, expected);
    memory_device_free (image);
    cuts++;
  }
}

static void
on_device_event (struct memory_device *d, enum memory_event event,
                 uint64_t at, size_t length, void *opaque)
{
  (void) d;
  (void) event;
  (void) at;
  (void) length;
  (void) opaque;
  device->hook = NULL;
  cut_power ();
  device->hook = on_device_event;
}

/* The power goes at every instant of it, and after it, when writes have gone
 * past the device. */
static void
no_power_cut_brings_anything_old_back (void **state)
{
  (void) state;
  random_state = seed;
  cuts = 0;
  for (int ordered = 0; ordered < 2; ordered++)
    for (int crc = 0; crc < 2; crc++) {
      tear_down (NULL);
      set_up (NULL);
      options.data_crc = crc;
      use_four_segments (ordered);
      open_cache (false);
      memory_device_track (device, random_state);
      /* Clean and dirty, old and new, on the disk and not. */
      write_bytes (0, CONTENT, 1);
      assert_int_equal (cache_drain (cache, LONG), 0);
      write_bytes (CONTENT / 2, CONTENT / 2, 2);
      assert_int_equal (cache_flush (cache), 0);
      write_bytes (0, CONTENT / 2, 2);
      assert_int_equal (cache_flush (cache), 0);
      expected = 2;
      device->hook = on_device_event;
      bypass ();
      device->hook = NULL;
      cut_power ();
      write_bytes (0, CONTENT, 3);
      expected = 3;
      cut_power ();
    }
  assert_true (cuts > 100);
}

/* --- threads ---------------------------------------------------------- */

#define BLOCKS 64

static _Atomic bool stop_working;
static _Atomic unsigned rounds;

/* Each has blocks of its own, and knows what is in them. */
static void *
work (void *opaque)
{
  const uintptr_t thread = (uintptr_t) opaque;
  uint8_t block[4096], is[BLOCKS] = { 0 };

  for (unsigned round = 0; !stop_working; round++) {
    const unsigned n = round * 7 % BLOCKS;
    const struct range range = {
      (thread * BLOCKS + n) * sizeof block, sizeof block,
    };
    int r = cache_read (cache, block, range);

    assert (r == 0 && is_all (block, sizeof block, is[n]));
    is[n] = 1 + round % 255;
    memset (block, is[n], sizeof block);
    r = cache_write (cache, block, range, round % 16 == 0);
    assert (r == 0);
    if (round % 32 == 0)
      r = cache_flush (cache);
    assert (r == 0);
    (void) r;
    rounds++;
  }
  for (unsigned n = 0; n < BLOCKS; n++)
    assert (is_all (disk->bytes + (thread * BLOCKS + n) * sizeof block,
                    sizeof block, is[n]));
  return NULL;
}

static void
work_on (unsigned more)
{
  const unsigned until = rounds + more;

  while (rounds < until)
    sched_yield ();
}

static void
clients_do_not_notice (void **state)
{
  pthread_t thread[3];

  (void) state;
  stop_working = false;
  options.setting[SETTING_writeback_delay] = 20;
  open_cache (true);
  for (uintptr_t i = 0; i < 3; i++)
    pthread_create (&thread[i], NULL, work, (void *) i);
  work_on (500);
  bypass ();
  work_on (500);
  stop_working = true;
  for (int i = 0; i < 3; i++)
    pthread_join (thread[i], NULL);
  assert_int_equal (cache_stop (cache, true, LONG), 0);
}

static void *
bypass_thread (void *result)
{
  *(int *) result = cache_bypass (cache, LONG);
  return NULL;
}

/* A server that goes away does not wait for it. */
static void
a_shutdown_ends_the_attempt (void **state)
{
  pthread_t thread;
  int r;

  (void) state;
  open_cache (true);
  write_bytes (0, MIB, 1);
  disk->delay_us = 300000;
  pthread_create (&thread, NULL, bypass_thread, &r);
  for (;;) {
    uint64_t bytes, left;

    if (cache_get_drain (cache, &bytes, &left))
      break;
    sched_yield ();
  }
  assert_int_equal (cache_bypass (cache, LONG), -EBUSY);
  cache_begin_shutdown (cache);
  pthread_join (thread, NULL);
  assert_int_equal (r, -ESHUTDOWN);
  disk->delay_us = 0;
  assert_int_equal (cache_stop (cache, true, LONG), 0);
  assert_int_equal (disk->bytes[MIB - 1], 1);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (a_bypassed_cache_is_drained_and_its_device_let_go),
    TEST (the_device_is_as_good_as_new_afterwards),
    TEST (requests_go_straight_to_the_backing_store),
    TEST (errors_of_the_backing_store_are_the_clients),
    TEST (without_a_backing_store_it_is_refused),
    TEST (a_failing_backing_store_keeps_its_cache),
    TEST (a_drain_that_takes_too_long_keeps_the_cache),
    TEST (lost_data_keeps_the_cache),
    TEST (a_device_that_refuses_keeps_its_cache),
    TEST (no_power_cut_brings_anything_old_back),
    TEST (clients_do_not_notice),
    TEST (a_shutdown_ends_the_attempt),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

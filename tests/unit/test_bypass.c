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
#include "engine/engine.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"
#include "support/whole_cache.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define DISK (UINT64_C (16) * MIB)
#define LONG 60000              /* ms */


static int
set_up (void **state)
{
  (void) state;
  set_up_cache (10 * MIB, DISK);
  return 0;
}

static struct cache *
open_on (struct memory_device *on)
{
  struct cache *opened;

  assert_int_equal (cache_open (&options, memory_pmem_open (on), &opened), 0);
  return opened;
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
  for (uint64_t i = scaled (3, 1); i > 0; i--) {
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
      tear_down_cache (NULL);
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
  assert_true (cuts > scaled (100, 30));
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

/* --- the device fails (pcache-fail) ----------------------------------- */

#define SPOT (4 * KIB)
#define SPOTS 32

static void
fail_by (enum fail_mode mode, bool ordered, bool crc)
{
  tear_down_cache (NULL);
  set_up (NULL);
  options.data_crc = crc;
  options.setting[SETTING_fail] = mode;
  options.setting[SETTING_space_timeout] = 0;
  use_four_segments (ordered);
}

/* All that the cache says or tells the device comes too late for it. */
static void
assert_left (void)
{
  const unsigned copies = device->copies, syncs = device->syncs;

  assert_true (cache_is_bypassed (cache));
  assert_true (reports_have (REPORT_WARNING, "has failed|was left"));
  write_bytes (0, 4096, 99);
  assert_int_equal (cache_flush (cache), 0);
  expect_bytes (cache, 0, 4096, 99);
  assert_int_equal (disk->bytes[0], 99);
  assert_int_equal (cache_stop (cache, true, LONG), 0);
  assert_int_equal (device->copies, copies);
  assert_int_equal (device->syncs, syncs);
  close_cache ();
  device->refused.length = 0;
  open_cache (false);
  assert_int_equal (counted (STAT_replayed_records), 0);
  expect_bytes (cache, 0, 4096, 99);
}

static void
a_failed_sync_stops_flushes (void **state)
{
  (void) state;
  fail_by (FAIL_STOP, false, true);
  open_cache (false);
  write_bytes (0, 4096, 1);
  device->break_sync = 1;
  for (int i = 0; i < 3; i++) {
    assert_int_equal (cache_flush (cache), -EIO);
    assert_int_equal (try_write (8192, 4096, 2, true), -EIO);
    assert_false (cache_is_bypassed (cache));
    expect_bytes (cache, 0, 4096, 1);
  }
  assert_false (is_all (disk->bytes, 1, 1));

  /* It can be had later. */
  assert_int_equal (cache_set (cache, SETTING_fail, FAIL_PASSTHROUGH), 0);
  assert_int_equal (cache_flush (cache), 0);
  assert_true (is_all (disk->bytes, 4096, 1));
  assert_left ();
}

static int
request (int which)
{
  const struct range range = { MIB, 8192 };

  switch (which) {
  case 0: return cache_flush (cache);
  case 1: return try_write (MIB, 8192, 7, true);
  case 2: return cache_zero (cache, range, false, true);
  case 3: return cache_zero (cache, range, true, true);
  default: return cache_trim (cache, range, true);
  }
}

/* Whichever request it is that meets it. */
static void
a_failed_sync_is_gone_past (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++)
    for (int which = 0; which < 5; which++) {
      fail_by (FAIL_PASSTHROUGH, false, true);
      memory_backend_track (disk);
      open_cache (threads);
      write_bytes (0, MIB, 1);
      assert_int_equal (cache_drain (cache, LONG), 0);
      write_bytes (0, 4096, 2);
      assert_int_equal (cache_flush (cache), 0);
      write_bytes (2 * MIB, MIB, 3);
      device->break_sync = 1;
      assert_int_equal (request (which), 0);
      assert_true (is_all (disk->stable, 4096, 2));
      assert_true (is_all (disk->stable + 4096, MIB - 4096, 1));
      assert_true (is_all (disk->stable + 2 * MIB, MIB, 3));
      assert_true (which == 0
                   || is_all (disk->stable + MIB, 8192, which == 1 ? 7 : 0));
      assert_left ();
    }
}

/* All that was written is durable, but the device takes no mark and no header. */
static void
a_failed_sync_of_a_header_is_gone_past (void **state)
{
  (void) state;
  fail_by (FAIL_PASSTHROUGH, false, true);
  open_cache (false);
  write_bytes (0, 768 * KIB, 1);
  assert_int_equal (cache_flush (cache), 0);
  device->break_sync = 1;
  assert_int_equal (cache_set (cache, SETTING_gc_percent, 50), -EIO);
  write_bytes (MIB, MIB, 2);
  assert_true (is_all (disk->bytes, 768 * KIB, 1));
  assert_true (is_all (disk->bytes + MIB, MIB, 2));
  assert_left ();
}

/* Where data is stored, but not the headers before it. */
static struct range
all_segments (void)
{
  const uint64_t start = cache_engine (cache)
    ->superblock.geometry.first_segment_at;

  return (struct range) { start, device->size - start };
}

static void
refused_stores_are_gone_past (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++)
    for (int way = 0; way < 3; way++) {
      fail_by (FAIL_PASSTHROUGH, ordered, true);
      open_cache (false);
      write_bytes (0, MIB, 1);
      /* What is in no set yet cannot be read back by anybody later. */
      if (way != 1)
        assert_int_equal (cache_flush (cache), 0);
      device->refused = way == 2 ? (struct range) { 0, device->size }
        : all_segments ();
      if (way == 0) {
        assert_int_equal (try_write (0, 4096, 2, false), 0);
        assert_true (is_all (disk->bytes, 4096, 2));
        assert_true (is_all (disk->bytes + 4096, MIB - 4096, 1));
        assert_left ();
        continue;
      }
      assert_int_equal (try_write (0, 4096, 2, false), -EIO);
      assert_int_equal (try_write (0, 4096, 2, true), -EIO);
      assert_false (cache_is_bypassed (cache));
      assert_true (reports_have (REPORT_ERROR, "cannot be left"));
      expect_bytes (cache, 0, MIB, 1);
      /* As if nothing had been tried. */
      device->refused.length = 0;
      write_bytes (0, 4096, 3);
      assert_int_equal (cache_flush (cache), 0);
      assert_int_equal (cache_stop (cache, false, 0), 0);
      close_cache ();
      open_cache (false);
      expect_bytes (cache, 0, 4096, 3);
      expect_bytes (cache, 4096, MIB - 4096, 1);
    }
}

/* What the kernel has dropped must not be taken for what was written. */
static void
what_a_failed_sync_dropped_keeps_the_cache (void **state)
{
  (void) state;
  for (int crc = 0; crc < 2; crc++) {
    fail_by (FAIL_PASSTHROUGH, false, crc);
    open_cache (false);
    memory_device_track (device, seed);
    write_bytes (0, MIB, 1);
    assert_int_equal (cache_flush (cache), 0);
    write_bytes (0, MIB, 2);
    device->break_sync = 1;
    device->drop_broken = true;
    for (int i = 0; i < 3; i++) {
      assert_int_equal (cache_flush (cache), -EIO);
      assert_false (cache_is_bypassed (cache));
    }
    /* In order, and nothing else. */
    for (uint64_t at = 0; at < MIB; at += SPOT)
      assert_true (is_all (disk->bytes + at, SPOT, 0)
                   || is_all (disk->bytes + at, SPOT, 1)
                   || (crc && is_all (disk->bytes + at, SPOT, 2)));
    assert_true (reports_have (REPORT_ERROR, "cannot be left"));
    close_cache ();
  }
}

/* Without checksums it is known of sets that were closed: their data was synced
 * before. */
static void
without_checksums_only_what_is_known_is_written_back (void **state)
{
  (void) state;
  for (unsigned n = 1; n <= 2; n++) {
    fail_by (FAIL_PASSTHROUGH, false, false);
    open_cache (false);
    write_bytes (0, MIB, 1);
    assert_int_equal (cache_flush (cache), 0);
    write_bytes (0, 4096, 2);
    device->break_sync = n;
    if (n == 2) {
      assert_int_equal (cache_flush (cache), 0);
      assert_true (is_all (disk->bytes, 4096, 2));
      assert_left ();
      continue;
    }
    assert_int_equal (cache_flush (cache), -EIO);
    assert_false (cache_is_bypassed (cache));
    assert_true (reports_have (REPORT_ERROR, "without data checksums"));
    assert_int_equal (cache_flush (cache), -EIO);
  }
}

static void
a_device_that_takes_no_mark_stays (void **state)
{
  (void) state;
  fail_by (FAIL_PASSTHROUGH, false, true);
  open_cache (false);
  write_bytes (0, MIB, 1);
  assert_int_equal (cache_flush (cache), 0);
  write_bytes (0, MIB, 2);
  device->sync_error = -EIO;
  assert_int_equal (cache_flush (cache), -EIO);
  device->sync_error = 0;
  device->break_sync = 1;
  device->copy_error = -EIO;
  for (int i = 0; i < 3; i++)
    assert_int_equal (cache_flush (cache), -EIO);
  assert_false (cache_is_bypassed (cache));
  expect_bytes (cache, 0, MIB, 2);
  assert_true (is_all (disk->bytes, MIB, 0));
}

static void
a_range_that_is_lost_keeps_the_cache (void **state)
{
  uint8_t *data;

  (void) state;
  fail_by (FAIL_PASSTHROUGH, false, true);
  open_cache (false);
  write_bytes (0, 4096, 0xa7);
  assert_int_equal (cache_flush (cache), 0);
  memset (buf, 0xa7, 4096);
  data = memmem (device->bytes, device->size, buf, 4096);
  assert_non_null (data);
  data[17] ^= 1;
  assert_int_equal (cache_drain (cache, LONG), 0);
  write_bytes (MIB, 4096, 1);
  device->break_sync = 1;
  assert_int_equal (cache_flush (cache), -EIO);
  assert_int_equal (cache_flush (cache), -EIO);
  assert_true (reports_have (REPORT_ERROR, "0+4096|lost|overwrite"));
  assert_int_equal (cache_read (cache, buf, (struct range) { 0, 1 }), -EIO);
  write_bytes (0, 4096, 5);
  assert_int_equal (cache_flush (cache), 0);
  assert_true (is_all (disk->bytes, 4096, 5));
  assert_true (is_all (disk->bytes + MIB, 4096, 1));
  assert_left ();
}

static void
a_backing_store_that_fails_too_is_tried_again (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++)
    for (int flush = 0; flush < 2; flush++) {
      fail_by (FAIL_PASSTHROUGH, false, true);
      open_cache (threads);
      write_bytes (0, MIB, 1);
      assert_int_equal (cache_flush (cache), 0);
      write_bytes (0, MIB, 2);
      mutex_lock (&disk->lock);
      *(flush ? &disk->flush_error : &disk->write_error) = -EIO;
      mutex_unlock (&disk->lock);
      device->break_sync = 1;
      for (int i = 0; i < 3; i++) {
        assert_int_equal (cache_flush (cache), -EIO);
        assert_false (cache_is_bypassed (cache));
        expect_bytes (cache, 0, MIB, 2);
        write_bytes (2 * MIB, 4096, i);
      }
      mutex_lock (&disk->lock);
      disk->flush_error = disk->write_error = 0;
      mutex_unlock (&disk->lock);
      /* The forgiven sync vouches for nothing. */
      assert_int_equal (cache_set (cache, SETTING_fail, FAIL_STOP), 0);
      assert_int_equal (cache_flush (cache), -EIO);
      assert_int_equal (cache_set (cache, SETTING_fail, FAIL_PASSTHROUGH), 0);
      assert_int_equal (cache_flush (cache), 0);
      assert_true (is_all (disk->bytes, MIB, 2));
      assert_true (is_all (disk->bytes + 2 * MIB, 4096, 2));
      assert_left ();
    }
}

static void
the_backing_stores_errors_are_not_the_devices (void **state)
{
  int r = 0;

  (void) state;
  fail_by (FAIL_PASSTHROUGH, true, true);
  open_cache (false);
  disk->write_error = -EIO;
  for (uint64_t at = 0; r == 0; at += MIB / 2)
    r = try_write (at, MIB / 2, 1, false);
  assert_int_equal (r, -EIO);
  assert_int_equal (cache_flush (cache), 0);
  assert_false (cache_is_bypassed (cache));
  assert_false (reports_have (REPORT_ERROR, "cannot be left"));
  assert_int_equal (cache_engine (cache)->device_failures, 0);
}

static void
nor_are_they_where_writes_go_there_at_once (void **state)
{
  const struct range range = { 0, 64 * KIB };

  (void) state;
  for (int mode = MODE_WRITETHROUGH; mode <= MODE_WRITEAROUND; mode++) {
    fail_by (FAIL_PASSTHROUGH, true, true);
    options.setting[SETTING_mode] = mode;
    open_cache (false);
    disk->write_error = disk->zero_error = -EIO;
    assert_int_equal (cache_zero (cache, range, false, false), -EIO);
    assert_int_equal (cache_zero (cache, range, true, true), -EIO);
    assert_int_equal (try_write (0, 4096, 1, false), -EIO);
    assert_false (cache_is_bypassed (cache));
    assert_int_equal (cache_engine (cache)->device_failures, 0);
  }
}

/* Each spot's values grow.  A disk may show any that is not older than what was
 * flushed last, and keeps to it. */
static uint8_t oldest[SPOTS], newest[SPOTS];
static struct memory_backend *other_disk;
static uint8_t spots[SPOTS * SPOT];

static void
put (unsigned first, unsigned end, unsigned step, uint8_t byte)
{
  for (unsigned i = first; i < end; i += step) {
    newest[i] = byte;
    write_bytes (i * SPOT, SPOT, byte);
  }
}

static void
flushed (void)
{
  memcpy (oldest, newest, sizeof oldest);
}

static void
expect_legal (struct memory_device *image)
{
  struct cache_options as_before = options;
  struct cache *found;

  memcpy (other_disk->bytes, disk->bytes, sizeof spots);
  options.setting[SETTING_fail] = FAIL_STOP;
  found = open_on (image);
  options = as_before;
  assert_int_equal (cache_attach (found, &other_disk->backend, "export"), 0);
  assert_int_equal (cache_read (found, spots,
                                (struct range) { 0, sizeof spots }), 0);
  for (unsigned i = 0; i < SPOTS; i++) {
    const uint8_t byte = spots[i * SPOT];

    assert_true (is_all (spots + i * SPOT, SPOT, byte));
    assert_in_range (byte, oldest[i], newest[i]);
  }
  /* What counts as clean says what the disk says. */
  assert_int_equal (cache_drain (found, LONG), 0);
  assert_memory_equal (other_disk->bytes, spots, sizeof spots);
  cache_close (found);
}

static void
cut_anywhere (void)
{
  memory_hook *const hook = device->hook;
  struct memory_device *image;

  device->hook = NULL;
  image = memory_device_crash (device, &random_state);
  expect_legal (image);
  memory_device_free (image);
  device->hook = hook;
  cuts++;
}

static void
cut_at_device (struct memory_device *d, enum memory_event event, uint64_t at,
               size_t length, void *opaque)
{
  (void) d;
  (void) event;
  (void) at;
  (void) length;
  (void) opaque;
  if (random_below (&random_state, 3) == 0)
    cut_anywhere ();
}

static void
cut_at_disk (struct memory_backend *mb, enum backend_event event,
             struct range range, const void *unused, void *opaque)
{
  (void) mb;
  (void) range;
  (void) unused;
  (void) opaque;
  if (event != BACKEND_READ && random_below (&random_state, 3) == 0)
    cut_anywhere ();
}

/* Clean and dirty, flushed and not, in several epochs. */
static void
fill_spots (void)
{
  memset (oldest, 0, sizeof oldest);
  memset (newest, 0, sizeof newest);
  put (0, SPOTS, 1, 1);
  assert_int_equal (cache_drain (cache, LONG), 0);
  flushed ();
  for (uint8_t byte = 2; byte < 5; byte++) {
    put (byte, SPOTS, 3, byte);
    assert_int_equal (cache_flush (cache), 0);
    flushed ();
  }
  put (0, SPOTS, 2, 5);
}

static void
no_power_cut_brings_anything_old_back_from_a_failed_device (void **state)
{
  (void) state;
  random_state = seed;
  other_disk = memory_backend_new (DISK);
  for (unsigned round = 0; round < 6; round++) {
    const bool disk_fails = round % 2, crc = round % 3 > 0;
    const bool late = crc && round < 3;

    fail_by (FAIL_PASSTHROUGH, false, crc);
    open_cache (false);
    memory_device_track (device, random_state);
    fill_spots ();
    cuts = 0;
    device->hook = cut_at_device;
    disk->before = disk->after = cut_at_disk;
    /* Without checksums: when all sets are closed. */
    device->break_sync = crc ? 1 : 2;
    if (late) {                 /* several epochs are not durable */
      assert_int_equal (cache_set (cache, SETTING_fail, FAIL_STOP), 0);
      for (uint8_t byte = 5; byte < 12; byte++) {
        put (byte, SPOTS, 2, byte);
        assert_int_equal (cache_flush (cache), -EIO);
      }
      assert_int_equal (cache_set (cache, SETTING_fail, FAIL_PASSTHROUGH), 0);
    }
    if (disk_fails) {
      disk->flush_error = -EIO;
      assert_int_equal (cache_flush (cache), -EIO);
      put (1, crc ? SPOTS : 1, 5, 12);
      expect_bytes (cache, 0, 1, 5);
      disk->flush_error = 0;
    }
    assert_int_equal (cache_flush (cache), 0);
    flushed ();
    assert_true (cache_is_bypassed (cache));
    cut_anywhere ();
    put (0, SPOTS, 1, 13);
    flushed ();
    cut_anywhere ();
    assert_true (cuts > 5);
    device->hook = NULL;
    disk->before = disk->after = NULL;
    for (unsigned i = 0; i < 10; i++)
      cut_anywhere ();
  }
  memory_backend_free (other_disk);
}

static void
clients_do_not_notice_that_the_device_fails (void **state)
{
  pthread_t thread[3];

  (void) state;
  for (int full = 0; full < 2; full++) {
    fail_by (FAIL_PASSTHROUGH, false, true);
    options.setting[SETTING_space_timeout] = LONG;
    stop_working = false;
    options.setting[SETTING_writeback_delay] = 20;
    if (full)
      options.setting[SETTING_gc_percent] = 0;
    open_cache (true);
    for (uintptr_t i = 0; i < 3; i++)
      pthread_create (&thread[i], NULL, work, (void *) i);
    work_on (300);
    device->break_sync = 1;
    work_on (600);
    stop_working = true;
    for (int i = 0; i < 3; i++)
      pthread_join (thread[i], NULL);
    assert_true (cache_is_bypassed (cache));
    assert_int_equal (cache_stop (cache, true, LONG), 0);
    close_cache ();
  }
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down_cache)
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
    TEST (a_failed_sync_stops_flushes),
    TEST (a_failed_sync_is_gone_past),
    TEST (a_failed_sync_of_a_header_is_gone_past),
    TEST (refused_stores_are_gone_past),
    TEST (what_a_failed_sync_dropped_keeps_the_cache),
    TEST (without_checksums_only_what_is_known_is_written_back),
    TEST (a_device_that_takes_no_mark_stays),
    TEST (a_range_that_is_lost_keeps_the_cache),
    TEST (a_backing_store_that_fails_too_is_tried_again),
    TEST (the_backing_stores_errors_are_not_the_devices),
    TEST (nor_are_they_where_writes_go_there_at_once),
    TEST (no_power_cut_brings_anything_old_back_from_a_failed_device),
    TEST (clients_do_not_notice_that_the_device_fails),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* The front door: whom it lets in (P5), and how the services behave when
 * the backing store fails, is slow, or the cache is full (P6). */

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
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "engine/cache.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/seed.h"
#include "support/whole_cache.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define DISK (UINT64_C (32) * MIB)


static int
set_up (void **state)
{
  (void) state;
  set_up_cache (10 * MIB, DISK);
  return 0;
}

static void
expect_byte (uint64_t at, uint8_t byte)
{
  assert_int_equal (cache_read (cache, buf, (struct range) { at, 1 }), 0);
  assert_int_equal (buf[0], byte);
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

/* It is not opened, for this reason, told once; nothing was stored. */
static void
assert_refused (int error, const char *words)
{
  const unsigned copies = device->copies;

  reports_collect ();
  assert_int_equal (try_open (), error);
  if (reports_count (REPORT_ERROR) != 1 || !reports_have (REPORT_ERROR, words))
    fail_msg ("expected one line with \"%s\", got:\n%s", words,
              reports_text (REPORT_ERROR));
  assert_int_equal (device->copies, copies);
}

/* --- P5 --------------------------------------------------------------- */

static void
a_blank_device_is_formatted_and_found_again (void **state)
{
  (void) state;
  open_cache (false);
  write_bytes (0, 1000, 1);
  assert_int_equal (cache_flush (cache), 0);
  close_cache ();
  options.format = CACHE_FORMAT_NEVER;
  options.segment_size = 0;
  open_cache (false);
  expect_byte (999, 1);
}

static void
never_means_never (void **state)
{
  (void) state;
  options.format = CACHE_FORMAT_NEVER;
  assert_refused (-EMEDIUMTYPE, "not formatted|pcache-format=never");
  *(uint64_t *) device->bytes = MAGIC_FORMATTING;
  assert_refused (-EMEDIUMTYPE, "interrupted|pcache-format=never");
}

/* Wherever it begins. */
static void
somebody_elses_data_is_refused (void **state)
{
  static const uint64_t places[] = {
    0, 1, 1024, 4096, 524288, 528384, MIB, 5 * MIB + 3, 10 * MIB - 1,
  };

  (void) state;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    device->bytes[places[i]] = 0x53;
    assert_refused (-EMEDIUMTYPE, "pcache-format=force");
    device->bytes[places[i]] = 0;
  }
}

/* T9: a damaged cache that looks blank at both superblocks is not one. */
static void
zeros_over_both_superblocks_do_not_make_it_blank (void **state)
{
  (void) state;
  open_cache (false);
  close_cache ();
  memset (device->bytes, 0, 4096);
  memset (device->bytes + 524288, 0, 4096);
  assert_refused (-EMEDIUMTYPE, "not blank|offset|pcache-format=force");
}

/* T9 */
static void
damage_is_refused_and_force_discards_it (void **state)
{
  (void) state;
  open_cache (false);
  write_bytes (0, 1000, 1);
  assert_int_equal (cache_flush (cache), 0);
  close_cache ();
  superblock_on (device, 0)->uuid[0] ^= 1;
  superblock_on (device, 1)->uuid[0] ^= 1;
  assert_refused (-EMEDIUMTYPE, "both copies of the superblock");
  options.format = CACHE_FORMAT_FORCE;
  open_cache (false);
  expect_byte (0, 0);
  close_cache ();
  options.format = CACHE_FORMAT_AUTO;
  open_cache (false);
}

/* T3: what a cache had before it was formatted again. */
static void
formatting_forgets_everything (void **state)
{
  (void) state;
  open_cache (false);
  for (uint64_t i = 0; i < 100; i++)
    write_bytes (i * 65536, 512, 1);
  assert_int_equal (cache_flush (cache), 0);
  close_cache ();
  options.format = CACHE_FORMAT_FORCE;
  open_cache (false);
  write_bytes (MIB, 512, 2);
  assert_int_equal (cache_flush (cache), 0);
  close_cache ();
  options.format = CACHE_FORMAT_AUTO;
  open_cache (false);
  for (uint64_t i = 0; i < 100; i++)
    expect_byte (i * 65536, i == 16 ? 2 : 0);
}

static void
an_interrupted_formatting_is_finished (void **state)
{
  (void) state;
  device->copies_left = 7;
  assert_true (try_open () < 0);
  assert_true (reports_have (REPORT_ERROR, "cannot be formatted"));
  open_cache (false);
  write_bytes (0, 10, 1);
  expect_byte (0, 1);
}

static void
a_device_that_is_too_small_is_told_the_minimum (void **state)
{
  (void) state;
  device->size = 3 * MIB;
  assert_refused (-ENOSPC, "3145728 bytes|at least|6291456");
  device->size = 10 * MIB;
}

static void
another_segment_size_is_refused (void **state)
{
  (void) state;
  open_cache (false);
  close_cache ();
  options.segment_size = 2 * MIB;
  assert_refused (-EINVAL, "1048576|2097152|pcache-segment-size");
}

/* T16 */
static void
another_backing_store_is_refused (void **state)
{
  (void) state;
  options.backing_id = "disk-7";
  open_cache (false);
  write_bytes (0, 1000, 1);
  assert_int_equal (cache_stop (cache, false, 0), 0);
  close_cache ();

  assert_int_equal (try_open (), 0);
  disk->backend.size = DISK + 512;
  assert_int_equal (cache_attach (cache, &disk->backend, "export"),
                    -EMEDIUMTYPE);
  assert_true (reports_have (REPORT_ERROR, "33554432|33554944|resized"));
  disk->backend.size = DISK - 512;
  assert_int_equal (cache_attach (cache, &disk->backend, "export"),
                    -EMEDIUMTYPE);
  disk->backend.size = DISK;
  assert_int_equal (cache_attach (cache, &disk->backend, "exports"),
                    -EMEDIUMTYPE);
  assert_true (reports_have (REPORT_ERROR, "\"export\"|\"exports\""));
  assert_int_equal (cache_attach (cache, &disk->backend, ""), -EMEDIUMTYPE);
  assert_false (status ().attached);
  assert_int_equal (cache_read (cache, buf, (struct range) { 0, 1 }), -EINVAL);
  close_cache ();

  options.backing_id = "disk-8";
  assert_int_equal (try_open (), 0);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"),
                    -EMEDIUMTYPE);
  assert_true (reports_have (REPORT_ERROR, "disk-7|disk-8"));
  close_cache ();

  options.backing_id = NULL;    /* not compared */
  open_cache (false);
  expect_byte (0, 1);
}

/* T12, here: no number is cut down to a byte on its way. */
static void
gc_percent_is_remembered_and_nonsense_is_not_believed (void **state)
{
  (void) state;
  open_cache (false);
  assert_int_equal (status ().gc_percent, CACHE_DEFAULT_GC_PERCENT);
  close_cache ();
  for (int percent = 0; percent <= CACHE_MAX_GC_PERCENT; percent += 30) {
    options.setting[SETTING_gc_percent] = percent;
    open_cache (false);
    close_cache ();
    options.setting[SETTING_gc_percent] = SETTING_REMEMBERED;
    open_cache (false);
    assert_int_equal (status ().gc_percent, percent);
    close_cache ();
  }
  for (unsigned i = 0; i < edge_value_count; i++) {
    const uint32_t percent = edge_values[i];

    for (int copy = 0; copy < 2; copy++) {
      struct media_control *control = control_on (device, copy);

      control->gc_percent = le32_of (percent);
      twin_seal (device, control, sizeof *control);
    }
    open_cache (false);
    assert_int_equal (status ().gc_percent,
                      percent <= CACHE_MAX_GC_PERCENT ? percent
                      : CACHE_DEFAULT_GC_PERCENT);
    close_cache ();
  }
}

/* --- requests --------------------------------------------------------- */

static void
requests_beyond_the_disk_are_refused (void **state)
{
  static const struct range ranges[] = {
    { 0, 0 }, { DISK, 1 }, { DISK - 1, 2 }, { 1, DISK },
    { UINT64_MAX, 2 }, { UINT64_MAX - 10, 11 }, { 1, UINT64_MAX },
    { 0, UINT64_MAX },
  };

  (void) state;
  open_cache (false);
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
    assert_int_equal (cache_read (cache, buf, ranges[i]), -EINVAL);
    assert_int_equal (cache_write (cache, buf, ranges[i], false), -EINVAL);
    assert_int_equal (cache_zero (cache, ranges[i], true, false), -EINVAL);
    assert_int_equal (cache_trim (cache, ranges[i], false), -EINVAL);
    assert_int_equal (cache_prefetch (cache, ranges[i]), -EINVAL);
  }
  write_bytes (DISK - 1, 1, 7);
  expect_byte (DISK - 1, 7);
}

static void
a_read_only_backing_store_is_only_read (void **state)
{
  (void) state;
  open_cache (true);
  write_bytes (0, 100, 1);
  assert_int_equal (cache_stop (cache, false, 0), 0);
  close_cache ();
  disk->backend.can_write = false;
  options.setting[SETTING_writeback_delay] = 0;
  open_cache (true);
  expect_byte (0, 1);
  assert_int_equal (try_write (0, 1, 2, false), -EROFS);
  assert_int_equal (cache_zero (cache, (struct range) { 0, 1 }, true, false),
                    -EROFS);
  assert_int_equal (cache_trim (cache, (struct range) { 0, 1 }, false),
                    -EROFS);
  usleep (50000);
  assert_int_equal (cache_drain (cache, 1000), -ESHUTDOWN);
  assert_int_equal (disk->writes, 0);
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
status_tells_what_is_dirty (void **state)
{
  (void) state;
  open_cache (false);
  write_bytes (0, 1000, 1);
  assert_int_equal (status ().dirty_bytes, 1000);
  assert_int_equal (cache_flush (cache), 0);
  assert_int_equal (status ().dirty_bytes, 1000);
  disk->write_error = -EIO;
  assert_false (cache_step (cache));
  assert_int_equal (status ().writeback_error, -EIO);
  assert_int_equal (counted (STAT_writeback_errors), 1);
  disk->write_error = 0;
  while (cache_step (cache))
    ;
  assert_int_equal (status ().writeback_error, 0);
  assert_int_equal (status ().dirty_bytes, 0);
  assert_true (status ().epoch_written_back > 0);
}

/* --- leaving ---------------------------------------------------------- */

static pthread_t onlooker;
static struct cache_status seen;

static void *
look (void *unused)
{
  cache_get_status (cache, &seen);
  return NULL;
}

/* Somebody looks while a record set is being closed. */
static void
have_it_looked_at (struct memory_device *d, enum memory_event event,
                   uint64_t at, size_t length, void *unused)
{
  device->hook = NULL;
  pthread_create (&onlooker, NULL, look, NULL);
  usleep (100000);              /* as far as it can get */
}

static void
what_is_dirty_is_dirty_at_every_instant (void **state)
{
  (void) state;
  open_cache (false);
  assert_int_equal (try_write (0, 4096, 1, false), 0);
  device->hook = have_it_looked_at;
  assert_int_equal (cache_flush (cache), 0);
  assert_null (device->hook);
  pthread_join (onlooker, NULL);
  assert_int_equal (seen.dirty_bytes, 4096);
}

static void
a_drain_leaves_a_complete_disk (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++) {
    open_cache (threads);
    for (uint64_t i = 0; i < 50; i++)
      write_bytes (i * 100000, 5000, i + 1);
    assert_int_equal (cache_stop (cache, true, 60000), 0);
    close_cache ();
    for (uint64_t i = 0; i < 50; i++)
      assert_int_equal (disk->bytes[i * 100000 + 4999], i + 1);
    memset (disk->bytes, 0, DISK);
  }
}

static void
keeping_leaves_everything_in_the_cache (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++) {
    open_cache (threads);
    write_bytes (0, 5000, 9 + threads);
    assert_int_equal (cache_stop (cache, false, 0), 0);
    close_cache ();
    assert_int_equal (disk->writes, 0);
    open_cache (false);
    expect_byte (4999, 9 + threads);
    close_cache ();
  }
}

/* T17 */
static void
a_last_flush_that_fails_is_told (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++) {
    open_cache (threads);
    write_bytes (0, 5000, 1);
    device->copy_error = -EIO;
    assert_int_equal (cache_stop (cache, false, 0), -EIO);
    device->copy_error = 0;
    assert_true (reports_have (REPORT_ERROR, "last flush|may be lost"));
    close_cache ();
  }
}

/* P6: also of a drain that was asked for. */
static void
a_drain_that_fails_leaves_the_data_dirty (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++)
    for (int what = 0; what < 2; what++) {
      *(what ? &disk->flush_error : &disk->write_error) = -EIO;
      open_cache (threads);
      write_bytes (0, 5000, 1 + what);
      assert_int_equal (cache_stop (cache, true, 10000), -EIO);
      assert_true (status ().dirty_bytes >= 5000);
      close_cache ();
      disk->flush_error = disk->write_error = 0;
      open_cache (false);
      expect_byte (0, 1 + what);
      assert_int_equal (cache_drain (cache, 1000), 0);
      assert_int_equal (disk->bytes[4999], 1 + what);
      close_cache ();
    }
}

static void
a_drain_gives_up_in_time (void **state)
{
  uint64_t start;

  (void) state;
  open_cache (true);
  for (uint64_t i = 0; i < 100; i++) {
    write_bytes (i * 8192, 10, 1);
    assert_int_equal (cache_flush (cache), 0);
  }
  disk->delay_us = 50000;
  start = now_ms ();
  assert_int_equal (cache_drain (cache, 300), -ETIMEDOUT);
  assert_true (now_ms () - start < 3000);
  disk->delay_us = 0;
  assert_int_equal (cache_drain (cache, 60000), 0);
}

static _Atomic bool stop_writing;

static void *
keep_writing (void *opaque)
{
  const uintptr_t thread = (uintptr_t) opaque;
  uint8_t data[4096];

  memset (data, 0x55, sizeof data);
  for (uint64_t i = 0; !stop_writing; i++) {
    int r = cache_write (cache, data, (struct range)
                         { 8 * MIB + (i * 3 + thread) % 1000 * 4096, 4096 },
                         true);
    assert (r == 0);
    (void) r;
    usleep (500);
  }
  return NULL;
}

/* T25 */
static void
a_drain_ends_although_writers_go_on (void **state)
{
  pthread_t thread[2];
  uint64_t epoch = 0;
  int r = 0, ended_dirty = 0;
  bool is_on_disk = true, makes_progress = true;

  (void) state;
  /* They are several times faster than the disk. */
  disk->delay_us = 2000;
  open_cache (true);
  write_bytes (0, 4096, 1);
  stop_writing = false;
  for (uintptr_t i = 0; i < 2; i++)
    pthread_create (&thread[i], NULL, keep_writing, (void *) i);
  /* On a busy machine they may not come to it during each drain. */
  for (int i = 0; i < 1000 && r == 0 && ended_dirty < 3; i++) {
    const uint8_t value = i % 100 + 1;

    write_bytes (0, 4096, value);
    r = cache_drain (cache, 20000);
    ended_dirty += status ().dirty_bytes > 0;
    is_on_disk &= disk->bytes[4095] == value;
    /* And progress can be seen. */
    makes_progress &= status ().epoch_written_back > epoch;
    epoch = status ().epoch_written_back;
  }
  stop_writing = true;
  for (int i = 0; i < 2; i++)
    pthread_join (thread[i], NULL);
  assert_int_equal (r, 0);
  assert_int_equal (ended_dirty, 3);
  assert_true (is_on_disk);
  assert_true (makes_progress);
  disk->delay_us = 0;
  assert_int_equal (cache_stop (cache, true, 60000), 0);
}

static void
detaching_waits_and_attaching_goes_on (void **state)
{
  (void) state;
  open_cache (true);
  write_bytes (0, 4096, 1);
  cache_detach (cache);
  assert_false (status ().attached);
  assert_int_equal (cache_read (cache, buf, (struct range) { 0, 1 }), -EINVAL);
  assert_int_equal (cache_drain (cache, 1000), -ESHUTDOWN);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
  expect_byte (0, 1);
  assert_int_equal (cache_drain (cache, 60000), 0);
  assert_int_equal (disk->bytes[0], 1);
  cache_detach (cache);
  assert_int_equal (cache_stop (cache, true, 1000), 0);
}

/* --- the services ----------------------------------------------------- */

static bool
wait_until_clean (unsigned ms)
{
  const uint64_t until = now_ms () + ms;

  while (status ().dirty_bytes > 0) {
    if (now_ms () > until)
      return false;
    usleep (1000);
  }
  return true;
}

static void
dirty_data_is_written_back_when_it_is_old_enough (void **state)
{
  uint64_t start;

  (void) state;
  options.setting[SETTING_writeback_delay] = 300;
  open_cache (true);
  start = now_ms ();
  write_bytes (0, 4096, 1);     /* nobody flushes */
  assert_true (wait_until_clean (30000));
  assert_true (now_ms () - start >= 250);
  assert_int_equal (disk->bytes[0], 1);
}

/* T15, P6 */
static void
a_failing_backing_store_is_retried_with_patience (void **state)
{
  unsigned tries;

  (void) state;
  options.setting[SETTING_writeback_delay] = 0;
  disk->write_error = -EIO;
  open_cache (true);
  write_bytes (0, 4096, 1);
  usleep (1000000);
  {
    HOLD_LOCK (&disk->lock);
    tries = disk->writes;
  }
  /* 100, 200, 400 ms... */
  assert_true (tries >= 2 && tries <= 10);
  assert_int_equal (status ().writeback_error, -EIO);
  assert_true (status ().dirty_bytes >= 4096);
  assert_int_equal (counted (STAT_writeback_errors), tries);
  assert_int_equal (reports_count (REPORT_ERROR), 1);
  assert_true (reports_have (REPORT_ERROR, "write-back failed|stays dirty"));
  {
    HOLD_LOCK (&disk->lock);
    disk->write_error = 0;
  }
  assert_true (wait_until_clean (30000));
  assert_int_equal (status ().writeback_error, 0);
  assert_true (reports_have (REPORT_WARNING, "works again"));
  assert_int_equal (disk->bytes[0], 1);
}

/* P6: who was told that it fails is told that it works, though it was opened
 * anew in between. */
static void
a_backing_store_that_works_when_opened_anew_is_reported (void **state)
{
  (void) state;
  options.setting[SETTING_writeback_delay] = 0;
  disk->write_error = -EIO;
  open_cache (true);
  write_bytes (0, 4096, 1);
  for (unsigned i = 0; i < 3000 && status ().writeback_error == 0; i++)
    usleep (10000);
  assert_int_equal (status ().writeback_error, -EIO);
  cache_detach (cache);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
  for (unsigned i = 0; i < 3000 && status ().writeback_error == 0; i++)
    usleep (10000);
  cache_detach (cache);
  disk->write_error = 0;
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
  assert_true (wait_until_clean (30000));
  for (unsigned i = 0; i < 3000 && reports_count (REPORT_WARNING) == 0; i++)
    usleep (10000);
  assert_true (reports_have (REPORT_WARNING, "works again"));
  assert_int_equal (reports_count (REPORT_ERROR), 1);
}

/* P6: the cache absorbs what it can, then says so; and recovers. */
static void
a_full_cache_over_a_failing_backing_store_refuses_writes (void **state)
{
  int r = 0;

  (void) state;
  use_four_segments (true);
  options.setting[SETTING_space_timeout] = 300;
  disk->write_error = -ENOSPC;
  open_cache (true);
  for (uint64_t at = 0; at < 8 * MIB && r == 0; at += 65536)
    r = try_write (at, 65536, 1, false);
  assert_int_equal (r, -EIO);
  assert_true (reports_have (REPORT_ERROR, "full|refused"));
  expect_byte (0, 1);
  {
    HOLD_LOCK (&disk->lock);
    disk->write_error = 0;
  }
  assert_int_equal (cache_drain (cache, 60000), 0);
  for (uint64_t at = 0; at < 8 * MIB; at += 65536)
    write_bytes (at, 65536, 2);
  expect_byte (0, 2);
  assert_int_equal (cache_stop (cache, true, 60000), 0);
  assert_int_equal (disk->bytes[8 * MIB - 1], 2);
}

/* Nobody waits for a backing store that fails when the server goes away. */
static void
a_shutdown_lets_waiting_writers_go (void **state)
{
  uint64_t start;
  int r = 0;

  (void) state;
  use_four_segments (true);
  disk->write_error = -EIO;
  open_cache (true);
  cache_begin_shutdown (cache);
  start = now_ms ();
  for (uint64_t at = 0; at < 8 * MIB && r == 0; at += 65536)
    r = try_write (at, 65536, 1, false);
  assert_int_equal (r, -ESHUTDOWN);
  assert_true (now_ms () - start < 10000);
}

/* T14: a cache full of clean data gives its space back at once; no timer is
 * short enough to help. */
static void
a_cache_full_of_clean_data_does_not_stall_writers (void **state)
{
  uint64_t start;

  (void) state;
  use_four_segments (true);
  open_cache (true);
  assert_int_equal (cache_prefetch (cache, (struct range) { 0, 8 * MIB }), 0);
  start = now_ms ();
  for (int round = 0; round < 40; round++) {
    write_bytes (10 * MIB, MIB, round);
    assert_int_equal (cache_drain (cache, 60000), 0);
    assert_int_equal (cache_prefetch (cache, (struct range) { 0, 2 * MIB }),
                      0);
  }
  /* A timer would take half a second for each. */
  assert_true (now_ms () - start < 6000);
}

static void *
write_much (void *opaque)
{
  const uintptr_t thread = (uintptr_t) opaque;
  uint8_t *data = malloc (65536);

  for (uint64_t i = 0; i < 300; i++) {
    const uint64_t at = (i * 4 + thread) % 256 * 65536;
    int r;

    memset (data, (int) (i + 1), 65536);
    r = cache_write (cache, data, (struct range) { at, 65536 }, i % 32 == 0);
    assert (r == 0);
    if (i % 8 == 0) {
      r = cache_read (cache, data, (struct range) { at, 65536 });
      assert (r == 0 && data[0] == (uint8_t) (i + 1));
    }
    if (i % 50 == 0) {
      r = cache_flush (cache);
      assert (r == 0);
    }
    (void) r;
  }
  free (data);
  return NULL;
}

/* T13, T14: 75 MiB through 4 MiB by four writers, in both orders. */
static void
four_segments_take_any_load (void **state)
{
  (void) state;
  use_four_segments (true);
  for (int order = WRITEBACK_STRICT; order <= WRITEBACK_BATCH; order++) {
    pthread_t thread[4];
    const uint64_t start = now_ms ();

    options.setting[SETTING_writeback_order] = order;
    open_cache (true);
    for (uintptr_t i = 0; i < 4; i++)
      pthread_create (&thread[i], NULL, write_much, (void *) i);
    for (int i = 0; i < 4; i++)
      pthread_join (thread[i], NULL);
    assert_true (counted (STAT_evicted_segments) > 50);
    assert_int_equal (cache_stop (cache, true, 60000), 0);
    /* Each segment would cost a timer's 500 ms. */
    assert_true (now_ms () - start < 30000);
    close_cache ();
    for (uint64_t at = 0; at < 16 * MIB; at += 65536) {
      /* The last round over the 256 places. */
      const uint64_t place = at / 65536, thread_of = place % 4;
      uint64_t i = 299;

      while ((i * 4 + thread_of) % 256 != place)
        i--;
      assert_int_equal (disk->bytes[at + 65535], (uint8_t) (i + 1));
    }
  }
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down_cache)
  const struct CMUnitTest tests[] = {
    TEST (a_blank_device_is_formatted_and_found_again),
    TEST (never_means_never),
    TEST (somebody_elses_data_is_refused),
    TEST (zeros_over_both_superblocks_do_not_make_it_blank),
    TEST (damage_is_refused_and_force_discards_it),
    TEST (formatting_forgets_everything),
    TEST (an_interrupted_formatting_is_finished),
    TEST (a_device_that_is_too_small_is_told_the_minimum),
    TEST (another_segment_size_is_refused),
    TEST (another_backing_store_is_refused),
    TEST (gc_percent_is_remembered_and_nonsense_is_not_believed),
    TEST (requests_beyond_the_disk_are_refused),
    TEST (a_read_only_backing_store_is_only_read),
    TEST (status_tells_what_is_dirty),
    TEST (what_is_dirty_is_dirty_at_every_instant),
    TEST (a_drain_leaves_a_complete_disk),
    TEST (keeping_leaves_everything_in_the_cache),
    TEST (a_last_flush_that_fails_is_told),
    TEST (a_drain_that_fails_leaves_the_data_dirty),
    TEST (a_drain_gives_up_in_time),
    TEST (a_drain_ends_although_writers_go_on),
    TEST (detaching_waits_and_attaching_goes_on),
    TEST (dirty_data_is_written_back_when_it_is_old_enough),
    TEST (a_failing_backing_store_is_retried_with_patience),
    TEST (a_backing_store_that_works_when_opened_anew_is_reported),
    TEST (a_full_cache_over_a_failing_backing_store_refuses_writes),
    TEST (a_shutdown_lets_waiting_writers_go),
    TEST (a_cache_full_of_clean_data_does_not_stall_writers),
    TEST (four_segments_take_any_load),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* The modes: what a write is worth when it is acknowledged, that cache and
 * backing store agree whatever comes in between, and how one mode follows another.
 * What a crash leaves in each: crash/check_crash. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
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
#include "engine/holes.h"
#include "support/reports.h"
#include "support/seed.h"
#include "support/whole_cache.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define DISK (UINT64_C (32) * MIB)
#define BLOCK (4 * KIB)


static int
set_up (void **state)
{
  (void) state;
  set_up_cache (10 * MIB, DISK);
  return 0;
}

static void
open_in (enum cache_mode mode, bool threads)
{
  options.setting[SETTING_mode] = mode;
  open_cache (threads);
  disk->flushes = 0;
}

/* Not before what an earlier life left has been written back. */
static void
await_mode (void)
{
  while (modes_is_pending (cache_engine (cache)))
    cache_step_writeback (cache);
}

/* As after a kill. */
static void
open_again (enum cache_mode mode)
{
  cache_close (cache);
  open_in (mode, false);
}

static void
flush (void)
{
  assert_int_equal (cache_flush (cache), 0);
}

static bool
is_all (const uint8_t *bytes, uint64_t length, uint8_t byte)
{
  for (uint64_t i = 0; i < length; i++)
    if (bytes[i] != byte)
      return false;
  return true;
}

static void
expect (uint64_t start, uint64_t length, uint8_t byte)
{
  assert_int_equal (cache_read (cache, buf, (struct range) { start, length }),
                    0);
  assert_true (is_all (buf, length, byte));
}

static void
expect_on_disk (uint64_t start, uint64_t length, uint8_t byte)
{
  assert_true (is_all (disk->bytes + start, length, byte));
}

static bool
is_cached (uint64_t start, uint64_t length)
{
  enum map_kind kind;
  uint64_t known;

  cache_map (cache, (struct range) { start, length }, &kind, &known);
  return kind != MAP_HOLE && known == length;
}

static bool
is_hole (uint64_t start, uint64_t length)
{
  enum map_kind kind;
  uint64_t known;

  cache_map (cache, (struct range) { start, length }, &kind, &known);
  return kind == MAP_HOLE && known == length;
}

static struct cache_status
status (void)
{
  struct cache_status s;

  cache_get_status (cache, &s);
  return s;
}

static uint64_t
invalidate (uint64_t start, uint64_t length)
{
  uint64_t dropped;

  assert_int_equal (cache_invalidate (cache, (struct range) { start, length },
                                      &dropped), 0);
  return dropped;
}

static void
set_mode (enum cache_mode mode)
{
  assert_int_equal (cache_set (cache, SETTING_mode, mode), 0);
}

static void
drain (void)
{
  assert_int_equal (cache_drain (cache, NEVER), 0);
}

/* Nothing of it is in the cache any more. */
static void
evict_all (void)
{
  drain ();
  assert_int_equal (cache_set (cache, SETTING_gc_percent, 0), 0);
  log_retire_heads (cache_engine (cache)->log);
  while (cache_step_eviction (cache))
    ;
}

/* --- invalidate ------------------------------------------------------- */

static void
what_is_invalidated_is_read_from_the_backing_store (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, false);
  write_bytes (0, 64 * KIB, 1);
  assert_int_equal (cache_zero (cache, (struct range) { MIB, 64 * KIB }, true,
                                false), 0);
  assert_int_equal (cache_trim (cache, (struct range) { 2 * MIB, 64 * KIB },
                                false), 0);
  drain ();
  expect (3 * MIB, 64 * KIB, 0);        /* a fill */
  memset (disk->bytes, 9, 4 * MIB);
  expect (0, 64 * KIB, 1);
  assert_int_equal (invalidate (0, DISK), 4 * 64 * KIB);
  assert_true (is_hole (0, 4 * MIB));
  for (unsigned i = 0; i < 4; i++)
    expect (i * MIB, 64 * KIB, 9);
}

static void
a_part_of_a_record_can_be_invalidated (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, false);
  write_bytes (0, 64 * KIB, 1);
  drain ();
  memset (disk->bytes, 9, 64 * KIB);
  assert_int_equal (invalidate (5000, 3000), 3000);
  for (unsigned i = 0; i < 2; i++) {
    expect (0, 5000, 1);
    expect (5000, 3000, 9);
    expect (8000, 64 * KIB - 8000, 1);
    open_again (MODE_WRITEBACK);
  }
}

static void
an_invalidation_outlives_a_crash_and_evictions (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, false);
  write_bytes (0, 64 * KIB, 1);
  drain ();
  write_bytes (0, 64 * KIB, 2);
  drain ();
  memset (disk->bytes, 9, 64 * KIB);
  assert_int_equal (invalidate (0, 64 * KIB), 64 * KIB);
  open_again (MODE_WRITEBACK);
  assert_true (is_hole (0, 64 * KIB));
  expect (0, 64 * KIB, 9);
  evict_all ();
  open_again (MODE_WRITEBACK);
  expect (0, 64 * KIB, 9);
  assert_int_equal (status ().damaged_segments, 0);
}

static void
dirty_data_is_not_invalidated (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, false);
  for (unsigned i = 0; i < 64; i++)
    write_bytes (i * BLOCK, BLOCK, 1);
  drain ();
  for (unsigned i = 0; i < 64; i += 2)
    write_bytes (i * BLOCK, BLOCK, 2);
  assert_int_equal (cache_zero (cache, (struct range) { BLOCK, BLOCK }, false,
                                false), 0);
  memset (disk->bytes, 9, MIB);
  assert_int_equal (invalidate (0, MIB), 31 * BLOCK);
  for (unsigned i = 0; i < 2; i++) {
    expect (0, BLOCK, 2);
    expect (BLOCK, BLOCK, 0);
    for (unsigned n = 2; n < 64; n++)
      expect (n * BLOCK, BLOCK, n % 2 ? 9 : 2);
    open_again (MODE_WRITEBACK);
  }
  drain ();
  expect_on_disk (62 * BLOCK, BLOCK, 2);
  expect_on_disk (63 * BLOCK, BLOCK, 9);
}

/* In a cache that is full of dirty data, with nobody who could write it back. */
static void
an_invalidation_does_not_wait_for_what_cannot_come (void **state)
{
  uint64_t dropped;
  int r = 0;

  (void) state;
  open_in (MODE_WRITEBACK, true);
  cache_pause_writeback (cache);
  for (unsigned i = 0; status ().segments_free > 1; i++)
    write_bytes (i * 64 * KIB, 64 * KIB, 1);
  cache_detach (cache);
  for (unsigned i = 0; i < 50000 && r == 0; i++) {
    /* A record for each. */
    holes_note_unmapped (&cache_engine (cache)->holes, INT64_MAX);
    r = cache_invalidate (cache, (struct range) { 31 * MIB, BLOCK }, &dropped);
  }
  assert_int_equal (r, -ENOSPC);
}

/* A set is refused in which something was invalidated, and cached again after. */
static void
an_invalidation_outlives_a_refused_set (void **state)
{
  struct engine *engine;
  struct record hole = {
    .range = { 0, BLOCK }, .kind = RECORD_HOLE, .clean = true,
  };
  struct reservation res;

  (void) state;
  open_in (MODE_WRITEBACK, false);
  engine = cache_engine (cache);
  write_bytes (0, BLOCK, 1);
  drain ();
  memset (disk->bytes, 9, BLOCK);
  assert_int_equal (log_reserve (engine->log, LOG_WRITE, 0, 1, &res), 0);
  index_lock (engine->index, hole.range);
  assert_int_equal (records_publish_locked (engine, &res, hole.range, &hole,
                                            1), 0);
  index_unlock (engine->index, hole.range);
  log_release (engine->log, &res);
  expect (0, BLOCK, 9);
  assert_true (is_cached (0, BLOCK));
  device->copies_left = 0;
  flush ();
  open_again (MODE_WRITEBACK);
  expect (0, BLOCK, 9);
}

static void
invalidate_while_read (struct memory_backend *mb, enum backend_event event,
                       struct range range, const void *bytes, void *opaque)
{
  (void) bytes;
  (void) opaque;
  if (event != BACKEND_READ)
    return;
  mb->read_done = NULL;
  invalidate (range.start, range.length);
}

static void
a_fill_under_way_is_not_cached_after_an_invalidation (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, false);
  disk->read_done = invalidate_while_read;
  expect (0, BLOCK, 0);
  assert_true (is_hole (0, BLOCK));
  expect (0, BLOCK, 0);
  assert_true (is_cached (0, BLOCK));
}

static void
invalidations_of_any_range_change_nothing_that_is_read (void **state)
{
  uint64_t random = seed;
  static uint8_t expected[2 * 1024 * 1024], found[2 * 1024 * 1024];
  const struct range all = { 0, sizeof expected };

  (void) state;
  open_in (MODE_WRITEBACK, false);
  for (unsigned i = 0; i < 1500; i++) {
    const uint64_t start = random_below (&random, sizeof expected - 1);
    const uint64_t length =
      1 + random_below (&random, MIN (sizeof expected - start, 100 * KIB));
    uint64_t dropped;

    switch (random_below (&random, 8)) {
    case 0:
      cache_step_writeback (cache);
      break;
    case 1:
      cache_step_eviction (cache);
      break;
    case 2:
      assert_int_equal (cache_read (cache, found,
                                    (struct range) { start, length }), 0);
      break;
    case 3:
      assert_int_equal (cache_invalidate (cache, (struct range) { start, length },
                                          &dropped), 0);
      break;
    case 4:
      if (random_below (&random, 10) == 0)
        open_again (MODE_WRITEBACK);
      break;
    case 5:
      assert_int_equal (cache_zero (cache, (struct range) { start, length },
                                    true, true), 0);
      memset (expected + start, 0, length);
      break;
    default:
      assert_int_equal (try_write (start, length, i, true), 0);
      memset (expected + start, i, length);
    }
    if (i % 16 == 0) {
      assert_int_equal (cache_read (cache, found, all), 0);
      assert_memory_equal (found, expected, sizeof expected);
    }
  }
  drain ();
  assert_memory_equal (disk->bytes, expected, sizeof expected);
}

/* --- what each mode promises ------------------------------------------- */

static void
writeonly_caches_no_reads (void **state)
{
  (void) state;
  memset (disk->bytes, 7, MIB);
  open_in (MODE_WRITEONLY, false);
  expect (0, BLOCK, 7);
  assert_true (is_hole (0, BLOCK));
  assert_int_equal (cache_prefetch (cache, (struct range) { 0, BLOCK }), 0);
  assert_true (is_hole (0, BLOCK));
  write_bytes (0, BLOCK, 1);
  assert_true (is_cached (0, BLOCK));
  expect_on_disk (0, BLOCK, 7);
  assert_string_equal (status ().mode, "writeonly");
  set_mode (MODE_WRITEBACK);
  expect (MIB - BLOCK, BLOCK, 7);
  assert_true (is_cached (MIB - BLOCK, BLOCK));
}

static void
written_through_is_in_both_when_it_is_acknowledged (void **state)
{
  (void) state;
  open_in (MODE_WRITETHROUGH, false);
  assert_string_equal (status ().mode, "writethrough");
  write_bytes (MIB - BLOCK, 600 * KIB, 1);
  expect_on_disk (MIB - BLOCK, 600 * KIB, 1);
  assert_true (is_cached (MIB, BLOCK));
  assert_int_equal (cache_zero (cache, (struct range) { MIB, BLOCK }, false,
                                false), 0);
  expect_on_disk (MIB, BLOCK, 0);
  assert_int_equal (cache_trim (cache, (struct range) { MIB + BLOCK, BLOCK },
                                false), 0);
  expect_on_disk (MIB + BLOCK, BLOCK, 0);
  assert_int_equal (disk->reads, 0);
  expect (MIB - BLOCK, BLOCK, 1);
  expect (MIB, 2 * BLOCK, 0);
  assert_int_equal (disk->reads, 0);
}

/* One request each, and none later. */
static void
what_was_written_through_is_not_written_again (void **state)
{
  (void) state;
  open_in (MODE_WRITETHROUGH, false);
  for (unsigned i = 0; i < 100; i++)
    write_bytes (i * BLOCK, BLOCK, i);
  assert_int_equal (disk->writes, 100);
  assert_true (status ().dirty_bytes > 0);
  flush ();
  assert_int_equal (disk->flushes, 1);
  assert_int_equal (status ().dirty_bytes, 0);
  drain ();
  while (cache_step (cache))
    ;
  assert_int_equal (disk->writes, 100);
  assert_int_equal (disk->flushes, 1);
  open_again (MODE_WRITETHROUGH);
  drain ();
  assert_int_equal (disk->writes, 100);
  expect (99 * BLOCK, BLOCK, 99);
  assert_int_equal (disk->reads, 0);
}

static void
a_fua_write_flushes_the_backing_store (void **state)
{
  (void) state;
  for (enum cache_mode mode = MODE_WRITETHROUGH; mode <= MODE_WRITEAROUND;
       mode++) {
    open_in (mode, false);
    disk->flushes = 0;
    assert_int_equal (try_write (0, MIB, 3, true), 0);
    assert_int_equal (disk->flushes, 1);
    expect_on_disk (0, MIB, 3);
    assert_int_equal (cache_zero (cache, (struct range) { 0, MIB }, true,
                                  true), 0);
    assert_int_equal (disk->flushes, 2);
    cache_close (cache);
    cache = NULL;
  }
}

static void
written_around_is_in_the_backing_store_only (void **state)
{
  (void) state;
  open_in (MODE_WRITEAROUND, false);
  assert_string_equal (status ().mode, "writearound");
  flush ();
  disk->flushes = 0;
  expect (0, 2 * MIB, 0);
  assert_true (is_cached (0, 2 * MIB));
  write_bytes (MIB - BLOCK, 2 * BLOCK, 1);
  expect_on_disk (MIB - BLOCK, 2 * BLOCK, 1);
  assert_true (is_hole (MIB - BLOCK, 2 * BLOCK));
  assert_int_equal (cache_zero (cache, (struct range) { 0, BLOCK }, false,
                                false), 0);
  assert_int_equal (cache_trim (cache, (struct range) { BLOCK, BLOCK },
                                false), 0);
  assert_true (is_hole (0, 2 * BLOCK));
  assert_int_equal (status ().dirty_bytes, 0);
  open_again (MODE_WRITEAROUND);        /* no flush before it */
  assert_true (is_hole (MIB - BLOCK, 2 * BLOCK));
  expect (MIB - BLOCK, 2 * BLOCK, 1);
  flush ();
  assert_int_equal (disk->flushes, 1);
}

static void
bulk_that_was_never_cached_needs_no_records (void **state)
{
  uint64_t sets;

  (void) state;
  open_in (MODE_WRITEAROUND, false);
  sets = status ().sets_written;
  for (unsigned i = 0; i < 8; i++)
    write_bytes (i * 2 * MIB, 2 * MIB, 1);
  assert_int_equal (status ().sets_written, sets);
  assert_int_equal (disk->writes, 8);
}

static void
read_while_written (struct memory_backend *mb, enum backend_event event,
                    struct range range, const void *bytes, void *opaque)
{
  uint8_t *found = opaque;

  (void) bytes;
  if (event != BACKEND_WRITE)
    return;
  mb->before = NULL;
  assert_int_equal (cache_read (cache, found, range), 0);
}

/* A power cut might take it from the backing store. */
static void
what_was_written_around_is_not_cached_before_it_is_flushed (void **state)
{
  (void) state;
  open_in (MODE_WRITEAROUND, false);
  flush ();
  write_bytes (0, BLOCK, 1);
  expect (0, BLOCK, 1);
  assert_true (is_hole (0, BLOCK));
  expect (2 * MIB, BLOCK, 0);
  assert_true (is_cached (2 * MIB, BLOCK));
  flush ();
  expect (0, BLOCK, 1);
  assert_true (is_cached (0, BLOCK));
}

/* T10.  Read before it is written, and cached after, it would be old for ever. */
/* Killed, and started again with another mode: nobody knows any more what was not
 * flushed. */
static void
nor_after_a_kill (void **state)
{
  uint64_t random = seed;

  (void) state;
  memory_backend_track (disk);
  open_in (MODE_WRITEAROUND, false);
  write_bytes (0, BLOCK, 1);
  open_again (MODE_WRITEBACK);
  expect (0, BLOCK, 1);
  if (is_cached (0, BLOCK)) {
    memory_backend_crash (disk, &random);
    expect_on_disk (0, BLOCK, 1);
  }
}

static void
what_is_read_while_it_is_written_around_is_not_cached (void **state)
{
  uint8_t found[BLOCK];

  (void) state;
  open_in (MODE_WRITEAROUND, false);
  flush ();
  disk->opaque = found;
  disk->before = read_while_written;
  write_bytes (0, BLOCK, 1);
  assert_true (is_all (found, BLOCK, 0));       /* old: it may be */
  assert_true (is_hole (0, BLOCK));
  expect (0, BLOCK, 1);
}

static void
a_plugin_that_can_neither_zero_nor_trim_is_given_zeros (void **state)
{
  const struct range range = { 0, 600 * KIB };

  (void) state;
  disk->backend.can_zero = disk->backend.can_trim = false;
  for (enum cache_mode mode = MODE_WRITETHROUGH; mode <= MODE_WRITEAROUND;
       mode++) {
    open_in (mode, false);
    await_mode ();
    memset (disk->bytes, 5, MIB);
    assert_int_equal (cache_zero (cache, range, true, false), 0);
    expect_on_disk (0, 600 * KIB, 0);
    expect_on_disk (600 * KIB, KIB, 5);
    memset (disk->bytes, 5, MIB);
    assert_int_equal (cache_trim (cache, range, false), 0);
    expect_on_disk (0, 600 * KIB, 0);
    cache_close (cache);
    cache = NULL;
  }
  /* One that says it can, and fails. */
  disk->backend.can_zero = true;
  disk->zero_error = -EOPNOTSUPP;
  open_in (MODE_WRITETHROUGH, false);
  await_mode ();
  memset (disk->bytes, 5, MIB);
  assert_int_equal (cache_zero (cache, range, true, false), 0);
  expect_on_disk (0, 600 * KIB, 0);
  expect_on_disk (600 * KIB, KIB, 5);
}

/* Lost data stays lost until the new bytes are there for good. */
static void
lost_data_can_be_written_around (void **state)
{
  struct engine *engine;
  struct record record = {
    .range = { 0, BLOCK }, .kind = RECORD_LOST, .clean = true,
  };
  struct reservation res;

  (void) state;
  open_in (MODE_WRITEAROUND, false);
  engine = cache_engine (cache);
  assert_int_equal (log_reserve (engine->log, LOG_LOST, 0, 1, &res), 0);
  assert_int_equal (lost_add (&engine->lost, record.range), 0);
  index_lock (engine->index, record.range);
  assert_int_equal (records_publish_locked (engine, &res, record.range,
                                            &record, 1), 0);
  index_unlock (engine->index, record.range);
  log_release (engine->log, &res);
  assert_int_equal (cache_read (cache, buf, record.range), -EIO);

  disk->write_error = -EIO;
  assert_int_equal (try_write (0, 2 * BLOCK, 1, false), -EIO);
  assert_int_equal (cache_read (cache, buf, record.range), -EIO);
  assert_int_equal (invalidate (0, MIB), 0);
  assert_int_equal (cache_read (cache, buf, record.range), -EIO);
  disk->write_error = 0;
  write_bytes (0, 2 * BLOCK, 1);
  assert_true (disk->flushes > 0);
  expect (0, 2 * BLOCK, 1);
  open_again (MODE_WRITEAROUND);
  expect (0, 2 * BLOCK, 1);
}

/* --- failures ----------------------------------------------------------- */

static void
a_write_through_that_fails_says_so_and_stays_dirty (void **state)
{
  (void) state;
  open_in (MODE_WRITETHROUGH, false);
  write_bytes (0, BLOCK, 1);
  disk->write_error = -EIO;
  assert_int_equal (try_write (BLOCK, BLOCK, 2, false), -EIO);
  /* So does who comes next, and a flush. */
  assert_int_equal (try_write (2 * BLOCK, BLOCK, 3, false), -EIO);
  assert_int_equal (cache_flush (cache), -EIO);
  expect (0, BLOCK, 1);
  expect (BLOCK, BLOCK, 2);     /* it may have happened: then for good */
  assert_true (status ().dirty_bytes > 0);
  open_again (MODE_WRITETHROUGH);
  expect (BLOCK, BLOCK, 2);

  disk->write_error = 0;
  await_mode ();
  write_bytes (2 * BLOCK, BLOCK, 3);
  expect_on_disk (0, BLOCK, 1);
  expect_on_disk (BLOCK, BLOCK, 2);
  expect_on_disk (2 * BLOCK, BLOCK, 3);
  assert_string_equal (status ().mode, "writethrough");
  flush ();
  assert_int_equal (status ().dirty_bytes, 0);
}

static void
flush_then_fail (struct memory_backend *mb, enum backend_event event,
                 struct range range, const void *bytes, void *opaque)
{
  (void) range;
  (void) bytes;
  (void) opaque;
  if (event != BACKEND_WRITE)
    return;
  mb->before = NULL;
  flush ();
  mb->write_error = -EIO;
}

static void
a_flush_does_not_settle_what_is_still_on_its_way (void **state)
{
  (void) state;
  open_in (MODE_WRITETHROUGH, false);
  write_bytes (0, BLOCK, 1);
  disk->before = flush_then_fail;
  assert_int_equal (try_write (BLOCK, BLOCK, 2, false), -EIO);
  disk->write_error = 0;
  await_mode ();
  expect (BLOCK, BLOCK, 2);
  expect_on_disk (BLOCK, BLOCK, 2);
}

/* An NBD server that was restarted has lost what it had not flushed. */
static void
after_a_failed_flush_everything_is_written_again (void **state)
{
  (void) state;
  open_in (MODE_WRITETHROUGH, false);
  for (unsigned i = 0; i < 8; i++)
    write_bytes (i * BLOCK, BLOCK, 1 + i);
  disk->flush_error = -EIO;
  assert_int_equal (cache_flush (cache), -EIO);
  memset (disk->bytes, 0, MIB);
  disk->flush_error = 0;
  flush ();
  for (unsigned i = 0; i < 8; i++)
    expect_on_disk (i * BLOCK, BLOCK, 1 + i);
  assert_int_equal (status ().dirty_bytes, 0);
}

/* Error numbers that mean something else in here, as NFS has them: they are the
 * backing store's, and end the request. */
static void
no_error_of_the_backing_store_is_taken_for_one_of_ours (void **state)
{
  static const int errors[] = { -ESTALE, -EAGAIN, -ECANCELED };

  (void) state;
  for (enum cache_mode mode = MODE_WRITETHROUGH; mode <= MODE_WRITEAROUND;
       mode++)
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
      open_in (mode, false);
      await_mode ();
      disk->write_error = errors[i];
      assert_int_equal (try_write (0, BLOCK, 1, false), -EIO);
      disk->write_error = 0;
      cache_close (cache);
      cache = NULL;
    }
}

static void
a_write_around_that_fails_leaves_nothing_old_in_the_cache (void **state)
{
  (void) state;
  open_in (MODE_WRITEAROUND, false);
  flush ();
  expect (0, BLOCK, 0);
  disk->write_error = -EIO;
  assert_int_equal (try_write (0, BLOCK, 1, false), -EIO);
  assert_true (is_hole (0, BLOCK));
  disk->write_error = 0;
  write_bytes (0, BLOCK, 2);
  expect (0, BLOCK, 2);
  disk->flush_error = -EIO;
  assert_int_equal (cache_flush (cache), -EIO);
}

static void
a_read_only_disk_takes_no_writes_in_any_mode (void **state)
{
  (void) state;
  disk->backend.can_write = false;
  for (enum cache_mode mode = MODE_WRITEBACK; mode <= MODE_WRITEONLY; mode++) {
    open_in (mode, false);
    assert_int_equal (try_write (0, BLOCK, 1, false), -EROFS);
    expect (0, BLOCK, 0);
    flush ();
    cache_close (cache);
    cache = NULL;
  }
}

/* --- from one mode to another ------------------------------------------- */

static void
a_mode_without_dirty_data_comes_after_draining (void **state)
{
  (void) state;
  for (enum cache_mode mode = MODE_WRITETHROUGH; mode <= MODE_WRITEAROUND;
       mode++) {
    open_in (MODE_WRITEBACK, false);
    write_bytes (0, BLOCK, 10 + mode);
    flush ();
    set_mode (mode);
    assert_int_equal (cache_get_setting (cache, SETTING_mode), mode);
    assert_string_equal (status ().mode, "writeback");
    write_bytes (BLOCK, BLOCK, 20 + mode);      /* still behind */
    assert_false (is_all (disk->bytes + BLOCK, BLOCK, 20 + mode));
    while (modes_is_pending (cache_engine (cache)))
      assert_true (cache_step_writeback (cache));
    expect_on_disk (0, BLOCK, 10 + mode);
    expect_on_disk (BLOCK, BLOCK, 20 + mode);
    assert_int_equal (status ().dirty_bytes, 0);
    write_bytes (0, BLOCK, 30 + mode);
    expect_on_disk (0, BLOCK, 30 + mode);

    /* And back, at once. */
    set_mode (MODE_WRITEBACK);
    assert_string_equal (status ().mode, "writeback");
    write_bytes (0, BLOCK, 40 + mode);
    expect_on_disk (0, BLOCK, 30 + mode);
    flush ();
    open_again (mode);          /* at the start the same */
    assert_string_equal (status ().mode, "writeback");
    drain ();
    expect_on_disk (0, BLOCK, 40 + mode);
    expect (0, BLOCK, 40 + mode);
    await_mode ();
    cache_close (cache);
    cache = NULL;
  }
}

static void
a_flush_covers_what_went_around_before_the_mode_was_changed (void **state)
{
  (void) state;
  open_in (MODE_WRITEAROUND, false);
  write_bytes (0, BLOCK, 1);
  set_mode (MODE_WRITEBACK);
  write_bytes (BLOCK, BLOCK, 2);
  assert_int_equal (disk->flushes, 0);
  flush ();
  assert_int_equal (disk->flushes, 1);
  write_bytes (BLOCK, BLOCK, 3);
  flush ();
  assert_int_equal (disk->flushes, 1);
}

static void
a_drain_covers_what_went_around_before_the_mode_was_changed (void **state)
{
  (void) state;
  open_in (MODE_WRITEAROUND, false);
  for (enum cache_mode mode = MODE_WRITEBACK; mode <= MODE_WRITEAROUND;
       mode++) {
    set_mode (MODE_WRITEAROUND);
    await_mode ();
    write_bytes (0, BLOCK, 1);
    set_mode (mode);
    await_mode ();
    drain ();
    assert_false (modes_is_unflushed (&cache_engine (cache)->modes));
  }
}

/* A store says but once that it lost something. */
static void
lose_when_flushed (struct memory_backend *mb, enum backend_event event,
                   struct range range, const void *bytes, void *opaque)
{
  (void) range;
  (void) bytes;
  (void) opaque;
  if (event != BACKEND_FLUSH)
    return;
  mb->before = NULL;
  memset (mb->bytes, 0, MIB);
  mb->flush_error = -EIO;
  /* As if another client had been faster. */
  assert_int_equal (backend_flush (&mb->backend), -EIO);
  atomic_fetch_add (&cache_engine (cache)->backing.failures, 1);
  mb->flush_error = 0;
}

static void
write_back_hears_of_a_flush_that_failed_for_others (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, false);
  write_bytes (0, BLOCK, 1);
  disk->before = lose_when_flushed;
  assert_false (cache_step_writeback (cache));
  assert_true (status ().dirty_bytes > 0);
  drain ();
  expect_on_disk (0, BLOCK, 1);
}

static void
a_flush_hears_of_what_write_back_was_told (void **state)
{
  (void) state;
  open_in (MODE_WRITEAROUND, false);
  flush ();
  write_bytes (0, BLOCK, 1);
  set_mode (MODE_WRITEBACK);
  write_bytes (BLOCK, BLOCK, 2);
  disk->flush_error = -EIO;
  assert_false (cache_step_writeback (cache));
  disk->flush_error = 0;
  assert_int_equal (cache_flush (cache), -EIO);
  flush ();                     /* said once */
}

/* Not only when there is nothing else to do. */
static void
what_went_around_is_flushed_though_writes_go_on (void **state)
{
  (void) state;
  open_in (MODE_WRITEAROUND, false);
  write_bytes (0, BLOCK, 1);
  set_mode (MODE_WRITEBACK);
  for (unsigned i = 0; i < 2; i++) {
    write_bytes (BLOCK, BLOCK, i);
    assert_true (cache_step_writeback (cache));
  }
  assert_false (modes_is_unflushed (&cache_engine (cache)->modes));
}

static void
modes_wait_for_a_backing_store_and_outlive_it (void **state)
{
  (void) state;
  open_in (MODE_WRITETHROUGH, false);
  write_bytes (0, BLOCK, 1);
  cache_detach (cache);
  memset (disk->bytes, 0, BLOCK);       /* it was never flushed */
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
  await_mode ();
  expect_on_disk (0, BLOCK, 1);
  assert_string_equal (status ().mode, "writethrough");
}

static void
a_change_of_mode_does_not_wait_for_a_store_that_fails (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, false);
  write_bytes (0, BLOCK, 1);
  disk->write_error = -EIO;
  set_mode (MODE_WRITETHROUGH);
  for (unsigned i = 0; i < 10; i++) {
    cache_step_writeback (cache);
    write_bytes (BLOCK, BLOCK, i);      /* as before */
  }
  assert_string_equal (status ().mode, "writeback");
  disk->write_error = 0;
  await_mode ();
  assert_string_equal (status ().mode, "writethrough");
  expect_on_disk (BLOCK, BLOCK, 9);
}

/* --- with threads -------------------------------------------------------- */

#define WRITERS 4
#define AREA (16 * BLOCK)

static _Atomic bool stop;
static _Atomic unsigned failures;

static void *
writer (void *opaque)
{
  const uintptr_t me = (uintptr_t) opaque;
  uint64_t random = seed * 31 + me;
  uint8_t mine[AREA];

  for (unsigned n = 0; !stop; n++) {
    const uint64_t start = random_below (&random, AREA - 1);
    const uint64_t length = 1 + random_below (&random, AREA - start);
    const struct range range = { start, length };
    int r;

    switch (random_below (&random, 12)) {
    case 0:
      r = cache_zero (cache, range, true, false);
      break;
    case 1:
      r = cache_flush (cache);
      break;
    case 2: case 3: case 4:
      r = cache_read (cache, mine, range);
      break;
    default:
      memset (mine, n * WRITERS + me, length);
      r = cache_write (cache, mine, range, random_below (&random, 20) == 0);
    }
    if (r < 0)
      failures++;
  }
  return NULL;
}

static uint64_t
requests (void)
{
  return stats_get (cache_stats (cache), STAT_writes);
}

static void
run_writers (void (*meanwhile) (void))
{
  pthread_t thread[WRITERS];

  stop = false;
  failures = 0;
  for (uintptr_t i = 0; i < WRITERS; i++)
    assert_int_equal (pthread_create (&thread[i], NULL, writer, (void *) i),
                      0);
  meanwhile ();
  stop = true;
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (thread[i], NULL);
}

/* All that is clean is what the backing store has. */
static void
expect_agreement (void)
{
  static uint8_t found[AREA];
  const struct range area = { 0, AREA };

  drain ();
  assert_int_equal (cache_read (cache, found, area), 0);
  assert_memory_equal (found, disk->bytes, AREA);
}

static void
wait_for_requests (void)
{
  const uint64_t until = requests () + 400;

  while (requests () < until)
    sched_yield ();
}

static void
overlapping_writes_leave_cache_and_backing_store_agreed (void **state)
{
  (void) state;
  for (enum cache_mode mode = MODE_WRITETHROUGH; mode <= MODE_WRITEAROUND;
       mode++) {
    open_in (mode, true);
    for (unsigned round = 0; round < 8; round++) {
      run_writers (wait_for_requests);
      assert_int_equal (failures, 0);
      expect_agreement ();
    }
    assert_int_equal (cache_stop (cache, true, NEVER), 0);
    cache_close (cache);
    cache = NULL;
  }
}

static void
change_modes (void)
{
  uint64_t random = seed;
  unsigned in_effect = 0;

  for (unsigned i = 0; i < 60; i++) {
    const enum cache_mode mode = random_below (&random, MODE_WRITEONLY + 1);
    const uint64_t until = requests () + random_below (&random, 40);

    set_mode (mode);
    while (requests () < until)
      sched_yield ();
  }
  /* New writes do not keep it from coming. */
  for (enum cache_mode mode = MODE_WRITEBACK; mode <= MODE_WRITEAROUND; mode++) {
    set_mode (mode);
    while (modes_in_effect (cache_engine (cache)) != mode)
      sched_yield ();
    in_effect++;
  }
  assert_int_equal (in_effect, 3);
}

static void
modes_can_change_while_everything_is_written (void **state)
{
  (void) state;
  open_in (MODE_WRITEBACK, true);
  for (unsigned round = 0; round < 4; round++) {
    run_writers (change_modes);
    assert_int_equal (failures, 0);
    expect_agreement ();
  }
  assert_int_equal (cache_stop (cache, true, NEVER), 0);
}

static void
fail_and_heal (void)
{
  for (unsigned i = 0; i < 6; i++) {
    const unsigned before = failures;

    pthread_mutex_lock (&disk->lock);
    disk->write_error = i % 2 ? -EIO : 0;
    disk->flush_error = i % 2 ? 0 : -EIO;
    pthread_mutex_unlock (&disk->lock);
    while (failures == before)
      sched_yield ();
    pthread_mutex_lock (&disk->lock);
    disk->write_error = disk->flush_error = disk->zero_error = 0;
    pthread_mutex_unlock (&disk->lock);
    wait_for_requests ();
  }
}

static void
a_store_that_fails_and_heals_agrees_in_the_end (void **state)
{
  (void) state;
  open_in (MODE_WRITETHROUGH, true);
  run_writers (fail_and_heal);
  expect_agreement ();
  assert_int_equal (cache_stop (cache, true, NEVER), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down_cache)

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    TEST (what_is_invalidated_is_read_from_the_backing_store),
    TEST (a_part_of_a_record_can_be_invalidated),
    TEST (an_invalidation_outlives_a_crash_and_evictions),
    TEST (dirty_data_is_not_invalidated),
    TEST (an_invalidation_does_not_wait_for_what_cannot_come),
    TEST (an_invalidation_outlives_a_refused_set),
    TEST (a_fill_under_way_is_not_cached_after_an_invalidation),
    TEST (invalidations_of_any_range_change_nothing_that_is_read),
    TEST (writeonly_caches_no_reads),
    TEST (written_through_is_in_both_when_it_is_acknowledged),
    TEST (what_was_written_through_is_not_written_again),
    TEST (a_fua_write_flushes_the_backing_store),
    TEST (written_around_is_in_the_backing_store_only),
    TEST (bulk_that_was_never_cached_needs_no_records),
    TEST (what_was_written_around_is_not_cached_before_it_is_flushed),
    TEST (nor_after_a_kill),
    TEST (what_is_read_while_it_is_written_around_is_not_cached),
    TEST (a_plugin_that_can_neither_zero_nor_trim_is_given_zeros),
    TEST (lost_data_can_be_written_around),
    TEST (a_write_through_that_fails_says_so_and_stays_dirty),
    TEST (a_flush_does_not_settle_what_is_still_on_its_way),
    TEST (after_a_failed_flush_everything_is_written_again),
    TEST (no_error_of_the_backing_store_is_taken_for_one_of_ours),
    TEST (a_write_around_that_fails_leaves_nothing_old_in_the_cache),
    TEST (a_read_only_disk_takes_no_writes_in_any_mode),
    TEST (a_mode_without_dirty_data_comes_after_draining),
    TEST (a_flush_covers_what_went_around_before_the_mode_was_changed),
    TEST (a_drain_covers_what_went_around_before_the_mode_was_changed),
    TEST (write_back_hears_of_a_flush_that_failed_for_others),
    TEST (a_flush_hears_of_what_write_back_was_told),
    TEST (what_went_around_is_flushed_though_writes_go_on),
    TEST (modes_wait_for_a_backing_store_and_outlive_it),
    TEST (a_change_of_mode_does_not_wait_for_a_store_that_fails),
    TEST (overlapping_writes_leave_cache_and_backing_store_agreed),
    TEST (modes_can_change_while_everything_is_written),
    TEST (a_store_that_fails_and_heals_agrees_in_the_end),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

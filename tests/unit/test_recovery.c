/* SPDX-License-Identifier: BSD-3-Clause */

/* Opening: what was promised is found again, what was not may be gone, and
 * what is damaged is never taken for either. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/gc.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"
#include "support/small_engine.h"

#define DISK (4 * MIB)
#define BLOCK UINT64_C (4096)

static struct small_engine *small;

static void
begin (uint32_t segments, bool ordered)
{
  reports_collect ();
  small = small_engine_new (segments, ordered, DISK);
  small_engine_open (small);
}

static void
end (void)
{
  small_engine_free (small);
}

/* Block N. */
static void
put_block (uint64_t n, unsigned version)
{
  put (small, n * BLOCK, BLOCK, version);
}

static void
expect_block (uint64_t n, unsigned version)
{
  expect (small, n * BLOCK, BLOCK, version);
}

static uint64_t
written_back_through (void)
{
  return control_get (&small->engine.superblock).written_back;
}

/* Damage one bit of a record of a set. */
static void
tear_set (uint32_t id, uint32_t ordinal)
{
  record_in (set_on (small->device, id, ordinal), 0)->sequence.raw ^= 1;
}

/* --- whole logs ------------------------------------------------------- */

static void
what_was_flushed_is_found_again (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++)
    for (int clean_exit = 0; clean_exit < 2; clean_exit++) {
      begin (8, ordered);
      for (unsigned i = 0; i < 500; i++)
        put_block (i % 300, i + 1);
      assert_int_equal (engine_write_zeros (&small->engine, RECORD_ZERO,
                                            (struct range) { 0, 2 * BLOCK },
                                            false), 0);
      flush (small);
      if (clean_exit)
        small_engine_restart (small);
      else {
        small_engine_kill (small);
        small_engine_open (small);
      }
      expect_block (0, 0);
      expect_block (1, 0);
      for (unsigned i = 2; i < 300; i++)
        expect_block (i, i < 200 ? i + 301 : i + 1);
      assert_int_equal (small->disk->reads, 0);
      /* All of it is still dirty. */
      write_back (small);
      expect_on_disk (small, 299 * BLOCK, BLOCK, 300);
      end ();
    }
}

/* Heads take sequence numbers in turns: the newest is in any segment. */
static void
segments_are_merged_by_sequence_number (void **state)
{
  (void) state;
  reports_collect ();
  small = small_engine_new (24, true, DISK);
  small->heads = 3;
  small_engine_open (small);
  for (unsigned i = 0; i < 1000; i++) {
    put_block (i % 7, i + 1);
    if (i % 13 == 0)
      flush (small);
  }
  flush (small);
  small_engine_kill (small);
  small_engine_open (small);
  for (unsigned i = 0; i < 7; i++)
    expect_block (i, 1000 - (999 - i) % 7);
  end ();
}

/* So many that several threads read them.  Without damage once only; damage is
 * then judged as in a small cache. */
static void
many_segments_are_read_by_several_threads (void **state)
{
  const unsigned count = 48 * 256;

  (void) state;
  for (int damage = 0; damage < 2; damage++) {
    reports_collect ();
    small = small_engine_new (64, true, DISK);
    small->heads = 3;
    small_engine_open (small);
    for (unsigned i = 0; i < count; i++)
      put_block (i % 1000, i / 1000 + 1);
    seal (small);
    write_back (small);
    put_block (7, 100);
    flush (small);
    if (damage)
      tear_set (segment_of (small, 300 * BLOCK), 1);
    small_engine_kill (small);
    small_engine_open (small);
    assert_int_equal (counted (small, STAT_damaged_segments), damage);
    assert_true (counted (small, STAT_replayed_records)
                 + counted (small, STAT_replay_dropped_records)
                 >= (damage ? count - 256 : count));
    for (unsigned i = 0; i < 1000; i++)
      expect_block (i, i == 7 ? 100 : (count - 1 - i) / 1000 + 1);
    /* Dirty is what was written last, and nothing else. */
    assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue), BLOCK);
    end ();
  }
}

static void
opening_twice_changes_nothing (void **state)
{
  uint8_t *bytes;

  (void) state;
  begin (8, true);
  for (unsigned i = 0; i < 400; i++)
    put_block (i, 1);
  flush (small);
  small_engine_kill (small);
  small_engine_open (small);
  small_engine_kill (small);
  bytes = malloc (small->device->size);
  memcpy (bytes, small->device->bytes, small->device->size);
  small_engine_open (small);
  small_engine_kill (small);
  assert_memory_equal (bytes, small->device->bytes, small->device->size);
  free (bytes);
  small_engine_open (small);
  for (unsigned i = 0; i < 400; i++)
    expect_block (i, 1);
  end ();
}

struct opening {
  struct small_engine *of;
  uint64_t random;
  unsigned seen;
};

static void
cut_opening (struct memory_device *d, enum memory_event event, uint64_t at,
             size_t length, void *opaque)
{
  struct opening *opening = opaque;
  struct small_engine *other =
    small_engine_beside (opening->of, memory_device_crash (d,
                                                           &opening->random));

  (void) event;
  (void) at;
  (void) length;
  small_engine_open (other);
  for (unsigned i = 0; i < 400; i++)
    expect (other, i * BLOCK, BLOCK, i % 3 ? 1 : 2);
  small_engine_free (other);
  opening->seen++;
}

static void
a_crash_while_opening_changes_nothing (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    struct opening opening = { .random = seed };

    begin (8, ordered);
    for (unsigned i = 0; i < 400; i++)
      put_block (i, 1);
    flush (small);
    for (unsigned i = 0; i < 400; i += 3)
      put_block (i, 2);
    flush (small);
    small_engine_kill (small);
    opening.of = small;
    memory_device_track (small->device, seed);
    small->device->hook = cut_opening;
    small->device->opaque = &opening;
    small_engine_open (small);
    small->device->hook = NULL;
    assert_true (opening.seen >= 8);
    end ();
  }
}

/* Sectors 0..299 are each there or not, and nothing looks damaged. */
static void
cut_opening_after_a_kill (struct memory_device *d, enum memory_event event,
                          uint64_t at, size_t length, void *opaque)
{
  struct opening *opening = opaque;
  uint8_t sector[512];

  (void) event;
  (void) at;
  (void) length;
  for (uint64_t i = scaled (12, 2); i > 0; i--) {
    struct small_engine *other =
      small_engine_beside (opening->of,
                           memory_device_crash (d, &opening->random));

    small_engine_open (other);
    assert_int_equal (counted (other, STAT_damaged_segments), 0);
    for (uint64_t n = 0; n < 300; n++) {
      assert_int_equal (get (other, n * 512, 512, sector), 0);
      assert_true (is_version (sector, n * 512, 512, 1)
                   || is_version (sector, n * 512, 512, 0));
    }
    small_engine_free (other);
    opening->seen++;
  }
}

/* After a kill sets and data may be in the page cache only; what is found
 * there and called sealed must have been made durable first. */
static void
what_a_kill_left_in_the_page_cache_is_synced_first (void **state)
{
  struct opening opening = { .random = seed };
  bool found[300];
  unsigned count = 0;

  (void) state;
  begin (4, false);
  opening.of = small;
  memory_device_track (small->device, seed);
  for (uint64_t n = 0; n < 300; n++)
    put (small, n * 512, 512, 1);       /* full sets are stored; no flush */
  small_engine_kill (small);
  small->device->hook = cut_opening_after_a_kill;
  small->device->opaque = &opening;
  small_engine_open (small);
  small->device->hook = NULL;
  assert_true (opening.seen >= scaled (20, 4));

  for (uint64_t n = 0; n < 300; n++) {
    found[n] = is_cached (small, n * 512, 512);
    count += found[n];
  }
  assert_true (count >= SET_MAX_RECORDS);

  /* And from now on it stays: a flush finds nothing to do. */
  flush (small);
  small_engine_use (small, memory_device_crash (small->device,
                                                &opening.random));
  small_engine_open (small);
  for (uint64_t n = 0; n < 300; n++)
    if (found[n])
      expect (small, n * 512, 512, 1);
  end ();
}

/* --- stale sets and torn ends ----------------------------------------- */

/* T3: the segment was used before, with the same sets at the same places. */
static void
sets_of_an_earlier_life_are_not_replayed (void **state)
{
  (void) state;
  begin (4, true);
  /* All segments go round once and more. */
  for (unsigned round = 1; round <= 12; round++) {
    for (unsigned i = 0; i < 230; i++) {
      put_block (i, round);
      if (i % 10 == 9)
        flush (small);
    }
    seal (small);
    write_back (small);
    while (evict_one (small))
      ;
  }
  put_block (500, 1);
  put_block (3, 77);
  flush (small);
  small_engine_kill (small);
  small_engine_open (small);
  assert_int_equal (counted (small, STAT_replayed_records), 2);
  for (unsigned i = 0; i < 230; i++)
    expect_block (i, i == 3 ? 77 : 12);
  expect_block (500, 1);
  end ();
}

/* T3: the end of the new log runs into a set of the old one that would fit. */
static void
a_log_does_not_go_on_into_its_past (void **state)
{
  (void) state;
  begin (4, true);
  put_block (1, 1);
  flush (small);
  put_block (2, 1);
  flush (small);
  put_block (3, 1);
  flush (small);
  seal (small);
  write_back (small);
  assert_true (evict_one (small));
  memset (small->disk->bytes, 0, DISK);
  /* The lists are first in, first out: come round to segment 0. */
  for (unsigned i = 0; i < 3; i++) {
    put_block (50 + i, 1);
    seal (small);
  }
  put_block (4, 9);
  flush (small);
  assert_int_equal (segment_of (small, 4 * BLOCK), 0);
  small_engine_kill (small);
  small_engine_open (small);
  expect_block (4, 9);
  for (unsigned i = 1; i < 4; i++)
    expect_block (i, 0);
  end ();
}

static void
the_torn_end_of_a_log_is_only_its_end (void **state)
{
  (void) state;
  begin (8, true);
  put_block (1, 1);
  flush (small);
  put_block (1, 2);
  put_block (2, 2);
  flush (small);
  small_engine_kill (small);
  tear_set (0, 1);
  small_engine_open (small);
  assert_int_equal (counted (small, STAT_damaged_segments), 0);
  expect_block (1, 1);
  expect_block (2, 0);
  /* Nothing is appended to what a crash may have torn. */
  put_block (5, 5);
  assert_int_not_equal (segment_of (small, 5 * BLOCK), 0);
  end ();
}

/* --- marks ------------------------------------------------------------ */

/* T21: two heads; the dirty record has the lower sequence number. */
static void
a_dirty_record_below_the_tail_is_kept (void **state)
{
  uint64_t sequence;

  (void) state;
  begin (8, true);
  put_block (1, 1);
  flush (small);
  sequence = log_sequence (small->engine.log);
  assert_int_equal (control_advance (&small->engine.superblock, sequence + 10,
                                     0), 0);
  small_engine_kill (small);
  small_engine_open (small);
  expect_block (1, 1);
  assert_int_equal (small->disk->reads, 0);
  write_back (small);
  expect_on_disk (small, BLOCK, BLOCK, 1);
  /* Now it is clean, and below the tail. */
  small_engine_restart (small);
  assert_false (is_cached (small, BLOCK, BLOCK));
  assert_int_equal (counted (small, STAT_replay_dropped_records), 1);
  expect_block (1, 1);
  end ();
}

static void
what_was_written_back_is_not_dirty_any_more (void **state)
{
  bool worked;

  (void) state;
  begin (8, true);
  put_block (1, 1);
  write_back (small);
  put_block (2, 1);
  flush (small);
  small_engine_kill (small);
  small_engine_open (small);
  assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue), BLOCK);
  small->disk->writes = 0;
  assert_int_equal (writeback_step (small->writeback, UINT64_MAX, &worked),
                    0);
  assert_int_equal (small->disk->writes, 1);
  expect_on_disk (small, 2 * BLOCK, BLOCK, 1);
  end ();
}

/* Numbers given out before are never given out again. */
static void
sequence_numbers_and_epochs_go_on (void **state)
{
  uint64_t sequence, epoch;

  (void) state;
  begin (8, true);
  put_block (1, 1);
  flush (small);
  write_back (small);
  sequence = log_sequence (small->engine.log);
  epoch = log_epoch (small->engine.log);
  small_engine_restart (small);
  while (evict_one (small))
    ;
  for (int i = 0; i < 3; i++) {
    small_engine_restart (small);
    assert_true (log_sequence (small->engine.log) >= sequence);
    assert_true (log_epoch (small->engine.log) > written_back_through ());
    assert_true (log_epoch (small->engine.log) >= epoch - 1);
  }
  end ();
}

static void
marks_that_make_no_sense_are_refused (void **state)
{
  (void) state;
  for (int field = 0; field < 2; field++) {
    begin (8, true);
    small_engine_kill (small);
    for (int copy = 0; copy < 2; copy++) {
      struct media_control *control = control_on (small->device, copy);

      if (field == 0)
        control->tail_sequence = le64_of (UINT64_MAX - 5);
      else
        control->written_back = le64_of (UINT64_MAX - 5);
      twin_seal (small->device, control, sizeof *control);
    }
    assert_int_equal (small_engine_try_open (small), -EUCLEAN);
    assert_true (reports_have (REPORT_ERROR, "control block|marks"));
    end ();
  }
}

/* --- damage ----------------------------------------------------------- */

/* Four sets in segment 0, in epochs of their own:
 *
 *   0: block 1 version 1     2: block 1 version 2
 *   1: block 2 version 1     3: block 3 version 1 */
static void
make_four_sets (bool sealed, bool written_back)
{
  begin (4, true);
  put_block (1, 1);
  flush (small);
  put_block (2, 1);
  flush (small);
  put_block (1, 2);
  flush (small);
  put_block (3, 1);
  flush (small);
  if (written_back)
    write_back (small);
  if (sealed)
    seal (small);
  small_engine_kill (small);
  assert_int_equal (sets_on (small->device, 0), 4);
  reports_collect ();
}

enum how { TORN, GONE, BAD_PAGE };

static void
damage_set (uint32_t ordinal, enum how how)
{
  const uint64_t at = set_at (small->device, 0, ordinal);

  switch (how) {
  case TORN:
    tear_set (0, ordinal);
    break;
  case GONE:
    memset (small->device->bytes + at, 0, 64);
    break;
  case BAD_PAGE:
    small->device->bad_at = at;
    small->device->bad_length = 1;
    break;
  }
}

/* T8, T23: what is hidden may be dirty, and is the newest. */
static void
damage_that_may_hide_dirty_data_is_refused (void **state)
{
  (void) state;
  for (int sealed = 0; sealed < 2; sealed++)
    for (enum how how = TORN; how <= BAD_PAGE; how++)
      for (uint32_t ordinal = 0; ordinal < 4; ordinal++) {
        struct memory_device *before;

        /* The last set of an open segment: nobody says that it was whole. */
        if (!sealed && ordinal == 3 && how != BAD_PAGE)
          continue;
        make_four_sets (sealed, false);
        damage_set (ordinal, how);
        before = memory_device_clone (small->device);
        assert_int_equal (small_engine_try_open (small), -EUCLEAN);
        assert_true (reports_have (REPORT_WARNING, "segment 0|damaged"));
        assert_true (reports_have (REPORT_ERROR, "segment 0|not opened|"
                                   "pcache-damaged=rescue"));
        /* And left alone. */
        assert_memory_equal (before->bytes, small->device->bytes,
                             before->size);
        memory_device_free (before);

        /* Rescue serves what is left. */
        small->engine.options.rescue = true;
        small_engine_open (small);
        if (ordinal != 1)
          expect_block (2, 1);
        if (ordinal != 3)
          expect_block (3, 1);
        if (ordinal != 2)
          expect_block (1, 2);
        write_back (small);
        end ();
      }
}

/* T23: clean data that may be older than what is hidden must go. */
static void
damage_that_hides_clean_data_drops_what_may_be_older (void **state)
{
  (void) state;
  for (int sealed = 0; sealed < 2; sealed++)
    for (enum how how = TORN; how <= BAD_PAGE; how++)
      for (uint32_t ordinal = 0; ordinal < 3; ordinal++) {
        make_four_sets (sealed, true);
        damage_set (ordinal, how);
        small_engine_open (small);
        assert_int_equal (counted (small, STAT_damaged_segments), 1);
        assert_true (reports_have (REPORT_WARNING,
                                   "segment 0|nothing is lost"));
        expect_block (1, 2);
        expect_block (2, 1);
        expect_block (3, 1);
        end ();
      }
}

/* T8: what is hidden was written back, what comes after it was not. */
static void
damage_in_clean_sets_does_not_cost_the_dirty_ones_behind (void **state)
{
  (void) state;
  for (int sealed = 0; sealed < 2; sealed++)
    for (uint32_t ordinal = 0; ordinal < 5; ordinal++) {
      begin (8, true);
      for (unsigned i = 0; i < 10; i++) {
        put_block (i, 1);
        flush (small);
        if (i == 5)
          write_back (small);
      }
      if (sealed)
        seal (small);
      small_engine_kill (small);
      tear_set (0, ordinal);
      /* The same every time. */
      for (int i = 0; i < 3; i++) {
        small_engine_open (small);
        assert_int_equal (epoch_queue_dirty_bytes (&small->engine.queue),
                          4 * BLOCK);
        small_engine_kill (small);
      }
      small_engine_open (small);
      for (unsigned i = 0; i < 10; i++)
        expect_block (i, 1);
      write_back (small);
      expect_on_disk (small, 0, 10 * BLOCK, 1);
      end ();
    }
}

/* All that is dirty in the segment was written back, whatever the epoch of the
 * set behind the gap: that one has only what was read. */
static void
what_was_read_later_does_not_make_damage_worse (void **state)
{
  uint8_t buf[BLOCK];

  (void) state;
  for (uint32_t ordinal = 0; ordinal < 2; ordinal++) {
    begin (4, true);
    put_block (1, 1);
    flush (small);
    put_block (2, 1);
    write_back (small);
    assert_int_equal (get (small, 5 * BLOCK, BLOCK, buf), 0);
    small_engine_restart (small);
    assert_int_equal (sets_on (small->device, 0), 3);
    small_engine_kill (small);
    tear_set (0, ordinal);
    small_engine_open (small);
    expect_block (1, 1);
    expect_block (2, 1);
    end ();
  }
}

/* T8: the first gap is harmless, the second is not. */
static void
every_gap_is_looked_at (void **state)
{
  (void) state;
  for (int sealed = 0; sealed < 2; sealed++)
    for (enum how how = TORN; how <= BAD_PAGE; how++)
      for (uint32_t second = 6; second < 10; second++) {
        begin (8, true);
        for (unsigned i = 0; i < 10; i++) {
          put_block (i, 1);
          flush (small);
          if (i == 5)
            write_back (small);
        }
        if (sealed)
          seal (small);
        small_engine_kill (small);
        if (!sealed && second == 9 && how != BAD_PAGE) {
          end ();
          continue;             /* the torn end of the log */
        }
        damage_set (second, how);
        tear_set (0, 2);
        assert_int_equal (small_engine_try_open (small), -EUCLEAN);
        end ();
      }
}

/* P4: what was lost is not served from the disk, as it was before, because
 * damage hides the record that says so; and if it hides another, what it makes too
 * old to trust is not served either. */
static void
damage_does_not_make_lost_data_look_clean (void **state)
{
  uint8_t buf[BLOCK];

  (void) state;
  for (uint32_t from_end = 0; from_end < 3; from_end++) {
    begin (8, true);
    put_block (7, 1);
    write_back (small);
    put_block (7, 2);
    flush (small);
    rot (small, 7 * BLOCK);
    write_back (small);         /* says that it is lost: a set of its own */
    put_block (1, 1);
    flush (small);
    put_block (2, 1);
    write_back (small);
    seal (small);
    small_engine_kill (small);
    tear_set (0, sets_on (small->device, 0) - 1 - from_end);
    assert_int_equal (small_engine_try_open (small), -EUCLEAN);
    assert_true (reports_have (REPORT_ERROR, "segment 0|which data was lost|"
                               "pcache-damaged=rescue"));
    small->engine.options.rescue = true;
    small_engine_open (small);
    if (from_end < 2)
      assert_int_equal (get (small, 7 * BLOCK, BLOCK, buf), -EIO);
    expect_block (1, 1);
    expect_block (2, 1);
    end ();
  }
}

/* A new cache; block 7 was lost in it and has been overwritten. */
static void
begin_with_lost_and_overwritten (void)
{
  begin (8, true);
  put_block (7, 2);
  flush (small);
  rot (small, 7 * BLOCK);
  write_back (small);
  put_block (7, 3);
}

/* Once nothing is lost any more, damage is judged as if nothing ever was. */
static void
what_was_lost_once_is_forgotten (void **state)
{
  (void) state;
  begin_with_lost_and_overwritten ();
  put_block (1, 1);
  write_back (small);
  assert_true (control_get (&small->engine.superblock).lost);
  for (int i = 0; i < 3; i++) {
    small_engine_restart (small);
    while (evict_one (small))
      ;
  }
  assert_false (control_get (&small->engine.superblock).lost);
  put_block (2, 1);
  flush (small);
  put_block (3, 1);
  write_back (small);
  small_engine_restart (small);
  small_engine_kill (small);
  for (uint32_t id = 0; id < 8; id++)
    if (sets_on (small->device, id) > 0)
      tear_set (id, 0);
  small_engine_open (small);
  expect_block (7, 3);
  expect_block (3, 1);
  end ();
}

/* T8: an unreadable last set of an open segment is not its end, even if
 * nothing dirty can be seen. */
static void
an_unreadable_set_is_not_the_end_of_the_log (void **state)
{
  (void) state;
  begin (8, true);
  put_block (1, 1);
  flush (small);
  write_back (small);
  put_block (1, 2);
  flush (small);
  small_engine_kill (small);
  small->device->bad_at = set_at (small->device, 0, 1);
  small->device->bad_length = 64;
  assert_int_equal (small_engine_try_open (small), -EUCLEAN);

  small->engine.options.rescue = true;
  small_engine_open (small);
  expect_block (1, 1);
  end ();
}

/* T23: what a rescue cannot find may be in the backing store, newer than what was
 * cached before it. */
static void
a_rescue_serves_nothing_clean_that_may_be_old (void **state)
{
  (void) state;
  begin (8, true);
  put_block (1, 1);
  flush (small);
  write_back (small);
  put_block (1, 2);
  flush (small);
  write_back (small);
  small_engine_kill (small);
  small->device->bad_at = set_at (small->device, 0, 1);
  small->device->bad_length = 64;
  assert_int_equal (small_engine_try_open (small), -EUCLEAN);

  small->engine.options.rescue = true;
  small_engine_open (small);
  expect_block (1, 2);
  end ();
}

/* Nor does it miss what was lost before something newer came. */
static void
a_rescue_misses_nothing_that_was_overwritten (void **state)
{
  (void) state;
  begin_with_lost_and_overwritten ();
  write_back (small);
  put_block (1, 1);
  flush (small);
  put_block (2, 1);
  flush (small);
  small_engine_kill (small);
  small->device->bad_at = set_at (small->device, 0,
                                  sets_on (small->device, 0) - 2);
  small->device->bad_length = 64;
  assert_int_equal (small_engine_try_open (small), -EUCLEAN);

  small->engine.options.rescue = true;
  small_engine_open (small);
  expect_block (7, 3);
  expect_block (2, 1);
  end ();
}

static void
a_sealed_header_that_contradicts_its_sets_is_damage (void **state)
{
  (void) state;
  make_four_sets (true, false);
  for (int copy = 0; copy < 2; copy++) {
    struct media_segment *header = segment_on (small->device, 0, copy);

    header->sequence_max = le64_of (le64_get (header->sequence_max) + 1);
    twin_seal (small->device, header, sizeof *header);
  }
  assert_int_equal (small_engine_try_open (small), -EUCLEAN);
  assert_true (reports_have (REPORT_WARNING, "contradicts"));
  end ();
}

/* T9, for one segment. */
static void
two_bad_segment_headers_are_refused_by_name (void **state)
{
  (void) state;
  make_four_sets (true, false);
  segment_on (small->device, 3, 0)->sets.raw ^= 1;
  small_engine_open (small);
  small_engine_kill (small);
  /* That open has made the first one good again. */
  segment_on (small->device, 3, 1)->sets.raw ^= 1;
  small_engine_open (small);
  small_engine_kill (small);
  segment_on (small->device, 3, 0)->sets.raw ^= 1;
  segment_on (small->device, 3, 1)->sets.raw ^= 1;
  assert_int_equal (small_engine_try_open (small), -EUCLEAN);
  assert_true (reports_have (REPORT_ERROR, "segment 3|copy A|copy B|"
                             "checksum wrong|pcache-damaged=rescue"));
  small->engine.options.rescue = true;
  small_engine_open (small);
  expect_block (1, 2);
  assert_int_equal (segment_counts (&small->engine.segments).free, 2);
  end ();
}

static void
all_damage_is_named_before_giving_up (void **state)
{
  (void) state;
  begin (8, true);
  for (unsigned i = 0; i < 3; i++) {
    put_block (i, 1);
    seal (small);
  }
  small_engine_kill (small);
  for (uint32_t i = 0; i < 3; i++)
    tear_set (i, 0);
  assert_int_equal (small_engine_try_open (small), -EUCLEAN);
  assert_true (reports_have (REPORT_ERROR, "segment 0"));
  assert_true (reports_have (REPORT_ERROR, "segment 1"));
  assert_true (reports_have (REPORT_ERROR, "segment 2"));
  end ();
}

/* T11: with the checksum made right, a set is taken or refused, and the
 * engine lives. */
static void
no_field_of_a_set_breaks_an_open (void **state)
{
  unsigned opened = 0, refused = 0, cases = 0;

  (void) state;
  make_four_sets (true, false);
  for (uint32_t offset = 0; offset < 128; offset += 4)
    for (unsigned i = 0; i < edge_value_count; i++) {
      if (!case_is_chosen (cases++, 2))
        continue;

      struct memory_device *image = memory_device_clone (small->device);
      struct small_engine *other = small_engine_beside (small, image);
      struct media_set *set = set_on (image, 0, 1);
      uint8_t buf[BLOCK];
      bool worked;

      memcpy ((uint8_t *) set - 64 + offset, &edge_values[i], 4);
      if (le32_get (set->records) < 1000)
        set_seal (image, set);
      other->engine.options.rescue = i / 2 % 2;
      if (small_engine_try_open (other) == 0) {
        opened++;
        for (uint64_t n = 0; n < 5; n++)
          (void) get (other, n * BLOCK, BLOCK, buf);
        (void) writeback_step (other->writeback, UINT64_MAX, &worked);
        put (other, 0, BLOCK, 3);
        flush (other);
        expect (other, 0, BLOCK, 3);
      }
      else
        refused++;
      small_engine_free (other);
    }
  assert_true (opened > scaled (100, 1) && refused > scaled (100, 1));
  end ();
}

/* T11, for the segment's header and the control block. */
static void
no_field_of_a_twin_breaks_an_open (void **state)
{
  unsigned opened = 0, cases = 0;

  (void) state;
  make_four_sets (true, true);
  for (int which = 0; which < 2; which++)
    for (uint32_t offset = 16; offset < 120; offset += 4)
      for (unsigned i = 0; i < edge_value_count; i++) {
        if (!case_is_chosen (cases++, 2))
          continue;

        struct memory_device *image = memory_device_clone (small->device);
        struct small_engine *other = small_engine_beside (small, image);

        for (int copy = 0; copy < 2; copy++) {
          uint8_t *at = which ? (uint8_t *) segment_on (image, 0, copy)
            : (uint8_t *) control_on (image, copy);

          if (offset == 24 || offset == 28)
            continue;           /* the copy's place: not valid at all then */
          memcpy (at + offset, &edge_values[i], offset % 8 ? 4 : 8);
          twin_seal (image, at, which ? sizeof (struct media_segment)
                     : sizeof (struct media_control));
        }
        other->engine.options.rescue = i / 2 % 2;
        if (small_engine_try_open (other) == 0) {
          opened++;
          put (other, 0, BLOCK, 3);
          flush (other);
          write_back (other);
          (void) evict_one (other);
          small_engine_kill (other);
          if (small_engine_try_open (other) == 0)
            expect (other, 0, BLOCK, 3);
        }
        small_engine_free (other);
      }
  assert_true (opened > scaled (100, 1));
  end ();
}

/* --- devices that do not order ---------------------------------------- */

/* A set of an epoch that nobody declared durable may be there without its
 * data.  Then it, and all behind it, never was. */
static void
a_set_without_its_data_is_the_end_of_the_log (void **state)
{
  (void) state;
  begin (8, false);
  put_block (1, 1);
  flush (small);
  put_block (2, 1);
  put_block (3, 1);
  flush (small);
  small_engine_kill (small);
  /* The sets are there, the page of block 3 is not. */
  small->device->bytes[segment_start (small->device, 0) + 2 * BLOCK] ^= 1;
  small_engine_open (small);
  expect_block (1, 1);
  expect_block (2, 0);
  expect_block (3, 0);
  end ();
}

/* P4: once declared durable, data that is not there is damage, and is told. */
static void
declared_data_that_is_gone_is_not_forgotten (void **state)
{
  uint8_t buf[BLOCK];

  (void) state;
  begin (8, false);
  put_block (1, 1);
  flush (small);
  put_block (2, 1);
  flush (small);
  put_block (3, 1);
  flush (small);
  small_engine_kill (small);
  small->device->bytes[segment_start (small->device, 0) + BLOCK] ^= 1;
  small_engine_open (small);
  expect_block (1, 1);
  assert_int_equal (get (small, 2 * BLOCK, BLOCK, buf), -EIO);
  expect_block (3, 1);
  end ();
}

/* The kernel wrote back a later set and not an earlier one: legal, unless
 * the earlier one had been synced. */
static void
a_gap_is_damage_only_if_it_was_synced (void **state)
{
  (void) state;
  for (int synced = 0; synced < 2; synced++) {
    begin (8, false);
    put_block (1, 1);
    flush (small);
    for (unsigned i = 0; i < SET_MAX_RECORDS; i++)
      put_block (2, i + 1);
    if (synced)
      flush (small);
    for (unsigned i = 0; i < 2 * SET_MAX_RECORDS; i++)
      put (small, 3 * BLOCK, 1, i + 1);
    if (synced)
      flush (small);
    small_engine_kill (small);
    assert_true (sets_on (small->device, 0) >= 3);
    tear_set (0, 1);
    if (synced)
      assert_int_equal (small_engine_try_open (small), -EUCLEAN);
    else {
      small_engine_open (small);
      expect_block (1, 1);
      expect_block (2, 0);
      expect_block (3, 0);
    }
    end ();
  }
}

/* --- headers that take no stores --------------------------------------- */

/* Neither copy of segment ID's header, nor what lies beside it. */
static void
refuse_header (uint32_t id)
{
  const uint64_t *table_at = small->engine.superblock.geometry.segment_table_at;

  small->device->refused =
    (struct range) { table_at[0] + id * MEDIA_SLOT, MEDIA_SLOT };
  small->device->refused_too =
    (struct range) { table_at[1] + id * MEDIA_SLOT, MEDIA_SLOT };
}

static void
accept_all (void)
{
  small->device->refused.length = small->device->refused_too.length = 0;
}

/* Its sets were just read: they are as good as before. */
static void
a_header_that_takes_no_stores_stops_no_open (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    uint32_t id;

    begin (6, ordered);
    put_block (1, 1);
    put_block (2, 1);
    flush (small);
    id = segment_of (small, BLOCK);
    small_engine_kill (small);
    refuse_header (id);
    for (int i = 0; i < 2; i++) {       /* each time the same */
      reports_collect ();
      small_engine_open (small);
      assert_int_equal (reports_count (REPORT_ERROR), 1);
      assert_true (reports_have (REPORT_ERROR, "segment|header cannot be "
                                 "written|served and written back"));
      expect_block (1, 1);
      expect_block (2, 1);
      if (i == 0)
        small_engine_kill (small);
    }

    /* It is written back, but its space is not used again. */
    put_block (2, 2);
    flush (small);
    write_back (small);
    expect_on_disk (small, BLOCK, BLOCK, 1);
    expect_on_disk (small, 2 * BLOCK, BLOCK, 2);
    for (unsigned i = 0; i < 2000; i++) {
      put_block (100 + i % 400, i + 1);
      assert_int_not_equal (segment_of (small, (100 + i % 400) * BLOCK), id);
      if (i % 100 == 99) {
        bool worked;

        seal (small);
        write_back (small);
        setting_put (&small->engine.settings, SETTING_gc_percent, 0);
        for (unsigned n = 0; n < 4; n++)
          gc_step (&small->engine, &worked);
      }
    }
    assert_true (counted (small, STAT_evicted_segments) > 3);

    /* The tail was moved over it; then its header failed.  What it says of
     * block 2 must not come back. */
    assert_true (control_get (&small->engine.superblock).tail_sequence > 3);
    expect_block (1, 1);
    expect_block (2, 2);
    flush (small);
    small_engine_kill (small);
    small_engine_open (small);
    expect_block (1, 1);
    expect_block (2, 2);
    for (unsigned i = 1600; i < 2000; i++)
      expect_block (100 + i % 400, i + 1);
    small_engine_kill (small);

    /* Well again: it is one like any other. */
    accept_all ();
    reports_collect ();
    small_engine_open (small);
    assert_int_equal (reports_count (REPORT_ERROR), 0);
    expect_block (1, 1);
    expect_block (2, 2);
    seal (small);
    write_back (small);
    while (evict_one (small))
      ;
    assert_int_equal (segment_snapshot (&small->engine.segments, id).state,
                      SEGMENT_FREE);
    expect_block (1, 1);
    expect_block (2, 2);
    end ();
  }
}

/* A crash between opening a segment and its first set. */
static void
an_empty_segment_whose_header_takes_no_stores_is_left_out (void **state)
{
  uint32_t id;

  (void) state;
  begin (5, true);
  put_block (1, 1);
  id = segment_of (small, BLOCK);
  small_engine_kill (small);            /* its set was in DRAM */
  refuse_header (id);
  small_engine_open (small);
  for (unsigned i = 0; i < 300; i++) {
    put_block (i, 2);
    assert_int_not_equal (segment_of (small, i * BLOCK), id);
  }
  flush (small);
  small_engine_kill (small);
  accept_all ();
  small_engine_open (small);
  for (unsigned i = 0; i < 300; i++)
    expect_block (i, 2);
  end ();
}

/* What never counted stays where it is, and would count when later epochs are
 * durable: then better not. */
static void
what_never_counted_needs_a_header_that_says_so (void **state)
{
  uint32_t id;

  (void) state;
  begin (6, false);
  put_block (1, 1);
  flush (small);
  put_block (1, 2);
  flush (small);
  id = segment_of (small, BLOCK);
  rot (small, BLOCK);                   /* as if the kernel had not written it */
  small_engine_kill (small);
  refuse_header (id);
  reports_collect ();
  assert_int_equal (small_engine_try_open (small), -EIO);
  assert_true (reports_have (REPORT_ERROR, "segment|header cannot be written|"
                             "would come back|cache not opened"));
  accept_all ();
  small_engine_open (small);
  expect_block (1, 1);
  end ();
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (what_was_flushed_is_found_again),
    cmocka_unit_test (segments_are_merged_by_sequence_number),
    cmocka_unit_test (many_segments_are_read_by_several_threads),
    cmocka_unit_test (opening_twice_changes_nothing),
    cmocka_unit_test (a_crash_while_opening_changes_nothing),
    cmocka_unit_test (what_a_kill_left_in_the_page_cache_is_synced_first),
    cmocka_unit_test (sets_of_an_earlier_life_are_not_replayed),
    cmocka_unit_test (a_log_does_not_go_on_into_its_past),
    cmocka_unit_test (the_torn_end_of_a_log_is_only_its_end),
    cmocka_unit_test (a_dirty_record_below_the_tail_is_kept),
    cmocka_unit_test (what_was_written_back_is_not_dirty_any_more),
    cmocka_unit_test (sequence_numbers_and_epochs_go_on),
    cmocka_unit_test (marks_that_make_no_sense_are_refused),
    cmocka_unit_test (damage_that_may_hide_dirty_data_is_refused),
    cmocka_unit_test (damage_that_hides_clean_data_drops_what_may_be_older),
    cmocka_unit_test (damage_in_clean_sets_does_not_cost_the_dirty_ones_behind),
    cmocka_unit_test (what_was_read_later_does_not_make_damage_worse),
    cmocka_unit_test (every_gap_is_looked_at),
    cmocka_unit_test (damage_does_not_make_lost_data_look_clean),
    cmocka_unit_test (what_was_lost_once_is_forgotten),
    cmocka_unit_test (an_unreadable_set_is_not_the_end_of_the_log),
    cmocka_unit_test (a_rescue_serves_nothing_clean_that_may_be_old),
    cmocka_unit_test (a_rescue_misses_nothing_that_was_overwritten),
    cmocka_unit_test (a_sealed_header_that_contradicts_its_sets_is_damage),
    cmocka_unit_test (two_bad_segment_headers_are_refused_by_name),
    cmocka_unit_test (all_damage_is_named_before_giving_up),
    cmocka_unit_test (no_field_of_a_set_breaks_an_open),
    cmocka_unit_test (no_field_of_a_twin_breaks_an_open),
    cmocka_unit_test (a_set_without_its_data_is_the_end_of_the_log),
    cmocka_unit_test (a_header_that_takes_no_stores_stops_no_open),
    cmocka_unit_test
      (an_empty_segment_whose_header_takes_no_stores_is_left_out),
    cmocka_unit_test (what_never_counted_needs_a_header_that_says_so),
    cmocka_unit_test (declared_data_that_is_gone_is_not_forgotten),
    cmocka_unit_test (a_gap_is_damage_only_if_it_was_synced),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

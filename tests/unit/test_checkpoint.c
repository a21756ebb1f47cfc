/* SPDX-License-Identifier: BSD-3-Clause */

/* A start from a checkpoint finds what a replay would have found; a checkpoint of
 * another log, or a damaged one, is not used; to be without one is no error. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "engine/checkpoint.h"
#include "engine/engine.h"
#include "support/media_tools.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"
#include "support/whole_cache.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define DISK (6 * MIB)
#define SEGMENTS 8

static uint8_t want[DISK];      /* what the disk reads as */
static uint8_t got[DISK];
static uint64_t version;

static int
set_up (void **state)
{
  (void) state;
  set_up_cache ((2 + SEGMENTS) * MIB, DISK);
  options.heads = 2;
  options.regions = 4;
  options.seed = 4711;
  version = 0;
  for (uint64_t i = 0; i < DISK; i++)
    want[i] = disk->bytes[i] = i / 512 + 1;
  return 0;
}

/* --- a small history -------------------------------------------------- */

static void
put_flags (uint64_t start, uint64_t length, bool fua)
{
  version++;
  for (uint64_t i = start; i < start + length; i++)
    want[i] = version * 31 + i / 64;
  assert_int_equal (cache_write (cache, want + start,
                                 (struct range) { start, length }, fua), 0);
}

static void
put (uint64_t start, uint64_t length)
{
  put_flags (start, length, false);
}

static void
zero (uint64_t start, uint64_t length)
{
  memset (want + start, 0, length);
  assert_int_equal (cache_zero (cache, (struct range) { start, length }, true,
                                false), 0);
}

static void
look (uint64_t start, uint64_t length)
{
  assert_int_equal (cache_read (cache, got, (struct range) { start, length }),
                    0);
  if (memcmp (got, want + start, length) != 0)
    fail_msg ("%" PRIu64 "+%" PRIu64 " is not what it was", start, length);
}

static void
expect_all (void)
{
  for (uint64_t at = 0; at < DISK; at += MIB)
    look (at, MIB);
}

static void
flush (void)
{
  assert_int_equal (cache_flush (cache), 0);
}

static void
stop (bool drain)
{
  assert_int_equal (cache_stop (cache, drain, 0), 0);
  close_cache ();
}

static bool
is_from_checkpoint (void)
{
  struct cache_status status;

  cache_get_status (cache, &status);
  assert_true (status.from_checkpoint == cache_engine (cache)->from_checkpoint);
  return status.from_checkpoint;
}

/* Clean data, in part overwritten; dirty data of two epochs; zeros; all in the
 * log of a clean stop, without anything open. */
static void
prepare (void)
{
  open_cache (false);
  put (0, 64 * KIB);
  put (MIB - 8 * KIB, 16 * KIB);
  zero (2 * MIB + 100, 2 * MIB);
  flush ();
  assert_int_equal (cache_drain (cache, 0), 0);
  look (5 * MIB, 20000);
  look (5 * MIB, 3000);
  put (4 * KIB, 4 * KIB);
  put (3 * MIB, 1000);
  flush ();
  put (5 * KIB, 700);
  zero (MIB, 4 * KIB);
  stop (false);
}

static void
prepare_and_open (void)
{
  prepare ();
  open_cache (false);
  assert_true (is_from_checkpoint ());
}

/* --- the same as a replay --------------------------------------------- */

static struct piece
piece_at (struct engine *engine, uint64_t at)
{
  const struct range rest = { at, INDEX_CHUNK - at % INDEX_CHUNK };
  struct index_cursor cursor;
  struct piece piece;

  index_lock (engine->index, rest);
  index_walk_locked (&cursor, engine->index, rest, false);
  assert_true (index_next_piece (&cursor, &piece));
  index_unlock (engine->index, rest);
  return piece;
}

static void
expect_same_index (struct engine *a, struct engine *b)
{
  uint64_t at = 0;

  while (at < DISK) {
    const struct piece x = piece_at (a, at), y = piece_at (b, at);

    if (x.is_hole != y.is_hole
        || (!y.is_hole
            && (x.extent.kind != y.extent.kind
                || extent_name (&x.extent) != extent_name (&y.extent)
                || x.extent.delta != y.extent.delta
                || x.extent.record_length != y.extent.record_length
                || x.extent.has_checksum != y.extent.has_checksum
                || x.extent.checksum != y.extent.checksum)))
      fail_msg ("%" PRIu64 " is mapped to %s %" PRIx64 ", and by a replay to %s "
                "%" PRIx64, at, x.is_hole ? "a hole" : "record",
                x.is_hole ? 0 : extent_name (&x.extent),
                y.is_hole ? "a hole" : "record",
                y.is_hole ? 0 : extent_name (&y.extent));
    at += MIN (x.range.length, y.range.length);
  }
  index_check (a->index);
}

static int
compare_entries (const void *a, const void *b)
{
  const struct set_entry *x = a, *y = b;

  if (x->epoch != y->epoch)
    return x->epoch < y->epoch ? -1 : 1;
  if (x->segment != y->segment)
    return x->segment < y->segment ? -1 : 1;
  return (x->ordinal > y->ordinal) - (x->ordinal < y->ordinal);
}

static void
expect_same_queue (struct engine *a, struct engine *b)
{
  struct set_entry *x, *y;
  uint64_t count, count_too;

  assert_int_equal (epoch_queue_list (&a->queue, UINT64_MAX, &x, &count), 0);
  assert_int_equal (epoch_queue_list (&b->queue, UINT64_MAX, &y, &count_too),
                    0);
  assert_int_equal (count, count_too);
  for (uint64_t i = 1; i < count; i++)
    assert_true (x[i - 1].epoch <= x[i].epoch);
  qsort (x, count, sizeof *x, compare_entries);
  qsort (y, count, sizeof *y, compare_entries);
  for (uint64_t i = 0; i < count; i++) {
    assert_int_equal (x[i].epoch, y[i].epoch);
    assert_int_equal (x[i].segment, y[i].segment);
    assert_int_equal (x[i].end, y[i].end);
    assert_int_equal (x[i].ordinal, y[i].ordinal);
    assert_int_equal (x[i].records, y[i].records);
    assert_int_equal (x[i].dirty_bytes, y[i].dirty_bytes);
    assert_int_equal (x[i].space_bytes, y[i].space_bytes);
    assert_int_equal (x[i].name_count, y[i].name_count);
    assert_memory_equal (x[i].names, y[i].names,
                         x[i].name_count * sizeof *x[i].names);
  }
  free (x);
  free (y);
}

static void
expect_same_segments (struct engine *a, struct engine *b)
{
  const struct segment *x = a->segments.sealed.first,
    *y = b->segments.sealed.first;

  for (; x && y; x = x->next, y = y->next)
    assert_int_equal (x->id, y->id);
  assert_true (x == NULL && y == NULL);
  assert_int_equal (segment_counts (&a->segments).free,
                    segment_counts (&b->segments).free);
}

/* The cache that is open is from a checkpoint: what would a replay have said? */
static void
compare_with_replay (struct memory_device *image)
{
  struct cache_options other = options;
  struct engine *a = cache_engine (cache), *b;
  struct cache *replayed;

  other.checkpoint = false;
  assert_int_equal (cache_open (&other, memory_pmem_open (image), &replayed),
                    0);
  b = cache_engine (replayed);
  assert_false (b->from_checkpoint);
  expect_same_index (a, b);
  expect_same_queue (a, b);
  expect_same_segments (a, b);
  assert_true (log_sequence (a->log) >= log_sequence (b->log));
  assert_true (log_epoch (a->log) >= log_epoch (b->log));
  cache_close (replayed);
}

static void
take_random_step (uint64_t *random)
{
  const uint64_t length = 1 + random_below (random, 90 * KIB);
  const uint64_t start = random_below (random, DISK - length);
  const uint64_t aligned = start / 4096 * 4096;

  switch (random_below (random, 12)) {
  case 0: case 1: case 2: put (start, length); break;
  case 3: case 4: put (aligned, 4 * KIB); break;
  case 5: put_flags (aligned, 4 * KIB, true); break;
  case 6: zero (start, length); break;
  case 7: {
    const uint64_t from = start / 2, rest = DISK - from;

    zero (from, 1 + random_below (random, rest)); break;
  }
  case 8: case 9: look (start, length); break;
  case 10: flush (); break;
  case 11: (void) cache_step (cache); break;
  }
}

static void
it_says_what_a_replay_would (void **state)
{
  uint64_t random = seed;
  unsigned used = 0;

  (void) state;
  printf ("# seed %" PRIu64 "\n", seed);
  options.setting[SETTING_gc_percent] = 40;
  open_cache (false);
  for (unsigned life = 0; life < 40; life++) {
    struct memory_device *image;

    for (unsigned i = random_below (&random, 25); i > 0; i--)
      take_random_step (&random);
    stop (random_below (&random, 3) == 0);
    image = memory_device_clone (device);
    open_cache (false);
    if (is_from_checkpoint ()) {
      used++;
      compare_with_replay (image);
    }
    memory_device_free (image);
    expect_all ();
    if (life % 8 == 7) {
      close_cache ();
      open_cache (false);
    }
  }
  assert_int_equal (cache_drain (cache, 0), 0);
  assert_memory_equal (disk->bytes, want, DISK);
  assert_true (used > 35);
}

static void
threads_leave_one_as_well (void **state)
{
  struct memory_device *image;

  (void) state;
  open_cache (true);
  for (unsigned i = 0; i < 200; i++)
    put (i * 7919 % (DISK - 9000), 9000);
  flush ();
  stop (false);
  image = memory_device_clone (device);
  open_cache (true);
  assert_true (is_from_checkpoint ());
  compare_with_replay (image);
  memory_device_free (image);
  expect_all ();
}

/* --- second chance ---------------------------------------------------- */

static void
what_was_hit_still_was (void **state)
{
  (void) state;
  prepare ();
  open_cache (false);
  assert_true (piece_at (cache_engine (cache), 5 * MIB).extent.hit);
  assert_false (piece_at (cache_engine (cache), 5 * MIB + 3000).extent.hit
                && piece_at (cache_engine (cache), 32 * KIB).extent.hit);
}

/* --- an unchanged cache ----------------------------------------------- */

static void
a_life_that_changes_nothing_writes_nothing (void **state)
{
  unsigned copies;

  (void) state;
  prepare_and_open ();
  look (0, 64 * KIB);
  flush ();
  copies = device->copies;
  stop (false);
  assert_int_equal (device->copies, copies);
  open_cache (false);
  assert_true (is_from_checkpoint ());
  expect_all ();
}

/* --- changes ---------------------------------------------------------- */

static void change_by_nothing (void) { look (0, 64 * KIB); flush (); }
static void change_by_write (void) { put (100, 100); }
static void change_by_flush (void) { put (100, 100); flush (); }
static void change_by_fua (void) { put_flags (100, 100, true); }
static void change_by_zero (void) { zero (0, 32 * KIB); flush (); }
static void change_by_fill (void) { look (4 * MIB + 200 * KIB, 4 * KIB); }

static void
change_by_write_back (void)
{
  assert_true (cache_step_writeback (cache));
}

static void
change_by_eviction (void)
{
  assert_int_equal (cache_set (cache, SETTING_gc_percent, 0), 0);
  assert_int_equal (cache_drain (cache, 0), 0);
  assert_true (cache_step_eviction (cache));
}

/* The mark first, and then the power goes. */
static void
change_by_half_an_eviction (void)
{
  struct engine *engine = cache_engine (cache);

  assert_int_equal (control_advance
                    (&engine->superblock,
                     engine->segments.sealed.first->sequence_max, 0), 0);
}

static void
change_by_setting (void)
{
  assert_int_equal (cache_set (cache, SETTING_gc_percent, 55), 0);
}

static void
change_by_invalidation (void)
{
  uint64_t dropped;

  disk->bytes[5 * MIB] = want[5 * MIB] = 99;
  assert_int_equal (cache_invalidate (cache, (struct range) { 5 * MIB, 4096 },
                                      &dropped), 0);
  assert_true (dropped > 0);
}

/* Written around it, and nothing in a segment changes. */
static void
change_by_leaving (void)
{
  assert_int_equal (cache_bypass (cache, NEVER), 0);
  put (0, 32 * KIB);
}

static void
change_by_growth (void)
{
  close_cache ();
  memory_device_resize (device, device->size + 2 * MIB);
  open_cache (false);
  assert_false (is_from_checkpoint ());
}

/* One that does not know of checkpoints writes zeros where one is named. */
static void
change_by_older_program (void)
{
  for (int copy = 0; copy < 2; copy++) {
    struct media_control *control = control_on (device, copy);

    memset (&control->checkpoint, 0, sizeof control->checkpoint);
    twin_seal (device, control, sizeof *control);
  }
}

/* It opens a segment, and does not touch the control block. */
static void
change_by_an_open_header (void)
{
  struct engine *engine = cache_engine (cache);
  struct segment *segment;

  assert_int_equal (segment_acquire (&engine->segments, 0, &segment), 0);
}

static const struct {
  const char *name;
  void (*change) (void);
  bool same;
} changes[] = {
  { "nothing", change_by_nothing, true },
  { "a write", change_by_write, false },
  { "a write and a flush", change_by_flush, false },
  { "a FUA write", change_by_fua, false },
  { "zeros", change_by_zero, false },
  { "a fill", change_by_fill, false },
  { "write-back", change_by_write_back, false },
  { "an eviction", change_by_eviction, false },
  { "half an eviction", change_by_half_an_eviction, false },
  { "a setting", change_by_setting, false },
  { "an invalidation", change_by_invalidation, false },
  { "leaving the cache", change_by_leaving, false },
  { "growth", change_by_growth, false },
  { "an older program", change_by_older_program, false },
  { "the header of a segment", change_by_an_open_header, false },
};

/* Whatever was changed, and then the process was killed. */
static void
after_any_change_it_is_not_used (void **state)
{
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
    const bool drained = changes[i].change == change_by_leaving;

    if (i > 0) {
      tear_down_cache (state);
      set_up (state);
    }
    prepare ();
    if (drained) {
      open_cache (false);
      stop (true);
    }
    open_cache (false);
    assert_true (is_from_checkpoint ());
    changes[i].change ();
    close_cache ();
    open_cache (false);
    if (is_from_checkpoint () != changes[i].same)
      fail_msg ("after %s the checkpoint is %sused", changes[i].name,
                changes[i].same ? "not " : "");
    /* And again, before anything was read: now no segment is open. */
    close_cache ();
    open_cache (false);
    if (is_from_checkpoint () != changes[i].same)
      fail_msg ("after %s and a start the checkpoint is %sused",
                changes[i].name, changes[i].same ? "not " : "");
    if (changes[i].change != change_by_write)
      expect_all ();            /* what was not flushed may be gone */
  }
}

/* --- holes that are only in memory ------------------------------------ */

/* Clean data that could not be read has left the index, but not the log.  What is
 * then written around the cache needs a record nevertheless, as a replay would
 * bring the old data back. */
static void
a_hole_that_no_replay_finds_stays_uncertain (void **state)
{
  const struct range range = { 0, 4 * KIB };
  struct extent extent;

  (void) state;
  open_cache (false);
  put (0, 4 * KIB);
  flush ();
  assert_int_equal (cache_drain (cache, 0), 0);
  extent = piece_at (cache_engine (cache), 0).extent;
  device->bad_at = extent.record_at;
  device->bad_length = 4 * KIB;
  assert_int_equal (cache_set (cache, SETTING_mode, MODE_WRITEONLY), 0);
  look (0, 4 * KIB);            /* and it is not cached again */
  assert_true (piece_at (cache_engine (cache), 0).is_hole);
  stop (true);

  device->bad_length = 0;
  options.setting[SETTING_mode] = MODE_WRITEAROUND;
  open_cache (false);
  assert_true (is_from_checkpoint ());
  assert_true (piece_at (cache_engine (cache), 0).is_hole);
  memset (want, 77, range.length);
  assert_int_equal (cache_write (cache, want, range, true), 0);
  close_cache ();

  options.checkpoint = false;
  open_cache (false);
  look (0, 4 * KIB);
}

/* --- what is older than the tail ---------------------------------------- */

/* Clean data that a replay ignores, as the tail is at the end of the log; but it is
 * cached. */
static void
prepare_below_tail (void)
{
  struct engine *engine;

  open_cache (false);
  engine = cache_engine (cache);
  put (0, 16 * KIB);
  flush ();
  assert_int_equal (cache_drain (cache, 0), 0);
  assert_int_equal (control_advance (&engine->superblock,
                                     log_sequence (engine->log), 0), 0);
  stop (false);
}

/* From the checkpoint: the tail is at the end and need not be moved, and is what
 * makes all of it void. */
static void
leave_the_cache_and_write (uint64_t at)
{
  open_cache (false);
  assert_true (is_from_checkpoint ());
  compare_with_replay (device);
  assert_int_equal (cache_bypass (cache, NEVER), 0);
  put (at, 4 * KIB);
  close_cache ();
  open_cache (false);
  expect_all ();
}

/* After a replay, which finds a hole there; no record is made of it. */
static void
replay_and_write_around (uint64_t at)
{
  options.checkpoint = false;
  options.setting[SETTING_mode] = MODE_WRITEAROUND;
  open_cache (false);
  assert_true (piece_at (cache_engine (cache), at).is_hole);
  put_flags (at, 4 * KIB, true);
  close_cache ();
  options.checkpoint = true;
  open_cache (false);
  look (at, 4 * KIB);
}

static void
leaving_the_cache_makes_void_what_is_below_the_tail (void **state)
{
  (void) state;
  prepare_below_tail ();
  leave_the_cache_and_write (0);
}

static void
a_write_around_what_is_below_the_tail_counts (void **state)
{
  (void) state;
  prepare_below_tail ();
  replay_and_write_around (0);
}

/* A zero that is cached although its segment is gone: when that was evicted, the set
 * could not be read.  Replay knows nothing of it. */
static void
prepare_zero_without_record (void)
{
  struct engine *engine;
  uint32_t id = 0;
  unsigned sealed;

  open_cache (false);
  zero (2 * MIB, 64 * KIB);
  flush ();
  assert_int_equal (cache_drain (cache, 0), 0);
  engine = cache_engine (cache);
  log_retire_heads (engine->log);
  assert_int_equal (log_seal_retired (engine->log, &sealed), 0);
  while (engine->segments.segments[id].state != SEGMENT_SEALED)
    id++;
  set_on (device, id, 0)->checksum = le64_of (0);
  assert_int_equal (cache_set (cache, SETTING_gc_percent, 0), 0);
  assert_true (cache_step_eviction (cache));
  assert_false (piece_at (engine, 2 * MIB).is_hole);
  stop (false);
}

static void
leaving_the_cache_makes_void_what_has_no_record (void **state)
{
  (void) state;
  prepare_zero_without_record ();
  leave_the_cache_and_write (2 * MIB);
}

static void
a_write_around_what_has_no_record_counts (void **state)
{
  (void) state;
  prepare_zero_without_record ();
  replay_and_write_around (2 * MIB);
}

/* What comes into it changes no header. */
static void
there_is_none_while_a_segment_is_open (void **state)
{
  (void) state;
  open_cache (false);
  put (0, 4 * KIB);
  flush ();
  assert_int_equal (checkpoint_write (cache_engine (cache)), -EINVAL);
  assert_true (reports_have (REPORT_DEBUG, "no checkpoint|is open"));
}

/* --- damage ----------------------------------------------------------- */

/* Where the first piece lies: at the start of the first free segment. */
static uint64_t
piece_place (void)
{
  for (uint32_t id = 0; id < SEGMENTS; id++)
    if (le32_get (segment_on (device, id, 0)->state) == SEGMENT_FREE)
      return segment_start (device, id);
  fail_msg ("no segment is free");
  return 0;
}

static void
a_damaged_one_is_not_used (void **state)
{
  uint64_t random = seed;
  struct media_piece *piece;
  uint64_t bytes;

  (void) state;
  prepare ();
  piece = (struct media_piece *) (device->bytes + piece_place ());
  assert_int_equal (le64_get (piece->magic), MAGIC_PIECE);
  bytes = sizeof *piece
    + le32_get (piece->entries) * sizeof (struct media_extent);
  for (uint64_t at = 0; at < bytes; at++) {
    const uint8_t flip = 1 << random_below (&random, 8);
    const unsigned copies = device->copies;

    ((uint8_t *) piece)[at] ^= flip;
    open_cache (false);
    if (is_from_checkpoint ())
      fail_msg ("byte %" PRIu64 " of a piece is not looked at", at);
    assert_true (reports_have (REPORT_DEBUG, "checkpoint is not used"));
    close_cache ();
    assert_int_equal (device->copies, copies);
    ((uint8_t *) piece)[at] ^= flip;
  }

  device->bad_at = piece_place ();
  device->bad_length = 64;
  open_cache (false);
  assert_false (is_from_checkpoint ());
  device->bad_length = 0;
  expect_all ();
}

static void
reseal (void)
{
  struct media_piece *piece =
    (struct media_piece *) (device->bytes + piece_place ());

  piece->checksum = le64_of (0);
  piece->checksum = le64_of (XXH3_64bits_withSeed
    (piece, sizeof *piece
     + le32_get (piece->entries) * sizeof (struct media_extent),
     le64_get (superblock_on (device, 0)->instance)));
  for (int copy = 0; copy < 2; copy++) {
    struct media_control *control = control_on (device, copy);

    control->checkpoint.checksum = piece->checksum;
    twin_seal (device, control, sizeof *control);
  }
}

/* T11.  What only says other places or times than it should, and makes sense, cannot
 * be told; it must be used without harm. */
static void
nonsense_with_right_checksums_is_not_used (void **state)
{
  static const struct {
    unsigned offset, bytes;
  } field[] = {
    { 0, 8 }, { 8, 8 }, { 16, 8 }, { 24, 4 }, { 28, 2 }, { 30, 2 },
  };
  unsigned used = 0, refused = 0, cases = 0;
  struct media_piece *piece;
  uint32_t entries;

  (void) state;
  prepare ();
  piece = (struct media_piece *) (device->bytes + piece_place ());
  entries = le32_get (piece->entries);
  for (uint32_t i = 0; i < entries; i++)
    for (unsigned f = 0; f < sizeof field / sizeof *field; f++) {
      uint64_t values[EDGE_VALUES_MAX], original = 0;
      const uint64_t at = piece_place () + sizeof *piece
        + i * sizeof (struct media_extent) + field[f].offset;
      unsigned count;

      memcpy (&original, device->bytes + at, field[f].bytes);
      count = edge_values_near (original, field[f].bytes, NULL, 0, values);
      for (unsigned v = 0; v < count; v++) {
        struct memory_device *whole = device;

        if (!case_is_chosen (cases++, 17))
          continue;

        device = memory_device_clone (whole);
        memcpy (device->bytes + at, &values[v], field[f].bytes);
        reseal ();
        open_cache (false);
        if (is_from_checkpoint ())
          used++;
        else
          refused++;
        index_check (cache_engine (cache)->index);
        for (uint64_t from = 0; from < DISK; from += MIB)
          (void) cache_read (cache, got, (struct range) { from, MIB });
        (void) cache_drain (cache, 0);
        close_cache ();
        memory_device_free (device);
        device = whole;
      }
    }
  printf ("# %u were used, %u refused\n", used, refused);
  /* Of a few that may be chance. */
  if (test_scale () >= 100)
    assert_true (refused > used);
}

/* --- many pieces -------------------------------------------------------- */

#define PIECES 40               /* more than one thread reads */
#define MANY (PIECES * (uint64_t) PIECE_MAX_ENTRIES - 1000)

static void
prepare_device (unsigned regions)
{
  tear_down_cache (NULL);
  set_up_cache ((2 + 16) * MIB, 2 * MANY * 64);
  options.heads = 2;
  options.regions = regions;
}

/* Short extents, in all regions. */
static void
prepare_many (unsigned regions)
{
  prepare_device (regions);
  open_cache (false);
  for (uint64_t i = 0; i < MANY; i++)
    assert_int_equal (cache_zero (cache, (struct range) { i * 64, 1 + i % 40 },
                                  false, false), 0);
  stop (false);
}

static struct media_piece *
piece_on (struct memory_device *from, uint32_t ordinal)
{
  uint32_t id = 0, in_each = MIB / PIECE_SLOT;

  for (;; id++)
    if (le32_get (segment_on (from, id, 0)->state) == SEGMENT_FREE) {
      if (ordinal < in_each)
        return (struct media_piece *) (from->bytes + segment_start (from, id)
                                       + ordinal * PIECE_SLOT);
      ordinal -= in_each;
    }
}

static void
expect_many (void)
{
  struct engine *engine = cache_engine (cache);

  for (uint64_t i = 0; i < MANY; i++) {
    const struct piece piece = piece_at (engine, i * 64);

    if (piece.is_hole || piece.extent.kind != EXTENT_ZERO
        || piece.range.length != 1 + i % 40)
      fail_msg ("extent %" PRIu64 " is not there", i);
  }
  assert_int_equal (index_check (engine->index), MANY);
}

static void
expect_none_of_many (const char *what, uint32_t ordinal)
{
  open_cache (false);
  if (is_from_checkpoint ())
    fail_msg ("it is used although piece %" PRIu32 " is %s", ordinal, what);
  close_cache ();
}

/* Where one worker ends and the next begins, wherever that is. */
static void
many_pieces_are_read_by_several_threads (void **state)
{
  static const unsigned regions[] = { 256, 4, 1 };

  (void) state;
  for (unsigned i = 0; i < sizeof regions / sizeof *regions; i++) {
    prepare_many (regions[i]);
    assert_int_equal (le32_get (piece_on (device, PIECES - 1)->ordinal),
                      PIECES - 1);
    open_cache (false);
    assert_true (is_from_checkpoint ());
    expect_many ();
    close_cache ();
  }
}

static void
each_of_many_pieces_is_looked_at (void **state)
{
  struct memory_device *other;
  uint8_t whole[PIECE_SLOT];
  uint64_t random = seed;

  (void) state;
  prepare_many (4);
  /* Another one, with as many entries. */
  other = memory_device_clone (device);
  open_cache (false);
  assert_int_equal (cache_zero (cache, (struct range) { 0, 1 }, false, false),
                    0);
  stop (false);
  for (uint32_t i = 0; i < PIECES; i++) {
    struct media_piece *piece = piece_on (device, i);

    if (!case_is_chosen (i, 3))
      continue;
    memcpy (whole, piece, PIECE_SLOT);
    ((uint8_t *) piece)[random_below (&random, 32768)] ^= 1;
    expect_none_of_many ("damaged", i);
    memcpy (piece, piece_on (other, i), PIECE_SLOT);
    expect_none_of_many ("that of another stop", i);
    memcpy (piece, whole, PIECE_SLOT);
  }
  memory_device_free (other);
  open_cache (false);
  assert_true (is_from_checkpoint ());
}

/* A region ends where a worker does, so nobody reads from one share into the
 * next: still both have to be of one stop. */
static void
all_pieces_are_of_one_stop (void **state)
{
  const uint32_t first = 13;    /* pieces of 40: a third, rounded down */
  uint64_t left[2] = {
    first * PIECE_MAX_ENTRIES - 1, (PIECES - first) * PIECE_MAX_ENTRIES - 500,
  };
  struct memory_device *other;

  (void) state;
  prepare_device (2);
  open_cache (false);
  for (uint64_t at = 0; left[0] + left[1] > 0; at += 64) {
    uint64_t *n = &left[index_region_of (cache_engine (cache)->index, at)];

    if (*n > 0 && (*n)--)
      assert_int_equal (cache_zero (cache, (struct range) { at, 1 }, false,
                                    false), 0);
  }
  stop (false);
  assert_int_equal (le32_get (((struct media_extent *)
                               (piece_on (device, first) + 1))->length), 0);
  other = memory_device_clone (device);
  open_cache (false);
  assert_int_equal (cache_zero (cache, (struct range) { 0, 1 }, false, false),
                    0);
  stop (false);
  for (uint32_t i = 0; i < PIECES; i++) {
    memcpy (piece_on (device, i), piece_on (other, i), PIECE_SLOT);
    if (!case_is_chosen (i, 1))
      continue;
    expect_none_of_many ("the last that is of another stop", i);
  }
  memory_device_free (other);
}

/* --- what a replay has to judge ------------------------------------------- */

/* What write-back needs is read from the log, and that has to be whole. */
static void
damage_to_dirty_data_is_for_a_replay_to_judge (void **state)
{
  uint32_t id = 0;

  (void) state;
  prepare ();
  while (le64_get (segment_on (device, id, 0)->epoch_max)
         <= le64_get (control_on (device, 0)->written_back))
    id++;
  set_on (device, id, 0)->checksum = le64_of (0);
  assert_int_equal (try_open (), -EUCLEAN);
  options.rescue = true;
  open_cache (false);
  assert_false (is_from_checkpoint ());
}

/* A segment without a header may hold anything. */
static void
a_header_that_is_gone_is_for_a_replay_to_judge (void **state)
{
  (void) state;
  prepare ();
  for (int copy = 0; copy < 2; copy++)
    segment_on (device, SEGMENTS - 1, copy)->id = le32_of (77);
  assert_int_equal (try_open (), -EUCLEAN);
}

static void
one_good_copy_of_what_names_it_is_enough (void **state)
{
  (void) state;
  prepare ();
  control_on (device, 0)->written_back = le64_of (0);
  for (uint32_t id = 0; id < SEGMENTS; id++)
    segment_on (device, id, id % 2)->id = le32_of (77);
  open_cache (false);
  assert_true (is_from_checkpoint ());
  expect_all ();
}

/* --- none ------------------------------------------------------------- */

static void
another_index_is_not_made_of_it (void **state)
{
  (void) state;
  prepare ();
  options.regions = 8;
  open_cache (false);
  assert_false (is_from_checkpoint ());
  expect_all ();
}

static void
it_is_not_for_a_rescue (void **state)
{
  (void) state;
  prepare ();
  options.rescue = true;
  open_cache (false);
  assert_false (is_from_checkpoint ());
  expect_all ();
  put (0, 100);
  stop (false);
  options.rescue = false;
  open_cache (false);
  assert_false (is_from_checkpoint ());
  expect_all ();
}

/* No segment is evicted for it. */
static void
without_room_there_is_none (void **state)
{
  (void) state;
  use_four_segments (true);
  options.heads = 1;
  options.setting[SETTING_gc_percent] = 90;
  open_cache (false);
  /* More extents than one free segment has room for. */
  for (uint64_t at = 0; at < 45000; at++)
    if (cache_zero (cache, (struct range) { at * 64, 1 }, false, false) < 0)
      break;
    else
      want[at * 64] = 0;
  stop (false);
  assert_true (reports_have (REPORT_DEBUG, "no checkpoint|No space"));
  open_cache (false);
  assert_false (is_from_checkpoint ());
  expect_all ();
}

/* Whatever store fails while it is made, the next start is right. */
static void
a_stop_that_is_cut_short_costs_nothing (void **state)
{
  unsigned from_checkpoint = 0, replayed = 0;

  (void) state;
  for (int store = 0;; store++) {
    bool failed;

    tear_down_cache (state);
    set_up (state);
    prepare_and_open ();
    put (10 * KIB, 20 * KIB);
    flush ();
    device->copies_left = store;
    (void) cache_stop (cache, false, 0);
    failed = device->copies_left < 0;
    device->copies_left = -1;
    close_cache ();
    open_cache (false);
    if (is_from_checkpoint ())
      from_checkpoint++;
    else
      replayed++;
    expect_all ();
    if (!failed)
      break;
  }
  assert_true (from_checkpoint > 0 && replayed > 0);
}

int
main (int argc, char *argv[])
{
#define TEST(t) cmocka_unit_test_setup_teardown (t, set_up, tear_down_cache)
  const struct CMUnitTest tests[] = {
    TEST (it_says_what_a_replay_would),
    TEST (threads_leave_one_as_well),
    TEST (what_was_hit_still_was),
    TEST (a_life_that_changes_nothing_writes_nothing),
    TEST (after_any_change_it_is_not_used),
    TEST (a_hole_that_no_replay_finds_stays_uncertain),
    TEST (leaving_the_cache_makes_void_what_is_below_the_tail),
    TEST (a_write_around_what_is_below_the_tail_counts),
    TEST (leaving_the_cache_makes_void_what_has_no_record),
    TEST (a_write_around_what_has_no_record_counts),
    TEST (there_is_none_while_a_segment_is_open),
    TEST (a_damaged_one_is_not_used),
    TEST (nonsense_with_right_checksums_is_not_used),
    TEST (many_pieces_are_read_by_several_threads),
    TEST (each_of_many_pieces_is_looked_at),
    TEST (all_pieces_are_of_one_stop),
    TEST (damage_to_dirty_data_is_for_a_replay_to_judge),
    TEST (a_header_that_is_gone_is_for_a_replay_to_judge),
    TEST (one_good_copy_of_what_names_it_is_enough),
    TEST (another_index_is_not_made_of_it),
    TEST (it_is_not_for_a_rescue),
    TEST (without_room_there_is_none),
    TEST (a_stop_that_is_cut_short_costs_nothing),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

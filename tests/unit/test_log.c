/* SPDX-License-Identifier: BSD-3-Clause */

/* The log: what was appended is there when a flush has returned, in order,
 * and never says more than is durable. */

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

#include "engine/log.h"
#include "support/media_tools.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define MIB (UINT64_C (1) << 20)
#define DISK_SIZE (1024 * MIB)

struct fixture {
  struct memory_device *device;
  struct pmem *pmem;
  struct superblock sb;
  struct segment_table segments;
  struct epoch_queue queue;
  struct stats *stats;
  struct log *log;
  struct log_reader reader;
};

static struct fixture f;

static void
start (uint32_t segments, bool ordered, unsigned heads, bool data_crc)
{
  static const uint8_t uuid[16];
  struct geometry geometry;
  struct log_options options;

  reports_collect ();
  f.device = memory_device_new ((segments + 2) * MIB, ordered);
  f.pmem = memory_pmem_open (f.device);
  f.stats = stats_new ();
  assert_int_equal (geometry_make (&geometry, f.device->size, MIB), 0);
  assert_int_equal (geometry.segment_count, segments);
  assert_int_equal (superblock_format (&f.sb, f.pmem, &geometry, uuid, 9,
                                       segment_table_format), 0);
  assert_int_equal (superblock_bind (&f.sb, DISK_SIZE, "", NULL), 0);
  assert_int_equal (segment_table_open (&f.segments, &f.sb, f.pmem, f.stats),
                    0);
  for (uint32_t id = 0; id < segments; id++)
    segment_adopt (&f.segments, &f.segments.segments[id]);
  epoch_queue_init (&f.queue);
  f.reader = (struct log_reader) { .pmem = f.pmem, .superblock = &f.sb };
  options = (struct log_options) {
    .pmem = f.pmem, .superblock = &f.sb, .segments = &f.segments,
    .queue = &f.queue, .stats = f.stats, .heads = heads,
    .data_crc = data_crc, .sequence = 1000, .epoch = 50,
  };
  assert_int_equal (log_new (&options, &f.log), 0);
}

static void
finish (void)
{
  log_free (f.log);
  epoch_queue_destroy (&f.queue);
  segment_table_close (&f.segments);
  superblock_destroy (&f.sb);
  stats_free (f.stats);
  pmem_close (f.pmem);
  memory_device_free (f.device);
}

static struct record
zero_record (uint64_t start, bool clean)
{
  return (struct record) {
    .range = { start, 1 }, .kind = RECORD_ZERO, .clean = clean,
  };
}

static int
try_append (uint64_t start, bool clean)
{
  struct reservation res;
  struct record record = zero_record (start, clean);
  int r;

  r = log_reserve (f.log, LOG_WRITE, 0, 1, &res);
  if (r < 0)
    return r;
  r = log_append_locked (f.log, &res, &record, 1);
  log_release (f.log, &res);
  return r;
}

static void
append (uint64_t start)
{
  assert_int_equal (try_append (start, false), 0);
}

static void
append_fua (uint64_t start)
{
  struct reservation res;
  struct record record = zero_record (start, false);

  assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, 1, &res), 0);
  assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
  assert_int_equal (log_commit (f.log, &res), 0);
  log_release (f.log, &res);
}

static void
flush (void)
{
  assert_int_equal (log_flush (f.log), 0);
}

/* How many records lie on media in all, and where record START is. */
struct found {
  unsigned records, sets;
  bool is_there;
  uint64_t epoch, sequence;
};

static struct found
find (uint64_t start)
{
  struct found found = { 0 };
  struct set *set = malloc (sizeof *set);

  for (uint32_t id = 0; id < f.sb.geometry.segment_count; id++) {
    const struct segment segment = segment_snapshot (&f.segments, id);
    struct log_walk walk;

    log_walk_start (&walk, &f.reader, &segment);
    while (log_walk_next (&walk, set) == SET_OK) {
      found.sets++;
      for (uint32_t i = 0; i < set->count; i++) {
        found.records++;
        if (set->record[i].range.start == start) {
          found.is_there = true;
          found.epoch = set->epoch;
          found.sequence = set->record[i].sequence;
        }
      }
    }
  }
  free (set);
  return found;
}

static void
what_was_appended_is_on_media_after_a_flush (void **state)
{
  (void) state;
  start (8, true, 2, true);
  for (uint64_t i = 0; i < 300; i++)
    append (i);
  assert_true (find (0).records < 300);
  flush ();
  assert_int_equal (find (0).records, 300);
  for (uint64_t i = 0; i < 300; i++) {
    assert_true (find (i).is_there);
    assert_int_equal (find (i).sequence, 1001 + i);
  }
  finish ();
}

static void
a_set_has_records_of_one_epoch_and_at_most_128 (void **state)
{
  (void) state;
  start (8, true, 1, true);
  append (1);
  append (2);
  flush ();
  append (3);
  assert_int_equal (find (3).sets, 1);
  flush ();
  assert_int_equal (find (0).sets, 2);
  assert_int_equal (find (1).epoch, 50);
  assert_int_equal (find (2).epoch, 50);
  assert_int_equal (find (3).epoch, 51);

  for (uint64_t i = 0; i < SET_MAX_RECORDS; i++)
    append (10 + i);
  assert_int_equal (find (0).sets, 2);
  append (500);
  assert_int_equal (find (0).sets, 3);
  assert_false (find (500).is_there);
  finish ();
}

/* A writer that finds an older open set closes it first. */
static void
a_new_epoch_does_not_join_an_older_set (void **state)
{
  (void) state;
  start (16, true, 2, true);
  append (1);                   /* in one head */
  append_fua (2);               /* in the other: the epoch ends */
  assert_false (find (1).is_there);
  append (3);                   /* in the first again */
  assert_true (find (1).is_there);
  flush ();
  assert_int_equal (find (1).epoch, 50);
  assert_int_equal (find (2).epoch, 50);
  assert_int_equal (find (3).epoch, 51);
  finish ();
}

/* T20 */
static void
fua_is_on_media_when_it_returns_and_ends_the_epoch (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    start (8, ordered, 1, true);
    append (1);
    append_fua (2);
    assert_true (find (2).is_there);
    append (3);
    flush ();
    assert_true (find (3).epoch > find (2).epoch);
    finish ();
  }
}

/* T24: what write-back may take. */
static void
only_a_flush_that_worked_closes_epochs (void **state)
{
  (void) state;
  start (16, true, 2, true);
  append (1);
  append_fua (2);
  assert_int_equal (log_closed_through (f.log), 49);
  append (3);
  f.device->copies_left = 0;
  assert_int_equal (log_flush (f.log), -EIO);
  assert_int_equal (log_closed_through (f.log), 49);
  flush ();
  assert_true (log_closed_through (f.log) >= find (3).epoch);
  assert_true (find (1).is_there && find (3).is_there);
  finish ();

  start (8, false, 1, true);
  append (1);
  f.device->sync_error = -EIO;
  assert_int_equal (log_flush (f.log), -EIO);
  assert_int_equal (log_closed_through (f.log), 49);
  f.device->sync_error = 0;
  flush ();
  assert_int_equal (log_closed_through (f.log), log_epoch (f.log) - 1);
  finish ();
}

/* T6, at this level: nothing has happened. */
static void
an_append_that_fails_changes_nothing (void **state)
{
  uint64_t sequence, dirty;
  struct found found;

  (void) state;
  start (8, true, 1, true);
  for (uint64_t i = 0; i < SET_MAX_RECORDS; i++)
    append (i);
  sequence = log_sequence (f.log);
  dirty = log_dirty_bytes (f.log);
  f.device->copies_left = 0;
  assert_int_equal (try_append (500, false), -EIO);
  assert_int_equal (log_sequence (f.log), sequence);
  assert_int_equal (log_dirty_bytes (f.log), dirty);
  append (501);
  flush ();
  found = find (501);
  assert_int_equal (found.records, SET_MAX_RECORDS + 1);
  assert_int_equal (found.sequence, sequence + 1);
  assert_false (find (500).is_there);
  finish ();
}

/* What a flush could not write, the next one writes. */
static void
a_flush_that_failed_is_made_up_for (void **state)
{
  (void) state;
  start (16, true, 2, true);
  for (uint64_t i = 0; i < 10; i++)
    append (i);
  f.device->copy_error = -EIO;
  assert_int_equal (log_flush (f.log), -EIO);
  assert_int_equal (log_flush (f.log), -EIO);
  f.device->copy_error = 0;
  flush ();
  assert_int_equal (find (0).records, 10);
  finish ();
}

static void
dirty_sets_are_in_the_queue_and_clean_ones_are_not (void **state)
{
  uint64_t epoch, since;

  (void) state;
  start (8, true, 1, true);
  assert_int_equal (try_append (1, true), 0);
  flush ();
  assert_false (epoch_queue_first (&f.queue, &epoch, &since));
  assert_int_equal (log_dirty_bytes (f.log), 0);
  append (2);
  assert_int_equal (log_dirty_bytes (f.log), 1);
  assert_true (log_oldest_open (f.log, &since));
  assert_false (epoch_queue_first (&f.queue, &epoch, &since));
  assert_int_equal (try_append (3, true), 0);
  flush ();
  assert_int_equal (log_dirty_bytes (f.log), 0);
  assert_false (log_oldest_open (f.log, &since));
  assert_true (epoch_queue_first (&f.queue, &epoch, &since));
  assert_int_equal (epoch, 51);
  assert_int_equal (epoch_queue_dirty_bytes (&f.queue), 1);
  finish ();
}

/* --- what sets declare ------------------------------------------------ */

static void
a_flush_of_nothing_costs_nothing (void **state)
{
  unsigned syncs;
  uint64_t epoch;

  (void) state;
  start (8, false, 1, true);
  append (1);
  flush ();
  syncs = f.device->syncs;
  epoch = log_epoch (f.log);
  flush ();
  flush ();
  assert_int_equal (f.device->syncs, syncs);
  assert_int_equal (log_epoch (f.log), epoch);
  append (2);
  flush ();
  assert_int_equal (f.device->syncs, syncs + 1);
  finish ();
}

struct order {
  uint64_t first_segment_at;
  bool synced_since_data, set_without_sync;
};

static void
watch_order (struct memory_device *d, enum memory_event event, uint64_t at,
             size_t length, void *opaque)
{
  struct order *order = opaque;

  if (event == MEMORY_SYNCED)
    order->synced_since_data = true;
  if (event != MEMORY_BEFORE_COPY || at < order->first_segment_at)
    return;
  /* Only sets reach up to the end of the segment. */
  if ((at + length - order->first_segment_at) % MIB == 0
      && !order->synced_since_data)
    order->set_without_sync = true;
  (void) d;
}

/* Without checksums nothing tells whether a set's data came with it. */
static void
without_checksums_data_is_synced_before_its_set (void **state)
{
  (void) state;
  for (int data_crc = 0; data_crc < 2; data_crc++) {
    struct order order = { 0 };

    start (8, false, 1, data_crc);
    order.first_segment_at = f.sb.geometry.first_segment_at;
    f.device->hook = watch_order;
    f.device->opaque = &order;
    append (1);
    order.synced_since_data = false;
    flush ();
    assert_int_equal (order.set_without_sync, data_crc);
    f.device->hook = NULL;
    finish ();
  }
}

/* Nothing is declared durable that no sync has covered: recovery takes what
 * is missing of it for damage. */
static void
sets_declare_only_what_was_synced (void **state)
{
  const struct media_set *set;

  (void) state;
  start (8, false, 1, true);
  append (1);
  flush ();
  set = set_on (f.device, 0, 0);
  assert_int_equal (le32_get (set->durable_sets), 0);
  assert_int_equal (le64_get (set->durable_through), 49);

  /* A set that only became full. */
  for (uint64_t i = 0; i <= SET_MAX_RECORDS; i++)
    append (i);
  set = set_on (f.device, 0, 1);
  assert_int_equal (le32_get (set->durable_sets), 1);
  assert_int_equal (le64_get (set->durable_through), 50);
  for (uint64_t i = 0; i < SET_MAX_RECORDS; i++)
    append (i);
  set = set_on (f.device, 0, 2);
  assert_int_equal (le32_get (set->durable_sets), 1);
  assert_int_equal (le64_get (set->durable_through), 50);

  f.device->sync_error = -EIO;
  assert_int_equal (log_flush (f.log), -EIO);
  f.device->sync_error = 0;
  for (uint64_t i = 0; i <= SET_MAX_RECORDS; i++)
    append (i);
  set = set_on (f.device, 0, 4);
  assert_int_equal (le32_get (set->durable_sets), 1);
  assert_int_equal (le64_get (set->durable_through), 50);
  flush ();
  append (1);
  flush ();
  set = set_on (f.device, 0, 6);
  assert_int_equal (le32_get (set->durable_sets), 6);
  assert_true (le64_get (set->durable_through) + 1 == le64_get (set->epoch));
  finish ();

  /* On an ordered device each set was fenced before the next. */
  start (8, true, 1, true);
  for (uint64_t i = 0; i <= 3 * SET_MAX_RECORDS; i++)
    append (i);
  assert_int_equal (le32_get (set_on (f.device, 0, 2)->durable_sets), 2);
  assert_int_equal (le64_get (set_on (f.device, 0, 2)->durable_through), 49);
  finish ();
}

/* --- segments --------------------------------------------------------- */

static void
a_sealed_header_tells_what_is_in_its_segment (void **state)
{
  struct segment segment;
  unsigned count;

  (void) state;
  start (8, true, 1, true);
  append (1);
  flush ();
  append (2);
  flush ();
  assert_int_equal (try_append (3, true), 0);
  log_retire_heads (f.log);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 1);
  segment = segment_snapshot (&f.segments, 0);
  assert_int_equal (segment.state, SEGMENT_SEALED);
  assert_int_equal (segment.sets, 3);
  assert_int_equal (segment.epoch_max, 51);     /* of dirty ones */
  assert_int_equal (segment.sequence_min, 1001);
  assert_int_equal (segment.sequence_max, 1003);

  /* One with nothing in it stays where it is. */
  log_retire_heads (f.log);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 0);
  finish ();
}

static void
a_segment_is_synced_before_it_is_called_sealed (void **state)
{
  unsigned count;

  (void) state;
  start (8, false, 1, true);
  append (1);
  log_retire_heads (f.log);
  f.device->sync_error = -EIO;
  assert_int_equal (log_seal_retired (f.log, &count), -EIO);
  f.device->sync_error = 0;
  assert_int_equal (le32_get (segment_on (f.device, 0, 0)->state),
                    SEGMENT_OPEN);
  assert_int_equal (le32_get (segment_on (f.device, 0, 1)->state),
                    SEGMENT_OPEN);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 1);
  finish ();
}

/* Its data is still being copied, and its records are to come. */
static void
a_segment_with_a_writer_in_it_is_not_sealed (void **state)
{
  struct reservation res;
  struct record record = zero_record (7, false);
  unsigned count;

  (void) state;
  start (8, true, 1, true);
  assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, 1, &res), 0);
  log_retire_heads (f.log);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 0);
  assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
  log_release (f.log, &res);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 1);
  assert_true (find (7).is_there);
  finish ();
}

/* A header on a bad page must not keep the other segments from being
 * sealed, or nothing would ever be evicted again. */
static void
a_segment_that_cannot_be_sealed_does_not_stop_the_others (void **state)
{
  unsigned count;

  (void) state;
  start (24, true, 3, true);
  append (1);
  append (2);
  append (3);
  flush ();
  log_retire_heads (f.log);
  f.device->refused = (struct range) {
    f.sb.geometry.segment_table_at[0], MEDIA_SLOT,
  };
  f.device->refused_too = (struct range) {
    f.sb.geometry.segment_table_at[1], MEDIA_SLOT,
  };
  assert_int_equal (log_seal_retired (f.log, &count), -EIO);
  assert_int_equal (count, 2);
  assert_int_equal (segment_counts (&f.segments).sealed, 2);
  assert_int_equal (segment_snapshot (&f.segments, 0).state, SEGMENT_OPEN);
  assert_true (find (1).is_there);

  /* When the page is well again, so is the segment. */
  f.device->refused.length = f.device->refused_too.length = 0;
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 1);
  assert_true (find (1).is_there);
  finish ();
}

static uint64_t
random_length (uint64_t *random)
{
  return random_below (random, 4) == 0 ? random_below (random, 262144) + 1
    : random_below (random, 5000) + 1;
}

/* Data and sets meet in the middle, and never overlap: every record in a
 * set of its own is the worst case. */
static void
data_never_reaches_into_sets (void **state)
{
  uint64_t random = seed;

  (void) state;
  for (int mode = 0; mode < 3; mode++) {
    const uint64_t kept = (uint64_t) mode;
    unsigned reserved = 0;

    start (6, true, 1, true);
    for (;;) {
      const uint64_t length = kept == 2 ? 1 : random_length (&random);
      struct record records[LOG_MAX_RESERVE_RECORDS];
      struct reservation res;
      uint32_t bytes = 0;
      unsigned count = 0;
      int r;

      for (uint64_t at = 0; at < length; at += RECORD_MAX_DATA) {
        const uint64_t part = MIN (length - at, (uint64_t) RECORD_MAX_DATA);

        records[count++] = (struct record) {
          .range = { at, part }, .kind = RECORD_DATA, .at = bytes,
        };
        bytes += DATA_BYTES (part);
      }
      r = log_reserve (f.log, LOG_WRITE, bytes, count, &res);
      if (r == -EAGAIN)
        break;
      assert_int_equal (r, 0);
      for (unsigned i = 0; i < count; i++) {
        uint8_t *data = malloc (records[i].range.length);

        memset (data, reserved + 1, records[i].range.length);
        records[i].at += res.at;
        assert_int_equal (pmem_copy (f.pmem, records[i].at, data,
                                     records[i].range.length), 0);
        free (data);
        if (kept != 1) {
          /* One by one, each durable before the next. */
          assert_int_equal (log_append_locked (f.log, &res, &records[i], 1),
                            0);
          flush ();
        }
      }
      if (kept == 1)
        assert_int_equal (log_append_locked (f.log, &res, records, count), 0);
      log_release (f.log, &res);
      reserved += count;
    }
    flush ();
    assert_int_equal (find (0).records, reserved);
    assert_true (reserved > 50);
    finish ();
  }
}

/* The last bit of room: four records, each in a set of its own. */
static void
the_last_room_is_counted_for_the_worst_case (void **state)
{
  static uint8_t data[256];

  (void) state;
  memset (data, 0x77, sizeof data);
  for (uint32_t slack = 0; slack <= 2048; slack += 64) {
    struct reservation res;
    uint32_t left = MIB - slack;

    start (4, true, 1, true);
    while (left > 0) {
      const uint32_t bytes = MIN (left, LOG_MAX_RESERVE);

      assert_int_equal (log_reserve (f.log, LOG_WRITE, bytes, 1, &res), 0);
      if (slack < SET_BYTES (1) && res.at >= segment_start (f.device, 1))
        left = bytes;           /* no room for a record: another segment */
      log_release (f.log, &res);
      left -= bytes;
    }
    assert_int_equal (log_reserve (f.log, LOG_WRITE, sizeof data, 4, &res),
                      0);
    assert_int_equal (pmem_copy (f.pmem, res.at, data, sizeof data), 0);
    for (unsigned i = 0; i < 4; i++) {
      struct record record = {
        .range = { i * 64, 64 }, .kind = RECORD_DATA, .at = res.at + i * 64,
      };

      assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
      flush ();
    }
    log_release (f.log, &res);
    assert_memory_equal (f.device->bytes + res.at, data, sizeof data);
    assert_int_equal (find (0).records, 4);
    finish ();
  }
}

/* T13: a head that finds nothing free gives up what it has, so that this
 * can be sealed, written back and evicted. */
static void
a_full_log_lets_go_of_its_segment (void **state)
{
  unsigned count;
  int r;

  (void) state;
  start (4, true, 1, true);
  do {
    struct reservation res;

    r = log_reserve (f.log, LOG_WRITE, LOG_MAX_RESERVE, 4, &res);
    if (r == 0)
      log_release (f.log, &res);
  } while (r == 0);
  assert_int_equal (r, -EAGAIN);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 3);
  assert_int_equal (segment_counts (&f.segments).open, 0);
  finish ();
}

static uint32_t
segment_of (const struct reservation *res)
{
  return (res->at - segment_start (f.device, 0)) / MIB;
}

/* Where nothing else finds room it can still be said that a range is lost, as
 * often as a segment takes it, and no write takes that room. */
static void
what_is_lost_finds_room_in_a_full_log (void **state)
{
  unsigned said = 0, count;

  (void) state;
  for (unsigned heads = 1; heads <= 3; heads += 2) {
    struct reservation res;

    start (heads == 1 ? 4 : 24, true, heads, true);
    /* As long as there is room it takes none of its own. */
    append (1);
    assert_int_equal (log_reserve (f.log, LOG_LOST, 0, 1, &res), 0);
    assert_int_equal (segment_of (&res), 0);
    log_release (f.log, &res);

    for (uint32_t bytes = LOG_MAX_RESERVE; bytes > 0; bytes /= 2)
      while (log_reserve (f.log, LOG_WRITE, round_up (bytes, 64), 1, &res)
             == 0)
        log_release (f.log, &res);
    assert_int_equal (segment_counts (&f.segments).free, 1);
    for (said = 0; log_reserve (f.log, LOG_LOST, 0, 1, &res) == 0; said++) {
      struct record record = {
        .range = { said * 64, 64 }, .kind = RECORD_LOST, .clean = true,
      };

      assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
      log_release (f.log, &res);
      if (said % 1000 == 0) {
        assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, 1, &res),
                          -EAGAIN);
        assert_int_equal (log_reserve (f.log, LOG_OPTIONAL, 0, 1, &res),
                          -EAGAIN);
      }
    }
    assert_true (said > MIB / SET_BYTES (1));
    flush ();
    assert_int_equal (find (0).records, said + 1);

    /* Its segment can be sealed, and evicted, as any other. */
    assert_int_equal (log_seal_retired (f.log, &count), 0);
    assert_int_equal (count, heads == 1 ? 4 : 24);
    assert_int_equal (segment_counts (&f.segments).open, 0);
    finish ();
  }
}

/* A fill never takes the last room from a write. */
static void
what_is_optional_leaves_room_for_writes (void **state)
{
  struct reservation res;
  int r;

  (void) state;
  start (8, true, 1, true);
  assert_int_equal (log_kept_for_writes (f.log), 2);
  while ((r = log_reserve (f.log, LOG_OPTIONAL, LOG_MAX_RESERVE, 4, &res))
         == 0)
    log_release (f.log, &res);
  assert_int_equal (r, -EAGAIN);
  assert_int_equal (segment_counts (&f.segments).free, 2);
  assert_int_equal (log_reserve (f.log, LOG_WRITE, LOG_MAX_RESERVE, 4, &res),
                    0);
  log_release (f.log, &res);
  finish ();
}

static void
a_record_in_an_open_set_can_be_looked_up (void **state)
{
  struct reservation res;
  struct record record = {
    .range = { 0, 64 }, .kind = RECORD_DATA, .clean = true,
  };
  bool clean = false;

  (void) state;
  start (8, true, 1, true);
  assert_int_equal (log_reserve (f.log, LOG_WRITE, 64, 1, &res), 0);
  record.at = res.at;
  assert_false (log_find_open (f.log, record.at, &clean));
  assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
  log_release (f.log, &res);
  assert_true (log_find_open (f.log, record.at, &clean));
  assert_true (clean);
  assert_false (log_find_open (f.log, record.at + 64, &clean));
  flush ();
  assert_false (log_find_open (f.log, record.at, &clean));
  finish ();
}

/* --- places that refuse ----------------------------------------------- */

/* Segment ID takes no set. */
static void
refuse_sets_of (uint32_t id)
{
  f.device->refused = (struct range) {
    segment_start (f.device, id) + MIB / 2, MIB / 2,
  };
}

/* Append what is in SET to segment TARGET, or any if that is UINT32_MAX. */
static void
append_again (struct refused_set *set, uint32_t target)
{
  struct reservation res;

  for (;;) {
    assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, set->count, &res), 0);
    if (target == UINT32_MAX || segment_of (&res) == target)
      break;
    log_release (f.log, &res);
  }
  assert_int_equal (log_append_locked (f.log, &res, set->record, set->count),
                    0);
  log_release (f.log, &res);
}

static void
what_was_moved_is_not_in_its_old_set (void **state)
{
  struct refused_set set;
  struct segment segment;
  unsigned count;

  (void) state;
  start (8, true, 1, true);
  append (1);
  flush ();
  append (2);
  append (3);
  assert_false (log_take_refused (f.log, &set));
  refuse_sets_of (0);
  assert_int_equal (log_flush (f.log), -EIO);
  assert_true (log_take_refused (f.log, &set));
  assert_int_equal (set.count, 2);
  assert_int_equal (set.record[1].range.start, 3);
  assert_false (set.record[1].clean);
  /* Not moved: it can still be stored. */
  log_end_refused (f.log, &set, false);
  assert_int_equal (log_moves (f.log), 0);
  assert_int_equal (log_flush (f.log), -EIO);

  assert_true (log_take_refused (f.log, &set));
  append_again (&set, UINT32_MAX);
  log_end_refused (f.log, &set, true);
  assert_int_equal (log_moves (f.log), 1);
  assert_false (log_take_refused (f.log, &set));
  flush ();
  assert_true (find (2).is_there && find (3).is_there);
  assert_int_equal (find (0).records, 3);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 1);
  /* The header tells of what is on media. */
  segment = segment_snapshot (&f.segments, 0);
  assert_int_equal (segment.sets, 1);
  assert_int_equal (segment.sequence_min, 1001);
  assert_int_equal (segment.sequence_max, 1001);
  assert_int_equal (segment.epoch_max, 50);
  finish ();
}

static void
nothing_joins_a_set_that_moves (void **state)
{
  struct reservation late;
  struct refused_set set;
  struct record record = zero_record (2, false);
  unsigned count;

  (void) state;
  start (8, true, 1, true);
  assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, 1, &late), 0);
  append (1);
  refuse_sets_of (0);
  assert_int_equal (log_flush (f.log), -EIO);
  assert_true (log_take_refused (f.log, &set));
  assert_int_equal (log_append_locked (f.log, &late, &record, 1), -EIO);
  append_again (&set, UINT32_MAX);
  log_end_refused (f.log, &set, true);
  assert_int_equal (log_append_locked (f.log, &late, &record, 1), -EIO);
  /* And it is not sealed while the writer is in it. */
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 0);
  log_release (f.log, &late);
  assert_int_equal (log_seal_retired (f.log, &count), 0);
  assert_int_equal (count, 1);
  finish ();
}

/* Its set vanishes between the append and the commit. */
static void
fua_covers_what_was_moved (void **state)
{
  struct reservation res;
  struct refused_set set;
  struct record record = zero_record (7, false);

  (void) state;
  start (8, true, 1, true);
  assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, 1, &res), 0);
  assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
  refuse_sets_of (0);
  assert_int_equal (log_flush (f.log), -EIO);
  assert_true (log_take_refused (f.log, &set));
  append_again (&set, UINT32_MAX);
  log_end_refused (f.log, &set, true);
  assert_false (find (7).is_there);
  assert_int_equal (log_commit (f.log, &res), 0);
  assert_true (find (7).is_there);
  log_release (f.log, &res);
  finish ();
}

/* When a flush has closed segment 0's set and is at segment 1's, that of segment
 * 2 moves to 0. */
static void
move_behind_the_flush (struct memory_device *d, enum memory_event event,
                       uint64_t at, size_t length, void *opaque)
{
  struct refused_set *set = opaque;

  (void) length;
  if (event != MEMORY_BEFORE_COPY || at < segment_start (d, 1) + MIB / 2
      || at >= segment_start (d, 2))
    return;
  d->hook = NULL;
  append_again (set, 0);
  log_end_refused (f.log, set, true);
}

static void
a_flush_covers_what_moves_behind_it (void **state)
{
  struct refused_set set;

  (void) state;
  start (24, true, 3, true);
  append (1);
  append (2);
  append (3);
  refuse_sets_of (2);
  assert_int_equal (log_flush (f.log), -EIO);
  assert_false (find (3).is_there);
  append (4);
  append (5);
  assert_true (log_take_refused (f.log, &set));
  assert_int_equal (set.segment, 2);
  f.device->hook = move_behind_the_flush;
  f.device->opaque = &set;
  flush ();
  assert_null (f.device->hook);
  assert_true (find (3).is_there);
  assert_true (log_closed_through (f.log) >= find (3).epoch);
  finish ();
}

/* When the second mutex from now on is to be locked. */
static struct refused_set *to_move;
static unsigned locks;

extern int __real_pthread_mutex_lock (pthread_mutex_t *lock);
extern int __wrap_pthread_mutex_lock (pthread_mutex_t *lock);

int
__wrap_pthread_mutex_lock (pthread_mutex_t *lock)
{
  struct refused_set *set = to_move;

  if (set && ++locks == 2) {
    to_move = NULL;
    append_again (set, 0);
    log_end_refused (f.log, set, true);
  }
  return __real_pthread_mutex_lock (lock);
}

/* Segment 2's set moves to the first head when that has been looked at. */
static void
what_moves_is_dirty_at_every_instant (void **state)
{
  struct refused_set set;
  uint64_t since;

  (void) state;
  for (int what = 0; what < 2; what++) {
    start (24, true, 3, true);
    append (1);
    append (2);
    append (3);
    refuse_sets_of (2);
    assert_int_equal (log_flush (f.log), -EIO);
    assert_true (log_take_refused (f.log, &set));
    assert_int_equal (log_dirty_bytes (f.log), 1);
    locks = 0;
    to_move = &set;
    if (what == 0)
      assert_int_equal (log_dirty_bytes (f.log), 1);
    else
      assert_true (log_oldest_open (f.log, &since));
    assert_null (to_move);
    finish ();
  }
}

/* --- threads ---------------------------------------------------------- */

#define THREADS 6
#define ROUNDS 200

static _Atomic bool stop_sealing;

static void *
append_and_flush (void *opaque)
{
  const uintptr_t thread = (uintptr_t) opaque;
  uint64_t random = seed + thread;

  for (unsigned i = 0; i < ROUNDS; i++) {
    struct reservation res;
    struct record record = {
      .range = { (thread * ROUNDS + i) * 64, 64 }, .kind = RECORD_DATA,
    };
    bool clean;
    int r;

    r = log_reserve (f.log, LOG_WRITE, 64, 1, &res);
    assert (r == 0);
    record.at = res.at;
    r = log_append_locked (f.log, &res, &record, 1);
    assert (r == 0);
    if (random_below (&random, 8) == 0) {
      r = log_commit (f.log, &res);
      assert (r == 0);
      assert (!log_find_open (f.log, record.at, &clean));
    }
    log_release (f.log, &res);
    if (random_below (&random, 3) == 0) {
      r = log_flush (f.log);
      assert (r == 0);
      /* Not in DRAM any more, even if another thread's flush did the work. */
      assert (!log_find_open (f.log, record.at, &clean));
    }
    /* Each time costs up to three of the segments. */
    if (random_below (&random, 100) == 0)
      log_retire_heads (f.log);
    (void) r;
  }
  return NULL;
}

static void *
keep_sealing (void *opaque)
{
  unsigned count;

  (void) opaque;
  while (!stop_sealing) {
    int r = log_seal_retired (f.log, &count);

    assert (r == 0);
    (void) r;
  }
  return NULL;
}

/* A flush leaves heads alone that have nothing to close; one with a reservation may
 * have something by the next flush. */
static void
a_flush_closes_what_was_reserved_before_the_last (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    struct reservation res;
    struct record record = zero_record (2, false);

    start (8, ordered, 1, true);
    assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, 1, &res), 0);
    append (1);
    flush ();
    assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
    log_release (f.log, &res);
    flush ();
    assert_int_equal (find (0).records, 2);
    append (3);
    flush ();
    assert_int_equal (find (0).records, 3);
    finish ();
  }
}

/* Who found no room just before waits for a segment to be freed, while here is
 * one with room. */
static void
who_waits_for_space_hears_of_a_new_segment (void **state)
{
  uint64_t ticket;

  (void) state;
  start (8, true, 1, true);
  ticket = segment_ticket (&f.segments);
  append (1);                   /* the head's first segment */
  assert_int_not_equal (segment_ticket (&f.segments), ticket);
  ticket = segment_ticket (&f.segments);
  append (2);
  assert_int_equal (segment_ticket (&f.segments), ticket);
  finish ();
}

/* Append with the hint that a flush may come. */
static void
append_expecting (uint64_t start)
{
  struct reservation res;
  struct record record = zero_record (start, false);

  assert_int_equal (log_reserve (f.log, LOG_WRITE, 0, 1, &res), 0);
  assert_int_equal (log_append_locked (f.log, &res, &record, 1), 0);
  log_expect_flush (f.log, &res);
  log_release (f.log, &res);
}

/* What a write that expects a flush, and the flush, store and sync. */
static void
count_around_flush (bool near, bool data_crc, unsigned *early, unsigned *late,
                    unsigned *syncs)
{
  unsigned copies;

  start (8, false, 1, data_crc);
  append (1);
  flush ();
  f.device->sync_is_near = near;
  f.device->syncs = 0;
  copies = f.device->copies;
  append_expecting (2);
  *early = f.device->copies - copies;
  assert_int_equal (f.device->syncs, 0);
  flush ();
  *late = f.device->copies - copies - *early;
  *syncs = f.device->syncs;
  finish ();
}

static void
an_expected_flush_has_only_to_sync (void **state)
{
  unsigned early, late, syncs;

  count_around_flush (true, true, &early, &late, &syncs);
  assert_int_equal (early, 1);
  assert_int_equal (late, 0);
  assert_int_equal (syncs, 1);

  count_around_flush (false, true, &early, &late, &syncs);
  assert_int_equal (early, 0);
  assert_int_equal (late, 1);

  /* A set must not be there before its data, which nobody verifies. */
  count_around_flush (true, false, &early, &late, &syncs);
  assert_int_equal (early, 0);
  assert_int_equal (late, 1);
  assert_int_equal (syncs, 2);
}

static void
concurrent_flushes_cover_what_came_before_them (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    pthread_t thread[THREADS], sealer;
    struct found found;

    start (100, ordered, 3, true);
    stop_sealing = false;
    pthread_create (&sealer, NULL, keep_sealing, NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
      pthread_create (&thread[i], NULL, append_and_flush, (void *) i);
    for (int i = 0; i < THREADS; i++)
      pthread_join (thread[i], NULL);
    stop_sealing = true;
    pthread_join (sealer, NULL);
    flush ();
    found = find (0);
    assert_int_equal (found.records, THREADS * ROUNDS);
    assert_int_equal (log_sequence (f.log), 1000 + THREADS * ROUNDS);
    finish ();
  }
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (what_was_appended_is_on_media_after_a_flush),
    cmocka_unit_test (a_set_has_records_of_one_epoch_and_at_most_128),
    cmocka_unit_test (a_new_epoch_does_not_join_an_older_set),
    cmocka_unit_test (fua_is_on_media_when_it_returns_and_ends_the_epoch),
    cmocka_unit_test (only_a_flush_that_worked_closes_epochs),
    cmocka_unit_test (an_append_that_fails_changes_nothing),
    cmocka_unit_test (a_flush_that_failed_is_made_up_for),
    cmocka_unit_test (dirty_sets_are_in_the_queue_and_clean_ones_are_not),
    cmocka_unit_test (a_flush_of_nothing_costs_nothing),
    cmocka_unit_test (without_checksums_data_is_synced_before_its_set),
    cmocka_unit_test (sets_declare_only_what_was_synced),
    cmocka_unit_test (a_sealed_header_tells_what_is_in_its_segment),
    cmocka_unit_test (a_segment_is_synced_before_it_is_called_sealed),
    cmocka_unit_test (a_segment_with_a_writer_in_it_is_not_sealed),
    cmocka_unit_test (a_segment_that_cannot_be_sealed_does_not_stop_the_others),
    cmocka_unit_test (data_never_reaches_into_sets),
    cmocka_unit_test (the_last_room_is_counted_for_the_worst_case),
    cmocka_unit_test (a_full_log_lets_go_of_its_segment),
    cmocka_unit_test (what_is_lost_finds_room_in_a_full_log),
    cmocka_unit_test (what_is_optional_leaves_room_for_writes),
    cmocka_unit_test (a_record_in_an_open_set_can_be_looked_up),
    cmocka_unit_test (what_was_moved_is_not_in_its_old_set),
    cmocka_unit_test (nothing_joins_a_set_that_moves),
    cmocka_unit_test (fua_covers_what_was_moved),
    cmocka_unit_test (a_flush_covers_what_moves_behind_it),
    cmocka_unit_test (what_moves_is_dirty_at_every_instant),
    cmocka_unit_test (a_flush_closes_what_was_reserved_before_the_last),
    cmocka_unit_test (who_waits_for_space_hears_of_a_new_segment),
    cmocka_unit_test (an_expected_flush_has_only_to_sync),
    cmocka_unit_test (concurrent_flushes_cover_what_came_before_them),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

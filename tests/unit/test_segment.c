/* SPDX-License-Identifier: BSD-3-Clause */

/* The segment table: what a header says is durable before it counts, and
 * nobody gets a segment that somebody may still look at. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/thread.h"
#include "engine/segment.h"
#include "support/media_tools.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define MIB (UINT64_C (1) << 20)
#define SEGMENTS 40

static struct memory_device *device;
static struct pmem *pmem;
static struct superblock sb;
static struct segment_table table;
static struct stats *stats;

static void
open_table (void)
{
  assert_int_equal (superblock_read (&sb, pmem), SUPERBLOCK_OK);
  assert_int_equal (segment_table_open (&table, &sb, pmem, stats), 0);
}

static void
adopt_all (void)
{
  for (uint32_t id = 0; id < SEGMENTS; id++)
    segment_adopt (&table, &table.segments[id]);
}

/* As the next open will find it: the lists are empty. */
static void
reopen_table (void)
{
  segment_table_close (&table);
  superblock_destroy (&sb);
  open_table ();
}

static int
set_up (void **state)
{
  static const uint8_t uuid[16];
  struct geometry geometry;

  (void) state;
  reports_collect ();
  device = memory_device_new ((SEGMENTS + 2) * MIB, true);
  pmem = memory_pmem_open (device);
  stats = stats_new ();
  assert_int_equal (geometry_make (&geometry, device->size, MIB), 0);
  assert_int_equal (geometry.segment_count, SEGMENTS);
  assert_int_equal (superblock_format (&sb, pmem, &geometry, uuid, 9,
                                       segment_table_format), 0);
  superblock_destroy (&sb);
  open_table ();
  adopt_all ();
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  segment_table_close (&table);
  superblock_destroy (&sb);
  stats_free (stats);
  pmem_close (pmem);
  memory_device_free (device);
  return 0;
}

static struct segment *
acquire (void)
{
  struct segment *segment;

  assert_int_equal (segment_acquire (&table, 0, &segment), 0);
  return segment;
}

static void
each_step_of_a_segments_life_is_durable (void **state)
{
  struct segment *segment = acquire ();
  const uint32_t id = segment->id;

  (void) state;
  assert_int_equal (segment->state, SEGMENT_OPEN);
  assert_int_equal (segment->generation, 1);
  reopen_table ();
  assert_int_equal (table.segments[id].state, SEGMENT_OPEN);
  assert_int_equal (segment_counts (&table).open, 1);

  segment = &table.segments[id];
  assert_int_equal (segment_seal (&table, segment, 7, 70, 700, 7000), 0);
  reopen_table ();
  segment = &table.segments[id];
  assert_int_equal (segment->state, SEGMENT_SEALED);
  assert_int_equal (segment->sets, 7);
  assert_int_equal (segment->epoch_max, 70);
  assert_int_equal (segment->sequence_min, 700);
  assert_int_equal (segment->sequence_max, 7000);
  assert_int_equal (segment->generation, 1);
  segment_adopt (&table, segment);

  assert_int_equal (segment_free (&table, segment), 0);
  reopen_table ();
  segment = &table.segments[id];
  assert_int_equal (segment->state, SEGMENT_FREE);
  assert_int_equal (segment->generation, 2);
  assert_int_equal (segment->sets, 0);
  assert_int_equal (segment->sequence_max, 0);
}

/* T2: slots are 256 bytes, whatever the struct has. */
static void
each_header_has_a_slot_of_its_own (void **state)
{
  struct segment *segment[SEGMENTS];

  (void) state;
  for (uint32_t i = 0; i < SEGMENTS; i++)
    segment[i] = acquire ();
  for (uint32_t i = 0; i < SEGMENTS; i++)
    assert_int_equal (segment_seal (&table, segment[i], i + 1, i + 100,
                                    i + 200, i + 300), 0);
  /* Freeing every other one leaves its neighbours alone. */
  for (uint32_t i = 0; i < SEGMENTS; i += 2)
    assert_int_equal (segment_free (&table, segment[i]), 0);
  reopen_table ();
  for (uint32_t i = 0; i < SEGMENTS; i++) {
    const struct segment *s = &table.segments[i];

    assert_false (s->damaged);
    assert_int_equal (s->state, i % 2 ? SEGMENT_SEALED : SEGMENT_FREE);
    assert_int_equal (s->generation, i % 2 ? 1 : 2);
    assert_int_equal (s->sets, i % 2 ? i + 1 : 0);
    for (int copy = 0; copy < 2; copy++) {
      const uint8_t *slot = device->bytes + sb.geometry.segment_table_at[copy]
        + i * 256;
      const struct media_segment *m = (const struct media_segment *) slot;

      assert_int_equal (le64_get (m->twin.magic), MAGIC_SEGMENT);
      assert_int_equal (le32_get (m->id), i);
    }
  }
}

/* T4: whoever frees a segment says when its last reader has gone. */
static void
a_freed_segment_is_not_handed_out_before_its_release (void **state)
{
  struct segment *segment, *other;

  (void) state;
  for (uint32_t i = 0; i < SEGMENTS; i++)
    segment = acquire ();
  assert_int_equal (segment_seal (&table, segment, 1, 1, 1, 1), 0);
  assert_int_equal (segment_free (&table, segment), 0);
  assert_int_equal (segment_acquire (&table, 0, &other), -EAGAIN);
  segment_release (&table, segment);
  assert_int_equal (segment_acquire (&table, 0, &other), 0);
  assert_ptr_equal (other, segment);
  assert_int_equal (other->generation, 2);
}

static void
the_last_free_segments_are_kept_for_those_who_may (void **state)
{
  struct segment *segment;

  (void) state;
  for (uint32_t i = 0; i < SEGMENTS - 3; i++)
    assert_int_equal (segment_acquire (&table, 3, &segment), 0);
  assert_int_equal (segment_acquire (&table, 3, &segment), -EAGAIN);
  assert_int_equal (segment_acquire (&table, 2, &segment), 0);
  assert_int_equal (segment_counts (&table).free, 2);
  assert_int_equal (segment_counts (&table).open, SEGMENTS - 2);
}

static void
segments_are_evicted_in_the_order_of_sealing (void **state)
{
  struct segment *segment[4];

  (void) state;
  for (int i = 0; i < 4; i++)
    segment[i] = acquire ();
  assert_int_equal (segment_seal (&table, segment[2], 1, 9, 1, 1), 0);
  assert_int_equal (segment_seal (&table, segment[0], 1, 5, 1, 1), 0);
  assert_int_equal (segment_seal (&table, segment[3], 1, 0, 1, 1), 0);
  assert_int_equal (segment_seal (&table, segment[1], 1, 4, 1, 1), 0);
  assert_ptr_equal (segment_find_evictable (&table, 9), segment[2]);
  assert_ptr_equal (segment_find_evictable (&table, 8), segment[0]);
  assert_ptr_equal (segment_find_evictable (&table, 4), segment[3]);
  assert_int_equal (segment_free (&table, segment[3]), 0);
  assert_ptr_equal (segment_find_evictable (&table, 4), segment[1]);
  assert_null (segment_find_evictable (&table, 3));
}

static void
a_segment_whose_header_cannot_be_written_waits_its_turn (void **state)
{
  struct segment *segment;
  const uint64_t *table_at = sb.geometry.segment_table_at;

  (void) state;
  device->refused = (struct range) { table_at[0], 2 * MEDIA_SLOT };
  device->refused_too = (struct range) { table_at[1], 2 * MEDIA_SLOT };
  segment = acquire ();
  assert_int_equal (segment->id, 2);
  assert_true (reports_have (REPORT_ERROR, "segment 0|header"));
  assert_true (reports_have (REPORT_ERROR, "segment 1|header"));
  assert_int_equal (segment_counts (&table).free, SEGMENTS - 1);

  /* When none is left, it says so instead of asking for patience. */
  device->refused.length = MIB;
  assert_int_equal (segment_acquire (&table, 0, &segment), -EIO);

  /* And when all is well again, none has been given up. */
  device->refused.length = device->refused_too.length = 0;
  for (unsigned i = 1; i < SEGMENTS; i++)
    acquire ();
  assert_int_equal (segment_acquire (&table, 0, &segment), -EAGAIN);
}

static void
a_step_that_fails_has_not_been_taken (void **state)
{
  struct segment *segment = acquire ();
  const uint32_t id = segment->id;

  (void) state;
  device->copy_error = -EIO;
  assert_int_equal (segment_seal (&table, segment, 7, 1, 1, 1), -EIO);
  device->copy_error = 0;
  assert_int_equal (segment->state, SEGMENT_OPEN);
  assert_int_equal (segment_counts (&table).sealed, 0);
  assert_int_equal (segment_counts (&table).open, 1);
  assert_int_equal (segment_seal (&table, segment, 7, 1, 1, 1), 0);

  device->copy_error = -EIO;
  assert_int_equal (segment_free (&table, segment), -EIO);
  device->copy_error = 0;
  assert_int_equal (segment->state, SEGMENT_SEALED);
  assert_int_equal (segment->generation, 1);
  assert_int_equal (segment_counts (&table).sealed, 1);
  reopen_table ();
  assert_int_equal (table.segments[id].state, SEGMENT_SEALED);
  assert_int_equal (table.segments[id].sets, 7);
}

struct instants {
  uint64_t random;
  uint32_t id;
  enum segment_state before, after;
  unsigned seen;
};

static void
cut_the_power (struct memory_device *d, enum memory_event event,
               uint64_t at, size_t length, void *opaque)
{
  struct instants *instants = opaque;
  struct memory_device *image = memory_device_crash (d, &instants->random);
  struct pmem *p = memory_pmem_open (image);
  struct superblock s;
  struct segment_table t;
  const struct segment *segment;

  (void) event;
  (void) at;
  (void) length;
  image->bad_at = d->bad_at;    /* a bad page stays bad */
  image->bad_length = d->bad_length;
  assert_int_equal (superblock_read (&s, p), SUPERBLOCK_OK);
  assert_int_equal (segment_table_open (&t, &s, p, stats), 0);
  segment = &t.segments[instants->id];
  assert_false (segment->damaged);
  assert_true (segment->state == instants->before
               || segment->state == instants->after);
  if (segment->state == SEGMENT_SEALED)
    assert_int_equal (segment->sets, 3);
  assert_int_equal (segment->generation,
                    instants->after == SEGMENT_FREE
                    && segment->state == SEGMENT_FREE ? 2 : 1);
  segment_table_close (&t);
  superblock_destroy (&s);
  pmem_close (p);
  memory_device_free (image);
  instants->seen++;
}

/* The page in which copy COPY of the headers lies. */
static struct range
page_of_headers (int copy)
{
  return (struct range) { sb.geometry.segment_table_at[copy], MEDIA_PAGE };
}

static void
cut_the_power_at_each_step (int dead, uint64_t random)
{
  struct instants instants = { .random = random, .id = 0 };
  struct segment *segment;

  if (dead >= 0) {
    device->refused = page_of_headers (dead);
    device->bad_at = device->refused.start;
    device->bad_length = device->refused.length;
  }
  memory_device_track (device, seed);
  device->opaque = &instants;
  device->hook = cut_the_power;
  instants.before = SEGMENT_FREE;
  instants.after = SEGMENT_OPEN;
  segment = acquire ();
  assert_int_equal (segment->id, 0);
  instants.before = SEGMENT_OPEN;
  instants.after = SEGMENT_SEALED;
  assert_int_equal (segment_seal (&table, segment, 3, 3, 3, 3), 0);
  instants.before = SEGMENT_SEALED;
  instants.after = SEGMENT_FREE;
  assert_int_equal (segment_free (&table, segment), 0);
  device->hook = NULL;
  assert_true (instants.seen >= 3 * 2 * 4);
}

static void
a_power_cut_leaves_the_step_taken_or_not (void **state)
{
  for (int round = 0; round < 9; round++) {
    cut_the_power_at_each_step (round % 3 - 1, seed + round);
    tear_down (state);
    set_up (state);
  }
}

/* A page of one copy takes no stores any more, nor can it be read. */
static void
a_dead_page_of_headers_stops_nothing (void **state)
{
  for (int dead = 0; dead < 2; dead++) {
    const struct range page = page_of_headers (dead);
    const uint32_t in_page = MEDIA_PAGE / MEDIA_SLOT;
    struct segment *segment[SEGMENTS];

    device->refused = page;
    device->bad_at = page.start;
    device->bad_length = page.length;
    reopen_table ();
    for (uint32_t id = 0; id < SEGMENTS; id++) {
      assert_false (table.segments[id].damaged);
      segment_repair (&table, &table.segments[id]);
    }
    adopt_all ();
    for (uint32_t i = 0; i < SEGMENTS; i++)
      segment[i] = acquire ();
    for (uint32_t i = 0; i < SEGMENTS; i++)
      assert_int_equal (segment_seal (&table, segment[i], i + 1, i + 100,
                                      i + 200, i + 300), 0);
    for (uint32_t i = 0; i < SEGMENTS; i += 2)
      assert_int_equal (segment_free (&table, segment[i]), 0);
    /* Once for each header. */
    assert_int_equal (reports_count (REPORT_ERROR), in_page);
    assert_true (reports_have (REPORT_ERROR, "segment header|cannot be written|"
                               "spare"));
    assert_int_equal (stats_get (stats, STAT_media_errors), in_page);

    /* Each way of reading it, and well again: all are where they were. */
    for (int i = 0; i < 3; i++) {
      if (i == 1)
        device->bad_length = 0;
      reopen_table ();
      for (uint32_t id = 0; id < SEGMENTS; id++) {
        const struct segment *s = &table.segments[id];

        assert_false (s->damaged);
        assert_int_equal (s->state, id % 2 ? SEGMENT_SEALED : SEGMENT_FREE);
        assert_int_equal (s->generation, id % 2 ? 1 : 2);
        assert_int_equal (s->sets, id % 2 ? id + 1 : 0);
      }
      if (i == 1) {
        device->refused.length = 0;
        for (uint32_t id = 0; id < SEGMENTS; id++)
          segment_repair (&table, &table.segments[id]);
      }
    }
    /* What was, long ago, is nowhere any more. */
    for (uint32_t id = 0; id < SEGMENTS; id++) {
      assert_true (twin_is_whole (&table.segments[id].twin));
      segment_on (device, id, 0)->sets.raw ^= 1;
      segment_on (device, id, 1)->sets.raw ^= 1;
    }
    reopen_table ();
    for (uint32_t id = 0; id < SEGMENTS; id++)
      assert_true (table.segments[id].damaged);
    tear_down (state);
    set_up (state);
  }
}

/* Neither side takes stores. */
static void
a_segment_can_be_kept_without_its_header (void **state)
{
  struct segment *segment = acquire ();
  const uint32_t id = segment->id;

  (void) state;
  device->refused = (struct range) { MIB, MIB };
  assert_int_equal (segment_seal (&table, segment, 3, 30, 300, 301), -EIO);
  segment_keep (&table, segment, 3, 30, 300, 301);
  assert_int_equal (segment_counts (&table).open, 0);
  assert_int_equal (segment_counts (&table).sealed, 1);
  assert_null (segment_find_evictable (&table, 29));
  assert_ptr_equal (segment_find_evictable (&table, 30), segment);
  assert_int_equal (segment->sequence_max, 301);
  for (int i = 0; i < 3; i++) {
    assert_int_equal (segment_free (&table, segment), -EIO);
    assert_int_equal (segment_counts (&table).sealed, 1);
  }
  assert_int_equal (segment_counts (&table).free, SEGMENTS - 1);
  reopen_table ();
  assert_int_equal (table.segments[id].state, SEGMENT_OPEN);
  assert_int_equal (table.segments[id].generation, 1);
}

static void
one_good_header_is_enough (void **state)
{
  struct segment *segment = acquire ();
  const uint32_t id = segment->id;

  (void) state;
  assert_int_equal (segment_seal (&table, segment, 3, 3, 3, 3), 0);
  for (int copy = 0; copy < 2; copy++) {
    segment_on (device, id, copy)->sets.raw ^= 1;
    reopen_table ();
    assert_false (table.segments[id].damaged);
    assert_int_equal (table.segments[id].sets, 3);
    segment_on (device, id, copy)->sets.raw ^= 1;
  }
  segment_on (device, id, 0)->sets.raw ^= 1;
  segment_on (device, id, 1)->sets.raw ^= 1;
  reopen_table ();
  assert_true (table.segments[id].damaged);
}

/* T11 */
static void
no_field_of_a_header_is_believed (void **state)
{
  struct segment *segment = acquire ();
  const uint32_t id = segment->id;
  const uint64_t most_sets = MIB / 128;

  (void) state;
  assert_int_equal (segment_seal (&table, segment, 3, 3, 3, 3), 0);
  for (size_t at = 16; at < sizeof (struct media_segment); at += 4)
    for (unsigned i = 0; i < edge_value_count; i++)
      for (size_t width = 4; width <= 8; width += 4) {
        struct media_segment saved[2];
        const struct segment *s;

        if (at % width != 0)
          continue;
        for (int copy = 0; copy < 2; copy++) {
          struct media_segment *m = segment_on (device, id, copy);

          saved[copy] = *m;
          memcpy ((uint8_t *) m + at, &edge_values[i], width);
          twin_seal (device, m, sizeof *m);
        }
        reopen_table ();
        s = &table.segments[id];
        assert_int_equal (s->id, id);
        if (!s->damaged) {
          assert_true (s->state >= SEGMENT_FREE && s->state <= SEGMENT_SEALED);
          assert_true (s->generation > 0);
          if (s->state == SEGMENT_SEALED)
            assert_true (s->sets <= most_sets);
          /* The marks above it can still grow. */
          assert_true (s->epoch_max < UINT64_MAX / 2 + 1);
        }
        for (int copy = 0; copy < 2; copy++)
          *segment_on (device, id, copy) = saved[copy];
      }
}

/* T14: who waits for space does not miss what came before he waits. */
static void
no_wake_up_is_missed (void **state)
{
  struct segment *segment = acquire ();
  const uint64_t start = now_ms ();
  uint64_t ticket;

  (void) state;
  assert_int_equal (segment_seal (&table, segment, 1, 0, 1, 1), 0);
  assert_int_equal (segment_free (&table, segment), 0);

  ticket = segment_ticket (&table);
  segment_release (&table, segment);
  segment_wait (&table, ticket, start + 60000);

  ticket = segment_ticket (&table);
  segment_wake_all (&table);
  segment_wait (&table, ticket, start + 60000);
  assert_true (now_ms () - start < 30000);

  ticket = segment_ticket (&table);
  segment_wait (&table, ticket, now_ms () + 20);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (each_step_of_a_segments_life_is_durable),
    TEST (each_header_has_a_slot_of_its_own),
    TEST (a_freed_segment_is_not_handed_out_before_its_release),
    TEST (the_last_free_segments_are_kept_for_those_who_may),
    TEST (segments_are_evicted_in_the_order_of_sealing),
    TEST (a_segment_whose_header_cannot_be_written_waits_its_turn),
    TEST (a_step_that_fails_has_not_been_taken),
    TEST (a_power_cut_leaves_the_step_taken_or_not),
    TEST (a_dead_page_of_headers_stops_nothing),
    TEST (a_segment_can_be_kept_without_its_header),
    TEST (one_good_header_is_enough),
    TEST (no_field_of_a_header_is_believed),
    TEST (no_wake_up_is_missed),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

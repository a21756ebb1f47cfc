/* SPDX-License-Identifier: BSD-3-Clause */

/* The border between media and memory: a set comes over it whole and with
 * every number checked, or not at all. */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/log_reader.h"
#include "support/media_tools.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define MIB (UINT64_C (1) << 20)
#define DISK_SIZE (64 * MIB)
#define ID 1                    /* the segment of all stories */

static struct memory_device *device;
static struct pmem *pmem;
static struct superblock sb;
static struct segment segment;
static struct log_reader reader;
static struct set set;

static int
set_up (void **state)
{
  static const uint8_t uuid[16];
  struct geometry geometry;

  (void) state;
  reports_collect ();
  device = memory_device_new (6 * MIB, true);
  pmem = memory_pmem_open (device);
  assert_int_equal (geometry_make (&geometry, device->size, MIB), 0);
  assert_int_equal (superblock_format (&sb, pmem, &geometry, uuid, 9,
                                       segment_table_format), 0);
  assert_int_equal (superblock_bind (&sb, DISK_SIZE, "", NULL), 0);
  for (int copy = 0; copy < 2; copy++) {
    struct media_segment *header = segment_on (device, ID, copy);

    header->generation = le64_of (5);
    twin_seal (device, header, sizeof *header);
  }
  reader = (struct log_reader) { .pmem = pmem, .superblock = &sb };
  segment = (struct segment) {
    .id = ID, .state = SEGMENT_OPEN, .generation = 5,
  };
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  superblock_destroy (&sb);
  pmem_close (pmem);
  memory_device_free (device);
  return 0;
}

static struct media_record
data_record (uint64_t sequence, uint64_t logical, uint64_t length,
             uint32_t place)
{
  return (struct media_record) {
    .logical = le64_of (logical),
    .length = le64_of (length),
    .sequence = le64_of (sequence),
    .checksum = le64_of (sequence * 3),
    .place = le32_of (place),
    .kind = RECORD_DATA,
    .flags = RECORD_CHECKSUM,
  };
}

/* Set ORDINAL, of epoch 10 + ORDINAL, with three records. */
static uint32_t
put_set (uint32_t end, uint32_t ordinal, uint64_t generation)
{
  const struct media_set header = {
    .generation = le64_of (generation),
    .ordinal = le32_of (ordinal),
    .epoch = le64_of (10 + ordinal),
    .durable_through = le64_of (9 + ordinal),
    .durable_sets = le32_of (ordinal),
  };
  const uint64_t sequence = 100 + 10 * ordinal;
  const struct media_record records[] = {
    data_record (sequence, 4096 * ordinal, 4096, 8192 * ordinal),
    {
      .logical = le64_of (5 * MIB), .length = le64_of (30 * MIB),
      .sequence = le64_of (sequence + 1), .kind = RECORD_ZERO,
    },
    data_record (sequence + 2, 4096 * ordinal, 1, 8192 * ordinal + 4096),
  };

  return set_forge (device, ID, end, &header, records, 3);
}

static enum set_verdict
read_first (void)
{
  return log_read_set (&reader, &segment, MIB, 0, &set);
}

static void
a_set_comes_back_as_it_was_written (void **state)
{
  (void) state;
  put_set (MIB, 0, 5);
  assert_int_equal (read_first (), SET_OK);
  assert_int_equal (set.count, 3);
  assert_int_equal (set.epoch, 10);
  assert_int_equal (set.durable_through, 9);
  assert_int_equal (set.end, MIB);
  assert_int_equal (set.start, MIB - 64 - 3 * 48 - 48);
  assert_int_equal (set.record[0].kind, RECORD_DATA);
  assert_int_equal (set.record[0].range.length, 4096);
  assert_int_equal (set.record[0].at, segment_start (device, ID));
  assert_int_equal (set.record[0].checksum, 300);
  assert_true (set.record[0].has_checksum);
  assert_false (set.record[0].clean);
  assert_int_equal (set.record[1].kind, RECORD_ZERO);
  assert_int_equal (set.record[1].range.start, 5 * MIB);
  assert_int_equal (set.record[2].sequence, 102);
}

/* T3: of another life, another segment, another place, another cache. */
static void
a_set_counts_only_where_and_when_it_was_written (void **state)
{
  uint8_t copy[512];
  uint32_t start;

  (void) state;
  start = put_set (MIB, 0, 4);
  assert_int_equal (read_first (), SET_END);
  start = put_set (MIB, 0, 6);
  assert_int_equal (read_first (), SET_END);

  start = put_set (MIB, 0, 5);
  assert_int_equal (log_read_set (&reader, &segment, MIB, 1, &set), SET_END);
  memcpy (copy, device->bytes + segment_start (device, ID) + start,
          MIB - start);
  memcpy (device->bytes + segment_start (device, ID) + start - 4096, copy,
          MIB - start);
  assert_int_equal (log_read_set (&reader, &segment, MIB - 4096, 0, &set),
                    SET_END);
  memcpy (device->bytes + segment_start (device, 2) + start, copy,
          MIB - start);
  segment.id = 2;
  assert_int_equal (read_first (), SET_END);
  segment.id = ID;

  sb.instance++;
  assert_int_equal (read_first (), SET_TORN);
}

static void
every_changed_byte_of_a_set_is_noticed (void **state)
{
  uint8_t *at;
  uint32_t start;

  (void) state;
  start = put_set (MIB, 0, 5);
  at = device->bytes + segment_start (device, ID) + start;
  for (uint32_t i = 0; i < MIB - start; i++) {
    at[i] ^= 0x40;
    assert_int_not_equal (read_first (), SET_OK);
    at[i] ^= 0x40;
    assert_int_equal (read_first (), SET_OK);
  }
}

/* T8: not the same as "there is no set". */
static void
a_media_error_is_told_apart_from_the_end (void **state)
{
  uint32_t start;

  (void) state;
  start = put_set (MIB, 0, 5);
  device->bad_length = 1;
  device->bad_at = segment_start (device, ID) + MIB - 1;
  assert_int_equal (read_first (), SET_UNREADABLE);
  device->bad_at = segment_start (device, ID) + start;
  assert_int_equal (read_first (), SET_UNREADABLE);
}

/* T11: the checksum is right, and each field is set to each edge value. */
static void
no_field_of_a_set_is_believed (void **state)
{
  const struct range disk = { 0, DISK_SIZE };
  const uint64_t base = segment_start (device, ID);
  unsigned passed = 0;
  uint32_t start;
  uint8_t saved[512];

  (void) state;
  start = put_set (MIB, 0, 5);
  memcpy (saved, device->bytes + base + start, MIB - start);
  for (uint32_t at = start; at < MIB; at++)
    for (unsigned i = 0; i < edge_value_count; i++)
      for (uint32_t width = 1; width <= 8; width *= 2) {
        struct media_set *header;

        if (at % width != 0 || at + width > MIB)
          continue;
        memcpy (device->bytes + base + at, &edge_values[i], width);
        header = (struct media_set *) (device->bytes + base + MIB - 64);
        if (le32_get (header->records) <= 1000)
          set_seal (device, header);
        if (read_first () == SET_OK) {
          passed++;
          assert_true (set.count >= 1 && set.count <= SET_MAX_RECORDS);
          assert_true (set.start < set.end && set.end == MIB);
          assert_true (set.epoch > 0 && set.durable_through < set.epoch);
          assert_int_equal (set.durable_sets, 0);
          for (uint32_t j = 0; j < set.count; j++) {
            const struct record *r = &set.record[j];

            assert_true (r->kind >= RECORD_DATA && r->kind <= RECORD_HOLE);
            assert_true (range_is_valid (r->range, disk.length));
            assert_true (j == 0 || r->sequence > set.record[j - 1].sequence);
            if (r->kind == RECORD_DATA) {
              assert_true (r->range.length >= 1 &&
                           r->range.length <= RECORD_MAX_DATA);
              assert_int_equal (r->at % 64, 0);
              assert_true (r->at >= base && r->at <= base + set.start - 64);
              assert_true (r->at + r->range.length <= base + set.start);
              assert_int_equal (r->range.start / MIB,
                                (range_end (r->range) - 1) / MIB);
            }
          }
        }
        memcpy (device->bytes + base + start, saved, MIB - start);
      }
  assert_true (passed > 100);
}

/* T11: sets that reach below the start of their segment, or are none. */
static void
a_set_lies_in_its_segment (void **state)
{
  static const struct media_set header = {
    .generation = { 5 }, .epoch = { 1 },
  };
  static struct media_record records[SET_MAX_RECORDS];

  (void) state;
  for (uint32_t i = 0; i < SET_MAX_RECORDS; i++)
    records[i] = (struct media_record) {
      .length = le64_of (1), .sequence = le64_of (i + 1), .kind = RECORD_ZERO,
    };
  /* The neighbour's last bytes are in the way of a forged checksum. */
  set_forge (device, ID, SET_MAX_BYTES, &header, records, SET_MAX_RECORDS);
  assert_int_equal (log_read_set (&reader, &segment, SET_MAX_BYTES, 0, &set),
                    SET_OK);
  set_forge (device, ID, SET_MAX_BYTES - 64, &header, records,
             SET_MAX_RECORDS);
  assert_int_not_equal (log_read_set (&reader, &segment, SET_MAX_BYTES - 64,
                                      0, &set), SET_OK);
  for (uint32_t end = 0; end <= 128; end++)
    assert_int_not_equal (log_read_set (&reader, &segment, end, 0, &set),
                          SET_OK);
  assert_int_equal (log_read_set (&reader, &segment, MIB + 64, 0, &set),
                    SET_END);
  assert_int_equal (log_read_set (&reader, &segment, UINT32_MAX, 0, &set),
                    SET_END);
}

/* T11: data ends below its set, also when it begins there. */
static void
data_lies_below_its_set (void **state)
{
  const uint32_t start = MIB - 64 - 64; /* of a set with one record */

  (void) state;
  for (uint32_t place = start - 8192; place <= MIB; place += 64) {
    const struct media_set header = {
      .generation = le64_of (5), .epoch = le64_of (10),
    };
    const struct media_record record = data_record (100, 0, 4096, place);

    set_forge (device, ID, MIB, &header, &record, 1);
    assert_int_equal (read_first (), place + 4096 <= start ? SET_OK
                      : SET_CORRUPT);
  }
}

static void
a_walk_sees_each_set_once (void **state)
{
  struct log_walk walk;
  uint32_t end = MIB, n = 0;

  (void) state;
  for (uint32_t i = 0; i < 10; i++)
    end = put_set (end, i, 5);
  log_walk_start (&walk, &reader, &segment);
  while (log_walk_next (&walk, &set) == SET_OK) {
    assert_int_equal (set.ordinal, n);
    assert_int_equal (set.epoch, 10 + n);
    n++;
  }
  assert_int_equal (n, 10);

  /* A sealed segment has as many as its header says. */
  segment.state = SEGMENT_SEALED;
  segment.sets = 4;
  n = 0;
  log_walk_start (&walk, &reader, &segment);
  while (log_walk_next (&walk, &set) == SET_OK)
    n++;
  assert_int_equal (n, 4);
  assert_int_equal (walk.ordinal, 4);
}

/* T23 */
static void
later_sets_are_found_behind_damage (void **state)
{
  struct log_walk walk;
  uint32_t end = MIB, starts[10];

  (void) state;
  for (uint32_t i = 0; i < 10; i++)
    starts[i] = end = put_set (end, i, 5);
  /* Set 3 is torn, set 6 lies on a bad page, as does the set next to it. */
  set_on (device, ID, 3)->epoch.raw ^= 1;
  device->bad_at = segment_start (device, ID) + starts[6];
  device->bad_length = starts[5] - starts[6];

  log_walk_start (&walk, &reader, &segment);
  for (int i = 0; i < 3; i++)
    assert_int_equal (log_walk_next (&walk, &set), SET_OK);
  assert_int_equal (log_walk_next (&walk, &set), SET_TORN);
  assert_int_equal (walk.ordinal, 3);
  assert_true (log_walk_find_later (&walk, &set));
  assert_int_equal (set.ordinal, 4);
  assert_int_equal (log_walk_next (&walk, &set), SET_OK);
  assert_int_equal (log_walk_next (&walk, &set), SET_UNREADABLE);
  assert_true (log_walk_find_later (&walk, &set));
  assert_int_equal (set.ordinal, 7);
  assert_int_equal (log_walk_next (&walk, &set), SET_OK);
  assert_int_equal (log_walk_next (&walk, &set), SET_OK);
  assert_int_equal (log_walk_next (&walk, &set), SET_END);
  assert_false (log_walk_find_later (&walk, &set));
}

/* T3: what an earlier life left further down is not a later set. */
static void
a_stale_set_is_not_a_later_one (void **state)
{
  struct log_walk walk;
  uint32_t end = MIB;

  (void) state;
  for (uint32_t i = 0; i < 6; i++)
    end = put_set (end, i, 4);
  put_set (MIB, 0, 5);
  log_walk_start (&walk, &reader, &segment);
  assert_int_equal (log_walk_next (&walk, &set), SET_OK);
  assert_int_equal (log_walk_next (&walk, &set), SET_END);
  assert_false (log_walk_find_later (&walk, &set));
}

static void
a_set_that_goes_back_in_time_is_corrupt (void **state)
{
  struct log_walk walk;
  uint32_t end;

  (void) state;
  end = put_set (MIB, 0, 5);
  put_set (end, 1, 5);
  set_on (device, ID, 1)->epoch = le64_of (9);
  set_on (device, ID, 1)->durable_through = le64_of (8);
  set_seal (device, set_on (device, ID, 1));
  log_walk_start (&walk, &reader, &segment);
  assert_int_equal (log_walk_next (&walk, &set), SET_OK);
  assert_int_equal (log_walk_next (&walk, &set), SET_CORRUPT);

  put_set (end, 1, 5);
  record_in (set_on (device, ID, 1), 0)->sequence = le64_of (102);
  set_seal (device, set_on (device, ID, 1));
  log_walk_start (&walk, &reader, &segment);
  assert_int_equal (log_walk_next (&walk, &set), SET_OK);
  assert_int_equal (log_walk_next (&walk, &set), SET_CORRUPT);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (a_set_comes_back_as_it_was_written),
    TEST (a_set_counts_only_where_and_when_it_was_written),
    TEST (every_changed_byte_of_a_set_is_noticed),
    TEST (a_media_error_is_told_apart_from_the_end),
    TEST (no_field_of_a_set_is_believed),
    TEST (a_set_lies_in_its_segment),
    TEST (data_lies_below_its_set),
    TEST (a_walk_sees_each_set_once),
    TEST (later_sets_are_found_behind_damage),
    TEST (a_stale_set_is_not_a_later_one),
    TEST (a_set_that_goes_back_in_time_is_corrupt),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

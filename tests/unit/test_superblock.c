/* SPDX-License-Identifier: BSD-3-Clause */

/* Whose cache is this?  What is not ours, or damaged, is refused and left
 * alone (P5); the marks of the control block never go back. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cache.h"
#include "engine/segment.h"
#include "engine/superblock.h"
#include "support/media_tools.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define MIB (UINT64_C (1) << 20)
#define SEGMENTS 5

static const uint8_t uuid[16] = "0123456789abcde";

static struct memory_device *device;
static struct pmem *pmem;
static struct superblock sb;

static void
make_cache (uint64_t instance)
{
  struct geometry geometry;

  assert_int_equal (geometry_make (&geometry, device->size, MIB), 0);
  assert_int_equal (superblock_format (&sb, pmem, &geometry, uuid, instance,
                                       segment_table_format), 0);
}

static enum superblock_verdict
verdict_on (struct memory_device *d)
{
  struct superblock fresh;
  struct pmem *p = memory_pmem_open (d);
  enum superblock_verdict verdict = superblock_read (&fresh, p);

  superblock_destroy (&fresh);
  pmem_close (p);
  return verdict;
}

static void
reread (void)
{
  superblock_destroy (&sb);
  assert_int_equal (superblock_read (&sb, pmem), SUPERBLOCK_OK);
}

/* Refused, for this reason, and nothing was stored. */
static void
assert_refused (const char *words)
{
  const unsigned copies = device->copies;

  reports_collect ();
  assert_int_equal (verdict_on (device), SUPERBLOCK_REFUSED);
  if (reports_count (REPORT_ERROR) != 1 || !reports_have (REPORT_ERROR, words))
    fail_msg ("expected one line with \"%s\", got:\n%s", words,
              reports_text (REPORT_ERROR));
  assert_int_equal (device->copies, copies);
}

static void
seal_both (void)
{
  for (int copy = 0; copy < 2; copy++) {
    twin_seal (device, superblock_on (device, copy),
               sizeof (struct media_superblock));
    twin_seal (device, control_on (device, copy),
               sizeof (struct media_control));
  }
}

static int
set_up (void **state)
{
  (void) state;
  reports_collect ();
  device = memory_device_new ((SEGMENTS + 2) * MIB, true);
  pmem = memory_pmem_open (device);
  make_cache (11);
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

/* --- geometry --------------------------------------------------------- */

static void
the_parts_of_a_device_do_not_overlap (void **state)
{
  uint64_t random = seed;

  (void) state;
  for (int i = 0; i < 20000; i++) {
    const uint64_t segment = MIB << random_below (&random, 11);
    const uint64_t size = random_below (&random, UINT64_C (1) << (20 + i % 26));
    struct geometry g;
    uint64_t table;

    if (geometry_make (&g, size, segment) < 0) {
      assert_true (size < geometry_min_device_size (segment));
      continue;
    }
    table = (uint64_t) g.segment_capacity * MEDIA_SLOT;
    assert_true (CONTROL_AT (1) + MEDIA_PAGE <= g.segment_table_at[0]);
    assert_true (g.segment_table_at[0] + table <= g.segment_table_at[1]);
    assert_true (g.segment_table_at[1] + table <= g.first_segment_at);
    assert_true (g.segment_count >= CACHE_MIN_SEGMENTS);
    assert_true (g.segment_count <= g.segment_capacity);
    assert_true (g.first_segment_at + g.segment_count * segment
                 == g.device_size);
    assert_true (g.device_size <= size);
  }
}

static void
the_smallest_device_is_the_smallest (void **state)
{
  (void) state;
  for (uint64_t segment = CACHE_MIN_SEGMENT_SIZE;
       segment <= CACHE_MAX_SEGMENT_SIZE; segment *= 2) {
    const uint64_t size = geometry_min_device_size (segment);
    struct geometry g;

    assert_int_equal (geometry_make (&g, size, segment), 0);
    assert_int_equal (g.segment_count, CACHE_MIN_SEGMENTS);
    assert_int_equal (geometry_make (&g, size - 65536, segment), -ENOSPC);
  }
}

/* --- formatting ------------------------------------------------------- */

static void
a_new_cache_is_read_back_as_it_was_made (void **state)
{
  const struct geometry made = sb.geometry;

  (void) state;
  reread ();
  assert_memory_equal (&sb.geometry, &made, sizeof made);
  assert_int_equal (sb.instance, 11);
  assert_false (sb.bound);
  assert_int_equal (control_get (&sb).tail_sequence, 0);
  assert_int_equal (control_get (&sb).written_back, 0);
  assert_int_equal (control_get (&sb).gc_percent, GC_PERCENT_UNSET);
}

struct formatting {
  uint64_t random;
  enum superblock_verdict before;
  bool mark_is_durable;
  unsigned seen[SUPERBLOCK_REFUSED + 1];
};

static bool
is_all_zeros (const struct memory_device *d)
{
  return d->bytes[0] == 0 && memcmp (d->bytes, d->bytes + 1, d->size - 1) == 0;
}

/* The old cache, if it is that, must be whole. */
static void
assert_whole (struct memory_device *d, bool may_be_old)
{
  struct superblock fresh;
  struct segment_table table;
  struct stats *stats = stats_new ();
  struct pmem *p = memory_pmem_open (d);

  assert_int_equal (superblock_read (&fresh, p), SUPERBLOCK_OK);
  assert_true (fresh.instance == 4 || (may_be_old && fresh.instance == 3));
  assert_int_equal (segment_table_open (&table, &fresh, p, stats), 0);
  for (uint32_t id = 0; id < SEGMENTS; id++)
    assert_false (table.segments[id].damaged);
  segment_table_close (&table);
  superblock_destroy (&fresh);
  stats_free (stats);
  pmem_close (p);
}

static void
cut_formatting (struct memory_device *d, enum memory_event event,
                uint64_t at, size_t length, void *opaque)
{
  struct formatting *formatting = opaque;
  /* Copy A is where the old and the new could be mixed. */
  const int images = at == 0 && length > sizeof (le64) ? 64 : 8;

  for (int i = 0; i < images; i++) {
    struct memory_device *image = memory_device_crash (d,
                                                       &formatting->random);
    const enum superblock_verdict verdict = verdict_on (image);

    assert_int_not_equal (verdict, SUPERBLOCK_REFUSED);
    if (verdict == SUPERBLOCK_UNFORMATTED) {
      assert_int_equal (formatting->before, SUPERBLOCK_UNFORMATTED);
      assert_true (is_all_zeros (image));
    }
    if (verdict == SUPERBLOCK_OK)
      assert_whole (image, !formatting->mark_is_durable);
    formatting->seen[verdict]++;
    memory_device_free (image);
  }
  formatting->mark_is_durable |= event == MEMORY_SYNCED;
}

/* P5: what an interrupted formatting leaves is never taken for a cache, nor
 * for somebody else's data. */
static void
a_crash_while_formatting_leaves_all_or_a_mark (void **state)
{
  (void) state;
  for (int again = 0; again < 4; again++) {
    struct formatting formatting = {
      .random = seed + again,
      .before = again < 2 ? SUPERBLOCK_UNFORMATTED : SUPERBLOCK_OK,
    };

    tear_down (NULL);
    device = memory_device_new ((SEGMENTS + 2) * MIB, again % 2);
    pmem = memory_pmem_open (device);
    if (formatting.before == SUPERBLOCK_OK) {
      make_cache (3);
      superblock_destroy (&sb);
    }
    memory_device_track (device, seed);
    device->hook = cut_formatting;
    device->opaque = &formatting;
    make_cache (4);
    assert_true (formatting.seen[SUPERBLOCK_HALF_FORMATTED] > 10);
    assert_true (formatting.seen[SUPERBLOCK_OK] > 0);
    assert_true (formatting.seen[formatting.before] > 0);
  }
}

/* Stores to copy A fail as soon as the mark stands in its place. */
static void
refuse_copy_a (struct memory_device *d, enum memory_event event, uint64_t at,
               size_t length, void *opaque)
{
  (void) length;
  (void) opaque;
  if (event == MEMORY_COPIED && at == 0)
    d->refused = (struct range) { 0, 8 };
}

/* Whoever is told that it went well finds a cache at the next open. */
static void
formatting_that_fails_says_so (void **state)
{
  struct geometry geometry;

  (void) state;
  for (int stores = 0; stores < 30; stores++) {
    int r;

    superblock_destroy (&sb);
    memset (device->bytes, 0, device->size);
    assert_int_equal (geometry_make (&geometry, device->size, MIB), 0);
    device->copies_left = stores;
    r = superblock_format (&sb, pmem, &geometry, uuid, 5,
                           segment_table_format);
    if (stores < 2 * SEGMENTS)
      assert_int_equal (r, -EIO);
    if (r == 0)
      assert_int_equal (verdict_on (device), SUPERBLOCK_OK);
  }

  superblock_destroy (&sb);
  device->copies_left = -1;
  device->hook = refuse_copy_a;
  assert_int_equal (superblock_format (&sb, pmem, &geometry, uuid, 5,
                                       segment_table_format), -EIO);
  assert_int_equal (verdict_on (device), SUPERBLOCK_HALF_FORMATTED);
}

/* --- P5 --------------------------------------------------------------- */

enum damage { BLANK, FOREIGN, CORRUPT, UNREADABLE };

static void
damage_superblock (int copy, enum damage damage)
{
  uint8_t *at = device->bytes + SUPERBLOCK_AT (copy);

  switch (damage) {
  case BLANK:
    memset (at, 0, sizeof (struct media_superblock));
    break;
  case FOREIGN:
    memset (at, 'x', sizeof (struct media_superblock));
    break;
  case CORRUPT:
    at[1000] ^= 1;
    break;
  case UNREADABLE:
    device->bad_at = SUPERBLOCK_AT (copy) + 100;
    device->bad_length += 1;
    break;
  }
}

/* T9: two bad copies are not a new device, unless both are blank. */
static void
two_bad_superblocks_are_refused (void **state)
{
  (void) state;
  for (enum damage a = BLANK; a <= UNREADABLE; a++)
    for (enum damage b = BLANK; b <= UNREADABLE; b++) {
      tear_down (NULL);
      set_up (NULL);
      damage_superblock (0, a);
      damage_superblock (1, b);
      if (a == UNREADABLE && b == UNREADABLE) {
        device->bad_at = 0;
        device->bad_length = SUPERBLOCK_AT (1) + MEDIA_PAGE;
      }
      if (a == BLANK && b == BLANK)
        assert_int_equal (verdict_on (device), SUPERBLOCK_UNFORMATTED);
      else if (a == FOREIGN && b != CORRUPT)
        assert_refused ("not a pcache cache|pcache-format=force");
      else
        assert_refused ("both copies of the superblock|copy A at 0|"
                        "copy B at 524288|pcache-format=force");
    }
}

static void
one_good_superblock_is_enough (void **state)
{
  (void) state;
  for (enum damage damage = BLANK; damage <= UNREADABLE; damage++)
    for (int copy = 0; copy < 2; copy++) {
      tear_down (NULL);
      set_up (NULL);
      damage_superblock (copy, damage);
      reread ();
      assert_int_equal (sb.instance, 11);
      assert_int_equal (sb.start_is_foreign, damage == FOREIGN && copy == 0);
    }
}

static void
a_wrong_bit_in_the_magic_number_is_not_another_use (void **state)
{
  (void) state;
  device->bytes[3] ^= 1;
  reread ();
  assert_int_equal (sb.instance, 11);
  assert_false (sb.start_is_foreign);
}

/* A crash between the two copies leaves one behind: then the next media error in
 * the other would take back what was built on it. */
static void
a_copy_that_was_left_behind_catches_up (void **state)
{
  struct media_control behind;

  (void) state;
  for (int copy = 0; copy < 2; copy++) {
    assert_int_equal (control_advance (&sb, sb.tail_sequence + 100, 0), 0);
    behind = *control_on (device, copy);
    assert_int_equal (control_advance (&sb, sb.tail_sequence + 100, 0), 0);
    *control_on (device, copy) = behind;
    reread ();
    assert_int_equal (superblock_repair (&sb), 0);
    memset (control_on (device, !copy), 0x5a, sizeof behind);
    reread ();
    assert_int_equal (control_get (&sb).tail_sequence, 200 * (copy + 1));
  }
}

/* T9 */
static void
two_bad_control_blocks_are_refused (void **state)
{
  (void) state;
  control_on (device, 0)->reserved[0] = le64_of (1);
  reread ();
  control_on (device, 1)->reserved[0] = le64_of (1);
  assert_refused ("both copies of the control block|copy A at 4096|"
                  "copy B at 528384|pcache-format=force");
  memset (control_on (device, 0), 0, sizeof (struct media_control));
  memset (control_on (device, 1), 0, sizeof (struct media_control));
  assert_refused ("both copies of the control block|blank");
}

static enum superblock_verdict
look_verdict (void)
{
  struct pmem *look = memory_pmem_open (device);
  struct superblock seen;
  const enum superblock_verdict verdict = superblock_look (&seen, look);

  if (verdict == SUPERBLOCK_OK)
    assert_int_equal (seen.read_only, le64_get (seen.media.ro_compat) != 0);
  superblock_destroy (&seen);
  pmem_close (look);
  return verdict;
}

static void
unknown_features_are_refused_by_name (void **state)
{
  (void) state;
  for (unsigned bit = 0; bit < 64; bit++) {
    char words[100];

    for (int word = 0; word < 3; word++) {
      for (int copy = 0; copy < 2; copy++) {
        struct media_superblock *m = superblock_on (device, copy);

        m->compat = le64_of (word == 0 ? UINT64_C (1) << bit : 0);
        m->ro_compat = le64_of (word == 1 ? UINT64_C (1) << bit : 0);
        m->incompat = le64_of (word == 2 ? UINT64_C (1) << bit : 0);
      }
      seal_both ();
      snprintf (words, sizeof words, "%s feature bit %u ",
                word == 1 ? "read-only compatible" : "incompatible", bit);
      if (word == 0)
        assert_int_equal (verdict_on (device), SUPERBLOCK_OK);
      else
        assert_refused (words);
      /* A mere reader need not know those that only forbid changes. */
      assert_int_equal (look_verdict (), word == 2 ? SUPERBLOCK_REFUSED
                        : SUPERBLOCK_OK);
    }
  }
}

static void
another_version_is_refused (void **state)
{
  (void) state;
  for (int copy = 0; copy < 2; copy++)
    superblock_on (device, copy)->version = le32_of (2);
  seal_both ();
  assert_refused ("format version 2|reads version 1");
}

static void
a_device_that_shrank_is_noticed (void **state)
{
  (void) state;
  device->size -= MIB;
  assert_int_equal (verdict_on (device), SUPERBLOCK_CUT);
  device->size += MIB;
}

/* T11: a right checksum proves nothing.  Whatever stands in a field, the
 * cache is refused, or opened with all that is used as a size, a count or an
 * offset as it was. */
static void
no_field_of_a_superblock_is_believed (void **state)
{
  const struct geometry made = sb.geometry;
  const size_t bytes = sizeof (struct media_superblock)
    - MEDIA_EXPORT_BYTES - MEDIA_BACKING_ID_BYTES;
  unsigned opened = 0;

  (void) state;
  for (size_t at = sizeof (struct media_twin) - 16; at < bytes; at += 4)
    for (unsigned i = 0; i < edge_value_count; i++)
      for (size_t width = 4; width <= 8; width += 4) {
        struct superblock read;

        if (at % width != 0)
          continue;
        tear_down (NULL);
        set_up (NULL);
        for (int copy = 0; copy < 2; copy++)
          memcpy ((uint8_t *) superblock_on (device, copy) + at,
                  &edge_values[i], width);
        seal_both ();
        if (superblock_read (&read, pmem) == SUPERBLOCK_OK) {
          opened++;
          /* Slots that nobody uses. */
          assert_true (read.geometry.segment_capacity >= SEGMENTS);
          read.geometry.segment_capacity = made.segment_capacity;
          assert_memory_equal (&read.geometry, &made, sizeof made);
          assert_true (read.export_length <= sizeof read.export_name);
          assert_true (read.backing_id_length <= sizeof read.backing_id);
          assert_true (read.backing_size <= INT64_MAX);
        }
        superblock_destroy (&read);
      }
  assert_true (opened > 0);
}

/* --- binding ---------------------------------------------------------- */

static void
a_cache_remembers_whom_it_belongs_to (void **state)
{
  char name[MEDIA_EXPORT_BYTES + 2];

  (void) state;
  memset (name, 'n', sizeof name);
  name[MEDIA_EXPORT_BYTES + 1] = '\0';
  assert_int_equal (superblock_bind (&sb, 12345, name, NULL), -ENAMETOOLONG);
  assert_false (sb.bound);
  name[MEDIA_EXPORT_BYTES] = '\0';
  device->copies_left = 0;
  assert_int_equal (superblock_bind (&sb, 12345, name, "disk-7"), -EIO);
  assert_false (sb.bound);
  reread ();
  assert_false (sb.bound);

  assert_int_equal (superblock_bind (&sb, 12345, name, "disk-7"), 0);
  for (int i = 0; i < 2; i++) {
    assert_true (sb.bound);
    assert_int_equal (sb.backing_size, 12345);
    assert_int_equal (sb.export_length, MEDIA_EXPORT_BYTES);
    assert_memory_equal (sb.export_name, name, MEDIA_EXPORT_BYTES);
    assert_int_equal (sb.backing_id_length, 6);
    assert_memory_equal (sb.backing_id, "disk-7", 6);
    reread ();
  }
}

/* --- the control block ------------------------------------------------ */

static void
marks_only_move_forward (void **state)
{
  (void) state;
  assert_int_equal (control_advance (&sb, 10, 5), 0);
  assert_int_equal (control_advance (&sb, 9, 6), 0);
  assert_int_equal (control_get (&sb).tail_sequence, 10);
  assert_int_equal (control_advance (&sb, 11, 0), 0);
  assert_int_equal (control_set_gc_percent (&sb, 33), 0);
  for (int i = 0; i < 2; i++) {
    assert_int_equal (control_get (&sb).tail_sequence, 11);
    assert_int_equal (control_get (&sb).written_back, 6);
    assert_int_equal (control_get (&sb).gc_percent, 33);
    reread ();
  }
}

static void
a_mark_that_cannot_be_written_has_not_moved (void **state)
{
  (void) state;
  assert_int_equal (control_advance (&sb, 10, 5), 0);
  device->copy_error = -EIO;
  assert_int_equal (control_advance (&sb, 20, 6), -EIO);
  device->copy_error = 0;
  assert_int_equal (control_get (&sb).tail_sequence, 10);
  assert_int_equal (control_get (&sb).written_back, 5);
  device->sync_error = -EIO;
  assert_int_equal (control_set_gc_percent (&sb, 50), -EIO);
  device->sync_error = 0;
  assert_int_equal (control_get (&sb).gc_percent, GC_PERCENT_UNSET);
  assert_int_equal (control_advance (&sb, 30, 0), 0);
  reread ();
  assert_int_equal (control_get (&sb).tail_sequence, 30);
  assert_int_equal (control_get (&sb).written_back, 5);
}

/* T1 */
static void
losing_either_control_block_loses_no_mark (void **state)
{
  (void) state;
  for (uint64_t mark = 1; mark < 10; mark++) {
    assert_int_equal (control_advance (&sb, mark, mark * 2), 0);
    for (int copy = 0; copy < 2; copy++) {
      device->bad_at = CONTROL_AT (copy);
      device->bad_length = MEDIA_PAGE;
      reread ();
      assert_int_equal (control_get (&sb).tail_sequence, mark);
      assert_int_equal (control_get (&sb).written_back, mark * 2);
      device->bad_length = 0;
    }
  }
}

static bool
spare_is_blank (int copy)
{
  static const struct media_control blank;

  return memcmp (control_on (device, TWIN_SPARE (copy)), &blank,
                 sizeof blank) == 0;
}

struct marks {
  uint64_t before, after, random;
  unsigned seen;
  bool happened;
};

static void
cut_marks (struct memory_device *d, enum memory_event event, uint64_t at,
           size_t length, void *opaque)
{
  struct marks *marks = opaque;
  struct memory_device *image = memory_device_crash (d, &marks->random);
  struct pmem *p = memory_pmem_open (image);
  struct superblock s;
  uint64_t mark;

  (void) event;
  (void) at;
  (void) length;
  image->bad_at = d->bad_at;    /* a bad page stays bad */
  image->bad_length = d->bad_length;
  assert_int_equal (superblock_read (&s, p), SUPERBLOCK_OK);
  mark = control_get (&s).written_back;
  assert_true (mark == marks->after
               || (mark == marks->before && !marks->happened));
  superblock_destroy (&s);
  pmem_close (p);
  memory_device_free (image);
  marks->seen++;
}

/* The page of one copy takes no stores, or cannot be read either. */
static void
a_dead_control_block_stops_no_mark (void **state)
{
  for (int i = 0; i < 8; i++) {
    const int dead = i % 2;
    struct marks marks = { .random = seed + i };

    tear_down (state);
    reports_collect ();
    device = memory_device_new ((SEGMENTS + 2) * MIB, i / 4);
    pmem = memory_pmem_open (device);
    make_cache (11);
    memory_device_track (device, seed);
    device->opaque = &marks;
    device->refused = (struct range) { CONTROL_AT (dead), MEDIA_PAGE };
    if (i / 2 % 2) {
      device->bad_at = CONTROL_AT (dead);
      device->bad_length = MEDIA_PAGE;
    }
    for (uint64_t mark = 1; mark < 20; mark++) {
      if (mark == 13)
        device->refused.length = device->bad_length = 0;
      if (mark % 5 == 0) {
        reread ();
        assert_int_equal (superblock_repair (&sb), 0);
        assert_int_equal (control_get (&sb).written_back, mark - 1);
      }
      marks.before = mark - 1;
      marks.after = mark;
      marks.happened = false;
      device->hook = cut_marks;
      assert_int_equal (control_advance (&sb, mark * 10, mark), 0);
      marks.happened = true;
      cut_marks (device, MEMORY_SYNCED, 0, 0, &marks);
      device->hook = NULL;
      assert_int_equal (spare_is_blank (!dead), mark >= 13);
      assert_true (spare_is_blank (dead));
    }
    assert_true (marks.seen > 19 * 6);
    assert_true (reports_have (REPORT_ERROR, "control block: copy|"
                               "cannot be written|spare place"));
    /* T9: well again, and then both are damaged. */
    control_on (device, 0)->flags = le32_of (1);
    control_on (device, 1)->flags = le32_of (1);
    assert_refused ("both copies of the control block|copy A at 4096|"
                    "copy B at 528384|pcache-format=force");
  }
}

/* Both places of the side that went on alone are damaged: the other one was left
 * behind. */
static void
a_control_block_that_was_left_behind_is_refused (void **state)
{
  (void) state;
  device->refused = (struct range) { CONTROL_AT (0), MEDIA_PAGE };
  assert_int_equal (control_advance (&sb, 10, 5), 0);
  assert_int_equal (control_advance (&sb, 20, 6), 0);
  control_on (device, 1)->flags = le32_of (1);
  reread ();
  assert_int_equal (control_get (&sb).written_back, 6);
  control_on (device, TWIN_SPARE (1))->flags = le32_of (1);
  assert_refused ("both copies of the control block|older than what is damaged|"
                  "checksum wrong|pcache-format=force");
}

static void
formatting_leaves_blank_spares (void **state)
{
  struct geometry geometry;

  (void) state;
  device->refused = (struct range) { CONTROL_AT (0), MEDIA_PAGE };
  assert_int_equal (control_advance (&sb, 10, 5), 0);
  assert_false (spare_is_blank (1));
  device->refused.length = 0;
  memset (control_on (device, TWIN_SPARE (0)), 0x77,
          sizeof (struct media_control));
  for (uint32_t id = 0; id < SEGMENTS; id++)
    for (int copy = 0; copy < 2; copy++)
      *segment_on (device, id, TWIN_SPARE (copy)) =
        *segment_on (device, id, copy);
  superblock_destroy (&sb);
  make_cache (11);              /* the same instance even */
  for (int copy = 0; copy < 2; copy++)
    assert_true (spare_is_blank (copy));
  for (uint32_t id = 0; id < SEGMENTS; id++)
    for (int copy = 0; copy < 2; copy++)
      assert_int_equal (segment_on (device, id, TWIN_SPARE (copy))
                        ->twin.magic.raw, 0);
  reread ();
  assert_int_equal (control_get (&sb).written_back, 0);

  /* No new cache begins in its spares. */
  assert_int_equal (geometry_make (&geometry, device->size, MIB), 0);
  for (int copy = 0; copy < 2; copy++) {
    superblock_destroy (&sb);
    device->refused = (struct range) { CONTROL_AT (copy), MEDIA_PAGE };
    assert_int_equal (superblock_format (&sb, pmem, &geometry, uuid, 5,
                                         segment_table_format), -EIO);
    assert_int_equal (verdict_on (device), SUPERBLOCK_HALF_FORMATTED);
  }
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (the_parts_of_a_device_do_not_overlap),
    TEST (the_smallest_device_is_the_smallest),
    TEST (a_new_cache_is_read_back_as_it_was_made),
    TEST (a_crash_while_formatting_leaves_all_or_a_mark),
    TEST (formatting_that_fails_says_so),
    TEST (two_bad_superblocks_are_refused),
    TEST (one_good_superblock_is_enough),
    TEST (a_wrong_bit_in_the_magic_number_is_not_another_use),
    TEST (a_copy_that_was_left_behind_catches_up),
    TEST (two_bad_control_blocks_are_refused),
    TEST (unknown_features_are_refused_by_name),
    TEST (another_version_is_refused),
    TEST (a_device_that_shrank_is_noticed),
    TEST (no_field_of_a_superblock_is_believed),
    TEST (a_cache_remembers_whom_it_belongs_to),
    TEST (marks_only_move_forward),
    TEST (a_mark_that_cannot_be_written_has_not_moved),
    TEST (losing_either_control_block_loses_no_mark),
    TEST (a_dead_control_block_stops_no_mark),
    TEST (a_control_block_that_was_left_behind_is_refused),
    TEST (formatting_leaves_blank_spares),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

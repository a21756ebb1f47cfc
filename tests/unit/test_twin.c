/* SPDX-License-Identifier: BSD-3-Clause */

/* Doubled metadata: whatever happens to one copy, and whenever the power
 * goes, what was or what will be can be read. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/twin.h"
#include "support/media_tools.h"
#include "support/memory_pmem.h"
#include "support/seed.h"

#define DEVICE_SIZE 65536
#define AT_A 4096
#define AT_B 36864

struct content {
  struct media_twin twin;
  le64 value;
  uint8_t more[400];
};

static struct memory_device *device;
static struct pmem *pmem;
static struct twin twin;

static struct twin
new_twin (void)
{
  return (struct twin) {
    .at = { AT_A, AT_B },
    .magic = MAGIC_CONTROL,
    .seed = 7,
    .bytes = sizeof (struct content),
    .verdict = { TWIN_BLANK, TWIN_BLANK },
  };
}

static int
update (uint64_t value)
{
  struct content content = { .value = le64_of (value) };

  memset (content.more, (int) value, sizeof content.more);
  return twin_update (&twin, pmem, &content);
}

/* The value read from a device, as after an open; 0 if there is none. */
static uint64_t
value_on (struct memory_device *d)
{
  struct pmem *p = memory_pmem_open (d);
  struct twin fresh = new_twin ();
  struct content content;
  uint64_t value = 0;

  if (twin_read (&fresh, p, &content)) {
    value = le64_get (content.value);
    assert_int_equal (content.more[sizeof content.more - 1], value & 0xff);
  }
  pmem_close (p);
  return value;
}

/* As if the cache were opened again. */
static void
reopen (void)
{
  struct content content;

  twin = new_twin ();
  assert_true (twin_read (&twin, pmem, &content));
}

static int
set_up (void **state)
{
  (void) state;
  device = memory_device_new (DEVICE_SIZE, true);
  pmem = memory_pmem_open (device);
  twin = new_twin ();
  assert_int_equal (update (100), 0);
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  pmem_close (pmem);
  memory_device_free (device);
  return 0;
}

static void
both_copies_say_the_same_at_rest (void **state)
{
  (void) state;
  for (uint64_t value = 101; value < 110; value++) {
    assert_int_equal (update (value), 0);
    device->bad_length = sizeof (struct content);
    device->bad_at = AT_A;
    assert_int_equal (value_on (device), value);
    device->bad_at = AT_B;
    assert_int_equal (value_on (device), value);
    device->bad_length = 0;
  }
}

/* Where the first store of an update went. */
static uint64_t first_store_at;

static void
note_first_store (struct memory_device *d, enum memory_event event,
                  uint64_t at, size_t length, void *opaque)
{
  (void) d;
  (void) length;
  (void) opaque;
  if (event == MEMORY_BEFORE_COPY && first_store_at == 0)
    first_store_at = at;
}

static uint64_t
first_store_of_update (uint64_t value)
{
  first_store_at = 0;
  device->hook = note_first_store;
  assert_int_equal (update (value), 0);
  device->hook = NULL;
  return first_store_at;
}

/* Make one copy older than the other. */
static void
leave_newest_in (int copy)
{
  uint8_t older[sizeof (struct content)];
  const uint64_t other = copy == 0 ? AT_B : AT_A;

  memcpy (older, device->bytes + other, sizeof older);
  assert_int_equal (update (110), 0);
  memcpy (device->bytes + other, older, sizeof older);
}

/* T1 */
static void
the_newest_copy_is_never_the_first_to_be_written_over (void **state)
{
  (void) state;
  for (int copy = 0; copy < 2; copy++) {
    const uint64_t newest = copy == 0 ? AT_A : AT_B;

    /* The other copy is older, not valid, or not readable. */
    leave_newest_in (copy);
    reopen ();
    assert_int_not_equal (first_store_of_update (111), newest);

    leave_newest_in (copy);
    device->bytes[(newest ^ AT_A ^ AT_B) + 50] ^= 1;
    reopen ();
    assert_int_not_equal (first_store_of_update (112), newest);

    leave_newest_in (copy);
    memset (device->bytes + (newest ^ AT_A ^ AT_B), 0, 200);
    reopen ();
    assert_int_not_equal (first_store_of_update (113), newest);

    leave_newest_in (copy);
    device->bad_at = newest ^ AT_A ^ AT_B;
    device->bad_length = 8;
    reopen ();
    device->bad_length = 0;
    assert_int_not_equal (first_store_of_update (114), newest);
  }
}

/* T1: in particular, right after an open, when an earlier life was cut
 * short after its first store. */
static void
the_first_update_after_an_open_spares_the_newest (void **state)
{
  uint64_t current = 100;

  (void) state;
  for (uint64_t value = 101; value < 120; value++) {
    /* The power goes in the middle of the first or the second store. */
    device->copies_left = value % 3 == 0 ? 1 : 0;
    if (update (value) == 0)
      current = value;
    assert_int_equal (value_on (device), current);
    reopen ();
  }
  assert_int_equal (current, 117);
}

struct instants {
  uint64_t before, after, random;
  unsigned seen;
  bool happened;
};

static void
cut_the_power (struct memory_device *d, enum memory_event event, uint64_t at,
               size_t length, void *opaque)
{
  struct instants *instants = opaque;

  (void) event;
  (void) at;
  (void) length;
  for (int i = 0; i < 20; i++) {
    struct memory_device *image = memory_device_crash (d, &instants->random);
    const uint64_t value = value_on (image);

    if (value != instants->before && value != instants->after)
      fail_msg ("neither old nor new: %ju", (uintmax_t) value);
    if (instants->happened && value != instants->after)
      fail_msg ("the update had happened, and is gone");
    instants->happened |= value == instants->after
      && event == MEMORY_SYNCED;
    memory_device_free (image);
  }
  instants->seen++;
}

/* Also on a device on which a fence means nothing. */
static void
a_power_cut_leaves_what_was_or_what_will_be (void **state)
{
  (void) state;
  for (int ordered = 0; ordered < 2; ordered++) {
    struct instants instants = { .before = 100, .random = seed };

    tear_down (NULL);
    device = memory_device_new (DEVICE_SIZE, ordered);
    pmem = memory_pmem_open (device);
    twin = new_twin ();
    assert_int_equal (update (100), 0);
    memory_device_track (device, seed + 1);
    for (uint64_t value = 101; value < 120; value++) {
      instants.after = value;
      instants.happened = false;
      device->hook = cut_the_power;
      device->opaque = &instants;
      assert_int_equal (update (value), 0);
      /* It has returned: it must have happened. */
      instants.happened = true;
      cut_the_power (device, MEMORY_SYNCED, 0, 0, &instants);
      device->hook = NULL;
      instants.before = value;
    }
    assert_true (instants.seen > 19 * 4);
  }
}

static void
a_failed_update_leaves_the_last_copy_alone (void **state)
{
  (void) state;
  /* Copy A cannot be written any more; it is the first to be tried. */
  leave_newest_in (1);
  reopen ();
  device->refused = (struct range) { AT_A, sizeof (struct content) };
  for (uint64_t value = 111; value < 115; value++) {
    assert_int_equal (update (value), -EIO);
    assert_int_equal (value_on (device), 110);
  }
  device->refused.length = 0;
  assert_int_equal (update (120), 0);
  assert_int_equal (value_on (device), 120);
}

static void
a_second_copy_that_fails_does_not_undo_the_update (void **state)
{
  (void) state;
  leave_newest_in (1);
  reopen ();
  device->refused = (struct range) { AT_B, sizeof (struct content) };
  assert_int_equal (update (111), 0);
  assert_int_equal (value_on (device), 111);
  /* From now on copy A is the last one that is whole. */
  device->refused.length = 0;
  assert_int_equal (first_store_of_update (112), AT_B);
  assert_int_equal (value_on (device), 112);
}

static void
an_update_that_was_not_synced_has_not_happened (void **state)
{
  (void) state;
  device->sync_error = -EIO;
  assert_int_equal (update (101), -EIO);
  device->sync_error = 0;
  assert_int_equal (update (102), 0);
  assert_int_equal (value_on (device), 102);
}

static void
every_changed_byte_is_noticed (void **state)
{
  (void) state;
  for (size_t i = 0; i < sizeof (struct content); i++) {
    struct content content;

    device->bytes[AT_A + i] ^= 0x20;
    twin = new_twin ();
    assert_true (twin_read (&twin, pmem, &content));
    assert_int_not_equal (twin.verdict[0], TWIN_OK);
    assert_int_equal (twin.verdict[1], TWIN_OK);
    assert_int_equal (le64_get (content.value), 100);
    device->bytes[AT_B + i] ^= 0x01;
    assert_false (twin_read (&twin, pmem, &content));
    device->bytes[AT_A + i] ^= 0x20;
    device->bytes[AT_B + i] ^= 0x01;
  }
}

/* A misdirected write, or a stale copy of one place at another. */
static void
a_copy_counts_only_in_its_own_place (void **state)
{
  struct content content;

  (void) state;
  assert_int_equal (update (101), 0);
  memcpy (device->bytes + AT_A, device->bytes + AT_B, sizeof content);
  twin = new_twin ();
  assert_true (twin_read (&twin, pmem, &content));
  assert_int_equal (twin.verdict[0], TWIN_CORRUPT);
}

static void
a_copy_of_another_cache_does_not_count (void **state)
{
  struct content content;

  (void) state;
  twin = new_twin ();
  twin.seed++;
  assert_false (twin_read (&twin, pmem, &content));
  assert_int_equal (twin.verdict[0], TWIN_CORRUPT);
}

static void
the_verdict_says_what_is_there (void **state)
{
  struct content content;

  (void) state;
  memset (device->bytes + AT_A, 0, sizeof content);
  memset (device->bytes + AT_B, 0x41, sizeof content);
  assert_false (twin_read (&twin, pmem, &content));
  assert_int_equal (twin.verdict[0], TWIN_BLANK);
  assert_int_equal (twin.verdict[1], TWIN_FOREIGN);

  /* Not blank, even if it begins with zeros. */
  device->bytes[AT_A + sizeof content - 1] = 1;
  device->bad_at = AT_B + sizeof content - 1;
  device->bad_length = 1;
  assert_false (twin_read (&twin, pmem, &content));
  assert_int_equal (twin.verdict[0], TWIN_FOREIGN);
  assert_int_equal (twin.verdict[1], TWIN_UNREADABLE);
  device->bad_length = 0;

  /* Beyond the end of the device. */
  twin.at[1] = DEVICE_SIZE - sizeof content + 1;
  assert_false (twin_read (&twin, pmem, &content));
  assert_int_equal (twin.verdict[1], TWIN_UNREADABLE);
  twin.at[1] = UINT64_MAX - 8;
  assert_false (twin_read (&twin, pmem, &content));
  assert_int_equal (twin.verdict[1], TWIN_UNREADABLE);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (both_copies_say_the_same_at_rest),
    TEST (the_newest_copy_is_never_the_first_to_be_written_over),
    TEST (the_first_update_after_an_open_spares_the_newest),
    TEST (a_power_cut_leaves_what_was_or_what_will_be),
    TEST (a_failed_update_leaves_the_last_copy_alone),
    TEST (a_second_copy_that_fails_does_not_undo_the_update),
    TEST (an_update_that_was_not_synced_has_not_happened),
    TEST (every_changed_byte_is_noticed),
    TEST (a_copy_counts_only_in_its_own_place),
    TEST (a_copy_of_another_cache_does_not_count),
    TEST (the_verdict_says_what_is_there),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

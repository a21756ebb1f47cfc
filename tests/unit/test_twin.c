/* SPDX-License-Identifier: BSD-3-Clause */

/* Doubled metadata: whatever happens to one copy, and whenever the power
 * goes, what was or what will be can be read. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/twin.h"
#include "support/media_tools.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define DEVICE_SIZE 65536
#define AT_A 4096
#define AT_B 36864
#define PAGE 4096
#define SPARE 2048              /* from a home, in the tests that have one */

struct content {
  struct media_twin twin;
  le64 value;
  uint8_t more[400];
};

static struct memory_device *device;
static struct pmem *pmem;
static struct twin twin;
static bool with_spares;

static struct twin
new_twin (void)
{
  return (struct twin) {
    .at = { AT_A, AT_B },
    .spare = with_spares ? SPARE : 0,
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
set_up_with_spares (void **state)
{
  with_spares = true;
  reports_collect ();
  return set_up (state);
}

static int
tear_down (void **state)
{
  (void) state;
  pmem_close (pmem);
  memory_device_free (device);
  return 0;
}

static int
tear_down_with_spares (void **state)
{
  with_spares = false;
  return tear_down (state);
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
    uint64_t value;

    image->bad_at = d->bad_at;  /* a bad page stays bad */
    image->bad_length = d->bad_length;
    value = value_on (image);
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

/* --- spares ----------------------------------------------------------- */

static uint64_t
place_at (int place)
{
  return (place % 2 == 0 ? AT_A : AT_B) + (place < 2 ? 0 : SPARE);
}

static bool
is_blank (int place)
{
  static const struct content blank;

  return memcmp (device->bytes + place_at (place), &blank, sizeof blank) == 0;
}

/* A fault: which stores are refused.  The last ones: a whole page. */
static const struct range faults[] = {
  { 0, 0 },
  { AT_A, sizeof (struct content) },
  { AT_B, sizeof (struct content) },
  { AT_A + SPARE, sizeof (struct content) },
  { AT_B + SPARE, sizeof (struct content) },
  { AT_A, PAGE },
  { AT_B, PAGE },
};
#define FAULTS (sizeof faults / sizeof *faults)

/* At rest: two places or more say VALUE, and losing either loses nothing. */
static void
assert_twice (uint64_t value)
{
  unsigned places = 0;

  assert_int_equal (value_on (device), value);
  for (int place = 0; place < TWIN_PLACES; place++) {
    struct content *content =
      (struct content *) (device->bytes + place_at (place));

    if (le64_get (content->value) != value)
      continue;
    places++;
    content->more[17] ^= 1;
    assert_int_equal (value_on (device), value);
    content->more[17] ^= 1;
    device->bad_at = place_at (place);
    device->bad_length = sizeof (struct content);
    assert_int_equal (value_on (device), value);
    device->bad_length = 0;
  }
  assert_true (places >= 2);
}

/* Nothing but the page that takes no stores can be lost with it. */
static void
assert_not_in_the_dead_page (uint64_t value)
{
  if (device->refused.length == 0)
    return;
  device->bad_at = device->refused.start / PAGE * PAGE;
  device->bad_length = PAGE;
  assert_int_equal (value_on (device), value);
  device->bad_length = 0;
}

static void
start_over (bool ordered)
{
  tear_down (NULL);
  device = memory_device_new (DEVICE_SIZE, ordered);
  pmem = memory_pmem_open (device);
  twin = new_twin ();
  assert_int_equal (update (100), 0);
}

static void
spares_stay_blank_as_long_as_all_is_well (void **state)
{
  (void) state;
  for (uint64_t value = 101; value < 110; value++) {
    assert_int_equal (update (value), 0);
    assert_twice (value);
    assert_true (is_blank (2) && is_blank (3));
    assert_true (twin_is_whole (&twin));
  }
  assert_int_equal (reports_count (REPORT_ERROR), 0);
  /* T9: so they do not help where both copies are gone. */
  device->bytes[AT_A + 50] ^= 1;
  device->bytes[AT_B + 50] ^= 1;
  assert_int_equal (value_on (device), 0);
}

/* One home is dead: each update happens, at whatever instant the power goes, and
 * then is in two places again. */
static void
a_dead_home_stops_nothing (void **state)
{
  (void) state;
  for (unsigned i = 0; i < 2 * FAULTS; i++) {
    struct instants instants = { .before = 100, .random = seed + i };

    start_over (i % 2);
    memory_device_track (device, seed + i);
    device->opaque = &instants;
    device->refused = faults[i / 2];
    for (uint64_t value = 101; value < 130; value++) {
      if (value == 115)
        device->refused.length = 0;     /* it is well again */
      if (value == 125)
        device->refused = faults[i / 2];
      instants.after = value;
      instants.happened = false;
      device->hook = cut_the_power;
      assert_int_equal (update (value), 0);
      instants.happened = true;
      cut_the_power (device, MEMORY_SYNCED, 0, 0, &instants);
      device->hook = NULL;
      instants.before = value;
      assert_twice (value);
      assert_not_in_the_dead_page (value);
      if (value == 120)
        assert_true (twin_is_whole (&twin) && is_blank (2) && is_blank (3));
      if (value % 4 == 0)
        reopen ();
    }
  }
}

/* Faults come and go, one at a time, and the power goes at any time. */
static void
whatever_fails_next_nothing_is_lost (void **state)
{
  uint64_t random = seed, current = 100;
  const unsigned rounds = 2000;

  (void) state;
  start_over (true);
  for (uint64_t value = 101; value < 101 + rounds; value++) {
    struct instants instants = {
      .before = current, .after = value, .random = random_next (&random),
    };
    struct memory_device *next;

    if (device->tracker == NULL)
      memory_device_track (device, random_next (&random));
    if (random_below (&random, 3) == 0)
      device->refused = faults[random_below (&random, FAULTS)];
    device->opaque = &instants;
    device->hook = cut_the_power;
    assert_int_equal (update (value), 0);
    instants.happened = true;
    cut_the_power (device, MEMORY_SYNCED, 0, 0, &instants);
    device->hook = NULL;
    current = value;
    assert_twice (value);
    assert_not_in_the_dead_page (value);
    if (random_below (&random, 4) != 0)
      continue;

    /* A store that fails halfway may be one too many; then the power goes. */
    device->copies_left = random_below (&random, 4);
    if (update (++value) == 0)
      current = value;
    instants.before = current;
    instants.after = value;
    instants.happened = current == value;
    cut_the_power (device, MEMORY_COPIED, 0, 0, &instants);
    next = memory_device_crash (device, &random);
    next->refused = device->refused;
    pmem_close (pmem);
    memory_device_free (device);
    device = next;
    pmem = memory_pmem_open (device);
    current = value_on (device);
    reopen ();
  }
}

/* A page went bad since the last update, and at the next one the power goes. */
static void
what_an_update_counts_on_is_still_there (void **state)
{
  (void) state;
  for (unsigned i = 0; i < 4; i++) {
    struct instants instants = {
      .before = 100, .after = 101, .random = seed + i,
    };

    start_over (i / 2);
    memory_device_track (device, seed + i);
    device->opaque = &instants;
    device->refused = faults[5 + i % 2];
    device->bad_at = device->refused.start;
    device->bad_length = PAGE;
    device->hook = cut_the_power;
    assert_int_equal (update (101), 0);
    device->hook = NULL;
    assert_true (instants.seen >= 4);
  }
}

/* T1: the place that is the newest of the last two is not written over. */
static void
the_last_place_that_is_whole_is_left_alone (void **state)
{
  (void) state;
  device->refused = faults[5];
  for (int torn = 0; torn < 2; torn++) {
    const uint64_t at = place_at (torn == 0 ? 1 : TWIN_SPARE (1));

    assert_int_equal (update (200 + torn), 0);
    device->bytes[at + 60] ^= 1;
    reopen ();
    assert_int_equal (value_on (device), 200 + torn);
    assert_int_equal (first_store_of_update (201 + torn), at);
  }
  /* And if the other one is dead as well, it stays as it is. */
  device->refused_too = faults[4];
  assert_int_equal (update (400), -EIO);
  assert_int_equal (update (401), -EIO);
  assert_int_equal (value_on (device), 202);
  device->refused_too.length = 0;
  assert_int_equal (update (402), 0);
  assert_twice (402);
}

/* It could be what was, long ago. */
static void
a_spare_is_gone_when_both_homes_are_well (void **state)
{
  (void) state;
  device->refused = faults[5];
  assert_int_equal (update (101), 0);
  assert_false (is_blank (TWIN_SPARE (1)));
  device->refused.length = 0;
  reopen ();
  assert_int_equal (update (102), 0);
  assert_true (is_blank (TWIN_SPARE (0)) && is_blank (TWIN_SPARE (1)));
  device->bytes[AT_A + 50] ^= 1;
  device->bytes[AT_B + 50] ^= 1;
  assert_int_equal (value_on (device), 0);
}

/* A spare that cannot be wiped: the other side goes on alone, lest what was
 * comes back. */
static void
a_spare_that_cannot_be_wiped_does_not_count_again (void **state)
{
  (void) state;
  device->refused = faults[5];
  assert_int_equal (update (101), 0);
  device->refused = faults[4];
  for (uint64_t value = 102; value < 106; value++) {
    assert_int_equal (update (value), 0);
    assert_int_equal (value_on (device), value);
    device->bytes[AT_A + 50] ^= 1;
    assert_int_equal (value_on (device), value);
    device->bytes[AT_A + SPARE + 50] ^= 1;
    /* The stale spare of B is valid, and so is home B. */
    assert_int_equal (value_on (device), 0);
    device->bytes[AT_A + 50] ^= 1;
    assert_int_equal (value_on (device), value);
    device->bytes[AT_A + SPARE + 50] ^= 1;
    assert_twice (value);
  }
}

/* No crash damages both places of a side that is alone: what the dead home says
 * was left behind long ago. */
static void
a_home_that_was_left_behind_is_not_believed (void **state)
{
  struct content content;

  (void) state;
  device->refused = faults[1];
  assert_int_equal (update (101), 0);
  assert_int_equal (update (102), 0);
  device->bytes[place_at (1) + 50] ^= 1;
  device->bytes[place_at (3) + 50] ^= 1;
  twin = new_twin ();
  assert_false (twin_read (&twin, pmem, &content));
  assert_int_equal (twin.verdict[0], TWIN_OVERRULED);
  assert_int_equal (twin.verdict[1], TWIN_CORRUPT);
  /* Whichever part of the spare it is. */
  device->bytes[place_at (3) + 50] ^= 1;
  device->bytes[place_at (3)] ^= 1;
  assert_int_equal (value_on (device), 0);

  /* Both of these and one that cannot be read: nothing. */
  device->bad_at = AT_A;
  device->bad_length = PAGE;
  assert_int_equal (value_on (device), 0);
  /* One of these and one that cannot be read: that is what a crash leaves. */
  device->bytes[place_at (1) + 50] ^= 1;
  assert_int_equal (value_on (device), 102);
}

/* A page in which everything is damaged says nothing about the other. */
static void
a_page_of_garbage_costs_nothing (void **state)
{
  (void) state;
  assert_int_equal (update (101), 0);
  for (int copy = 0; copy < 2; copy++) {
    memset (device->bytes + place_at (copy), 0xa5, PAGE);
    assert_int_equal (value_on (device), 101);
    reopen ();
    assert_false (twin_is_whole (&twin));
    assert_int_equal (update (101), 0);
    assert_true (twin_is_whole (&twin));
    assert_true (is_blank (2) && is_blank (3));
  }
}

/* What was tried and reported as failed may have arrived nevertheless. */
static void
the_number_of_a_failed_update_is_not_used_again (void **state)
{
  (void) state;
  device->sync_error = -EIO;
  assert_int_equal (update (101), -EIO);
  device->sync_error = 0;
  device->refused = faults[1];  /* where it arrived */
  assert_int_equal (update (102), 0);
  assert_int_equal (value_on (device), 102);
}

static void
it_is_said_once (void **state)
{
  struct stats *stats = stats_new ();

  (void) state;
  twin.what = "thing";
  twin.stats = stats;
  device->refused = faults[5];
  for (uint64_t value = 101; value < 105; value++)
    assert_int_equal (update (value), 0);
  assert_int_equal (reports_count (REPORT_ERROR), 1);
  assert_true (reports_have (REPORT_ERROR, "thing: copy A (at 4096|"
                             "going on with copy B"));
  assert_int_equal (stats_get (stats, STAT_media_errors), 1);
  device->refused = faults[0];
  assert_int_equal (update (105), 0);
  device->refused = faults[6];
  assert_int_equal (update (106), 0);
  assert_int_equal (update (107), 0);
  assert_int_equal (reports_count (REPORT_ERROR), 2);
  assert_int_equal (stats_get (stats, STAT_media_errors), 2);
  stats_free (stats);
}

/* Whatever lay in the spares before: it is not the new content's. */
static void
what_is_new_begins_with_blank_spares (void **state)
{
  struct content content = { .value = le64_of (1) };

  (void) state;
  device->refused = faults[5];
  assert_int_equal (update (101), 0);
  device->refused = faults[0];
  memset (device->bytes + place_at (2), 0x5a, sizeof content);
  memset (content.more, 1, sizeof content.more);
  twin = new_twin ();
  assert_int_equal (twin_write_new (&twin, pmem, &content), 0);
  assert_true (is_blank (2) && is_blank (3));
  assert_twice (1);
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
#undef TEST
#define TEST(name) cmocka_unit_test_setup_teardown (name,               \
                                                    set_up_with_spares, \
                                                    tear_down_with_spares)
    TEST (spares_stay_blank_as_long_as_all_is_well),
    TEST (a_power_cut_leaves_what_was_or_what_will_be),
    TEST (the_newest_copy_is_never_the_first_to_be_written_over),
    TEST (a_dead_home_stops_nothing),
    TEST (whatever_fails_next_nothing_is_lost),
    TEST (what_an_update_counts_on_is_still_there),
    TEST (the_last_place_that_is_whole_is_left_alone),
    TEST (a_spare_is_gone_when_both_homes_are_well),
    TEST (a_spare_that_cannot_be_wiped_does_not_count_again),
    TEST (a_home_that_was_left_behind_is_not_believed),
    TEST (a_page_of_garbage_costs_nothing),
    TEST (the_number_of_a_failed_update_is_not_used_again),
    TEST (it_is_said_once),
    TEST (what_is_new_begins_with_blank_spares),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* Thousands of power cuts.
 *
 * One client writes, flushes and reads at random; the services run at random;
 * the power goes at a random store, fence, sync or request to the disk, and
 * takes with it whatever it may (memory_pmem.h, memory_backend.h).  Then the
 * cache is opened again, and the history goes on.
 *
 * The oracle knows, of each block, the versions written to it, and of each
 * version, in which of the client's epochs it was written.  At all times:
 *
 *   P1, P2  after a power cut a block holds the version it had at the last
 *           flush, or one that was written since;
 *   P3      if the disk, with any part of its volatile cache lost, holds
 *           something of epoch e, it holds nothing older than what was the
 *           newest in e - 1. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/gc.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"
#include "support/small_engine.h"

#define BLOCK UINT64_C (512)
#define BLOCKS 6144             /* 3 MiB: more than the cache keeps */
#define MAX_RUN 256             /* blocks of one request */
#define KEPT 16                 /* versions remembered of a block */

/* Seeds that once failed, if only because of the oracle. */
static const uint64_t old_seeds[] = { 1, 4711, 1795264608961 };

struct history {
  struct { uint32_t version, epoch; bool is_zero; } of[KEPT]; /* ascending */
  unsigned count;
  uint32_t fua;                 /* this version is durable by itself */
};

struct world {
  struct small_engine *small;
  uint64_t random;
  struct history block[BLOCKS];
  uint32_t version, epoch;      /* the last one used, the open one */
  uint32_t flushed_version;     /* versions up to it are durable */
  uint64_t events_left;         /* until the power goes */
  struct memory_device *image;  /* it has gone: what it left */
  bool with_zeros, batch;

  uint32_t disk_epoch;          /* the newest that the disk has something of */
  unsigned crashes;
};

static struct world w;
static uint8_t buf[MAX_RUN * 512];

/* --- versions --------------------------------------------------------- */

/* A block says which block and version it is; version 0 is zeros. */
static void
make_block (uint8_t *p, uint64_t n, uint32_t version)
{
  const uint64_t word = version == 0 ? 0
    : (n << 32 | version) * UINT64_C (0x9e3779b97f4a7c15);

  for (unsigned i = 0; i < BLOCK; i += sizeof word)
    memcpy (p + i, &word, sizeof word);
}

static uint32_t
version_in (const uint8_t *p, uint64_t n)
{
  uint64_t word, other;

  memcpy (&word, p, sizeof word);
  for (unsigned i = 8; i < BLOCK; i += sizeof word) {
    memcpy (&other, p + i, sizeof other);
    if (other != word)
      fail_msg ("seed %" PRIu64 ": block %" PRIu64 " is torn", seed, n);
  }
  if (word == 0)
    return 0;
  word *= UINT64_C (0xf1de83e19937733d);        /* the inverse */
  if (word >> 32 != n)
    fail_msg ("seed %" PRIu64 ": block %" PRIu64 " has bytes of block %"
              PRIu64, seed, n, word >> 32);
  return word;
}

static void
remember (uint64_t n, uint32_t version, bool is_zero)
{
  struct history *h = &w.block[n];

  if (h->count == KEPT) {
    memmove (h->of, h->of + 1, (KEPT - 1) * sizeof h->of[0]);
    h->count--;
  }
  h->of[h->count].is_zero = is_zero;
  h->of[h->count].version = version;
  h->of[h->count++].epoch = w.epoch;
}

static uint32_t
newest (const struct history *h)
{
  return h->count ? h->of[h->count - 1].version : 0;
}

/* The newest version of an epoch up to EPOCH. */
static uint32_t
newest_through (const struct history *h, uint32_t epoch)
{
  for (unsigned i = h->count; i > 0; i--)
    if (h->of[i - 1].epoch <= epoch)
      return h->of[i - 1].version;
  return 0;
}

static uint32_t
epoch_of (const struct history *h, uint32_t version)
{
  for (unsigned i = 0; i < h->count; i++)
    if (h->of[i].version == version)
      return h->of[i].epoch;
  return 0;
}

/* --- P3 --------------------------------------------------------------- */

static void
check_not_older (uint64_t n, uint32_t version, const char *where)
{
  const uint32_t must = newest_through (&w.block[n], w.disk_epoch - 1);

  if (version < must)
    fail_msg ("seed %" PRIu64 ": P3: the disk has something of epoch %u, but "
              "block %" PRIu64 " (%s) has version %u, which is older than %u",
              seed, w.disk_epoch, n, where, version, must);
}

static void
check_disk (struct memory_backend *mb, enum backend_event event,
            struct range range, const void *bytes, void *opaque)
{
  uint32_t epoch = w.disk_epoch;

  (void) opaque;
  if (event != BACKEND_WRITE || w.with_zeros || w.batch)
    return;
  for (uint64_t i = 0; i < range.length; i += BLOCK) {
    const uint64_t n = (range.start + i) / BLOCK;
    const uint32_t version = version_in ((const uint8_t *) bytes + i, n);

    epoch = MAX (epoch, epoch_of (&w.block[n], version));
  }
  if (epoch > w.disk_epoch) {
    w.disk_epoch = epoch;
    for (uint64_t n = 0; n < BLOCKS; n++)
      check_not_older (n, version_in (mb->stable + n * BLOCK, n), "stable");
    for (size_t i = 0; i < mb->unflushed_count; i++)
      for (uint64_t at = mb->unflushed[i].start;
           at < range_end (mb->unflushed[i]); at += BLOCK)
        check_not_older (at / BLOCK, version_in (mb->bytes + at, at / BLOCK),
                         "not flushed");
  }
  for (uint64_t i = 0; i < range.length; i += BLOCK) {
    const uint64_t n = (range.start + i) / BLOCK;

    check_not_older (n, version_in ((const uint8_t *) bytes + i, n),
                     "written");
  }
}

/* --- the power -------------------------------------------------------- */

static void
count_event (void)
{
  if (w.image == NULL && w.events_left-- == 0) {
    w.image = memory_device_crash (w.small->device, &w.random);
    memory_backend_crash (w.small->disk, &w.random);
    /* What the engine still does until the call returns reaches nobody. */
    w.small->disk->before = NULL;
    w.small->disk->write_error = w.small->disk->flush_error = -EIO;
    w.small->disk->zero_error = -EIO;
    w.small->disk->backend.can_trim = false;
  }
}

static void
device_event (struct memory_device *d, enum memory_event event, uint64_t at,
              size_t length, void *opaque)
{
  (void) d;
  (void) event;
  (void) at;
  (void) length;
  (void) opaque;
  count_event ();
}

static void
disk_event (struct memory_backend *mb, enum backend_event event,
            struct range range, const void *bytes, void *opaque)
{
  check_disk (mb, event, range, bytes, opaque);
  count_event ();
}

static void
power_on (void)
{
  struct small_engine *small = w.small;

  small->disk->before = disk_event;
  small->disk->write_error = small->disk->flush_error = 0;
  small->disk->zero_error = 0;
  small->disk->backend.can_trim = true;
  small->device->hook = device_event;
  w.events_left = random_below (&w.random, w.crashes % 3 ? 300 : 5000);
}

/* Does version FOUND (0: zeros) tell of entry I of the history? */
static bool
fits (const struct history *h, unsigned i, uint32_t found)
{
  return found == (h->of[i].is_zero ? 0 : h->of[i].version);
}

/* P1, P2: what is there now is what there is. */
static void
check_block (uint64_t n, uint32_t found)
{
  struct history *h = &w.block[n];
  unsigned floor = 0, i;

  for (i = 0; i < h->count; i++)
    if (h->of[i].version <= w.flushed_version || h->of[i].version <= h->fua)
      floor = i;
  for (i = h->count; i > floor; i--)
    if (fits (h, i - 1, found))
      break;
  if (i > floor) {
    unsigned flushed = 0;

    while (flushed < i - 1 && h->of[flushed].version <= w.flushed_version)
      flushed++;
    /* What came later is lost.  What came in between, since the last flush,
     * may be: FUA makes its own write durable, and what that overwrote need
     * never have reached a disk. */
    h->of[flushed] = h->of[i - 1];
    h->count = flushed + 1;
  }
  else if (found == 0 && (h->count == 0
                          || (h->of[0].version > w.flushed_version
                              && h->of[0].version > h->fua)))
    h->count = 0;
  else
    fail_msg ("seed %" PRIu64 ": crash %u: block %" PRIu64 " has version %u; "
              "%u was durable, %u written last", seed, w.crashes, n, found,
              h->count ? h->of[floor].version : 0, newest (h));
}

static void
take_stock (void)
{
  for (uint64_t n = 0; n < BLOCKS; n++) {
    if (n % MAX_RUN == 0) {
      const int r = get (w.small, n * BLOCK, sizeof buf, buf);

      if (r < 0)
        fail_msg ("seed %" PRIu64 ": cannot read block %" PRIu64 ": %s", seed,
                  n, strerror (-r));
    }
    check_block (n, version_in (buf + n % MAX_RUN * BLOCK, n));
  }
}

/* Go on with what the power cut left. */
static void
crash (void)
{
  struct memory_device *image = w.image;

  w.image = NULL;
  w.crashes++;
  small_engine_use (w.small, image);
  memory_device_track (image, random_next (&w.random));
  power_on ();
  /* The power may go again while it is opened. */
  if (random_below (&w.random, 4) > 0)
    w.events_left = UINT64_MAX;
  small_engine_open (w.small);
  if (w.image != NULL) {
    crash ();
    return;
  }
  w.events_left = UINT64_MAX;
  take_stock ();
  w.flushed_version = w.version;
  w.epoch++;
  if (w.image == NULL)
    power_on ();
}

/* --- the client ------------------------------------------------------- */

static struct range
random_blocks (void)
{
  const uint64_t count = 1 + random_below (&w.random,
                                           random_below (&w.random, 4) ? 12
                                           : MAX_RUN);
  /* A few blocks are hot. */
  const uint64_t among = random_below (&w.random, 2) ? 512 : BLOCKS;

  return (struct range) { random_below (&w.random, among - count + 1), count };
}

static void
client_writes (bool zeros)
{
  const struct range r = random_blocks ();
  const struct range bytes = { r.start * BLOCK, r.length * BLOCK };
  const bool fua = random_below (&w.random, 16) == 0;
  int result;

  w.version++;
  for (uint64_t i = 0; i < r.length; i++) {
    make_block (buf + i * BLOCK, r.start + i, w.version);
    remember (r.start + i, w.version, zeros);
  }
  result = zeros ? engine_write_zeros (&w.small->engine, RECORD_ZERO, bytes,
                                       fua)
    : engine_write (&w.small->engine, buf, bytes, fua);
  if (w.image != NULL)
    return;
  assert_int_equal (result, 0);
  if (fua) {
    for (uint64_t i = 0; i < r.length; i++)
      w.block[r.start + i].fua = w.version;
    w.epoch++;
  }
}

static void
client_flushes (void)
{
  const int r = log_flush (w.small->engine.log);

  if (w.image != NULL)
    return;
  assert_int_equal (r, 0);
  w.flushed_version = w.version;
  w.epoch++;
}

static void
client_reads (void)
{
  const struct range r = random_blocks ();
  const int result = get (w.small, r.start * BLOCK, r.length * BLOCK, buf);

  if (w.image != NULL)
    return;
  assert_int_equal (result, 0);
  for (uint64_t i = 0; i < r.length; i++) {
    const uint32_t version = version_in (buf + i * BLOCK, r.start + i);
    const struct history *h = &w.block[r.start + i];

    if (h->count ? !fits (h, h->count - 1, version) : version != 0)
      fail_msg ("seed %" PRIu64 ": block %" PRIu64 " reads version %u, %u is "
                "the newest", seed, r.start + i, version, newest (h));
  }
}

static void
service_steps (void)
{
  bool worked;

  if (random_below (&w.random, 2))
    (void) gc_step (&w.small->engine, &worked);
  else
    (void) writeback_step (w.small->writeback, UINT64_MAX, &worked);
}

/* The process dies, the page cache lives: what is found again then must be
 * durable before anybody builds on it. */
static void
kill_and_reopen (void)
{
  small_engine_kill (w.small);
  small_engine_open (w.small);
  if (w.image != NULL)
    return;
  take_stock ();
  if (w.image != NULL)
    return;
  w.flushed_version = w.version;
  w.epoch++;
}

static void
one_step (void)
{
  const uint64_t dice = random_below (&w.random, 100);

  if (random_below (&w.random, 200) == 0) {
    kill_and_reopen ();
    return;
  }

  if (dice < 50)
    client_writes (w.with_zeros && dice < 8);
  else if (dice < 60)
    client_flushes ();
  else if (dice < 80)
    client_reads ();
  else
    service_steps ();
}

/* --- stories ---------------------------------------------------------- */

struct story {
  bool ordered, data_crc, with_zeros, batch;
  uint32_t segments;
  unsigned heads, crashes;
};

static void
live_through (const struct story *story, uint64_t from)
{
  memset (&w, 0, sizeof w);
  w.random = from;
  w.epoch = 1;
  w.with_zeros = story->with_zeros;
  w.batch = story->batch;
  reports_collect ();
  w.small = small_engine_new (story->segments, story->ordered,
                              BLOCKS * BLOCK);
  w.small->heads = story->heads;
  w.small->engine.options.data_crc = story->data_crc;
  if (story->batch)
    w.small->engine.options.setting[SETTING_writeback_order]
      = WRITEBACK_BATCH;
  memory_backend_track (w.small->disk);
  small_engine_open (w.small);
  memory_device_track (w.small->device, random_next (&w.random));
  power_on ();
  while (w.crashes < story->crashes) {
    one_step ();
    if (w.image != NULL)
      crash ();
  }
  small_engine_free (w.small);
  if (w.image)
    memory_device_free (w.image);
}

static void
tell (const struct story *story)
{
  struct story scaled_story = *story;

  scaled_story.crashes = 10;
  for (size_t i = 0; i < sizeof old_seeds / sizeof *old_seeds; i++)
    live_through (&scaled_story, old_seeds[i]);
  scaled_story.crashes = scaled (story->crashes, 10);
  live_through (&scaled_story, seed);
}

static void
persistent_memory_keeps_its_promises (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = true, .data_crc = true, .segments = 4,
                          .heads = 1, .crashes = 400 });
}

static void
persistent_memory_without_checksums_does_too (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = true, .data_crc = false, .segments = 4,
                          .heads = 1, .crashes = 200 });
}

static void
several_heads_keep_the_promises (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = true, .data_crc = true, .segments = 8,
                          .heads = 3, .crashes = 200 });
}

static void
a_plain_file_keeps_its_promises (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = false, .data_crc = true, .segments = 4,
                          .heads = 1, .crashes = 400 });
}

static void
a_plain_file_without_checksums_does_too (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = false, .data_crc = false, .segments = 4,
                          .heads = 1, .crashes = 200 });
}

static void
several_heads_on_a_plain_file_do_too (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = false, .data_crc = true, .segments = 8,
                          .heads = 3, .crashes = 200 });
}

static void
zeros_survive_power_cuts (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = true, .data_crc = true, .segments = 4,
                          .heads = 1, .with_zeros = true, .crashes = 120 });
  tell (&(struct story) { .ordered = false, .data_crc = true, .segments = 4,
                          .heads = 1, .with_zeros = true, .crashes = 120 });
}

/* P1 and P2; it gives up P3 while a batch is under way. */
static void
batch_order_loses_nothing (void **state)
{
  (void) state;
  tell (&(struct story) { .ordered = true, .data_crc = true, .segments = 4,
                          .heads = 1, .batch = true, .crashes = 40 });
  tell (&(struct story) { .ordered = false, .data_crc = true, .segments = 4,
                          .heads = 1, .batch = true, .crashes = 40 });
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (persistent_memory_keeps_its_promises),
    cmocka_unit_test (persistent_memory_without_checksums_does_too),
    cmocka_unit_test (several_heads_keep_the_promises),
    cmocka_unit_test (a_plain_file_keeps_its_promises),
    cmocka_unit_test (a_plain_file_without_checksums_does_too),
    cmocka_unit_test (several_heads_on_a_plain_file_do_too),
    cmocka_unit_test (zeros_survive_power_cuts),
    cmocka_unit_test (batch_order_loses_nothing),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

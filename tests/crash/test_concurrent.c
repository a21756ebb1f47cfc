/* SPDX-License-Identifier: BSD-3-Clause */

/* The power goes while clients and services are at work in threads.
 *
 * Each client owns some blocks and writes their versions one after another;
 * flushes are everybody's.  Now and then, when some thread is about to fence,
 * the device stands still, and what a power cut would leave of it and of the
 * disk is put aside with what had been promised by then.  Afterwards each of these is
 * opened: every block has a version no older than was promised, and no
 * newer than was asked for. */

#include <config.h>

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arith.h"
#include "crash/shadow_device.h"
#include "crash/shadow_disk.h"
#include "engine/cache.h"
#include "engine/superblock.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"

#define CLIENTS 3
#define BLOCKS_EACH 96
#define BLOCKS (CLIENTS * BLOCKS_EACH)
#define STRIDE 16384
#define BLOCK 13000             /* no multiple of anything */
#define DISK_SIZE ((uint64_t) BLOCKS * STRIDE)
#define SEGMENTS 8
#define CRASHES 8               /* of one run */
#define IMAGES 3                /* of each */

struct crash {
  uint32_t durable[BLOCKS];
  uint32_t sent[BLOCKS];
  uint8_t *device[IMAGES], *disk[IMAGES];
};

static struct {
  struct shadow_device *device;
  struct shadow_disk *disk;
  struct cache *cache;
  _Atomic uint32_t sent[BLOCKS], acked[BLOCKS], durable[BLOCKS];
  _Atomic bool done;

  /* Of the device's lock. */
  uint64_t random;
  uint64_t barriers_left;       /* until the next crash */
  struct crash crash[CRASHES];
  unsigned crashes;
} w;

/* Every fourth version is zeros. */
static void
make_block (uint8_t *p, unsigned block, uint32_t version)
{
  uint64_t word = version % 4 == 0 ? 0
    : ((uint64_t) block << 32 | version) * UINT64_C (0x9e3779b97f4a7c15);

  for (unsigned i = 0; i < BLOCK; i += sizeof word)
    memcpy (p + i, &word, sizeof word);
}

static struct range
range_of (unsigned block)
{
  return (struct range) { (uint64_t) block * STRIDE, BLOCK };
}

/* --- the power -------------------------------------------------------- */

/* What this thread or another is about to make durable is kept or not. */
static void
keep_some (uint8_t *image, uint64_t *random)
{
  const unsigned manner = random_below (random, 4);
  const struct shadow_unit *units;
  const size_t count = shadow_units (w.device, &units);

  for (size_t i = 0; i < count; i++) {
    struct shadow_choice choice = { units[i].stores, SHADOW_WHOLE };

    if (manner == 0 || (manner > 1 && random_below (random, 2)))
      choice.stores = random_below (random, units[i].stores + 1);
    if (manner == 3 && random_below (random, 4) == 0)
      choice.parts = random_next (random);
    shadow_unit_bytes (w.device, &units[i], choice, image + units[i].at);
  }
}

/* The device's lock is held, so nothing is stored meanwhile. */
static void
before_barrier (struct shadow_device *device, void *opaque)
{
  struct crash *crash;

  (void) opaque;
  if (w.crashes == CRASHES || w.barriers_left-- > 0)
    return;
  crash = &w.crash[w.crashes++];
  w.barriers_left = random_below (&w.random, 2000);
  for (unsigned i = 0; i < BLOCKS; i++)
    crash->durable[i] = w.durable[i];
  for (unsigned i = 0; i < IMAGES; i++) {
    crash->device[i] = malloc (device->size);
    crash->disk[i] = malloc (DISK_SIZE);
    assert_true (crash->device[i] && crash->disk[i]);
    memcpy (crash->device[i], device->durable, device->size);
    keep_some (crash->device[i], &w.random);
    shadow_disk_random_image (w.disk, &w.random, crash->disk[i]);
  }
  for (unsigned i = 0; i < BLOCKS; i++)
    crash->sent[i] = w.sent[i];
}

/* --- clients ---------------------------------------------------------- */

/* Only its owner raises ACKED and SENT, but anybody DURABLE. */
static void
raise_durable (unsigned block, uint32_t version)
{
  uint32_t there = w.durable[block];

  while (there < version
         && !atomic_compare_exchange_weak (&w.durable[block], &there,
                                           version))
    ;
}

static void
client_writes (unsigned block, uint64_t *random)
{
  const uint32_t version = w.sent[block] + 1;
  const bool fua = random_below (random, 24) == 0;
  uint8_t buf[BLOCK];
  int r;

  w.sent[block] = version;
  make_block (buf, block, version);
  if (version % 4 == 0)
    r = random_below (random, 2)
      ? cache_trim (w.cache, range_of (block), fua)
      : cache_zero (w.cache, range_of (block), true, fua);
  else
    r = cache_write (w.cache, buf, range_of (block), fua);
  assert_int_equal (r, 0);
  w.acked[block] = version;
  if (fua)
    raise_durable (block, version);
}

static void
client_flushes (void)
{
  uint32_t acked[BLOCKS];

  for (unsigned i = 0; i < BLOCKS; i++)
    acked[i] = w.acked[i];
  assert_int_equal (cache_flush (w.cache), 0);
  for (unsigned i = 0; i < BLOCKS; i++)
    raise_durable (i, acked[i]);
}

static void
client_reads (unsigned block)
{
  uint8_t buf[BLOCK], expected[BLOCK];

  assert_int_equal (cache_read (w.cache, buf, range_of (block)), 0);
  make_block (expected, block, w.acked[block]);
  assert_memory_equal (buf, expected, BLOCK);
}

static void *
client (void *opaque)
{
  const unsigned number = (uintptr_t) opaque;
  uint64_t random = seed + number;

  while (!w.done) {
    const unsigned block = number * BLOCKS_EACH
      + random_below (&random, random_below (&random, 3) ? BLOCKS_EACH : 8);

    switch (random_below (&random, 20)) {
    case 0: case 1: client_flushes (); break;
    case 2: case 3: case 4: client_reads (block); break;
    default: client_writes (block, &random); break;
    }
  }
  return NULL;
}

/* --- afterwards ------------------------------------------------------- */

static struct cache *
open_cache (struct shadow_device *device, struct shadow_disk *disk)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  struct cache *cache;

  options.segment_size = CACHE_MIN_SEGMENT_SIZE;
  options.heads = 2;
  options.setting[SETTING_gc_percent] = 30;
  options.setting[SETTING_writeback_delay] = 1;
  reports_collect ();
  if (cache_open (&options, shadow_pmem_open (device), &cache) < 0)
    fail_msg ("seed %" PRIu64 ": it does not open: %s", seed,
              reports_text (REPORT_ERROR));
  assert_int_equal (cache_attach (cache, &disk->backend, ""), 0);
  return cache;
}

static void
check_block (const struct crash *crash, unsigned block, const uint8_t *found)
{
  uint8_t expected[BLOCK];

  for (uint32_t v = crash->sent[block] + 1; v-- > crash->durable[block];) {
    make_block (expected, block, v);
    if (memcmp (found, expected, BLOCK) == 0)
      return;
  }
  fail_msg ("seed %" PRIu64 ": block %u has none of the versions %u..%u",
            seed, block, crash->durable[block], crash->sent[block]);
}

static void
check_image (const struct crash *crash, const uint8_t *device_image,
             const uint8_t *disk_image)
{
  struct shadow_device *device = shadow_device_new (w.device->size,
                                                    w.device->ordered);
  struct shadow_disk *disk = shadow_disk_new (DISK_SIZE);
  uint8_t *all = malloc (DISK_SIZE);
  struct cache *cache;

  assert_non_null (all);
  device->tracks = false;
  memcpy (device->bytes, device_image, device->size);
  shadow_disk_set (disk, disk_image);
  cache = open_cache (device, disk);
  assert_int_equal (cache_read (cache, all,
                                (struct range) { 0, DISK_SIZE }), 0);
  for (unsigned i = 0; i < BLOCKS; i++)
    check_block (crash, i, all + range_of (i).start);
  assert_int_equal (cache_drain (cache, 0), 0);
  assert_memory_equal (disk->stable, all, DISK_SIZE);
  cache_close (cache);
  free (all);
  shadow_disk_free (disk);
  shadow_device_free (device);
}

static void
run_once (bool ordered)
{
  struct geometry geometry;
  uint64_t size = geometry_min_device_size (CACHE_MIN_SEGMENT_SIZE);
  pthread_t thread[CLIENTS];

  while (geometry_make (&geometry, size, CACHE_MIN_SEGMENT_SIZE) < 0
         || geometry.segment_count < SEGMENTS)
    size += CACHE_MIN_SEGMENT_SIZE;
  memset (&w, 0, sizeof w);
  w.random = seed;
  w.device = shadow_device_new (geometry.device_size, ordered);
  w.disk = shadow_disk_new (DISK_SIZE);
  w.cache = open_cache (w.device, w.disk);
  assert_int_equal (cache_start (w.cache), 0);
  w.barriers_left = random_below (&w.random, 500);
  w.device->before_barrier = before_barrier;

  for (unsigned i = 0; i < CLIENTS; i++)
    assert_int_equal (pthread_create (&thread[i], NULL, client,
                                      (void *) (uintptr_t) i), 0);
  for (unsigned ms = 0; ms < 60000; ms++) {
    unsigned crashes;

    usleep (1000);
    pthread_mutex_lock (shadow_device_lock (w.device));
    crashes = w.crashes;
    pthread_mutex_unlock (shadow_device_lock (w.device));
    if (crashes == CRASHES)
      break;
  }
  w.done = true;
  for (unsigned i = 0; i < CLIENTS; i++)
    pthread_join (thread[i], NULL);
  assert_int_equal (w.crashes, CRASHES);
  assert_int_equal (cache_stop (w.cache, true, 60000), 0);
  cache_close (w.cache);

  for (unsigned c = 0; c < CRASHES; c++)
    for (unsigned i = 0; i < IMAGES; i++) {
      check_image (&w.crash[c], w.crash[c].device[i], w.crash[c].disk[i]);
      free (w.crash[c].device[i]);
      free (w.crash[c].disk[i]);
    }
  shadow_device_free (w.device);
  shadow_disk_free (w.disk);
}

static void
run (bool ordered)
{
  for (uint64_t i = scaled (6, 1); i > 0; i--, seed++)
    run_once (ordered);
}

static void
threads_on_persistent_memory_keep_their_promises (void **state)
{
  (void) state;
  run (true);
}

static void
threads_on_a_plain_file_do_too (void **state)
{
  (void) state;
  run (false);
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (threads_on_persistent_memory_keep_their_promises),
    cmocka_unit_test (threads_on_a_plain_file_do_too),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

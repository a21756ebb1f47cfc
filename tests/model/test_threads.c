/* SPDX-License-Identifier: BSD-3-Clause */

/* The engine with all its threads, and many clients.
 *
 *   | shared: sectors with tickets | client 0 | 1 | 2 | 0 | 1 | 2 | 0 ...
 *
 * Each client owns stripes of the disk, of odd sizes, and knows every byte of
 * them.  What lies before them everybody writes; there, tickets.h says what
 * may be found.  Meanwhile others flush, drain, ask for maps and status,
 * and the backing store fails for a moment.  Between rounds the cache is
 * closed: drained, with dirty data kept, or like a crash. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "engine/cache.h"
#include "model/harness.h"
#include "model/tickets.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"

/* Histories that once found something; with threads they need not find it
 * again. */
static const uint64_t old_seeds[] = {
  1, 2,
};

#define NEW_SEEDS 4
#define OPS_PER_SEED 240000
#define ROUNDS 6

/* Longer than a write may wait for space. */
#define STUCK_MS 60000

#define MAX_CLIENTS 5
#define MAX_LENGTH (2 * MIB)

struct world {
  uint64_t seed;
  struct rng rng;
  struct memory_device *device;
  struct memory_backend *mb;
  struct cache_options options;
  struct cache *cache;
  uint64_t size;
  struct tickets *tickets;
  uint8_t *bytes;               /* the clients' stripes */
  struct range *stripes;
  unsigned stripe_count, clients;
  uint64_t ops;                 /* of each client in a round */
  bool crash;                   /* how this round will end */
  _Atomic bool over;
  _Atomic uint64_t operations, drains, flushes;
  _Atomic uint64_t progress;    /* of all clients */
};

struct client {
  struct world *world;
  unsigned number;
  struct rng rng;
  uint64_t next_id;
  uint8_t *buf;
};

static void
compare (const struct world *w, const uint8_t *found, struct range range,
         const char *what)
{
  const uint8_t *expected = w->bytes + range.start;

  if (memcmp (found, expected, range.length) == 0)
    return;
  for (uint64_t i = 0; i < range.length; i++)
    if (found[i] != expected[i])
      fail ("%s %" PRIu64 "+%" PRIu64 ": byte %" PRIu64 " is %02x, expected "
            "%02x; backing store %02x", what, range.start, range.length,
            range.start + i, found[i], expected[i],
            w->mb->bytes[range.start + i]);
}

/* --- threads ------------------------------------------------------------ */

static struct range
pick_own (struct client *c)
{
  const struct world *w = c->world;
  const unsigned own = w->stripe_count / w->clients;
  const struct range stripe =
    w->stripes[rng_below (&c->rng, own) * w->clients + c->number];
  struct range range;

  range.length = rng_length (&c->rng, 1, rng_one_in (&c->rng, 50)
                             ? stripe.length : MIN (stripe.length, 16 * KIB));
  range.start = stripe.start
    + rng_below (&c->rng, stripe.length - range.length + 1);
  return range;
}

static void
check_map (struct client *c, struct range range)
{
  struct world *w = c->world;

  while (range.length > 0) {
    enum map_kind kind = MAP_HOLE;
    uint64_t length = 0;

    cache_map (w->cache, range, &kind, &length);
    REQUIRE (length > 0 && length <= range.length, "map of %" PRIu64 "+%"
             PRIu64 " gives %" PRIu64 " bytes", range.start, range.length,
             length);
    if (kind == MAP_ZERO)
      for (uint64_t i = 0; i < length; i++)
        REQUIRE (w->bytes[range.start + i] == 0, "byte %" PRIu64 " is mapped "
                 "as zero", range.start + i);
    range.start += length;
    range.length -= length;
  }
}

static void
own_operation (struct client *c)
{
  struct world *w = c->world;
  const struct range range = pick_own (c);
  const bool fua = rng_one_in (&c->rng, 30);
  uint8_t *here = w->bytes + range.start;
  int r = 0;

  switch (rng_below (&c->rng, 20)) {
  case 0 ... 7:
    fill_bytes (c->buf, range, w->seed << 40 ^ (uint64_t) c->number << 36
                ^ ++c->next_id);
    r = cache_write (w->cache, c->buf, range, fua);
    memcpy (here, c->buf, range.length);
    break;
  case 8:
    r = cache_zero (w->cache, range, rng_one_in (&c->rng, 2), fua);
    memset (here, 0, range.length);
    break;
  case 9:
    r = cache_trim (w->cache, range, fua);
    memset (here, 0, range.length);
    break;
  case 10:
    r = cache_prefetch (w->cache, range);
    break;
  case 11:
    check_map (c, range);
    break;
  default:
    r = cache_read (w->cache, c->buf, range);
    if (r == 0)
      compare (w, c->buf, range, "read");
    break;
  }
  REQUIRE (r == 0, "client %u: %" PRIu64 "+%" PRIu64 " gives %d (%s)",
           c->number, range.start, range.length, r, strerror (-r));
}

static void *
client_main (void *opaque)
{
  struct client *c = opaque;
  struct world *w = c->world;
  int r;

  for (uint64_t i = 0; i < w->ops; i++) {
    if (rng_one_in (&c->rng, 3)) {
      r = tickets_anything (w->tickets, w->cache, &c->rng,
                            MAX_LENGTH / SECTOR, c->buf);
      REQUIRE (r == 0, "client %u: shared sectors give %d (%s)", c->number, r,
               strerror (-r));
    }
    else
      own_operation (c);
    atomic_fetch_add (&w->progress, 1);
  }
  atomic_fetch_add (&w->operations, w->ops);
  if (!w->crash)
    return NULL;
  /* What it owns, it knows even after a crash; what it shares may be lost. */
  r = cache_flush (w->cache);
  REQUIRE (r == 0, "client %u: flush gives %d", c->number, r);
  for (unsigned i = 0; i < 200; i++)
    tickets_anything (w->tickets, w->cache, &c->rng, 64, c->buf);
  return NULL;
}

static void *
flusher_main (void *opaque)
{
  struct world *w = opaque;
  struct rng rng = { w->seed + 77 };

  while (!atomic_load (&w->over)) {
    int r = tickets_flush (w->tickets, w->cache);

    REQUIRE (r == 0, "flush gives %d (%s)", r, strerror (-r));
    atomic_fetch_add (&w->flushes, 1);
    usleep (rng_length (&rng, 1, 20000));
  }
  return NULL;
}

static void *
drainer_main (void *opaque)
{
  struct world *w = opaque;
  struct rng rng = { w->seed + 78 };

  while (!atomic_load (&w->over)) {
    int r = cache_drain (w->cache, 20000);

    REQUIRE (r == 0 || r == -EIO, "drain gives %d (%s)", r, strerror (-r));
    atomic_fetch_add (&w->drains, 1);
    usleep (rng_length (&rng, 1, 200000));
  }
  return NULL;
}

/* Looks, and makes trouble. */
static void *
troubler_main (void *opaque)
{
  struct world *w = opaque;
  struct rng rng = { w->seed + 79 };
  unsigned quiet = rng_below (&rng, 20);
  uint64_t progress = 0, progress_ms = now_ms ();

  while (!atomic_load (&w->over)) {
    struct cache_status status;
    enum map_kind kind;
    uint64_t length;

    if (atomic_load (&w->progress) != progress) {
      progress = atomic_load (&w->progress);
      progress_ms = now_ms ();
    }
    cache_get_status (w->cache, &status);
    REQUIRE (now_ms () - progress_ms < STUCK_MS, "no client got anything done "
             "for %d ms: of %" PRIu64 " segments %" PRIu64 " free, %" PRIu64
             " open, %" PRIu64 " sealed; %" PRIu64 " dirty bytes, epoch %"
             PRIu64 ", written back %" PRIu64, STUCK_MS,
             status.segments_total, status.segments_free,
             status.segments_open, status.segments_sealed,
             status.dirty_bytes, status.epoch, status.epoch_written_back);
    REQUIRE (status.segments_free + status.segments_open
             + status.segments_sealed <= status.segments_total,
             "%" PRIu64 " segments, but %" PRIu64 " free, %" PRIu64
             " open and %" PRIu64 " sealed", status.segments_total,
             status.segments_free, status.segments_open,
             status.segments_sealed);
    cache_map (w->cache, (struct range) { 0, w->size }, &kind, &length);
    REQUIRE (length > 0, "map of everything gives 0 bytes");
    if (quiet-- == 0) {
      HOLD_LOCK (&w->mb->lock);
      w->mb->write_error = rng_one_in (&rng, 2) ? -EIO : 0;
      w->mb->flush_error = rng_one_in (&rng, 2) ? -ENOSPC : 0;
      w->mb->zero_error = rng_one_in (&rng, 2) ? -EOPNOTSUPP : 0;
    }
    else {
      HOLD_LOCK (&w->mb->lock);
      w->mb->write_error = w->mb->flush_error = 0;
    }
    if (quiet > 1000)
      quiet = rng_below (&rng, 100);
    usleep (rng_length (&rng, 1, 30000));
  }
  HOLD_LOCK (&w->mb->lock);
  w->mb->write_error = w->mb->flush_error = 0;
  return NULL;
}

/* --- rounds --------------------------------------------------------------- */

static void
open_cache (struct world *w)
{
  struct cache_options *o = &w->options;
  struct rng *rng = &w->rng;
  int r;

  o->segment_size = MIB;
  o->data_crc = !rng_one_in (rng, 4);
  o->setting[SETTING_gc_percent] = rng_between (rng, 0, 90);
  o->setting[SETTING_writeback_order] = rng_one_in (rng, 3) ? WRITEBACK_BATCH
    : WRITEBACK_STRICT;
  o->setting[SETTING_writeback_delay] = rng_length (rng, 0, 200);
  o->writeback_threads = rng_between (rng, 1, 6);
  o->heads = rng_between (rng, 0, 4);
  o->regions = 1u << rng_below (rng, 9);
  choose_admission (o, rng_next (rng));
  r = cache_open (o, memory_pmem_open (w->device), &w->cache);
  REQUIRE (r == 0, "open gives %d (%s)", r, strerror (-r));
}

static void
read_all (struct world *w)
{
  uint8_t *found = malloc (w->size);
  uint64_t shared = w->tickets->sectors * (uint64_t) SECTOR;
  int r;

  assert (found);
  for (uint64_t at = 0; at < w->size; at += MIB) {
    const struct range range = { at, MIN (MIB, w->size - at) };

    r = cache_read (w->cache, found + at, range);
    REQUIRE (r == 0, "reading all gives %d (%s)", r, strerror (-r));
  }
  compare (w, found + shared, (struct range) { shared, w->size - shared },
           "after a restart");
  tickets_begin_round (w->tickets, found, w->crash);
  free (found);
}

static void
run_clients (struct world *w)
{
  struct client client[MAX_CLIENTS];
  pthread_t thread[MAX_CLIENTS], flusher, drainer, troubler;
  int r = 0;

  atomic_store (&w->over, false);
  for (unsigned i = 0; i < w->clients; i++) {
    client[i] = (struct client) {
      .world = w, .number = i, .rng = { rng_next (&w->rng) },
      .next_id = rng_next (&w->rng) >> 30,
      .buf = malloc (MAX_LENGTH),
    };
    assert (client[i].buf);
    r |= pthread_create (&thread[i], NULL, client_main, &client[i]);
  }
  r |= pthread_create (&flusher, NULL, flusher_main, w);
  r |= pthread_create (&drainer, NULL, drainer_main, w);
  r |= pthread_create (&troubler, NULL, troubler_main, w);
  assert (r == 0);
  for (unsigned i = 0; i < w->clients; i++) {
    pthread_join (thread[i], NULL);
    free (client[i].buf);
  }
  atomic_store (&w->over, true);
  pthread_join (flusher, NULL);
  pthread_join (drainer, NULL);
  pthread_join (troubler, NULL);
}

static void
one_round (struct world *w)
{
  const unsigned end = rng_below (&w->rng, 3);
  uint64_t shared = w->tickets->sectors * (uint64_t) SECTOR;
  int r;

  w->crash = end == 2;
  cache_detach (w->cache);
  r = cache_start (w->cache);
  REQUIRE (r == 0, "start gives %d", r);
  r = cache_attach (w->cache, &w->mb->backend, "disk");
  REQUIRE (r == 0, "attach gives %d", r);
  run_clients (w);

  if (!w->crash) {
    if (rng_one_in (&w->rng, 2))
      cache_begin_shutdown (w->cache);
    r = cache_stop (w->cache, end == 0, 60000);
    REQUIRE (r == 0, "stop (%s) gives %d (%s)", end == 0 ? "drain" : "keep",
             r, strerror (-r));
    if (end == 0) {
      compare (w, w->mb->bytes + shared,
               (struct range) { shared, w->size - shared },
               "backing store after the drain,");
      tickets_check (w->tickets, w->mb->bytes,
                     "backing store after the drain");
    }
  }
  cache_close (w->cache);

  open_cache (w);
  r = cache_attach (w->cache, &w->mb->backend, "disk");
  REQUIRE (r == 0, "attach gives %d", r);
  read_all (w);
}

static void
cut_stripes (struct world *w, uint64_t at)
{
  unsigned room = 0;

  while (at < w->size) {
    uint64_t length = rng_length (&w->rng, 512, MAX_LENGTH);

    length = MIN (length, w->size - at);
    if (w->stripe_count == room) {
      room = room ? room * 2 : 64;
      w->stripes = realloc (w->stripes, room * sizeof *w->stripes);
      assert (w->stripes);
    }
    w->stripes[w->stripe_count++] = (struct range) { at, length };
    at += length;
  }
  assert (w->stripe_count >= MAX_CLIENTS);
}

static void
run_history (uint64_t seed, uint64_t ops)
{
  struct world world = {
    .seed = seed, .rng = { seed }, .options = CACHE_OPTIONS_DEFAULT,
  }, *w = &world;
  struct rng *rng = &w->rng;
  uint64_t segments, shared;

  harness_begin ("many clients agree with what was acknowledged", seed);
  segments = rng_one_in (rng, 2) ? rng_between (rng, 4, 6)
    : rng_one_in (rng, 2) ? rng_between (rng, 7, 16)
    : rng_between (rng, 32, 40);
  shared = rng_between (rng, 1, 4 * MIB / SECTOR) * SECTOR;
  w->size = shared + rng_between (rng, 8, 24) * MIB + rng_below (rng, 4096);
  w->clients = rng_between (rng, 2, MAX_CLIENTS);
  w->ops = ops / ROUNDS / w->clients + 1;
  w->device = memory_device_new (cache_min_device_size (MIB)
                                 + (segments - 4) * MIB,
                                 !rng_one_in (rng, 3));
  w->mb = memory_backend_new (w->size);
  w->mb->delay_us = rng_one_in (rng, 3) ? rng_below (rng, 100) : 0;
  w->bytes = calloc (1, w->size);
  assert (w->bytes);
  fill_bytes (w->bytes + shared, (struct range) { shared, w->size - shared },
              seed);
  memcpy (w->mb->bytes, w->bytes, w->size);
  w->tickets = tickets_new (0, shared / SECTOR, ops + 10000);
  cut_stripes (w, shared);
  diag ("cache of %" PRIu64 " segments of 1 MiB (%s), disk of %" PRIu64
        " bytes, %u clients, %u stripes, %" PRIu32 " shared sectors",
        segments, w->device->ordered ? "ordered" : "unordered", w->size,
        w->clients, w->stripe_count, w->tickets->sectors);

  open_cache (w);
  REQUIRE (cache_attach (w->cache, &w->mb->backend, "disk") == 0,
           "the first attach fails");
  for (unsigned i = 0; i < ROUNDS; i++)
    one_round (w);
  REQUIRE (cache_stop (w->cache, true, 10000) == 0, "the last stop fails");
  cache_close (w->cache);
  harness_passed ("%" PRIu64 " ops, %" PRIu64 " flushes, %" PRIu64 " drains",
                  atomic_load (&w->operations), atomic_load (&w->flushes),
                  atomic_load (&w->drains));
  tickets_free (w->tickets);
  free (w->stripes);
  free (w->bytes);
  memory_backend_free (w->mb);
  memory_device_free (w->device);
}

int
main (int argc, char **argv)
{
  const unsigned old = sizeof old_seeds / sizeof old_seeds[0];
  uint64_t ops;

  harness_start (argc, argv);
  ops = harness_ops (OPS_PER_SEED);
  if (harness.have_seed) {
    harness_plan (1);
    run_history (harness.seed, ops);
    return harness_end ();
  }
  harness_plan (old + NEW_SEEDS);
  for (unsigned i = 0; i < old; i++)
    run_history (old_seeds[i], ops);
  for (unsigned i = 0; i < NEW_SEEDS; i++)
    run_history (harness_new_seed (), ops);
  return harness_end ();
}

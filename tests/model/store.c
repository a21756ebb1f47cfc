/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/store.h"

#define SECTOR 512

static struct store *the_store;

static bool
fails (unsigned one_in)
{
  if (one_in == 0 || !rng_one_in (&the_store->rng, one_in))
    return false;
  the_store->failures++;
  return true;
}

static void
note (uint64_t start, uint64_t length)
{
  struct store *store = the_store;

  store->writes++;
  if (store->count == store->room) {
    store->room = store->room ? store->room * 2 : 1024;
    store->volatiles = realloc (store->volatiles,
                                store->room * sizeof *store->volatiles);
    assert (store->volatiles);
  }
  store->volatiles[store->count++] = (struct range) { start, length };
}

static int
store_pread (struct backend *b, void *buf, size_t length, uint64_t offset)
{
  if (fails (the_store->fail_reads)) {
    memset (buf, 0xee, length);
    return -EIO;
  }
  return the_store->inner->pread (b, buf, length, offset);
}

static int
store_pwrite (struct backend *b, const void *buf, size_t length,
              uint64_t offset)
{
  if (fails (the_store->fail_writes)) {
    const size_t part = rng_below (&the_store->rng, length);

    if (part > 0 && the_store->inner->pwrite (b, buf, part, offset) == 0)
      note (offset, part);
    return -EIO;
  }
  note (offset, length);
  return the_store->inner->pwrite (b, buf, length, offset);
}

static int
store_zero (struct backend *b, uint64_t length, uint64_t offset,
            bool may_trim)
{
  if (fails (the_store->fail_zeros))
    return -EOPNOTSUPP;
  note (offset, length);
  return the_store->inner->zero (b, length, offset, may_trim);
}

static int
store_trim (struct backend *b, uint64_t length, uint64_t offset)
{
  struct memory_backend *mb = the_store->mb;

  if (fails (the_store->fail_zeros))
    return -EOPNOTSUPP;
  note (offset, length);
  if (!the_store->trim_leaves_garbage)
    return the_store->inner->trim (b, length, offset);
  assert (b->can_write && b->can_trim && length <= b->max_zero);
  assert (offset <= b->size && length <= b->size - offset);
  memset (mb->bytes + offset, 0xdb, length);
  return 0;
}

static int
store_flush (struct backend *b)
{
  struct store *store = the_store;
  int r;

  if (fails (store->fail_flushes)) {
    store_power_cut (store);
    return -EIO;
  }
  r = store->inner->flush (b);
  assert (r == 0);
  for (size_t i = 0; i < store->count; i++)
    memcpy (store->stable + store->volatiles[i].start,
            store->mb->bytes + store->volatiles[i].start,
            store->volatiles[i].length);
  store->count = 0;
  return 0;
}

static const struct backend_ops store_ops = {
  .pread = store_pread,
  .pwrite = store_pwrite,
  .zero = store_zero,
  .trim = store_trim,
  .flush = store_flush,
};

struct store *
store_new (uint64_t size, uint64_t seed)
{
  struct store *store = calloc (1, sizeof *store);

  assert (store && the_store == NULL);
  store->mb = memory_backend_new (size);
  store->inner = store->mb->backend.ops;
  store->mb->backend.ops = &store_ops;
  store->rng.state = seed;
  store->stable = malloc (size);
  assert (store->stable);
  the_store = store;
  return store;
}

void
store_free (struct store *store)
{
  memory_backend_free (store->mb);
  free (store->stable);
  free (store->volatiles);
  free (store);
  the_store = NULL;
}

void
store_all_stable (struct store *store)
{
  memcpy (store->stable, store->mb->bytes, store->mb->backend.size);
  store->count = 0;
}

void
store_heal (struct store *store)
{
  store->fail_reads = store->fail_writes = store->fail_zeros
    = store->fail_flushes = 0;
}

void
store_power_cut (struct store *store)
{
  for (size_t i = 0; i < store->count; i++) {
    const struct range range = store->volatiles[i];
    uint64_t at = range.start;

    while (at < range_end (range)) {
      /* Long runs, so that this does not take for ever. */
      const uint64_t piece = rng_length (&store->rng, 1, 64) * SECTOR;
      const uint64_t end = MIN (range_end (range),
                                round_up (at + piece, SECTOR));

      if (rng_one_in (&store->rng, 2))
        memcpy (store->mb->bytes + at, store->stable + at, end - at);
      at = end;
    }
  }
}

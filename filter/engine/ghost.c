/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "engine/ghost.h"

#define MARKS 8                 /* in a word; 0: none, else a hash */

int
ghost_init (struct ghost *ghost, uint64_t cache_bytes)
{
  ghost->count = MAX (cache_bytes / (GHOST_GRANULE * MARKS), UINT64_C (1));
  ghost->words = calloc (ghost->count, sizeof *ghost->words);
  return ghost->words ? 0 : -ENOMEM;
}

void
ghost_destroy (struct ghost *ghost)
{
  free (ghost->words);
  ghost->words = NULL;
}

/* The finalizer of MurmurHash3. */
static uint64_t
hash (uint64_t key)
{
  key ^= key >> 33;
  key *= UINT64_C (0xff51afd7ed558ccd);
  key ^= key >> 33;
  key *= UINT64_C (0xc4ceb9fe1a85ec53);
  return key ^ key >> 33;
}

struct place {
  _Atomic uint64_t *word;
  uint8_t mark;
};

static struct place
place_of (const struct ghost *ghost, uint64_t granule)
{
  const uint64_t h = hash (granule);

  return (struct place) {
    &ghost->words[(h >> 32) * ghost->count >> 32], h % UINT8_MAX + 1,
  };
}

/* Where in the word, from the newest on; MARKS: nowhere. */
static unsigned
find (uint64_t word, uint8_t mark)
{
  unsigned i;

  for (i = 0; i < MARKS && (uint8_t) (word >> 8 * i) != mark; i++)
    ;
  return i;
}

static bool
is_remembered (struct place at)
{
  return find (atomic_load_explicit (at.word, memory_order_relaxed), at.mark)
    < MARKS;
}

static void
remember (struct place at)
{
  const uint64_t word = atomic_load_explicit (at.word, memory_order_relaxed);

  if (find (word, at.mark) == MARKS)
    atomic_store_explicit (at.word, word << 8 | at.mark,
                           memory_order_relaxed);
}

static void
forget (struct place at)
{
  const uint64_t word = atomic_load_explicit (at.word, memory_order_relaxed);
  const unsigned i = find (word, at.mark);
  const uint64_t newer = (UINT64_C (1) << 8 * (i % MARKS)) - 1;

  if (i < MARKS)
    atomic_store_explicit (at.word, (word & newer) | (word >> 8 & ~newer),
                           memory_order_relaxed);
}

bool
ghost_recall (struct ghost *ghost, struct range range)
{
  const uint64_t first = range.start / GHOST_GRANULE;
  const uint64_t last = (range_end (range) - 1) / GHOST_GRANULE;
  uint64_t known = 0;

  for (uint64_t n = first; n <= last; n++)
    known += is_remembered (place_of (ghost, n));

  const bool is_known = known * 2 > last - first;

  for (uint64_t n = first; n <= last; n++)
    if (is_known)
      forget (place_of (ghost, n));
    else
      remember (place_of (ghost, n));
  return is_known;
}

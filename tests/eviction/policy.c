/* SPDX-License-Identifier: BSD-3-Clause */

/* Blocks are numbers below trace->blocks, so what is known of each stands in an
 * array.  Lists are rings around an element of their own, doubly linked. */

#include <config.h>

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/arith.h"
#include "eviction/policy.h"

static const char *const names[] = {
#define X(name, text) text,
  POLICIES_LIST (X)
#undef X
};

const char *
policy_name (enum policy policy)
{
  return names[policy];
}

/* In which list a block is. */
enum place { NOWHERE, MAIN, SMALL, GHOST, PLACES };

struct block {
  uint32_t next, prev;
  uint8_t place;
  uint8_t hits;                 /* since it came, or lost a chance; 0..3 */
};

struct simulation {
  uint32_t capacity, blocks;
  struct block *block;          /* behind the last block: one for each list */
  uint32_t count[PLACES];
  uint32_t hand;                /* SIEVE's; a list's element: at the tail */
};

static uint32_t
ring_of (const struct simulation *s, enum place place)
{
  return s->blocks + place;
}

/* What came first and did not move. */
static uint32_t
tail_of (const struct simulation *s, enum place place)
{
  return s->block[ring_of (s, place)].prev;
}

static void
take_out (struct simulation *s, uint32_t n)
{
  struct block *b = &s->block[n];

  s->block[b->prev].next = b->next;
  s->block[b->next].prev = b->prev;
  s->count[b->place]--;
  b->place = NOWHERE;
}

static void
put_first (struct simulation *s, uint32_t n, enum place place)
{
  const uint32_t ring = ring_of (s, place), first = s->block[ring].next;
  struct block *b = &s->block[n];

  assert (b->place == NOWHERE);
  b->place = place;
  b->prev = ring;
  b->next = first;
  s->block[first].prev = s->block[ring].next = n;
  s->count[place]++;
}

static bool
is_cached (const struct simulation *s, uint32_t n)
{
  return s->block[n].place == MAIN || s->block[n].place == SMALL;
}

static void
note_hit (struct simulation *s, uint32_t n)
{
  s->block[n].hits = MIN (s->block[n].hits + 1, 3);
}

static void
come (struct simulation *s, uint32_t n, enum place place)
{
  s->block[n].hits = 0;
  put_first (s, n, place);
}

static void
fifo_miss (struct simulation *s, uint32_t n)
{
  if (s->count[MAIN] == s->capacity)
    take_out (s, tail_of (s, MAIN));
  come (s, n, MAIN);
}

static void
lru_hit (struct simulation *s, uint32_t n)
{
  take_out (s, n);
  put_first (s, n, MAIN);
}

/* The hand goes from the tail to the head, forgives one visit to each, and takes
 * the first that had none. */
static void
sieve_evict (struct simulation *s)
{
  uint32_t at = s->hand;

  for (;;) {
    if (at == ring_of (s, MAIN))
      at = tail_of (s, MAIN);
    if (s->block[at].hits == 0)
      break;
    s->block[at].hits = 0;
    at = s->block[at].prev;
  }
  s->hand = s->block[at].prev;
  take_out (s, at);
}

static void
sieve_miss (struct simulation *s, uint32_t n)
{
  if (s->count[MAIN] == s->capacity)
    sieve_evict (s);
  come (s, n, MAIN);
}

/* Yang et al., "FIFO queues are all you need for cache eviction", algorithm
 * 1. */
static bool
s3_evict_small (struct simulation *s)
{
  const uint32_t n = tail_of (s, SMALL);

  take_out (s, n);
  if (s->block[n].hits > 1) {
    come (s, n, MAIN);
    return false;
  }
  if (s->count[GHOST] == s->capacity - s->capacity / 10)
    take_out (s, tail_of (s, GHOST));
  put_first (s, n, GHOST);
  return true;
}

static bool
s3_evict_main (struct simulation *s)
{
  const uint32_t n = tail_of (s, MAIN);

  take_out (s, n);
  if (s->block[n].hits == 0)
    return true;
  s->block[n].hits--;
  put_first (s, n, MAIN);
  return false;
}

static void
s3_fifo_miss (struct simulation *s, uint32_t n)
{
  const bool is_ghost = s->block[n].place == GHOST;

  while (s->count[SMALL] + s->count[MAIN] >= s->capacity)
    if (s->count[SMALL] >= s->capacity / 10 || s->count[MAIN] == 0
        ? s3_evict_small (s) : s3_evict_main (s))
      break;
  /* It may have left the ghosts just now. */
  if (s->block[n].place == GHOST)
    take_out (s, n);
  come (s, n, is_ghost ? MAIN : SMALL);
}

/* Belady's optimum, which also may not let a block in at all: out goes what is
 * read again last. */
struct heap {
  struct due { size_t next; uint32_t block; } *due;
  size_t count;
};

static void
heap_push (struct heap *heap, struct due due)
{
  size_t i = heap->count++;

  for (; i > 0 && heap->due[(i - 1) / 2].next < due.next; i = (i - 1) / 2)
    heap->due[i] = heap->due[(i - 1) / 2];
  heap->due[i] = due;
}

static struct due
heap_pop (struct heap *heap)
{
  const struct due top = heap->due[0], last = heap->due[--heap->count];
  size_t i = 0, child;

  while ((child = 2 * i + 1) < heap->count) {
    if (child + 1 < heap->count
        && heap->due[child + 1].next > heap->due[child].next)
      child++;
    if (heap->due[child].next <= last.next)
      break;
    heap->due[i] = heap->due[child];
    i = child;
  }
  heap->due[i] = last;
  return top;
}

static size_t
belady_hits (const struct trace *trace, uint32_t capacity, size_t warm_up)
{
  size_t *next = malloc (trace->length * sizeof *next);
  /* Of each block: when it is read next; SIZE_MAX if it is not cached. */
  size_t *due = malloc (trace->blocks * sizeof *due);
  struct heap heap = { malloc ((trace->length + 1) * sizeof *heap.due), 0 };
  size_t hits = 0;
  uint32_t cached = 0;

  assert (next && due && heap.due);
  for (uint32_t n = 0; n < trace->blocks; n++)
    due[n] = SIZE_MAX;
  for (size_t i = trace->length; i-- > 0; ) {
    const uint32_t n = trace->block[i];

    /* Never again: later than anything, but distinct. */
    next[i] = due[n] == SIZE_MAX ? trace->length + i : due[n];
    due[n] = i;
  }
  for (uint32_t n = 0; n < trace->blocks; n++)
    due[n] = SIZE_MAX;
  for (size_t i = 0; i < trace->length; i++) {
    const uint32_t n = trace->block[i];

    if (due[n] != SIZE_MAX)
      hits += i >= warm_up;
    else
      cached++;
    due[n] = next[i];
    heap_push (&heap, (struct due) { next[i], n });
    while (cached > capacity) {
      const struct due last = heap_pop (&heap);

      /* Others of the block are from before it was read again. */
      if (due[last.block] == last.next) {
        due[last.block] = SIZE_MAX;
        cached--;
      }
    }
  }
  free (next);
  free (due);
  free (heap.due);
  return hits;
}

size_t
policy_hits (enum policy policy, const struct trace *trace, uint32_t capacity,
             size_t warm_up)
{
  static void (*const miss[]) (struct simulation *, uint32_t) = {
    [POLICY_fifo] = fifo_miss, [POLICY_lru] = fifo_miss,
    [POLICY_sieve] = sieve_miss, [POLICY_s3_fifo] = s3_fifo_miss,
  };
  struct simulation s = { .capacity = capacity, .blocks = trace->blocks };
  size_t hits = 0;

  if (policy == POLICY_belady)
    return belady_hits (trace, capacity, warm_up);
  s.block = calloc (s.blocks + PLACES, sizeof *s.block);
  assert (s.block && capacity >= 10);
  for (uint32_t i = s.blocks; i < s.blocks + PLACES; i++)
    s.block[i].next = s.block[i].prev = i;
  s.hand = ring_of (&s, MAIN);
  for (size_t i = 0; i < trace->length; i++) {
    const uint32_t n = trace->block[i];

    if (!is_cached (&s, n))
      miss[policy] (&s, n);
    else {
      hits += i >= warm_up;
      note_hit (&s, n);
      if (policy == POLICY_lru)
        lru_hit (&s, n);
    }
  }
  free (s.block);
  return hits;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "model/tickets.h"

#define WORDS (SECTOR / 8)

static void *
map_shared (size_t length)
{
  void *p = mmap (NULL, length, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  assert (p != MAP_FAILED);
  return p;
}

struct tickets *
tickets_new (uint64_t at, uint32_t sectors, uint64_t capacity)
{
  struct tickets *tickets = map_shared (sizeof *tickets);

  tickets->at = at;
  tickets->sectors = sectors;
  tickets->capacity = capacity;
  tickets->first = 1;
  tickets->clock = 1;
  tickets->sector = map_shared (sectors * sizeof *tickets->sector);
  tickets->op = map_shared (capacity * sizeof *tickets->op);
  return tickets;
}

void
tickets_free (struct tickets *tickets)
{
  munmap (tickets->sector, tickets->sectors * sizeof *tickets->sector);
  munmap (tickets->op, tickets->capacity * sizeof *tickets->op);
  munmap (tickets, sizeof *tickets);
}

bool
tickets_full (struct tickets *tickets)
{
  /* Threads that have looked already still get theirs. */
  return atomic_load (&tickets->count) + 1000 >= tickets->capacity;
}

static uint64_t
tick (struct tickets *tickets)
{
  return atomic_fetch_add (&tickets->clock, 1);
}

static void
atomic_max (_Atomic uint64_t *where, uint64_t value)
{
  uint64_t old = atomic_load (where);

  while (old < value && !atomic_compare_exchange_weak (where, &old, value))
    ;
}

static uint64_t
word_of (uint64_t number, uint32_t sector, unsigned i)
{
  if (i == 0)
    return number;
  return (number + i) * UINT64_C (0x9e3779b97f4a7c15)
    ^ ((uint64_t) sector << 32 | i);
}

static void
make_sector (uint8_t *to, uint64_t number, uint32_t sector)
{
  for (unsigned i = 0; i < WORDS; i++) {
    const uint64_t word = word_of (number, sector, i);

    memcpy (to + 8 * i, &word, 8);
  }
}

/* The number a sector says, 0 for zeros.  It is whole, or this fails. */
static uint64_t
parse_sector (const uint8_t *from, uint32_t sector, const char *what)
{
  uint64_t number, word;

  memcpy (&number, from, 8);
  for (unsigned i = 1; i < WORDS; i++) {
    memcpy (&word, from + 8 * i, 8);
    if (word != (number == 0 ? 0 : word_of (number, sector, i)))
      fail ("%s: sector %" PRIu32 " says %" PRIu64 " in its first word, but "
            "word %u is %016" PRIx64 ": torn, or another place's", what,
            sector, number, i, word);
  }
  return number;
}

static const struct ticket_op *
op_of (const struct tickets *tickets, uint64_t number)
{
  if (number < tickets->first
      || number - tickets->first >= atomic_load (&tickets->count))
    return NULL;
  return &tickets->op[number - tickets->first];
}

static void
print_sector (const struct tickets *tickets, uint32_t sector)
{
  const struct ticket_sector *s = &tickets->sector[sector];
  const uint64_t count = MIN (atomic_load (&tickets->count),
                              tickets->capacity);

  diag ("sector %" PRIu32 ": base %" PRIu64 ", acked %" PRIu64 ", zero end %"
        PRIu64 ", zeroing %" PRIu32 "; flushed at %" PRIu64, sector, s->base,
        atomic_load (&s->acked), atomic_load (&s->zero_end),
        atomic_load (&s->zeroing), atomic_load (&tickets->flushed_at));
  for (uint64_t i = 0; i < count; i++) {
    const struct ticket_op *op = &tickets->op[i];

    if (sector >= op->sector && sector - op->sector < op->count)
      diag ("  %" PRIu64 ": %s from %" PRIu64 " to %" PRIu64 "%s, sectors %"
            PRIu32 "+%" PRIu32, tickets->first + i,
            op->zero ? "zero" : "write", op->start,
            atomic_load (&op->end), op->fua ? " fua" : "", op->sector,
            op->count);
  }
}

/* Something that began at SINCE is there for certain: may this be found? */
static void
judge (struct tickets *tickets, const uint8_t *from, uint32_t sector,
       uint64_t since, const char *what)
{
  const struct ticket_sector *s = &tickets->sector[sector];
  const uint64_t number = parse_sector (from, sector, what);
  const struct ticket_op *op;
  uint64_t end;

  if (number == s->base && since == 0)
    return;
  if (number == 0) {
    if (atomic_load (&s->zeroing) > 0
        || (atomic_load (&s->zero_end) != 0
            && atomic_load (&s->zero_end) >= since))
      return;
    print_sector (tickets, sector);
    fail ("%s: sector %" PRIu32 " is zeros, which is older than what began at "
          "%" PRIu64, what, sector, since);
  }
  op = op_of (tickets, number);
  if (op && !op->zero && sector >= op->sector
      && sector - op->sector < op->count) {
    end = atomic_load (&op->end);
    if (end == 0 || end >= since)
      return;
  }
  print_sector (tickets, sector);
  fail ("%s: sector %" PRIu32 " has number %" PRIu64 ", %s; what began at %"
        PRIu64 " must be there", what, sector, number,
        number == s->base ? "from before this round"
        : op == NULL ? "which is of no change in this round" : "which is older",
        since);
}

int
tickets_change (struct tickets *tickets, struct cache *cache,
                uint32_t sector, uint32_t count, bool zero, bool fua,
                uint8_t *buf)
{
  const struct range range = {
    tickets->at + (uint64_t) sector * SECTOR, (uint64_t) count * SECTOR,
  };
  const uint64_t i = atomic_fetch_add (&tickets->count, 1);
  struct ticket_op *op = &tickets->op[i];
  uint64_t end;
  int r;

  assert (i < tickets->capacity);
  op->sector = sector;
  op->count = count;
  op->zero = zero;
  op->fua = fua;
  op->start = tick (tickets);
  if (zero) {
    for (uint32_t j = sector; j < sector + count; j++)
      atomic_fetch_add (&tickets->sector[j].zeroing, 1);
    r = i % 2 ? cache_zero (cache, range, i % 4 == 1, fua)
      : cache_trim (cache, range, fua);
  }
  else {
    for (uint32_t j = 0; j < count; j++)
      make_sector (buf + (size_t) j * SECTOR, tickets->first + i, sector + j);
    r = cache_write (cache, buf, range, fua);
  }
  if (r < 0)
    return r;                   /* it may be there or not, for ever */
  end = tick (tickets);
  for (uint32_t j = sector; j < sector + count; j++) {
    struct ticket_sector *s = &tickets->sector[j];

    if (zero)
      atomic_max (&s->zero_end, end);
  }
  atomic_store (&op->end, end);
  for (uint32_t j = sector; j < sector + count; j++) {
    atomic_max (&tickets->sector[j].acked, op->start);
    if (zero)
      atomic_fetch_sub (&tickets->sector[j].zeroing, 1);
  }
  return 0;
}

int
tickets_read (struct tickets *tickets, struct cache *cache, uint32_t sector,
              uint32_t count, uint8_t *buf)
{
  const struct range range = {
    tickets->at + (uint64_t) sector * SECTOR, (uint64_t) count * SECTOR,
  };
  CLEANUP_FREE uint64_t *since = malloc (count * sizeof *since);
  int r;

  assert (since);
  for (uint32_t j = 0; j < count; j++)
    since[j] = atomic_load (&tickets->sector[sector + j].acked);
  r = cache_read (cache, buf, range);
  if (r < 0)
    return r;
  for (uint32_t j = 0; j < count; j++)
    judge (tickets, buf + (size_t) j * SECTOR, sector + j, since[j], "read");
  return 0;
}

int
tickets_flush (struct tickets *tickets, struct cache *cache)
{
  const uint64_t start = tick (tickets);
  int r = cache_flush (cache);

  if (r == 0)
    atomic_max (&tickets->flushed_at, start);
  return r;
}

int
tickets_anything (struct tickets *tickets, struct cache *cache,
                  struct rng *rng, uint32_t max_count, uint8_t *buf)
{
  uint32_t count = rng_length (rng, 1, rng_one_in (rng, 50) ? max_count
                               : MIN (max_count, 64u));
  /* Half of it happens in a few places, or threads would never meet. */
  uint32_t sector = rng_one_in (rng, 2)
    ? rng_below (rng, tickets->sectors)
    : rng_below (rng, 4) * (tickets->sectors / 4) + rng_below (rng, 16);

  sector = MIN (sector, tickets->sectors - 1);
  count = MIN (count, tickets->sectors - sector);
  switch (rng_below (rng, 20)) {
  case 0 ... 8:
    if (!tickets_full (tickets))
      return tickets_change (tickets, cache, sector, count, false,
                             rng_one_in (rng, 20), buf);
    /* FALLTHROUGH */
  case 9 ... 16:
    return tickets_read (tickets, cache, sector, count, buf);
  case 17:
    if (!tickets_full (tickets))
      return tickets_change (tickets, cache, sector, count, true,
                             rng_one_in (rng, 20), buf);
    return 0;
  case 18:
    return cache_prefetch (cache, (struct range) {
        tickets->at + (uint64_t) sector * SECTOR, (uint64_t) count * SECTOR });
  default:
    return rng_one_in (rng, 2) ? tickets_flush (tickets, cache) : 0;
  }
}

void
tickets_check (struct tickets *tickets, const uint8_t *found,
               const char *what)
{
  for (uint32_t j = 0; j < tickets->sectors; j++)
    judge (tickets, found + (size_t) j * SECTOR, j,
           atomic_load (&tickets->sector[j].acked), what);
}

/* From now on only what was flushed is there for certain. */
static void
forget_unflushed (struct tickets *tickets)
{
  const uint64_t flushed_at = atomic_load (&tickets->flushed_at);
  const uint64_t count = MIN (atomic_load (&tickets->count),
                              tickets->capacity);

  for (uint32_t j = 0; j < tickets->sectors; j++)
    tickets->sector[j].acked = 0;
  for (uint64_t i = 0; i < count; i++) {
    const struct ticket_op *op = &tickets->op[i];
    const uint64_t end = atomic_load (&op->end);

    if (end == 0 || !(op->fua || end < flushed_at))
      continue;
    for (uint32_t j = op->sector; j < op->sector + op->count; j++)
      atomic_max (&tickets->sector[j].acked, op->start);
  }
}

void
tickets_begin_round (struct tickets *tickets, const uint8_t *found,
                     bool crashed)
{
  const uint64_t count = MIN (atomic_load (&tickets->count),
                              tickets->capacity);

  if (crashed)
    forget_unflushed (tickets);
  tickets_check (tickets, found, crashed ? "after the crash"
                 : "after the restart");
  for (uint32_t j = 0; j < tickets->sectors; j++) {
    struct ticket_sector *s = &tickets->sector[j];

    s->base = parse_sector (found + (size_t) j * SECTOR, j, "");
    s->acked = s->zero_end = 0;
    s->zeroing = 0;
  }
  for (uint64_t i = 0; i < count; i++)
    tickets->op[i].end = 0;
  tickets->first += count;
  tickets->count = 0;
  tickets->flushed_at = 0;
}

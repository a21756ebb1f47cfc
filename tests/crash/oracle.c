/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "crash/oracle.h"

#define MAX_FOUND 64

static uint8_t *patterns;       /* ORACLE_VERSIONS disks */
static uint8_t *found;          /* MAX_FOUND disks */
static uint32_t disk_size;
static char problem[200];

static uint8_t
byte_of (uint32_t at, unsigned version)
{
  uint32_t x = (at + version * 0x10001) * 0x9e3779b1u;

  x ^= x >> 15;
  x *= 0x85ebca77u;
  /* Never zero, which is version 0. */
  return x >> 24 | 1;
}

static void
make_patterns (uint32_t size)
{
  if (disk_size == size)
    return;
  assert (disk_size == 0);
  disk_size = size;
  patterns = calloc (ORACLE_VERSIONS, size);
  found = calloc (MAX_FOUND, size);
  assert (patterns && found);
  for (unsigned v = 1; v < ORACLE_VERSIONS; v++)
    for (uint32_t i = 0; i < size; i++)
      patterns[(size_t) v * size + i] = byte_of (i, v);
}

const uint8_t *
oracle_pattern (int version)
{
  return version >= 0 ? patterns + (size_t) version * disk_size
    : found + (size_t) (-version - 1) * disk_size;
}

void
oracle_init (struct oracle *o, uint32_t size, const uint32_t *bounds,
             unsigned count)
{
  uint32_t start = 0;

  assert (count < ORACLE_CELLS);
  make_patterns (size);
  memset (o, 0, sizeof *o);
  o->size = size;
  o->cells = count + 1;
  o->epoch = 1;
  for (unsigned i = 0; i <= count; i++) {
    const uint32_t end = i < count ? bounds[i] : size;

    assert (end > start);
    o->cell[i].start = start;
    o->cell[i].length = end - start;
    o->cell[i].count = 1;       /* version 0, epoch 0 */
    start = end;
  }
}

bool
oracle_has_room (const struct oracle *o)
{
  /* A request takes one of each at most. */
  return o->version < ORACLE_VERSIONS - 2 && o->epoch < ORACLE_EPOCHS - 2
    && o->found < MAX_FOUND - 2;
}

static bool
touches (const struct oracle *o, const struct oracle_cell *c,
         struct range range)
{
  const bool inside = c->start >= range.start
    && c->start + c->length <= range_end (range);

  (void) o;
  assert (inside || c->start >= range_end (range)
          || c->start + c->length <= range.start);
  return inside;
}

int
oracle_write (struct oracle *o, struct range range, bool zeros)
{
  const int version = zeros ? 0 : ++o->version;

  assert (version < ORACLE_VERSIONS);
  for (unsigned i = 0; i < o->cells; i++) {
    struct oracle_cell *c = &o->cell[i];

    if (!touches (o, c, range))
      continue;
    assert (c->count < ORACLE_ENTRIES);
    c->entry[c->count++] = (struct oracle_entry) { .version = version, .epoch = o->epoch };
  }
  return version;
}

void
oracle_fua (struct oracle *o, struct range range)
{
  for (unsigned i = 0; i < o->cells; i++)
    if (touches (o, &o->cell[i], range))
      o->cell[i].durable = o->cell[i].count - 1;
  o->epoch++;
}

void
oracle_flush (struct oracle *o)
{
  for (unsigned i = 0; i < o->cells; i++)
    o->cell[i].flushed = o->cell[i].durable = o->cell[i].count - 1;
  o->epoch++;
}

static bool
is_entry (const struct oracle_cell *c, unsigned i, const uint8_t *disk)
{
  return memcmp (disk + c->start, oracle_pattern (c->entry[i].version)
                 + c->start, c->length) == 0;
}

/* The newest entry that the cell holds whole, from LOWEST on; -1: none. */
static int
entry_in (const struct oracle_cell *c, unsigned lowest, const uint8_t *disk)
{
  for (int i = c->count - 1; i >= (int) lowest; i--)
    if (is_entry (c, i, disk))
      return i;
  return -1;
}

/* --- P2, P1 ----------------------------------------------------------- */

const char *
oracle_check_now (const struct oracle *o, const uint8_t *disk,
                  struct range range)
{
  for (unsigned i = 0; i < o->cells; i++) {
    const struct oracle_cell *c = &o->cell[i];

    if (!touches (o, c, range) || is_entry (c, c->count - 1, disk))
      continue;
    snprintf (problem, sizeof problem, "P2: %u+%u: entry %d of its history, "
              "not the newest (%d)", c->start, c->length,
              entry_in (c, 0, disk), c->count - 1);
    return problem;
  }
  return NULL;
}

static bool
may_be (const struct oracle_cell *c, uint32_t at, uint8_t byte)
{
  for (unsigned i = c->durable; i < c->count; i++)
    if (oracle_pattern (c->entry[i].version)[at] == byte)
      return true;
  return false;
}

const char *
oracle_check_crash (const struct oracle *o, const uint8_t *disk)
{
  for (unsigned i = 0; i < o->cells; i++) {
    const struct oracle_cell *c = &o->cell[i];

    if (entry_in (c, c->durable, disk) >= 0)
      continue;
    for (uint32_t at = c->start; at < c->start + c->length; at++) {
      if (may_be (c, at, disk[at]))
        continue;
      snprintf (problem, sizeof problem, "P1/P2: %u+%u after a crash: byte %u "
                "is 0x%02x (entry %d of the cell's history; %d is durable, "
                "%d the newest)", c->start, c->length, at, disk[at],
                entry_in (c, 0, disk), c->durable, c->count - 1);
      return problem;
    }
  }
  return NULL;
}

/* --- P3 --------------------------------------------------------------- */

/* The epochs e (as bits) for which a cell may hold the entries of the set
 * HELD (bits). */
static uint64_t
legal_epochs (const struct oracle *o, const struct oracle_cell *c,
              uint64_t held)
{
  uint64_t legal = 0;
  unsigned newest = 0;          /* that must be there, of the epochs up to e */

  for (unsigned e = 0; e <= o->epoch; e++) {
    for (unsigned i = newest + 1; i < c->count && c->entry[i].epoch <= e; i++)
      if (!c->entry[i].optional)
        newest = i;
    for (unsigned i = newest; i < c->count && c->entry[i].epoch <= e + 1; i++)
      if (held >> i & 1)
        legal |= UINT64_C (1) << e;
  }
  return legal;
}

static uint64_t
cell_legal_epochs (const struct oracle *o, const struct oracle_cell *c,
                   const uint8_t *disk)
{
  uint64_t held = 0, legal = ~UINT64_C (0);

  for (unsigned i = 0; i < c->count; i++)
    if (is_entry (c, i, disk))
      held |= UINT64_C (1) << i;
  if (held)
    return legal_epochs (o, c, held);
  for (uint32_t at = c->start; at < c->start + c->length; at++) {
    held = 0;
    for (unsigned i = 0; i < c->count; i++)
      if (oracle_pattern (c->entry[i].version)[at] == disk[at])
        held |= UINT64_C (1) << i;
    legal &= legal_epochs (o, c, held);
  }
  return legal;
}

const char *
oracle_check_backing (const struct oracle *o, const uint8_t *disk)
{
  uint64_t legal = ~UINT64_C (0), here;

  for (unsigned i = 0; i < o->cells; i++) {
    const struct oracle_cell *c = &o->cell[i];

    here = cell_legal_epochs (o, c, disk);
    if ((legal & here) == 0) {
      snprintf (problem, sizeof problem, "P3: the backing store is no state of "
                "a plain disk: %u+%u has entry %d of its history (epoch %d), "
                "possible for epochs 0x%llx, the rest for 0x%llx",
                c->start, c->length, entry_in (c, 0, disk),
                entry_in (c, 0, disk) < 0 ? -1
                : c->entry[entry_in (c, 0, disk)].epoch,
                (unsigned long long) here, (unsigned long long) legal);
      return problem;
    }
    legal &= here;
  }
  return NULL;
}

/* --- after a crash ---------------------------------------------------- */

static void
settle_cell (struct oracle *o, struct oracle_cell *c, const uint8_t *disk,
             bool *kept)
{
  int i = entry_in (c, c->durable, disk);
  struct oracle_entry entry;

  if (i >= 0)
    entry = c->entry[i];
  else {
    /* A mixture: a version of its own. */
    if (!*kept) {
      assert (o->found < MAX_FOUND && c->count < ORACLE_ENTRIES);
      memcpy (found + (size_t) o->found++ * disk_size, disk, disk_size);
      *kept = true;
    }
    entry = (struct oracle_entry) {
      .version = -o->found, .epoch = c->entry[c->count - 1].epoch,
    };
    i = c->count;
  }
  /* What came after it is lost.  What it overwrote since the last flush may
   * be too: FUA makes its own write durable, and what that overwrote need
   * never have reached a disk. */
  for (int j = c->flushed + 1; j < i; j++)
    c->entry[j].optional = true;
  c->entry[i] = entry;
  c->count = i + 1;
  c->durable = c->flushed = i;
}

void
oracle_settle (struct oracle *o, const uint8_t *disk)
{
  bool kept = false;

  for (unsigned i = 0; i < o->cells; i++)
    settle_cell (o, &o->cell[i], disk, &kept);
  o->epoch++;
}

void
oracle_restart (struct oracle *o, const uint8_t *disk)
{
  for (unsigned i = 0; i < o->cells; i++) {
    struct oracle_cell *c = &o->cell[i];

    c->count = 1;
    c->durable = c->flushed = 0;
    c->entry[0] = (struct oracle_entry) { .version = -1 };
  }
  o->epoch = 1;
  o->version = 0;
  o->found = 1;
  memmove (found, disk, disk_size);
}

uint64_t
oracle_hash (const struct oracle *o)
{
  uint64_t hash = 0;

  for (unsigned i = 0; i < o->cells; i++) {
    const struct oracle_cell *c = &o->cell[i];
    uint8_t flat[ORACLE_ENTRIES * 2 + 2];
    unsigned n = 0;

    flat[n++] = c->durable;
    flat[n++] = c->count;
    for (unsigned j = 0; j < c->count; j++) {
      flat[n++] = c->entry[j].version;
      flat[n++] = c->entry[j].epoch << 1 | c->entry[j].optional;
    }
    hash = XXH3_64bits_withSeed (flat, n, hash);
  }
  return hash;
}

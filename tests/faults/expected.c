/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "faults/expected.h"

#define MAX_PIECE UINT64_C (65536)      /* bytes looked at in one go */

void
expected_init (struct expected *expected, const uint8_t *base, uint64_t size)
{
  expected->size = size;
  expected->count = 0;
  expected->any_lost = false;
  expected->base = malloc (size);
  expected->lost = calloc (1, size);
  assert (expected->base && expected->lost);
  memcpy (expected->base, base, size);
}

void
expected_copy (struct expected *to, const struct expected *from)
{
  expected_init (to, from->base, from->size);
  memcpy (to->change, from->change, sizeof to->change);
  to->count = from->count;
  assert (!from->any_lost);
}

void
expected_free (struct expected *expected)
{
  free (expected->base);
  free (expected->lost);
}

static uint64_t
mix (uint64_t z)
{
  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

void
change_bytes (void *buf, struct range range, uint64_t id)
{
  const uint64_t base = mix (id);
  uint64_t at = range.start;
  uint8_t *to = buf;

  if (id == 0) {
    memset (buf, 0, range.length);
    return;
  }
  /* A byte is a function of its place, so that one of another place is
   * noticed. */
  while (at < range_end (range)) {
    uint64_t word = base + at / 8 * UINT64_C (0x9e3779b97f4a7c15);
    const unsigned skip = at % 8;
    const size_t n = MIN (8u - skip, range_end (range) - at);

    word ^= word >> 29;
    memcpy (to, (const uint8_t *) &word + skip, n);
    to += n;
    at += n;
    for (; at + 8 <= range_end (range); at += 8, to += 8) {
      word = base + at / 8 * UINT64_C (0x9e3779b97f4a7c15);
      word ^= word >> 29;
      memcpy (to, &word, 8);
    }
  }
}

void
expected_change (struct expected *expected, struct range range, uint64_t id,
                 bool acknowledged, bool fua)
{
  assert (expected->count < EXPECTED_MAX_CHANGES);
  assert (range_is_valid (range, expected->size));
  expected->change[expected->count++] = (struct change) {
    .range = range,
    .id = id,
    .acknowledged = acknowledged,
    .durable = acknowledged && fua,
  };
  if (!expected->any_lost)
    return;
  if (acknowledged)
    memset (expected->lost + range.start, NOT_LOST, range.length);
  else
    for (uint64_t at = range.start; at < range_end (range); at++)
      expected->lost[at] = MIN (expected->lost[at], LOST_PERHAPS);
}

void
expected_flushed (struct expected *expected)
{
  for (unsigned i = 0; i < expected->count; i++)
    expected->change[i].durable |= expected->change[i].acknowledged;
}

void
expected_crashed (struct expected *expected)
{
  for (unsigned i = 0; i < expected->count; i++)
    expected->change[i].acknowledged &= expected->change[i].durable;
  /* What says "lost" may be gone with the rest; what it stood for was never
   * overwritten, so it is there or it is not. */
  for (uint64_t at = 0; expected->any_lost && at < expected->size; at++)
    expected->lost[at] = MIN (expected->lost[at], LOST_PERHAPS);
}

void
expected_lost (struct expected *expected, struct range range, enum lost how)
{
  assert (range_is_valid (range, expected->size));
  expected->any_lost = true;
  for (uint64_t at = range.start; at < range_end (range); at++)
    expected->lost[at] = MAX (expected->lost[at], how);
}

uint64_t
expected_lost_run (const struct expected *expected, struct range range,
                   enum lost *how)
{
  uint64_t n = 1;

  *how = NOT_LOST;
  if (!expected->any_lost)
    return range.length;
  *how = expected->lost[range.start];
  while (n < range.length && expected->lost[range.start + n] == *how)
    n++;
  return n;
}

/* What RANGE would be if NUMBER were the last change: 0 is before all of
 * them.  RANGE begins and ends where changes do or between. */
static bool
make_candidate (const struct expected *expected, unsigned number,
                struct range range, uint8_t *to)
{
  if (number == 0)
    memcpy (to, expected->base + range.start, range.length);
  else if (range_overlaps (expected->change[number - 1].range, range))
    change_bytes (to, range, expected->change[number - 1].id);
  else
    return false;
  return true;
}

static bool
is_last_candidate (const struct expected *expected, unsigned number,
                   bool however_old)
{
  return number == 0
    || (expected->change[number - 1].acknowledged && !however_old);
}

/* The first byte that no candidate has, where no candidate has them all. */
static uint64_t
check_mixed (const struct expected *expected, const uint8_t *buf,
             struct range range, bool however_old)
{
  uint8_t *wanted = malloc (range.length);
  bool *is_right = calloc (range.length, 1);
  uint64_t n = 0;

  assert (wanted && is_right);
  for (unsigned i = expected->count + 1; i-- > 0;) {
    if (!make_candidate (expected, i, range, wanted))
      continue;
    for (uint64_t j = 0; j < range.length; j++)
      is_right[j] |= wanted[j] == buf[j];
    if (is_last_candidate (expected, i, however_old))
      break;
  }
  while (n < range.length && is_right[n])
    n++;
  free (wanted);
  free (is_right);
  return range.start + n;
}

/* Which changes touch it is the same for all bytes of RANGE. */
static uint64_t
check_uniform (const struct expected *expected, const uint8_t *buf,
               struct range range, bool however_old)
{
  static uint8_t wanted[MAX_PIECE];

  for (unsigned i = expected->count + 1; i-- > 0;) {
    if (!make_candidate (expected, i, range, wanted))
      continue;
    if (memcmp (wanted, buf, range.length) == 0)
      return range_end (range);
    if (is_last_candidate (expected, i, however_old))
      break;
  }
  return check_mixed (expected, buf, range, however_old);
}

/* Where the set of changes that touch a byte is next another one. */
static uint64_t
next_border (const struct expected *expected, struct range range)
{
  uint64_t border = range_end (range);

  for (unsigned i = 0; i < expected->count; i++) {
    const struct range changed = expected->change[i].range;

    if (changed.start > range.start)
      border = MIN (border, changed.start);
    if (range_end (changed) > range.start)
      border = MIN (border, range_end (changed));
  }
  return border;
}

uint64_t
expected_check (const struct expected *expected, const uint8_t *buf,
                struct range range, bool however_old)
{
  while (range.length > 0) {
    const uint64_t length =
      MIN (next_border (expected, range) - range.start, MAX_PIECE);
    const struct range part = { range.start, length };
    const uint64_t wrong = check_uniform (expected, buf, part,
                                          however_old);

    if (wrong < range_end (part))
      return wrong;
    buf += length;
    range.start += length;
    range.length -= length;
  }
  return range.start;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hostile/life.h"
#include "support/reports.h"

/* No image has so much to do. */
#define MAX_STEPS 200
#define READ_PIECE (64 * KIB)
#define BLOCK 64

/* life->state */
#define STATE_SURE 1            /* written by this life: want and nothing else */
#define STATE_PENDING 2         /* a write of it failed: old or new */

struct life_totals life_totals;

static void
say_and_abort (const struct life *life, const char *message)
{
  fprintf (stderr, "image %s, %s: %s\n", life->image->name, life->what,
           message);
  abort ();
}

void (*life_violation) (const struct life *life, const char *message)
  = say_and_abort;

__attribute__ ((format (printf, 2, 3)))
static void
violation (struct life *life, const char *format, ...)
{
  char message[600];
  va_list args;

  va_start (args, format);
  vsnprintf (message, sizeof message, format, args);
  va_end (args);
  /* What follows from the first is only noise. */
  if (life->violations++ == 0)
    life_violation (life, message);
}

struct doubt *
life_doubt (struct life *life, struct range range)
{
  struct doubt *d = &life->doubt[life->doubts];

  /* One more than there is room for: then everything is. */
  if (life->doubts == MAX_DOUBTS - 1)
    life->any_age = true;
  else
    life->doubts++;
  *d = (struct doubt) { .range = range };
  return d;
}

/* --- what a byte may be ----------------------------------------------- */

static bool
has (struct range range, uint64_t at)
{
  return at >= range.start && at - range.start < range.length;
}

static bool
is_lost (const struct life *life, uint64_t at)
{
  for (unsigned i = 0; i < life->image->losts; i++)
    if (has (life->image->lost[i], at))
      return true;
  return false;
}

static bool
ever_was (const struct image *image, uint64_t at, uint8_t byte)
{
  for (unsigned i = 0; i < image->pasts; i++)
    if (image->past[i * image->size + at] == byte)
      return true;
  return false;
}

static bool
may_be (const struct life *life, uint64_t at, uint8_t byte)
{
  bool doubtful = life->any_age || is_lost (life, at);

  if (life->state[at] == STATE_SURE)
    return false;
  if (life->anything)
    return true;
  for (unsigned i = 0; i < life->doubts; i++) {
    const struct doubt *d = &life->doubt[i];

    if (!has (d->range, at))
      continue;
    doubtful = true;
    if (d->may_be_anything || (byte == 0 && d->may_be_zero))
      return true;
    if (d->may_move) {
      const uint64_t from = d->from + (at - d->range.start);

      if (from < life->image->size && ever_was (life->image, from, byte))
        return true;
    }
  }
  return (doubtful || life->state[at] == STATE_PENDING)
    && ever_was (life->image, at, byte);
}

static bool
may_fail (const struct life *life, uint64_t at)
{
  if (life->state[at] == STATE_SURE)
    return false;
  if (is_lost (life, at) || life->anything)
    return true;
  for (unsigned i = 0; i < life->doubts; i++)
    if (has (life->doubt[i].range, at) && life->doubt[i].may_fail)
      return true;
  return false;
}

/* The first byte of RANGE that must give EIO, if *FOUND. */
static uint64_t
first_of (const struct life *life, struct range range, struct range lost,
          bool *found)
{
  uint64_t at = MAX (range.start, lost.start);

  while (at < range_end (range) && has (lost, at) && life->state[at])
    at++;
  *found = at < range_end (range) && has (lost, at);
  return at;
}

/* RANGE was read without an error. */
static void
check_losses (struct life *life, struct range range, const char *when)
{
  bool found = false;
  uint64_t at = 0;

  if (life->any_age || life->anything || life->rescued)
    return;
  for (unsigned i = 0; i < life->image->losts && !found; i++)
    at = first_of (life, range, life->image->lost[i], &found);
  for (unsigned i = 0; i < life->doubts && !found; i++)
    if (life->doubt[i].must_fail)
      at = first_of (life, range, life->doubt[i].range, &found);
  if (found)
    violation (life, "%s: byte %" PRIu64 " of the disk was lost, but is read "
               "without an error", when, at);
}

/* The quick way for most: a whole block is as it is wanted, or as it was once
 * and may be again. */
static bool
is_past (const struct life *life, const uint8_t *block, uint64_t at)
{
  const struct image *image = life->image;

  if (memcmp (block, life->want + at, BLOCK) == 0)
    return true;
  if (!life->any_age || memchr (life->state + at, STATE_SURE, BLOCK))
    return false;
  for (unsigned i = image->pasts; i > 0; i--)
    if (memcmp (block, image->past + (i - 1) * image->size + at, BLOCK) == 0)
      return true;
  return false;
}

static void
check_bytes (struct life *life, const uint8_t *bytes, struct range range,
             const char *when)
{
  const uint8_t *want = life->want + range.start;

  if (memcmp (bytes, want, range.length) == 0)
    return;
  for (uint64_t i = 0; i < range.length; i++) {
    if (i % BLOCK == 0 && range.length - i >= BLOCK
        && is_past (life, bytes + i, range.start + i)) {
      i += BLOCK - 1;
      continue;
    }
    if (bytes[i] != want[i] && !may_be (life, range.start + i, bytes[i])) {
      violation (life, "%s: byte %" PRIu64 " of the disk is 0x%02x, not "
                 "0x%02x", when, range.start + i, bytes[i], want[i]);
      return;
    }
  }
}

/* --- steps ------------------------------------------------------------ */

static bool
may_all_fail (const struct life *life, struct range range)
{
  while (range.length > 0 && may_fail (life, range.start + range.length - 1))
    range.length--;
  return range.length == 0;
}

static void
read_range (struct life *life, struct range range, const char *when)
{
  static uint8_t buf[READ_PIECE];
  int r;

  memset (buf, 0x6e, range.length);     /* no image has it */
  r = cache_read (life->cache, buf, range);
  if (r == -EIO && range.length > 1 && !may_all_fail (life, range)) {
    const uint64_t half = range.length / 2;

    read_range (life, (struct range) { range.start, half }, when);
    read_range (life, (struct range) { range.start + half,
                                       range.length - half }, when);
    return;
  }
  if (r == 0) {
    check_losses (life, range, when);
    check_bytes (life, buf, range, when);
    return;
  }
  if (r != -EIO)
    violation (life, "%s: reading %" PRIu64 "+%" PRIu64 " gives %d", when,
               range.start, range.length, r);
  else if (!may_fail (life, range.start))
    violation (life, "%s: byte %" PRIu64 " of the disk gives EIO", when,
               range.start);
  life->failed_bytes += range.length;
}

static void
read_all (struct life *life, const char *when)
{
  for (uint64_t at = 0; at < life->image->size; at += READ_PIECE)
    read_range (life, (struct range) {
        at, MIN (READ_PIECE, life->image->size - at) }, when);
}

/* Returns what cache_open does.  A refusal must say why, and must not have
 * touched anything. */
static int
open_it (struct life *life, bool rescue, const char *when)
{
  struct image *image = life->image;
  struct cache_options options = image->options;
  struct pmem *pmem = memory_pmem_open (image->device);
  const unsigned stores = image_stores (image);
  int r;

  reports_collect ();
  options.rescue = rescue;
  r = cache_open (&options, pmem, &life->cache);
  if (r < 0) {
    pmem_close (pmem);
    life->cache = NULL;
    if (image_stores (image) != stores)
      violation (life, "%s: refused (%d) after %u stores", when, r,
                 image_stores (image) - stores);
    if (reports_count (REPORT_ERROR) == 0)
      violation (life, "%s: refused (%d) without a word", when, r);
    else if (life->names && !reports_have (REPORT_ERROR, life->names))
      violation (life, "%s: refused, but no message names \"%s\":\n%s", when,
                 life->names, reports_text (REPORT_ERROR));
    return r;
  }
  r = cache_attach (life->cache, &image->disk->backend, "");
  if (r < 0) {
    if (reports_count (REPORT_ERROR) == 0)
      violation (life, "%s: not attached (%d) without a word", when, r);
    cache_close (life->cache);
    life->cache = NULL;
  }
  return r;
}

/* Write LENGTH bytes at AT, or zeros. */
static void
write_some (struct life *life, uint64_t at, uint64_t length, unsigned version)
{
  const struct range range = { at, length };
  uint8_t *bytes = life->want + at;
  int r;

  if (version == 0) {
    memset (bytes, 0, length);
    r = cache_zero (life->cache, range, false, false);
  }
  else {
    for (uint64_t i = 0; i < length; i++)
      bytes[i] = image_byte (at + i, version);
    r = cache_write (life->cache, bytes, range, version % 2);
  }
  memset (life->state + at, r == 0 ? STATE_SURE : STATE_PENDING, length);
  if (r < 0) {
    life->written = false;
    if (life->must_open || !(life->any_age || life->anything))
      violation (life, "a write fails: %d", r);
  }
}

static void
check_disk (struct life *life)
{
  const struct image *image = life->image;

  check_bytes (life, image->disk->bytes, (struct range) { 0, image->size },
               "after write-back, on the disk itself");
}

static void
evict_all (struct life *life)
{
  unsigned steps = 0;

  while (cache_step (life->cache))
    if (++steps == MAX_STEPS) {
      violation (life, "still something to do after %u steps", steps);
      return;
    }
}

/* May something be left undone for want of sense in what lies there? */
static bool
may_get_stuck (const struct life *life)
{
  return life->any_age || life->anything;
}

static void
use (struct life *life)
{
  const uint64_t size = life->image->size;
  int r;

  write_some (life, size / 2 - 700, 5000, 101);
  write_some (life, 0, 600, 102);
  write_some (life, size - 40000, 3000, 0);
  read_all (life, "after writing");
  r = cache_flush (life->cache);
  if (r < 0 && !may_get_stuck (life))
    violation (life, "flush fails: %d", r);
  r = cache_drain (life->cache, 0);
  if (r == 0)
    check_disk (life);
  else if (!may_get_stuck (life))
    violation (life, "drain fails: %d", r);
  evict_all (life);
  read_all (life, "after eviction");
  write_some (life, 30000, 1000, 104);
  r = cache_stop (life->cache, false, 0);
  if (r < 0 && !may_get_stuck (life))
    violation (life, "exit fails: %d", r);
}

static void
live (struct life *life)
{
  read_all (life, "at the first look");
  /* What cannot be read any more would take new sets with it, too: that is
   * no longer the damage of which this is about. */
  life->image->device->bad_length = 0;
  if (!life->brief)
    use (life);
  cache_close (life->cache);
  if (life->brief)
    return;
  /* What it has built on it accepts again. */
  if (open_it (life, life->rescue, "the second time") < 0) {
    if (!life->at_limit)
      violation (life, "the second open fails:\n%s",
                 reports_text (REPORT_ERROR));
    return;
  }
  read_all (life, "the second time");
  cache_close (life->cache);
}

unsigned
life_run (struct life *life)
{
  const struct image *image = life->image;

  life->want = malloc (image->size);
  life->state = calloc (1, image->size);
  if (life->want == NULL || life->state == NULL)
    abort ();
  memcpy (life->want, image->want, image->size);
  life->written = true;
  life->violations = 0;
  life_totals.lives++;
  life->opened = open_it (life, false, "the first time") == 0;
  if (life->opened && life->never_open)
    violation (life, "opened");
  if (life->opened && life->must_refuse)
    violation (life, "opened, although dirty data may be hidden");
  if (!life->opened && life->must_open)
    violation (life, "not opened, although nothing is lost:\n%s",
               reports_text (REPORT_ERROR));
  if (!life->opened) {
    life_totals.refused++;
    life->rescue = true;
    life->rescued = open_it (life, true, "with rescue") == 0;
    if (life->rescued && life->never_open)
      violation (life, "opened with rescue");
    life->any_age = true;
  }
  if (life->opened || life->rescued) {
    life_totals.opened += life->opened;
    life_totals.rescued += life->rescued;
    live (life);
  }
  life_totals.failed_bytes += life->failed_bytes;
  free (life->want);
  free (life->state);
  return life->violations;
}

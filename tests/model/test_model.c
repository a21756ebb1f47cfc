/* SPDX-License-Identifier: BSD-3-Clause */

/* The whole engine against an array of bytes, in one thread.
 *
 * A seed makes a history: a cache device, a disk, and operations of every
 * kind, among them clean restarts, crashes and times in which the backing
 * store fails.  The history knows, for every byte,
 *   - what it is now (reads, P2);
 *   - what it was at the last flush and which writes came since: after a
 *     crash it is one of these (P1, P2);
 *   - what it was at each flush since the last drain: the backing store's
 *     bytes are at all times those of some flush plus any of the writes
 *     up to the next (P3).
 * Errors of the backing store may fail a request, which then has done a
 * whole number of its pieces, but lose nothing (P6).
 *
 * A crash takes what is in DRAM.  If it is a power cut, it also takes any part
 * of what neither the backing store nor (in half of the histories) the cache
 * device had made durable. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cache.h"
#include "engine/log.h"
#include "model/harness.h"
#include "model/store.h"
#include "support/memory_pmem.h"

/* Seeds of histories in which a wrong engine was once found out; what was
 * wrong.  A change of what the random numbers decide makes them ordinary
 * seeds: then look for others. */
static const uint64_t old_seeds[] = {
  4,                            /* T13, made on purpose */
  7,                            /* T21, made on purpose */
  12,                           /* the same */
  19,                           /* T13 again */
  2666595816,                   /* this test: nobody could write back what was
                                 * in the way of an invalidation */
};

#define NEW_SEEDS 8
#define OPS_PER_SEED 200000

#define MAX_LENGTH (6 * MIB)
#define MAX_HISTORY 40000       /* operations between two drains */
#define SAMPLES 2000            /* bytes looked at by check_backing */

enum kind { WRITE, ZERO, TRIM, SNAPSHOT };

static const char *const kind_name[] = { "write", "zero", "trim", "snapshot" };

/* Something that changed the disk. */
struct change {
  struct range range;
  enum kind kind;
  bool fua;
  uint64_t id;                  /* WRITE: its data is a function of it */
  uint64_t epoch;
  uint8_t *bytes;               /* SNAPSHOT: its data */
};

struct world {
  uint64_t seed;
  struct rng rng;
  uint64_t op;                  /* number of the operation under way */

  struct memory_device *device;
  bool tracked;                 /* the device loses what is not durable */
  bool modes;                   /* they change; then nothing fails */
  struct store *store;
  struct backend *backend;
  struct cache_options options;
  struct cache *cache;

  uint64_t size;
  uint8_t *now;                 /* the disk */
  uint8_t *flushed;             /* the disk at the last flush */
  uint8_t *drained;             /* the disk at the last drain */
  uint8_t *vague;               /* bits: trimmed, so anything may be there;
                                 * NULL: trimmed bytes are zero */
  struct change *changes;       /* since the last drain */
  size_t count, room;
  size_t unflushed;             /* the first since the last flush */
  uint64_t epoch, first_epoch;  /* now; of changes[0] */
  bool order_known;             /* check_backing makes sense */

  uint64_t failing_until;       /* op */
  uint64_t failures_seen;       /* of the store, when it was last well */
  bool writable;
  uint64_t next_id;
  struct range last;            /* for sequential access */
  uint64_t hot[4];
  unsigned step_one_in;         /* background work between requests */
  unsigned fua_one_in, flush_one_in;    /* of those that might */
  unsigned largest;             /* usual limit of a request's length */

  uint8_t *buf, *scratch;
  uint64_t restarts, crashes, drains, backing_checks, failed_requests;
  uint64_t clean_restarts, cached_before, cached_after;
};

/* --- what the disk should be ------------------------------------------ */

#define VAGUE_NOW 1
#define VAGUE_FLUSHED 2         /* at the last flush */

static bool
is_vague (const struct world *w, uint64_t at)
{
  return w->vague && (w->vague[at] & VAGUE_NOW);
}

static void
set_vague (struct world *w, struct range range, bool vague)
{
  if (w->vague)
    for (uint64_t i = range.start; i < range_end (range); i++)
      w->vague[i] = (w->vague[i] & VAGUE_FLUSHED) | (vague ? VAGUE_NOW : 0);
}

static void
flush_vague (struct world *w, struct range range)
{
  if (w->vague)
    for (uint64_t i = range.start; i < range_end (range); i++)
      w->vague[i] = w->vague[i] & VAGUE_NOW
        ? VAGUE_NOW | VAGUE_FLUSHED : 0;
}

/* It may or may not be as it was at the last flush. */
static void
crash_vague (struct world *w, const struct change *c)
{
  if (w->vague)
    for (uint64_t i = c->range.start; i < range_end (c->range); i++)
      if (c->kind == TRIM || (w->vague[i] & VAGUE_FLUSHED))
        w->vague[i] |= VAGUE_NOW;
}

static void
change_bytes (const struct world *w, const struct change *c, uint8_t *to)
{
  switch (c->kind) {
  case WRITE:
    fill_bytes (to, c->range, c->id);
    break;
  case ZERO:
  case TRIM:
    memset (to, 0, c->range.length);
    break;
  case SNAPSHOT:
    memcpy (to, c->bytes, c->range.length);
    break;
  }
}

static void
note_change (struct world *w, struct change c)
{
  c.epoch = w->epoch;
  if (w->count == w->room) {
    w->room = w->room ? w->room * 2 : 1024;
    w->changes = realloc (w->changes, w->room * sizeof *w->changes);
    assert (w->changes);
  }
  w->changes[w->count++] = c;
  change_bytes (w, &c, w->now + c.range.start);
  if (c.kind != SNAPSHOT)
    set_vague (w, c.range, c.kind == TRIM);
  /* A write sent after FUA's reply must not reach the backing store
   * without what was sent before it. */
  if (c.fua)
    w->epoch++;
}

/* All that came is durable in the cache. */
static void
note_flush (struct world *w)
{
  for (; w->unflushed < w->count; w->unflushed++) {
    const struct range range = w->changes[w->unflushed].range;

    memcpy (w->flushed + range.start, w->now + range.start, range.length);
    flush_vague (w, range);
  }
  w->epoch++;
}

static void
forget_changes (struct world *w)
{
  for (size_t i = 0; i < w->count; i++)
    if (w->changes[i].kind == SNAPSHOT)
      free (w->changes[i].bytes);
  w->count = w->unflushed = 0;
  w->first_epoch = w->epoch;
}

static void
print_changes_at (const struct world *w, uint64_t at)
{
  diag ("at %" PRIu64 ": now %02x, at the last flush %02x, at the last drain "
        "%02x, backing %02x, and that stable %02x; epoch %" PRIu64, at,
        w->now[at], w->flushed[at], w->drained[at], w->store->mb->bytes[at],
        w->store->stable[at], w->epoch);
  for (size_t i = 0; i < w->count; i++) {
    const struct change *c = &w->changes[i];

    if (at < c->range.start || at >= range_end (c->range))
      continue;
    diag ("  %s %" PRIu64 "+%" PRIu64 "%s epoch %" PRIu64 "%s id %" PRIu64
          " (byte %02x)", kind_name[c->kind], c->range.start, c->range.length,
          c->fua ? " fua" : "", c->epoch, i < w->unflushed ? "" : " unflushed",
          c->id, c->kind == WRITE ? byte_of (at, c->id)
          : c->kind == SNAPSHOT ? c->bytes[at - c->range.start] : 0);
  }
}

static void
compare (const struct world *w, const uint8_t *found, struct range range,
         const char *what)
{
  const uint8_t *expected = w->now + range.start;
  uint64_t i;

  if (memcmp (found, expected, range.length) == 0)
    return;
  for (i = 0; i < range.length; i++)
    if (found[i] != expected[i]
        && !is_vague (w, range.start + i))
      break;
  if (i == range.length)
    return;
  print_changes_at (w, range.start + i);
  fail ("op %" PRIu64 ": %s %" PRIu64 "+%" PRIu64 ": byte %" PRIu64
        " is %02x, expected %02x", w->op, what, range.start, range.length,
        range.start + i, found[i], expected[i]);
}

/* --- P3 ---------------------------------------------------------------- */

struct sample {
  uint64_t at;
  /* The one seen last: */
  uint64_t epoch;
  bool matches;
  uint64_t covered;             /* legal states counted up to this one */
};

static int
compare_samples (const void *a, const void *b)
{
  const struct sample *x = a, *y = b;

  return (x->at > y->at) - (x->at < y->at);
}

/* S's last version is legal in every state that has its epoch partly, up
 * to the one before that of the NEXT version.  States are counted in
 * delta, by epochs that they have in full; one is counted once. */
static void
count_states (struct sample *s, int64_t *delta, uint64_t first,
              uint64_t next_epoch)
{
  const uint64_t from = MAX (s->epoch - 1, s->covered);
  const uint64_t end = next_epoch;      /* not included */

  if (!s->matches || from >= end)
    return;
  delta[from - first]++;
  delta[end - first]--;
  s->covered = end;
}

static void
check_backing (struct world *w, const char *when)
{
  const uint8_t *found = w->store->mb->bytes;
  const uint64_t first = w->first_epoch - 1; /* epochs whole at the drain */
  struct sample *samples = calloc (SAMPLES, sizeof *samples);
  int64_t *delta = calloc (w->epoch - first + 3, sizeof *delta), sum = 0;
  uint64_t most = 0;

  assert (samples && delta);
  if (!w->order_known || w->count == 0)
    goto out;
  w->backing_checks++;
  for (unsigned i = 0; i < SAMPLES; i++) {
    struct sample *s = &samples[i];
    const struct change *c = &w->changes[rng_below (&w->rng, w->count)];

    s->at = c->range.start + (rng_one_in (&w->rng, 8) ? 0
                              : rng_one_in (&w->rng, 8) ? c->range.length - 1
                              : rng_below (&w->rng, c->range.length));
    s->epoch = w->first_epoch;
    s->covered = first;
    s->matches = found[s->at] == w->drained[s->at];
  }
  qsort (samples, SAMPLES, sizeof *samples, compare_samples);

  for (size_t i = 0; i < w->count; i++) {
    const struct change *c = &w->changes[i];
    unsigned low = 0, high = SAMPLES;

    while (low < high) {
      const unsigned middle = (low + high) / 2;

      if (samples[middle].at < c->range.start)
        low = middle + 1;
      else
        high = middle;
    }
    for (; low < SAMPLES && samples[low].at < range_end (c->range); low++) {
      struct sample *s = &samples[low];
      const uint64_t at = s->at;

      count_states (s, delta, first, c->epoch);
      s->epoch = c->epoch;
      switch (c->kind) {
      case WRITE:
        s->matches = found[at] == byte_of (at, c->id);
        break;
      case ZERO:
        s->matches = found[at] == 0;
        break;
      case TRIM:
        s->matches = w->vague || found[at] == 0;
        break;
      case SNAPSHOT:
        s->matches = w->vague || found[at] == c->bytes[at - c->range.start];
        break;
      }
    }
  }
  for (unsigned i = 0; i < SAMPLES; i++)
    count_states (&samples[i], delta, first, w->epoch + 1);

  for (uint64_t e = first; e <= w->epoch; e++) {
    sum += delta[e - first];
    if (sum == SAMPLES)
      goto out;
    most = MAX (most, (uint64_t) sum);
  }
  for (unsigned i = 0; i < SAMPLES; i++)
    if (samples[i].covered == first)
      print_changes_at (w, samples[i].at);
  fail ("op %" PRIu64 " (%s): the backing store is in no legal state: at "
        "best %" PRIu64 " of %d bytes agree", w->op, when, most, SAMPLES);
 out:
  free (samples);
  free (delta);
}

/* --- requests ---------------------------------------------------------- */

static bool
is_failing (const struct world *w)
{
  return w->failing_until > 0;
}

static void
heal (struct world *w)
{
  if (!is_failing (w))
    return;
  trace ("%" PRIu64 " heal", w->op);
  store_heal (w->store);
  w->failing_until = 0;
}

/* May this request fail with R? */
static void
judge_error (struct world *w, int r, const char *what, struct range range)
{
  REQUIRE (is_failing (w) && r == -EIO,
           "op %" PRIu64 ": %s %" PRIu64 "+%" PRIu64 " gives %d (%s)%s",
           w->op, what, range.start, range.length, r, strerror (-r),
           is_failing (w) ? " while the backing store fails" : "");
  w->failed_requests++;
}

static struct range
pick_range (struct world *w, uint64_t limit)
{
  struct rng *rng = &w->rng;
  uint64_t length, start;

  limit = MIN (limit, w->size);
  if (rng_one_in (rng, 400))
    length = rng_length (rng, 1, limit);
  else
    length = rng_length (rng, 1, MIN (limit, rng_one_in (rng, 20)
                                      ? 512 * KIB : w->largest));
  switch (rng_below (rng, 8)) {
  case 0: case 1:
    start = w->hot[rng_below (rng, 4)] + rng_below (rng, 64 * KIB);
    break;
  case 2:
    start = range_end (w->last);
    break;
  case 3:                       /* around the borders of chunks and records */
    start = round_down (rng_below (rng, w->size + 1),
                        rng_one_in (rng, 2) ? MIB : 64 * KIB)
      + rng_below (rng, 16);
    start -= MIN (start, rng_below (rng, length + 16));
    break;
  case 4:
    start = w->last.start;
    break;
  case 5:
    start = w->size - MIN (w->size, rng_below (rng, 2 * length + 1));
    break;
  default:
    start = rng_below (rng, w->size);
    break;
  }
  if (rng_one_in (rng, 2)) {
    const uint64_t grain = rng_one_in (rng, 2) ? 4096 : 512;

    start = round_down (start, grain);
    length = round_up (length, grain);
  }
  if (start >= w->size)
    start = rng_below (rng, w->size);
  length = MIN (MIN (length, limit), w->size - start);
  return w->last = (struct range) { start, length };
}

static void
do_read (struct world *w)
{
  const struct range range = pick_range (w, MAX_LENGTH);
  int r;

  trace ("%" PRIu64 " read %" PRIu64 "+%" PRIu64, w->op, range.start,
         range.length);
  w->buf[0] = w->buf[range.length - 1] = 0xa5;
  r = cache_read (w->cache, w->buf, range);
  if (r < 0)
    judge_error (w, r, "read", range);
  else
    compare (w, w->buf, range, "read");
}

/* RANGE as it is now, for certain. */
static void
read_back (struct world *w, uint8_t *buf, struct range range)
{
  const struct store failing = *w->store;
  int r;

  store_heal (w->store);
  r = cache_read (w->cache, buf, range);
  REQUIRE (r == 0, "op %" PRIu64 ": reading back %" PRIu64 "+%" PRIu64
           " gives %d", w->op, range.start, range.length, r);
  w->store->fail_reads = failing.fail_reads;
  w->store->fail_writes = failing.fail_writes;
  w->store->fail_zeros = failing.fail_zeros;
  w->store->fail_flushes = failing.fail_flushes;
}

/* A change failed.  What has it done?  Its first pieces, or nothing. */
static void
settle_failed (struct world *w, const struct change *change)
{
  struct range rest = change->range;
  uint8_t *found = w->buf;
  bool undone = false;

  change_bytes (w, change, w->scratch);
  read_back (w, found, change->range);
  while (rest.length > 0) {
    const uint64_t at = rest.start - change->range.start;
    const uint64_t length = change->kind != WRITE ? rest.length
      : MIN (rest.length, LOG_MAX_RESERVE - rest.start % LOG_MAX_RESERVE);
    struct change part = *change;

    part.range = (struct range) { rest.start, length };
    part.fua = false;
    /* Equal to both: not done. */
    if (memcmp (found + at, w->scratch + at, length) != 0
        || memcmp (found + at, w->now + rest.start, length) == 0) {
      compare (w, found + at, part.range, "what a failed request left of");
      undone = true;
    }
    else {
      REQUIRE (!undone || change->kind != WRITE,
               "op %" PRIu64 ": a failed write of %" PRIu64 "+%" PRIu64
               " has left a piece out, but not the one at %" PRIu64, w->op,
               change->range.start, change->range.length, rest.start);
      note_change (w, part);
    }
    rest.start += length;
    rest.length -= length;
  }
}

static void
do_change (struct world *w, enum kind kind)
{
  struct change c = {
    .range = pick_range (w, kind == WRITE ? MAX_LENGTH : 16 * MIB),
    .kind = kind,
    .fua = rng_one_in (&w->rng, w->fua_one_in),
    .id = w->seed << 32 ^ ++w->next_id,
  };
  const uint64_t store_writes = w->store->writes;
  int r = 0;

  if (kind != WRITE)            /* settle_failed has but so much room */
    c.range.length = MIN (c.range.length, MAX_LENGTH);
  trace ("%" PRIu64 " %s %" PRIu64 "+%" PRIu64 "%s", w->op, kind_name[kind],
         c.range.start, c.range.length, c.fua ? " fua" : "");
  switch (kind) {
  case WRITE:
    fill_bytes (w->buf, c.range, c.id);
    r = cache_write (w->cache, w->buf, c.range, c.fua);
    break;
  case ZERO:
    r = cache_zero (w->cache, c.range, rng_one_in (&w->rng, 2), c.fua);
    break;
  case TRIM:
    r = cache_trim (w->cache, c.range, c.fua);
    break;
  case SNAPSHOT:
    break;
  }
  if (!w->writable) {
    REQUIRE (r == -EROFS, "op %" PRIu64 ": %s gives %d when the backing store "
             "is read-only", w->op, kind_name[kind], r);
    REQUIRE (w->store->writes == store_writes, "op %" PRIu64 ": a read-only "
             "backing store was written to", w->op);
    return;
  }
  if (r == 0)
    note_change (w, c);
  else {
    judge_error (w, r, kind_name[kind], c.range);
    settle_failed (w, &c);
  }
}

static void
do_flush (struct world *w)
{
  int r = cache_flush (w->cache);

  trace ("%" PRIu64 " flush", w->op);
  REQUIRE (r == 0, "op %" PRIu64 ": flush gives %d", w->op, r);
  note_flush (w);
}

static void
do_prefetch (struct world *w)
{
  const struct range range = pick_range (w, MAX_LENGTH);
  int r;

  trace ("%" PRIu64 " prefetch %" PRIu64 "+%" PRIu64, w->op, range.start,
         range.length);
  r = cache_prefetch (w->cache, range);
  if (r < 0)
    judge_error (w, r, "prefetch", range);
}

/* A mapped zero reads as zeros; where nothing is mapped the backing store
 * has the truth. */
static void
check_map (struct world *w, struct range range, uint64_t *mapped)
{
  *mapped = 0;
  while (range.length > 0) {
    enum map_kind kind = 99;
    uint64_t length = 0;
    struct range part;

    cache_map (w->cache, range, &kind, &length);
    REQUIRE (length > 0 && length <= range.length, "op %" PRIu64 ": map of %"
             PRIu64 "+%" PRIu64 " gives %" PRIu64 " bytes", w->op,
             range.start, range.length, length);
    part = (struct range) { range.start, length };
    switch (kind) {
    case MAP_DATA:
      break;
    case MAP_ZERO:
      memset (w->scratch, 0, length);
      compare (w, w->scratch, part, "mapped as zero");
      break;
    case MAP_HOLE:
      compare (w, w->store->mb->bytes + part.start, part,
               "not in the cache, and the backing store at");
      break;
    default:
      fail ("op %" PRIu64 ": map gives kind %d", w->op, kind);
    }
    if (kind != MAP_HOLE)
      *mapped += length;
    range.start += length;
    range.length -= length;
  }
}

static void
do_map (struct world *w)
{
  uint64_t mapped;

  check_map (w, pick_range (w, MAX_LENGTH), &mapped);
}

static uint64_t
mapped_bytes (struct world *w)
{
  uint64_t sum = 0, mapped;

  for (uint64_t at = 0; at < w->size; at += MIB) {
    check_map (w, (struct range) { at, MIN (MIB, w->size - at) }, &mapped);
    sum += mapped;
  }
  return sum;
}

/* --- drains, restarts, crashes ------------------------------------------ */

static void
check_status (struct world *w)
{
  struct cache_status s;

  cache_get_status (w->cache, &s);
  REQUIRE (s.segments_free + s.segments_open + s.segments_sealed
           == s.segments_total, "op %" PRIu64 ": of %" PRIu64 " segments %"
           PRIu64 " are free, %" PRIu64 " open, %" PRIu64 " sealed", w->op, s.segments_total, s.segments_free,
           s.segments_open, s.segments_sealed);
}

/* The backing store has everything. */
static void
note_drained (struct world *w)
{
  struct cache_status status;

  compare (w, w->store->mb->bytes, (struct range) { 0, w->size },
           "backing store after a drain,");
  compare (w, w->store->stable, (struct range) { 0, w->size },
           "what the backing store has flushed after a drain,");
  cache_get_status (w->cache, &status);
  REQUIRE (status.dirty_bytes == 0, "op %" PRIu64 ": %" PRIu64
           " dirty bytes after a drain", w->op, status.dirty_bytes);
  for (size_t i = 0; i < w->count; i++) {
    const struct range range = w->changes[i].range;

    /* Where it was trimmed that may be anything. */
    memcpy (w->drained + range.start, w->store->mb->bytes + range.start,
            range.length);
  }
  note_flush (w);
  forget_changes (w);
  w->order_known = w->options.setting[SETTING_writeback_order]
    == WRITEBACK_STRICT;
  w->drains++;
}

static void
do_drain (struct world *w)
{
  int r;

  trace ("%" PRIu64 " drain", w->op);
  r = cache_drain (w->cache, 1000);
  if (r == 0 && w->writable)
    note_drained (w);
  else if (r == -ESHUTDOWN && !w->writable)
    note_flush (w);
  else if (r < 0)
    judge_error (w, r, "drain", (struct range) { 0, w->size });
}

static void
must_drain (struct world *w)
{
  heal (w);
  w->backend->can_write = w->writable = true;
  do_drain (w);
}

static void
open_cache (struct world *w)
{
  struct cache_options *o = &w->options;
  struct rng *rng = &w->rng;
  int r;

  o->segment_size = rng_one_in (rng, 2) ? MIB : 0;
  if (w->restarts == 0)
    o->segment_size = MIB;
  o->data_crc = !rng_one_in (rng, 4);
  o->setting[SETTING_gc_percent] = rng_one_in (rng, 3) ? SETTING_REMEMBERED
    : rng_one_in (rng, 4) ? 0 : rng_between (rng, 0, 90);
  o->setting[SETTING_writeback_order] = rng_one_in (rng, 4) ? WRITEBACK_BATCH
    : WRITEBACK_STRICT;
  if (w->modes)
    o->setting[SETTING_mode] = rng_below (rng, MODE_WRITEONLY + 1);
  o->heads = rng_between (rng, 1, 4);
  o->regions = 1u << rng_below (rng, 9);
  o->seed = w->seed + 1;
  o->format = w->restarts > 0 && rng_one_in (rng, 2) ? CACHE_FORMAT_NEVER
    : CACHE_FORMAT_AUTO;
  choose_admission (o, w->seed + w->restarts);
  w->step_one_in = 1u << rng_below (rng, 14);
  w->largest = 1u << rng_between (rng, 9, 16);
  /* Where flushes are rare, sets are closed because they are full. */
  w->fua_one_in = rng_one_in (rng, 2) ? 15 : rng_length (rng, 15, 10000);
  w->flush_one_in = rng_one_in (rng, 2) ? 1 : rng_length (rng, 1, 500);
  if (o->setting[SETTING_writeback_order] == WRITEBACK_BATCH)
    w->order_known = false;

  r = cache_open (o, memory_pmem_open (w->device), &w->cache);
  REQUIRE (r == 0, "op %" PRIu64 ": open gives %d (%s)", w->op, r,
           strerror (-r));
  r = cache_attach (w->cache, w->backend, "disk");
  REQUIRE (r == 0, "op %" PRIu64 ": attach gives %d", w->op, r);
  check_status (w);
}

static void
restart (struct world *w)
{
  const bool drain = rng_one_in (&w->rng, 2);
  uint64_t before, after;
  int r;

  trace ("%" PRIu64 " restart (%s)", w->op, drain ? "drain" : "keep");
  if (rng_one_in (&w->rng, 3))
    cache_begin_shutdown (w->cache);
  r = cache_stop (w->cache, drain, 1000);
  if (r == 0 && drain && w->writable)
    note_drained (w);
  else if (r == 0 || (r == -ESHUTDOWN && drain && !w->writable))
    note_flush (w);
  else {
    judge_error (w, r, "stop", (struct range) { 0, w->size });
    REQUIRE (drain, "op %" PRIu64 ": stop without drain gives %d", w->op, r);
    note_flush (w);             /* it is in the cache all the same */
  }
  before = mapped_bytes (w);
  if (rng_one_in (&w->rng, 4))
    cache_detach (w->cache);
  cache_close (w->cache);
  w->restarts++;
  open_cache (w);
  after = mapped_bytes (w);
  w->cached_before += before;
  w->cached_after += after;
  w->clean_restarts++;
  REQUIRE (after <= before, "op %" PRIu64 ": after a restart %" PRIu64
           " bytes are cached, before %" PRIu64, w->op, after, before);
  trace ("cached %" PRIu64 " -> %" PRIu64, before, after);
}

static void
track_device (struct world *w)
{
  w->device->sync_is_near = !w->device->ordered && w->seed % 2;
  if (w->tracked)
    memory_device_track (w->device, rng_next (&w->rng));
}

static void
cut_power (struct world *w)
{
  struct memory_device *left;

  store_power_cut (w->store);
  store_all_stable (w->store);
  if (!w->tracked)
    return;
  left = memory_device_crash (w->device, &w->rng.state);
  memory_device_free (w->device);
  w->device = left;
  track_device (w);
}

/* The disk is what a crash may have left.  FOUND is the whole of it. */
static void
check_survivors (struct world *w, const uint8_t *found)
{
  uint8_t *legal = malloc (w->size);

  assert (legal);
  for (uint64_t i = 0; i < w->size; i++)
    legal[i] = found[i] == w->flushed[i];
  for (size_t i = w->unflushed; i < w->count; i++) {
    const struct change *c = &w->changes[i];
    uint8_t *to = legal + c->range.start;
    const uint8_t *is = found + c->range.start;

    change_bytes (w, c, w->scratch);
    for (uint64_t j = 0; j < c->range.length; j++)
      to[j] = (to[j] && !c->fua) || is[j] == w->scratch[j];
  }
  for (uint64_t i = 0; i < w->size; i++)
    if (!legal[i] && !is_vague (w, i)) {
      print_changes_at (w, i);
      fail ("op %" PRIu64 ": after a crash byte %" PRIu64 " is %02x, neither "
            "what was flushed nor anything written since", w->op, i,
            found[i]);
    }
  free (legal);
}

/* What the crash left becomes what the disk is. */
static void
accept_survivors (struct world *w, const uint8_t *found)
{
  const size_t first = w->unflushed, end = w->count;

  for (size_t i = first; i < end; i++) {
    const struct range range = w->changes[i].range;

    /* They are the end of one epoch, whole or in part. */
    w->changes[i].epoch = w->epoch;
    w->changes[i].fua = false;
    if (w->changes[i].kind == SNAPSHOT)
      continue;
    note_change (w, (struct change) {
      .range = range, .kind = SNAPSHOT,
      .bytes = memcpy (malloc (range.length), found + range.start,
                       range.length),
    });
  }
  /* Replay made it durable. */
  note_flush (w);
}

static void
crash (struct world *w)
{
  const bool power_cut = rng_one_in (&w->rng, 2);
  uint8_t *found = malloc (w->size);

  assert (found);
  trace ("%" PRIu64 " crash%s", w->op, power_cut ? " and power cut" : "");
  cache_close (w->cache);
  heal (w);
  if (power_cut)
    cut_power (w);
  check_backing (w, "crash");
  w->restarts++;
  w->crashes++;
  for (size_t i = w->unflushed; i < w->count; i++)
    crash_vague (w, &w->changes[i]);
  open_cache (w);
  for (uint64_t at = 0; at < w->size; at += MIB)
    read_back (w, found + at,
               (struct range) { at, MIN (MIB, w->size - at) });
  check_survivors (w, found);
  accept_survivors (w, found);
  free (found);
}

/* --- a history ----------------------------------------------------------- */

static void
begin_failing (struct world *w)
{
  struct store *store = w->store;
  const unsigned how_often = rng_one_in (&w->rng, 2) ? 1
    : rng_between (&w->rng, 2, 10);
  const unsigned what = rng_between (&w->rng, 1, 15);

  trace ("%" PRIu64 " backing store fails (%x), one in %u", w->op, what,
         how_often);
  store->fail_reads = what & 1 ? how_often : 0;
  store->fail_writes = what & 2 ? how_often : 0;
  store->fail_zeros = what & 4 ? how_often : 0;
  store->fail_flushes = what & 8 ? how_often : 0;
  w->failing_until = w->op + rng_length (&w->rng, 1, 4000);
}

static void
detach_for_a_while (struct world *w)
{
  int r;

  trace ("%" PRIu64 " detach", w->op);
  if (w->modes)
    do_flush (w);
  cache_detach (w->cache);
  for (unsigned i = rng_below (&w->rng, 4); i > 0; i--)
    cache_step (w->cache);
  if (rng_one_in (&w->rng, 2))
    do_flush (w);
  REQUIRE (cache_read (w->cache, w->buf, (struct range) { 0, 1 }) == -EINVAL,
           "op %" PRIu64 ": read without a backing store", w->op);
  r = cache_attach (w->cache, w->backend, "disk");
  REQUIRE (r == 0, "op %" PRIu64 ": attach gives %d", w->op, r);
}

static void
change_mode (struct world *w)
{
  const enum cache_mode mode = rng_below (&w->rng, MODE_WRITEONLY + 1);
  int r = cache_set (w->cache, SETTING_mode, mode);

  trace ("%" PRIu64 " mode %d", w->op, mode);
  REQUIRE (r == 0, "op %" PRIu64 ": cannot change the mode: %d", w->op, r);
}

/* It changes nothing but where bytes come from. */
static void
do_invalidate (struct world *w)
{
  const struct range range = pick_range (w, 16 * MIB);
  uint64_t dropped;
  int r = cache_invalidate (w->cache, range, &dropped);

  trace ("%" PRIu64 " invalidate %" PRIu64 "+%" PRIu64, w->op, range.start,
         range.length);
  /* Full of dirty data that nobody can write back. */
  if (r == -ENOSPC && !w->writable)
    return;
  if (r < 0)
    judge_error (w, r, "invalidate", range);
  else
    REQUIRE (dropped <= range.length, "op %" PRIu64 ": %" PRIu64 " bytes of %"
             PRIu64 " dropped", w->op, dropped, range.length);
}

static void
do_step (struct world *w)
{
  trace ("%" PRIu64 " step", w->op);
  cache_step (w->cache);
  /* As threads would: until there is nothing left to do. */
  if (rng_one_in (&w->rng, 50))
    for (unsigned i = 0; i < 1000 && cache_step (w->cache); i++)
      ;
}

static void
one_operation (struct world *w)
{
  struct rng *rng = &w->rng;
  const unsigned what = rng_below (rng, 1000);

  if (rng_one_in (rng, w->step_one_in))
    do_step (w);
  if (what < 400)
    do_read (w);
  else if (what < 780)
    do_change (w, WRITE);
  else if (what < 820)
    do_change (w, ZERO);
  else if (what < 860)
    do_change (w, TRIM);
  else if (what < 890) {
    if (rng_one_in (rng, w->flush_one_in))
      do_flush (w);
  }
  else if (what < 910)
    do_prefetch (w);
  else if (what < 990 || (what < 999 && !w->modes))
    do_map (w);
  else if (what < 999)
    do_invalidate (w);
  else
    switch (rng_below (rng, 12)) {
    case 0: case 1:
      do_drain (w);
      break;
    case 2:
      restart (w);
      break;
    case 3: case 4:
      crash (w);
      break;
    case 5:
      detach_for_a_while (w);
      break;
    case 6:
      w->writable = w->backend->can_write = !w->writable;
      break;
    case 7: case 8: case 9:
      /* What a write on its way through leaves when it fails is for test_modes. */
      if (w->modes)
        change_mode (w);
      else
        begin_failing (w);
      break;
    default:
      check_status (w);
      break;
    }
  if (rng_one_in (rng, 1000))
    check_backing (w, "at work");
  if (is_failing (w) && w->op >= w->failing_until)
    heal (w);
  /* Read-only phases are short: nothing happens in them. */
  if (!w->writable && rng_one_in (rng, 300))
    w->writable = w->backend->can_write = true;
  if (w->count > MAX_HISTORY)
    must_drain (w);
}

static void
make_world (struct world *w, uint64_t seed)
{
  struct rng *rng = &w->rng;
  uint64_t segments;

  *w = (struct world) {
    .seed = seed, .modes = seed % 5 < 2, .rng = { seed * 2 + 1 }, .writable = true,
    .epoch = 1, .first_epoch = 1, .order_known = true,
    .options = CACHE_OPTIONS_DEFAULT,
  };
  segments = rng_one_in (rng, 4) ? 4
    : rng_one_in (rng, 3) ? rng_between (rng, 5, 6)
    : rng_one_in (rng, 2) ? rng_between (rng, 7, 16)
    : rng_between (rng, 32, 40);
  w->size = rng_one_in (rng, 3) ? rng_between (rng, 1, 3) * MIB
    : rng_between (rng, 4, rng_one_in (rng, 4) ? 48 : 16) * MIB;
  if (rng_one_in (rng, 2))
    w->size += rng_below (rng, rng_one_in (rng, 2) ? 65536 : 512);
  w->device = memory_device_new (cache_min_device_size (MIB)
                                 + (segments - 4) * MIB,
                                 !rng_one_in (rng, 3));
  w->tracked = rng_one_in (rng, 2);
  track_device (w);
  w->store = store_new (w->size, seed);
  w->backend = &w->store->mb->backend;
  w->backend->max_request = MIB << rng_below (rng, 6);
  w->backend->max_zero = MIB << rng_below (rng, 6);
  w->backend->can_zero = !rng_one_in (rng, 4);
  w->backend->can_trim = !rng_one_in (rng, 4);
  w->now = malloc (w->size);
  w->flushed = malloc (w->size);
  w->drained = malloc (w->size);
  w->buf = malloc (MAX_LENGTH);
  w->scratch = malloc (MAX (MAX_LENGTH, 16 * MIB));
  assert (w->now && w->flushed && w->drained && w->buf && w->scratch);
  if (!w->backend->can_zero && w->backend->can_trim) {
    w->store->trim_leaves_garbage = !w->modes;
    w->vague = calloc (1, w->size);
    assert (w->vague);
  }
  fill_bytes (w->now, (struct range) { 0, w->size }, seed);
  memcpy (w->flushed, w->now, w->size);
  memcpy (w->drained, w->now, w->size);
  memcpy (w->store->mb->bytes, w->now, w->size);
  store_all_stable (w->store);
  for (unsigned i = 0; i < 4; i++)
    w->hot[i] = rng_below (rng, w->size);
  diag ("cache of %" PRIu64 " segments of 1 MiB (%s%s), disk of %" PRIu64
        " bytes%s%s", segments, w->device->ordered ? "ordered" : "unordered",
        w->tracked ? ", volatile" : "", w->size, w->backend->can_zero ? "" : ", no zero",
        w->backend->can_trim ? "" : ", no trim");
}

static void
end_world (struct world *w)
{
  forget_changes (w);
  free (w->changes);
  free (w->now);
  free (w->flushed);
  free (w->drained);
  free (w->vague);
  free (w->buf);
  free (w->scratch);
  store_free (w->store);
  memory_device_free (w->device);
}

static void
run_history (uint64_t seed, uint64_t ops)
{
  struct world w;

  harness_begin ("the engine does what an array of bytes does", seed);
  make_world (&w, seed);
  open_cache (&w);
  for (w.op = 1; w.op <= ops; w.op++)
    one_operation (&w);
  must_drain (&w);
  REQUIRE (cache_stop (w.cache, true, 1000) == 0, "last stop fails");
  /* The tail may take clean data with it, but not as a rule. */
  REQUIRE (w.clean_restarts < 5 || w.cached_after >= w.cached_before / 2,
           "of %" PRIu64 " bytes cached before clean restarts %" PRIu64
           " were cached after them", w.cached_before, w.cached_after);
  cache_close (w.cache);
  harness_passed ("%" PRIu64 " ops, %" PRIu64 " restarts (%" PRIu64
                  " crashes), %" PRIu64 " drains, %" PRIu64 " looks at the "
                  "backing store, %" PRIu64 " failed requests", ops,
                  w.restarts, w.crashes, w.drains, w.backing_checks,
                  w.failed_requests);
  end_world (&w);
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

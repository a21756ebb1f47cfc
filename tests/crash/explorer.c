/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arith.h"
#include "base/report.h"
#include "crash/explorer.h"
#include "crash/oracle.h"
#include "crash/shadow_device.h"
#include "crash/shadow_disk.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "support/seed.h"

#define DISK_SIZE (64 * 1024 + 1000)
#define GROWTH (3 * CACHE_MIN_SEGMENT_SIZE)
#define LEVELS 3                /* what runs; a state of it; a state of that */
#define MAX_UNITS 20000         /* pending at one time */
#define MAX_OPTIONS 4           /* of one unit */
#define MAX_IMAGES 10           /* of the backing store at one point */

/* Where requests start or end. */
static const uint32_t bounds[] = {
  512, 600, 640, 712, 1200, 4000, 4096, 4196, 8192, 12288, 16384, 16400,
  20480, 32768, 49152, 65536, DISK_SIZE - 70,
};
#define BOUNDS (sizeof bounds / sizeof *bounds)

#define W_RANGE ((struct range) { 512, 200 })
#define V_RANGE ((struct range) { 4000, 4192 })
#define Y_RANGE ((struct range) { DISK_SIZE - 70, 70 })
#define F_RANGE ((struct range) { 600, 600 })
#define T_RANGE ((struct range) { 0, 8192 })
#define Z_RANGE ((struct range) { 640, 3556 })
#define R_RANGE ((struct range) { 0, 16384 })

const struct start starts[] = {
  { "pmem-new", true, true, 4, 1, false, MODE_WRITEBACK },
  { "pmem-used", true, true, 4, 1, true, MODE_WRITEBACK },
  { "file-new", false, true, 4, 1, false, MODE_WRITEBACK },
  { "file-used", false, true, 4, 1, true, MODE_WRITEBACK },
  { "pmem-nocrc", true, false, 4, 1, true, MODE_WRITEBACK },
  { "file-nocrc", false, false, 4, 1, true, MODE_WRITEBACK },
  { "pmem-heads", true, true, 16, 2, true, MODE_WRITEBACK },
  { "file-heads", false, true, 16, 2, true, MODE_WRITEBACK },
  { "pmem-through", true, true, 4, 1, true, MODE_WRITETHROUGH },
  { "file-through", false, true, 4, 1, true, MODE_WRITETHROUGH },
  { "pmem-around", true, true, 4, 1, true, MODE_WRITEAROUND },
  { "file-around", false, true, 4, 1, true, MODE_WRITEAROUND },
};
const unsigned start_count = sizeof starts / sizeof *starts;

/* What the step before "x" or "k" could have left: drawn from all its crash
 * points. */
struct capture {
  char wanted;                  /* x, k or 0 */
  unsigned points;
  size_t mark;                  /* the device then, and how each unit is left */
  struct { uint64_t at; uint32_t length; size_t data; } *units;
  size_t unit_count;
  uint8_t *arena;
  uint8_t *disk;
  struct oracle oracle;
  unsigned percent_acked, percent_asked;
};

struct images {
  unsigned count;
  uint8_t *bytes[MAX_IMAGES];
  uint64_t hash[MAX_IMAGES];
};

struct explorer {
  const struct start *start;
  const struct effort *effort;
  struct state_set *seen, *done;
  struct counts *counts;

  struct shadow_device *device[LEVELS];
  struct shadow_disk *disk[LEVELS];
  struct images images[LEVELS - 1];
  uint8_t *buf, *again;         /* of states */
  uint8_t *now;                 /* of level 0 */

  uint64_t size;                /* that the device has, for who opens it */
  uint64_t wanted_size;         /* that it shall have; 0: the same */
  struct cache *cache;          /* on level 0 */
  struct oracle oracle;
  unsigned percent_acked, percent_asked;        /* gc-percent */
  enum cache_mode mode;
  uint64_t random;
  bool exploring;
  bool formatting;              /* what was there may be gone, or not */
  struct oracle *nested_oracle; /* of level 1 */
  struct capture capture;
  char problem[800];

  /* The start. */
  size_t base_mark;
  uint8_t *base_disk, *base_found;
  struct oracle base_oracle;
};

static char last_report[300];

static void
keep_report (enum report_level level, const char *format, va_list args)
{
  if (level != REPORT_DEBUG)
    vsnprintf (last_report, sizeof last_report, format, args);
}

static const char *problem (struct explorer *ex, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

/* The first one counts. */
static const char *
problem (struct explorer *ex, const char *format, ...)
{
  va_list args;

  if (ex->problem[0] == '\0') {
    va_start (args, format);
    vsnprintf (ex->problem, sizeof ex->problem, format, args);
    va_end (args);
  }
  return ex->problem;
}

static const char *
has_problem (const struct explorer *ex)
{
  return ex->problem[0] ? ex->problem : NULL;
}

/* --- a cache on a level ----------------------------------------------- */

static struct cache *
open_cache (struct explorer *ex, unsigned level, enum cache_format format)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  struct pmem *pmem = shadow_pmem_open (ex->device[level]);
  struct cache *cache = NULL;
  int r;

  options.segment_size = CACHE_MIN_SEGMENT_SIZE;
  options.format = format;
  options.device_size = ex->wanted_size;
  options.data_crc = ex->start->data_crc;
  options.heads = ex->start->heads;
  options.regions = 4;
  options.setting[SETTING_mode] = ex->mode;
  /* What an earlier formatting left must not look like ours. */
  options.seed = ex->formatting ? 4712 + level : 4711;
  last_report[0] = '\0';
  pmem->size = ex->size;
  r = cache_open (&options, pmem, &cache);
  if (r < 0)
    pmem_close (pmem);
  else
    r = cache_attach (cache, &ex->disk[level]->backend, "");
  if (r < 0) {
    problem (ex, "it does not open: %s (%s)", strerror (-r), last_report);
    cache_close (cache);
    return NULL;
  }
  return cache;
}

static bool
read_all (struct explorer *ex, struct cache *cache, uint8_t *buf)
{
  int r = cache_read (cache, buf, (struct range) { 0, DISK_SIZE });

  if (r < 0)
    problem (ex, "the disk cannot be read: %s (%s)", strerror (-r),
             last_report);
  return r == 0;
}

/* --- states of the backing store -------------------------------------- */

static void
add_image (struct explorer *ex, unsigned level, const bool *keep,
           uint64_t tear)
{
  struct images *images = &ex->images[level];
  const unsigned i = images->count++;

  assert (i < MAX_IMAGES);
  shadow_disk_image (ex->disk[level], keep, tear, images->bytes[i]);
  images->hash[i] = XXH3_64bits (images->bytes[i], DISK_SIZE);
}

/* All subsets of few pending requests; of many none, all and some. */
static void
make_images (struct explorer *ex, unsigned level)
{
  const size_t pending = ex->disk[level]->pending;
  bool *keep = calloc (pending + 1, sizeof *keep);

  assert (keep);
  ex->images[level].count = 0;
  if (pending <= 3)
    for (unsigned set = 0; set < 1u << pending; set++) {
      for (size_t i = 0; i < pending; i++)
        keep[i] = set >> i & 1;
      add_image (ex, level, keep, 0);
    }
  else
    for (unsigned n = 0; n < 6; n++) {
      for (size_t i = 0; i < pending; i++)
        keep[i] = n == 0 ? false : n == 1 ? true
          : random_below (&ex->random, 2);
      add_image (ex, level, keep, 0);
    }
  if (pending > 0) {
    for (size_t i = 0; i < pending; i++)
      keep[i] = random_below (&ex->random, 4) > 0;
    add_image (ex, level, keep, random_next (&ex->random) | 1);
  }
  free (keep);
}

static void
check_backing (struct explorer *ex, unsigned level,
               const struct oracle *oracle)
{
  const struct images *images = &ex->images[level];
  const char *wrong = NULL;

  ex->counts->backing += images->count;
  for (unsigned i = 0; i < images->count && wrong == NULL; i++)
    wrong = oracle_check_backing (oracle, images->bytes[i]);
  if (wrong)
    problem (ex, "%s", wrong);
}

/* --- one state -------------------------------------------------------- */

static void crash_point (struct explorer *ex, unsigned level);

static void
nested_barrier (struct shadow_device *device, void *opaque)
{
  (void) device;
  crash_point (opaque, 1);
}

/* After the crash: the backing store stays legal while it is drained. */
static void
nested_disk_change (struct shadow_disk *disk, void *opaque)
{
  struct explorer *ex = opaque;

  (void) disk;
  make_images (ex, 1);
  check_backing (ex, 1, ex->nested_oracle);
}

static void
check_percent (struct explorer *ex, struct cache *cache)
{
  struct cache_status status;

  cache_get_status (cache, &status);
  if (!ex->formatting && status.gc_percent != ex->percent_acked
      && status.gc_percent != ex->percent_asked)
    problem (ex, "gc-percent is %" PRIu64 "; %u was acknowledged, %u asked for",
             status.gc_percent, ex->percent_acked, ex->percent_asked);
}

/* Drain, evict, go on.  ex->buf: what was read. */
static void
go_on (struct explorer *ex, unsigned level, struct cache **cache)
{
  struct shadow_disk *disk = ex->disk[level];
  struct oracle oracle = ex->oracle;
  const struct range there = { 512, 88 };
  int r;

  if (level == 1 && !ex->formatting) {
    oracle_settle (&oracle, ex->buf);
    ex->nested_oracle = &oracle;
    disk->changed = nested_disk_change;
  }
  r = cache_drain (*cache, 0);
  disk->changed = NULL;
  if (r < 0)
    problem (ex, "it cannot be drained: %s (%s)", strerror (-r), last_report);
  else if (memcmp (disk->stable, ex->buf, DISK_SIZE) != 0)
    problem (ex, "drained, the backing store does not have what was read");
  if (has_problem (ex))
    return;

  cache_set (*cache, SETTING_gc_percent, 0);
  for (unsigned i = 0; i < 40 && cache_step_eviction (*cache); i++)
    ;
  if (!read_all (ex, *cache, ex->again))
    return;
  if (memcmp (ex->again, ex->buf, DISK_SIZE) != 0) {
    problem (ex, "after eviction something else is read");
    return;
  }

  memcpy (ex->buf + there.start, oracle_pattern (ORACLE_VERSIONS - 1),
          there.length);
  r = cache_write (*cache, ex->buf + there.start, there, false);
  if (r == 0)
    r = cache_flush (*cache);
  cache_close (*cache);
  *cache = NULL;
  if (r < 0) {
    problem (ex, "it cannot be written to: %s", strerror (-r));
    return;
  }
  *cache = open_cache (ex, level, CACHE_FORMAT_AUTO);
  if (*cache == NULL || !read_all (ex, *cache, ex->again))
    return;
  if (memcmp (ex->again, ex->buf, DISK_SIZE) != 0)
    problem (ex, "what was written after the crash is not found again");
}

/* Device and disk of LEVEL show a state that a crash left. */
static void
check_state (struct explorer *ex, unsigned level, bool nested, bool again,
             bool deep)
{
  struct shadow_device *device = ex->device[level];
  struct cache *cache;
  const char *wrong;

  device->before_barrier = nested ? nested_barrier : NULL;
  cache = open_cache (ex, level, CACHE_FORMAT_AUTO);
  if (nested && cache != NULL)
    crash_point (ex, level);
  device->before_barrier = NULL;
  device->tracks = false;
  /* Killed at once: the next start finds all sealed, and nothing that a read has
   * brought in. */
  if (again && !nested && cache != NULL) {
    cache_close (cache);
    cache = open_cache (ex, level, CACHE_FORMAT_AUTO);
  }
  if (cache == NULL || !read_all (ex, cache, ex->buf))
    goto out;
  wrong = oracle_check_crash (&ex->oracle, ex->buf);
  if (wrong && ex->formatting
      && memcmp (ex->buf, ex->disk[level]->bytes, DISK_SIZE) == 0)
    wrong = NULL;               /* it has been formatted */
  if (wrong) {
    problem (ex, "%s", wrong);
    goto out;
  }
  check_percent (ex, cache);

  if (again) {
    cache_close (cache);
    cache = open_cache (ex, level, CACHE_FORMAT_AUTO);
    if (cache == NULL || !read_all (ex, cache, ex->again))
      goto out;
    if (memcmp (ex->buf, ex->again, DISK_SIZE) != 0) {
      problem (ex, "opened twice, two things are read");
      goto out;
    }
  }
  if (deep)
    go_on (ex, level, &cache);
 out:
  cache_close (cache);
}

/* A state of what is pending on LEVEL, and IMAGE of its disk. */
static void
try_state (struct explorer *ex, unsigned level, uint64_t hash,
           const struct shadow_unit *units, const struct shadow_choice *choice,
           size_t count, unsigned image)
{
  struct shadow_device *device = ex->device[level], *copy =
    ex->device[level + 1];
  const struct effort *e = ex->effort;
  uint64_t key = hash ^ ex->images[level].hash[image]
    * UINT64_C (0x9e3779b97f4a7c15);
  uint8_t bytes[SHADOW_PAGE];
  bool nested, again, deep;

  if (has_problem (ex))
    return;
  /* The same state after another history may have other promises to keep. */
  if (!state_set_add (ex->done, key + oracle_hash (&ex->oracle)
                      + ex->percent_acked * 7 + ex->percent_asked * 13))
    return;
  state_set_add (ex->seen, key);
  ex->counts->tried++;

  key = random_next (&key);
  nested = level == 0 && key % e->nested_every == 0;
  again = (key >> 10) % e->again_every == 0;
  deep = (key >> 20) % e->deep_every == 0;
  ex->counts->nested += nested;
  ex->counts->again += again;
  ex->counts->deep += deep;
  copy->tracks = nested;
  for (size_t i = 0; i < count; i++) {
    shadow_unit_bytes (device, &units[i], choice[i], bytes);
    shadow_place (copy, units[i].at, bytes, units[i].length);
  }
  shadow_disk_set (ex->disk[level + 1], ex->images[level].bytes[image]);
  check_state (ex, level + 1, nested, again, deep);
  shadow_rollback (copy, 0);
  copy->tracks = true;
}

/* --- all states of one point ------------------------------------------ */

struct point {
  struct explorer *ex;
  unsigned level;
  const struct shadow_unit *units;
  struct shadow_choice *choice;
  size_t count;
  uint64_t turn;                /* of the backing store's states */
};

/* Stores that option OPTION of a unit keeps: from none to all. */
static uint32_t
stores_of (const struct shadow_unit *unit, unsigned option)
{
  const unsigned last = MIN (unit->stores, MAX_OPTIONS - 1u);

  return option == 0 ? 0 : option >= last ? unit->stores
    : unit->stores * option / last;
}

static unsigned
options_of (const struct shadow_unit *unit)
{
  return MIN (unit->stores, MAX_OPTIONS - 1u) + 1;
}

/* With the backing store keeping nothing, and all, and something in turns. */
static void
try_choice (struct point *p)
{
  struct explorer *ex = p->ex;
  const unsigned images = ex->images[p->level].count;
  uint64_t hash = ex->device[p->level]->hash;
  uint8_t bytes[SHADOW_PAGE];

  for (size_t i = 0; i < p->count; i++) {
    if (p->choice[i].stores == 0)
      continue;
    shadow_unit_bytes (ex->device[p->level], &p->units[i], p->choice[i],
                       bytes);
    hash += shadow_hash_change (ex->device[p->level], p->units[i].at, bytes,
                                p->units[i].length);
  }
  try_state (ex, p->level, hash, p->units, p->choice, p->count, 0);
  if (images > 1)
    try_state (ex, p->level, hash, p->units, p->choice, p->count, 1);
  if (images > 2)
    try_state (ex, p->level, hash, p->units, p->choice, p->count,
               2 + p->turn++ % (images - 2));
}

static void
choose_all (struct point *p, bool all)
{
  for (size_t i = 0; i < p->count; i++)
    p->choice[i] = (struct shadow_choice) {
      all ? p->units[i].stores : 0, SHADOW_WHOLE
    };
}

static void
every_subset (struct point *p)
{
  unsigned digit[64] = { 0 };

  choose_all (p, false);
  for (;;) {
    size_t i = 0;

    try_choice (p);
    while (i < p->count && ++digit[i] == options_of (&p->units[i])) {
      digit[i] = 0;
      p->choice[i++].stores = 0;
    }
    if (i == p->count || has_problem (p->ex))
      return;
    p->choice[i].stores = stores_of (&p->units[i], digit[i]);
  }
}

/* The N-th of COUNT samples of 1..limit - 1, evenly. */
static size_t
sample (size_t n, size_t count, size_t limit)
{
  return limit - 1 <= count ? n + 1 : 1 + n * (limit - 1) / count;
}

static void
some_subsets (struct point *p)
{
  uint64_t *random = &p->ex->random;
  const size_t n = MIN (p->ex->effort->samples, p->count - 1);

  for (unsigned all = 0; all < 2; all++) {
    choose_all (p, all);
    try_choice (p);
  }
  for (size_t i = 0; i < n; i++) {
    const size_t at = sample (i, n, p->count);

    for (unsigned suffix = 0; suffix < 2; suffix++) {
      for (size_t j = 0; j < p->count; j++)
        p->choice[j].stores = (j < at) != suffix ? p->units[j].stores : 0;
      try_choice (p);
    }
    choose_all (p, true);
    p->choice[random_below (random, p->count)].stores = 0;
    try_choice (p);
    p->choice[p->count - 1 - i].stores = 0;
    try_choice (p);
    for (size_t j = 0; j < p->count; j++)
      p->choice[j].stores =
        stores_of (&p->units[j],
                   random_below (random, options_of (&p->units[j])));
    try_choice (p);
  }
}

/* One unit torn, with all the others there, or none. */
static void
torn_units (struct point *p)
{
  uint64_t *random = &p->ex->random;
  const size_t n = MIN (p->ex->effort->tears, p->count);

  for (size_t i = 0; i < n; i++) {
    /* The last ones stored are those that commit something. */
    const size_t unit = i % 2 ? random_below (random, p->count)
      : p->count - 1 - i / 2;

    for (unsigned all = 0; all < 2; all++)
      for (unsigned cut = 1; cut <= 8; cut++) {
        const uint8_t first = (1u << cut) - 1;

        choose_all (p, all);
        p->choice[unit].stores = p->units[unit].stores;
        p->choice[unit].parts = cut == 8 ? random_next (random)
          : random_below (random, 2) ? first : (uint8_t) ~first;
        try_choice (p);
      }
  }
}

static bool
are_few (const struct point *p)
{
  uint64_t subsets = 1;

  for (size_t i = 0; i < p->count; i++) {
    subsets *= options_of (&p->units[i]);
    if (i >= 62 || subsets > p->ex->effort->exhaustive)
      return false;
  }
  /* While it is being opened again, fewer. */
  return p->level == 0 || subsets <= 64;
}

static void
take_capture (struct explorer *ex, const struct shadow_unit *units,
              size_t count)
{
  struct capture *c = &ex->capture;
  uint64_t *random = &ex->random;
  /* 1: all of it is there. */
  const unsigned manner = c->wanted == 'k' ? 1 : random_below (random, 4);
  size_t used = 0;

  if (random_below (random, ++c->points) > 0)
    return;
  c->mark = shadow_mark (ex->device[0]);
  c->unit_count = count;
  c->units = realloc (c->units, (count + 1) * sizeof *c->units);
  c->arena = realloc (c->arena, (count + 1) * SHADOW_PAGE);
  assert (c->units && c->arena);
  for (size_t i = 0; i < count; i++) {
    struct shadow_choice choice = { units[i].stores, SHADOW_WHOLE };

    if (manner == 0
        || (manner > 1 && random_below (random, 2)))
      choice.stores = stores_of (&units[i],
                                 random_below (random,
                                               options_of (&units[i])));
    if (manner == 3 && random_below (random, 4) == 0)
      choice.parts = random_next (random);
    c->units[i].at = units[i].at;
    c->units[i].length = units[i].length;
    c->units[i].data = used;
    shadow_unit_bytes (ex->device[0], &units[i], choice, c->arena + used);
    used += units[i].length;
  }
  make_images (ex, 0);
  memcpy (c->disk, c->wanted == 'k' ? ex->disk[0]->bytes
          : ex->images[0].bytes[random_below (random, ex->images[0].count)],
          DISK_SIZE);
  c->oracle = ex->oracle;
  c->percent_acked = ex->percent_acked;
  c->percent_asked = ex->percent_asked;
}

static void
crash_point (struct explorer *ex, unsigned level)
{
  const struct shadow_unit *units;
  struct shadow_choice choice[64], *choices = choice;
  const size_t count = shadow_units (ex->device[level], &units);
  struct point p = { .ex = ex, .level = level, .units = units,
                     .count = count };

  if (level == 0 && ex->capture.wanted)
    take_capture (ex, units, count);
  if (!ex->exploring || has_problem (ex))
    return;
  ex->counts->points++;
  make_images (ex, level);
  if (level == 0)
    check_backing (ex, level, &ex->oracle);
  if (count > sizeof choice / sizeof *choice) {
    choices = malloc (count * sizeof *choices);
    assert (choices);
  }
  p.choice = choices;
  if (are_few (&p))
    every_subset (&p);
  else
    some_subsets (&p);
  if (count > 0)
    torn_units (&p);
  if (choices != choice)
    free (choices);
}

static void
on_barrier (struct shadow_device *device, void *opaque)
{
  (void) device;
  crash_point (opaque, 0);
}

static void
on_disk_change (struct shadow_disk *disk, void *opaque)
{
  (void) disk;
  crash_point (opaque, 0);
}

/* --- steps ------------------------------------------------------------ */

static struct range
random_range (uint32_t number)
{
  uint64_t random = number;
  const unsigned from = random_below (&random, BOUNDS + 1);
  const unsigned count = 1 + random_below (&random,
                                           random_below (&random, 3) ? 4
                                           : BOUNDS);
  const unsigned to = MIN (from + count, BOUNDS + 1u);
  const uint32_t start = from == 0 ? 0 : bounds[from - 1];
  const uint32_t end = to > BOUNDS ? DISK_SIZE : bounds[to - 1];

  return (struct range) { start, end - start };
}

static int
do_write (struct explorer *ex, struct range range, bool fua)
{
  const int version = oracle_write (&ex->oracle, range, false);
  int r = cache_write (ex->cache, oracle_pattern (version) + range.start,
                       range, fua);

  if (r == 0 && fua)
    oracle_fua (&ex->oracle, range);
  return r;
}

static int
do_zero (struct explorer *ex, struct range range, bool trim, bool fua)
{
  int r;

  oracle_write (&ex->oracle, range, true);
  r = trim ? cache_trim (ex->cache, range, fua)
    : cache_zero (ex->cache, range, true, fua);
  if (r == 0 && fua)
    oracle_fua (&ex->oracle, range);
  return r;
}

static int
do_read (struct explorer *ex, struct range range)
{
  const char *wrong;
  int r = cache_read (ex->cache, ex->now + range.start, range);

  if (r < 0)
    return r;
  wrong = oracle_check_now (&ex->oracle, ex->now, range);
  if (wrong)
    problem (ex, "%s", wrong);
  return 0;
}

static int
do_flush (struct explorer *ex)
{
  int r = cache_flush (ex->cache);

  if (r == 0)
    oracle_flush (&ex->oracle);
  return r;
}

static int
do_drain (struct explorer *ex)
{
  int r = cache_drain (ex->cache, 0);

  if (r == 0) {
    oracle_flush (&ex->oracle);
    if (oracle_check_now (&ex->oracle, ex->disk[0]->stable,
                          (struct range) { 0, DISK_SIZE }))
      problem (ex, "drained, the backing store does not have the newest");
  }
  return r;
}

static int
do_set_percent (struct explorer *ex)
{
  int r;

  ex->percent_asked = ex->percent_acked ? 0 : 60;
  r = cache_set (ex->cache, SETTING_gc_percent, ex->percent_asked);
  if (r == 0)
    ex->percent_acked = ex->percent_asked;
  return r;
}

static int
do_set_mode (struct explorer *ex)
{
  ex->mode = (ex->mode + 1) % (MODE_WRITEONLY + 1);
  return cache_set (ex->cache, SETTING_mode, ex->mode);
}

static int
do_invalidate (struct explorer *ex)
{
  uint64_t dropped;

  return cache_invalidate (ex->cache, R_RANGE, &dropped);
}

/* EXACT: nothing may be lost. */
static void
start_again (struct explorer *ex, bool exact)
{
  const char *wrong;

  ex->cache = open_cache (ex, 0, CACHE_FORMAT_AUTO);
  if (ex->cache == NULL || !read_all (ex, ex->cache, ex->now))
    return;
  wrong = exact ? oracle_check_now (&ex->oracle, ex->now,
                                    (struct range) { 0, DISK_SIZE })
    : oracle_check_crash (&ex->oracle, ex->now);
  if (wrong)
    problem (ex, "%s", wrong);
  else {
    struct cache_status status;

    check_percent (ex, ex->cache);
    cache_get_status (ex->cache, &status);
    ex->percent_acked = ex->percent_asked = status.gc_percent;
    oracle_settle (&ex->oracle, ex->now);
  }
}

static int
do_stop_and_start (struct explorer *ex)
{
  int r = cache_stop (ex->cache, false, 0);

  cache_close (ex->cache);
  ex->cache = NULL;
  if (r == 0) {
    oracle_flush (&ex->oracle);
    start_again (ex, true);
  }
  return r;
}

/* POWER: it goes.  Otherwise the process dies, and what it stored is visible
 * though not durable. */
static void
do_crash (struct explorer *ex, bool power)
{
  struct capture *c = &ex->capture;

  cache_close (ex->cache);
  ex->cache = NULL;
  shadow_rollback (ex->device[0], c->mark);
  for (size_t i = 0; i < c->unit_count; i++)
    if (power)
      shadow_place (ex->device[0], c->units[i].at,
                    c->arena + c->units[i].data, c->units[i].length);
    else
      shadow_not_durable (ex->device[0], c->units[i].at, c->units[i].length);
  shadow_disk_set (ex->disk[0], c->disk);
  ex->oracle = c->oracle;
  ex->percent_acked = c->percent_acked;
  ex->percent_asked = c->percent_asked;
  start_again (ex, false);
}

/* The oracle has run full: drain, and let it forget. */
static void
make_room (struct explorer *ex)
{
  const bool exploring = ex->exploring;

  ex->exploring = false;
  if (do_drain (ex) < 0)
    problem (ex, "it cannot be drained (%s)", last_report);
  if (!has_problem (ex))
    oracle_restart (&ex->oracle, ex->disk[0]->stable);
  ex->exploring = exploring;
}

static void
do_step (struct explorer *ex, struct step step)
{
  const uint32_t n = step.number;
  const bool fua = n >> 28 == 0 && n != 0;
  int r = 0;

  switch (step.letter) {
  case 'w': r = do_write (ex, W_RANGE, false); break;
  case 'v': r = do_write (ex, V_RANGE, false); break;
  case 'y': r = do_write (ex, Y_RANGE, false); break;
  case 'F': r = do_write (ex, F_RANGE, true); break;
  case 'f': r = do_flush (ex); break;
  case 't': r = do_zero (ex, T_RANGE, true, false); break;
  case 'z': r = do_zero (ex, Z_RANGE, false, false); break;
  case 'r': r = do_read (ex, R_RANGE); break;
  case 'b': cache_step_writeback (ex->cache); break;
  case 'g': cache_step_eviction (ex->cache); break;
  case 's': r = do_set_percent (ex); break;
  case 'o': r = do_stop_and_start (ex); break;
  case 'k': do_crash (ex, false); break;
  case 'x': do_crash (ex, true); break;
  case 'W': r = do_write (ex, random_range (n), fua); break;
  case 'Z': r = do_zero (ex, random_range (n), false, fua); break;
  case 'T': r = do_zero (ex, random_range (n), true, fua); break;
  case 'R': r = do_read (ex, random_range (n)); break;
  case 'p': r = cache_prefetch (ex->cache, random_range (n)); break;
  case 'd': r = do_drain (ex); break;
  case 'm': r = do_set_mode (ex); break;
  case 'i': r = do_invalidate (ex); break;
  default:
    abort ();
  }
  if (r < 0)
    problem (ex, "step %c: %s (%s)", step.letter, strerror (-r), last_report);
}

/* --- starts ----------------------------------------------------------- */

/* Run STEPS as part of the start. */
static void
prepare (struct explorer *ex, const char *steps)
{
  for (; *steps && !has_problem (ex); steps++)
    do_step (ex, (struct step) { .letter = *steps });
}

/* The first write of this life opens a segment, and of that little is
 * left. */
static void
use_up_head (struct explorer *ex)
{
  struct engine *engine = cache_engine (ex->cache);
  const uint32_t parts[] = { 262144, 262144, 262144, 258048, 0 };

  do_step (ex, (struct step) { .letter = 'w' });
  for (unsigned i = 0; parts[i]; i++) {
    struct reservation res;

    if (log_reserve (engine->log, LOG_WRITE, parts[i], 1, &res) == 0)
      log_release (engine->log, &res);
  }
}

static void
make_base (struct explorer *ex)
{
  const unsigned lives = ex->start->used ? ex->start->segments + 2 : 0;

  shadow_disk_set (ex->disk[0], oracle_pattern (0));
  ex->cache = open_cache (ex, 0, CACHE_FORMAT_AUTO);
  if (ex->cache == NULL)
    return;
  ex->percent_acked = ex->percent_asked = CACHE_DEFAULT_GC_PERCENT;
  do_step (ex, (struct step) { .letter = 's' });        /* 0 */
  /* Each segment is filled alike, so that what lies there from an earlier life
   * is just where the new one will put its sets. */
  for (unsigned i = 0; i < lives; i++) {
    prepare (ex, "wvfyfodggg");
    make_room (ex);
  }
  if (ex->start->used)
    /* Clean data; with two heads, of each of w and v two versions in two
     * segments, and of one of them the older in the one evicted last. */
    prepare (ex, "wwyvvFfdo");
  make_room (ex);
  memcpy (ex->base_found, ex->disk[0]->stable, DISK_SIZE);
  if (ex->start->used)
    prepare (ex, "zyfo");       /* and some that is dirty */
  cache_close (ex->cache);
  ex->cache = NULL;
  shadow_forget (ex->device[0]);
  assert (ex->disk[0]->pending == 0);
  memcpy (ex->base_disk, ex->disk[0]->stable, DISK_SIZE);
  ex->base_oracle = ex->oracle;
  ex->base_mark = shadow_mark (ex->device[0]);
}

static void
go_to_base (struct explorer *ex)
{
  cache_close (ex->cache);
  ex->cache = NULL;
  ex->problem[0] = '\0';
  ex->exploring = false;
  ex->capture.wanted = 0;
  shadow_rollback (ex->device[0], ex->base_mark);
  shadow_disk_set (ex->disk[0], ex->base_disk);
  oracle_restart (&ex->oracle, ex->base_found);
  ex->oracle = ex->base_oracle;
  ex->mode = ex->start->mode;
  ex->percent_acked = ex->percent_asked = 0;
}

struct explorer *
explorer_new (const struct start *start, const struct effort *effort,
              struct state_set *seen, struct state_set *done,
              struct counts *counts)
{
  struct explorer *ex = calloc (1, sizeof *ex);
  struct geometry geometry;
  uint64_t size = (start->segments + 2) * CACHE_MIN_SEGMENT_SIZE;

  assert (ex);
  report_set_sink (keep_report);
  while (geometry_make (&geometry, size, CACHE_MIN_SEGMENT_SIZE) < 0
         || geometry.segment_count < start->segments)
    size += CACHE_MIN_SEGMENT_SIZE;
  ex->size = geometry.device_size;
  ex->start = start;
  ex->effort = effort;
  ex->seen = seen;
  ex->done = done;
  ex->counts = counts;
  for (unsigned i = LEVELS; i-- > 0;) {
    ex->device[i] = shadow_device_new (geometry.device_size + GROWTH,
                                       start->ordered);
    ex->disk[i] = shadow_disk_new (DISK_SIZE);
    ex->device[i]->opaque = ex->disk[i]->opaque = ex;
    if (i + 1 < LEVELS)
      ex->device[i]->follower = ex->device[i + 1];
  }
  for (unsigned level = 0; level < LEVELS - 1; level++)
    for (unsigned i = 0; i < MAX_IMAGES; i++) {
      ex->images[level].bytes[i] = malloc (DISK_SIZE);
      assert (ex->images[level].bytes[i]);
    }
  ex->buf = malloc (DISK_SIZE);
  ex->again = malloc (DISK_SIZE);
  ex->now = malloc (DISK_SIZE);
  ex->base_disk = malloc (DISK_SIZE);
  ex->base_found = malloc (DISK_SIZE);
  ex->capture.disk = malloc (DISK_SIZE);
  assert (ex->buf && ex->again && ex->now && ex->base_disk && ex->base_found
          && ex->capture.disk);
  oracle_init (&ex->oracle, DISK_SIZE, bounds, BOUNDS);
  make_base (ex);
  if (has_problem (ex)) {
    printf ("%s: the start itself fails: %s\n", start->name, ex->problem);
    exit (1);
  }
  return ex;
}

void
explorer_free (struct explorer *ex)
{
  cache_close (ex->cache);
  for (unsigned i = 0; i < LEVELS; i++) {
    shadow_device_free (ex->device[i]);
    shadow_disk_free (ex->disk[i]);
  }
  for (unsigned level = 0; level < LEVELS - 1; level++)
    for (unsigned i = 0; i < MAX_IMAGES; i++)
      free (ex->images[level].bytes[i]);
  free (ex->buf);
  free (ex->again);
  free (ex->now);
  free (ex->base_disk);
  free (ex->base_found);
  free (ex->capture.disk);
  free (ex->capture.units);
  free (ex->capture.arena);
  free (ex);
}

/* --- histories -------------------------------------------------------- */

static uint64_t
history_hash (const struct history *history)
{
  uint64_t hash = seed;

  for (unsigned i = 0; i < history->count; i++) {
    const uint64_t word[2] = {
      (uint8_t) history->step[i].letter, history->step[i].number
    };

    hash = XXH3_64bits_withSeed (word, sizeof word, hash);
  }
  return hash;
}

/* The crash that step I is, if it is one. */
static char
captured_for (const struct history *history, unsigned i)
{
  const char letter = i < history->count ? history->step[i].letter : 0;

  return letter == 'x' || letter == 'k' ? letter : 0;
}

static void
watch (struct explorer *ex, bool on)
{
  ex->device[0]->before_barrier = on ? on_barrier : NULL;
  ex->disk[0]->changed = on ? on_disk_change : NULL;
}

const char *
explore (struct explorer *ex, const struct history *history, bool all)
{
  ex->counts->sequences++;
  go_to_base (ex);
  ex->random = history_hash (history);
  ex->cache = open_cache (ex, 0, CACHE_FORMAT_AUTO);
  if (ex->cache == NULL)
    return ex->problem;
  if (ex->start->used)
    use_up_head (ex);
  /* Until it is in effect. */
  while (ex->mode != MODE_WRITEBACK && !has_problem (ex)
         && modes_is_pending (cache_engine (ex->cache)))
    cache_step_writeback (ex->cache);

  watch (ex, true);
  ex->capture.wanted = captured_for (history, 0);
  ex->capture.points = 0;
  crash_point (ex, 0);
  for (unsigned i = 0; i < history->count && !has_problem (ex); i++) {
    const struct step step = history->step[i];

    if (captured_for (history, i) == 0 && !oracle_has_room (&ex->oracle))
      make_room (ex);
    ex->capture.wanted = captured_for (history, i + 1);
    ex->capture.points = 0;
    ex->exploring = all || i + 1 == history->count;
    do_step (ex, step);
    if (!has_problem (ex))
      crash_point (ex, 0);
  }
  watch (ex, false);
  ex->exploring = false;
  cache_close (ex->cache);
  ex->cache = NULL;
  return has_problem (ex);
}

static void
open_explored (struct explorer *ex, enum cache_format format)
{
  ex->exploring = true;
  watch (ex, true);
  ex->cache = open_cache (ex, 0, format);
  if (ex->cache)
    crash_point (ex, 0);
  watch (ex, false);
  ex->exploring = false;
}

static void
explore_formatting (struct explorer *ex)
{
  ex->formatting = true;
  open_explored (ex, CACHE_FORMAT_FORCE);

  /* And a device that was never used. */
  if (has_problem (ex))
    return;
  go_to_base (ex);
  shadow_rollback (ex->device[0], 0);
  open_explored (ex, CACHE_FORMAT_AUTO);
}

/* Nobody ever wrote to these slots of the segment table. */
static void
spoil_new_slots (struct explorer *ex)
{
  const uint64_t bytes = GROWTH / CACHE_MIN_SEGMENT_SIZE * MEDIA_SLOT;
  uint8_t *garbage = malloc (bytes);
  struct geometry g;

  assert (garbage);
  if (geometry_make (&g, ex->size, CACHE_MIN_SEGMENT_SIZE) < 0)
    abort ();
  memset (garbage, 0xa5, bytes);
  for (int copy = 0; copy < 2; copy++)
    shadow_place (ex->device[0], g.segment_table_at[copy]
                  + g.segment_count * MEDIA_SLOT, garbage, bytes);
  free (garbage);
}

static void
expect_segments (struct explorer *ex, const struct cache_status *before,
                 int more)
{
  struct cache_status status;

  cache_get_status (ex->cache, &status);
  if (!has_problem (ex)
      && status.segments_total != before->segments_total + more)
    problem (ex, "it has %" PRIu64 " segments, %" PRIu64 " before",
             status.segments_total, before->segments_total);
}

static void
explore_resizing (struct explorer *ex)
{
  static const char steps[] = "wFvfbr";
  const uint64_t small = ex->size;
  struct cache_status before;

  ex->cache = open_cache (ex, 0, CACHE_FORMAT_AUTO);
  if (ex->cache == NULL)
    return;
  cache_get_status (ex->cache, &before);
  cache_close (ex->cache);
  ex->cache = NULL;
  shadow_forget (ex->device[0]);

  spoil_new_slots (ex);
  ex->size += GROWTH;
  open_explored (ex, CACHE_FORMAT_AUTO);
  if (ex->cache)
    expect_segments (ex, &before, GROWTH / CACHE_MIN_SEGMENT_SIZE);
  ex->exploring = true;
  watch (ex, true);
  for (unsigned i = 0; steps[i] && !has_problem (ex); i++) {
    do_step (ex, (struct step) { .letter = steps[i] });
    if (!has_problem (ex))
      crash_point (ex, 0);
  }
  watch (ex, false);
  ex->exploring = false;
  if (has_problem (ex))
    return;

  make_room (ex);
  if (!has_problem (ex) && cache_stop (ex->cache, false, 0) < 0)
    problem (ex, "it cannot be stopped (%s)", last_report);
  cache_close (ex->cache);
  ex->cache = NULL;
  ex->formatting = true;
  ex->wanted_size = small;
  if (!has_problem (ex))
    open_explored (ex, CACHE_FORMAT_AUTO);
  if (ex->cache)
    expect_segments (ex, &before, 0);
}

static const struct {
  const char *name;
  void (*explore) (struct explorer *);
} wholes[] = {
  { "formatting", explore_formatting },
  { "resizing", explore_resizing },
};

const char *
whole_named (const char *name)
{
  for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++)
    if (strcmp (name, wholes[i].name) == 0)
      return wholes[i].name;
  return NULL;
}

/* Leaves nothing to go back to. */
const char *
explore_whole (struct explorer *ex, const char *name)
{
  ex->counts->sequences++;
  go_to_base (ex);
  ex->random = seed;
  for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++)
    if (strcmp (name, wholes[i].name) == 0)
      wholes[i].explore (ex);
  cache_close (ex->cache);
  ex->cache = NULL;
  return has_problem (ex);
}

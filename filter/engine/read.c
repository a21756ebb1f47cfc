/* SPDX-License-Identifier: BSD-3-Clause */

/* Reading: hits are copied out and verified without a lock, while a
 * read-side critical section keeps their segments from being reused.  Holes
 * are noted, with a fill for each, and read from the backing store when the
 * critical section is over.
 *
 * When the cache is full, long sequential reads pass by, and so does what the
 * ghost does not know: their holes are read and not cached.
 *
 * With fill-size, a read that comes to a hole goes on as a wider one, into a
 * buffer of its own, as far as the holes reach in the units around it.  If that
 * fails, it goes on as it would have without. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/engine.h"
#include "engine/holes.h"
#include "engine/rcu.h"

#define MAX_PIECES 32           /* looked up in one go */
#define MAX_FILLS 64            /* holes noted before they are read */

/* Requests of this length are looked at even if they miss nothing, so that a
 * stream is known when it comes to a hole. */
#define STREAM_REQUEST (UINT64_C (32) << 10)

/* A cache is full when so many more segments would begin eviction. */
#define FULL_MARGIN 2

struct read {
  struct engine *engine;
  uint8_t *buf;
  struct range range;           /* buf belongs to it */
  struct range wanted;          /* the part of it that was asked for */
  enum { NOT_LOOKED, SEQUENTIAL, OTHER } kind;
  enum { UNDECIDED, KEEP, LEAVE } fate; /* of what was a hole */
  bool stop_at_holes;           /* do not note them */
  bool at_hole;                 /* and it did */
  struct fill fill[MAX_FILLS];
  unsigned fills;
  uint64_t hit_bytes, miss_bytes;       /* of what was wanted */
};

static void
read_start (struct read *read, struct engine *engine, void *buf,
            struct range range)
{
  /* Not the fills: they are many, and set when they are used. */
  read->engine = engine;
  read->buf = buf;
  read->range = read->wanted = range;
  read->kind = NOT_LOOKED;
  read->fate = UNDECIDED;
  read->stop_at_holes = read->at_hole = false;
  read->fills = 0;
  read->hit_bytes = read->miss_bytes = 0;
}

static void
count_bytes (const struct read *read)
{
  struct stats *stats = read->engine->stats;

  if (read->hit_bytes > 0)
    stats_add (stats, STAT_read_hit_bytes, read->hit_bytes);
  if (read->miss_bytes > 0)
    stats_add (stats, STAT_read_miss_bytes, read->miss_bytes);
}

static bool
takes_reads (struct engine *engine)
{
  return setting_get (&engine->settings, SETTING_mode) != MODE_WRITEONLY;
}

static bool
is_full (struct engine *engine)
{
  const uint64_t total = engine->superblock.geometry.segment_count;
  const uint64_t used = total - segment_counts (&engine->segments).free;

  return (used + FULL_MARGIN) * 100
    > total * setting_get (&engine->settings, SETTING_gc_percent);
}

/* Is it a part of a long sequential read, which would only drive out what is
 * cached? */
static bool
is_sequential (struct read *read)
{
  struct engine *engine = read->engine;
  const uint64_t cutoff = setting_get (&engine->settings,
                                       SETTING_sequential_cutoff);

  if (read->kind == NOT_LOOKED)
    read->kind = cutoff > 0
      && streams_note (&engine->streams, read->range) > cutoff
      && is_full (engine) ? SEQUENTIAL : OTHER;
  return read->kind == SEQUENTIAL;
}

/* Is RANGE worth its room? */
static bool
is_admitted (struct engine *engine, struct range range)
{
  if (setting_get (&engine->settings, SETTING_eviction) != EVICTION_GHOST
      || !is_full (engine))
    return true;
  if (!ghost_recall (&engine->ghost, range))
    return false;
  stats_add (engine->stats, STAT_ghost_hit_bytes, range.length);
  return true;
}

static bool
is_kept (struct read *read, struct range run)
{
  if (read->fate != UNDECIDED)
    return read->fate == KEEP;
  return !is_sequential (read) && is_admitted (read->engine, run);
}

static struct range
chunk_part (struct range range)
{
  return (struct range) {
    range.start,
    MIN (range.length, INDEX_CHUNK - range.start % INDEX_CHUNK),
  };
}

static void
begin_fill_locked (struct read *read, struct range range)
{
  struct engine *engine = read->engine;
  struct fill *fill = &read->fill[read->fills++];

  index_fill_begin_locked (engine->index, fill, range);
  if (!modes_may_fill (&engine->modes, range))
    fill->stale = true;
}

/* Note a hole: it is cut so that each fill fits one reservation.  Its region is
 * locked.  Returns how far it got: fills may run out. */
static uint64_t
note_hole_locked (struct read *read, struct range hole)
{
  const uint64_t start = hole.start;

  while (hole.length > 0 && read->fills < MAX_FILLS) {
    const struct range part = {
      hole.start,
      MIN (hole.length, LOG_MAX_RESERVE - hole.start % LOG_MAX_RESERVE),
    };

    begin_fill_locked (read, part);
    hole.start += part.length;
    hole.length -= part.length;
  }
  return hole.start - start;
}

/* The data of an extent cannot be used.  If the backing store has it too,
 * forget it and read it from there: 1, and a hole was noted.  0: it is not
 * mapped any more, look again.  -EIO: it is the only copy. */
static int
heal (struct read *read, const struct piece *piece, int error)
{
  struct engine *engine = read->engine;
  const struct range range = piece->range;
  const struct range record = {
    range.start - piece->extent.delta, piece->extent.record_length,
  };
  int r = 0;

  index_lock (engine->index, range);
  /* Still mapped: then its segment cannot have been freed either. */
  if (index_is_locked (engine->index, range, &piece->extent)) {
    if (!extent_is_clean (engine, &piece->extent))
      r = -EIO;
    else if (note_hole_locked (read, range) == range.length) {
      /* All that is left of the record, as none of it can be used; which
       * also never splits an extent, so it needs no memory.  After a crash it is
       * there again. */
      holes_note_unmapped (&engine->holes, log_sequence (engine->log));
      index_remove_locked (engine->index, record, &piece->extent);
      r = 1;
    }
    /* Else no fill was left: read what was noted, then come back. */
  }
  index_unlock (engine->index, range);

  /* Not yet counted as lost: it may be overwritten, or readable, before it is
   * to be written back, and many may ask until then. */
  if (r == -EIO)
    report (REPORT_ERROR, "dirty data at %" PRIu64 "+%" PRIu64 " cannot be "
            "read (%s at %" PRIu64 " of the cache device) and is nowhere "
            "else; reads give EIO until it is overwritten",
            range.start, range.length,
            error == -EBADMSG ? "checksum wrong" : "media error",
            piece->extent.record_at);
  else if (r == 1) {
    stats_add (engine->stats, STAT_healed_bytes, range.length);
    report (REPORT_DEBUG, "clean data at %" PRIu64 "+%" PRIu64 " cannot be "
            "read (%s at %" PRIu64 " of the cache device); dropped and read "
            "again from the backing store", range.start, range.length,
            error == -EBADMSG ? "checksum wrong" : "media error",
            piece->extent.record_at);
  }
  return r;
}

/* Copy one hit.  1: done or noted as a hole.  0: look again. */
static int
copy_piece (struct read *read, const struct piece *piece)
{
  uint8_t *to = read->buf + (piece->range.start - read->range.start);
  int r;

  switch (piece->extent.kind) {
  case EXTENT_ZERO:
  case EXTENT_TRIM:
    memset (to, 0, piece->range.length);
    break;
  case EXTENT_LOST:
    return -EIO;
  case EXTENT_DATA:
    r = extent_read (read->engine, &piece->extent, to);
    if (r < 0)
      return heal (read, piece, r);
    break;
  }
  read->hit_bytes += range_clip (piece->range, read->wanted).length;
  return 1;
}

/* Look up the start of REST, which is in one chunk: copy hits, note holes.
 * *done: how many bytes of it are dealt with. */
static int
look_up (struct read *read, struct range rest, uint64_t *done)
{
  struct engine *engine = read->engine;
  struct piece piece[MAX_PIECES];
  struct index_cursor cursor;
  unsigned count = 0;
  uint64_t noted;
  int r = 1;

  *done = 0;
  readers_enter ();
  index_lock (engine->index, rest);
  index_walk_locked (&cursor, engine->index, rest, true);
  while (count < MAX_PIECES && index_next_piece (&cursor, &piece[count])) {
    if (piece[count].is_hole && read->stop_at_holes) {
      read->at_hole = true;
      break;
    }
    if (piece[count].is_hole) {
      noted = note_hole_locked (read, piece[count].range);
      if (noted < piece[count].range.length) {
        piece[count].range.length = noted;
        if (noted > 0)
          count++;
        break;
      }
    }
    count++;
  }
  index_unlock (engine->index, rest);

  for (unsigned i = 0; i < count && r == 1; i++) {
    if (!piece[i].is_hole)
      r = copy_piece (read, &piece[i]);
    if (r == 1)
      *done += piece[i].range.length;
  }
  readers_leave ();
  return r < 0 ? r : 0;
}

/* Cache what was read for one hole, if there is room at hand and nothing
 * newer came. */
static void
complete_fill (struct engine *engine, struct fill *fill, const uint8_t *buf)
{
  const struct range range = fill->range;
  struct record records[LOG_MAX_RESERVE_RECORDS];
  struct reservation res;
  uint32_t data_bytes;
  unsigned count;
  bool reserved;
  int r;

  count = records_cut (engine, range, true, records, &data_bytes);
  r = log_reserve (engine->log, LOG_OPTIONAL, data_bytes, count, &res);
  reserved = r == 0;
  if (reserved) {
    res.ends_with_append = true;
    r = records_store (engine, buf, range, records, count, res.at);
  }
  else
    stats_add (engine->stats, STAT_fills_skipped, 1);

  index_lock (engine->index, range);
  /* T10: anything that came meanwhile is newer than what was read. */
  if (!index_fill_end_locked (engine->index, fill)
      && !MUTATION (T10_STALE_FILL)) {
    stats_add (engine->stats, STAT_fills_stale, 1);
    r = -ESTALE;
  }
  if (r == 0)
    r = records_publish_locked (engine, &res, range, records, count);
  index_unlock (engine->index, range);

  if (reserved)
    log_release (engine->log, &res);
  if (r == 0) {
    stats_add (engine->stats, STAT_fills, count);
    stats_add (engine->stats, STAT_fill_bytes, range.length);
  }
}

static void
abandon_fill (struct engine *engine, struct fill *fill)
{
  index_lock (engine->index, fill->range);
  index_fill_end_locked (engine->index, fill);
  index_unlock (engine->index, fill->range);
}

static void
abandon_fills (struct read *read, unsigned from)
{
  for (unsigned i = from; i < read->fills; i++)
    abandon_fill (read->engine, &read->fill[i]);
  read->fills = 0;
}

/* Count what was read from the backing store, and cache it or not. */
static void
end_fills (struct read *read, struct range run, unsigned from, unsigned to)
{
  struct engine *engine = read->engine;
  const uint64_t asked = range_clip (run, read->wanted).length;
  const bool may_keep = takes_reads (engine);
  const bool keep = may_keep && is_kept (read, run);

  read->miss_bytes += asked;
  if (asked < run.length)
    stats_add (engine->stats, STAT_surrounding_bytes, run.length - asked);
  if (may_keep && !keep)
    stats_add (engine->stats, read->kind == SEQUENTIAL ? STAT_sequential_bytes
               : STAT_ghost_miss_bytes, run.length);
  for (unsigned i = from; i < to; i++) {
    struct fill *fill = &read->fill[i];

    if (keep)
      complete_fill (engine, fill,
                     read->buf + (fill->range.start - read->range.start));
    else
      abandon_fill (engine, fill);
  }
}

/* Read the noted holes, neighbours in one request. */
static int
read_holes (struct read *read)
{
  struct engine *engine = read->engine;
  unsigned i = 0, next;

  while (i < read->fills) {
    struct range run = read->fill[i].range;
    uint8_t *to = read->buf + (run.start - read->range.start);
    int r;

    for (next = i + 1; next < read->fills; next++) {
      if (read->fill[next].range.start != range_end (run)
          || run.length + read->fill[next].range.length
             > engine->backend->max_request)
        break;
      run.length += read->fill[next].range.length;
    }
    r = backend_pread (engine->backend, to, run.length, run.start);
    if (r < 0) {
      stats_add (engine->stats, STAT_backing_read_errors, 1);
      abandon_fills (read, i);
      return r;
    }
    end_fills (read, run, i, next);
    i = next;
  }
  read->fills = 0;
  return 0;
}

/* Read REST, a part of read->range: all of it, or with stop_at_holes up to a
 * hole.  *done: how much. */
static int
read_part (struct read *read, struct range rest, uint64_t *done)
{
  const uint64_t length = rest.length;
  int r;

  read->at_hole = false;
  while (rest.length > 0 && !read->at_hole) {
    uint64_t n;

    r = look_up (read, chunk_part (rest), &n);
    if (r < 0) {
      abandon_fills (read, 0);
      return r;
    }
    rest.start += n;
    rest.length -= n;
    if (read->fills == MAX_FILLS
        || (read->fills > 0 && (rest.length == 0 || read->at_hole))) {
      r = read_holes (read);
      if (r < 0)
        return r;
    }
  }
  *done = length - rest.length;
  return 0;
}

/* PART, which begins with a hole and is in one chunk, and how far the holes at
 * its ends go on in units of UNIT: nothing that would need a request more. */
static struct range
widen (struct engine *engine, struct range part, struct range units)
{
  uint64_t from = units.start, to = range_end (units);
  struct index_cursor cursor;
  struct piece piece;

  index_lock (engine->index, units);
  index_walk_locked (&cursor, engine->index, units, false);
  while (index_next_piece (&cursor, &piece)) {
    const uint64_t end = range_end (piece.range);

    if (piece.is_hole)
      continue;
    if (piece.range.start <= part.start)
      from = MIN (end, part.start);
    if (end >= range_end (part)) {
      to = MAX (piece.range.start, range_end (part));
      break;
    }
  }
  index_unlock (engine->index, units);
  return (struct range) { from, to - from };
}

/* Read PART, a part of read->range that begins with a hole and is in one chunk,
 * with the holes around it.  False if that cannot be done. */
static bool
read_around (struct read *read, struct range part, struct range units)
{
  struct engine *engine = read->engine;
  const struct range range = widen (engine, part, units);
  CLEANUP_FREE uint8_t *buf = NULL;
  struct read wide;
  uint64_t done;

  if (range.length == part.length || (buf = malloc (range.length)) == NULL)
    return false;
  read_start (&wide, engine, buf, range);
  wide.wanted = part;
  wide.fate = KEEP;
  if (read_part (&wide, range, &done) < 0)
    return false;
  read->hit_bytes += wide.hit_bytes;
  read->miss_bytes += wide.miss_bytes;
  memcpy (read->buf + (part.start - read->range.start),
          buf + (part.start - range.start), part.length);
  return true;
}

static struct range
units_around (const struct engine *engine, struct range part, uint64_t unit)
{
  const uint64_t start = round_down (part.start, unit);

  const uint64_t end = MIN (round_up (range_end (part), unit),
                            engine->backend->size);

  return (struct range) { start, end - start };
}

/* As read_around, unless somebody else does. */
static bool
read_around_alone (struct read *read, struct range part, struct range units)
{
  struct flights *flights = &read->engine->flights;
  struct flight flight;
  bool is_read;

  if (!flights_enter (flights, &flight, units)) {
    stats_add (read->engine->stats, STAT_surrounding_waits, 1);
    return false;
  }
  is_read = read_around (read, part, units);
  flights_leave (flights, &flight);
  return is_read;
}

/* Read PART, a part of read->range that begins with a hole and is in one
 * chunk. */
static int
read_units (struct read *read, struct range part, uint64_t unit)
{
  const struct range units = units_around (read->engine, part, unit);
  uint64_t done;
  int r;

  if (units.length > part.length && !is_sequential (read)) {
    /* Around what is not kept nothing is read. */
    read->fate = is_admitted (read->engine, units) ? KEEP : LEAVE;
    if (read->fate == KEEP && read_around_alone (read, part, units))
      r = 0;
    else
      r = read_part (read, part, &done);
    read->fate = UNDECIDED;
    return r;
  }
  return read_part (read, part, &done);
}

static int
read_by_units (struct read *read, uint64_t unit)
{
  struct range rest = read->range;
  uint64_t done;
  int r;

  for (;;) {
    read->stop_at_holes = true;
    r = read_part (read, rest, &done);
    read->stop_at_holes = false;
    if (r < 0 || done == rest.length)
      return r;
    rest.start += done;
    rest.length -= done;

    const struct range part = chunk_part (rest);

    r = read_units (read, part, unit);
    rest.start += part.length;
    rest.length -= part.length;
    if (r < 0 || rest.length == 0)
      return r;
  }
}

int
engine_read (struct engine *engine, void *buf, struct range range)
{
  const uint64_t unit = takes_reads (engine)
    ? setting_get (&engine->settings, SETTING_fill_size) : 0;
  struct read read;
  uint64_t done;
  int r;

  read_start (&read, engine, buf, range);
  if (range.length >= STREAM_REQUEST)
    is_sequential (&read);
  r = unit > 0 ? read_by_units (&read, unit)
    : read_part (&read, range, &done);
  count_bytes (&read);
  if (r == 0)
    stats_add (engine->stats, read.miss_bytes == 0 ? STAT_read_hits
               : read.hit_bytes == 0 ? STAT_read_misses
               : STAT_read_partial_hits, 1);
  return r;
}

int
engine_prefetch (struct engine *engine, struct range range)
{
  CLEANUP_FREE uint8_t *buf = malloc (INDEX_CHUNK);
  int r = 0;

  if (buf == NULL)
    return -ENOMEM;
  while (range.length > 0 && r == 0) {
    const struct range part = chunk_part (range);
    struct read read;
    uint64_t done;

    read_start (&read, engine, buf, part);
    read.fate = KEEP;
    r = read_part (&read, part, &done);
    count_bytes (&read);
    range.start += part.length;
    range.length -= part.length;
  }
  return r;
}

static enum map_kind
kind_of (const struct piece *piece)
{
  if (piece->is_hole)
    return MAP_HOLE;
  return piece->extent.kind == EXTENT_ZERO || piece->extent.kind == EXTENT_TRIM
    ? MAP_ZERO : MAP_DATA;
}

void
engine_map (struct engine *engine, struct range range, enum map_kind *kind,
            uint64_t *length)
{
  *length = 0;
  while (range.length > 0) {
    const struct range part = chunk_part (range);
    struct index_cursor cursor;
    struct piece piece;
    bool differs = false;

    index_lock (engine->index, part);
    index_walk_locked (&cursor, engine->index, part, false);
    while (!differs && index_next_piece (&cursor, &piece)) {
      if (*length == 0)
        *kind = kind_of (&piece);
      differs = kind_of (&piece) != *kind;
      if (!differs)
        *length += piece.range.length;
    }
    index_unlock (engine->index, part);
    if (differs)
      return;
    range.start += part.length;
    range.length -= part.length;
  }
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* Reading: hits are copied out and verified without a lock, while a
 * read-side critical section keeps their segments from being reused.  Holes
 * are noted, with a fill for each, and read from the backing store when the
 * critical section is over. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/engine.h"
#include "engine/rcu.h"

#define MAX_PIECES 32           /* looked up in one go */
#define MAX_FILLS 64            /* holes noted before they are read */

struct read {
  struct engine *engine;
  uint8_t *buf;
  struct range range;           /* of the request; buf belongs to it */
  struct fill fill[MAX_FILLS];
  unsigned fills;
  uint64_t hit_bytes, miss_bytes;
};

static struct range
chunk_part (struct range range)
{
  return (struct range) {
    range.start,
    MIN (range.length, INDEX_CHUNK - range.start % INDEX_CHUNK),
  };
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

    index_fill_begin_locked (read->engine->index, &read->fill[read->fills++],
                             part);
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
       * also never splits an extent, so it needs no memory. */
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
  read->hit_bytes += piece->range.length;
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
  if (reserved)
    r = records_store (engine, buf, range, records, count, res.at);
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
abandon_fills (struct read *read, unsigned from)
{
  for (unsigned i = from; i < read->fills; i++) {
    index_lock (read->engine->index, read->fill[i].range);
    index_fill_end_locked (read->engine->index, &read->fill[i]);
    index_unlock (read->engine->index, read->fill[i].range);
  }
  read->fills = 0;
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
    read->miss_bytes += run.length;
    for (; i < next; i++)
      complete_fill (engine, &read->fill[i],
                     read->buf + (read->fill[i].range.start
                                  - read->range.start));
  }
  read->fills = 0;
  return 0;
}

static int
read_pieces (struct read *read)
{
  struct range rest = read->range;
  int r;

  while (rest.length > 0) {
    uint64_t done;

    r = look_up (read, chunk_part (rest), &done);
    if (r < 0) {
      abandon_fills (read, 0);
      return r;
    }
    rest.start += done;
    rest.length -= done;
    if (read->fills > 0 && (rest.length == 0 || read->fills == MAX_FILLS)) {
      r = read_holes (read);
      if (r < 0)
        return r;
    }
  }
  return 0;
}

/* READ: left as it was when that was over. */
static int
read_range (struct read *read, struct engine *engine, void *buf,
            struct range range)
{
  int r;

  /* Not the fills: they are many, and set when they are used. */
  read->engine = engine;
  read->buf = buf;
  read->range = range;
  read->fills = 0;
  read->hit_bytes = read->miss_bytes = 0;
  r = read_pieces (read);
  if (read->hit_bytes > 0)
    stats_add (engine->stats, STAT_read_hit_bytes, read->hit_bytes);
  if (read->miss_bytes > 0)
    stats_add (engine->stats, STAT_read_miss_bytes, read->miss_bytes);
  return r;
}

int
engine_read (struct engine *engine, void *buf, struct range range)
{
  struct read read;
  const int r = read_range (&read, engine, buf, range);

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
  struct read read;
  int r = 0;

  if (buf == NULL)
    return -ENOMEM;
  while (range.length > 0 && r == 0) {
    const struct range part = chunk_part (range);

    r = read_range (&read, engine, buf, part);
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

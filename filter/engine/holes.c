/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "engine/append.h"
#include "engine/holes.h"

/* Which records were dirty at one instant.  Those appended later are told by
 * their sequence number or by their segment. */
struct snapshot {
  uint64_t sequence;            /* the last one then */
  uint64_t *generation;         /* of each segment that was sealed; else 0 */
  uint64_t *names;              /* of dirty records, ascending */
  size_t count;
};

struct punch {
  struct engine *engine;
  const struct snapshot *dirty; /* NULL: nothing is */
  bool on_path_around;          /* only as long as that is the path */
  bool lost_too;
  uint64_t dropped_bytes;
  uint64_t records;             /* appended */
  bool kept;                    /* something that is lost, or dirty */
};

/* For who is under way himself. */
static bool
are_certain (struct engine *engine)
{
  return atomic_load (&engine->holes.under_way) == 1
    && atomic_load (&engine->holes.uncertain_through)
       <= control_get (&engine->superblock).tail_sequence;
}

/* --- what is dirty ---------------------------------------------------- */

static void
snapshot_free (struct snapshot *snapshot)
{
  free (snapshot->generation);
  free (snapshot->names);
}

static int
snapshot_take (struct engine *engine, struct snapshot *snapshot)
{
  const uint32_t total = engine->superblock.geometry.segment_count;
  int r;

  *snapshot = (struct snapshot) { .sequence = log_sequence (engine->log) };
  snapshot->generation = calloc (total, sizeof *snapshot->generation);
  if (snapshot->generation == NULL)
    return -ENOMEM;
  for (uint32_t id = 0; id < total; id++) {
    const struct segment segment = segment_snapshot (&engine->segments, id);

    if (segment.state == SEGMENT_SEALED)
      snapshot->generation[id] = segment.generation;
  }
  /* After this all the dirty ones so far are in the queue, if they are still
   * dirty. */
  r = engine_flush (engine);
  if (r == 0)
    r = epoch_queue_names (&engine->queue, &snapshot->names,
                           &snapshot->count);
  if (r == 0)
    qsort (snapshot->names, snapshot->count, sizeof *snapshot->names,
           compare_u64);
  return r;
}

/* The region is locked. */
static bool
is_dirty_locked (struct engine *engine, const struct snapshot *snapshot,
                 const struct extent *extent)
{
  const struct geometry *g = &engine->superblock.geometry;
  const uint64_t name = extent_name (extent);

  if (bsearch (&name, snapshot->names, snapshot->count, sizeof name,
               compare_u64))
    return true;
  if (extent->kind != EXTENT_DATA)
    return extent->sequence > snapshot->sequence;
  const uint32_t id = (extent->record_at - g->first_segment_at)
    / g->segment_size;

  /* A segment that was sealed then, and still lives, has nothing newer. */
  return segment_snapshot (&engine->segments, id).generation
         != snapshot->generation[id]
    && !extent_is_clean (engine, extent);
}

/* --- unmapping -------------------------------------------------------- */

static bool
stays_locked (const struct punch *punch, const struct piece *piece)
{
  if (piece->is_hole || punch->lost_too)
    return false;
  return piece->extent.kind == EXTENT_LOST
    || (punch->dirty
        && is_dirty_locked (punch->engine, punch->dirty, &piece->extent));
}

struct runs {
  struct record record[LOG_MAX_RESERVE_RECORDS];
  unsigned count;
  uint64_t mapped_bytes;
  uint64_t end;                 /* how far it got */
};

/* Cut RANGE, in one chunk, into runs of which nothing stays.  Runs that are holes
 * already need a record only if they are not certain. */
static void
cut_runs_locked (struct punch *punch, struct range range, struct runs *runs)
{
  const bool certain = are_certain (punch->engine);
  struct record run = { .kind = RECORD_HOLE, .clean = true };
  bool needed = false;
  struct index_cursor cursor;
  struct piece piece;

  *runs = (struct runs) { .end = range.start };
  run.range.start = range.start;
  index_walk_locked (&cursor, punch->engine->index, range, false);
  while (runs->count < LOG_MAX_RESERVE_RECORDS
         && index_next_piece (&cursor, &piece)) {
    const bool stays = stays_locked (punch, &piece);

    runs->end = range_end (piece.range);
    if (!stays) {
      run.range.length += piece.range.length;
      needed |= !piece.is_hole || !certain;
      if (!piece.is_hole)
        runs->mapped_bytes += piece.range.length;
    }
    else {
      punch->kept = true;
      if (needed)
        runs->record[runs->count++] = run;
      run.range = (struct range) { runs->end, 0 };
      needed = false;
    }
  }
  if (needed && runs->count < LOG_MAX_RESERVE_RECORDS)
    runs->record[runs->count++] = run;
}

/* Append what RUNS say, with RES (NULL: there was nothing to append before), as far
 * as it goes. */
static int
punch_locked (struct punch *punch, struct range range,
              struct reservation *res, struct runs *runs)
{
  struct engine *engine = punch->engine;
  int r;

  if (punch->on_path_around
      && !modes_may_append (&engine->modes, PATH_AROUND, true))
    return -ESTALE;
  /* Also where nothing is mapped. */
  index_make_fills_stale_locked (engine->index, range);
  cut_runs_locked (punch, range, runs);
  if (runs->count == 0)
    return 0;
  if (res == NULL)
    return -EAGAIN;
  r = records_publish_locked (engine, res, range, runs->record, runs->count);
  if (r < 0)
    return r;
  punch->records += runs->count;
  punch->dropped_bytes += runs->mapped_bytes;
  return 0;
}

/* RANGE lies in one chunk. */
static int
punch_chunk (struct punch *punch, struct range range)
{
  struct engine *engine = punch->engine;
  struct reservation reservation, *res = NULL;
  unsigned attempt = 0;
  int r = 0;

  while (range.length > 0) {
    const uint64_t end = range_end (range);
    struct runs runs;

    index_lock (engine->index, range);
    r = punch_locked (punch, range, res, &runs);
    index_unlock (engine->index, range);
    if (res)
      log_release (engine->log, res);
    res = NULL;
    if (r == 0) {
      range = (struct range) { runs.end, end - runs.end };
      continue;
    }
    if (r == -EIO && ++attempt < APPEND_MAX_ATTEMPTS
        && engine_move_refused (engine) >= 0)
      r = -EAGAIN;              /* elsewhere it may go well */
    if (r == -EAGAIN)
      r = append_reserve (engine, 0, LOG_MAX_RESERVE_RECORDS, &reservation);
    if (r < 0)
      return r;
    res = &reservation;
  }
  return 0;
}

/* Durable when it returns 0. */
static int
punch_range (struct punch *punch, struct range range)
{
  struct engine *engine = punch->engine;
  struct holes *holes = &engine->holes;
  int r = 0;

  atomic_fetch_add (&holes->under_way, 1);
  while (r == 0 && range.length > 0) {
    const struct range part = {
      range.start,
      MIN (range.length, INDEX_CHUNK - range.start % INDEX_CHUNK),
    };

    r = punch_chunk (punch, part);
    range.start += part.length;
    range.length -= part.length;
  }
  /* Crash before: what was mapped is there again, and as true as it was.  After:
   * the records count. */
  if (r == 0 && punch->records > 0)
    r = engine_flush (engine);
  if (r < 0)
    holes_note_unmapped (holes, log_sequence (engine->log));
  atomic_fetch_sub (&holes->under_way, 1);
  return r;
}

int
holes_begin_write (struct engine *engine, struct range range, bool *lost)
{
  struct punch punch = { .engine = engine, .on_path_around = true };
  int r = punch_range (&punch, range);

  *lost = punch.kept;
  return r;
}

int
holes_end_lost (struct engine *engine, struct range range)
{
  struct punch punch = { .engine = engine, .lost_too = true };

  return punch_range (&punch, range);
}

int
holes_invalidate (struct engine *engine, struct range range,
                  uint64_t *dropped_bytes)
{
  struct snapshot snapshot;
  struct punch punch = { .engine = engine, .dirty = &snapshot };
  int r;

  *dropped_bytes = 0;
  r = snapshot_take (engine, &snapshot);
  if (r == 0)
    r = punch_range (&punch, range);
  snapshot_free (&snapshot);
  *dropped_bytes = punch.dropped_bytes;
  stats_add (engine->stats, STAT_invalidated_bytes, punch.dropped_bytes);
  return r;
}

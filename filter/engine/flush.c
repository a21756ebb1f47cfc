/* SPDX-License-Identifier: BSD-3-Clause */

/* Flush, and what to do when a record set's place refuses stores.
 *
 * Sets lie without gaps, so a segment takes no set any more once the place of
 * the next one is bad.  Its open set has never been durable: what is still mapped
 * to its records is written anew, elsewhere, and the set is dropped.  The
 * segment is sealed with the sets it has; its header lies elsewhere.
 *
 * Why records may move into a later epoch:  a record that is in no set on media
 * is covered by no flush and no FUA that has returned without an error.  All
 * that a disk promises of it is that the flush which covers it, when it
 * returns, has it; and that flush comes after the move and covers the epoch
 * into which it moved.  Until then a disk may keep any of what it was not told
 * to flush, so the older epoch without these records is as good as with them (P3).
 * Which of two overlapping records is newer is decided as always, under the
 * region's lock: only what is still mapped moves, so nothing newer is ever
 * covered (P2).  A crash in between finds the old records (if the refused set
 * is there after all), the new ones, both, or neither: both say the same. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "engine/engine.h"

/* Places in a row that may refuse before it is taken for the whole device. */
#define MAX_ATTEMPTS 4

struct move {
  struct engine *engine;
  struct refused_set set;
  uint8_t buf[RECORD_MAX_DATA];
};

/* The first piece of RANGE, in one chunk, that is mapped to the record of
 * EXTENT. */
static bool
find_piece (struct move *move, const struct extent *extent,
            struct range range, struct piece *piece)
{
  struct index *index = move->engine->index;
  struct index_cursor cursor;
  bool found = false;

  index_lock (index, range);
  index_walk_locked (&cursor, index, range, false);
  while (!found && index_next_piece (&cursor, piece))
    found = !piece->is_hole
      && extent_name (&piece->extent) == extent_name (extent);
  index_unlock (index, range);
  return found;
}

/* In a cache full of dirty data there is one way on: the room kept for what is
 * lost.  It comes back with the rest when that is written back. */
static int
reserve (struct move *move, uint32_t data_bytes, unsigned records,
         struct reservation *res)
{
  struct log *log = move->engine->log;
  int r = log_reserve (log, LOG_WRITE, data_bytes, records, res);

  return r == -EAGAIN ? log_reserve (log, LOG_LOST, data_bytes, records, res)
    : r;
}

/* Map RANGE, all of it mapped to the record of EXTENT, to RECORDS: 1; or 0, when it
 * has changed: then whoever asks again finds what is left. */
static int
publish (struct move *move, const struct extent *extent, struct range range,
         struct reservation *res, struct record *records, unsigned count)
{
  struct index *index = move->engine->index;
  int r = 0;

  index_lock (index, range);
  if (index_is_locked (index, range, extent)) {
    r = records_publish_locked (move->engine, res, range, records, count);
    if (r == 0)
      r = 1;
  }
  index_unlock (index, range);
  return r;
}

static bool
belongs (const struct piece *piece, const struct extent *extent)
{
  return extent == NULL ? piece->is_hole
    : !piece->is_hole && extent_name (&piece->extent) == extent_name (extent);
}

/* The first run in RANGE, as long as it goes on, that is mapped to the record
 * of EXTENT, or (NULL) to none.  RANGE is locked. */
static bool
find_run_locked (struct move *move, const struct extent *extent,
                 struct range range, struct range *run)
{
  run->length = 0;
  while (range.length > 0) {
    const struct range part = {
      range.start,
      MIN (range.length, INDEX_CHUNK - range.start % INDEX_CHUNK),
    };
    struct index_cursor cursor;
    struct piece piece;

    index_walk_locked (&cursor, move->engine->index, part, false);
    while (index_next_piece (&cursor, &piece))
      if (belongs (&piece, extent)) {
        if (run->length == 0)
          run->start = piece.range.start;
        run->length += piece.range.length;
      }
      else if (run->length > 0)
        return true;
    range.start += part.length;
    range.length -= part.length;
  }
  return run->length > 0;
}

static bool
find_run (struct move *move, const struct extent *extent, struct range range,
          struct range *run)
{
  bool found;

  index_lock (move->engine->index, range);
  found = find_run_locked (move, extent, range, run);
  index_unlock (move->engine->index, range);
  return found;
}

/* A zero may be longer than a chunk, and must not need a record for each: there
 * might never be so much room.  *moved: bytes.
 *
 * Of a hole, EXTENT NULL, what is one now is said again: with whatever is mapped
 * there by now, nothing older will be found. */
static int
move_without_data (struct move *move, const struct extent *extent,
                   struct range range, enum record_kind kind, uint64_t *moved)
{
  struct engine *engine = move->engine;
  struct record record = {
    .kind = kind, .clean = kind == RECORD_LOST || kind == RECORD_HOLE,
  };
  struct range *run = &record.range;
  unsigned attempt = 0;
  int r;

  *moved = 0;
  while (range.length > 0 && find_run (move, extent, range, run)) {
    const uint64_t end = range_end (range);
    struct reservation res;

    r = reserve (move, 0, 1, &res);
    if (r < 0)
      return r;
    index_lock (engine->index, range);
    if (find_run_locked (move, extent, range, run)) {
      if (kind == RECORD_LOST)
        r = lost_add (&engine->lost, *run);
      if (r == 0)
        r = records_publish_locked (engine, &res, *run, &record, 1);
      if (r == 0)
        *moved += run->length;
    }
    index_unlock (engine->index, range);
    log_release (engine->log, &res);
    if (r < 0) {
      if (r != -EIO || ++attempt == MAX_ATTEMPTS)
        return r;
      continue;                 /* elsewhere it may go well */
    }
    attempt = 0;
    /* What is not mapped to the record any more never will be again. */
    if (run->length > 0)
      range = (struct range) { range_end (*run), end - range_end (*run) };
  }
  return 0;
}

static int
move_data (struct move *move, const struct piece *piece)
{
  struct engine *engine = move->engine;
  struct record records[LOG_MAX_RESERVE_RECORDS];
  struct reservation res;
  uint64_t lost;
  uint32_t data_bytes;
  unsigned count;
  int r;

  /* Its segment is open, and stays. */
  r = extent_read (engine, &piece->extent, move->buf);
  if (r < 0) {
    /* Nobody would know any more that something was here (P4). */
    r = control_set_lost (&engine->superblock, true);
    if (r < 0)
      return r;
    r = move_without_data (move, &piece->extent, piece->range, RECORD_LOST,
                           &lost);
    if (lost == 0)
      return r;
    stats_add (engine->stats, STAT_lost_bytes, lost);
    report (REPORT_ERROR, "dirty data at %" PRIu64 "+%" PRIu64 " cannot be "
            "read (at %" PRIu64 " of the cache device), and its record not "
            "written; reads give EIO until it is overwritten",
            piece->range.start, piece->range.length, piece->extent.record_at);
    return r;
  }
  for (unsigned attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    count = records_cut (engine, piece->range, false, records, &data_bytes);
    r = reserve (move, data_bytes, count, &res);
    if (r < 0)
      return r;
    r = records_store (engine, move->buf, piece->range, records, count,
                       res.at);
    if (r < 0) {
      log_release (engine->log, &res);
      continue;                 /* elsewhere it may go well */
    }
    r = publish (move, &piece->extent, piece->range, &res, records, count);
    log_release (engine->log, &res);
    if (r != -EIO)
      return r;
  }
  return r;
}

static bool
is_only_cached (const struct record *record)
{
  return record->clean && record->kind != RECORD_LOST
    && record->kind != RECORD_HOLE;
}

static int
move_record (struct move *move, const struct record *record)
{
  struct index *index = move->engine->index;
  struct extent extent;
  struct piece piece;
  uint64_t moved;
  int r = 0;

  if (record->kind == RECORD_HOLE)
    return move_without_data (move, NULL, record->range, RECORD_HOLE, &moved);
  record_to_extent (record, &extent);
  if (is_only_cached (record)) {
    /* With no record on media nothing would unmap it when its segment is evicted.
     * A crash may find it there after all. */
    holes_note_unmapped (&move->engine->holes, record->sequence);
    index_lock (index, record->range);
    index_remove_locked (index, record->range, &extent);
    index_unlock (index, record->range);
    return 0;
  }
  if (record->kind != RECORD_DATA)
    return move_without_data (move, &extent, record->range, record->kind,
                              &moved);
  while (r >= 0 && find_piece (move, &extent, record->range, &piece))
    r = move_data (move, &piece);
  return MIN (r, 0);
}

/* 1: one was moved; 0: there is none. */
static int
move_one (struct move *move)
{
  struct log *log = move->engine->log;
  int r = 0;

  if (!log_take_refused (log, &move->set))
    return 0;
  /* What is only cached first: it may cover a hole of the same set, which is then
   * said again. */
  for (int others = 0; others < 2; others++)
    for (uint32_t i = 0; i < move->set.count && r == 0; i++)
      if (is_only_cached (&move->set.record[i]) != others)
        r = move_record (move, &move->set.record[i]);
  if (r == 0)
    report (REPORT_WARNING, "segment %" PRIu32 " refuses a record set and is "
            "left; %" PRIu32 " records were written anew elsewhere",
            move->set.segment, move->set.count);
  log_end_refused (log, &move->set, r == 0);
  return r < 0 ? r : 1;
}

int
engine_move_refused (struct engine *engine)
{
  CLEANUP_FREE struct move *move = malloc (sizeof *move);
  int r, moved = 0;

  if (move == NULL)
    return -ENOMEM;
  move->engine = engine;
  while ((r = move_one (move)) > 0)
    moved = 1;
  if (moved) {
    unsigned sealed;

    /* What a crash finds at the refused place may look like damage: the header
     * had better say soon how many sets there are.  If it cannot now, because
     * writers are in the segment still, eviction does it. */
    log_seal_retired (engine->log, &sealed);
  }
  return r < 0 ? r : moved;
}

/* Is there reason to try again what failed after MOVES sets had been moved?  A
 * sync that has failed is none, as the kernel may have forgotten by now what it
 * could not write. */
static bool
may_succeed (struct engine *engine, uint64_t moves)
{
  return engine_move_refused (engine) >= 0
    && log_moves (engine->log) != moves;        /* by this thread or another */
}

int
engine_note_device (struct engine *engine, int r)
{
  if (r < 0 && r != -ENOMEM)
    atomic_fetch_add (&engine->device_failures, 1);
  return r;
}

int
engine_flush (struct engine *engine)
{
  int r = -EIO;

  for (unsigned attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const uint64_t moves = log_moves (engine->log);

    r = log_flush (engine->log);
    if (r == 0 || !may_succeed (engine, moves))
      break;
  }
  return engine_note_device (engine, r);
}

uint64_t
engine_backing_failures (struct engine *engine)
{
  return atomic_load (&engine->backing.failures);
}

int
engine_flush_backing (struct engine *engine, uint64_t failures)
{
  HOLD_LOCK (&engine->backing.lock);
  const int r = backend_flush (engine->backend);

  if (r < 0) {
    atomic_fetch_add (&engine->backing.failures, 1);
    stats_add (engine->stats, STAT_backing_flush_errors, 1);
    return r;
  }
  return engine_backing_failures (engine) == failures ? 0 : -EIO;
}

static int
end_reservation (struct engine *engine, struct reservation *res,
                 int (*make_durable) (struct log *, struct reservation *))
{
  const uint64_t moves = log_moves (engine->log);
  const int r = make_durable (engine->log, res);

  log_release (engine->log, res);
  return r < 0 && may_succeed (engine, moves) ? engine_flush (engine)
    : engine_note_device (engine, r);
}

int
engine_commit (struct engine *engine, struct reservation *res)
{
  return end_reservation (engine, res, log_commit);
}

int
engine_persist (struct engine *engine, struct reservation *res)
{
  return end_reservation (engine, res, log_persist);
}

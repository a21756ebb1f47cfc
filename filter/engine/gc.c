/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/gc.h"
#include "engine/holes.h"
#include "engine/rcu.h"

#ifdef __SANITIZE_THREAD__
char rcu_tsan_readers, rcu_tsan_updaters;
#endif

/* Pieces of one record looked at in one hold of its region's lock. */
#define MAX_PIECES 64

struct eviction {
  struct engine *engine;
  struct segment segment;       /* as it was when chosen */
  struct set set;
  struct piece piece[MAX_PIECES];
  uint8_t buf[RECORD_MAX_DATA];
  uint64_t relocated_bytes;
};

bool
gc_wanted (struct engine *engine)
{
  const struct segment_counts counts = segment_counts (&engine->segments);
  const uint64_t total = engine->superblock.geometry.segment_count;
  const uint64_t used = total - counts.free;

  /* Optional records leave writes a few segments (log.c): keep one more than
   * that free, or a full cache would stop caching what is read. */
  return used * 100
    > total * setting_get (&engine->settings, SETTING_gc_percent)
    || counts.free <= log_kept_for_writes (engine->log);
}

/* The pieces of RANGE that are still mapped to the record of EXTENT; only
 * those that were hit, if asked. */
static unsigned
find_pieces_locked (struct eviction *ev, const struct extent *extent,
                    bool only_hit)
{
  struct index_cursor cursor;
  unsigned count = 0;
  struct piece *piece;

  index_walk_locked (&cursor, ev->engine->index, extent->range, false);
  while (count < MAX_PIECES
         && index_next_piece (&cursor, piece = &ev->piece[count])) {
    if (piece->is_hole || piece->extent.kind != extent->kind
        || (only_hit && !piece->extent.hit))
      continue;
    if (extent->kind == EXTENT_DATA
        ? piece->extent.record_at == extent->record_at
        : piece->extent.sequence == extent->sequence)
      count++;
  }
  return count;
}

/* Second chance: a clean copy in a head.  Whatever goes wrong here only costs
 * a cached extent. */
static void
relocate (struct eviction *ev, const struct piece *piece)
{
  struct engine *engine = ev->engine;
  const struct range range = piece->range;
  struct record records[LOG_MAX_RESERVE_RECORDS];
  struct reservation res;
  uint32_t data_bytes;
  unsigned count;
  int r = 0;

  /* A segment full of hits must still give back half of itself. */
  if (ev->relocated_bytes + range.length
      > engine->superblock.geometry.segment_size / 2
      || extent_read (engine, &piece->extent, ev->buf) < 0)
    return;
  count = records_cut (engine, range, true, records, &data_bytes);
  if (log_reserve (engine->log, LOG_OPTIONAL, data_bytes, count, &res) < 0)
    return;
  r = records_store (engine, ev->buf, range, records, count, res.at);
  if (r == 0) {
    index_lock (engine->index, range);
    if (index_is_locked (engine->index, range, &piece->extent))
      r = records_publish_locked (engine, &res, range, records, count);
    else
      r = -ESTALE;              /* overwritten meanwhile */
    index_unlock (engine->index, range);
  }
  log_release (engine->log, &res);
  if (r == 0) {
    ev->relocated_bytes += range.length;
    stats_add (engine->stats, STAT_relocated_records, count);
    stats_add (engine->stats, STAT_relocated_bytes, range.length);
  }
}

/* The first piece of RANGE that is mapped as lost by a record which the tail,
 * when it moves to the end of the segment, would make void.  *any: there is one
 * by whatever record.  The region is locked. */
static bool
find_lost_locked (struct eviction *ev, struct range range, bool *any,
                  struct range *lost)
{
  struct index_cursor cursor;
  struct piece piece;

  *any = false;
  index_walk_locked (&cursor, ev->engine->index, range, false);
  while (index_next_piece (&cursor, &piece)) {
    if (piece.is_hole || piece.extent.kind != EXTENT_LOST)
      continue;
    *any = true;
    if (piece.extent.sequence <= ev->segment.sequence_max) {
      *lost = piece.range;
      return true;
    }
  }
  return false;
}

/* Say again that a part of RANGE is lost.  *again: there was one to say it
 * of, and perhaps there are more; *any: some of RANGE is still lost.  Otherwise it
 * is forgotten here, while nobody can lose it anew. */
static int
renew_lost (struct eviction *ev, struct range range, bool *again, bool *any)
{
  struct engine *engine = ev->engine;
  struct record record = { .kind = RECORD_LOST, .clean = true };
  struct reservation res;
  int r;

  index_lock (engine->index, range);
  *again = find_lost_locked (ev, range, any, &record.range);
  if (!*any)
    lost_remove (&engine->lost, range);
  index_unlock (engine->index, range);
  if (!*again)
    return 0;

  r = log_reserve (engine->log, LOG_LOST, 0, 1, &res);
  if (r < 0)
    return r;
  index_lock (engine->index, range);
  if (find_lost_locked (ev, range, any, &record.range))
    r = records_publish_locked (engine, &res, record.range, &record, 1);
  index_unlock (engine->index, range);
  log_release (engine->log, &res);
  return r;
}

/* What says that a range is lost must stay until it is overwritten: say
 * it again, with a sequence number that the tail does not reach, wherever the
 * old record lies (heads take numbers in turns).  Durable when it returns, as
 * the tail is about to be. */
static int
keep_lost (struct eviction *ev)
{
  struct engine *engine = ev->engine;
  struct range range;
  bool was_lost = false;
  size_t i = 0;

  while (lost_get (&engine->lost, i, &range)) {
    bool again, any;

    was_lost = true;
    do {
      int r = renew_lost (ev, range, &again, &any);

      if (r < 0)
        return r;
    } while (again);
    if (any)
      i++;
  }
  /* Also when nothing is lost any more: what overwrote it may be in DRAM
   * only, and without either record a crash would leave an older one (T22). */
  return was_lost ? engine_flush (engine) : 0;
}

static void
evict_record (struct eviction *ev, const struct record *record)
{
  struct engine *engine = ev->engine;
  struct extent extent;
  unsigned hits = 0, removed;

  /* Nothing is mapped to it, and the tail will be at or above all that it makes
   * void. */
  if (record->kind == RECORD_HOLE)
    return;
  record_to_extent (record, &extent);
  index_lock (engine->index, record->range);
  if (record->kind == RECORD_DATA
      && setting_get (&engine->settings, SETTING_eviction) != EVICTION_FIFO)
    hits = find_pieces_locked (ev, &extent, true);
  removed = 0;
  if (hits == 0)
    removed = index_remove_locked (engine->index, record->range, &extent);
  index_unlock (engine->index, record->range);

  if (hits > 0) {
    for (unsigned i = 0; i < hits; i++)
      relocate (ev, &ev->piece[i]);
    index_lock (engine->index, record->range);
    removed = index_remove_locked (engine->index, record->range, &extent);
    index_unlock (engine->index, record->range);
  }
  stats_add (engine->stats, STAT_evicted_records, removed);
}

/* Nothing in the index refers to the segment afterwards. */
static void
empty (struct eviction *ev)
{
  struct engine *engine = ev->engine;
  struct log_walk walk;
  bool damaged = false;

  log_walk_start (&walk, &engine->reader, &ev->segment);
  for (;;) {
    if (log_walk_next (&walk, &ev->set) != SET_OK) {
      if (walk.ordinal == ev->segment.sets)
        break;
      damaged = true;
      if (!log_walk_find_later (&walk, &ev->set))
        break;
    }
    for (uint32_t i = 0; i < ev->set.count; i++)
      evict_record (ev, &ev->set.record[i]);
  }
  if (damaged) {
    stats_add (engine->stats, STAT_media_errors, 1);
    report (REPORT_WARNING, "segment %" PRIu32 ": damaged record sets found "
            "while evicting it; all in it was written back", ev->segment.id);
    index_remove_device_range (engine->index,
                               segment_at (&engine->superblock,
                                           ev->segment.id),
                               engine->superblock.geometry.segment_size);
  }
}

static int
evict (struct engine *engine, struct segment *segment)
{
  CLEANUP_FREE struct eviction *ev = malloc (sizeof *ev);
  const uint64_t before = MUTATION (T22_DEAD_WITHOUT_TAIL)
    ? stats_get (engine->stats, STAT_evicted_records) : 0;
  int r;

  if (ev == NULL)
    return -ENOMEM;
  ev->engine = engine;
  ev->relocated_bytes = 0;
  ev->segment = segment_snapshot (&engine->segments, segment->id);

  r = keep_lost (ev);
  if (r < 0)
    return r;

  /* 1. Out of the index.  Crash: replay brings it all back. */
  holes_note_unmapped (&engine->holes, ev->segment.sequence_max);
  empty (ev);
  if (MUTATION (T4_REUSE_BEFORE_TAIL)) {
    const uint64_t through = ev->segment.sequence_max;

    r = segment_free (&engine->segments, segment);
    segment_release (&engine->segments, segment);
    stats_add (engine->stats, STAT_evicted_segments, 1);
    return r < 0 ? r : control_advance (&engine->superblock, through, 0);
  }

  /* 2. The tail.  Crash before: as before 1.  After: replay ignores these
   * records, and every older copy of the same ranges with them (T5).
   * Always, even if all of them were superseded: what superseded them may still be in
   * DRAM only (T22). */
  if (!MUTATION (T5_NO_TAIL)
      && !(MUTATION (T22_DEAD_WITHOUT_TAIL)
           && stats_get (engine->stats, STAT_evicted_records) == before))
    r = control_advance (&engine->superblock, ev->segment.sequence_max, 0);
  if (r < 0)
    return r;

  /* 3. The header, with the next generation (T4: not before the tail). */
  r = segment_free (&engine->segments, segment);
  if (r < 0)
    return r;

  /* 4. Readers that still copy from it. */
  readers_wait ();
  segment_release (&engine->segments, segment);
  stats_add (engine->stats, STAT_evicted_segments, 1);
  return 0;
}

int
gc_step (struct engine *engine, bool *worked)
{
  struct segment *segment;
  uint32_t tries;
  unsigned sealed;
  int error, r;

  *worked = false;
  /* One segment that cannot be sealed must not keep the others from being
   * evicted. */
  error = log_seal_retired (engine->log, &sealed);
  if (error < 0 && engine_move_refused (engine) > 0)
    error = log_seal_retired (engine->log, &sealed);
  *worked = sealed > 0;
  if (!gc_wanted (engine))
    return error;
  tries = segment_counts (&engine->segments).sealed;
  for (r = error; tries > 0; tries--) {
    segment = segment_find_evictable
      (&engine->segments, control_get (&engine->superblock).written_back);
    if (segment == NULL)
      break;
    r = evict (engine, segment);
    *worked |= r == 0;
    /* No room to say again what is lost: there are segments that need none,
     * and one of these makes it. */
    if (r != -EAGAIN)
      break;
    segment_postpone (&engine->segments, segment);
  }
  return r;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/report.h"
#include "engine/checkpoint.h"
#include "tool/snapshot.h"

/* Of the epoch queue, where dirty records stand, and those that say "lost". */
static int
collect_dirty (struct snapshot *snap)
{
  CLEANUP_FREE struct set_entry *entries = NULL;
  uint64_t count;
  size_t names = 0;
  int r;

  r = epoch_queue_list (&snap->engine.queue, UINT64_MAX, &entries, &count);
  if (r < 0)
    return r;
  for (uint64_t i = 0; i < count; i++)
    names += entries[i].name_count;
  snap->dirty = malloc ((names + 1) * sizeof *snap->dirty);
  if (snap->dirty == NULL)
    return -ENOMEM;
  for (uint64_t i = 0; i < count; i++) {
    memcpy (snap->dirty + snap->dirty_count, entries[i].names,
            entries[i].name_count * sizeof *snap->dirty);
    snap->dirty_count += entries[i].name_count;
  }
  qsort (snap->dirty, snap->dirty_count, sizeof *snap->dirty,
         compare_u64);
  return 0;
}

static int
sort_findings (struct snapshot *snap)
{
  const uint32_t total = snap->engine.superblock.geometry.segment_count;
  const struct replay *replay = &snap->replay;

  snap->findings = calloc (total, sizeof *snap->findings);
  if (snap->findings == NULL)
    return -ENOMEM;
  for (uint32_t i = 0; i < replay->count; i++)
    snap->findings[replay->findings[i].segment->id] = &replay->findings[i];
  return 0;
}

static void
say_why_not (const struct superblock *sb, enum superblock_verdict verdict)
{
  switch (verdict) {
  case SUPERBLOCK_UNFORMATTED:
    report (REPORT_ERROR, "there is no cache on it: it has no superblock");
    break;
  case SUPERBLOCK_HALF_FORMATTED:
    report (REPORT_ERROR, "there is no cache on it: its formatting was "
            "interrupted; nbdkit formats it anew");
    break;
  case SUPERBLOCK_CUT:
    report (REPORT_ERROR, "the cache needs %" PRIu64 " bytes, the device has "
            "only %" PRIu64 ": it was truncated or is another one",
            sb->geometry.device_size, sb->pmem->size);
    break;
  case SUPERBLOCK_OK:
  case SUPERBLOCK_REFUSED:
    break;
  }
}

int
snapshot_read (struct snapshot *snap, struct pmem *pmem,
            enum snapshot_verdict *verdict)
{
  struct engine *engine = &snap->engine;
  enum superblock_verdict found;
  int r;

  memset (snap, 0, sizeof *snap);
  epoch_queue_init (&engine->queue);
  lost_init (&engine->lost);
  engine->pmem = pmem;
  engine->options = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  engine->options.rescue = true;
  *verdict = SNAPSHOT_NO_CACHE;
  found = superblock_look (&engine->superblock, pmem);
  if (found != SUPERBLOCK_OK) {
    say_why_not (&engine->superblock, found);
    return 0;
  }
  engine->reader = (struct log_reader) {
    .pmem = pmem, .superblock = &engine->superblock,
  };
  engine->stats = stats_new ();
  /* One region: then it can be walked in one go. */
  engine->index = index_new (1);
  if (engine->stats == NULL || engine->index == NULL)
    return -ENOMEM;
  r = segment_table_open (&engine->segments, &engine->superblock, pmem,
                          engine->stats);
  if (r < 0)
    return r;
  /* Before that judges the headers. */
  snap->has_checkpoint = checkpoint_is_current (engine);
  r = replay_read (&snap->replay, engine);
  if (r == -EUCLEAN)            /* numbers that make no sense */
    return 0;
  if (r < 0)
    return r;
  *verdict = snap->replay.needs_rescue || engine->superblock.start_is_foreign
    ? SNAPSHOT_RESCUE : SNAPSHOT_OK;
  r = sort_findings (snap);
  return r < 0 ? r : collect_dirty (snap);
}

void
snapshot_close (struct snapshot *snap)
{
  struct engine *engine = &snap->engine;

  replay_free (&snap->replay);
  free (snap->dirty);
  free (snap->findings);
  epoch_queue_destroy (&engine->queue);
  lost_destroy (&engine->lost);
  segment_table_close (&engine->segments);
  index_free (engine->index);
  stats_free (engine->stats);
  superblock_destroy (&engine->superblock);
}

bool
snapshot_is_dirty (const struct snapshot *snap, const struct extent *extent)
{
  const uint64_t name = extent_name (extent);

  return extent->kind != EXTENT_LOST
    && bsearch (&name, snap->dirty, snap->dirty_count, sizeof name,
                compare_u64) != NULL;
}

bool
snapshot_record_is_dirty (const struct snapshot *snap, const struct set *set,
                       const struct record *record)
{
  return !record->clean && set->epoch > snap->replay.written_back;
}

void
snapshot_walk_start (struct index_cursor *cursor, struct snapshot *snap)
{
  const struct range everything = { 0, INT64_MAX };

  index_lock (snap->engine.index, everything);
  index_walk_locked (cursor, snap->engine.index, everything, false);
}

bool
snapshot_walk_next (struct index_cursor *cursor, struct extent *extent)
{
  const struct range everything = { 0, INT64_MAX };
  struct index *index = cursor->index;
  struct piece piece;

  while (index_next_piece (cursor, &piece))
    if (!piece.is_hole) {
      *extent = piece.extent;
      return true;
    }
  index_unlock (index, everything);
  return false;
}

const struct finding *
snapshot_finding (const struct snapshot *snap, uint32_t id)
{
  return snap->findings[id];
}

bool
snapshot_hides_dirty (const struct snapshot *snap, const struct finding *f)
{
  return f->damaged
    && (snap->replay.lost || f->hidden_epoch > snap->replay.written_back);
}

uint32_t
snapshot_segment_of (const struct snapshot *snap, uint64_t at)
{
  const struct geometry *g = &snap->engine.superblock.geometry;

  assert (at >= g->first_segment_at);
  return (at - g->first_segment_at) / g->segment_size;
}

static int
count_sets (struct snapshot *snap, const struct finding *finding,
            struct segment_use *use)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  struct counted_sets sets;
  int r;

  if (set == NULL)
    return -ENOMEM;
  counted_sets_start (&sets, &snap->engine.reader, finding);
  while ((r = counted_sets_next (&sets, set)) > 0) {
    use->set_count++;
    use->records += set->count;
    use->sets += set->end - set->start;
    for (uint32_t i = 0; i < set->count; i++) {
      const struct record *record = &set->record[i];
      const uint64_t bytes = record->kind == RECORD_DATA
        ? DATA_BYTES (record->range.length) : 0;

      if (snapshot_record_is_dirty (snap, set, record)) {
        use->dirty_records++;
        use->dirty += bytes;
      }
      else
        use->dead += bytes;     /* until it is seen in the index */
    }
  }
  return r;
}

struct segment_use *
snapshot_use (struct snapshot *snap)
{
  const uint32_t total = snap->engine.superblock.geometry.segment_count;
  struct segment_use *use = calloc (total, sizeof *use);
  struct index_cursor cursor;
  struct extent extent;

  for (uint32_t i = 0; use && i < snap->replay.count; i++) {
    const struct finding *finding = &snap->replay.findings[i];

    if (count_sets (snap, finding, &use[finding->segment->id]) < 0) {
      free (use);
      use = NULL;
    }
  }
  if (use == NULL)
    return NULL;
  snapshot_walk_start (&cursor, snap);
  while (snapshot_walk_next (&cursor, &extent))
    if (extent.kind == EXTENT_DATA && !snapshot_is_dirty (snap, &extent)) {
      struct segment_use *u =
        &use[snapshot_segment_of (snap, extent.record_at)];
      const uint64_t bytes = MIN (DATA_BYTES (extent.range.length), u->dead);

      u->clean += bytes;
      u->dead -= bytes;
    }
  return use;
}

static int
compare_epochs (const void *a, const void *b)
{
  const struct epoch_use *x = a, *y = b;

  return (x->epoch > y->epoch) - (x->epoch < y->epoch);
}

int
snapshot_epochs (struct snapshot *snap, struct epoch_use **epochs, size_t *count)
{
  CLEANUP_FREE struct set_entry *entries = NULL;
  struct epoch_use *list;
  uint64_t sets;
  size_t n = 0;
  int r;

  r = epoch_queue_list (&snap->engine.queue, UINT64_MAX, &entries, &sets);
  if (r < 0)
    return r;
  list = calloc (sets + 1, sizeof *list);
  if (list == NULL)
    return -ENOMEM;
  for (uint64_t i = 0; i < sets; i++)
    list[i] = (struct epoch_use) {
      entries[i].epoch, entries[i].records, entries[i].dirty_bytes,
    };
  qsort (list, sets, sizeof *list, compare_epochs);
  for (uint64_t i = 0; i < sets; i++) {
    if (n > 0 && list[n - 1].epoch == list[i].epoch) {
      list[n - 1].records += list[i].records;
      list[n - 1].bytes += list[i].bytes;
    }
    else
      list[n++] = list[i];
  }
  *epochs = list;
  *count = n;
  return 0;
}

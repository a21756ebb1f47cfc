/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "tool/image.h"

static int
compare_names (const void *a, const void *b)
{
  const uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

  return (x > y) - (x < y);
}

/* Of the epoch queue, where dirty records stand, and those that say "lost". */
static int
collect_dirty (struct image *image)
{
  CLEANUP_FREE struct set_entry *entries = NULL;
  uint64_t count;
  size_t names = 0;
  int r;

  r = epoch_queue_list (&image->engine.queue, UINT64_MAX, &entries, &count);
  if (r < 0)
    return r;
  for (uint64_t i = 0; i < count; i++)
    names += entries[i].name_count;
  image->dirty = malloc ((names + 1) * sizeof *image->dirty);
  if (image->dirty == NULL)
    return -ENOMEM;
  for (uint64_t i = 0; i < count; i++) {
    memcpy (image->dirty + image->dirty_count, entries[i].names,
            entries[i].name_count * sizeof *image->dirty);
    image->dirty_count += entries[i].name_count;
  }
  qsort (image->dirty, image->dirty_count, sizeof *image->dirty,
         compare_names);
  return 0;
}

static int
sort_findings (struct image *image)
{
  const uint32_t total = image->engine.superblock.geometry.segment_count;
  const struct replay *replay = &image->replay;

  image->findings = calloc (total, sizeof *image->findings);
  if (image->findings == NULL)
    return -ENOMEM;
  for (uint32_t i = 0; i < replay->count; i++)
    image->findings[replay->findings[i].segment->id] = &replay->findings[i];
  return 0;
}

static void
say_why_not (enum superblock_verdict verdict)
{
  switch (verdict) {
  case SUPERBLOCK_UNFORMATTED:
    report (REPORT_ERROR, "there is no cache on it: it has no superblock");
    break;
  case SUPERBLOCK_HALF_FORMATTED:
    report (REPORT_ERROR, "there is no cache on it: its formatting was "
            "interrupted; nbdkit formats it anew");
    break;
  case SUPERBLOCK_OK:
  case SUPERBLOCK_REFUSED:
    break;
  }
}

int
image_read (struct image *image, struct pmem *pmem,
            enum image_verdict *verdict)
{
  struct engine *engine = &image->engine;
  enum superblock_verdict found;
  int r;

  memset (image, 0, sizeof *image);
  epoch_queue_init (&engine->queue);
  lost_init (&engine->lost);
  engine->pmem = pmem;
  engine->options = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  engine->options.rescue = true;
  *verdict = IMAGE_NO_CACHE;
  found = superblock_read (&engine->superblock, pmem);
  if (found != SUPERBLOCK_OK) {
    say_why_not (found);
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
  r = replay_read (&image->replay, engine);
  if (r == -EUCLEAN)            /* numbers that make no sense */
    return 0;
  if (r < 0)
    return r;
  *verdict = image->replay.needs_rescue || engine->superblock.start_is_foreign
    ? IMAGE_RESCUE : IMAGE_OK;
  r = sort_findings (image);
  return r < 0 ? r : collect_dirty (image);
}

void
image_close (struct image *image)
{
  struct engine *engine = &image->engine;

  replay_free (&image->replay);
  free (image->dirty);
  free (image->findings);
  epoch_queue_destroy (&engine->queue);
  lost_destroy (&engine->lost);
  segment_table_close (&engine->segments);
  index_free (engine->index);
  stats_free (engine->stats);
  superblock_destroy (&engine->superblock);
}

bool
image_is_dirty (const struct image *image, const struct extent *extent)
{
  const uint64_t name = extent_name (extent);

  return extent->kind != EXTENT_LOST
    && bsearch (&name, image->dirty, image->dirty_count, sizeof name,
                compare_names) != NULL;
}

bool
image_record_is_dirty (const struct image *image, const struct set *set,
                       const struct record *record)
{
  return !record->clean && set->epoch > image->replay.written_back;
}

void
image_walk_start (struct index_cursor *cursor, struct image *image)
{
  const struct range everything = { 0, INT64_MAX };

  index_lock (image->engine.index, everything);
  index_walk_locked (cursor, image->engine.index, everything, false);
}

bool
image_walk_next (struct index_cursor *cursor, struct extent *extent)
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
image_finding (const struct image *image, uint32_t id)
{
  return image->findings[id];
}

bool
image_hides_dirty (const struct image *image, const struct finding *f)
{
  return f->damaged
    && (image->replay.lost || f->hidden_epoch > image->replay.written_back);
}

uint32_t
image_segment_of (const struct image *image, uint64_t at)
{
  const struct geometry *g = &image->engine.superblock.geometry;

  assert (at >= g->first_segment_at);
  return (at - g->first_segment_at) / g->segment_size;
}

static int
count_sets (struct image *image, const struct finding *finding,
            struct segment_use *use)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  struct counted_sets sets;
  int r;

  if (set == NULL)
    return -ENOMEM;
  counted_sets_start (&sets, &image->engine.reader, finding);
  while ((r = counted_sets_next (&sets, set)) > 0) {
    use->set_count++;
    use->records += set->count;
    use->sets += set->end - set->start;
    for (uint32_t i = 0; i < set->count; i++) {
      const struct record *record = &set->record[i];
      const uint64_t bytes = record->kind == RECORD_DATA
        ? DATA_BYTES (record->range.length) : 0;

      if (image_record_is_dirty (image, set, record)) {
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
image_use (struct image *image)
{
  const uint32_t total = image->engine.superblock.geometry.segment_count;
  struct segment_use *use = calloc (total, sizeof *use);
  struct index_cursor cursor;
  struct extent extent;

  for (uint32_t i = 0; use && i < image->replay.count; i++) {
    const struct finding *finding = &image->replay.findings[i];

    if (count_sets (image, finding, &use[finding->segment->id]) < 0) {
      free (use);
      use = NULL;
    }
  }
  if (use == NULL)
    return NULL;
  image_walk_start (&cursor, image);
  while (image_walk_next (&cursor, &extent))
    if (extent.kind == EXTENT_DATA && !image_is_dirty (image, &extent)) {
      struct segment_use *u =
        &use[image_segment_of (image, extent.record_at)];
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
image_epochs (struct image *image, struct epoch_use **epochs, size_t *count)
{
  CLEANUP_FREE struct set_entry *entries = NULL;
  struct epoch_use *list;
  uint64_t sets;
  size_t n = 0;
  int r;

  r = epoch_queue_list (&image->engine.queue, UINT64_MAX, &entries, &sets);
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

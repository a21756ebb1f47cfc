/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mutation.h"
#include "base/thread.h"
#include "engine/collect.h"
#include "engine/index_load.h"

/* A set to be written back. */
struct dirty_set {
  struct set_entry *entry;
  uint64_t sequence;            /* of its first record */
};

struct collect_worker {
  _Alignas (64) struct dirty_set *dirty;
  size_t count, room;
  uint64_t replayed, dropped;   /* records */
};

struct collector {
  struct engine *engine;
  struct index_load *load;
  uint64_t since_ms;
  unsigned workers;
  struct collect_worker worker[];
};

struct collector *
collector_new (struct engine *engine, unsigned workers)
{
  const size_t size = sizeof (struct collector)
    + workers * sizeof (struct collect_worker);
  struct collector *c = aligned_alloc (64, round_up (size, 64));

  if (c == NULL)
    return NULL;
  memset (c, 0, size);
  c->engine = engine;
  c->workers = workers;
  c->since_ms = coarse_now_ms ();
  c->load = index_load_new (engine->index, workers);
  if (c->load)
    return c;
  free (c);
  return NULL;
}

void
collector_clear (struct collector *c)
{
  index_load_clear (c->load);
  for (unsigned i = 0; i < c->workers; i++) {
    struct collect_worker *w = &c->worker[i];

    while (w->count > 0)
      set_entry_free (w->dirty[--w->count].entry);
    w->replayed = w->dropped = 0;
  }
}

void
collector_free (struct collector *c)
{
  if (c == NULL)
    return;
  collector_clear (c);
  index_load_free (c->load);
  for (unsigned i = 0; i < c->workers; i++)
    free (c->worker[i].dirty);
  free (c);
}

/* --- dirty sets ------------------------------------------------------------ */

static int
add_dirty (struct collect_worker *w, struct set_entry *entry,
           uint64_t sequence)
{
  if (w->count == w->room) {
    const size_t room = w->room ? w->room * 2 : 64;
    struct dirty_set *more = realloc (w->dirty, room * sizeof *more);

    if (more == NULL)
      return -ENOMEM;
    w->dirty = more;
    w->room = room;
  }
  w->dirty[w->count++] = (struct dirty_set) { entry, sequence };
  return 0;
}

int
collect_dirty (struct collector *c, unsigned worker,
               const struct collect_marks *marks,
               const struct segment *segment, const struct set *set)
{
  const struct set_entry head = {
    .epoch = set->epoch,
    .segment = segment->id,
    .end = set->end,
    .ordinal = set->ordinal,
    .since_ms = c->since_ms,
  };
  struct set_entry *entry;
  int r = 0;

  if (set->epoch <= marks->written_back)
    return 0;
  entry = set_entry_new (&head, set->count);
  if (entry == NULL)
    return -ENOMEM;
  for (uint32_t i = 0; i < set->count; i++) {
    const struct record *record = &set->record[i];

    if (!record->clean || record->kind == RECORD_LOST)
      entry->names[entry->name_count++] =
        record_name (record->kind, record->at, record->sequence);
    if (!record->clean) {
      entry->records++;
      entry->dirty_bytes += record->range.length;
      entry->space_bytes += record_space (record);
    }
  }
  if (entry->records > 0)
    r = add_dirty (&c->worker[worker], entry, set->record[0].sequence);
  if (entry->records == 0 || r < 0)
    set_entry_free (entry);
  return r;
}

static int
compare_dirty (const void *a, const void *b)
{
  const struct dirty_set *x = a, *y = b;

  if (x->entry->epoch != y->entry->epoch)
    return x->entry->epoch < y->entry->epoch ? -1 : 1;
  return (x->sequence > y->sequence) - (x->sequence < y->sequence);
}

int
collector_fill_queue (struct collector *c)
{
  struct collect_worker *all = &c->worker[0];

  for (unsigned i = 1; i < c->workers; i++) {
    struct collect_worker *w = &c->worker[i];

    for (; w->count > 0; w->count--) {
      const struct dirty_set *dirty = &w->dirty[w->count - 1];

      if (add_dirty (all, dirty->entry, dirty->sequence) < 0)
        return -ENOMEM;
    }
  }
  /* The queue takes them fast in this order. */
  if (all->count > 0)
    qsort (all->dirty, all->count, sizeof *all->dirty, compare_dirty);
  for (size_t i = 0; i < all->count; i++)
    epoch_queue_add (&c->engine->queue, all->dirty[i].entry);
  all->count = 0;
  return 0;
}

/* --- records ----------------------------------------------------------------- */

static int
collect_record (struct collector *c, unsigned worker,
                const struct collect_marks *marks, const struct set *set,
                const struct record *record)
{
  struct collect_worker *w = &c->worker[worker];
  const bool lost = record->kind == RECORD_LOST;
  const bool clean = record->clean || set->epoch <= marks->written_back
    || MUTATION (T21_DIRTY_BELOW_TAIL);
  bool hole = record->kind == RECORD_HOLE;
  struct extent extent;
  int r;

  /* T5, T21: what was evicted must not come back through an older copy; dirty
   * data is never ignored.  A range that is lost was overwritten if eviction
   * passed its record (gc.c), but not because damage may hide something
   * newer: then it had better stay lost.  What made it a hole counts as long.
   * What is clean, and not used because of damage, does as well: what was
   * lost before is not missed any more, as the backing store has what came
   * after it. */
  if (clean && record->sequence <= marks->evicted_through) {
    w->dropped++;
    return 0;
  }
  if (clean && !lost && !hole && record->sequence <= marks->tail) {
    w->dropped++;
    hole = true;
  }
  else
    w->replayed++;
  if (lost) {
    r = lost_add (&c->engine->lost, record->range);
    if (r < 0)
      return r;
  }
  if (hole)
    return index_load_drop (c->load, worker, record->range, record->sequence);
  record_to_extent (record, &extent);
  return index_load_add (c->load, worker, &extent, record->sequence);
}

int
collect_set (struct collector *c, unsigned worker,
             const struct collect_marks *marks, const struct segment *segment,
             const struct set *set)
{
  int r = collect_dirty (c, worker, marks, segment, set);

  for (uint32_t i = 0; i < set->count && r == 0; i++)
    r = collect_record (c, worker, marks, set, &set->record[i]);
  return r;
}

int
collector_finish (struct collector *c)
{
  int r = index_load_build (c->load);

  if (r == 0)
    r = collector_fill_queue (c);
  if (r < 0)
    return r;
  for (unsigned i = 0; i < c->workers; i++) {
    stats_add (c->engine->stats, STAT_replayed_records, c->worker[i].replayed);
    stats_add (c->engine->stats, STAT_replay_dropped_records,
               c->worker[i].dropped);
  }
  return 0;
}

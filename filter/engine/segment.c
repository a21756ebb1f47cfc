/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/segment.h"

static void
list_init (struct segment_list *list)
{
  list->first = NULL;
  list->last = &list->first;
  list->count = 0;
}

static void
list_append (struct segment_list *list, struct segment *segment)
{
  segment->next = NULL;
  *list->last = segment;
  list->last = &segment->next;
  list->count++;
}

static void
list_remove (struct segment_list *list, struct segment *segment)
{
  struct segment **link = &list->first;

  while (*link != segment)
    link = &(*link)->next;
  *link = segment->next;
  if (list->last == &segment->next)
    list->last = link;
  list->count--;
}

static void
twin_setup (struct segment *segment, struct superblock *sb,
            struct stats *stats)
{
  segment->twin = (struct twin) {
    .spare = SEGMENT_SPARE,
    .what = "segment header",
    .stats = stats,
    .magic = MAGIC_SEGMENT,
    .seed = sb->instance,
    .bytes = sizeof (struct media_segment),
    .verdict = { TWIN_BLANK, TWIN_BLANK },
  };
  /* The stride is the slot, not the struct (T2). */
  for (int copy = 0; copy < 2; copy++)
    segment->twin.at[copy] = sb->geometry.segment_table_at[copy]
      + (uint64_t) segment->id
        * (MUTATION (T2_STRIDE) ? sizeof (struct media_segment) : MEDIA_SLOT);
}

static int
write_header (struct segment *segment, struct pmem *pmem)
{
  struct media_segment media = {
    .id = le32_of (segment->id),
    .state = le32_of (segment->state),
    .generation = le64_of (segment->generation),
    .sets = le32_of (segment->sets),
    .flags = le32_of (segment->unordered ? SEGMENT_UNORDERED : 0),
    .epoch_max = le64_of (segment->epoch_max),
    .sequence_min = le64_of (segment->sequence_min),
    .sequence_max = le64_of (segment->sequence_max),
  };

  return twin_update (&segment->twin, pmem, &media);
}

/* Change the header on media to NEXT, then in memory. */
static int
change (struct segment_table *table, struct segment *segment,
        struct segment *next)
{
  int r;

  r = write_header (next, table->pmem);
  HOLD_LOCK (&table->lock);
  segment->twin = next->twin;   /* which copy is good has changed anyway */
  if (r < 0) {
    stats_add (table->stats, STAT_media_errors, 1);
    return r;
  }
  next->next = segment->next;   /* the list may have moved on */
  *segment = *next;
  return 0;
}

/* Of segments that nobody counts on yet: FIRST and those after it, up to END. */
static int
write_new_headers (struct superblock *sb, uint32_t first, uint32_t end,
                   uint64_t generation)
{
  for (uint32_t id = first; id < end; id++) {
    struct segment segment = {
      .id = id, .state = SEGMENT_FREE, .generation = generation,
    };
    struct media_segment media = {
      .id = le32_of (id),
      .state = le32_of (SEGMENT_FREE),
      .generation = le64_of (generation),
    };
    int r;

    /* Both copies at once and one sync for all: nothing counts before
     * the superblock does. */
    twin_setup (&segment, sb, NULL);
    r = twin_write_new (&segment.twin, sb->pmem, &media);
    if (r < 0)
      return r;
  }
  return MUTATION (GROWN_TOO_EARLY) ? 0 : pmem_sync (sb->pmem);
}

int
segment_table_format (struct superblock *sb)
{
  return write_new_headers (sb, 0, sb->geometry.segment_count, 1);
}

int
segment_table_extend (struct superblock *sb, uint32_t segment_count,
                      uint64_t generation)
{
  assert (segment_count <= sb->geometry.segment_capacity);
  return write_new_headers (sb, sb->geometry.segment_count, segment_count,
                            generation);
}

/* A header with a right checksum may still be hostile (T11). */
static bool
is_sane (const struct segment *segment, const struct superblock *sb)
{
  if (segment->generation == 0 || segment->generation >= UINT64_MAX / 2)
    return false;
  switch (segment->state) {
  case SEGMENT_FREE:
  case SEGMENT_OPEN:
    return true;
  case SEGMENT_SEALED:
    return segment->sets <= sb->geometry.segment_size / SET_BYTES (1)
      && segment->epoch_max < UINT64_MAX / 2
      && segment->sequence_max < UINT64_MAX / 2
      && segment->sequence_min <= segment->sequence_max;
  }
  return false;
}

static void
read_header (struct segment *segment, struct superblock *sb,
             struct pmem *pmem, struct stats *stats)
{
  struct media_segment media;

  twin_setup (segment, sb, stats);
  segment->damaged = true;
  if (!twin_read (&segment->twin, pmem, &media))
    return;
  segment->state = le32_get (media.state);
  segment->generation = le64_get (media.generation);
  segment->sets = le32_get (media.sets);
  segment->unordered = (le32_get (media.flags) & SEGMENT_UNORDERED) != 0;
  segment->epoch_max = le64_get (media.epoch_max);
  segment->sequence_min = le64_get (media.sequence_min);
  segment->sequence_max = le64_get (media.sequence_max);
  segment->damaged = le32_get (media.id) != segment->id
    || !is_sane (segment, sb);
}

int
segment_table_open (struct segment_table *table,
                    struct superblock *superblock, struct pmem *pmem,
                    struct stats *stats)
{
  memset (table, 0, sizeof *table);
  table->pmem = pmem;
  table->superblock = superblock;
  table->stats = stats;
  list_init (&table->free);
  list_init (&table->sealed);
  table->segments = calloc (superblock->geometry.segment_count,
                            sizeof *table->segments);
  if (table->segments == NULL)
    return -ENOMEM;
  pthread_mutex_init (&table->lock, NULL);
  cond_init (&table->released);
  for (uint32_t id = 0; id < superblock->geometry.segment_count; id++) {
    table->segments[id].id = id;
    read_header (&table->segments[id], superblock, pmem, stats);
    if (!table->segments[id].damaged
        && table->segments[id].state == SEGMENT_OPEN)
      table->open++;
  }
  return 0;
}

void
segment_table_close (struct segment_table *table)
{
  if (table->segments == NULL)
    return;
  free (table->segments);
  table->segments = NULL;
  pthread_cond_destroy (&table->released);
  pthread_mutex_destroy (&table->lock);
}

void
segment_adopt (struct segment_table *table, struct segment *segment)
{
  HOLD_LOCK (&table->lock);

  assert (!segment->damaged);
  if (segment->state == SEGMENT_FREE)
    list_append (&table->free, segment);
  else {
    assert (segment->state == SEGMENT_SEALED);
    list_append (&table->sealed, segment);
  }
}

static struct segment *
take_free (struct segment_table *table, uint32_t keep)
{
  HOLD_LOCK (&table->lock);
  struct segment *segment = table->free.first;

  if (table->free.count <= keep)
    return NULL;
  list_remove (&table->free, segment);
  return segment;
}

int
segment_acquire (struct segment_table *table, uint32_t keep,
                 struct segment **result)
{
  uint32_t tries = segment_counts (table).free;
  int error = -EAGAIN;

  for (; tries > 0; tries--) {
    struct segment *segment = take_free (table, keep), next;
    int r;

    if (segment == NULL)
      break;
    next = *segment;
    next.state = SEGMENT_OPEN;
    next.unordered = !table->pmem->ordered;
    next.sets = 0;
    next.epoch_max = next.sequence_min = next.sequence_max = 0;
    /* Crash before: free.  After: open and without sets, which recovery
     * frees again.  Only from here on may sets be written to it, so no
     * set is ever in a segment that its header calls free. */
    if (MUTATION (HEADER_AFTER_SETS)) {
      *segment = next;
      r = 0;
    }
    else
      r = change (table, segment, &next);
    if (r == 0) {
      HOLD_LOCK (&table->lock);
      table->open++;
      stats_add (table->stats, STAT_segments_opened, 1);
      *result = segment;
      return 0;
    }
    report (REPORT_ERROR, "segment %" PRIu32 ": its header cannot be written "
            "(%s); trying another", segment->id, strerror (-r));
    error = -EIO;
    HOLD_LOCK (&table->lock);
    list_append (&table->free, segment);
  }
  return error;
}

int
segment_seal (struct segment_table *table, struct segment *segment,
              uint32_t sets, uint64_t epoch_max, uint64_t sequence_min,
              uint64_t sequence_max)
{
  struct segment next = *segment;
  const bool was_open = segment->state == SEGMENT_OPEN;
  int r;

  next.state = SEGMENT_SEALED;
  next.sets = sets;
  next.epoch_max = epoch_max;
  next.sequence_min = sequence_min;
  next.sequence_max = sequence_max;
  /* Crash before: open, replay looks for the end itself.  After: every
   * set up to this number must be whole. */
  r = change (table, segment, &next);
  if (r < 0)
    return r;
  HOLD_LOCK (&table->lock);
  if (was_open)
    table->open--;
  list_append (&table->sealed, segment);
  return 0;
}

void
segment_keep (struct segment_table *table, struct segment *segment,
              uint32_t sets, uint64_t epoch_max, uint64_t sequence_min,
              uint64_t sequence_max)
{
  HOLD_LOCK (&table->lock);

  assert (segment->state == SEGMENT_OPEN);
  segment->state = SEGMENT_SEALED;
  segment->sets = sets;
  segment->epoch_max = epoch_max;
  segment->sequence_min = sequence_min;
  segment->sequence_max = sequence_max;
  table->open--;
  list_append (&table->sealed, segment);
}

void
segment_repair (struct segment_table *table, struct segment *segment)
{
  struct segment same = *segment;

  if (!twin_is_whole (&segment->twin) && !MUTATION (T1_NEWEST_FIRST))
    change (table, segment, &same);
}

int
segment_rebuild (struct segment_table *table, struct segment *segment,
                 uint64_t generation)
{
  struct segment next = {
    .id = segment->id, .state = SEGMENT_FREE, .generation = generation,
    .twin = segment->twin,
  };

  assert (segment->damaged);
  /* One copy may be valid, but left behind: the new ones are newer. */
  for (int place = 0; place < TWIN_PLACES; place++)
    next.twin.last_tried = MAX (next.twin.last_tried,
                                segment->twin.place_sequence[place]);
  /* Crash while the first copy is written: damaged as before.  After: free. */
  return change (table, segment, &next);
}

struct segment *
segment_find_evictable (struct segment_table *table, uint64_t written_back)
{
  HOLD_LOCK (&table->lock);
  struct segment *segment;

  for (segment = table->sealed.first; segment; segment = segment->next)
    if (segment->epoch_max <= written_back)
      return segment;
  return NULL;
}

void
segment_postpone (struct segment_table *table, struct segment *segment)
{
  HOLD_LOCK (&table->lock);

  list_remove (&table->sealed, segment);
  list_append (&table->sealed, segment);
}

int
segment_free (struct segment_table *table, struct segment *segment)
{
  struct segment next = *segment;
  const enum segment_state was = segment->state;
  int r;

  next.state = SEGMENT_FREE;
  if (!MUTATION (OLD_GENERATION))
    next.generation++;
  next.sets = 0;
  next.epoch_max = next.sequence_min = next.sequence_max = 0;
  /* Crash before: its sets are still valid; those that matter no more
   * lie at or below the tail, which is durable already.  After: none of its
   * sets is valid. */
  r = change (table, segment, &next);
  HOLD_LOCK (&table->lock);
  if (was == SEGMENT_OPEN) {
    if (r == 0)
      table->open--;
    return r;
  }
  list_remove (&table->sealed, segment);
  if (r < 0)
    list_append (&table->sealed, segment);
  return r;
}

void
segment_release (struct segment_table *table, struct segment *segment)
{
  HOLD_LOCK (&table->lock);

  assert (segment->state == SEGMENT_FREE);
  list_append (&table->free, segment);
  table->wakeups++;
  pthread_cond_broadcast (&table->released);
}

struct segment
segment_snapshot (struct segment_table *table, uint32_t id)
{
  HOLD_LOCK (&table->lock);

  return table->segments[id];
}

bool
segment_oldest_sealed (struct segment_table *table, uint32_t *id)
{
  HOLD_LOCK (&table->lock);

  if (table->sealed.first == NULL)
    return false;
  *id = table->sealed.first->id;
  return true;
}

struct segment_counts
segment_counts (struct segment_table *table)
{
  HOLD_LOCK (&table->lock);

  return (struct segment_counts) {
    .free = table->free.count,
    .open = table->open,
    .sealed = table->sealed.count,
  };
}

uint64_t
segment_ticket (struct segment_table *table)
{
  HOLD_LOCK (&table->lock);

  return table->wakeups;
}

void
segment_wait (struct segment_table *table, uint64_t ticket,
              uint64_t until_ms)
{
  HOLD_LOCK (&table->lock);

  while (table->wakeups == ticket)
    if (!cond_wait_until (&table->released, &table->lock, until_ms))
      return;
}

void
segment_wake_all (struct segment_table *table)
{
  HOLD_LOCK (&table->lock);

  table->wakeups++;
  pthread_cond_broadcast (&table->released);
}

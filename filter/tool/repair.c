/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tool/evacuate.h"
#include "tool/snapshot.h"
#include "tool/repair.h"

__attribute__ ((format (printf, 2, 3)))
static void
say (struct repair *repair, const char *format, ...)
{
  char line[512];
  va_list args;

  if (repair->say == NULL)
    return;
  va_start (args, format);
  vsnprintf (line, sizeof line, format, args);
  va_end (args);
  repair->say (line);
}

/* --- twins ------------------------------------------------------------ */

/* The headers only, of those that have a valid copy. */
static void
repair_headers (struct repair *repair, struct snapshot *snap)
{
  struct segment_table *table = &snap->engine.segments;
  const uint32_t total = snap->engine.superblock.geometry.segment_count;
  uint32_t written = 0, refused = 0;

  for (uint32_t id = 0; id < total; id++) {
    struct segment *segment = &table->segments[id];

    if (segment->damaged || twin_is_whole (&segment->twin))
      continue;
    segment_repair (table, segment);
    if (twin_is_whole (&segment->twin))
      written++;
    else
      refused++;
  }
  if (written > 0) {
    say (repair, "headers of %" PRIu32 " segments: both copies written again "
         "from the one that is valid", written);
    repair->steps++;
  }
  if (refused > 0) {
    say (repair, "headers of %" PRIu32 " segments: left with one copy, the "
         "other takes no stores", refused);
    repair->left_harmless++;
  }
}

static void
repair_twins (struct repair *repair, struct snapshot *snap)
{
  struct superblock *sb = &snap->engine.superblock;
  const bool whole = twin_is_whole (&sb->twin);
  const bool control_whole = twin_is_whole (&sb->control_twin);

  if (!whole || !control_whole) {
    (void) superblock_repair (sb);
    if (twin_is_whole (&sb->twin) && twin_is_whole (&sb->control_twin)) {
      say (repair, "%s: both copies written again from the one that is valid",
           whole ? "control block" : control_whole ? "superblock"
           : "superblock and control block");
      repair->steps++;
    }
    else {
      say (repair, "superblock or control block: left with one copy, the other "
           "takes no stores");
      repair->left_harmless++;
    }
  }
  repair_headers (repair, snap);
}

/* --- segments --------------------------------------------------------- */

/* Damage that hides nothing but what was written back. */
static int
repair_harmless (struct repair *repair, struct snapshot *snap,
                 const struct finding *f)
{
  struct engine *engine = &snap->engine;
  struct segment *segment = f->segment;
  int r;

  if (f->epoch_max > snap->replay.written_back) {
    say (repair, "segment %" PRIu32 ": left as it is: there is dirty data in it "
         "besides, and nbdkit gets along with the damage until that is written "
         "back", segment->id);
    repair->left_harmless++;
    return 0;
  }
  /* As in eviction.  Crash after it: clean data as old is dropped, as it is at
   * each start. */
  r = control_advance (&engine->superblock,
                       MAX (f->sequence_max, f->hidden_sequence), 0);
  if (r < 0)
    return r;
  if (segment->state == SEGMENT_SEALED)
    segment_adopt (&engine->segments, segment);
  r = segment_free (&engine->segments, segment);
  if (r < 0)
    return r;
  segment_release (&engine->segments, segment);
  say (repair, "segment %" PRIu32 ": freed; clean data up to sequence number %"
       PRIu64 " is dropped, the backing store has it", segment->id,
       MAX (f->sequence_max, f->hidden_sequence));
  repair->steps++;
  return 0;
}

static int
repair_dropping (struct repair *repair, struct snapshot *snap,
                 const struct finding *f)
{
  const uint32_t id = f->segment->id;
  uint64_t moved;
  int r;

  if (!repair->drop) {
    say (repair, "segment %" PRIu32 ": left as it is: its damaged record sets may "
         "hold dirty data; --drop-damaged gives that up and keeps what can be "
         "read", id);
    repair->left++;
    return 0;
  }
  r = evacuate (snap, f, &moved);
  if (r == -ENOSPC) {
    say (repair, "segment %" PRIu32 ": left as it is: there is no free segment "
         "for what can be read of it", id);
    repair->left++;
    return 0;
  }
  if (r < 0)
    return r;
  segment_release (&snap->engine.segments, f->segment);
  if (f->hidden_epoch < UINT64_MAX)
    say (repair, "segment %" PRIu32 ": DROPPED what cannot be read, of epochs %"
         PRIu64 " to %" PRIu64 " as far as it was dirty; %" PRIu64 " records "
         "kept", id, snap->replay.written_back + 1, f->hidden_epoch, moved);
  else
    say (repair, "segment %" PRIu32 ": DROPPED what cannot be read, of epochs "
         "from %" PRIu64 " on as far as it was dirty; %" PRIu64 " records kept",
         id, snap->replay.written_back + 1, moved);
  repair->steps++;
  repair->drops++;
  return 0;
}

/* What the sets of a segment say that has no header. */
struct remains {
  uint64_t generation;          /* the highest of those that are whole */
  uint64_t torn_generation;     /* and of the others */
  bool dirty;                   /* there is, or may be, dirty data */
};

static bool
has_dirty (const struct snapshot *snap, const struct set *set)
{
  for (uint32_t i = 0; i < set->count; i++)
    if (snapshot_record_is_dirty (snap, set, &set->record[i]))
      return true;
  return false;
}

/* Any whole set of any generation at any place. */
static void
scan_remains (struct snapshot *snap, const struct segment *segment,
              struct set *set, struct remains *remains)
{
  const struct superblock *sb = &snap->engine.superblock;
  const uint64_t base = segment_at (sb, segment->id);

  for (uint32_t end = sb->geometry.segment_size; end >= MEDIA_LINE;
       end -= MEDIA_LINE) {
    struct segment guess = { .id = segment->id, .state = SEGMENT_OPEN };
    struct media_set header;

    if (pmem_read (snap->engine.pmem, &header, base + end - sizeof header,
                   sizeof header) < 0) {
      remains->dirty = true;    /* who knows */
      continue;
    }
    if (le64_get (header.magic) != MAGIC_SET)
      continue;
    guess.generation = le64_get (header.generation);
    if (guess.generation == 0 || guess.generation >= UINT64_MAX / 4)
      continue;                 /* data that looks like it */
    switch (log_read_set (&snap->engine.reader, &guess, end,
                          le32_get (header.ordinal), set)) {
    case SET_OK:
      remains->generation = MAX (remains->generation, guess.generation);
      remains->dirty |= has_dirty (snap, set);
      break;
    case SET_END:               /* of another segment, or data */
      break;
    case SET_TORN:
    case SET_CORRUPT:
    case SET_UNREADABLE:
      remains->torn_generation = MAX (remains->torn_generation,
                                      guess.generation);
      break;
    }
  }
}

/* The log that ends at the segment's end, judged as that of an open segment
 * is: what comes after its last set was never promised. */
static void
walk_remains (struct snapshot *snap, const struct segment *segment,
              struct set *set, struct remains *remains)
{
  struct segment guess = {
    .id = segment->id, .state = SEGMENT_OPEN,
    .generation = remains->generation,
  };
  enum set_verdict verdict;
  struct log_walk walk;

  log_walk_start (&walk, &snap->engine.reader, &guess);
  while ((verdict = log_walk_next (&walk, set)) == SET_OK)
    ;
  /* Torn sets of an earlier life are left wherever data has reached them. */
  if (verdict != SET_END || log_walk_find_later (&walk, set)
      || remains->torn_generation > remains->generation)
    remains->dirty = true;
}

static int
look_for_remains (struct snapshot *snap, const struct segment *segment,
                  struct remains *remains)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);

  if (set == NULL)
    return -ENOMEM;
  *remains = (struct remains) { .dirty = snap->replay.lost };
  scan_remains (snap, segment, set, remains);
  walk_remains (snap, segment, set, remains);
  return 0;
}

static int
repair_header (struct repair *repair, struct snapshot *snap,
               struct segment *segment)
{
  struct engine *engine = &snap->engine;
  struct remains remains;
  int r = look_for_remains (snap, segment, &remains);

  if (r < 0)
    return r;
  if (remains.dirty && !repair->drop) {
    say (repair, "segment %" PRIu32 ": left as it is: both copies of its header "
         "are damaged, and it may hold dirty data; --drop-damaged gives that "
         "up", segment->id);
    repair->left++;
    return 0;
  }
  /* What it held may be newer than any clean record.  Crash after it: clean data
   * is gone from the cache.  Where something is lost the records that say so must
   * stay. */
  if (!snap->replay.lost)
    r = control_advance (&engine->superblock, snap->replay.sequence, 0);
  if (r == 0)
    r = segment_rebuild (&engine->segments, segment,
                         MAX (remains.generation, remains.torn_generation)
                         + 1);
  if (r < 0)
    return r;
  segment_adopt (&engine->segments, segment);
  if (remains.dirty) {
    say (repair, "segment %" PRIu32 ": DROPPED all that it held, and freed",
         segment->id);
    repair->drops++;
  }
  else
    say (repair, "segment %" PRIu32 ": freed, all that its record sets say is "
         "written back; clean data is dropped, the backing store has it",
         segment->id);
  repair->steps++;
  return 0;
}

/* --- all -------------------------------------------------------------- */

static int
repair_segments (struct repair *repair, struct snapshot *snap)
{
  struct segment_table *table = &snap->engine.segments;
  const uint32_t total = snap->engine.superblock.geometry.segment_count;
  int r = 0;

  /* Those that recovery would hand out. */
  for (uint32_t id = 0; id < snap->engine.superblock.usable_segments; id++)
    if (!table->segments[id].damaged
        && table->segments[id].state == SEGMENT_FREE)
      segment_adopt (table, &table->segments[id]);
  for (uint32_t i = 0; i < snap->replay.count && r == 0; i++) {
    const struct finding *f = &snap->replay.findings[i];

    if (!f->damaged)
      continue;
    r = snapshot_hides_dirty (snap, f) ? repair_dropping (repair, snap, f)
      : repair_harmless (repair, snap, f);
  }
  for (uint32_t id = 0; id < total && r == 0; id++)
    if (table->segments[id].damaged)
      r = repair_header (repair, snap, &table->segments[id]);
  return r;
}

int
repair_run (struct repair *repair, struct pmem *pmem)
{
  enum snapshot_verdict verdict;
  struct snapshot snap;
  int r = snapshot_read (&snap, pmem, &verdict);

  if (r == 0 && verdict == SNAPSHOT_NO_CACHE) {
    say (repair, "there is no cache that could be repaired");
    repair->left++;
  }
  else if (r == 0 && snap.engine.superblock.read_only) {
    say (repair, "left as it is: a newer pcache made this cache, and only that "
         "may change it");
    repair->left++;
  }
  else if (r == 0 && snap.engine.superblock.start_is_foreign) {
    say (repair, "left as it is: something that is not pcache begins where the "
         "cache did; nbdkit uses it only with pcache-damaged=rescue");
    repair->left++;
  }
  else if (r == 0) {
    /* What a killed process stored may be in a CPU's cache only. */
    r = pmem_make_durable (pmem, 0,
                           snap.engine.superblock.geometry.device_size);
    if (r == -EIO && pmem->ordered)
      r = 0;                    /* a bad page keeps nobody from the others */
    if (r == 0) {
      repair_twins (repair, &snap);
      r = repair_segments (repair, &snap);
    }
  }
  snapshot_close (&snap);
  return r;
}

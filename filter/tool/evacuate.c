/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "tool/evacuate.h"

/* Where the next data and the next set go, and what the header will say.
 *
 * Data goes first, all of it, then the sets, each durable before the next: in a
 * crash the segment is open, and each set that counts in it says the same as the
 * one it is a copy of. */
struct destination {
  struct engine *engine;
  struct segment *segment;
  bool only_data;               /* the first of the two passes */
  uint32_t data_end, sets_start;        /* offsets in the segment */
  uint32_t sets;
  uint64_t epoch_max, sequence_min, sequence_max, records;
};

static int
make_durable (struct pmem *pmem)
{
  int r = pmem_fence (pmem);

  return r < 0 ? r : pmem_sync (pmem);
}

/* The bytes as they are: a wrong checksum stays one. */
static int
copy_data (struct destination *to, const struct record *record, uint64_t at)
{
  struct pmem *pmem = to->engine->pmem;
  CLEANUP_FREE uint8_t *buf = calloc (1, record->range.length);
  int r;

  if (buf == NULL)
    return -ENOMEM;
  r = pmem_read (pmem, buf, record->at, record->range.length);
  if (r < 0) {
    /* It must not pass for the data there. */
    if (!record->has_checksum)
      return r;
    memset (buf, 0, record->range.length);
    buf[0] = XXH3_64bits (buf, record->range.length) == record->checksum;
  }
  return pmem_copy (pmem, at, buf, record->range.length);
}

/* Where its data goes. */
static int
place_data (struct destination *to, const struct record *record,
            uint32_t *place)
{
  const uint64_t bytes = DATA_BYTES (record->range.length);

  if (bytes > to->sets_start - to->data_end)
    return -ENOSPC;
  *place = to->data_end;
  to->data_end += bytes;
  return to->only_data
    ? copy_data (to, record, segment_at (&to->engine->superblock,
                                         to->segment->id) + *place) : 0;
}

static int
encode_record (struct destination *to, const struct record *record,
               struct media_record *media)
{
  uint32_t place = 0;
  int r = record->kind == RECORD_DATA ? place_data (to, record, &place) : 0;

  *media = (struct media_record) {
    .logical = le64_of (record->range.start),
    .length = le64_of (record->range.length),
    .sequence = le64_of (record->sequence),
    .checksum = le64_of (record->checksum),
    .place = le32_of (place),
    .kind = record->kind,
    .flags = (record->clean ? RECORD_CLEAN : 0)
      | (record->has_checksum ? RECORD_CHECKSUM : 0),
  };
  return r;
}

static int
move_set (struct destination *to, const struct set *set)
{
  struct superblock *sb = &to->engine->superblock;
  const uint32_t bytes = SET_BYTES (set->count);
  _Alignas (64) uint8_t buf[SET_MAX_BYTES] = { 0 };
  struct media_set header = {
    .magic = le64_of (MAGIC_SET),
    .generation = le64_of (to->segment->generation),
    .segment = le32_of (to->segment->id),
    .offset = le32_of (to->sets_start - sizeof header),
    .ordinal = le32_of (to->sets),
    .records = le32_of (set->count),
    .epoch = le64_of (set->epoch),
    .durable_through = le64_of (set->durable_through),
    .durable_sets = le32_of (to->sets),
  };
  int r;

  for (uint32_t i = 0; i < set->count; i++) {
    struct media_record media;

    r = encode_record (to, &set->record[i], &media);
    if (r < 0)
      return r;
    memcpy (buf + i * sizeof media, &media, sizeof media);
    if (!set->record[i].clean)
      to->epoch_max = MAX (to->epoch_max, set->epoch);
  }
  if (bytes > to->sets_start - to->data_end)
    return -ENOSPC;
  memcpy (buf + bytes - sizeof header, &header, sizeof header);
  header.checksum = le64_of (XXH3_64bits_withSeed (buf, bytes, sb->instance));
  memcpy (buf + bytes - sizeof header, &header, sizeof header);
  to->sets_start -= bytes;
  if (to->sets++ == 0)
    to->sequence_min = set->record[0].sequence;
  to->sequence_max = set->record[set->count - 1].sequence;
  to->records += set->count;
  if (to->only_data)
    return 0;
  r = pmem_copy (to->engine->pmem,
                 segment_at (sb, to->segment->id) + to->sets_start, buf,
                 bytes);
  return r < 0 ? r : make_durable (to->engine->pmem);
}

static int
move_sets (struct destination *to, const struct finding *finding)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  struct counted_sets sets;
  int r;

  if (set == NULL)
    return -ENOMEM;
  counted_sets_start (&sets, &to->engine->reader, finding);
  while ((r = counted_sets_next (&sets, set)) > 0)
    if ((r = move_set (to, set)) < 0)
      break;
  return r;
}

static int
fill_segment (struct engine *engine, const struct finding *finding,
              struct segment *segment, uint64_t *moved)
{
  struct destination to = {
    .engine = engine, .segment = segment, .only_data = true,
    .sets_start = engine->superblock.geometry.segment_size,
  };
  const struct destination start = to;
  int r = move_sets (&to, finding);

  if (r == 0)
    r = make_durable (engine->pmem);
  if (r == 0) {
    to = start;
    to.only_data = false;
    r = move_sets (&to, finding);
  }
  /* Crash until now: the cache is refused because of the damaged segment as
   * before. */
  if (r == 0)
    r = segment_seal (&engine->segments, segment, to.sets, to.epoch_max,
                      to.sequence_min, to.sequence_max);
  *moved = to.records;
  return r;
}

int
evacuate (struct snapshot *snap, const struct finding *finding,
          uint64_t *moved)
{
  struct engine *engine = &snap->engine;
  struct segment_table *table = &engine->segments;
  struct segment *segment = finding->segment, *free_one;
  int r;

  *moved = 0;
  if (finding->sequence_min != 0) {
    r = segment_acquire (table, 0, &free_one);
    if (r == -EAGAIN)
      r = -ENOSPC;
    if (r == 0 && (r = fill_segment (engine, finding, free_one, moved)) < 0)
      (void) segment_free (table, free_one);
    if (r < 0)
      return r;
  }
  /* Crash before: refused as before, the records are there twice, and are the
   * same.  After: the damaged segment holds nothing. */
  if (segment->state == SEGMENT_SEALED)
    segment_adopt (table, segment);
  return segment_free (table, segment);
}

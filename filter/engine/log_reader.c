/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <string.h>
#include <xxhash.h>

#include "base/mutation.h"
#include "engine/log_reader.h"

const char *
set_verdict_name (enum set_verdict verdict)
{
  switch (verdict) {
  case SET_OK: return "valid";
  case SET_END: return "missing";
  case SET_TORN: return "checksum wrong";
  case SET_CORRUPT: return "content makes no sense";
  case SET_UNREADABLE: return "media error";
  }
  return "?";
}

/* The disk's end, for checking ranges.  Until a cache is bound to its backing
 * store there are no records. */
static uint64_t
disk_size (const struct superblock *sb)
{
  return sb->bound ? sb->backing_size : 0;
}

/* As data has to be. */
static bool
is_short (struct range range)
{
  return range.length <= RECORD_MAX_DATA
    && range.start / INDEX_CHUNK == (range_end (range) - 1) / INDEX_CHUNK;
}

/* T11: nothing from media is used as an index, length or offset before it
 * went through here. */
static bool
decode_record (const struct log_reader *reader, const struct segment *segment,
               uint32_t set_start, const struct media_record *m,
               struct record *record)
{
  const uint32_t place = le32_get (m->place);

  record->range.start = le64_get (m->logical);
  record->range.length = le64_get (m->length);
  record->sequence = le64_get (m->sequence);
  record->checksum = le64_get (m->checksum);
  record->kind = m->kind;
  record->clean = (m->flags & RECORD_CLEAN) != 0;
  record->has_checksum = (m->flags & RECORD_CHECKSUM) != 0;
  record->at = segment_at (reader->superblock, segment->id) + place;

  if ((m->flags & ~(RECORD_CLEAN | RECORD_CHECKSUM)) != 0
      || record->sequence == 0 || record->sequence >= UINT64_MAX / 2
      || !range_is_valid (record->range, disk_size (reader->superblock)))
    return false;
  switch (record->kind) {
  case RECORD_DATA:
    return is_short (record->range)
      && place % MEDIA_LINE == 0
      && (MUTATION (T11_NO_BOUNDS)
          || (place <= set_start
              && DATA_BYTES (record->range.length) <= set_start - place));
  case RECORD_ZERO:
  case RECORD_TRIM:
    return record->range.length <= UINT32_MAX;
  case RECORD_LOST:             /* stands for data */
    return is_short (record->range);
  case RECORD_HOLE:             /* never hides what is dirty */
    return record->clean && record->range.length <= UINT32_MAX;
  }
  return false;
}

enum set_verdict
log_read_set (const struct log_reader *reader, const struct segment *segment,
              uint32_t end, uint32_t ordinal, struct set *set)
{
  const struct superblock *sb = reader->superblock;
  const uint64_t base = segment_at (sb, segment->id);
  _Alignas (64) uint8_t buf[SET_MAX_BYTES];
  struct media_set header;
  uint64_t sequence = 0;
  uint32_t bytes;

  if (end < sizeof header || end > sb->geometry.segment_size
      || end % MEDIA_LINE != 0)
    return SET_END;
  if (pmem_read (reader->pmem, &header, base + end - sizeof header,
                 sizeof header) < 0)
    return SET_UNREADABLE;
  if (le64_get (header.magic) != MAGIC_SET
      || (le64_get (header.generation) != segment->generation
          && !MUTATION (T3_STALE_SETS))
      || le32_get (header.segment) != segment->id
      || le32_get (header.offset) != end - sizeof header
      || le32_get (header.ordinal) != ordinal)
    return SET_END;

  set->count = le32_get (header.records);
  if (set->count == 0 || set->count > SET_MAX_RECORDS)
    return SET_TORN;
  bytes = SET_BYTES (set->count);
  if (bytes > end)
    return SET_TORN;
  if (pmem_read (reader->pmem, buf, base + end - bytes, bytes) < 0)
    return SET_UNREADABLE;
  memcpy (&header, buf + bytes - sizeof header, sizeof header);
  memset (buf + bytes - sizeof header + offsetof (struct media_set, checksum),
          0, sizeof header.checksum);
  if (le64_get (header.checksum)
      != XXH3_64bits_withSeed (buf, bytes, sb->instance))
    return SET_TORN;

  set->epoch = le64_get (header.epoch);
  set->durable_through = le64_get (header.durable_through);
  set->durable_sets = le32_get (header.durable_sets);
  set->ordinal = ordinal;
  set->start = end - bytes;
  set->end = end;
  if (set->epoch == 0 || set->epoch >= UINT64_MAX / 2
      || set->durable_through >= set->epoch
      || set->durable_sets > ordinal)
    return SET_CORRUPT;
  for (uint32_t i = 0; i < set->count; i++) {
    struct media_record media;

    memcpy (&media, buf + i * sizeof media, sizeof media);
    if (!decode_record (reader, segment, set->start, &media, &set->record[i])
        || set->record[i].sequence <= sequence)
      return SET_CORRUPT;
    sequence = set->record[i].sequence;
  }
  return SET_OK;
}

void
log_walk_start (struct log_walk *walk, const struct log_reader *reader,
                const struct segment *segment)
{
  *walk = (struct log_walk) {
    .reader = reader,
    .segment = segment,
    .end = reader->superblock->geometry.segment_size,
  };
}

/* Take SET as the one walked last, unless it contradicts what came before
 * it. */
static enum set_verdict
walk_on (struct log_walk *walk, const struct set *set)
{
  if (set->epoch < walk->epoch || set->record[0].sequence <= walk->sequence)
    return SET_CORRUPT;
  walk->epoch = set->epoch;
  walk->sequence = set->record[set->count - 1].sequence;
  walk->ordinal = set->ordinal + 1;
  walk->end = set->start;
  return SET_OK;
}

/* While the caller looks at SET, the CPU fetches the next one, which most often has
 * the same size. */
static void
prefetch_below (const struct log_walk *walk, const struct set *set)
{
  const uint32_t bytes = MIN (set->end - set->start, set->start);

  pmem_prefetch (walk->reader->pmem,
                 segment_at (walk->reader->superblock, walk->segment->id)
                 + set->start - bytes, bytes);
}

enum set_verdict
log_walk_next (struct log_walk *walk, struct set *set)
{
  enum set_verdict verdict;

  if (walk->segment->state == SEGMENT_SEALED
      && walk->ordinal == walk->segment->sets)
    return SET_END;
  verdict = log_read_set (walk->reader, walk->segment, walk->end,
                          walk->ordinal, set);
  if (verdict != SET_OK)
    return verdict;
  prefetch_below (walk, set);
  return walk_on (walk, set);
}

/* Could a set of this generation and a later ordinal end at END? */
static bool
looks_later (const struct log_walk *walk, const struct media_set *header,
             uint32_t end)
{
  return le64_get (header->magic) == MAGIC_SET
    && le64_get (header->generation) == walk->segment->generation
    && le32_get (header->offset) == end - sizeof *header
    && le32_get (header->ordinal) > walk->ordinal
    /* What an earlier recovery left out when it sealed stays out. */
    && (walk->segment->state != SEGMENT_SEALED
        || le32_get (header->ordinal) < walk->segment->sets);
}

bool
log_walk_find_later (struct log_walk *walk, struct set *set)
{
  const struct segment *segment = walk->segment;
  const uint64_t base = segment_at (walk->reader->superblock, segment->id);
  const le64 magic = le64_of (MAGIC_SET);
  _Alignas (64) uint8_t block[16384];
  uint32_t block_start = UINT32_MAX;    /* none read yet */

  if ((segment->state == SEGMENT_SEALED && walk->ordinal >= segment->sets)
      || walk->end <= walk->barren)
    return false;
  /* Sets lie on 64-byte lines and the smallest takes two. */
  for (uint32_t end = walk->end; end >= SET_BYTES (1); end -= MEDIA_LINE) {
    const uint32_t at = end - MEDIA_LINE;
    struct media_set header;

    if (at / sizeof block != block_start / sizeof block
        || block_start == UINT32_MAX) {
      block_start = at / sizeof block * sizeof block;
      /* A bad page in it hides its neighbours no longer than the one by one
       * reading below. */
      if (pmem_read (walk->reader->pmem, block, base + block_start,
                     sizeof block) < 0)
        block_start = UINT32_MAX;
    }
    if (block_start != UINT32_MAX) {
      const uint8_t *line = block + (at - block_start);

      /* Nearly all lines are none. */
      while (line > block && memcmp (line, &magic, sizeof magic) != 0)
        line -= MEDIA_LINE;
      end = block_start + (line - block) + MEDIA_LINE;
      if (memcmp (line, &magic, sizeof magic) != 0)
        continue;
      memcpy (&header, line, sizeof header);
    }
    else if (pmem_read (walk->reader->pmem, &header, base + at,
                        sizeof header) < 0)
      continue;
    if (looks_later (walk, &header, end)
        && log_read_set (walk->reader, segment, end,
                         le32_get (header.ordinal), set) == SET_OK
        && walk_on (walk, set) == SET_OK)
      return true;
  }
  walk->barren = walk->end;
  return false;
}

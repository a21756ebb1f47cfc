/* SPDX-License-Identifier: BSD-3-Clause */

/* log_reader: the border over which record sets come back from media.
 *
 * Recovery, write-back, eviction and the offline tools all read the log
 * through this.  A set is either handed out with every number in it
 * checked, or not at all: kinds and flags are known, ranges lie on the
 * disk, data lies in its segment below the set, sequence numbers grow. */

#ifndef PCACHE_LOG_READER_H
#define PCACHE_LOG_READER_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arith.h"
#include "engine/format.h"
#include "engine/index.h"
#include "engine/segment.h"

struct record {
  struct range range;           /* logical */
  uint64_t sequence;
  enum record_kind kind;
  bool clean;
  bool has_checksum;
  uint64_t at;                  /* of the data on the device */
  uint64_t checksum;
};

/* Bytes of its segment that a record takes, with its data. */
static inline uint64_t
record_space (const struct record *record)
{
  return sizeof (struct media_record)
    + (record->kind == RECORD_DATA
       ? round_up (record->range.length, MEDIA_LINE) : 0);
}

enum set_verdict {
  SET_OK,
  SET_END,                      /* no set of this generation here */
  SET_TORN,                     /* ours, but the checksum is wrong */
  SET_CORRUPT,                  /* the checksum is right, the content makes no
                                 * sense: not what a crash leaves */
  SET_UNREADABLE,               /* media error */
};

struct set {
  uint64_t epoch;
  uint64_t durable_through;
  uint32_t durable_sets;
  uint32_t ordinal;
  uint32_t start, end;          /* offsets in the segment */
  uint32_t count;
  struct record record[SET_MAX_RECORDS];
};

struct log_reader {
  struct pmem *pmem;
  const struct superblock *superblock;
};

extern const char *set_verdict_name (enum set_verdict verdict);

/* The set that ends at offset END of SEGMENT and is its ORDINALth. */
extern enum set_verdict log_read_set (const struct log_reader *reader,
                                      const struct segment *segment,
                                      uint32_t end, uint32_t ordinal,
                                      struct set *set);

/* A walk over a segment's sets from the first.
 *
 *   log_walk_start (&walk, &reader, segment);
 *   while ((verdict = log_walk_next (&walk, &set)) == SET_OK) ...
 *
 * In a sealed segment the walk gives SET_END after the last set, and
 * anything else than SET_OK before that, SET_END included, is
 * damage: walk.ordinal < segment->sets.  In an open one it is the caller who
 * judges. */
struct log_walk {
  const struct log_reader *reader;
  const struct segment *segment;
  uint32_t end;                 /* where the next set ends */
  uint32_t ordinal;             /* of the next set */
  uint64_t sequence, epoch;     /* last seen */
  uint32_t barren;              /* no set ends at or below this; may be taken
                                 * over from an earlier walk of the same */
};

extern void log_walk_start (struct log_walk *walk,
                            const struct log_reader *reader,
                            const struct segment *segment);
extern enum set_verdict log_walk_next (struct log_walk *walk,
                                       struct set *set);

/* After a set that was not OK: look further down for a later set of the same
 * generation.  True if there is one; the walk then goes on behind it. */
extern bool log_walk_find_later (struct log_walk *walk, struct set *set);

/* extent_name of a record's extent. */
static inline uint64_t
record_name (enum record_kind kind, uint64_t at, uint64_t sequence)
{
  const struct extent extent = {
    .kind = kind == RECORD_DATA ? EXTENT_DATA : EXTENT_ZERO,
    .record_at = at, .sequence = sequence,
  };

  return extent_name (&extent);
}

/* What the index says of a record, which is no hole. */
static inline void
record_to_extent (const struct record *record, struct extent *extent)
{
  static const enum extent_kind kinds[] = {
    [RECORD_DATA] = EXTENT_DATA,
    [RECORD_ZERO] = EXTENT_ZERO,
    [RECORD_TRIM] = EXTENT_TRIM,
    [RECORD_LOST] = EXTENT_LOST,
  };

  assert (record->kind != RECORD_HOLE);
  *extent = (struct extent) {
    .range = record->range,
    .kind = kinds[record->kind],
  };
  if (record->kind == RECORD_DATA) {
    extent->has_checksum = record->has_checksum;
    extent->record_at = record->at;
    extent->record_length = record->range.length;
    extent->checksum = record->checksum;
  }
  else
    extent->sequence = record->sequence;
}

#endif /* PCACHE_LOG_READER_H */

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/mutation.h"
#include "engine/engine.h"

static int
verified_read (struct pmem *pmem, const struct extent *extent, void *buf)
{
  uint64_t sum;
  int r;

  if (!extent->has_checksum || extent->range.length == extent->record_length) {
    r = pmem_read (pmem, buf, extent->record_at + extent->delta,
                   extent->range.length);
    if (r < 0 || !extent->has_checksum)
      return r;
    /* What is delivered is what is checked. */
    sum = XXH3_64bits (buf, extent->range.length);
    if (MUTATION (T19_UNVERIFIED_READS))
      return 0;
    return sum == extent->checksum ? 0 : -EBADMSG;
  }

  r = pmem_checksum (pmem, extent->record_at, extent->record_length, &sum);
  if (r < 0)
    return r;
  if (sum != extent->checksum && !MUTATION (T19_UNVERIFIED_READS))
    return -EBADMSG;
  return pmem_read (pmem, buf, extent->record_at + extent->delta,
                    extent->range.length);
}

int
extent_read (struct engine *engine, const struct extent *extent, void *buf)
{
  int r;

  assert (extent->kind == EXTENT_DATA);
  r = verified_read (engine->pmem, extent, buf);
  if (r == -EBADMSG)
    stats_add (engine->stats, STAT_checksum_errors, 1);
  else if (r < 0)
    stats_add (engine->stats, STAT_media_errors, 1);
  return r;
}

/* Look for the record in the sets of its segment that can be read. */
static bool
find_on_media (struct engine *engine, const struct segment *segment,
               uint64_t at, uint64_t written_back, bool *clean)
{
  struct log_walk walk;
  struct set set;

  log_walk_start (&walk, &engine->reader, segment);
  while (log_walk_next (&walk, &set) == SET_OK
         || log_walk_find_later (&walk, &set)) {
    for (uint32_t i = 0; i < set.count; i++)
      if (set.record[i].kind == RECORD_DATA && set.record[i].at == at) {
        *clean = set.record[i].clean || set.epoch <= written_back;
        return true;
      }
  }
  return false;
}

bool
extent_is_clean (struct engine *engine, const struct extent *extent)
{
  const struct geometry *g = &engine->superblock.geometry;
  const uint32_t id = (extent->record_at - g->first_segment_at)
    / g->segment_size;
  const struct segment segment = segment_snapshot (&engine->segments, id);
  const uint64_t written_back =
    control_get (&engine->superblock).written_back;
  bool clean = false;

  if (segment.state == SEGMENT_SEALED && segment.epoch_max <= written_back)
    return true;
  if (!find_on_media (engine, &segment, extent->record_at, written_back,
                      &clean)
      /* A set may be closed between the two looks, so look twice. */
      && !log_find_open (engine->log, extent->record_at, &clean))
    find_on_media (engine, &segment, extent->record_at, written_back, &clean);
  return clean;
}

unsigned
records_cut (const struct engine *engine, struct range range, bool clean,
             struct record *records, uint32_t *data_bytes)
{
  unsigned count = 0;

  *data_bytes = 0;
  while (range.length > 0) {
    const uint64_t length =
      MIN (range.length,
           RECORD_MAX_DATA - range.start % RECORD_MAX_DATA);

    assert (count < LOG_MAX_RESERVE_RECORDS);
    records[count++] = (struct record) {
      .range = { range.start, length },
      .kind = RECORD_DATA,
      .clean = clean,
      .has_checksum = engine->options.data_crc,
      .at = *data_bytes,        /* becomes absolute when stored */
    };
    *data_bytes += DATA_BYTES (length);
    range.start += length;
    range.length -= length;
  }
  return count;
}

int
records_store (struct engine *engine, const uint8_t *buf, struct range range,
               struct record *records, unsigned count, uint64_t at)
{
  int r = 0;

  for (unsigned i = 0; i < count && r == 0; i++) {
    const uint8_t *from = buf + (records[i].range.start - range.start);

    records[i].at += at;
    /* Crash: space lost, old data valid. */
    r = pmem_copy (engine->pmem, records[i].at, from,
                   records[i].range.length);
    /* Of the source, while the stores drain. */
    if (records[i].has_checksum)
      records[i].checksum = XXH3_64bits (from, records[i].range.length);
  }
  if (r == 0 && !MUTATION (SET_BEFORE_DATA))
    r = pmem_fence (engine->pmem);      /* from here on a record may refer
                                         * to it */
  if (r < 0)
    stats_add (engine->stats, STAT_media_errors, 1);
  return r;
}

int
records_publish_locked (struct engine *engine, struct reservation *res,
                        struct range range, struct record *records,
                        unsigned count)
{
  int r;

  /* First what may fail, then the log, then the index: a failed append must
   * not leave a hole through which older backing data shows (T6). */
  r = index_reserve_locked (engine->index, range, count);
  if (MUTATION (T6_INDEX_FIRST) && r == 0) {
    struct index_cursor cursor;
    struct piece piece;

    index_walk_locked (&cursor, engine->index, range, false);
    if (index_next_piece (&cursor, &piece) && !piece.is_hole)
      index_remove_locked (engine->index, piece.range, &piece.extent);
  }
  if (r == 0)
    r = log_append_locked (engine->log, res, records, count);
  if (r < 0)
    return r;
  for (unsigned i = 0; i < count; i++) {
    struct extent extent;

    if (records[i].kind == RECORD_HOLE) {
      index_drop_locked (engine->index, records[i].range);
      continue;
    }
    record_to_extent (&records[i], &extent);
    index_insert_locked (engine->index, &extent);
  }
  return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* Writing: reserve, copy, checksum, fence; then, under the lock of the
 * index region, append the record and map the extent.
 *
 * Any failure before the append leaves the old mapping as it was: the
 * reserved space is lost until its segment is evicted, nothing else. */

#include <config.h>

#include <errno.h>

#include "base/thread.h"
#include "engine/engine.h"

/* New places tried when the device refuses a store. */
#define MAX_ATTEMPTS 3

/* A record without data may be this long. */
#define MAX_ZERO_RECORD (UINT32_MAX - (uint32_t) INDEX_CHUNK + 1)

static int
reserve (struct engine *engine, uint32_t data_bytes, unsigned records,
         struct reservation *res)
{
  uint64_t since, ticket;
  int r;

  r = log_reserve (engine->log, LOG_WRITE, data_bytes, records, res);
  if (r != -EAGAIN)
    return r;
  stats_add (engine->stats, STAT_space_waits, 1);
  since = now_ms ();
  for (;;) {
    /* The ticket first: a segment that becomes free after the attempt
     * ends the wait at once. */
    ticket = segment_ticket (&engine->segments);
    r = log_reserve (engine->log, LOG_WRITE, data_bytes, records, res);
    if (r != -EAGAIN)
      return r;
    r = engine->wait_for_space (engine, ticket, since);
    if (r < 0)
      return r;
  }
}

static int
publish (struct engine *engine, struct reservation *res,
         struct range range, struct record *records, unsigned count)
{
  int r;

  index_lock (engine->index, range);
  r = records_publish_locked (engine, res, range, records, count);
  index_unlock (engine->index, range);
  return r;
}

/* RANGE lies in one chunk and fits one reservation. */
static int
write_part (struct engine *engine, const uint8_t *buf, struct range range,
            bool commit)
{
  int r = -EIO;

  for (unsigned attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    struct record records[LOG_MAX_RESERVE_RECORDS];
    struct reservation res;
    uint32_t data_bytes;
    unsigned count;

    count = records_cut (engine, range, false, records, &data_bytes);
    r = reserve (engine, data_bytes, count, &res);
    if (r < 0)
      return r;
    r = records_store (engine, buf, range, records, count, res.at);
    if (r < 0) {
      log_release (engine->log, &res);
      continue;                 /* elsewhere it may go well */
    }
    r = publish (engine, &res, range, records, count);
    if (r == 0 && commit)
      return engine_commit (engine, &res);
    log_release (engine->log, &res);
    if (r == 0)
      return 0;
    /* A full set that its place refuses: elsewhere it may go well, too. */
    if (r != -EIO || engine_move_refused (engine) < 0)
      return r;
  }
  return r;
}

int
engine_write (struct engine *engine, const void *buf, struct range range,
              bool fua)
{
  const uint8_t *p = buf;
  bool first = true;
  int r;

  while (range.length > 0) {
    const struct range part = {
      range.start,
      MIN (range.length, LOG_MAX_RESERVE - range.start % LOG_MAX_RESERVE),
    };
    const bool only = first && part.length == range.length;

    r = write_part (engine, p, part, fua && only);
    if (r < 0)
      return r;
    p += part.length;
    range.start += part.length;
    range.length -= part.length;
    /* The parts may lie in several heads. */
    if (range.length == 0 && fua && !only)
      return engine_flush (engine);
    first = false;
  }
  return 0;
}

static int
write_zero_record (struct engine *engine, struct record *record, bool commit)
{
  int r = -EIO;

  for (unsigned attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    struct reservation res;

    r = reserve (engine, 0, 1, &res);
    if (r < 0)
      return r;
    r = publish (engine, &res, record->range, record, 1);
    if (r == 0 && commit)
      return engine_commit (engine, &res);
    log_release (engine->log, &res);
    if (r == 0)
      return 0;
    if (r != -EIO || engine_move_refused (engine) < 0)
      return r;
  }
  return r;
}

int
engine_write_zeros (struct engine *engine, enum record_kind kind,
                    struct range range, bool fua)
{
  while (range.length > 0) {
    struct record record = {
      .range = { range.start, MIN (range.length, MAX_ZERO_RECORD) },
      .kind = kind,
    };
    int r = write_zero_record (engine, &record, fua);

    if (r < 0)
      return r;
    range.start += record.range.length;
    range.length -= record.range.length;
  }
  return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>

#include "base/mutation.h"
#include "base/thread.h"
#include "engine/append.h"

int
append_reserve (struct engine *engine, uint32_t data_bytes, unsigned records,
                struct reservation *res)
{
  uint64_t since, ticket;
  int r;

  r = log_reserve (engine->log, LOG_WRITE, data_bytes, records, res);
  if (r != -EAGAIN)
    return engine_note_device (engine, r);
  stats_add (engine->stats, STAT_space_waits, 1);
  since = now_ms ();
  for (;;) {
    /* The ticket first: a segment that becomes free after the attempt
     * ends the wait at once. */
    ticket = segment_ticket (&engine->segments);
    r = log_reserve (engine->log, LOG_WRITE, data_bytes, records, res);
    if (r != -EAGAIN)
      return engine_note_device (engine, r);
    r = engine->wait_for_space (engine, ticket, since);
    if (r < 0)
      return r;
  }
}

static uint64_t
open_epoch (void *log)
{
  return log_epoch (log);
}

/* What is appended now is not finished before the hold's epoch has ended. */
static int
publish (struct append *append, struct reservation *res, struct range range,
         struct record *records, unsigned count)
{
  struct engine *engine = append->engine;
  int r = -ESTALE;

  res->ends_with_append = !append->commit && !append->persist
    && !pmem_sync_is_near (engine->pmem);       /* see finish */
  if (append->persist)
    range_lock_begin_epoch (&engine->modes.writers, append->hold, open_epoch,
                            engine->log);
  index_lock (engine->index, range);
  if (modes_may_append (&engine->modes, append->path, append->hold != NULL))
    r = records_publish_locked (engine, res, range, records, count);
  index_unlock (engine->index, range);
  if (r == 0)
    append->appended = true;
  else if (append->persist)
    range_lock_end_epoch (&engine->modes.writers, append->hold);
  return r;
}

/* It has been appended with RES. */
static int
finish (struct append *append, struct reservation *res)
{
  if (append->commit)
    return engine_commit (append->engine, res);
  if (append->persist && !MUTATION (THROUGH_UNDURABLE))
    return engine_persist (append->engine, res);
  if (!res->ends_with_append)
    log_expect_flush (append->engine->log, res);
  log_release (append->engine->log, res);
  return 0;
}

int
append_data (struct append *append, const uint8_t *buf, struct range range)
{
  struct engine *engine = append->engine;
  int r = -EIO;

  for (unsigned attempt = 0; attempt < APPEND_MAX_ATTEMPTS; attempt++) {
    struct record records[LOG_MAX_RESERVE_RECORDS];
    struct reservation res;
    uint32_t data_bytes;
    unsigned count;

    /* It comes while the data is copied. */
    index_prefetch (engine->index, range);
    count = records_cut (engine, range, false, records, &data_bytes);
    r = append_reserve (engine, data_bytes, count, &res);
    if (r < 0)
      return r;
    r = records_store (engine, buf, range, records, count, res.at);
    if (r < 0) {
      log_release (engine->log, &res);
      continue;                 /* elsewhere it may go well */
    }
    r = publish (append, &res, range, records, count);
    if (r == 0)
      return finish (append, &res);
    log_release (engine->log, &res);
    /* A full set that its place refuses: elsewhere it may go well, too. */
    if (r != -EIO || engine_move_refused (engine) < 0)
      break;
  }
  return r == -ESTALE ? r : engine_note_device (engine, r);
}

int
append_record (struct append *append, struct record *record)
{
  struct engine *engine = append->engine;
  int r = -EIO;

  for (unsigned attempt = 0; attempt < APPEND_MAX_ATTEMPTS; attempt++) {
    struct reservation res;

    r = append_reserve (engine, 0, 1, &res);
    if (r < 0)
      return r;
    r = publish (append, &res, record->range, record, 1);
    if (r == 0)
      return finish (append, &res);
    log_release (engine->log, &res);
    if (r != -EIO || engine_move_refused (engine) < 0)
      break;
  }
  return r == -ESTALE ? r : engine_note_device (engine, r);
}

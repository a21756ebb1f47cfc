/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "base/thread.h"
#include "engine/rate_limit.h"
#include "engine/writeback.h"

#define MAX_JOB_BYTES (UINT64_C (1) << 20)

/* A full record set of them. */
#define FEW_RECORDS SET_MAX_RECORDS

/* Longest time before it is asked again whether there is still no hurry. */
#define PATIENCE_MS UINT64_C (500)

/* One request's worth: neighbouring data extents, or one extent without
 * data. */
struct job {
  struct extent *extents;
  uint32_t count;
};

struct writeback {
  struct engine *engine;
  _Atomic bool flush_log;       /* this step rests on records that may not be
                                 * durable yet */
  _Atomic bool no_room;         /* to say that it is lost; was reported */
  _Atomic bool cancelled;

  /* See write_portions. */
  uint64_t portion;             /* jobs between two flushes */
  uint64_t begun;               /* epoch up to which the last step went, if it
                                 * failed; 0: it did not */
  uint64_t flushed;             /* so many of its jobs are there for good */

  pthread_cond_t hurry;         /* the rate may not matter any more */
  struct rate_limit limit;      /* lock */

  /* Of the step under way, for writeback_left; lock. */
  uint64_t step_through;        /* 0: none */
  uint64_t step_dirty_bytes;    /* what is dirty of it now, in the cache... */
  uint64_t step_bytes;          /* ...and what of that goes to the store */
  _Atomic uint64_t step_done;   /* of step_bytes */

  /* The crew: helpers wait for a round of jobs, everybody takes the next
   * one until there are no more. */
  pthread_mutex_t lock;
  pthread_cond_t begin, end;
  struct job *jobs;             /* lock, constant during a round */
  _Atomic uint64_t next_job;
  uint64_t job_count;           /* lock, constant during a round */
  uint64_t round;               /* lock */
  unsigned busy;                /* lock */
  bool quit;                    /* lock */
  int error;                    /* lock; first of this round */
  pthread_t *helper;
  unsigned helpers;
  uint8_t *buffer;              /* the caller's */
};

/* --- one job ---------------------------------------------------------- */

/* Count a request for LENGTH bytes to the backing store that came out with R,
 * and give that back. */
static int
counted (struct writeback *wb, int r, uint64_t length,
         enum stats_counter error)
{
  struct engine *engine = wb->engine;

  if (r < 0)
    stats_add (engine->stats, error, 1);
  else {
    stats_add (engine->stats, STAT_writeback_requests, 1);
    stats_add (engine->stats, STAT_writeback_sent_bytes, length);
    rate_add (&engine->writeback_rate, now_ms (), length);
  }
  return r;
}

/* Wait until pcache-writeback-rate allows LENGTH more bytes. */
static int
await_turn (struct writeback *wb, uint64_t length)
{
  struct engine *engine = wb->engine;

  for (;;) {
    const uint64_t rate = setting_get (&engine->settings,
                                       SETTING_writeback_rate);
    uint64_t now, wait_ms;

    if (rate == 0 || (engine->is_urgent && engine->is_urgent (engine)))
      return 0;
    HOLD_LOCK (&wb->lock);
    if (atomic_load (&wb->cancelled))
      return -ECANCELED;
    now = now_ms ();
    wait_ms = rate_limit_wait_ms (&wb->limit, rate, now);
    if (wait_ms == 0) {
      rate_limit_spend (&wb->limit, length);
      return 0;
    }
    cond_wait_until (&wb->hurry, &wb->lock, now + MIN (wait_ms, PATIENCE_MS));
  }
}

/* At the rate that is allowed. */
static int
send_data (struct writeback *wb, const uint8_t *buf, struct range range)
{
  int r = await_turn (wb, range.length);

  if (r < 0)
    return r;
  return counted (wb, backend_pwrite (wb->engine->backend, buf, range.length,
                                      range.start),
                  range.length, STAT_backing_write_errors);
}

static int
write_zeros (struct writeback *wb, uint8_t *buf, struct range range)
{
  const uint64_t limit =
    MIN (MAX_JOB_BYTES, (uint64_t) wb->engine->backend->max_request);

  memset (buf, 0, MIN (range.length, limit));
  while (range.length > 0) {
    const uint64_t length = MIN (range.length, limit);
    int r = atomic_load (&wb->cancelled) ? -ECANCELED
      : send_data (wb, buf, (struct range) { range.start, length });

    if (r < 0)
      return r;
    range.start += length;
    range.length -= length;
  }
  return 0;
}

/* The plugin's error numbers do not reach us reliably, so any failure to zero
 * or trim means: do it by writing.  If that fails too, it is an
 * error. */
static int
zero_range (struct writeback *wb, uint8_t *buf, struct range range,
            bool may_trim)
{
  struct backend *backend = wb->engine->backend;

  while (range.length > 0) {
    const struct range part = {
      range.start, MIN (range.length, backend->max_zero),
    };
    int r;

    if (atomic_load (&wb->cancelled))
      return -ECANCELED;
    r = backend_try_zero (backend, part.length, part.start, may_trim,
                          may_trim);
    if (backend_knows_zero (backend, may_trim))
      counted (wb, r, part.length, STAT_backing_zero_errors);
    if (r < 0)
      r = write_zeros (wb, buf, part);
    if (r < 0)
      return r;
    range.start += part.length;
    range.length -= part.length;
  }
  return 0;
}

/* The first piece of RANGE that is still mapped to the record of EXTENT, which is
 * data or lost.  The region is locked. */
static bool
find_mapped_locked (struct writeback *wb, const struct extent *extent,
                    struct range range, struct range *found)
{
  struct index_cursor cursor;
  struct piece piece;

  index_walk_locked (&cursor, wb->engine->index, range, false);
  while (index_next_piece (&cursor, &piece))
    if (!piece.is_hole && extent_name (&piece.extent) == extent_name (extent)) {
      *found = piece.range;
      return true;
    }
  return false;
}

static bool
find_mapped (struct writeback *wb, const struct extent *extent,
             struct range range, struct range *found)
{
  bool is_mapped;

  index_lock (wb->engine->index, range);
  is_mapped = find_mapped_locked (wb, extent, range, found);
  index_unlock (wb->engine->index, range);
  return is_mapped;
}

static int
reserve_lost (struct writeback *wb, const struct extent *extent,
              struct reservation *res)
{
  int r = log_reserve (wb->engine->log, LOG_LOST, 0, 1, res);

  if (r != -EAGAIN) {
    if (r == 0)
      atomic_store (&wb->no_room, false);
    return r;
  }
  /* More has been lost than a whole segment can name. */
  if (!atomic_exchange (&wb->no_room, true))
    report (REPORT_ERROR, "dirty data at %" PRIu64 "+%" PRIu64 " cannot be "
            "read (at %" PRIu64 " of the cache device), and the cache is too "
            "full to say so; write-back stops before it",
            extent->range.start, extent->range.length, extent->record_at);
  return -ENOSPC;
}

/* Map *PART, which is mapped to the record of EXTENT, or what is left of it by
 * now, as lost. */
static int
lose_part_locked (struct writeback *wb, const struct extent *extent,
                  struct reservation *res, struct range *part)
{
  struct engine *engine = wb->engine;
  struct record record = { .kind = RECORD_LOST, .clean = true };
  int r;

  if (!find_mapped_locked (wb, extent, *part, part))
    return 0;                   /* overwritten meanwhile */
  record.range = *part;
  r = lost_add (&engine->lost, *part);
  if (r == 0)
    r = records_publish_locked (engine, res, *part, &record, 1);
  if (r < 0 || extent->kind == EXTENT_LOST)
    return r;
  stats_add (engine->stats, STAT_lost_bytes, part->length);
  report (REPORT_ERROR, "dirty data at %" PRIu64 "+%" PRIu64 " cannot be "
          "read (at %" PRIu64 " of the cache device) and cannot be written "
          "back; reads give EIO until it is overwritten",
          part->start, part->length, extent->record_at);
  return 0;
}

/* EXTENT's data is dirty and cannot be read, or what says that it is lost cannot.
 * It must never be taken for clean: put a record in its place that says so,
 * wherever it is still the newest. */
static int
lose (struct writeback *wb, const struct extent *extent)
{
  struct engine *engine = wb->engine;
  struct range rest = extent->range, part;

  atomic_store (&wb->flush_log, true);
  /* Looked at before anything is reserved: what an attempt before this one has
   * said already needs no more room. */
  while (rest.length > 0 && find_mapped (wb, extent, rest, &part)) {
    struct reservation res;
    int r = control_set_lost (&engine->superblock, true);

    if (r == 0)
      r = reserve_lost (wb, extent, &res);
    if (r < 0)
      return r;
    index_lock (engine->index, extent->range);
    r = lose_part_locked (wb, extent, &res, &part);
    index_unlock (engine->index, extent->range);
    log_release (engine->log, &res);
    if (r < 0)
      return r;
    rest.length = range_end (rest) - range_end (part);
    rest.start = range_end (part);
  }
  return 0;
}

static int
write_run (struct writeback *wb, const uint8_t *buf, struct range range)
{
  return range.length == 0 ? 0 : send_data (wb, buf, range);
}

static int
do_job (struct writeback *wb, const struct job *job, uint8_t *buf)
{
  struct range run = { job->extents[0].range.start, 0 };
  int r;

  switch (job->extents[0].kind) {
  case EXTENT_ZERO:
    return zero_range (wb, buf, job->extents[0].range, false);
  case EXTENT_TRIM:
    return zero_range (wb, buf, job->extents[0].range, true);
  case EXTENT_LOST:
    return 0;
  case EXTENT_DATA:
    break;
  }

  for (uint32_t i = 0; i < job->count; i++) {
    const struct extent *extent = &job->extents[i];

    assert (extent->range.start == range_end (run));
    r = extent_read (wb->engine, extent, buf + run.length);
    if (r == 0) {
      run.length += extent->range.length;
      continue;
    }
    r = lose (wb, extent);
    if (r < 0)
      return r;
    r = write_run (wb, buf, run);
    if (r < 0)
      return r;
    run = (struct range) { range_end (extent->range), 0 };
  }
  return write_run (wb, buf, run);
}

/* --- the crew --------------------------------------------------------- */

static uint64_t
job_bytes (const struct job *job)
{
  uint64_t bytes = 0;

  for (uint32_t i = 0; i < job->count; i++)
    bytes += job->extents[i].range.length;
  return bytes;
}

static void
do_jobs (struct writeback *wb, uint8_t *buf)
{
  uint64_t i;

  while ((i = atomic_fetch_add (&wb->next_job, 1)) < wb->job_count) {
    int r = atomic_load (&wb->cancelled) ? -ECANCELED
      : do_job (wb, &wb->jobs[i], buf);

    if (r < 0) {
      HOLD_LOCK (&wb->lock);
      if (wb->error == 0)
        wb->error = r;
      /* The rest will be written again anyway. */
      atomic_store (&wb->next_job, wb->job_count);
    }
    else
      atomic_fetch_add (&wb->step_done, job_bytes (&wb->jobs[i]));
  }
}

static void *
helper_thread (void *opaque)
{
  struct writeback *wb = opaque;
  CLEANUP_FREE uint8_t *buf = malloc (MAX_JOB_BYTES);
  uint64_t seen = 0;

  mutex_lock (&wb->lock);
  while (!wb->quit) {
    if (wb->round == seen) {
      pthread_cond_wait (&wb->begin, &wb->lock);
      continue;
    }
    seen = wb->round;
    if (buf == NULL)
      continue;                 /* the others do it */
    wb->busy++;
    mutex_unlock (&wb->lock);
    do_jobs (wb, buf);
    mutex_lock (&wb->lock);
    if (--wb->busy == 0)
      pthread_cond_broadcast (&wb->end);
  }
  mutex_unlock (&wb->lock);
  return NULL;
}

static int
run_jobs (struct writeback *wb, struct job *jobs, uint64_t count)
{
  int r;

  mutex_lock (&wb->lock);
  /* One that woke late for the last round. */
  while (wb->busy > 0)
    pthread_cond_wait (&wb->end, &wb->lock);
  wb->jobs = jobs;
  wb->job_count = count;
  wb->error = 0;
  atomic_store (&wb->next_job, 0);
  wb->round++;
  pthread_cond_broadcast (&wb->begin);
  mutex_unlock (&wb->lock);

  do_jobs (wb, wb->buffer);

  mutex_lock (&wb->lock);
  while (wb->busy > 0)
    pthread_cond_wait (&wb->end, &wb->lock);
  /* A helper that wakes late must find nothing to do. */
  wb->job_count = 0;
  r = wb->error;
  mutex_unlock (&wb->lock);
  return r;
}

int
writeback_new (struct engine *engine, unsigned helpers,
               struct writeback **result)
{
  struct writeback *wb = calloc (1, sizeof *wb);

  if (wb == NULL)
    return -ENOMEM;
  wb->engine = engine;
  wb->portion = UINT64_MAX;
  pthread_mutex_init (&wb->lock, NULL);
  cond_init (&wb->hurry);
  cond_init (&wb->begin);
  cond_init (&wb->end);
  wb->buffer = malloc (MAX_JOB_BYTES);
  wb->helper = calloc (helpers + 1, sizeof *wb->helper);
  if (wb->buffer == NULL || wb->helper == NULL) {
    writeback_free (wb);
    return -ENOMEM;
  }
  for (; wb->helpers < helpers; wb->helpers++) {
    int r = pthread_create (&wb->helper[wb->helpers], NULL, helper_thread,
                            wb);

    if (r != 0) {
      writeback_free (wb);
      return -r;
    }
  }
  *result = wb;
  return 0;
}

void
writeback_free (struct writeback *wb)
{
  if (wb == NULL)
    return;
  mutex_lock (&wb->lock);
  wb->quit = true;
  pthread_cond_broadcast (&wb->begin);
  mutex_unlock (&wb->lock);
  for (unsigned i = 0; i < wb->helpers; i++)
    pthread_join (wb->helper[i], NULL);
  free (wb->helper);
  free (wb->buffer);
  pthread_cond_destroy (&wb->hurry);
  pthread_cond_destroy (&wb->begin);
  pthread_cond_destroy (&wb->end);
  pthread_mutex_destroy (&wb->lock);
  free (wb);
}

void
writeback_cancel (struct writeback *wb)
{
  atomic_store (&wb->cancelled, true);
  writeback_hurry (wb);
}

void
writeback_hurry (struct writeback *wb)
{
  HOLD_LOCK (&wb->lock);

  pthread_cond_broadcast (&wb->hurry);
}

void
writeback_resume (struct writeback *wb)
{
  wb->begun = 0;                /* another store may be attached next */
  atomic_store (&wb->cancelled, false);
}

/* --- one step --------------------------------------------------------- */

struct plan {
  struct record *records;       /* dirty ones of the step */
  uint64_t record_count;
  uint64_t *names;              /* of those whose sets cannot be read */
  uint64_t name_count;
  struct extent *salvaged;      /* what is mapped to these */
  size_t salvaged_count;
  struct extent *extents;       /* the newest per range, ascending */
  uint64_t extent_count, extent_room;
  struct job *jobs;             /* those with data, then the others */
  uint64_t job_count, data_job_count;
};

static void
plan_free (struct plan *plan)
{
  free (plan->records);
  free (plan->names);
  free (plan->salvaged);
  free (plan->extents);
  free (plan->jobs);
}

static int
compare_sequence (const void *a, const void *b)
{
  const struct record *x = a, *y = b;

  return (x->sequence > y->sequence) - (x->sequence < y->sequence);
}

/* Add the dirty records of ENTRY's set to the plan. */
static enum set_verdict
collect_set (struct writeback *wb, const struct set_entry *entry,
             struct set *set, struct plan *plan)
{
  struct engine *engine = wb->engine;
  const struct segment segment = segment_snapshot (&engine->segments,
                                                   entry->segment);
  const uint64_t before = plan->record_count;
  enum set_verdict verdict;

  verdict = log_read_set (&engine->reader, &segment, entry->end,
                          entry->ordinal, set);
  if (verdict != SET_OK)
    return verdict;
  for (uint32_t i = 0; i < set->count; i++)
    if (!set->record[i].clean) {
      if (plan->record_count - before == entry->records)
        break;
      plan->records[plan->record_count++] = set->record[i];
    }
  if (set->epoch == entry->epoch
      && plan->record_count - before == entry->records)
    return SET_OK;
  plan->record_count = before;  /* not the set that was closed here */
  return SET_CORRUPT;
}

static void
note_damage (struct writeback *wb, const struct set_entry *entry,
             enum set_verdict verdict)
{
  if (!epoch_queue_note_damage (&wb->engine->queue, entry))
    return;
  stats_add (wb->engine->stats, STAT_media_errors, 1);
  report (REPORT_ERROR, "segment %" PRIu32 ": record set %" PRIu32 " with "
          "dirty records is damaged: %s; what memory still knows of it is "
          "written back, but not what was overwritten since: the backing store "
          "alone is in order again when the epochs after %" PRIu64 " are there, "
          "too.  A restart before that may find the cache damaged",
          entry->segment, entry->ordinal, set_verdict_name (verdict),
          entry->epoch);
}

/* A set that cannot be read any more hides what its records were, but the index
 * has not forgotten what is still mapped to them: that is written back in their
 * stead, and so nobody is served anything old, now or later.
 *
 * What a later epoch overwrote is not known any more.  So this epoch reaches the
 * backing store without it, and not quite in the order of P3: its range shows
 * what was there before, until that later epoch is written back.  Nothing can be
 * done about that; to wait would only keep all the rest from the backing store.
 *
 * After a crash, an older record of what was overwritten must not come to light
 * (T23), and "damaged, but all written back" says the header only when what
 * overwrote it is durable: hence flush_log. */
static int
salvage (struct writeback *wb, struct plan *plan)
{
  struct engine *engine = wb->engine;
  int r;

  r = index_find_records (engine->index, plan->names, plan->name_count,
                          &plan->salvaged, &plan->salvaged_count);
  /* What was there then and is not found is overwritten by now. */
  atomic_store (&wb->flush_log, true);
  for (size_t i = 0; i < plan->salvaged_count && r == 0; i++)
    if (plan->salvaged[i].kind == EXTENT_LOST)
      r = lose (wb, &plan->salvaged[i]);
  return r;
}

static int
collect_records (struct writeback *wb, struct set_entry *entries,
                 uint64_t count, struct plan *plan)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  uint64_t records = 0, names = 0;

  for (uint64_t i = 0; i < count; i++) {
    records += entries[i].records;
    names += entries[i].name_count;
  }
  plan->records = malloc ((records + 1) * sizeof *plan->records);
  if (plan->records == NULL || set == NULL)
    return -ENOMEM;

  for (uint64_t i = 0; i < count; i++) {
    struct set_entry *entry = &entries[i];
    const enum set_verdict verdict = collect_set (wb, entry, set, plan);

    if (verdict == SET_OK)
      continue;
    note_damage (wb, entry, verdict);
    entry->damaged = true;
    if (plan->names == NULL)
      plan->names = malloc ((names + 1) * sizeof *plan->names);
    if (plan->names == NULL)
      return -ENOMEM;
    memcpy (plan->names + plan->name_count, entry->names,
            entry->name_count * sizeof *plan->names);
    plan->name_count += entry->name_count;
  }
  qsort (plan->records, plan->record_count, sizeof *plan->records,
         compare_sequence);
  return plan->names ? salvage (wb, plan) : 0;
}

static int
add_extent (struct plan *plan, const struct extent *extent)
{
  if (plan->extent_count == plan->extent_room) {
    const uint64_t room = plan->extent_room ? plan->extent_room * 2 : 64;
    struct extent *more = realloc (plan->extents, room * sizeof *more);

    if (more == NULL)
      return -ENOMEM;
    plan->extents = more;
    plan->extent_room = room;
  }
  plan->extents[plan->extent_count++] = *extent;
  return 0;
}

static int
insert (struct index *index, const struct extent *extent)
{
  int r = index_reserve_locked (index, extent->range, 1);

  if (r == 0)
    index_insert_locked (index, extent);
  return r;
}

static int
compare_place (const void *a, const void *b)
{
  const struct extent *x = a, *y = b;

  return (x->range.start > y->range.start) - (x->range.start < y->range.start);
}

/* The newest per range, if nothing overlaps.  *found: it does not. */
static int
keep_all (struct plan *plan, bool *found)
{
  int r = 0;

  *found = false;
  for (uint64_t i = 0; i < plan->record_count && r == 0; i++) {
    struct extent extent;

    record_to_extent (&plan->records[i], &extent);
    r = add_extent (plan, &extent);
  }
  if (r < 0)
    return r;
  if (plan->extent_count > 1)
    qsort (plan->extents, plan->extent_count, sizeof *plan->extents,
           compare_place);
  for (uint64_t i = 1; i < plan->extent_count; i++)
    if (range_end (plan->extents[i - 1].range)
        > plan->extents[i].range.start) {
      plan->extent_count = 0;
      return 0;
    }
  *found = true;
  return 0;
}

/* The newest per range, with an index of the step's own.  It takes a slab of
 * memory (node_pool.h), which costs more than to write a few records: these are
 * often all different, and need none. */
static int
keep_newest (struct plan *plan)
{
  const struct range everything = { 0, INT64_MAX };
  struct index *index;
  struct index_cursor cursor;
  struct piece piece;
  int r = 0;

  if (plan->record_count <= FEW_RECORDS && plan->salvaged_count == 0) {
    bool found;

    r = keep_all (plan, &found);
    if (r < 0 || found)
      return r;
  }
  index = index_new (1);
  if (index == NULL)
    return -ENOMEM;
  index_lock (index, everything);
  for (uint64_t i = 0; i < plan->record_count && r == 0; i++) {
    struct extent extent;

    record_to_extent (&plan->records[i], &extent);
    r = insert (index, &extent);
  }
  /* What the index says is newer than all that it displaced. */
  for (size_t i = 0; i < plan->salvaged_count && r == 0; i++)
    r = insert (index, &plan->salvaged[i]);
  index_walk_locked (&cursor, index, everything, false);
  while (r == 0 && index_next_piece (&cursor, &piece))
    if (!piece.is_hole)
      r = add_extent (plan, &piece.extent);
  index_unlock (index, everything);
  index_free (index);
  return r;
}

static bool
joins (const struct extent *last, const struct extent *next, uint64_t bytes,
       uint64_t limit)
{
  return last->kind == EXTENT_DATA && next->kind == EXTENT_DATA
    && range_end (last->range) == next->range.start
    && bytes + next->range.length <= limit;
}

static void
cut_data_jobs (struct writeback *wb, struct plan *plan)
{
  const uint64_t limit = MIN (MAX_JOB_BYTES,
                              (uint64_t) wb->engine->backend->max_request);
  uint64_t bytes = 0;

  for (uint64_t i = 0; i < plan->extent_count; i++) {
    struct extent *extent = &plan->extents[i];

    if (extent->kind != EXTENT_DATA)
      continue;
    if (i > 0 && joins (extent - 1, extent, bytes, limit)) {
      plan->jobs[plan->job_count - 1].count++;
      bytes += extent->range.length;
    }
    else {
      plan->jobs[plan->job_count++] = (struct job) { extent, 1 };
      bytes = extent->range.length;
    }
  }
  plan->data_job_count = plan->job_count;
}

static int
cut_jobs (struct writeback *wb, struct plan *plan)
{
  plan->jobs = malloc ((plan->extent_count + 1) * sizeof *plan->jobs);
  if (plan->jobs == NULL)
    return -ENOMEM;
  cut_data_jobs (wb, plan);
  for (uint64_t i = 0; i < plan->extent_count; i++)
    if (plan->extents[i].kind != EXTENT_DATA)
      plan->jobs[plan->job_count++] = (struct job) { &plan->extents[i], 1 };
  return 0;
}

/* COUNT jobs from the FIRST on.  Data is not written while a zero or trim is under
 * way: when they meet within one of its blocks, not every backing store does both
 * (qemu's qcow2 loses the data, and damages its tables).  Any order is legal
 * within a step. */
static int
run_portion (struct writeback *wb, const struct plan *plan, uint64_t first,
             uint64_t count)
{
  const uint64_t with_data = plan->data_job_count > first
    ? MIN (plan->data_job_count - first, count) : 0;
  int r = run_jobs (wb, plan->jobs + first, with_data);

  if (r == 0 && count > with_data)
    r = run_jobs (wb, plan->jobs + first + with_data, count - with_data);
  return r;
}

/* A store that fails may have lost all that it had accepted and not yet flushed:
 * an NBD server that was restarted has.  So that is written again.  Were it
 * always the whole step, a store that fails one request in a hundred would never
 * take an epoch of a thousand.  So after a failure the step is done in portions
 * with a flush after each, smaller ones with each failure and larger ones with each
 * success, and the next attempt goes on where the last flush was.  To flush within
 * an epoch is always allowed: the store then has some of it.
 *
 * *progress: a portion has come to be there for good. */
static int
write_portions (struct writeback *wb, const struct plan *plan, bool *progress)
{
  uint64_t i;

  *progress = false;
  /* What is salvaged need not be the same each time. */
  if (plan->names)
    wb->flushed = 0;
  i = wb->flushed;
  assert (i <= plan->job_count);
  do {
    const uint64_t count = MIN (plan->job_count - i, wb->portion);
    const bool last = i + count == plan->job_count;
    const uint64_t failures = engine_backing_failures (wb->engine);
    int r = run_portion (wb, plan, i, count);

    /* Crash before: the epoch is still dirty here and partly in the backing
     * store, which is legal there, and is written again. */
    if (r == 0 && (last || !MUTATION (PORTION_UNFLUSHED))) {
      r = engine_flush_backing (wb->engine, failures);
      if (MUTATION (T7_FLUSH_IGNORED))
        r = 0;
    }
    if (r < 0) {                /* T7 */
      if (r != -ECANCELED)
        wb->portion = MAX (count / 4, UINT64_C (1));
      return r;
    }
    i += count;
    wb->portion = wb->portion > UINT64_MAX / 2 ? UINT64_MAX : wb->portion * 2;
    if (!last && !plan->names) {
      wb->flushed = i;
      *progress = true;
    }
  } while (i < plan->job_count);
  return 0;
}

/* How far this step goes: 0 if there is nothing. */
static int
choose_epoch (struct writeback *wb, uint64_t limit, uint64_t *through)
{
  struct engine *engine = wb->engine;
  uint64_t first, since;
  int r;

  *through = 0;
  if (!epoch_queue_first (&engine->queue, &first, &since)
      || first > log_closed_through (engine->log)) {
    /* What is left is in open sets, or in an epoch that is not
     * complete: complete it (T24: nothing is written back before it is
     * durable here). */
    r = MUTATION (T24_TOO_EARLY) ? 0 : engine_flush (engine);
    if (r < 0)
      return r;
    if (!epoch_queue_first (&engine->queue, &first, &since))
      return 0;
  }
  if (first > limit || (first > log_closed_through (engine->log)
                        && !MUTATION (T24_TOO_EARLY)))
    return 0;
  *through = first;
  if (setting_get (&engine->settings, SETTING_writeback_order)
      == WRITEBACK_BATCH)
    *through = first <= wb->begun && wb->begun <= limit ? wb->begun
      : MAX (first, MIN (limit, log_closed_through (engine->log)));
  return 0;
}

/* In a segment that is open the last set cannot be told from a torn end, if it is
 * damaged: after a crash an older record would be served in its stead (T23).  The
 * header of a sealed one says how many sets there are.  *sealed: they all are; a
 * writer may still be in one. */
static int
seal_damaged (struct writeback *wb, const struct set_entry *entries,
              uint64_t count, bool *sealed)
{
  struct engine *engine = wb->engine;
  unsigned unused;
  int r;

  for (uint64_t i = 0; i < count; i++)
    if (entries[i].damaged)
      log_retire_segment (engine->log, entries[i].segment);
  r = log_seal_retired (engine->log, &unused);
  *sealed = true;
  for (uint64_t i = 0; i < count; i++)
    if (entries[i].damaged
        && segment_snapshot (&engine->segments, entries[i].segment).state
           != SEGMENT_SEALED)
      *sealed = false;
  return *sealed ? 0 : r;
}

uint64_t
writeback_left (struct writeback *wb, uint64_t through)
{
  HOLD_LOCK (&wb->lock);
  const uint64_t dirty = epoch_queue_dirty_through (&wb->engine->queue,
                                                    through);
  uint64_t step;

  if (wb->step_through == 0 || wb->step_bytes == 0)
    return dirty;
  step = wb->step_through <= through ? wb->step_dirty_bytes : dirty;
  step *= MIN (1.0, (double) atomic_load (&wb->step_done) / wb->step_bytes);
  return dirty - MIN (dirty, step);
}

/* What is written from here on counts as progress. */
static void
begin_step (struct writeback *wb, uint64_t through,
            const struct set_entry *entries, uint64_t count,
            const struct plan *plan)
{
  HOLD_LOCK (&wb->lock);

  wb->step_through = through;
  wb->step_dirty_bytes = wb->step_bytes = 0;
  for (uint64_t i = 0; i < count; i++)
    wb->step_dirty_bytes += entries[i].dirty_bytes;
  for (uint64_t i = 0; i < plan->extent_count; i++)
    wb->step_bytes += plan->extents[i].range.length;
  atomic_store (&wb->step_done, 0);
  for (uint64_t i = 0; i < wb->flushed && i < plan->job_count; i++)
    atomic_fetch_add (&wb->step_done, job_bytes (&plan->jobs[i]));
}

/* CLEAN: its records are. */
static void
end_step (struct writeback *wb, bool clean)
{
  HOLD_LOCK (&wb->lock);

  if (clean)
    epoch_queue_drop (&wb->engine->queue, wb->step_through);
  wb->step_through = 0;
}

int
writeback_step (struct writeback *wb, uint64_t limit, bool *worked)
{
  struct engine *engine = wb->engine;
  CLEANUP_FREE struct set_entry *entries = NULL;
  __attribute__ ((cleanup (plan_free))) struct plan plan = { 0 };
  uint64_t count, through;
  int r;

  *worked = false;
  assert (engine->backend && engine->backend->can_write);
  r = choose_epoch (wb, limit, &through);
  if (r < 0 || through == 0)
    return r;
  if (wb->begun != through) {
    wb->begun = through;
    wb->flushed = 0;
    atomic_store (&wb->flush_log, false);
  }
  if ((r = epoch_queue_list (&engine->queue, through, &entries, &count)) < 0
      || (r = collect_records (wb, entries, count, &plan)) < 0)
    return r;
  if (plan.names) {
    bool sealed;

    r = seal_damaged (wb, entries, count, &sealed);
    if (r < 0 || !sealed)
      return r;
  }
  if ((r = keep_newest (&plan)) < 0
      || (r = cut_jobs (wb, &plan)) < 0)
    return r;
  if (MUTATION (T7_CLEAN_BEFORE_FLUSH))
    control_advance (&engine->superblock, 0, through);
  begin_step (wb, through, entries, count, &plan);
  r = write_portions (wb, &plan, worked);
  /* The records that say "lost" must be durable before what they replace
   * counts as clean, and so must be what overwrote a record that nobody can
   * read any more. */
  if (r == 0 && atomic_load (&wb->flush_log))
    r = engine_flush (engine);
  /* After: it is clean, and may be evicted. */
  if (r == 0)
    r = engine_note_device (engine, control_advance (
      &engine->superblock, 0, log_durable_until (engine->log, through)));
  end_step (wb, r == 0);
  if (r < 0)
    return r;
  wb->begun = 0;
  *worked = true;
  stats_add (engine->stats, STAT_writeback_bytes, wb->step_bytes);
  stats_add (engine->stats, STAT_writeback_records, plan.record_count);
  stats_add (engine->stats, STAT_writeback_epochs, 1);
  return 0;
}

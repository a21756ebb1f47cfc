/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/thread.h"
#include "engine/engine.h"

/* Rounds of write-back while writes go on: the first for what is dirty when the
 * mode is asked for, each other one for what came during the one before.  Then
 * writers wait (T25). */
#define MAX_ROUNDS 3

void
modes_init (struct modes *modes)
{
  *modes = (struct modes) {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .settling = PTHREAD_MUTEX_INITIALIZER,
  };
  range_lock_init (&modes->writers);
}

void
modes_destroy (struct modes *modes)
{
  range_lock_destroy (&modes->writers);
  pthread_mutex_destroy (&modes->lock);
  pthread_mutex_destroy (&modes->settling);
}

static enum write_path
wanted_path (struct engine *engine)
{
  switch ((enum cache_mode) setting_get (&engine->settings, SETTING_mode)) {
  case MODE_WRITEBACK:
  case MODE_WRITEONLY:
    break;
  case MODE_WRITETHROUGH:
    return PATH_THROUGH;
  case MODE_WRITEAROUND:
    return PATH_AROUND;
  }
  return PATH_BACK;
}

enum cache_mode
modes_in_effect (struct engine *engine)
{
  switch (modes_path (&engine->modes)) {
  case PATH_THROUGH:
  case PATH_BROKEN:
    return MODE_WRITETHROUGH;
  case PATH_AROUND:
    return MODE_WRITEAROUND;
  case PATH_BACK:
  case PATH_CLOSED:
    break;
  }
  return setting_get (&engine->settings, SETTING_mode) == MODE_WRITEONLY
    ? MODE_WRITEONLY : MODE_WRITEBACK;
}

bool
modes_is_pending (struct engine *engine)
{
  return modes_path (&engine->modes) != wanted_path (engine);
}

static bool
is_dirty (struct engine *engine)
{
  /* In the order in which it moves: nothing is missed on its way. */
  return log_dirty_bytes (engine->log) > 0
    || epoch_queue_dirty_bytes (&engine->queue) > 0;
}

static void
set_path_locked (struct modes *modes, enum write_path path)
{
  atomic_store (&modes->path, path);
  modes->rounds = 0;
}

static void
note_slot (struct modes *modes, uint64_t chunk, uint64_t number)
{
  _Atomic uint64_t *slot = &modes->around_of[chunk % MODES_AROUND_SLOTS];
  uint64_t before = atomic_load (slot);

  while (before < number
         && !atomic_compare_exchange_weak (slot, &before, number))
    ;
}

void
modes_note_around (struct engine *engine, struct range range)
{
  struct modes *modes = &engine->modes;
  const uint64_t first = range.start / INDEX_CHUNK;
  const uint64_t last = (range_end (range) - 1) / INDEX_CHUNK;
  const uint64_t slots = MIN (last - first + 1, (uint64_t) MODES_AROUND_SLOTS);
  uint64_t number;

  if (!modes_is_unflushed (modes)) {
    atomic_store (&modes->unflushed_since_ms, now_ms ());
    atomic_store (&modes->around_failures, engine_backing_failures (engine));
  }
  number = atomic_fetch_add (&modes->around, 1) + 1;
  for (uint64_t i = 0; i < slots; i++)
    note_slot (modes, first + i, number);
}

bool
modes_may_fill (struct modes *modes, struct range range)
{
  const uint64_t slot = range.start / INDEX_CHUNK % MODES_AROUND_SLOTS;

  return (!range_lock_covers (&modes->writers, range)
          || MUTATION (AROUND_FILLED))
    && (modes_is_flushed (modes, atomic_load (&modes->around_of[slot]))
        || MUTATION (AROUND_FILLED_UNFLUSHED));
}

bool
modes_is_flush_due (struct engine *engine, uint64_t now)
{
  struct modes *modes = &engine->modes;
  const uint64_t since = atomic_load (&modes->unflushed_since_ms);

  return modes_is_unflushed (modes)
    && now - MIN (now, since) >= setting_get (&engine->settings,
                                              SETTING_writeback_delay);
}

void
modes_attach (struct engine *engine, bool flushed)
{
  HOLD_LOCK (&engine->modes.lock);

  /* On other paths a flush of the disk would fail as long as this does, and it need
   * not: then it is as if the disk had just been put there. */
  if (!flushed && wanted_path (engine) == PATH_AROUND)
    modes_note_around (engine, (struct range) { 0, engine->backend->size });
  if (engine->backend->can_write
      && (!is_dirty (engine) || MUTATION (MODE_WITHOUT_DRAIN)))
    set_path_locked (&engine->modes, wanted_path (engine));
}

void
modes_detach (struct engine *engine)
{
  HOLD_LOCK (&engine->modes.lock);

  set_path_locked (&engine->modes, PATH_BACK);
  /* The next attachment flushes it. */
  atomic_store (&engine->modes.around_flushed, modes_around (&engine->modes));
}

void
modes_setting_changed (struct engine *engine)
{
  HOLD_LOCK (&engine->modes.lock);

  if (wanted_path (engine) == PATH_BACK)
    set_path_locked (&engine->modes, PATH_BACK);
}

void
modes_break (struct engine *engine)
{
  HOLD_LOCK (&engine->modes.lock);

  /* On any other path all that is dirty is written back anyway. */
  if (modes_path (&engine->modes) == PATH_THROUGH)
    set_path_locked (&engine->modes, PATH_BROKEN);
}

/* --- settling --------------------------------------------------------- */

/* The last epoch all of whose records have reached the backing store.  The log was
 * flushed before. */
static uint64_t
finished_epoch (struct engine *engine)
{
  /* First the log's: whoever begins after that has a later one. */
  const uint64_t closed = log_closed_through (engine->log);
  const uint64_t oldest = range_lock_oldest_epoch (&engine->modes.writers);

  return MUTATION (SETTLE_TOO_MUCH) ? closed : MIN (closed, oldest - 1);
}

static int
settle_locked (struct engine *engine)
{
  struct modes *modes = &engine->modes;
  const uint64_t number = atomic_fetch_add (&modes->settles_started, 1) + 1;
  const uint64_t around = modes_around (modes);
  /* Of what is written through, no flush but these here can tell. */
  const uint64_t failures = modes_is_unflushed (modes)
    ? atomic_load (&modes->around_failures) : engine_backing_failures (engine);
  uint64_t finished;
  int r = 0;

  /* On path AROUND nothing in the log was promised. */
  if (modes_path (modes) != PATH_AROUND)
    r = engine_flush (engine);
  if (r < 0)
    return r;
  finished = finished_epoch (engine);
  /* Crash before: what is not settled is dirty, and is written again. */
  r = engine_flush_backing (engine, failures);
  if (r < 0)
    /* Said once, as disks do. */
    atomic_store (&modes->around_failures, engine_backing_failures (engine));

  HOLD_LOCK (&modes->lock);
  if (r < 0) {
    /* It may have lost what it had accepted. */
    if (modes_path (modes) == PATH_THROUGH)
      set_path_locked (modes, PATH_BROKEN);
    return r;
  }
  modes->settled = number;
  atomic_store (&modes->around_flushed, around);
  modes->mark_error = 0;
  /* Whatever failed did so before it was finished, and has changed the path. */
  if (modes_path (modes) != PATH_THROUGH)
    return 0;
  modes->mark_error = control_advance (&engine->superblock, 0, finished);
  if (modes->mark_error == 0)
    epoch_queue_drop (&engine->queue, finished);
  return 0;
}

int
modes_settle (struct engine *engine)
{
  struct modes *modes = &engine->modes;
  const uint64_t before = atomic_load (&modes->settles_started);
  HOLD_LOCK (&modes->settling);

  /* One that started after this call came has done the work. */
  return modes->settled > before ? 0 : settle_locked (engine);
}

int
modes_flush (struct engine *engine)
{
  struct modes *modes = &engine->modes;
  int r;

  for (;;)
    switch (modes_path (modes)) {
    case PATH_BACK:
    case PATH_CLOSED:
      r = engine_flush (engine);
      /* What went around the cache before the mode was changed. */
      if (r == 0 && modes_is_unflushed (modes))
        r = modes_settle (engine);
      return r;
    case PATH_THROUGH:
    case PATH_AROUND:
      return modes_settle (engine);
    case PATH_BROKEN:
      r = engine->wait_for_path (engine);
      if (r < 0)
        return r;
    }
}

/* What has gone around the cache, on a path that may have been left since.  *worked
 * stays if there is no such. */
static int
flush_around (struct engine *engine, bool *worked)
{
  int r;

  if (!modes_is_unflushed (&engine->modes))
    return 0;
  r = modes_settle (engine);
  if (r == 0)
    *worked = true;
  return r;
}

int
modes_settle_step (struct engine *engine, bool *worked)
{
  struct modes *modes = &engine->modes;
  uint64_t first, still, since;
  int r;

  *worked = false;
  r = engine_flush (engine);
  if (r < 0)
    return r;
  if (!epoch_queue_first (&engine->queue, &first, &since)
      || first > finished_epoch (engine))
    return flush_around (engine, worked);

  HOLD_LOCK (&modes->settling);
  r = settle_locked (engine);
  if (r == 0)
    r = modes->mark_error;
  *worked = r == 0 && (!epoch_queue_first (&engine->queue, &still, &since)
                       || still != first);
  return r;
}

/* --- changing --------------------------------------------------------- */

/* BACK, and another mode is asked for: has the time come to let writers
 * wait? */
static bool
is_time_to_close_locked (struct engine *engine)
{
  struct modes *modes = &engine->modes;
  uint64_t first, since;

  if (!is_dirty (engine))
    return true;
  if (modes->rounds > 0
      && epoch_queue_first (&engine->queue, &first, &since)
      && first <= modes->round_through)
    return false;
  if (modes->rounds == MAX_ROUNDS)
    return true;
  modes->rounds++;
  modes->round_through = log_epoch (engine->log);
  return false;
}

/* The path to take a step on.  *closed: just now. */
static enum write_path
next_path (struct engine *engine, bool *closed)
{
  struct modes *modes = &engine->modes;
  HOLD_LOCK (&modes->lock);
  const enum write_path wanted = wanted_path (engine);
  const enum write_path path = modes_path (modes);

  *closed = false;
  if (path == wanted)
    return path;
  if (wanted == PATH_BACK)
    set_path_locked (modes, PATH_BACK);
  else if (path == PATH_AROUND) /* nothing is dirty */
    set_path_locked (modes, wanted);
  else if (path == PATH_THROUGH)
    set_path_locked (modes, PATH_BACK);
  else if (path == PATH_BACK && is_time_to_close_locked (engine)) {
    *closed = true;
    set_path_locked (modes, PATH_CLOSED);
  }
  return modes_path (modes);
}

bool
modes_begin_step (struct engine *engine)
{
  bool closed;
  enum write_path path;

  /* What is settled now need not be written back. */
  if (modes_path (&engine->modes) == PATH_THROUGH
      && wanted_path (engine) == PATH_AROUND)
    (void) modes_settle (engine);
  path = next_path (engine, &closed);
  /* After this nobody appends on the path that was left. */
  if (closed)
    index_await_locks (engine->index);
  return path != PATH_THROUGH;
}

/* CLOSED or BROKEN, and a step has been taken.  *done: the path could be
 * changed. */
static int
try_open (struct engine *engine, bool *done)
{
  struct modes *modes = &engine->modes;
  uint64_t first, since;
  int r;

  /* First the holds: on a path that is not THROUGH nobody who has no epoch yet
   * will append, so what the flush then brings into the queue is all there is. */
  if (range_lock_oldest_epoch (&modes->writers) != RANGE_LOCK_NO_EPOCH)
    return 0;
  r = engine_flush (engine);
  if (r < 0)
    return r;
  HOLD_LOCK (&modes->lock);
  if (epoch_queue_first (&engine->queue, &first, &since)
      || (modes_path (modes) != PATH_CLOSED
          && modes_path (modes) != PATH_BROKEN))
    return 0;
  set_path_locked (modes, wanted_path (engine));
  *done = true;
  return 0;
}

int
modes_end_step (struct engine *engine, int result, bool *worked)
{
  struct modes *modes = &engine->modes;
  const enum write_path path = modes_path (modes);

  /* Also when there is more to write back, or it might never be its turn. */
  if (result == 0)
    result = flush_around (engine, worked);
  if (path != PATH_CLOSED && path != PATH_BROKEN)
    return result;
  if (result == 0)
    result = try_open (engine, worked);
  if (result < 0) {
    /* Who waits had better go on as before. */
    HOLD_LOCK (&modes->lock);
    if (modes_path (modes) == PATH_CLOSED)
      set_path_locked (modes, PATH_BACK);
  }
  return result;
}

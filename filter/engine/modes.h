/* SPDX-License-Identifier: BSD-3-Clause */

/* modes: which way writes take, and how that changes while they come.
 *
 *   path     a write                                 dirty data
 *   -------  --------------------------------------  ------------------------
 *   BACK     goes to the log, and is acknowledged    as it comes
 *   CLOSED   waits                                   is being written back
 *   THROUGH  goes to the log, durably, then to the   what has not been settled
 *            backing store, then is acknowledged     yet, see below
 *   BROKEN   waits for an attempt to write back,     is being written back
 *            and fails with it
 *   AROUND   unmaps its range, durably, then goes    none
 *            to the backing store only
 *
 *             setting                  drained
 *     BACK <----------- any   CLOSED ----------> THROUGH, AROUND
 *       |                     ^  |                  |     ^
 *       | nearly drained,     |  | write-back       |     | drained
 *       | other mode asked    |  | fails            v     |
 *       +---------------------+  +---> BACK       BROKEN -+
 *         for
 *
 * A writer looks at the path when it has the lock of its index region, in the
 * same hold in which it appends, and turns back if it has changed.  So one turn
 * through the locks of all regions, after the path has become CLOSED, is
 * enough to know that nothing dirty comes any more; BACK, the fast path, costs
 * no more than a load.
 *
 * THROUGH and AROUND hold their range (range_lock) from before they append
 * until the backing store has answered, so overlapping writes reach log and backing
 * store in one order.  While there are such holds, writers of BACK take them as
 * well: a path can be left with writes still on it.
 *
 * What is written around may be read before it is flushed, but is not cached before:
 * see modes_may_fill.
 *
 * Settling: flush the log, flush the backing store, then mark the epochs all of
 * whose records had reached the backing store before that flush began as written
 * back, without writing them again.  Only as long as nothing on path THROUGH has
 * failed; else the path is BROKEN, and write-back writes all that is not settled
 * again, in order, before it can be THROUGH again. */

#ifndef PCACHE_MODES_H
#define PCACHE_MODES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/range_lock.h"
#include "engine/settings.h"

struct engine;

enum write_path {
  PATH_BACK,
  PATH_CLOSED,
  PATH_THROUGH,
  PATH_BROKEN,
  PATH_AROUND,
};

/* Chunks of the disk are told apart modulo this. */
#define MODES_AROUND_SLOTS 1024

struct modes {
  _Atomic enum write_path path; /* changed under lock */
  struct range_lock writers;
  _Atomic uint64_t around;      /* writes on path AROUND that were done */
  _Atomic uint64_t around_of[MODES_AROUND_SLOTS];       /* the last of them in
                                 * these chunks */
  _Atomic uint64_t unflushed_since_ms;
  _Atomic uint64_t around_failures;     /* of flushes, when it began to be
                                 * unflushed or when the last was said */

  pthread_mutex_t lock;         /* taken inside settling */
  unsigned rounds;              /* lock; of write-back, before CLOSED */
  uint64_t round_through;       /* lock; epoch where this one ends */

  /* Concurrent flushes share one. */
  pthread_mutex_t settling;
  _Atomic uint64_t settles_started;
  uint64_t settled;             /* settling; number of the last that succeeded */
  _Atomic uint64_t around_flushed;      /* changed under settling */
  int mark_error;               /* settling; of the last */
};

extern void modes_init (struct modes *modes);
extern void modes_destroy (struct modes *modes);

static inline enum write_path
modes_path (struct modes *modes)
{
  return atomic_load (&modes->path);
}

/* May who is on PATH, with a hold of his range or without one, append?  The
 * index region is locked. */
static inline bool
modes_may_append (struct modes *modes, enum write_path path, bool holds)
{
  return modes_path (modes) == path
    && (holds || !range_lock_is_used (&modes->writers));
}

/* The mode in effect, which the one asked for may become later. */
extern enum cache_mode modes_in_effect (struct engine *engine);
/* It will: write-back has to drain. */
extern bool modes_is_pending (struct engine *engine);

/* A backing store has come, with no requests yet.  Without dirty data the mode is
 * in effect at once.  FLUSHED: nothing on it was written before and not flushed. */
extern void modes_attach (struct engine *engine, bool flushed);
/* It goes.  What is not settled will be written back. */
extern void modes_detach (struct engine *engine);
/* The setting was changed. */
extern void modes_setting_changed (struct engine *engine);

/* Something that was appended on path THROUGH may not be in the backing store; the
 * range is still held. */
extern void modes_break (struct engine *engine);

/* Make the log and the backing store durable, and settle.  0, or the first that
 * failed. */
extern int modes_settle (struct engine *engine);

/* How many writes have gone around the cache, and whether so many have been flushed
 * since. */
static inline uint64_t
modes_around (struct modes *modes)
{
  return atomic_load (&modes->around);
}

static inline bool
modes_is_flushed (struct modes *modes, uint64_t around)
{
  return atomic_load (&modes->around_flushed) >= around;
}

static inline bool
modes_is_unflushed (struct modes *modes)
{
  return !modes_is_flushed (modes, modes_around (modes));
}

/* RANGE has been written on path AROUND, or some of it, and is still held. */
extern void modes_note_around (struct engine *engine, struct range range);

/* May what is read from the backing store now, in RANGE of one chunk, be cached?  Not
 * while it is being written around the cache; and not before that has been flushed:
 * a power cut could take it from the backing store and leave it here, as clean.  The
 * index region is locked. */
extern bool modes_may_fill (struct modes *modes, struct range range);

/* Is it time to flush what has gone around the cache, without being asked? */
extern bool modes_is_flush_due (struct engine *engine, uint64_t now_ms);

/* What a flush of the disk is: everything acknowledged before is durable. */
extern int modes_flush (struct engine *engine);

/* --- for the write-back service: one step is
 *
 *   if (modes_begin_step (engine))
 *     r = modes_end_step (engine, writeback_step (...), &worked);
 *   else
 *     r = modes_settle_step (engine, &worked);
 */
extern bool modes_begin_step (struct engine *engine);
extern int modes_end_step (struct engine *engine, int result, bool *worked);
extern int modes_settle_step (struct engine *engine, bool *worked);

#endif /* PCACHE_MODES_H */

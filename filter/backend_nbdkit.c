/* SPDX-License-Identifier: BSD-3-Clause */

/* What nbdkit demands of whoever calls next->*, and no header says:
 *
 * - get_size and every can_* must have been asked of a context before its
 *   data calls are used, else the server aborts;
 * - *err must be 0 before a call.  In threads of a filter's own it stays 0
 *   where a plugin does not preserve errno: then all that is known is EIO;
 * - next->zero above 64 MiB writes the wrong place in nbdkit 1.32 when the
 *   plugin answers EOPNOTSUPP;
 * - the block size a plugin advertises is not enforced, so some plugins do
 *   it themselves. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <nbdkit-filter.h>

#include "backend_nbdkit.h"
#include "base/arith.h"
#include "base/cleanup.h"
#include "base/report.h"
#include "base/thread.h"
#include "gate.h"

#define MIB (UINT32_C (1) << 20)
#define MAX_STEP (32 * MIB)     /* bytes in one call */
#define MAX_REQUEST (8 * MIB)   /* of the engine; bounds its buffers, and the
                                 * time a client's read waits at the gate */
#define MAX_ZERO (1024 * MIB)
#define MAX_EXTENTS_REQUEST (2048 * MIB)

/* Opening and closing. ------------------------------------------------ */

/* Ask what must be asked.  -1 when the plugin cannot say. */
static int
ask_features (struct plugin *p)
{
  nbdkit_next *next = p->next;
  int64_t size = next->get_size (next);
  uint32_t minimum = 0, preferred = 0, maximum = 0;
  int can_zero;

  if (size < 0 ||
      next->block_size (next, &minimum, &preferred, &maximum) == -1)
    return -1;
  p->size = size;
  p->minimum = MAX (minimum, UINT32_C (1));
  p->preferred = preferred;
  p->step = MAX_STEP;
  if (maximum >= p->minimum && maximum < p->step)
    p->step = round_down (maximum, p->minimum);

#define ASK(feature)                                                    \
  ({ int _r = next->feature (next); if (_r == -1) return -1; _r; })
  p->can_write = ASK (can_write);
  p->can_flush = ASK (can_flush);
  p->can_trim = ASK (can_trim);
  can_zero = ASK (can_zero);
  p->can_zero = can_zero == NBDKIT_ZERO_NATIVE;
  p->can_extents = ASK (can_extents);
  p->is_rotational = ASK (is_rotational);
  ASK (can_fast_zero);
  ASK (can_fua);
  ASK (can_multi_conn);
  ASK (can_cache);
#undef ASK
  return 0;
}

struct plugin *
plugin_open (nbdkit_backend *below, bool readonly, const char *export,
             bool shared)
{
  struct plugin *p = calloc (1, sizeof *p);

  if (p == NULL) {
    report (REPORT_ERROR, "calloc: %m");
    return NULL;
  }
  p->readonly = readonly;
  p->shared = shared;

  PASS_GATE_EARLY ();
  p->next = nbdkit_next_context_open (below, readonly, export, shared);
  if (p->next == NULL) {
    free (p);
    return NULL;
  }
  if (p->next->prepare (p->next) == -1) {
    nbdkit_next_context_close (p->next);
    free (p);
    return NULL;
  }
  if (ask_features (p) == -1) {
    p->next->finalize (p->next);
    nbdkit_next_context_close (p->next);
    free (p);
    return NULL;
  }
  return p;
}

void
plugin_close (struct plugin *p)
{
  if (p == NULL)
    return;
  PASS_GATE_EARLY ();
  p->next->finalize (p->next);
  nbdkit_next_context_close (p->next);
  free (p);
}

/* Calls. -------------------------------------------------------------- */

static int
result (int r, int err)
{
  if (r != -1)
    return 0;
  return err > 0 ? -err : -EIO;
}

/* The same of what can only fail if something is wrong. */
static int
note_result (struct plugin *p, int r, int err)
{
  if (r == -1)
    atomic_store_explicit (&p->failed, true, memory_order_relaxed);
  return result (r, err);
}

/* Whole blocks, in calls the plugin likes. */
static int
read_blocks (struct plugin *p, void *buf, size_t length, uint64_t offset)
{
  while (length > 0) {
    uint32_t n = MIN (length, p->step);
    int err = 0, r;

    {
      PASS_GATE ();
      r = p->next->pread (p->next, buf, n, offset, 0, &err);
    }
    if (r == -1)
      return note_result (p, r, err);
    buf = (char *) buf + n;
    offset += n;
    length -= n;
  }
  return 0;
}

static int
write_blocks (struct plugin *p, const void *buf, size_t length,
              uint64_t offset)
{
  while (length > 0) {
    uint32_t n = MIN (length, p->step);
    int err = 0, r;

    {
      PASS_GATE ();
      r = p->next->pwrite (p->next, buf, n, offset, 0, &err);
    }
    if (r == -1)
      return note_result (p, r, err);
    buf = (const char *) buf + n;
    offset += n;
    length -= n;
  }
  return 0;
}

static int
zero_blocks (struct plugin *p, uint64_t length, uint64_t offset, bool may_trim)
{
  uint32_t flags = may_trim ? NBDKIT_FLAG_MAY_TRIM : 0;

  while (length > 0) {
    uint32_t n = MIN (length, MAX_STEP);
    int err = 0, r;

    {
      PASS_GATE ();
      r = p->next->zero (p->next, n, offset, flags, &err);
    }
    if (r == -1)
      return result (r, err);
    offset += n;
    length -= n;
  }
  return 0;
}

static int
trim_blocks (struct plugin *p, uint64_t length, uint64_t offset)
{
  while (length > 0) {
    uint32_t n = MIN (length, MAX_STEP);
    int err = 0, r;

    {
      PASS_GATE ();
      r = p->next->trim (p->next, n, offset, 0, &err);
    }
    if (r == -1)
      return result (r, err);
    offset += n;
    length -= n;
  }
  return 0;
}

static int
flush_plugin (struct plugin *p)
{
  int err = 0, r;

  /* Without can_flush the return of a write is all the promise there is. */
  if (!p->can_flush)
    return 0;
  PASS_GATE ();
  r = p->next->flush (p->next, 0, &err);
  return note_result (p, r, err);
}

/* The blocks R touches.  The disk's last one may be short. */
static struct range
whole_blocks (struct plugin *p, struct range r)
{
  uint64_t start = round_down (r.start, p->minimum);
  uint64_t end = MIN (round_up (range_end (r), p->minimum), p->size);

  return (struct range) { start, end - start };
}

/* Requests are cut into runs of whole blocks and parts of one block. */
struct run {
  struct range range;
  bool partial;
};

static bool
next_run (struct plugin *p, struct range *rest, struct run *run)
{
  struct range block;

  if (rest->length == 0)
    return false;

  block = whole_blocks (p, (struct range) { rest->start, 1 });
  run->partial = rest->start != block.start || rest->length < block.length;
  if (run->partial)
    run->range = range_clip (*rest, block);
  else if (range_end (*rest) == p->size)
    run->range = *rest;
  else
    run->range = (struct range) {
      rest->start, round_down (rest->length, p->minimum)
    };
  rest->start += run->range.length;
  rest->length -= run->range.length;
  return true;
}

int
plugin_extents (struct plugin *p, struct range range, bool one,
                struct nbdkit_extents **answer)
{
  struct range blocks;
  int err = 0, r;

  range.length = MIN (range.length, (uint64_t) MAX_EXTENTS_REQUEST);
  blocks = whole_blocks (p, range);
  *answer = nbdkit_extents_new (range.start, range_end (range));
  if (*answer == NULL)
    return -ENOMEM;

  PASS_GATE ();
  r = p->next->extents (p->next, blocks.length, blocks.start,
                        one ? NBDKIT_FLAG_REQ_ONE : 0, *answer, &err);
  if (r == -1) {
    nbdkit_extents_free (*answer);
    *answer = NULL;
  }
  return result (r, err);
}

const char *
plugin_description (struct plugin *p)
{
  PASS_GATE ();
  return p->next->export_description (p->next);
}

/* The engine's backing store. ------------------------------------------ */

struct backing {
  struct backend backend;       /* first: the engine's handle on us */

  pthread_mutex_t lock;
  pthread_cond_t changed;
  struct plugin *plugin;        /* lock */
  unsigned holders;             /* lock */
  bool changing;                /* lock */
  int flush_error;              /* lock; an earlier plugin's, not yet told */

  /* Two parts of one block must not read, change and write it at once.
   * Taken before the gate. */
  pthread_mutex_t partial_lock;
};

static struct backing *
backing_of (struct backend *backend)
{
  return (struct backing *) backend;
}

struct plugin *
backing_hold (struct backing *b)
{
  HOLD_LOCK (&b->lock);
  while (b->changing)
    pthread_cond_wait (&b->changed, &b->lock);
  if (b->plugin)
    b->holders++;
  return b->plugin;
}

void
backing_release (struct backing *b)
{
  HOLD_LOCK (&b->lock);
  assert (b->holders > 0);
  if (--b->holders == 0)
    pthread_cond_broadcast (&b->changed);
}

/* False: they are not gone by UNTIL_MS (0: wait for ever). */
static bool
await_holders_locked (struct backing *b, uint64_t until_ms)
{
  while (b->holders > 0)
    if (until_ms == 0)
      pthread_cond_wait (&b->changed, &b->lock);
    else if (!cond_wait_until (&b->changed, &b->lock, until_ms))
      return b->holders == 0;
  return true;
}

bool
backing_try_use (struct backing *b, struct plugin *plugin, uint64_t until_ms)
{
  int r = 0;

  HOLD_LOCK (&b->lock);
  while (b->changing)
    pthread_cond_wait (&b->changed, &b->lock);
  b->changing = true;
  if (!await_holders_locked (b, until_ms)) {
    b->changing = false;
    pthread_cond_broadcast (&b->changed);
    return false;
  }

  /* The next plugin's flush need not cover what this one was given. */
  if (b->plugin && b->plugin != plugin && b->backend.can_write &&
      b->plugin->can_write) {
    mutex_unlock (&b->lock);
    r = flush_plugin (b->plugin);
    mutex_lock (&b->lock);
  }
  if (r < 0)
    b->flush_error = r;

  b->plugin = plugin;
  b->changing = false;
  pthread_cond_broadcast (&b->changed);
  return true;
}

void
backing_use (struct backing *b, struct plugin *plugin)
{
  backing_try_use (b, plugin, 0);
}

bool
backing_uses (struct backing *b, const struct plugin *plugin)
{
  HOLD_LOCK (&b->lock);
  return b->plugin == plugin;
}

static int
backing_pread (struct backend *backend, void *buf, size_t length,
               uint64_t offset)
{
  struct backing *b = backing_of (backend);
  struct plugin *p = backing_hold (b);
  struct range wanted = { offset, length }, whole;
  int r;

  if (p == NULL)
    return -ESHUTDOWN;
  whole = whole_blocks (p, wanted);
  if (whole.length == wanted.length)
    r = read_blocks (p, buf, length, offset);
  else {
    CLEANUP_FREE char *bounce = malloc (whole.length);

    r = bounce ? read_blocks (p, bounce, whole.length, whole.start) : -ENOMEM;
    if (r == 0)
      memcpy (buf, bounce + (offset - whole.start), length);
  }
  backing_release (b);
  return r;
}

/* Change a part of one block.  FROM NULL: to zeros. */
static int
write_part (struct backing *b, struct plugin *p, const void *from,
            struct range part)
{
  struct range block = whole_blocks (p, part);
  CLEANUP_FREE char *bounce = malloc (block.length);
  int r;

  if (bounce == NULL)
    return -ENOMEM;

  HOLD_LOCK (&b->partial_lock);
  r = read_blocks (p, bounce, block.length, block.start);
  if (r < 0)
    return r;
  if (from)
    memcpy (bounce + (part.start - block.start), from, part.length);
  else
    memset (bounce + (part.start - block.start), 0, part.length);
  return write_blocks (p, bounce, block.length, block.start);
}

static int
backing_pwrite (struct backend *backend, const void *buf, size_t length,
                uint64_t offset)
{
  struct backing *b = backing_of (backend);
  struct plugin *p = backing_hold (b);
  struct range rest = { offset, length };
  struct run run;
  int r = 0;

  if (p == NULL)
    return -ESHUTDOWN;
  if (!p->can_write)
    r = -EROFS;
  while (r == 0 && next_run (p, &rest, &run)) {
    const char *from = (const char *) buf + (run.range.start - offset);

    if (run.partial)
      r = write_part (b, p, from, run.range);
    else
      r = write_blocks (p, from, run.range.length, run.range.start);
  }
  backing_release (b);
  return r;
}

static int
backing_zero (struct backend *backend, uint64_t length, uint64_t offset,
              bool may_trim)
{
  struct backing *b = backing_of (backend);
  struct plugin *p = backing_hold (b);
  struct range rest = { offset, length };
  struct run run;
  int r = 0;

  if (p == NULL)
    return -ESHUTDOWN;
  if (!p->can_write || !p->can_zero)
    r = -EOPNOTSUPP;
  while (r == 0 && next_run (p, &rest, &run)) {
    if (run.partial)
      r = write_part (b, p, NULL, run.range);
    else
      r = zero_blocks (p, run.range.length, run.range.start, may_trim);
  }
  backing_release (b);
  return r;
}

static int
backing_trim (struct backend *backend, uint64_t length, uint64_t offset)
{
  struct backing *b = backing_of (backend);
  struct plugin *p = backing_hold (b);
  struct range rest = { offset, length };
  struct run run;
  int r = 0;

  if (p == NULL)
    return -ESHUTDOWN;
  if (!p->can_write || !p->can_trim)
    r = -EOPNOTSUPP;
  while (r == 0 && next_run (p, &rest, &run)) {
    /* The other part of the block may be needed. */
    if (!run.partial)
      r = trim_blocks (p, run.range.length, run.range.start);
  }
  backing_release (b);
  return r;
}

static int
backing_flush (struct backend *backend)
{
  struct backing *b = backing_of (backend);
  struct plugin *p = backing_hold (b);
  int r;

  if (p == NULL)
    return -ESHUTDOWN;

  mutex_lock (&b->lock);
  r = b->flush_error;
  b->flush_error = 0;
  mutex_unlock (&b->lock);

  if (r == 0 && p->can_write)
    r = flush_plugin (p);
  backing_release (b);
  return r;
}

static const struct backend_ops backing_ops = {
  .pread = backing_pread,
  .pwrite = backing_pwrite,
  .zero = backing_zero,
  .trim = backing_trim,
  .flush = backing_flush,
};

struct backing *
backing_new (void)
{
  struct backing *b = calloc (1, sizeof *b);

  if (b == NULL)
    return NULL;
  b->backend.ops = &backing_ops;
  pthread_mutex_init (&b->lock, NULL);
  pthread_mutex_init (&b->partial_lock, NULL);
  cond_init (&b->changed);
  return b;
}

void
backing_free (struct backing *b)
{
  if (b == NULL)
    return;
  assert (b->holders == 0);
  pthread_mutex_destroy (&b->lock);
  pthread_mutex_destroy (&b->partial_lock);
  pthread_cond_destroy (&b->changed);
  free (b);
}

struct backend *
backing_backend (struct backing *b)
{
  return &b->backend;
}

void
backing_describe (struct backing *b, const struct plugin *p)
{
  b->backend.size = p->size;
  b->backend.can_write = p->can_write;
  b->backend.can_zero = p->can_zero;
  b->backend.can_trim = p->can_trim;
  b->backend.max_request = MAX_REQUEST;
  b->backend.max_zero = MAX_ZERO;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "support/memory_backend.h"
#include "support/seed.h"

#define SECTOR UINT64_C (512)

static struct memory_backend *
of (struct backend *b)
{
  return (struct memory_backend *) b;
}

static void
tell (struct memory_backend *mb, backend_hook *hook,
      enum backend_event event, struct range range, const void *buf)
{
  if (hook)
    hook (mb, event, range, buf, mb->opaque);
}

static void
check (struct backend *b, uint64_t length, uint64_t offset, uint64_t limit)
{
  assert (length > 0 && length <= limit);
  assert (offset <= b->size && length <= b->size - offset);
  if (of (b)->delay_us)
    usleep (of (b)->delay_us);
}

/* The lock is held. */
static void
note_unflushed (struct memory_backend *mb, struct range range)
{
  if (mb->stable == NULL)
    return;
  if (mb->unflushed_count == mb->unflushed_room) {
    mb->unflushed_room = mb->unflushed_room ? mb->unflushed_room * 2 : 64;
    mb->unflushed = realloc (mb->unflushed, mb->unflushed_room
                             * sizeof *mb->unflushed);
    assert (mb->unflushed);
  }
  mb->unflushed[mb->unflushed_count++] = range;
}

static int
memory_pread (struct backend *b, void *buf, size_t length, uint64_t offset)
{
  struct memory_backend *mb = of (b);
  const struct range range = { offset, length };

  check (b, length, offset, b->max_request);
  tell (mb, mb->before, BACKEND_READ, range, NULL);
  {
    HOLD_LOCK (&mb->lock);
    mb->reads++;
    if (mb->read_error)
      return mb->read_error;
    memcpy (buf, mb->bytes + offset, length);
  }
  tell (mb, mb->read_done, BACKEND_READ, range, NULL);
  return 0;
}

static int
memory_pwrite (struct backend *b, const void *buf, size_t length,
               uint64_t offset)
{
  struct memory_backend *mb = of (b);
  const struct range range = { offset, length };

  assert (b->can_write);
  check (b, length, offset, b->max_request);
  tell (mb, mb->before, BACKEND_WRITE, range, buf);
  {
    HOLD_LOCK (&mb->lock);
    mb->writes++;
    if (mb->write_error)
      return mb->write_error;
    memcpy (mb->bytes + offset, buf, length);
    note_unflushed (mb, range);
  }
  tell (mb, mb->after, BACKEND_WRITE, range, buf);
  return 0;
}

static int
memory_zero (struct backend *b, uint64_t length, uint64_t offset,
             bool may_trim)
{
  struct memory_backend *mb = of (b);
  const struct range range = { offset, length };

  (void) may_trim;
  assert (b->can_write && b->can_zero);
  check (b, length, offset, b->max_zero);
  tell (mb, mb->before, BACKEND_ZERO, range, NULL);
  {
    HOLD_LOCK (&mb->lock);
    mb->zeros++;
    if (mb->zero_error)
      return mb->zero_error;
    memset (mb->bytes + offset, 0, length);
    note_unflushed (mb, range);
  }
  tell (mb, mb->after, BACKEND_ZERO, range, NULL);
  return 0;
}

static int
memory_trim (struct backend *b, uint64_t length, uint64_t offset)
{
  struct memory_backend *mb = of (b);
  const struct range range = { offset, length };

  assert (b->can_write && b->can_trim);
  check (b, length, offset, b->max_zero);
  tell (mb, mb->before, BACKEND_TRIM, range, NULL);
  {
    HOLD_LOCK (&mb->lock);
    mb->trims++;
    memset (mb->bytes + offset, 0, length);
    note_unflushed (mb, range);
  }
  tell (mb, mb->after, BACKEND_TRIM, range, NULL);
  return 0;
}

static int
memory_flush (struct backend *b)
{
  struct memory_backend *mb = of (b);

  tell (mb, mb->before, BACKEND_FLUSH, (struct range) { 0, 0 }, NULL);
  {
    HOLD_LOCK (&mb->lock);
    mb->flushes++;
    if (mb->flush_error)
      return mb->flush_error;
    for (size_t i = 0; mb->stable && i < mb->unflushed_count; i++)
      memcpy (mb->stable + mb->unflushed[i].start,
              mb->bytes + mb->unflushed[i].start, mb->unflushed[i].length);
    mb->unflushed_count = 0;
  }
  tell (mb, mb->after, BACKEND_FLUSH, (struct range) { 0, 0 }, NULL);
  return 0;
}

static const struct backend_ops memory_ops = {
  .pread = memory_pread,
  .pwrite = memory_pwrite,
  .zero = memory_zero,
  .trim = memory_trim,
  .flush = memory_flush,
};

struct memory_backend *
memory_backend_new (uint64_t size)
{
  struct memory_backend *mb = calloc (1, sizeof *mb);

  assert (mb);
  mb->bytes = calloc (1, size);
  assert (mb->bytes);
  pthread_mutex_init (&mb->lock, NULL);
  mb->backend = (struct backend) {
    .ops = &memory_ops,
    .size = size,
    .can_write = true,
    .can_zero = true,
    .can_trim = true,
    .max_request = 32 << 20,
    .max_zero = 32 << 20,
  };
  return mb;
}

void
memory_backend_free (struct memory_backend *mb)
{
  pthread_mutex_destroy (&mb->lock);
  free (mb->unflushed);
  free (mb->stable);
  free (mb->bytes);
  free (mb);
}

void
memory_backend_track (struct memory_backend *mb)
{
  HOLD_LOCK (&mb->lock);

  assert (mb->stable == NULL);
  mb->stable = malloc (mb->backend.size);
  assert (mb->stable);
  memcpy (mb->stable, mb->bytes, mb->backend.size);
}

void
memory_backend_crash (struct memory_backend *mb, uint64_t *random)
{
  HOLD_LOCK (&mb->lock);

  assert (mb->stable);
  for (size_t i = 0; i < mb->unflushed_count; i++) {
    const struct range range = mb->unflushed[i];
    const uint64_t mode = random_below (random, 3);

    for (uint64_t at = range.start; at < range_end (range); at += SECTOR)
      if (mode == 0 || (mode == 1 && random_below (random, 2) == 0))
        memcpy (mb->stable + at, mb->bytes + at,
                MIN (SECTOR, range_end (range) - at));
  }
  mb->unflushed_count = 0;
  memcpy (mb->bytes, mb->stable, mb->backend.size);
}

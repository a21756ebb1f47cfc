/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arith.h"
#include "support/memory_pmem.h"
#include "support/seed.h"

#define WORD 8
#define SECTOR 512
#define PAGE 4096

struct memory_pmem {
  struct pmem pmem;
  struct memory_device *device;
};

struct memory_tracker {
  uint8_t *durable;
  struct range *pending;        /* stored since the fence or sync */
  size_t count, room;
  uint64_t random;
};

static struct memory_device *
device_of (struct pmem *pmem)
{
  return ((struct memory_pmem *) pmem)->device;
}

static void
check (const struct memory_device *device, uint64_t at, size_t length)
{
  assert (at <= device->size && length <= device->size - at);
}

static void
tell (struct memory_device *device, enum memory_event event, uint64_t at,
      size_t length)
{
  if (device->hook)
    device->hook (device, event, at, length, device->opaque);
}

/* --- memory of devices ------------------------------------------------ */

/* Of the one freed last: tests that cut the power a thousand times need not
 * have the kernel clear as many images, least of all under a sanitizer, whose
 * allocator gives them back at once. */
static struct {
  uint8_t *bytes;
  uint64_t size;
} spare;

/* Its content is whatever it was. */
static uint8_t *
take_bytes (uint64_t size)
{
  uint8_t *bytes;

  if (spare.bytes != NULL && spare.size == size) {
    bytes = spare.bytes;
    spare.bytes = NULL;
  }
  else
    bytes = malloc (size);
  assert (bytes);
  return bytes;
}

static void
give_bytes (uint8_t *bytes, uint64_t size)
{
  free (spare.bytes);
  spare.bytes = bytes;
  spare.size = size;
}

/* --- what is durable -------------------------------------------------- */

/* The range in whole words or pages: what is kept or lost together. */
static struct range
whole_units (const struct memory_device *device, struct range range)
{
  const uint64_t unit = device->ordered ? WORD : PAGE;
  const uint64_t start = round_down (range.start, unit);
  const uint64_t end = MIN (round_up (range_end (range), unit), device->size);

  return (struct range) { start, end - start };
}

static void
make_durable (struct memory_device *device, struct range range)
{
  memcpy (device->tracker->durable + range.start,
          device->bytes + range.start, range.length);
}

static void
track_store (struct memory_device *device, struct range range)
{
  struct memory_tracker *tracker = device->tracker;

  if (tracker == NULL || range.length == 0)
    return;
  range = whole_units (device, range);
  /* The kernel writes back a page now and then, as it was until now. */
  if (!device->ordered && tracker->count > 0
      && random_below (&tracker->random, 4) == 0)
    make_durable (device, tracker->pending[random_below (&tracker->random,
                                                         tracker->count)]);
  if (tracker->count == tracker->room) {
    tracker->room = tracker->room ? tracker->room * 2 : 64;
    tracker->pending = realloc (tracker->pending, tracker->room
                                * sizeof *tracker->pending);
    assert (tracker->pending);
  }
  tracker->pending[tracker->count++] = range;
}

static void
settle_pending (struct memory_device *device)
{
  struct memory_tracker *tracker = device->tracker;

  if (tracker == NULL)
    return;
  for (size_t i = 0; i < tracker->count; i++)
    make_durable (device, tracker->pending[i]);
  tracker->count = 0;
}

void
memory_device_track (struct memory_device *device, uint64_t random)
{
  assert (device->tracker == NULL);
  device->tracker = calloc (1, sizeof *device->tracker);
  assert (device->tracker);
  device->tracker->durable = malloc (device->size);
  assert (device->tracker->durable);
  memcpy (device->tracker->durable, device->bytes, device->size);
  device->tracker->random = random;
}

/* Keep each UNIT bytes of RANGE, or not. */
static void
keep_some (const struct memory_device *device, struct memory_device *image,
           struct range range, uint64_t unit, uint64_t *random)
{
  uint64_t coins = 0;
  unsigned left = 0;

  for (uint64_t at = range.start; at < range_end (range); at += unit) {
    if (left == 0) {
      coins = random_next (random);
      left = 64;
    }
    if (coins & 1)
      memcpy (image->bytes + at, device->bytes + at,
              MIN (unit, range_end (range) - at));
    coins >>= 1;
    left--;
  }
}

struct memory_device *
memory_device_crash (struct memory_device *device, uint64_t *random)
{
  const struct memory_tracker *tracker = device->tracker;
  struct memory_device *image = malloc (sizeof *image);

  assert (tracker && image);
  *image = (struct memory_device) {
    .bytes = take_bytes (device->size),
    .size = device->size,
    .ordered = device->ordered,
    .copies_left = -1,
  };
  memcpy (image->bytes, tracker->durable, device->size);
  for (size_t i = 0; i < tracker->count; i++) {
    const struct range range = tracker->pending[i];

    /* A store that all arrived, or did not at all, is as likely as one that
     * is torn. */
    switch (random_below (random, 4)) {
    case 0:
      memcpy (image->bytes + range.start, device->bytes + range.start,
              range.length);
      break;
    case 1:
      break;
    default:
      keep_some (device, image, range, device->ordered ? WORD
                 : random_below (random, 4) == 0 ? SECTOR : PAGE, random);
    }
  }
  return image;
}

/* --- the device ------------------------------------------------------- */

static bool
is_refused (struct range refused, uint64_t at, size_t length)
{
  return refused.length > 0 && length > 0
    && range_overlaps ((struct range) { at, length }, refused);
}

static int
memory_copy (struct pmem *pmem, uint64_t at, const void *from, size_t length)
{
  struct memory_device *device = device_of (pmem);
  size_t stored = length;
  unsigned number;
  int r = 0;

  check (device, at, length);
  number = __atomic_fetch_add (&device->copies, 1, __ATOMIC_RELAXED);
  if (__atomic_load_n (&device->copy_error, __ATOMIC_RELAXED))
    return device->copy_error;
  if ((is_refused (device->refused, at, length)
       && (device->refuse_every == 0 || number % device->refuse_every == 0))
      || is_refused (device->refused_too, at, length))
    return -EIO;
  if (device->copies_left == 0) {
    device->copies_left = -1;
    stored = length / 2;
    r = -EIO;
  }
  else if (device->copies_left > 0)
    device->copies_left--;
  tell (device, MEMORY_BEFORE_COPY, at, length);
  track_store (device, (struct range) { at, stored });
  memcpy (device->bytes + at, from, stored);
  tell (device, MEMORY_COPIED, at, stored);
  return r;
}

static int
memory_fence (struct pmem *pmem)
{
  struct memory_device *device = device_of (pmem);

  if (device->ordered)
    settle_pending (device);
  tell (device, MEMORY_FENCED, 0, 0);
  return 0;
}

/* The kernel could not write the pages, and calls them clean. */
static void
lose_pending (struct memory_device *device)
{
  struct memory_tracker *tracker = device->tracker;

  if (tracker == NULL)
    return;
  for (size_t i = 0; i < tracker->count; i++)
    if (random_below (&tracker->random, 2) == 0)
      make_durable (device, tracker->pending[i]);
  if (device->drop_broken)
    for (size_t i = 0; i < tracker->count; i++) {
      const struct range page = tracker->pending[i];

      memcpy (device->bytes + page.start, tracker->durable + page.start,
              page.length);
    }
  tracker->count = 0;
}

static bool
memory_trust (struct pmem *pmem, bool trust)
{
  return __atomic_exchange_n (&device_of (pmem)->sync_broken, !trust,
                              __ATOMIC_SEQ_CST);
}

static int
memory_sync (struct pmem *pmem)
{
  struct memory_device *device = device_of (pmem);

  __atomic_fetch_add (&device->syncs, 1, __ATOMIC_RELAXED);
  if (__atomic_load_n (&device->sync_error, __ATOMIC_RELAXED))
    return device->sync_error;
  if (device->break_sync > 0 && --device->break_sync == 0) {
    lose_pending (device);
    __atomic_store_n (&device->sync_broken, true, __ATOMIC_SEQ_CST);
  }
  if (__atomic_load_n (&device->sync_broken, __ATOMIC_SEQ_CST))
    return -EIO;
  /* On an ordered device a store that was not fenced is still not durable. */
  if (!device->ordered)
    settle_pending (device);
  tell (device, MEMORY_SYNCED, 0, 0);
  return 0;
}

static bool
memory_sync_is_near (struct pmem *pmem)
{
  return device_of (pmem)->sync_is_near;
}

static int
memory_make_durable (struct pmem *pmem, uint64_t at, size_t length)
{
  struct memory_device *device = device_of (pmem);

  check (device, at, length);
  settle_pending (device);
  tell (device, MEMORY_SYNCED, 0, 0);
  return __atomic_load_n (&device->sync_error, __ATOMIC_RELAXED);
}

static bool
is_bad (const struct memory_device *device, uint64_t at, size_t length)
{
  return device->bad_length > 0 && length > 0
    && range_overlaps ((struct range) { at, length },
                       (struct range) { device->bad_at, device->bad_length });
}

static int
memory_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  struct memory_device *device = device_of (pmem);

  check (device, at, length);
  if (is_bad (device, at, length))
    return -EIO;
  memcpy (to, device->bytes + at, length);
  return 0;
}

static int
memory_checksum (struct pmem *pmem, uint64_t at, size_t length, uint64_t *sum)
{
  struct memory_device *device = device_of (pmem);

  check (device, at, length);
  if (is_bad (device, at, length))
    return -EIO;
  *sum = XXH3_64bits (device->bytes + at, length);
  return 0;
}

static int
memory_allocate (struct pmem *pmem)
{
  (void) pmem;
  return 0;
}

static void
set_size (uint8_t **bytes, uint64_t from, uint64_t to)
{
  *bytes = realloc (*bytes, to);
  assert (*bytes);
  if (to > from)
    memset (*bytes + from, 0, to - from);
}

void
memory_device_resize (struct memory_device *device, uint64_t size)
{
  set_size (&device->bytes, device->size, size);
  if (device->tracker)
    set_size (&device->tracker->durable, device->size, size);
  device->size = size;
}

static int
memory_resize (struct pmem *pmem, uint64_t size)
{
  struct memory_device *device = device_of (pmem);

  if (device->room > 0 && size > device->room)
    return -ENOSPC;
  settle_pending (device);
  memory_device_resize (device, size);
  pmem->size = size;
  return 0;
}

static void
memory_close (struct pmem *pmem)
{
  free (pmem);
}

static const struct pmem_ops memory_ops = {
  .copy = memory_copy,
  .fence = memory_fence,
  .sync = memory_sync,
  .sync_is_near = memory_sync_is_near,
  .trust = memory_trust,
  .make_durable = memory_make_durable,
  .read = memory_read,
  .checksum = memory_checksum,
  .allocate = memory_allocate,
  .resize = memory_resize,
  .close = memory_close,
};

struct memory_device *
memory_device_new (uint64_t size, bool ordered)
{
  struct memory_device *device = calloc (1, sizeof *device);

  assert (device);
  device->bytes = calloc (1, size);
  assert (device->bytes);
  device->size = size;
  device->ordered = ordered;
  device->copies_left = -1;
  return device;
}

struct memory_device *
memory_device_clone (const struct memory_device *device)
{
  struct memory_device *clone = memory_device_new (device->size,
                                                   device->ordered);

  memcpy (clone->bytes, device->bytes, device->size);
  return clone;
}

void
memory_device_free (struct memory_device *device)
{
  if (device->tracker) {
    free (device->tracker->durable);
    free (device->tracker->pending);
    free (device->tracker);
  }
  give_bytes (device->bytes, device->size);
  free (device);
}

struct pmem *
memory_pmem_open (struct memory_device *device)
{
  struct memory_pmem *mp = calloc (1, sizeof *mp);

  assert (mp);
  mp->device = device;
  mp->pmem = (struct pmem) {
    .ops = &memory_ops,
    .size = device->size,
    .ordered = device->ordered,
    .can_resize = device->can_resize,
    .kind = "memory",
  };
  return &mp->pmem;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "crash/shadow_disk.h"
#include "support/seed.h"

struct shadow_request {
  struct range range;
  uint8_t *data;                /* NULL: zeros */
};

static struct shadow_disk *
of (struct backend *b)
{
  return (struct shadow_disk *) b;
}

static void
apply (uint8_t *to, struct range range, const uint8_t *data)
{
  if (data)
    memcpy (to + range.start, data, range.length);
  else
    memset (to + range.start, 0, range.length);
}

static int
request (struct backend *b, struct range range, const void *buf)
{
  struct shadow_disk *disk = of (b);
  struct shadow_request *r;

  assert (range.length > 0 && range_is_valid (range, b->size));
  mutex_lock (&disk->lock);
  if (disk->pending == disk->room) {
    disk->room = disk->room ? disk->room * 2 : 64;
    disk->requests = realloc (disk->requests,
                              disk->room * sizeof *disk->requests);
    assert (disk->requests);
  }
  r = &disk->requests[disk->pending++];
  *r = (struct shadow_request) { .range = range };
  if (buf) {
    r->data = malloc (range.length);
    assert (r->data);
    memcpy (r->data, buf, range.length);
  }
  apply (disk->bytes, range, buf);
  mutex_unlock (&disk->lock);
  if (disk->changed)
    disk->changed (disk, disk->opaque);
  return 0;
}

static void
forget (struct shadow_disk *disk)
{
  for (size_t i = 0; i < disk->pending; i++)
    free (disk->requests[i].data);
  disk->pending = 0;
}

static int
shadow_pread (struct backend *b, void *buf, size_t length, uint64_t offset)
{
  HOLD_LOCK (&of (b)->lock);

  assert (range_is_valid ((struct range) { offset, length }, b->size));
  memcpy (buf, of (b)->bytes + offset, length);
  return 0;
}

static int
shadow_pwrite (struct backend *b, const void *buf, size_t length,
               uint64_t offset)
{
  return request (b, (struct range) { offset, length }, buf);
}

static int
shadow_zero (struct backend *b, uint64_t length, uint64_t offset,
             bool may_trim)
{
  (void) may_trim;
  return request (b, (struct range) { offset, length }, NULL);
}

static int
shadow_trim (struct backend *b, uint64_t length, uint64_t offset)
{
  return request (b, (struct range) { offset, length }, NULL);
}

static int
shadow_flush (struct backend *b)
{
  struct shadow_disk *disk = of (b);

  mutex_lock (&disk->lock);
  for (size_t i = 0; i < disk->pending; i++)
    apply (disk->stable, disk->requests[i].range, disk->requests[i].data);
  forget (disk);
  mutex_unlock (&disk->lock);
  if (disk->changed)
    disk->changed (disk, disk->opaque);
  return 0;
}

static const struct backend_ops shadow_disk_ops = {
  .pread = shadow_pread,
  .pwrite = shadow_pwrite,
  .zero = shadow_zero,
  .trim = shadow_trim,
  .flush = shadow_flush,
};

struct shadow_disk *
shadow_disk_new (uint64_t size)
{
  struct shadow_disk *disk = calloc (1, sizeof *disk);

  assert (disk);
  disk->bytes = calloc (1, size);
  disk->stable = calloc (1, size);
  assert (disk->bytes && disk->stable);
  pthread_mutex_init (&disk->lock, NULL);
  disk->backend = (struct backend) {
    .ops = &shadow_disk_ops,
    .size = size,
    .can_write = true,
    .can_zero = true,
    .can_trim = true,
    .max_request = 32 << 20,
    .max_zero = 32 << 20,
  };
  return disk;
}

void
shadow_disk_free (struct shadow_disk *disk)
{
  if (disk == NULL)
    return;
  forget (disk);
  pthread_mutex_destroy (&disk->lock);
  free (disk->requests);
  free (disk->bytes);
  free (disk->stable);
  free (disk);
}

void
shadow_disk_set (struct shadow_disk *disk, const uint8_t *bytes)
{
  forget (disk);
  memcpy (disk->bytes, bytes, disk->backend.size);
  memcpy (disk->stable, bytes, disk->backend.size);
}

static void
apply_some (uint8_t *to, const struct shadow_request *r, uint64_t *random)
{
  uint64_t end = range_end (r->range);

  for (uint64_t at = r->range.start, next; at < end; at = next) {
    next = MIN (round_down (at, SHADOW_SECTOR) + SHADOW_SECTOR, end);
    if (random_below (random, 2))
      apply (to, (struct range) { at, next - at },
             r->data ? r->data + (at - r->range.start) : NULL);
  }
}

void
shadow_disk_image (const struct shadow_disk *disk, const bool *keep,
                   uint64_t tear, uint8_t *image)
{
  memcpy (image, disk->stable, disk->backend.size);
  for (size_t i = 0; i < disk->pending; i++) {
    const struct shadow_request *r = &disk->requests[i];

    if (!keep[i])
      continue;
    if (tear)
      apply_some (image, r, &tear);
    else
      apply (image, r->range, r->data);
  }
}

void
shadow_disk_random_image (struct shadow_disk *disk, uint64_t *random,
                          uint8_t *image)
{
  const unsigned manner = random_below (random, 4);
  HOLD_LOCK (&disk->lock);
  CLEANUP_FREE bool *keep = calloc (disk->pending + 1, sizeof *keep);

  assert (keep);
  for (size_t i = 0; i < disk->pending; i++)
    keep[i] = manner == 0 || (manner > 1 && random_below (random, 2));
  shadow_disk_image (disk, keep,
                     manner == 3 ? random_next (random) | 1 : 0, image);
}

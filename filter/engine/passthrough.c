/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>

#include "engine/passthrough.h"

/* The first part of *RANGE, at most LIMIT long; *RANGE becomes the rest. */
static struct range
take_part (struct range *range, uint64_t limit)
{
  const struct range part = { range->start, MIN (range->length, limit) };

  range->start += part.length;
  range->length -= part.length;
  return part;
}

static int
finish (struct backend *backend, int r, bool fua)
{
  return r == 0 && fua ? backend_flush (backend) : r;
}

int
passthrough_read (struct backend *backend, void *buf, struct range range)
{
  uint8_t *p = buf;
  int r = 0;

  while (range.length > 0 && r == 0) {
    const struct range part = take_part (&range, backend->max_request);

    r = backend_pread (backend, p, part.length, part.start);
    p += part.length;
  }
  return r;
}

int
passthrough_write (struct backend *backend, const void *buf,
                   struct range range, bool fua)
{
  const uint8_t *p = buf;
  int r = 0;

  while (range.length > 0 && r == 0) {
    const struct range part = take_part (&range, backend->max_request);

    r = backend_pwrite (backend, p, part.length, part.start);
    p += part.length;
  }
  return finish (backend, r, fua);
}

static int
write_zeros (struct backend *backend, struct range range)
{
  static const uint8_t zeros[64 * 1024];
  int r = 0;

  while (range.length > 0 && r == 0) {
    const struct range part = take_part (&range, sizeof zeros);

    r = backend_pwrite (backend, zeros, part.length, part.start);
  }
  return r;
}

int
passthrough_zero (struct backend *backend, struct range range, bool may_trim,
                  bool fua)
{
  int r = 0;

  while (range.length > 0 && r == 0) {
    const struct range part = take_part (&range, backend->max_zero);

    r = backend_try_zero (backend, part.length, part.start, may_trim, false);
    if (r < 0)
      r = write_zeros (backend, part);
  }
  return finish (backend, r, fua);
}

int
passthrough_trim (struct backend *backend, struct range range, bool fua)
{
  int r = 0;

  while (range.length > 0 && r == 0) {
    const struct range part = take_part (&range, backend->max_zero);

    r = backend_try_zero (backend, part.length, part.start, true, true);
    if (r == -ENOTSUP)
      r = 0;                    /* nothing need happen */
  }
  return finish (backend, r, fua);
}

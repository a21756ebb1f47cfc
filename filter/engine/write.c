/* SPDX-License-Identifier: BSD-3-Clause */

/* Writing: data, zeros and trims, each on the path of the mode in effect
 * (modes.h).  A request is cut into parts; each part takes the path that there is
 * when its turn comes. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "engine/append.h"
#include "engine/holes.h"

/* A record without data may be this long. */
#define MAX_ZERO_RECORD (UINT32_MAX - (uint32_t) INDEX_CHUNK + 1)

/* Zeros that are written because the backing store does not know how to zero. */
#define MAX_ZEROS (UINT64_C (256) * 1024)

struct fua {
  bool wanted;
  bool only_part;               /* it can be made durable by itself */
  bool flush;                   /* the disk has to be flushed at the end */
};

/* A part of a request. */
struct part {
  struct engine *engine;
  enum record_kind kind;
  struct range range;
  const uint8_t *buf;           /* of data */
};

/* --- to the backing store ---------------------------------------------- */

static int
count_request (struct engine *engine, int r, uint64_t length,
               enum stats_counter error)
{
  if (r < 0)
    stats_add (engine->stats, error, 1);
  else {
    stats_add (engine->stats, STAT_through_requests, 1);
    stats_add (engine->stats, STAT_through_bytes, length);
  }
  return r;
}

/* ZEROS: write the same bytes again and again, LIMIT at a time. */
static int
send_bytes (struct engine *engine, const uint8_t *buf, struct range range,
            uint64_t limit, bool zeros)
{
  int r = 0;

  while (range.length > 0 && r == 0) {
    const uint64_t length = MIN (range.length, limit);

    r = count_request (engine, backend_pwrite (engine->backend, buf, length,
                                               range.start),
                       length, STAT_backing_write_errors);
    if (!zeros)
      buf += length;
    range.start += length;
    range.length -= length;
  }
  return r;
}

/* As write-back does it: any failure to zero or trim means that zeros are written,
 * as the plugin's error numbers do not reach us reliably. */
static int
send_zeros (struct engine *engine, struct range range, bool may_trim)
{
  struct backend *backend = engine->backend;
  const uint64_t limit = MIN (MAX_ZEROS, (uint64_t) backend->max_request);
  CLEANUP_FREE uint8_t *zeros = NULL;
  int r = 0;

  while (range.length > 0 && r == 0) {
    const struct range part = {
      range.start, MIN (range.length, backend->max_zero),
    };

    r = backend_try_zero (backend, part.length, part.start, may_trim,
                          may_trim);
    if (backend_knows_zero (backend, may_trim))
      r = count_request (engine, r, part.length, STAT_backing_zero_errors);
    if (r < 0) {
      if (zeros == NULL)
        zeros = calloc (1, limit);
      r = zeros ? send_bytes (engine, zeros, part, limit, true) : -ENOMEM;
    }
    range.start += part.length;
    range.length -= part.length;
  }
  return r;
}

static int
send_part (const struct part *part)
{
  return part->kind == RECORD_DATA
    ? send_bytes (part->engine, part->buf, part->range,
                  part->engine->backend->max_request, false)
    : send_zeros (part->engine, part->range, part->kind == RECORD_TRIM);
}

/* --- the paths --------------------------------------------------------- */

static int
append_part (struct append *append, const struct part *part)
{
  struct record record = { .range = part->range, .kind = part->kind };

  return part->kind == RECORD_DATA
    ? append_data (append, part->buf, part->range)
    : append_record (append, &record);
}

static int
write_back (const struct part *part, struct fua *fua)
{
  struct modes *modes = &part->engine->modes;
  struct append append = {
    .engine = part->engine,
    .path = PATH_BACK,
    .commit = fua->wanted && fua->only_part,
  };
  struct range_hold hold;
  int r;

  if (!range_lock_is_used (&modes->writers))
    r = append_part (&append, part);
  else {
    /* Writes of the mode before are still under way. */
    range_lock_acquire (&modes->writers, &hold, part->range);
    append.hold = &hold;
    r = append_part (&append, part);
    range_lock_release (&modes->writers, &hold);
  }
  fua->flush |= !append.commit;
  return r;
}

/* Crash before the record is durable: neither cache nor backing store has it.
 * After: it is dirty here, and the backing store has it or will be given it again,
 * so nothing older is ever taken for clean (T24). */
static int
write_through (const struct part *part, struct fua *fua)
{
  struct modes *modes = &part->engine->modes;
  struct range_hold hold;
  struct append append = {
    .engine = part->engine,
    .path = PATH_THROUGH,
    .hold = &hold,
    .persist = true,
  };
  int r;

  range_lock_acquire (&modes->writers, &hold, part->range);
  r = append_part (&append, part);
  if (r == 0)
    r = send_part (part);
  if (r < 0 && append.appended)
    modes_break (part->engine);
  range_lock_release (&modes->writers, &hold);
  fua->flush = true;
  return r;
}

/* What cannot be read any more is not forgotten before it has been written:
 * its part of the range stays mapped as lost until the backing store has the new
 * bytes for good. */
static int
write_around_held (const struct part *part)
{
  struct engine *engine = part->engine;
  bool lost;
  int r;

  /* Crash before this is durable: the backing store has what the cache has.
   * After: the cache has nothing, and the backing store old or new. */
  r = MUTATION (AROUND_WITHOUT_HOLE) ? 0
    : holes_begin_write (engine, part->range, &lost);
  if (r < 0)
    return r;
  r = send_part (part);
  /* Some of it may be there also when it failed. */
  modes_note_around (engine, part->range);
  if (r < 0 || !lost)
    return r;
  r = modes_settle (engine);
  return r < 0 ? r : holes_end_lost (engine, part->range);
}

static int
write_around (const struct part *part, struct fua *fua)
{
  struct modes *modes = &part->engine->modes;
  struct range_hold hold;
  int r;

  range_lock_acquire (&modes->writers, &hold, part->range);
  r = write_around_held (part);
  range_lock_release (&modes->writers, &hold);
  fua->flush = true;
  return r;
}

static int
write_part (const struct part *part, enum write_path path, struct fua *fua)
{
  int r;

  switch (path) {
  case PATH_BACK:
    return write_back (part, fua);
  case PATH_THROUGH:
    return write_through (part, fua);
  case PATH_AROUND:
    return write_around (part, fua);
  case PATH_CLOSED:
  case PATH_BROKEN:
    break;
  }
  r = part->engine->wait_for_path (part->engine);
  return r < 0 ? r : -ESTALE;
}

/* As much of REST as goes in one piece. */
static struct range
cut_part (const struct part *part, enum write_path path, struct range rest)
{
  uint64_t limit = MAX_ZERO_RECORD;

  if (part->kind == RECORD_DATA)
    limit = path == PATH_AROUND ? part->engine->backend->max_request
      : LOG_MAX_RESERVE - rest.start % LOG_MAX_RESERVE;
  return (struct range) { rest.start, MIN (rest.length, limit) };
}

static int
write_parts (struct part *part, const struct range range, bool with_fua)
{
  struct modes *modes = &part->engine->modes;
  struct fua fua = { .wanted = with_fua };
  struct range rest = range;

  while (rest.length > 0) {
    const enum write_path path = modes_path (modes);
    int r;

    part->range = cut_part (part, path, rest);
    fua.only_part = part->range.length == range.length;
    r = write_part (part, path, &fua);
    if (r == -ESTALE)
      continue;
    if (r < 0)
      return r;
    if (part->kind == RECORD_DATA)
      part->buf += part->range.length;
    rest.start += part->range.length;
    rest.length -= part->range.length;
  }
  return with_fua && fua.flush ? modes_flush (part->engine) : 0;
}

int
engine_write (struct engine *engine, const void *buf, struct range range,
              bool fua)
{
  struct part part = { .engine = engine, .kind = RECORD_DATA, .buf = buf };

  return write_parts (&part, range, fua);
}

int
engine_write_zeros (struct engine *engine, enum record_kind kind,
                    struct range range, bool fua)
{
  struct part part = { .engine = engine, .kind = kind };

  return write_parts (&part, range, fua);
}

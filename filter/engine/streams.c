/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <string.h>

#include "base/cleanup.h"
#include "engine/streams.h"

/* How many requests may overtake one another.  nbdkit has 16 threads for each
 * connection, but nearly always they keep about in step. */
#define OUT_OF_ORDER 8
#define MAX_SLACK (UINT64_C (8) << 20)

/* A stream outlives so many others that were never gone on with. */
#define STREAM_BONUS (8 * STREAMS_COUNT)

void
streams_init (struct streams *streams)
{
  memset (streams, 0, sizeof *streams);
  pthread_mutex_init (&streams->lock, NULL);
}

void
streams_destroy (struct streams *streams)
{
  pthread_mutex_destroy (&streams->lock);
}

static uint64_t
slack_of (struct range range)
{
  return MIN (range.length, MAX_SLACK / OUT_OF_ORDER) * OUT_OF_ORDER;
}

static unsigned
find_locked (const struct streams *streams, struct range range)
{
  const uint64_t slack = slack_of (range);
  unsigned i;

  for (i = 0; i < STREAMS_COUNT; i++) {
    const uint64_t end = streams->end[i];

    if (end != 0 && range.start <= end + slack && end <= range.start + slack)
      break;
  }
  return i;
}

static unsigned
find_oldest_locked (const struct streams *streams)
{
  unsigned oldest = 0;

  for (unsigned i = 1; i < STREAMS_COUNT; i++)
    if (streams->stream[i].used < streams->stream[oldest].used)
      oldest = i;
  return oldest;
}

static void
begin_locked (struct streams *streams, unsigned i, struct range range)
{
  streams->stream[i] = (struct stream) {
    .start = range.start, .bytes = range.length, .used = streams->clock,
  };
  streams->end[i] = range_end (range);
}

/* False: the range is near the stream, but too much between is missing.  Short
 * reads that hit are not noted, so an eighth may be. */
static bool
extend_locked (struct streams *streams, unsigned i, struct range range)
{
  struct stream *s = &streams->stream[i];
  const uint64_t end = MAX (streams->end[i], range_end (range));
  const uint64_t start = MIN (s->start, range.start);
  const uint64_t span = end - start;
  const uint64_t bytes = MIN (s->bytes + range.length, span);

  if (span - bytes > slack_of (range) + span / 8)
    return false;
  s->start = start;
  s->bytes = bytes;
  s->used = streams->clock + STREAM_BONUS;
  streams->end[i] = end;
  return true;
}

uint64_t
streams_note (struct streams *streams, struct range range)
{
  unsigned i;

  HOLD_LOCK (&streams->lock);
  streams->clock++;
  i = find_locked (streams, range);
  if (i == STREAMS_COUNT)
    begin_locked (streams, find_oldest_locked (streams), range);
  else if (extend_locked (streams, i, range))
    return streams->stream[i].bytes;
  else
    begin_locked (streams, i, range);
  return range.length;
}

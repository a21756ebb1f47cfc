/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "engine/lost.h"

void
lost_init (struct lost_ranges *lost)
{
  *lost = (struct lost_ranges) { .lock = PTHREAD_MUTEX_INITIALIZER };
}

void
lost_destroy (struct lost_ranges *lost)
{
  free (lost->ranges);
  pthread_mutex_destroy (&lost->lock);
}

static size_t
find_locked (const struct lost_ranges *lost, struct range range)
{
  size_t i;

  for (i = 0; i < lost->count; i++)
    if (lost->ranges[i].start == range.start
        && lost->ranges[i].length == range.length)
      break;
  return i;
}

int
lost_add (struct lost_ranges *lost, struct range range)
{
  HOLD_LOCK (&lost->lock);

  if (find_locked (lost, range) < lost->count)
    return 0;
  if (lost->count == lost->room) {
    const size_t room = lost->room ? lost->room * 2 : 16;
    struct range *more = realloc (lost->ranges, room * sizeof *more);

    if (more == NULL)
      return -ENOMEM;
    lost->ranges = more;
    lost->room = room;
  }
  lost->ranges[lost->count++] = range;
  return 0;
}

void
lost_remove (struct lost_ranges *lost, struct range range)
{
  HOLD_LOCK (&lost->lock);
  const size_t i = find_locked (lost, range);

  if (i < lost->count)
    lost->ranges[i] = lost->ranges[--lost->count];
}

bool
lost_get (struct lost_ranges *lost, size_t i, struct range *range)
{
  HOLD_LOCK (&lost->lock);

  if (i >= lost->count)
    return false;
  *range = lost->ranges[i];
  return true;
}

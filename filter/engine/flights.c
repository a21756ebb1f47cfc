/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "engine/flights.h"

void
flights_init (struct flights *flights)
{
  pthread_mutex_init (&flights->lock, NULL);
  cond_init (&flights->landed);
  flights->first = NULL;
}

void
flights_destroy (struct flights *flights)
{
  assert (flights->first == NULL);
  pthread_cond_destroy (&flights->landed);
  pthread_mutex_destroy (&flights->lock);
}

static bool
overlaps_locked (const struct flights *flights, struct range range)
{
  const struct flight *flight = flights->first;

  while (flight && !range_overlaps (flight->range, range))
    flight = flight->next;
  return flight != NULL;
}

bool
flights_enter (struct flights *flights, struct flight *flight,
               struct range range)
{
  bool waited = false;

  HOLD_LOCK (&flights->lock);
  while (overlaps_locked (flights, range)) {
    waited = true;
    pthread_cond_wait (&flights->landed, &flights->lock);
  }
  if (waited)
    return false;
  flight->range = range;
  flight->next = flights->first;
  flight->link = &flights->first;
  if (flight->next)
    flight->next->link = &flight->next;
  flights->first = flight;
  return true;
}

void
flights_leave (struct flights *flights, struct flight *flight)
{
  HOLD_LOCK (&flights->lock);
  *flight->link = flight->next;
  if (flight->next)
    flight->next->link = flight->link;
  pthread_cond_broadcast (&flights->landed);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* Who enters counts himself first and looks at the state then; who shuts it
 * sets the state first and counts then.  So one of the two sees the other.  All
 * of this is sequentially consistent. */

#include <config.h>

#include <stdatomic.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "engine/entrance.h"

enum { OPEN, SHUT, LEFT };

static _Atomic unsigned next_lane;
static THREAD_LOCAL unsigned my_lane;   /* 0: none yet, else lane + 1 */

static _Atomic uint64_t *
inside (struct entrance *entrance)
{
  if (my_lane == 0)
    my_lane = 1 + atomic_fetch_add (&next_lane, 1) % ENTRANCE_LANES;
  return &entrance->lane[my_lane - 1].inside;
}

void
entrance_init (struct entrance *entrance)
{
  pthread_mutex_init (&entrance->lock, NULL);
  cond_init (&entrance->changed);
}

void
entrance_destroy (struct entrance *entrance)
{
  pthread_mutex_destroy (&entrance->lock);
  pthread_cond_destroy (&entrance->changed);
}

static bool
is_anybody_inside (struct entrance *entrance)
{
  for (unsigned i = 0; i < ENTRANCE_LANES; i++)
    if (atomic_load (&entrance->lane[i].inside) > 0)
      return true;
  return false;
}

static void
set_state (struct entrance *entrance, int state)
{
  atomic_store (&entrance->state, state);
  pthread_cond_broadcast (&entrance->changed);
}

void
entrance_leave (struct entrance *entrance)
{
  atomic_fetch_sub (inside (entrance), 1);
  if (atomic_load (&entrance->state) != OPEN) {
    HOLD_LOCK (&entrance->lock);
    pthread_cond_broadcast (&entrance->changed);
  }
}

bool
entrance_enter (struct entrance *entrance)
{
  while (atomic_load (&entrance->state) != LEFT) {
    atomic_fetch_add (inside (entrance), 1);
    if (atomic_load (&entrance->state) == OPEN)
      return true;
    entrance_leave (entrance);
    HOLD_LOCK (&entrance->lock);
    while (atomic_load (&entrance->state) == SHUT)
      pthread_cond_wait (&entrance->changed, &entrance->lock);
  }
  return false;
}

bool
entrance_shut (struct entrance *entrance, uint64_t until_ms)
{
  HOLD_LOCK (&entrance->lock);

  set_state (entrance, SHUT);
  while (is_anybody_inside (entrance))
    if (!cond_wait_until (&entrance->changed, &entrance->lock, until_ms)
        && is_anybody_inside (entrance)) {
      set_state (entrance, OPEN);
      return false;
    }
  return true;
}

void
entrance_open (struct entrance *entrance, bool for_good)
{
  HOLD_LOCK (&entrance->lock);

  set_state (entrance, for_good ? LEFT : OPEN);
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "gate.h"

static bool all_closed, early_closed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t next_please = PTHREAD_COND_INITIALIZER;
static uint64_t next_ticket;            /* lock */
static uint64_t now_serving;            /* lock */

void
gate_set_closed (bool all, bool early)
{
  all_closed = all;
  early_closed = early;
}

static bool
enter (bool closed)
{
  uint64_t ticket;

  if (!closed)
    return false;

  HOLD_LOCK (&lock);
  ticket = next_ticket++;
  while (now_serving != ticket)
    pthread_cond_wait (&next_please, &lock);
  return true;
}

bool
gate_enter (void)
{
  return enter (all_closed);
}

bool
gate_enter_early (void)
{
  return enter (early_closed);
}

void
gate_leave (bool entered)
{
  if (!entered)
    return;

  HOLD_LOCK (&lock);
  now_serving++;
  pthread_cond_broadcast (&next_please);
}

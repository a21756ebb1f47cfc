/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "gate.h"

static bool gate_closed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t next_please = PTHREAD_COND_INITIALIZER;
static uint64_t next_ticket;            /* lock */
static uint64_t now_serving;            /* lock */

void
gate_set_closed (bool closed)
{
  gate_closed = closed;
}

void
gate_enter (void)
{
  uint64_t ticket;

  if (!gate_closed)
    return;

  HOLD_LOCK (&lock);
  ticket = next_ticket++;
  while (now_serving != ticket)
    pthread_cond_wait (&next_please, &lock);
}

void
gate_leave (void)
{
  if (!gate_closed)
    return;

  HOLD_LOCK (&lock);
  now_serving++;
  pthread_cond_broadcast (&next_please);
}

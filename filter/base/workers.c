/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <pthread.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/workers.h"

struct worker {
  pthread_t thread;
  unsigned number;
  void (*work) (void *opaque, unsigned worker);
  void *opaque;
};

unsigned
workers_wanted (uint64_t tasks, uint64_t each)
{
  const uint64_t wanted = MIN (tasks / each, (uint64_t) WORKERS_MAX);
  long cpus;

  if (wanted <= 1)
    return 1;                   /* without asking: that reads a file */
  cpus = sysconf (_SC_NPROCESSORS_ONLN);
  return MIN (wanted, (uint64_t) MAX (cpus, 1L));
}

static void *
worker_main (void *arg)
{
  const struct worker *worker = arg;

  worker->work (worker->opaque, worker->number);
  return NULL;
}

void
workers_run (unsigned count, void (*work) (void *opaque, unsigned worker),
             void *opaque)
{
  struct worker workers[WORKERS_MAX];
  unsigned started;

  assert (count > 0 && count <= WORKERS_MAX);
  for (started = 1; started < count; started++) {
    struct worker *worker = &workers[started];

    *worker = (struct worker) {
      .number = started, .work = work, .opaque = opaque,
    };
    if (pthread_create (&worker->thread, NULL, worker_main, worker) != 0)
      break;
  }
  work (opaque, 0);
  while (--started > 0)
    pthread_join (workers[started].thread, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <string.h>
#include <time.h>

#include "base/arith.h"
#include "bench/workload.h"

_Atomic uint64_t workload_seed = 1;

uint64_t
workload_cpu_ns (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_THREAD_CPUTIME_ID, &ts);
  return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

double
workload_threads (const struct workload *workload, const char *name,
                  void *(*main) (void *), void *opaque)
{
  const unsigned threads = workload->threads;
  struct worker *workers = calloc (threads, sizeof *workers);
  pthread_barrier_t start;
  uint64_t began = UINT64_MAX, ended = 0, cpu_ns = 0;

  must (workers && pthread_barrier_init (&start, NULL, threads) == 0,
        "calloc");
  if (workload->latency)
    memset (workload->latency, 0, sizeof *workload->latency);
  for (unsigned i = 0; i < threads; i++) {
    workers[i] = (struct worker) {
      .workload = workload, .opaque = opaque, .number = i, .start = &start,
    };
    must (pthread_create (&workers[i].thread, NULL, main, &workers[i]) == 0,
          "pthread_create");
    pthread_setname_np (workers[i].thread, name);
  }
  for (unsigned i = 0; i < threads; i++) {
    struct worker *worker = &workers[i];

    pthread_join (worker->thread, NULL);
    began = MIN (began, worker->began_ns);
    ended = MAX (ended, worker->ended_ns);
    cpu_ns = MAX (cpu_ns, worker->cpu_ns);
    if (workload->latency == NULL)
      continue;
    workload->latency->count += worker->latency.count;
    workload->latency->sum_ns += worker->latency.sum_ns;
    for (unsigned j = 0; j < LATENCY_BUCKETS; j++)
      workload->latency->bucket[j] += worker->latency.bucket[j];
  }
  pthread_barrier_destroy (&start);
  free (workers);
  return (double) (workload->requests / threads * threads) * 1e9
    / (double) (workload->cpu_time ? cpu_ns : ended - began);
}

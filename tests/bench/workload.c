/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "bench/workload.h"

_Atomic uint64_t workload_seed = 1;

int
run_delay_open (void)
{
  return open ("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
}

uint64_t
run_delay_ns (int fd)
{
  char text[80];
  const ssize_t length = pread (fd, text, sizeof text - 1, 0);
  unsigned long long delay = 0;

  if (length <= 0)
    return 0;
  text[length] = '\0';
  sscanf (text, "%*u %llu", &delay);
  return delay;
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
  if (workload->longest_ns)
    *workload->longest_ns = 0;
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
    if (workload->longest_ns)
      *workload->longest_ns = MAX (*workload->longest_ns, worker->longest_ns);
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

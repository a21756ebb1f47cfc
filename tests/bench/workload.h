/* SPDX-License-Identifier: BSD-3-Clause */

/* workload: requests of some threads, the same for the cache and for a bare loop.
 *
 * Whoever carries them out is a struct target of functions; workload_run, being
 * inline, is compiled anew for each of them, so that the bare loop is one. */

#ifndef PCACHE_BENCH_WORKLOAD_H
#define PCACHE_BENCH_WORKLOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arith.h"
#include "bench/measure.h"
#include "engine/latency.h"
#include "support/seed.h"

struct workload {
  unsigned threads;
  uint32_t block;               /* bytes of a request */
  bool sequential;
  unsigned read_percent;        /* of requests */
  unsigned flush_every;         /* writes of a thread; 0: no flushes */
  uint64_t working_set;         /* bytes: a range from 0 */
  uint64_t requests;            /* of all threads together; flushes not counted */
  uint64_t pace;                /* requests a second of each thread; 0: as many
                                 * as go */
  bool checksum;
  bool cpu_time;                /* count only when a thread runs */
  struct latency *latency;      /* of requests; NULL: not measured */
  /* Of one request, less what its thread had to wait for a CPU; NULL: not
   * measured.  Asking costs a microsecond before each request. */
  uint64_t *longest_ns;
};

struct target {
  void (*write) (void *opaque, const uint8_t *buf, uint64_t at, uint32_t length,
                 bool checksum);
  void (*read) (void *opaque, uint8_t *buf, uint64_t at, uint32_t length,
                bool checksum);
  void (*flush) (void *opaque);
};

struct worker {
  const struct workload *workload;
  void *opaque;
  unsigned number;
  pthread_barrier_t *start;
  pthread_t thread;
  uint64_t began_ns, ended_ns;
  uint64_t cpu_ns, longest_ns;
  struct latency latency;
};

extern _Atomic uint64_t workload_seed;

/* How long this thread, that has opened it, could have run and had no CPU.  0 where
 * the kernel does not say. */
extern int run_delay_open (void);       /* ends with close */
extern uint64_t run_delay_ns (int fd);

static inline __attribute__ ((always_inline)) void
worker_run (struct worker *worker, const struct target *target)
{
  const struct workload *w = worker->workload;
  const uint64_t blocks = w->working_set / w->block;
  const uint64_t requests = w->requests / w->threads;
  uint64_t random = atomic_fetch_add (&workload_seed, 1) * 7919 + worker->number;
  uint64_t next = blocks / w->threads * worker->number;
  uint8_t *buf = aligned_alloc (4096, (w->block + 4095) / 4096 * 4096);
  unsigned unflushed = 0;
  const int delays = w->longest_ns ? run_delay_open () : -1;

  must (buf != NULL && blocks > 0, "aligned_alloc");
  for (uint32_t i = 0; i < w->block; i += sizeof random) {
    const uint64_t word = random_next (&random);

    __builtin_memcpy (buf + i, &word, sizeof word);
  }
  pthread_barrier_wait (worker->start);
  worker->cpu_ns = clock_read_ns (CLOCK_THREAD_CPUTIME_ID);
  worker->began_ns = clock_ns ();
  for (uint64_t i = 0; i < requests; i++) {
    const uint64_t r = random_next (&random);
    const uint64_t block = w->sequential ? next++ % blocks
      : (uint64_t) (((unsigned __int128) r * blocks) >> 64);
    uint64_t since = 0, delay = 0;

    if (w->pace > 0) {
      const uint64_t due = worker->began_ns + i * 1000000000 / w->pace;

      while (clock_ns () < due)
        ;
    }
    if (w->longest_ns)
      delay = run_delay_ns (delays);
    if (w->latency || w->longest_ns)
      since = clock_ns ();
    if (w->read_percent > 0 && r % 100 < w->read_percent)
      target->read (worker->opaque, buf, block * w->block, w->block,
                    w->checksum);
    else {
      target->write (worker->opaque, buf, block * w->block, w->block,
                     w->checksum);
      if (w->flush_every > 0 && ++unflushed == w->flush_every) {
        target->flush (worker->opaque);
        unflushed = 0;
      }
    }
    if (w->longest_ns) {
      const uint64_t ns = clock_ns () - since;

      if (ns > worker->longest_ns) {
        delay = run_delay_ns (delays) - delay;
        if (ns - MIN (ns, delay) > worker->longest_ns)
          worker->longest_ns = ns - delay;
      }
    }
    if (w->latency) {
      const uint64_t ns = clock_ns () - since;

      worker->latency.bucket[latency_bucket (ns)]++;
      worker->latency.count++;
      worker->latency.sum_ns += ns;
    }
  }
  worker->ended_ns = clock_ns ();
  worker->cpu_ns = clock_read_ns (CLOCK_THREAD_CPUTIME_ID) - worker->cpu_ns;
  free (buf);
  if (delays >= 0)
    close (delays);
}

/* Start the threads with MAIN, which calls worker_run.  NAME is theirs: perf report
 * --comm tells them apart from what goes on besides.  Requests a second. */
extern double workload_threads (const struct workload *workload,
                                const char *name,
                                void *(*main) (void *worker), void *opaque);

#endif /* PCACHE_BENCH_WORKLOAD_H */

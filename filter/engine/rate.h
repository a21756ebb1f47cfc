/* SPDX-License-Identifier: BSD-3-Clause */

/* rate: how fast something goes, over the last RATE_SECONDS.
 *
 * A rate locks itself.  Adding to it costs a clock and a lock: for what happens
 * once a request to the backing store, not once a client's. */

#ifndef PCACHE_RATE_H
#define PCACHE_RATE_H

#include <pthread.h>
#include <stdint.h>

#define RATE_SECONDS 10

struct rate {
  pthread_mutex_t lock;
  uint64_t since_ms;            /* lock; nothing was added before */
  struct {
    uint64_t second, sum;
  } slot[RATE_SECONDS];         /* lock; the one of a second is at its number
                                 * modulo RATE_SECONDS */
};

extern void rate_init (struct rate *rate, uint64_t now_ms);
extern void rate_destroy (struct rate *rate);
/* Threads need not come in the order of their clocks. */
extern void rate_add (struct rate *rate, uint64_t now_ms, uint64_t n);
/* A second. */
extern uint64_t rate_get (struct rate *rate, uint64_t now_ms);

#endif /* PCACHE_RATE_H */

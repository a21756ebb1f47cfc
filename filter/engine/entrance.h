/* SPDX-License-Identifier: BSD-3-Clause */

/* entrance: lets requests into the cache, and can be shut.
 *
 * Whoever is inside may use the cache device.  entrance_shut lets nobody in any
 * more and waits until all have left; then it is either opened again, or left
 * for good.  To enter and to leave are one atomic add each, to a cache line
 * that few threads share. */

#ifndef PCACHE_ENTRANCE_H
#define PCACHE_ENTRANCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define ENTRANCE_LANES 32

struct entrance {
  struct {
    _Atomic uint64_t inside;
    uint8_t padding[64 - sizeof (uint64_t)];
  } lane[ENTRANCE_LANES];
  _Atomic int state;
  pthread_mutex_t lock;
  pthread_cond_t changed;
};

extern void entrance_init (struct entrance *entrance);
extern void entrance_destroy (struct entrance *entrance);

/* Waits while it is shut.  True: inside; the same thread calls entrance_leave.
 * False: the cache was left for good, and there is nothing to leave. */
extern bool entrance_enter (struct entrance *entrance);
extern void entrance_leave (struct entrance *entrance);

/* False: somebody was still inside at UNTIL_MS; it is open. */
extern bool entrance_shut (struct entrance *entrance, uint64_t until_ms);

/* It is shut.  for_good: who waits, and all later, are told false. */
extern void entrance_open (struct entrance *entrance, bool for_good);

#endif /* PCACHE_ENTRANCE_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* streams: which reads go on where earlier ones ended.
 *
 * A small table of recent streams.  A read belongs to a stream if it begins
 * near its end: requests of several connections, or of several threads, come
 * a little out of order.  A stream whose gaps are not filled by later reads is
 * none, so random reads of a small part of the disk do not look like one. */

#ifndef PCACHE_STREAMS_H
#define PCACHE_STREAMS_H

#include <pthread.h>
#include <stdint.h>

#include "base/arith.h"

#define STREAMS_COUNT 32

struct streams {
  pthread_mutex_t lock;
  uint64_t clock;               /* lock; counts calls */
  uint64_t end[STREAMS_COUNT];  /* lock; 0: none */
  struct stream {
    uint64_t start;
    uint64_t bytes;             /* read of it, as far as is known */
    uint64_t used;              /* by the clock */
  } stream[STREAMS_COUNT];      /* lock */
};

extern void streams_init (struct streams *streams);
extern void streams_destroy (struct streams *streams);

/* Note a read.  Returns how many bytes of the stream that it belongs to were
 * read in sequence, this read included; its own length if it is the first. */
extern uint64_t streams_note (struct streams *streams, struct range range);

#endif /* PCACHE_STREAMS_H */

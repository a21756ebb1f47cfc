/* SPDX-License-Identifier: BSD-3-Clause */

/* replay: what lies on the device, without changing it.
 *
 * Reads every set of every segment in use, decides about torn ends and damage,
 * fills the index with the records, of which the highest sequence number counts,
 * and the epoch queue with what is still to be written back.
 * Stores nothing: recovery.c goes on from here when a cache is opened, the
 * offline tools stop here. */

#ifndef PCACHE_REPLAY_H
#define PCACHE_REPLAY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

/* What is found out about a segment in use. */
struct finding {
  struct segment *segment;
  uint32_t sets;                /* valid ones from the start, or in a damaged
                                 * segment the ordinal after the last */
  bool damaged;
  uint64_t hidden_epoch;        /* damaged: no later epoch is hidden */
  uint64_t hidden_sequence;     /* damaged: nor a later sequence number */
  uint64_t epoch_max;           /* of dirty records */
  uint64_t sequence_min, sequence_max;
  uint64_t epoch_seen;          /* of any set */
  bool leftovers;               /* sets that do not count, but whole */
  uint32_t barren;              /* no set ends at or below this */
  bool collected;               /* its records are, on their way to the index */
};

struct replay {
  struct engine *engine;
  uint64_t evicted_through;     /* the tail on media */
  uint64_t tail;                /* that, or higher because of damage */
  uint64_t written_back;
  bool lost;                    /* some range may be lost */
  _Atomic uint64_t durable_through;     /* the highest that any set declares */
  struct finding *findings;     /* segments in use */
  uint32_t count;
  unsigned workers;             /* threads that read them */
  bool hides_dirty;             /* damage may */
  bool needs_rescue;            /* options.rescue only let it go on */
  uint64_t sequence;            /* the last one used */
  uint64_t epoch;               /* the first one not used */
};

/* ENGINE has pmem, superblock, segments, queue, reader, index and stats; queue and
 * index are empty.  A large cache is read by several threads.  0, or
 * -errno: -EUCLEAN when there is damage that may hide dirty data (unless
 * options.rescue), which was reported.  Call replay_free in any case. */
extern int replay_read (struct replay *replay, struct engine *engine);
extern void replay_free (struct replay *replay);

/* The sets of a segment that count, in their order.
 *
 *   counted_sets_start (&sets, &engine->reader, finding);
 *   while ((r = counted_sets_next (&sets, &set)) > 0) ... */
struct counted_sets {
  const struct finding *finding;
  struct log_walk walk;
};

extern void counted_sets_start (struct counted_sets *sets,
                                const struct log_reader *reader,
                                const struct finding *finding);
/* 1: there is a set; 0: there are no more; -EIO: it can no longer be read. */
extern int counted_sets_next (struct counted_sets *sets, struct set *set);

#endif /* PCACHE_REPLAY_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* explorer: runs a history on a shadow device and a shadow disk, stops it at
 * every point where a power cut could leave something new, and tries what
 * each such power cut leaves.
 *
 * A history is a start (what is on the device and in memory) and a list of
 * steps.  Crash points are: before each fence and sync (then the most is
 * pending: what a crash anywhere since the last one leaves is among it), after
 * each request to the backing store, and after each step.  At each, states of the
 * device are combined with states of the backing store; each pair is opened
 * and held against the oracle:
 *   - it opens, and what is read is legal (P1, P2), twice in a row the same;
 *   - the backing store alone is legal (P3);
 *   - for some: a crash while it is opened is safe as well; drained, the backing
 *     store has just what was read, and never was illegal on the way; all
 *     evicted, the same is read; it can be written to again.
 *
 * Everything follows from the history and one seed. */

#ifndef PCACHE_EXPLORER_H
#define PCACHE_EXPLORER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crash/state_set.h"
#include "engine/settings.h"

/* A step is a letter, and for some a number that says more. */
struct step {
  char letter;
  uint32_t number;
};

/* What a history is made of; see explorer.c for the ranges.
 *   w v y  writes: small, large and unaligned, the odd tail of the disk
 *   F      FUA write, overlapping w
 *   f      flush
 *   t z    trim, zero
 *   r      read, filled in from the backing store
 *   b      one step of write-back
 *   g      one step of eviction
 *   s      change gc-percent
 *   o      clean stop, start
 *   k      the process dies, somewhere in the step before; start
 *   x      the power goes, somewhere in the step before; start
 * where modes are looked at, too:
 *   m      change to the next mode
 *   i      invalidate
 * with a number that chooses range, length and flags:
 *   W T Z R  write, trim, zero, read
 *   d        drain
 *   p        prefetch */
#define ALL_STEPS "wvyFftzrbgsokx"
#define MODE_STEPS "wvFfzrbgokxmi"

#define MAX_STEPS 400

struct history {
  const struct start *start;
  const char *whole;            /* of another kind (explore_whole); or NULL */
  unsigned count;
  struct step step[MAX_STEPS];
};

struct start {
  const char *name;
  bool ordered, data_crc;
  unsigned segments, heads;
  bool used;                    /* every segment has had an earlier life, and
                                 * the first write opens the last free one */
  enum cache_mode mode;         /* in effect at its end */
};

extern const struct start starts[];
extern const unsigned start_count;

struct effort {
  unsigned exhaustive;          /* all subsets, if they are so many at most */
  unsigned samples;             /* else so many of each kind */
  unsigned tears;               /* units torn at each point */
  unsigned again_every;         /* open a second time, for one in so many */
  unsigned nested_every;        /* crash while opening, for one in so many */
  unsigned deep_every;          /* drain, evict, go on, for one in so many */
};

struct counts {
  _Atomic uint64_t sequences, points;
  _Atomic uint64_t tried;       /* states opened and read */
  _Atomic uint64_t again;       /* of them, opened a second time */
  _Atomic uint64_t nested;      /* of them, with a crash while opening */
  _Atomic uint64_t deep;        /* of them, drained, evicted, written to */
  _Atomic uint64_t backing;     /* contents of the backing store alone */
};

struct explorer;

/* SEEN: states of device and backing store.  DONE: the same with what must be
 * found there. */
extern struct explorer *
explorer_new (const struct start *start, const struct effort *effort,
              struct state_set *seen, struct state_set *done,
              struct counts *counts);
extern void explorer_free (struct explorer *explorer);

/* Run it; explore the crash points of the last step, or of ALL.  NULL, or
 * what is wrong (valid until the next call). */
extern const char *explore (struct explorer *explorer,
                            const struct history *history, bool all);

/* Histories of another kind, by name: "formatting" of a cache with dirty data and of a new
 * device; "resizing": growth with dirty data on a device that became larger, then
 * the same cache, drained, made smaller again. */
extern const char *whole_named (const char *name);      /* or NULL */

/* The explorer is good for nothing else afterwards. */
extern const char *explore_whole (struct explorer *explorer,
                                  const char *name);

#endif /* PCACHE_EXPLORER_H */

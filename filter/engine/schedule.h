/* SPDX-License-Identifier: BSD-3-Clause */

/* schedule: when write-back is due, and why.
 *
 * In this order: a drain waits for it; space is short; so much is dirty
 * (pcache-dirty-high, until it is no more than pcache-dirty-low); the oldest
 * dirty data is old enough (pcache-writeback-delay); no client has asked for
 * anything for a while (pcache-writeback-idle).  A pause leaves only the first.
 *
 * No clock and no lock: who calls it says what the time is and how things
 * are. */

#ifndef PCACHE_SCHEDULE_H
#define PCACHE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/settings.h"

enum writeback_cause {
  CAUSE_NONE,                   /* not due */
  CAUSE_DRAIN,
  CAUSE_SPACE,
  CAUSE_DIRTY,
  CAUSE_AGE,
  CAUSE_IDLE,
};

/* All zeros: a new one. */
struct schedule {
  bool above;                   /* the high mark was passed, and the low one not
                                 * reached since */
  uint64_t requests;            /* so many had come at the last look... */
  uint64_t quiet_since_ms;      /* ...and no more since then */
};

struct situation {
  uint64_t now_ms;
  uint64_t oldest_ms;           /* when the oldest dirty data came */
  uint64_t dirty_space, space;  /* of the segments: bytes that dirty records
                                 * take, bytes in all */
  uint64_t requests;            /* of clients, up to now */
  bool drain, paused, short_of_space;
};

/* Nothing is dirty: when to look again, from now. */
extern uint64_t schedule_pause_ms (const struct settings *settings);

/* Something is dirty: is it to be written back now?  If not, *next_ms: when to
 * look again at the latest. */
extern enum writeback_cause
schedule_look (struct schedule *schedule, const struct settings *settings,
               const struct situation *situation, uint64_t *next_ms);

#endif /* PCACHE_SCHEDULE_H */

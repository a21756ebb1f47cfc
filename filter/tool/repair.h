/* SPDX-License-Identifier: BSD-3-Clause */

/* repair: put a damaged cache in order, as far as it can be proved that nothing
 * is lost by it.
 *
 *   found                                       done
 *   ------------------------------------------  -----------------------------
 *   one copy of a twin is damaged               written again from the other
 *   record sets damaged, all that they can      clean data as old is dropped,
 *   hide is written back                        the segment is freed if
 *                                               nothing dirty is in it
 *   both copies of a segment's header damaged,  clean data is dropped, the
 *   all that its sets hold is written back      segment is freed
 *   the same, but dirty data may be hidden      only with drop: what can be
 *                                               read moves to a free segment,
 *                                               the rest is given up
 *   control block or superblock has no copy     nothing
 *
 * Each step is one update of a twin, after all that it rests on is durable: a
 * crash leaves the device as it was before the step, or after it. */

#ifndef PCACHE_REPAIR_H
#define PCACHE_REPAIR_H

#include <stdbool.h>

#include "pmem/pmem.h"

struct repair {
  bool drop;                    /* what may be dirty and cannot be read */
  /* Each step, and what is left as it is: one line.  NULL: not told. */
  void (*say) (const char *line);
  unsigned steps;               /* done */
  unsigned drops;               /* of them, those that may cost data */
  unsigned left;                /* damage that was left as it is */
  unsigned left_harmless;       /* and with which nbdkit opens the cache */
};

/* 0 or -errno: what was done until then is done. */
extern int repair_run (struct repair *repair, struct pmem *pmem);

#endif /* PCACHE_REPAIR_H */

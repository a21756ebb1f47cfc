/* SPDX-License-Identifier: BSD-3-Clause */

/* append: a part of a write on its way into the log and the index.
 *
 * Reserve, copy, checksum, fence; then, under the lock of the index region,
 * append the record and map the extent.  Any failure before the append leaves the
 * old mapping as it was: the reserved space is lost until its segment is evicted,
 * nothing else. */

#ifndef PCACHE_APPEND_H
#define PCACHE_APPEND_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

/* New places tried when the device refuses a store. */
#define APPEND_MAX_ATTEMPTS 3

struct append {
  struct engine *engine;
  enum write_path path;         /* if it is not this any more when the region is
                                 * locked, nothing is appended */
  struct range_hold *hold;      /* the caller's, of the range; NULL: none */
  bool commit;                  /* durable on return, and the epoch has ended */
  bool persist;                 /* durable on return, epoch or not; HOLD has an
                                 * epoch from then on */
  bool appended;                /* out: also when what came after failed */
};

/* RANGE lies in one chunk and fits one reservation.  -ESTALE: the path has
 * changed. */
extern int append_data (struct append *append, const uint8_t *buf,
                        struct range range);
/* RECORD has no data. */
extern int append_record (struct append *append, struct record *record);

/* log_reserve, and wait for space. */
extern int append_reserve (struct engine *engine, uint32_t data_bytes,
                           unsigned records, struct reservation *res);

#endif /* PCACHE_APPEND_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* expected: what each byte of the disk may be.
 *
 * A byte is what the newest change that was acknowledged made of it, or what
 * any later change that failed would have made of it: that may be there,
 * wholly or in part.  After a crash, "acknowledged" means: and flushed since,
 * or with FUA; the other ones then may be there or not.
 *
 * Bytes that were reported as lost may read as an error until they are
 * overwritten. */

#ifndef PCACHE_TEST_EXPECTED_H
#define PCACHE_TEST_EXPECTED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arith.h"

struct change {
  struct range range;
  uint64_t id;                  /* its bytes; 0: zeros */
  bool acknowledged, durable;
};

enum lost {
  NOT_LOST,
  LOST_PERHAPS,                 /* a read found it so: it may be there again */
  LOST,                         /* write-back found it so: it must stay so */
};

#define EXPECTED_MAX_CHANGES 256

struct expected {
  uint8_t *base;                /* before all changes */
  uint8_t *lost;                /* of enum lost, for each byte */
  bool any_lost;
  uint64_t size;
  struct change change[EXPECTED_MAX_CHANGES];
  unsigned count;
};

/* BASE has SIZE bytes. */
extern void expected_init (struct expected *expected, const uint8_t *base,
                           uint64_t size);
extern void expected_copy (struct expected *to, const struct expected *from);
extern void expected_free (struct expected *expected);

/* The bytes that change ID stores at RANGE of the disk. */
extern void change_bytes (void *buf, struct range range, uint64_t id);

/* A change was asked for.  FUA only counts if it was acknowledged. */
extern void expected_change (struct expected *expected, struct range range,
                             uint64_t id, bool acknowledged, bool fua);
/* A flush was acknowledged. */
extern void expected_flushed (struct expected *expected);
/* What was not flushed may be gone. */
extern void expected_crashed (struct expected *expected);
/* RANGE was reported as lost. */
extern void expected_lost (struct expected *expected, struct range range,
                           enum lost how);
/* How RANGE starts: so many bytes are lost in the same way. */
extern uint64_t expected_lost_run (const struct expected *expected,
                                   struct range range, enum lost *how);

/* The first byte in BUF, which was read from RANGE, that it may not be; or
 * range_end.  however_old: what was overwritten will do as well. */
extern uint64_t expected_check (const struct expected *expected,
                                const uint8_t *buf, struct range range,
                                bool however_old);

#endif /* PCACHE_TEST_EXPECTED_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* twin: metadata that exists twice.
 *
 * Two copies lie far apart; at rest both are valid and equal.  An update
 * writes first the copy that is older or invalid, makes it durable, then
 * writes the other and makes that durable too; only then has it happened and
 * may anything be built on it.  So
 *   - at every instant one copy that was current before the update, or is
 *     current after it, is whole (a crash tears at most the copy being
 *     written);
 *   - once an update has returned, losing either copy to a media error loses
 *     nothing: the other says the same.
 * If the first copy cannot be written (media error) the update fails and
 * the other stays as it is: it is the last one.  If only the second cannot,
 * the update has happened. */

#ifndef PCACHE_TWIN_H
#define PCACHE_TWIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/format.h"
#include "pmem/pmem.h"

#define TWIN_MAX_BYTES 2048

/* What one copy turned out to be. */
enum twin_verdict {
  TWIN_OK,
  TWIN_BLANK,                   /* all zeros */
  TWIN_FOREIGN,                 /* the magic number is not ours */
  TWIN_CORRUPT,                 /* the magic number is, the checksum is wrong */
  TWIN_UNREADABLE,              /* media error */
};

struct twin {
  uint64_t at[2];
  uint64_t magic;
  uint64_t seed;                /* of the checksum */
  size_t bytes;                 /* of the whole struct on media */
  uint64_t sequence;            /* of the current content */
  enum twin_verdict verdict[2];
  uint64_t copy_sequence[2];    /* of the copies that are OK */
};

extern const char *twin_verdict_name (enum twin_verdict verdict);

/* Read both copies; the newest valid one goes to CONTENT (twin->bytes).
 * True if there is one. */
extern bool twin_read (struct twin *twin, struct pmem *pmem, void *content);

/* Write CONTENT (its twin header is filled in here) as the next update.
 * 0, or -errno with the old content still current. */
extern int twin_update (struct twin *twin, struct pmem *pmem, void *content);

/* Both copies are valid and say the same. */
static inline bool
twin_is_whole (const struct twin *twin)
{
  return twin->verdict[0] == TWIN_OK && twin->verdict[1] == TWIN_OK
    && twin->copy_sequence[0] == twin->copy_sequence[1];
}

/* Write both copies of something that nobody counts on yet; durable with
 * the caller's next sync. */
extern int twin_write_new (struct twin *twin, struct pmem *pmem,
                           void *content);

#endif /* PCACHE_TWIN_H */

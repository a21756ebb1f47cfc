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
 *
 * Where a copy lies is its home.  In the same page each may have a spare
 * place, which is blank (zeros) as long as both homes take stores.  When one
 * home refuses a store, the other side goes on alone, with its own spare in
 * place of the copy that is gone: the two places of that side are then updated
 * just as two homes are, the older or invalid one first, each made durable
 * before the next is touched.
 *
 *            home A   home B   spare B
 *   at rest  7        7        -
 *   A fails  ?        7        8         home B is the newest, so not that one
 *            ?        8        8         the update has happened
 *   A heals  9        8        8
 *            9        8        -         not before home A is durable
 *            9        9        -
 *
 * Before it writes over one copy an update reads the other again, as a media error
 * since then would leave none, if the power went as well.
 *
 * So what a spare says is never older than both homes.  A side whose spare is not
 * blank and cannot be wiped counts as one that refuses stores.
 *
 * Without a spare, an update whose first copy cannot be written fails and the
 * other stays as it is: it is the last one.  If only the second cannot, the
 * update has happened. */

#ifndef PCACHE_TWIN_H
#define PCACHE_TWIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/format.h"
#include "engine/stats.h"
#include "pmem/pmem.h"

#define TWIN_MAX_BYTES 2048

/* What lies in one place. */
enum twin_verdict {
  TWIN_BLANK,                   /* all zeros */
  TWIN_OK,
  TWIN_FOREIGN,                 /* the magic number is not ours */
  TWIN_CORRUPT,                 /* the magic number is, the checksum is wrong */
  TWIN_UNREADABLE,              /* media error */
  TWIN_OVERRULED,               /* valid, but what is damaged may be newer */
};

/* Places 0 and 1 are the homes, these their spares. */
#define TWIN_PLACES 4
#define TWIN_SPARE(copy) (2 + (copy))

struct twin {
  uint64_t at[2];               /* the homes */
  uint64_t spare;               /* from a home to its spare; 0: it has none */
  uint64_t magic;
  uint64_t seed;                /* of the checksum */
  size_t bytes;                 /* of the whole struct on media */
  const char *what;             /* for messages; NULL: the caller's matter */
  struct stats *stats;          /* counts media errors; or NULL */
  uint64_t sequence;            /* of the current content */
  uint64_t last_tried;          /* of an update that failed, it may be there */
  enum twin_verdict verdict[TWIN_PLACES];
  uint64_t place_sequence[TWIN_PLACES]; /* of those that are OK */
  bool a_last;                  /* copy B goes first: something that counts is in
                                 * the place of copy A */
  bool refused[2];              /* the side took no stores last time */
};

extern const char *twin_verdict_name (enum twin_verdict verdict);

/* Read all places; the newest valid one goes to CONTENT (twin->bytes).  True if
 * there is one that can be believed. */
extern bool twin_read (struct twin *twin, struct pmem *pmem, void *content);

/* Write CONTENT (its twin header is filled in here) as the next update.
 * 0, or -errno: it has not happened, but a crash may still bring it about. */
extern int twin_update (struct twin *twin, struct pmem *pmem, void *content);

/* Both copies are valid and say the same, and nothing is in a spare. */
static inline bool
twin_is_whole (const struct twin *twin)
{
  return twin->verdict[0] == TWIN_OK && twin->verdict[1] == TWIN_OK
    && twin->place_sequence[0] == twin->place_sequence[1]
    && twin->verdict[TWIN_SPARE (0)] == TWIN_BLANK
    && twin->verdict[TWIN_SPARE (1)] == TWIN_BLANK;
}

/* Write both copies, and blank spares, of something that nobody counts on
 * yet; durable with the caller's next sync. */
extern int twin_write_new (struct twin *twin, struct pmem *pmem,
                           void *content);

#endif /* PCACHE_TWIN_H */

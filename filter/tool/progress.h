/* SPDX-License-Identifier: BSD-3-Clause */

/* progress: a bar on stderr, if that is a terminal. */

#ifndef PCACHE_PROGRESS_H
#define PCACHE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
  const char *what;
  uint64_t total;               /* bytes */
  uint64_t begun_ms, shown_ms;
  bool shown;
};

extern void progress_begin (struct progress *progress, const char *what,
                            uint64_t total);
/* DONE bytes of them, with rate and how long the rest will take; a few times a
 * second at most. */
extern void progress_show (struct progress *progress, uint64_t done);
/* Leave the line empty. */
extern void progress_end (struct progress *progress);

#endif /* PCACHE_PROGRESS_H */

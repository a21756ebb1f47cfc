/* SPDX-License-Identifier: BSD-3-Clause */

/* check: every checksum of a cache, and what a failure means. */

#ifndef PCACHE_CHECK_H
#define PCACHE_CHECK_H

#include "tool/snapshot.h"
#include "tool/progress.h"

struct check_result {
  uint64_t sets, records, data_bytes;   /* looked at */
  uint64_t unverified_bytes;            /* data without a checksum */
  uint64_t damaged;                     /* problems that cost nothing */
  uint64_t dirty_damaged;               /* those that cost data */
  struct json_object *problems;         /* a list */
};

/* All of it.  PROGRESS: NULL, or shown.  0 or -errno. */
extern int check_snapshot (struct snapshot *snap, struct progress *progress,
                        struct check_result *result);
extern void check_free (struct check_result *result);

#endif /* PCACHE_CHECK_H */

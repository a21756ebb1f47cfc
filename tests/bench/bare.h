/* SPDX-License-Identifier: BSD-3-Clause */

/* bare: the limit.  What a request has to do at the very least, and nothing
 * else, in a mapped file of its own on the same file system as the cache
 * device:
 *
 *   write   copy past the CPU's caches, XXH3 of the source, fence
 *   read    copy out, XXH3 of the copy
 *   flush   copy 128 bytes, to a place of the thread's own; fence */

#ifndef PCACHE_BENCH_BARE_H
#define PCACHE_BENCH_BARE_H

#include "bench/workload.h"

struct bare;

/* A file in DIRECTORY, removed at once; every page of it is there. */
extern struct bare *bare_new (const char *directory, uint64_t size);
extern void bare_free (struct bare *bare);

/* Requests a second.  The working set may be as large as the file. */
extern double bare_run (struct bare *bare, const struct workload *workload);

#endif /* PCACHE_BENCH_BARE_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* trace: reads of blocks, made at random from a number, of kinds that are hard in
 * different ways.  CAPACITY is that of the cache that they are to be hard for. */

#ifndef PCACHE_TRACE_H
#define PCACHE_TRACE_H

#include <stddef.h>
#include <stdint.h>

#define TRACES_LIST(X)                                                  \
  X (zipf_07, "Zipf 0.7", "few blocks are much hotter than others")     \
  X (zipf_09, "Zipf 0.9", "as on most disks")                           \
  X (zipf_11, "Zipf 1.1", "a few blocks take most reads")               \
  X (scans, "Zipf and scans",                                           \
     "Zipf 0.9, and every now and then everything is read once")        \
  X (loop, "Loop", "a fifth more than fits, again and again, in order") \
  X (shifting, "Shifting", "Zipf 0.9, of blocks that others follow")    \
  X (boots, "Boots", "the same start, some work and a backup, each day")

enum trace_kind {
#define X(name, ...) TRACE_##name,
  TRACES_LIST (X)
#undef X
  TRACES_COUNT
};

struct trace {
  uint32_t *block;
  size_t length;
  uint32_t blocks;              /* all are below this */
};

extern const char *trace_name (enum trace_kind kind);
extern const char *trace_description (enum trace_kind kind);

extern struct trace trace_make (enum trace_kind kind, uint32_t capacity,
                                size_t length, uint64_t random);
extern void trace_free (struct trace *trace);

#endif /* PCACHE_TRACE_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* arith: small integer helpers and logical ranges.
 *
 * A range is a run of bytes of the disk (or of any other linear space).
 * Ends never overflow: whoever makes a range from outside input checks it
 * with range_is_valid first. */

#ifndef PCACHE_ARITH_H
#define PCACHE_ARITH_H

#include <stdbool.h>
#include <stdint.h>

/* Each argument is evaluated once; names of their own let calls nest. */
#define ARITH_PASTE2(a, b) a##b
#define ARITH_PASTE(a, b) ARITH_PASTE2 (a, b)
#define ARITH_PICK(op, a, b, x, y)                                      \
  ({ __typeof__ (a) x = (a); __typeof__ (b) y = (b); x op y ? x : y; })
#define MIN(a, b)                                                       \
  ARITH_PICK (<, a, b, ARITH_PASTE (_a, __COUNTER__),                   \
              ARITH_PASTE (_b, __COUNTER__))
#define MAX(a, b)                                                       \
  ARITH_PICK (>, a, b, ARITH_PASTE (_a, __COUNTER__),                   \
              ARITH_PASTE (_b, __COUNTER__))

/* ALIGNMENT is a power of two; the caller knows that N is far from the
 * type's maximum. */
static inline uint64_t
round_up (uint64_t n, uint64_t alignment)
{
  return (n + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t
round_down (uint64_t n, uint64_t alignment)
{
  return n & ~(alignment - 1);
}

/* For qsort and bsearch. */
static inline int
compare_u64 (const void *a, const void *b)
{
  const uint64_t *x = a, *y = b;

  return (*x > *y) - (*x < *y);
}

static inline bool
is_power_of_2 (uint64_t n)
{
  return n != 0 && (n & (n - 1)) == 0;
}

struct range {
  uint64_t start;
  uint64_t length;
};

static inline uint64_t
range_end (struct range r)
{
  return r.start + r.length;
}

/* Not empty, and ends at or before LIMIT. */
static inline bool
range_is_valid (struct range r, uint64_t limit)
{
  return r.length > 0 && r.length <= limit && r.start <= limit - r.length;
}

static inline bool
range_overlaps (struct range a, struct range b)
{
  return a.start < range_end (b) && b.start < range_end (a);
}

/* The part of A that lies in B; length 0 when there is none. */
static inline struct range
range_clip (struct range a, struct range b)
{
  uint64_t start = MAX (a.start, b.start);
  uint64_t end = MIN (range_end (a), range_end (b));

  return (struct range) { start, end > start ? end - start : 0 };
}

#endif /* PCACHE_ARITH_H */

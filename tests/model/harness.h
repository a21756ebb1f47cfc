/* SPDX-License-Identifier: BSD-3-Clause */

/* harness: what the model tests have in common: one seed, one scale, TAP.
 *
 *   --seed N   PCACHE_SEED=N   that history and no other
 *   --ops N    PCACHE_OPS=N    so many operations in all
 *   --trace    PCACHE_TRACE=1  print each operation
 *
 * Without a seed the ones that ever failed are replayed, and then new ones
 * are tried.  Every story prints its seed before it begins, so a failed
 * assertion of the engine tells as much as a wrong byte. */

#ifndef PCACHE_MODEL_HARNESS_H
#define PCACHE_MODEL_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"
#include "engine/cache.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)

/* --- random numbers: splitmix64 --------------------------------------- */

struct rng {
  uint64_t state;
};

static inline uint64_t
mix64 (uint64_t z)
{
  z = (z ^ z >> 30) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C (0x94d049bb133111eb);
  return z ^ z >> 31;
}

static inline uint64_t
rng_next (struct rng *rng)
{
  return mix64 (rng->state += UINT64_C (0x9e3779b97f4a7c15));
}

/* 0 .. n-1 */
static inline uint64_t
rng_below (struct rng *rng, uint64_t n)
{
  return rng_next (rng) % n;
}

/* low .. high */
static inline uint64_t
rng_between (struct rng *rng, uint64_t low, uint64_t high)
{
  return low + rng_below (rng, high - low + 1);
}

static inline bool
rng_one_in (struct rng *rng, uint64_t n)
{
  return rng_below (rng, n) == 0;
}

/* Low .. high; each power of two is as likely as the next. */
extern uint64_t rng_length (struct rng *rng, uint64_t low, uint64_t high);

/* What is cached and what stays, from numbers of its own, so that old seeds give
 * the same histories. */
extern void choose_admission (struct cache_options *options, uint64_t seed);

/* What write ID stores at RANGE of the disk: each byte is a function of ID and
 * of its place on the disk, so a byte tells where it belongs. */
extern void fill_bytes (void *buf, struct range range, uint64_t id);
extern uint8_t byte_of (uint64_t at, uint64_t id);

/* --- running ---------------------------------------------------------- */

struct harness {
  bool have_seed;
  uint64_t seed;
  uint64_t ops;                 /* 0: not given */
  bool trace;
  int planned, done;
};

extern struct harness harness;

/* Read arguments and environment. */
extern void harness_start (int argc, char **argv);
/* Print the plan: so many stories. */
extern void harness_plan (int planned);
/* So many operations as fit this build: USUAL is for a plain one. */
extern uint64_t harness_ops (uint64_t usual);
/* One that nobody has tried before; the same for all calls with --seed. */
extern uint64_t harness_new_seed (void);
/* One story begins; a diagnostic line names its seed. */
extern void harness_begin (const char *name, uint64_t seed);
extern void harness_passed (const char *format, ...)
  __attribute__ ((format (printf, 1, 2)));
/* Exit code for main. */
extern int harness_end (void);

/* Diagnostic line. */
extern void diag (const char *format, ...)
  __attribute__ ((format (printf, 1, 2)));
extern void trace (const char *format, ...)
  __attribute__ ((format (printf, 1, 2)));
/* The story ends here, and the program with it.  From any thread. */
extern void fail (const char *format, ...)
  __attribute__ ((format (printf, 1, 2), noreturn));

#define REQUIRE(condition, ...)                                         \
  do {                                                                  \
    if (!(condition))                                                   \
      fail (__VA_ARGS__);                                               \
  } while (0)

#endif /* PCACHE_MODEL_HARNESS_H */

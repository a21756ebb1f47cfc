/* SPDX-License-Identifier: BSD-3-Clause */

/* seed: where a test's randomness comes from.
 *
 * One seed a run, printed at the start; "--seed N" or PCACHE_SEED=N replays
 * it. */

#ifndef PCACHE_TEST_SEED_H
#define PCACHE_TEST_SEED_H

#include <stdint.h>

extern uint64_t seed;

/* Call it first in main. */
extern void seed_choose (int argc, char *argv[]);

/* splitmix64 */
static inline uint64_t
random_next (uint64_t *state)
{
  uint64_t z = (*state += UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* 0..N-1 */
static inline uint64_t
random_below (uint64_t *state, uint64_t n)
{
  return random_next (state) % n;
}

#endif /* PCACHE_TEST_SEED_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* scale: how much of a long test to do.
 *
 * TEST_SCALE in the environment: percent of the usual; without it 100, or less
 * where a sanitizer makes everything slow. */

#ifndef PCACHE_TEST_SCALE_H
#define PCACHE_TEST_SCALE_H

#include <stdbool.h>
#include <stdint.h>

/* At least 1. */
extern unsigned test_scale (void);

/* So many percent of USUAL, but at least LEAST. */
extern uint64_t scaled (uint64_t usual, uint64_t least);

/* Of an exhaustive test's cases 0, 1, ... one OF so many is to be run, more or
 * fewer by the scale, and with each seed others.  Is case N among them? */
extern bool case_is_chosen (uint64_t n, unsigned of);

#endif /* PCACHE_TEST_SCALE_H */

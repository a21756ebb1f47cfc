/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>

#include "base/arith.h"
#include "support/scale.h"
#include "support/seed.h"

#if defined __SANITIZE_THREAD__
#define DEFAULT_PERCENT 5
#elif defined __SANITIZE_ADDRESS__
#define DEFAULT_PERCENT 20
#else
#define DEFAULT_PERCENT 100
#endif

unsigned
test_scale (void)
{
  const char *scale = getenv ("TEST_SCALE");

  return scale ? MAX (strtoul (scale, NULL, 10), 1ul) : DEFAULT_PERCENT;
}

uint64_t
scaled (uint64_t usual, uint64_t least)
{
  return MAX (usual * test_scale () / 100, least);
}

bool
case_is_chosen (uint64_t n, unsigned of)
{
  const uint64_t all = of * 100, percent = test_scale ();

  return (n * percent + seed % all * percent) % all < percent;
}

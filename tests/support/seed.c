/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"
#include "support/seed.h"

uint64_t seed;

void
seed_choose (int argc, char *argv[])
{
  const char *from = getenv ("PCACHE_SEED");

  if (argc == 3 && strcmp (argv[1], "--seed") == 0)
    from = argv[2];
  seed = from ? strtoull (from, NULL, 0)
    : (uint64_t) time (NULL) * 1000 + now_ms () % 1000;
  printf ("# seed %" PRIu64 "\n", seed);
  fflush (stdout);
}

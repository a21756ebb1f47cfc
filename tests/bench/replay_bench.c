/* SPDX-License-Identifier: BSD-3-Clause */

/* How fast a cache is opened: replay_figures.h, in a program of its own.
 *
 * replay_bench [--quick] [--only NAME,NAME...] */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/replay_figures.h"

int
main (int argc, char *argv[])
{
  struct results *results;
  const char *only = NULL;
  bool quick = false;

  /* libpmem reads it before main. */
  if (getenv ("PMEM_IS_PMEM_FORCE") == NULL) {
    setenv ("PMEM_IS_PMEM_FORCE", "1", 1);
    execv ("/proc/self/exe", argv);
    must (false, "execv");
  }
  for (int i = 1; i < argc; i++)
    if (strcmp (argv[i], "--quick") == 0)
      quick = true;
    else if (strcmp (argv[i], "--only") == 0 && i + 1 < argc)
      only = argv[++i];
    else {
      fprintf (stderr, "usage: replay_bench [--quick] [--only NAME,...]\n");
      return 2;
    }
  results = results_new (only, MEASURE_MIN_PAIRS);
  replay_figures_run (results, quick, "/dev/shm");
  results_free (results);
  return 0;
}

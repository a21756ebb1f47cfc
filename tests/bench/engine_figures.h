/* SPDX-License-Identifier: BSD-3-Clause */

/* engine_figures: what engine_bench measures, all of it by name. */

#ifndef PCACHE_BENCH_ENGINE_FIGURES_H
#define PCACHE_BENCH_ENGINE_FIGURES_H

#include <stdbool.h>

#include "bench/measure.h"

struct bench {
  struct results *results;
  bool quick;
  const char *directory;        /* in memory */
  const char *disk_directory;   /* on a disk */
};

extern void engine_figures_list (void);
extern void engine_figures_run (struct bench *bench);

#endif /* PCACHE_BENCH_ENGINE_FIGURES_H */

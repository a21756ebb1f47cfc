/* SPDX-License-Identifier: BSD-3-Clause */

/* report: hit ratios of the simulated policies and of the engine, as a table
 * with tabs, for draw-report. */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>

#include "eviction/policy.h"
#include "eviction/replay.h"
#include "support/seed.h"

#define SEGMENTS 64
#define REQUESTS_PER_BLOCK 30   /* of the cache */

/* The cache is 58 MiB, where others have gigabytes: a cutoff to scale. */
#define CUTOFF (UINT64_C (1) << 20)

static const struct {
  const char *name;
  enum eviction_policy eviction;
  uint64_t cutoff;
} engines[] = {
  { "fifo", EVICTION_FIFO, 0 },
  { "clock", EVICTION_CLOCK, 0 },
  { "clock, cutoff", EVICTION_CLOCK, CUTOFF },
  { "ghost", EVICTION_GHOST, 0 },
  { "ghost, cutoff", EVICTION_GHOST, CUTOFF },
};

#define ENGINES (sizeof engines / sizeof *engines)

int
main (int argc, char *argv[])
{
  struct replay replay = replay_default (SEGMENTS);
  const uint32_t capacity = replay_capacity (&replay);
  const size_t length = (size_t) REQUESTS_PER_BLOCK * capacity;
  const size_t warm_up = length / 5;

  seed_choose (argc, argv);
  printf ("parameters\t%" PRIu32 "\t%zu\t%zu\t%" PRIu64 "\n", capacity, length,
          warm_up, seed);
  printf ("columns");
  for (enum policy p = 0; p < POLICIES_COUNT; p++)
    printf ("\t%s", policy_name (p));
  for (size_t i = 0; i < ENGINES; i++)
    printf ("\t%s", engines[i].name);
  printf ("\n");
  for (enum trace_kind kind = 0; kind < TRACES_COUNT; kind++) {
    struct trace trace = trace_make (kind, capacity, length, seed);
    struct replay_result result[ENGINES];

    printf ("hits\t%s\t%s", trace_name (kind), trace_description (kind));
    for (enum policy p = 0; p < POLICIES_COUNT; p++)
      printf ("\t%.4f", (double) policy_hits (p, &trace, capacity, warm_up)
              / (length - warm_up));
    for (size_t i = 0; i < ENGINES; i++) {
      replay.setting[SETTING_eviction] = engines[i].eviction;
      replay.setting[SETTING_sequential_cutoff] = engines[i].cutoff;
      result[i] = replay_run (&replay, &trace, warm_up);
      printf ("\t%.4f", (double) result[i].hits / (length - warm_up));
    }
    printf ("\nstored\t%s", trace_name (kind));
    for (size_t i = 0; i < ENGINES; i++)
      printf ("\t%.4f", (double) (result[i].filled + result[i].relocated)
              / (length - warm_up));
    printf ("\n");
    trace_free (&trace);
  }
  return 0;
}

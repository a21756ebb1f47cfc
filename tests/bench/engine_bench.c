/* SPDX-License-Identifier: BSD-3-Clause */

/* How fast the cache is in the process that uses it, with neither nbdkit nor a
 * network: each figure of engine_figures below, against its reference.  See usage.
 *
 * The cache device is a file in memory (/dev/shm), used as persistent memory:
 * PMEM_IS_PMEM_FORCE=1, which this program sets.  So a fence is a fence, but a
 * store goes to DRAM. */

#include <config.h>

#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/parse.h"
#include "bench/bare.h"
#include "bench/engine_figures.h"
#include "bench/stand.h"

static const char usage[] =
"usage: engine_bench [OPTION...]             all figures\n"
"       engine_bench --custom [OPTION...]    one workload of your own\n"
"\n"
"  --quick              smaller caches, fewer requests\n"
"  --only NAME,NAME...  these figures\n"
"  --list               the names of all figures\n"
"  --pairs N            how often both sides are measured (5)\n"
"  --json FILE          write all that was measured there\n"
"  --directory DIR      for cache devices: in memory (/dev/shm)\n"
"  --disk-directory DIR for disks that are files (/var/tmp)\n"
"\n"
"Of a workload of your own, which is compared with a bare loop:\n"
"  --threads N          1\n"
"  --block SIZE         bytes of a request (4k)\n"
"  --pattern random | sequential\n"
"  --read-percent N     of the requests (0)\n"
"  --flush-every N      writes of a thread between two flushes (0: no flushes)\n"
"  --working-set SIZE   bytes of the disk that are used (256M)\n"
"  --cache-size SIZE    bytes of the cache device (1G)\n"
"  --requests N         100000\n"
"  --cpu-time           count only the time that its threads run: on a machine that\n"
"                       has other work, if nothing is waited for\n"
"  --no-checksum        as with pcache-data-crc=false\n"
"  --write-back         write back meanwhile (else only when the cache is full)\n";

static struct bench bench = {
  .directory = "/dev/shm", .disk_directory = "/var/tmp",
};

static struct workload custom = {
  .threads = 1, .block = 4096, .working_set = UINT64_C (256) << 20,
  .requests = 100000, .checksum = true,
};
static uint64_t custom_cache = UINT64_C (1) << 30;
static bool custom_write_back;

static void
wrong (const char *option, const char *value)
{
  fprintf (stderr, "engine_bench: %s: not a value for --%s\n", value, option);
  exit (2);
}

static uint64_t
number (const char *option, const char *value, uint64_t least, uint64_t most)
{
  uint64_t n;

  if (!parse_size (value, &n) || n < least || n > most)
    wrong (option, value);
  return n;
}

/* A process that has run for a while has its heap: it does not ask the kernel for
 * another page at every other request. */
static void
grow_heap (void)
{
  enum { PIECES = 16, PIECE = 8 << 20 };
  char *heap[PIECES];

  must (mallopt (M_ARENA_MAX, 1) && mallopt (M_TRIM_THRESHOLD, INT_MAX)
        && mallopt (M_MMAP_THRESHOLD, 32 << 20), "mallopt");
  for (unsigned i = 0; i < PIECES; i++) {
    heap[i] = malloc (PIECE);
    must (heap[i] != NULL, "malloc");
    memset (heap[i], 1, PIECE);
  }
  for (unsigned i = 0; i < PIECES; i++)
    free (heap[i]);
}

/* --- one workload --------------------------------------------------------- */

struct custom_sides {
  struct bare *bare;
  struct stand *stand;
};

static double
custom_bare (void *opaque)
{
  struct custom_sides *sides = opaque;

  return bare_run (sides->bare, &custom);
}

static double
custom_cache_side (void *opaque)
{
  struct custom_sides *sides = opaque;

  return stand_run (sides->stand, &custom);
}

static void
run_custom (void)
{
  const struct stand_options options = {
    .directory = bench.directory,
    .device_size = custom_cache,
    .disk_size = custom.working_set,
    .checksum = custom.checksum,
    .write_back = custom_write_back,
  };
  const struct ratio ratio = {
    .name = "custom", .about = "this workload / a bare loop",
  };
  struct custom_sides sides = {
    bare_new (bench.directory, custom.working_set), stand_new (&options),
  };

  if (custom.read_percent > 0)
    stand_read_all (sides.stand, custom.working_set);
  measure_ratio (bench.results, &ratio, custom_bare, custom_cache_side,
                 &sides);
  stand_free (sides.stand);
  bare_free (sides.bare);
}

/* --- options ---------------------------------------------------------------- */

enum {
  QUICK = 1, ONLY, LIST, PAIRS, JSON, DIRECTORY, DISK_DIRECTORY, CUSTOM,
  THREADS, BLOCK, PATTERN, READ_PERCENT, FLUSH_EVERY, WORKING_SET, CACHE_SIZE,
  REQUESTS, CPU_TIME, NO_CHECKSUM, WRITE_BACK, HELP,
};

static const struct option long_options[] = {
  { "quick", no_argument, NULL, QUICK },
  { "only", required_argument, NULL, ONLY },
  { "list", no_argument, NULL, LIST },
  { "pairs", required_argument, NULL, PAIRS },
  { "json", required_argument, NULL, JSON },
  { "directory", required_argument, NULL, DIRECTORY },
  { "disk-directory", required_argument, NULL, DISK_DIRECTORY },
  { "custom", no_argument, NULL, CUSTOM },
  { "threads", required_argument, NULL, THREADS },
  { "block", required_argument, NULL, BLOCK },
  { "pattern", required_argument, NULL, PATTERN },
  { "read-percent", required_argument, NULL, READ_PERCENT },
  { "flush-every", required_argument, NULL, FLUSH_EVERY },
  { "working-set", required_argument, NULL, WORKING_SET },
  { "cache-size", required_argument, NULL, CACHE_SIZE },
  { "requests", required_argument, NULL, REQUESTS },
  { "cpu-time", no_argument, NULL, CPU_TIME },
  { "no-checksum", no_argument, NULL, NO_CHECKSUM },
  { "write-back", no_argument, NULL, WRITE_BACK },
  { "help", no_argument, NULL, HELP },
  { 0 },
};

struct choice {
  bool custom, list;
  const char *only, *json;
  unsigned pairs;
};

static void
take_option (int which, const char *name, struct choice *choice)
{
  switch (which) {
  case QUICK: bench.quick = true; break;
  case ONLY: choice->only = optarg; break;
  case LIST: choice->list = true; break;
  case PAIRS:
    choice->pairs = number (name, optarg, MEASURE_MIN_PAIRS,
                            MEASURE_MAX_PAIRS);
    break;
  case JSON: choice->json = optarg; break;
  case DIRECTORY: bench.directory = optarg; break;
  case DISK_DIRECTORY: bench.disk_directory = optarg; break;
  case CUSTOM: choice->custom = true; break;
  case THREADS: custom.threads = number (name, optarg, 1, 1024); break;
  case BLOCK: custom.block = number (name, optarg, 512, 32 << 20); break;
  case PATTERN:
    custom.sequential = strcmp (optarg, "sequential") == 0;
    if (!custom.sequential && strcmp (optarg, "random") != 0)
      wrong (name, optarg);
    break;
  case READ_PERCENT: custom.read_percent = number (name, optarg, 0, 100); break;
  case FLUSH_EVERY: custom.flush_every = number (name, optarg, 0, 1 << 30); break;
  case WORKING_SET:
    custom.working_set = number (name, optarg, 4096, UINT64_C (1) << 50);
    break;
  case CACHE_SIZE:
    custom_cache = number (name, optarg,
                           cache_min_device_size (CACHE_DEFAULT_SEGMENT_SIZE),
                           UINT64_C (1) << 50);
    break;
  case REQUESTS: custom.requests = number (name, optarg, 1, INT64_MAX); break;
  case CPU_TIME: custom.cpu_time = true; break;
  case NO_CHECKSUM: custom.checksum = false; break;
  case WRITE_BACK: custom_write_back = true; break;
  case HELP: fputs (usage, stdout); exit (0);
  default: fputs (usage, stderr); exit (2);
  }
}

int
main (int argc, char *argv[])
{
  struct choice choice = { .pairs = MEASURE_MIN_PAIRS };
  int which, index = 0;

  /* libpmem reads it before main. */
  if (getenv ("PMEM_IS_PMEM_FORCE") == NULL) {
    setenv ("PMEM_IS_PMEM_FORCE", "1", 1);
    execv ("/proc/self/exe", argv);
    must (false, "execv");
  }
  while ((which = getopt_long (argc, argv, "", long_options, &index)) != -1)
    take_option (which, which == '?' ? "" : long_options[index].name, &choice);
  if (optind < argc)
    wrong ("option", argv[optind]);
  if (choice.list) {
    engine_figures_list ();
    return 0;
  }
  if (custom.working_set < (uint64_t) custom.block * custom.threads)
    wrong ("working-set", "smaller than a block for each thread");
  grow_heap ();
  bench.results = results_new (choice.only, choice.pairs);
  if (choice.custom)
    run_custom ();
  else
    engine_figures_run (&bench);
  if (choice.json)
    must (results_write (bench.results, choice.json) == 0, "writing JSON");
  results_free (bench.results);
  return 0;
}

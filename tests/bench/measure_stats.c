/* SPDX-License-Identifier: BSD-3-Clause */

/* What counting costs: random writes and read hits of 4 KiB, through
 * cache_write and cache_read, on a cache device and a disk in memory.  Nothing
 * else is done meanwhile, no network and no nbdkit, so this is the largest
 * share that it can have.
 *
 * On a machine that is busy otherwise two runs differ by more than that.  So
 * counting is switched on and off in turn, for a few milliseconds each, in one
 * run, and the medians of both are compared.  (While it is off the functions
 * are still called, and return at once: some 5 ns a request are not seen.)
 *
 * measure_stats [SLICES] */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/cache.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"

#define MIB (UINT64_C (1) << 20)
#define BLOCK 4096
#define DISK (32 * MIB)
#define DEVICE (192 * MIB)
#define SLICE 1000              /* requests */
#define WRITE_SLICES 24         /* so many fit without write-back */

static struct cache *cache;
static uint64_t state = 88172645463325252;
static bool counting = true;

extern void __real_stats_add (struct stats *stats, enum stats_counter which,
                              uint64_t n);
extern uint64_t __real_stats_begin (struct stats *stats,
                                    enum stats_timer which);
extern void __real_stats_note_time (struct stats *stats, enum stats_timer which,
                              uint64_t start);
extern void __wrap_stats_add (struct stats *stats, enum stats_counter which,
                              uint64_t n);
extern uint64_t __wrap_stats_begin (struct stats *stats,
                                    enum stats_timer which);
extern void __wrap_stats_note_time (struct stats *stats, enum stats_timer which,
                              uint64_t start);

void
__wrap_stats_add (struct stats *stats, enum stats_counter which, uint64_t n)
{
  if (counting)
    __real_stats_add (stats, which, n);
}

uint64_t
__wrap_stats_begin (struct stats *stats, enum stats_timer which)
{
  return counting ? __real_stats_begin (stats, which) : 0;
}

void
__wrap_stats_note_time (struct stats *stats, enum stats_timer which, uint64_t start)
{
  if (counting)
    __real_stats_note_time (stats, which, start);
}

static void
must (bool ok, const char *what)
{
  if (!ok) {
    fprintf (stderr, "measure_stats: %s failed\n", what);
    exit (1);
  }
}

static uint64_t
cpu_ns (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_PROCESS_CPUTIME_ID, &ts);
  return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static struct range
random_block (void)
{
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (struct range) { (state >> 20) % (DISK / BLOCK) * BLOCK, BLOCK };
}

static void
make_room (void)
{
  must (cache_drain (cache, UINT64_MAX / 2) == 0, "cache_drain");
  while (cache_step (cache))
    ;
}

static void
fill (void)
{
  static uint8_t buf[BLOCK];

  for (uint64_t at = 0; at < DISK; at += BLOCK)
    must (cache_read (cache, buf, (struct range) { at, BLOCK }) == 0,
          "a read");
}

/* ns a request. */
static double
slice (bool writes)
{
  static uint8_t buf[BLOCK];
  const uint64_t start = cpu_ns ();

  for (unsigned i = 0; i < SLICE; i++)
    must ((writes ? cache_write (cache, buf, random_block (), false)
           : cache_read (cache, buf, random_block ())) == 0, "a request");
  return (double) (cpu_ns () - start) / SLICE;
}

static int
compare (const void *a, const void *b)
{
  const double x = *(const double *) a, y = *(const double *) b;

  return (x > y) - (x < y);
}

static double
median (double *values, unsigned count)
{
  qsort (values, count, sizeof *values, compare);
  return values[count / 2];
}

static void
measure (const char *what, bool writes, unsigned slices)
{
  double *off = calloc (slices, sizeof *off), *on = calloc (slices, sizeof *on);
  double cost;

  must (off && on, "calloc");
  for (unsigned i = 0; i < slices; i++) {
    if (writes && i % (WRITE_SLICES / 2) == 0) {
      counting = true;
      make_room ();
    }
    /* Which is first changes, too. */
    for (unsigned half = 0; half < 2; half++) {
      counting = (i + half) % 2 == 0;
      *(counting ? &on[i] : &off[i]) = slice (writes);
    }
  }
  counting = true;
  cost = median (on, slices) - median (off, slices);
  printf ("%s of 4 KiB: %.0f ns, and %.1f ns to count it: %.2f %%\n", what,
          median (off, slices), cost, cost / median (off, slices) * 100);
  free (off);
  free (on);
}

int
main (int argc, char *argv[])
{
  const unsigned slices = argc > 1 ? atoi (argv[1]) : 1000;
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  struct memory_device *device = memory_device_new (DEVICE, true);
  struct memory_backend *disk = memory_backend_new (DISK);

  must (slices > 0, "argument");
  options.segment_size = 4 * MIB;
  options.setting[SETTING_gc_percent] = 10;
  must (cache_open (&options, memory_pmem_open (device), &cache) == 0
        && cache_attach (cache, &disk->backend, "") == 0, "cache_open");
  measure ("write", true, slices);
  make_room ();
  fill ();
  measure ("read hit", false, slices);
  cache_close (cache);
  memory_device_free (device);
  memory_backend_free (disk);
  return 0;
}

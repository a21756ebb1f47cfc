/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/report.h"
#include "model/harness.h"
#include "support/scale.h"

/* Injected errors make the engine talk; it matters only when a story
 * fails. */
#define REPORTS_KEPT 12
#define REPORT_LENGTH 300

struct harness harness;

static char story[100];
static uint64_t story_seed;

static pthread_mutex_t report_lock = PTHREAD_MUTEX_INITIALIZER;
static char reports[REPORTS_KEPT][REPORT_LENGTH];
static unsigned report_count;

uint64_t
rng_length (struct rng *rng, uint64_t low, uint64_t high)
{
  const int bits = 64 - __builtin_clzll (high);
  uint64_t n = rng_next (rng) & ((UINT64_C (2) << rng_below (rng, bits)) - 1);

  return MAX (low, MIN (n, high));
}

void
choose_admission (struct cache_options *options, uint64_t seed)
{
  struct rng rng = { seed };

  options->setting[SETTING_eviction] = rng_between (&rng, EVICTION_CLOCK,
                                                    EVICTION_GHOST);
  options->setting[SETTING_fill_size] = rng_one_in (&rng, 2) ? 0
    : 4 * KIB << rng_below (&rng, 9);
  options->setting[SETTING_sequential_cutoff] = rng_one_in (&rng, 2) ? 0
    : rng_length (&rng, 1, 4 * MIB);
}

static uint64_t
word_of (uint64_t index, uint64_t base)
{
  uint64_t z = base + index * UINT64_C (0x9e3779b97f4a7c15);

  return z ^ z >> 29;
}

void
fill_bytes (void *buf, struct range range, uint64_t id)
{
  const uint64_t base = mix64 (id + 1);
  uint8_t *to = buf;
  uint64_t at = range.start;
  const uint64_t end = range_end (range);

  while (at < end) {
    const uint64_t word = word_of (at / 8, base);
    const unsigned skip = at % 8;
    const unsigned n = MIN (8 - skip, end - at);

    memcpy (to, (const uint8_t *) &word + skip, n);
    to += n;
    at += n;
    for (; at + 8 <= end; at += 8, to += 8) {
      const uint64_t next = word_of (at / 8, base);

      memcpy (to, &next, 8);
    }
  }
}

uint8_t
byte_of (uint64_t at, uint64_t id)
{
  uint8_t byte;

  fill_bytes (&byte, (struct range) { at, 1 }, id);
  return byte;
}

static void
keep_report (enum report_level level, const char *format, va_list args)
{
  pthread_mutex_lock (&report_lock);
  vsnprintf (reports[report_count++ % REPORTS_KEPT], REPORT_LENGTH, format,
             args);
  if (harness.trace)
    printf ("# report: %s\n", reports[(report_count - 1) % REPORTS_KEPT]);
  pthread_mutex_unlock (&report_lock);
}

static uint64_t
parse_number (const char *text)
{
  char *end;
  uint64_t n;

  errno = 0;
  n = strtoull (text, &end, 0);
  if (errno != 0 || end == text || *end != '\0') {
    fprintf (stderr, "not a number: %s\n", text);
    exit (2);
  }
  return n;
}

void
harness_start (int argc, char **argv)
{
  const char *seed = getenv ("PCACHE_SEED"), *ops = getenv ("PCACHE_OPS");

  for (int i = 1; i < argc; i++) {
    if (strcmp (argv[i], "--seed") == 0 && i + 1 < argc)
      seed = argv[++i];
    else if (strcmp (argv[i], "--ops") == 0 && i + 1 < argc)
      ops = argv[++i];
    else if (strcmp (argv[i], "--trace") == 0)
      harness.trace = true;
    else {
      fprintf (stderr, "usage: %s [--seed N] [--ops N] [--trace]\n", argv[0]);
      exit (2);
    }
  }
  if (getenv ("PCACHE_TRACE"))
    harness.trace = true;
  if (seed && *seed) {
    harness.have_seed = true;
    harness.seed = parse_number (seed);
  }
  if (ops && *ops)
    harness.ops = parse_number (ops);
  setvbuf (stdout, NULL, _IOLBF, 0);
  report_set_sink (keep_report);
}

void
harness_plan (int planned)
{
  harness.planned = planned;
  printf ("1..%d\n", planned);
}

uint64_t
harness_ops (uint64_t usual)
{
  return harness.ops ? harness.ops : scaled (usual, 1);
}

uint64_t
harness_new_seed (void)
{
  uint32_t seed;

  if (harness.have_seed)
    return harness.seed;
  if (getrandom (&seed, sizeof seed, 0) != sizeof seed)
    seed = getpid ();
  return seed;
}

void
harness_begin (const char *name, uint64_t seed)
{
  snprintf (story, sizeof story, "%s", name);
  story_seed = seed;
  report_count = 0;
  diag ("%s: seed %" PRIu64, name, seed);
}

void
harness_passed (const char *format, ...)
{
  va_list args;

  printf ("ok %d - %s", ++harness.done, story);
  if (format[0] != '\0') {
    printf (": ");
    va_start (args, format);
    vprintf (format, args);
    va_end (args);
  }
  printf ("\n");
}

int
harness_end (void)
{
  return harness.done == harness.planned ? 0 : 1;
}

static void
vdiag (const char *format, va_list args)
{
  flockfile (stdout);
  printf ("# ");
  vprintf (format, args);
  printf ("\n");
  funlockfile (stdout);
}

void
diag (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vdiag (format, args);
  va_end (args);
}

void
trace (const char *format, ...)
{
  va_list args;

  if (!harness.trace)
    return;
  va_start (args, format);
  vdiag (format, args);
  va_end (args);
}

void
fail (const char *format, ...)
{
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  va_list args;

  pthread_mutex_lock (&once);   /* for good: the first failure speaks */
  for (unsigned i = report_count > REPORTS_KEPT
       ? report_count - REPORTS_KEPT : 0; i < report_count; i++)
    diag ("reported: %s", reports[i % REPORTS_KEPT]);
  va_start (args, format);
  vdiag (format, args);
  va_end (args);
  printf ("not ok %d - %s: failed with --seed %" PRIu64 "\n",
          harness.done + 1, story, story_seed);
  fflush (stdout);
  _exit (1);
}

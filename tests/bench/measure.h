/* SPDX-License-Identifier: BSD-3-Clause */

/* measure: how two speeds compare, taken in turn in one run.
 *
 * A machine is slower one minute than the next, so a figure is never a time.  It
 * is a ratio to a reference, and both are measured alternately, A B A B: each pair
 * gives a ratio, and the median of these is the figure.
 *
 * Each is printed as a line as soon as it is known,
 *
 *   RATIO <name> <median> <min> <max>
 *   FIGURE <name> <value> <unit>
 *
 * and all of them can be written as JSON at the end. */

#ifndef PCACHE_BENCH_MEASURE_H
#define PCACHE_BENCH_MEASURE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define MEASURE_MIN_PAIRS 5
#define MEASURE_MAX_PAIRS 101

struct results;

/* ONLY: names, with commas between; NULL: all.  Ends with results_free. */
extern struct results *results_new (const char *only, unsigned pairs);
extern void results_free (struct results *results);

/* Is the figure of this name to be measured? */
extern bool results_want (const struct results *results, const char *name);

struct ratio {
  const char *name;
  const char *about;            /* what against what */
  double target;                /* 0: none */
  bool at_most;                 /* the target is an upper bound */
};

/* Does its work and says how fast it was: more is better (but for times, of which
 * both are one). */
typedef double measure_side (void *opaque);

extern void measure_ratio (struct results *results, const struct ratio *ratio,
                           measure_side *reference, measure_side *measured,
                           void *opaque);

extern void results_figure (struct results *results, const char *name,
                            double value, const char *unit);

/* A point of a curve, for plots. */
extern void results_point (struct results *results, const char *series,
                           const char *x_label, const char *y_label, double x,
                           double y);

/* 0 or -errno. */
extern int results_write (const struct results *results, const char *path);

extern uint64_t clock_read_ns (clockid_t clock);
extern uint64_t clock_ns (void);         /* CLOCK_MONOTONIC */

/* The benchmark cannot go on: say so, and end. */
extern void must (bool ok, const char *what);

#endif /* PCACHE_BENCH_MEASURE_H */

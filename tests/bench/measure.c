/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <json.h>

#include "base/arith.h"
#include "bench/measure.h"

struct results {
  const char *only;
  unsigned pairs;
  json_object *figures, *values, *series;
};

uint64_t
clock_read_ns (clockid_t clock)
{
  struct timespec ts;

  clock_gettime (clock, &ts);
  return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

uint64_t
clock_ns (void)
{
  return clock_read_ns (CLOCK_MONOTONIC);
}

void
must (bool ok, const char *what)
{
  if (ok)
    return;
  fprintf (stderr, "benchmark: %s failed\n", what);
  exit (1);
}

struct results *
results_new (const char *only, unsigned pairs)
{
  struct results *results = malloc (sizeof *results);

  must (results != NULL, "malloc");
  *results = (struct results) {
    .only = only,
    .pairs = MIN (MAX (pairs, (unsigned) MEASURE_MIN_PAIRS),
                  (unsigned) MEASURE_MAX_PAIRS),
    .figures = json_object_new_array (),
    .values = json_object_new_object (),
    .series = json_object_new_object (),
  };
  return results;
}

void
results_free (struct results *results)
{
  json_object_put (results->figures);
  json_object_put (results->values);
  json_object_put (results->series);
  free (results);
}

bool
results_want (const struct results *results, const char *name)
{
  const size_t length = strlen (name);
  const char *at = results->only;

  if (at == NULL)
    return true;
  while (*at) {
    const size_t n = strcspn (at, ",");

    if (n == length && memcmp (at, name, n) == 0)
      return true;
    at += n + (at[n] == ',');
  }
  return false;
}

static int
compare (const void *a, const void *b)
{
  const double x = *(const double *) a, y = *(const double *) b;

  return (x > y) - (x < y);
}

static double
median (const double *sorted, unsigned count)
{
  return count % 2 ? sorted[count / 2]
    : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static void
add_double (json_object *object, const char *key, double value)
{
  json_object_object_add (object, key, json_object_new_double (value));
}

static json_object *
array_of (const double *values, unsigned count)
{
  json_object *array = json_object_new_array ();

  for (unsigned i = 0; i < count; i++)
    json_object_array_add (array, json_object_new_double (values[i]));
  return array;
}

void
measure_ratio (struct results *results, const struct ratio *ratio,
               measure_side *reference, measure_side *measured, void *opaque)
{
  const unsigned pairs = results->pairs;
  double references[MEASURE_MAX_PAIRS], speeds[MEASURE_MAX_PAIRS];
  double ratios[MEASURE_MAX_PAIRS];
  json_object *figure;

  for (unsigned i = 0; i < pairs; i++) {
    references[i] = reference (opaque);
    speeds[i] = measured (opaque);
    must (references[i] > 0 && speeds[i] > 0, ratio->name);
    ratios[i] = speeds[i] / references[i];
  }
  qsort (ratios, pairs, sizeof *ratios, compare);
  printf ("RATIO %s %.3f %.3f %.3f\n", ratio->name, median (ratios, pairs),
          ratios[0], ratios[pairs - 1]);
  fflush (stdout);

  figure = json_object_new_object ();
  json_object_object_add (figure, "name", json_object_new_string (ratio->name));
  json_object_object_add (figure, "about",
                          json_object_new_string (ratio->about));
  add_double (figure, "median", median (ratios, pairs));
  add_double (figure, "min", ratios[0]);
  add_double (figure, "max", ratios[pairs - 1]);
  if (ratio->target > 0)
    add_double (figure, "target", ratio->target);
  json_object_object_add (figure, "higher_is_better",
                          json_object_new_boolean (!ratio->at_most));
  json_object_object_add (figure, "reference", array_of (references, pairs));
  json_object_object_add (figure, "measured", array_of (speeds, pairs));
  json_object_array_add (results->figures, figure);
}

void
results_figure (struct results *results, const char *name, double value,
                const char *unit)
{
  json_object *figure = json_object_new_object ();

  printf ("FIGURE %s %.3f %s\n", name, value, unit);
  fflush (stdout);
  add_double (figure, "value", value);
  json_object_object_add (figure, "unit", json_object_new_string (unit));
  json_object_object_add (results->values, name, figure);
}

void
results_point (struct results *results, const char *series,
               const char *x_label, const char *y_label, double x, double y)
{
  const double point[2] = { x, y };
  json_object *curve;

  if (!json_object_object_get_ex (results->series, series, &curve)) {
    curve = json_object_new_object ();
    json_object_object_add (curve, "x", json_object_new_string (x_label));
    json_object_object_add (curve, "y", json_object_new_string (y_label));
    json_object_object_add (curve, "points", json_object_new_array ());
    json_object_object_add (results->series, series, curve);
  }
  json_object_array_add (json_object_object_get (curve, "points"),
                         array_of (point, 2));
}

int
results_write (const struct results *results, const char *path)
{
  json_object *root = json_object_new_object ();
  int r;

  json_object_object_add (root, "figures", json_object_get (results->figures));
  json_object_object_add (root, "values", json_object_get (results->values));
  json_object_object_add (root, "series", json_object_get (results->series));
  errno = 0;
  r = json_object_to_file_ext (path, root, JSON_C_TO_STRING_PRETTY);
  json_object_put (root);
  return r < 0 ? -(errno ?: EIO) : 0;
}

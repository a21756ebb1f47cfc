/* SPDX-License-Identifier: BSD-3-Clause */

/* One function for each kind of item and each form of output; the list calls
 * them.  Fractions are printed by hand, since printf's decimal point is the
 * locale's. */

#include <config.h>

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include <json.h>

#include "control/status.h"

enum unit { COUNT, BYTES, MS, PERCENT, RATE };

#define BUF_SIZE 64

/* Millionths, as a number. */
static const char *
print_ratio (char buf[BUF_SIZE], uint32_t millionths)
{
  snprintf (buf, BUF_SIZE, "%" PRIu32 ".%06" PRIu32, millionths / 1000000,
            millionths % 1000000);
  return buf;
}

static const char *
print_seconds (char buf[BUF_SIZE], uint64_t ns)
{
  snprintf (buf, BUF_SIZE, "%" PRIu64 ".%09" PRIu64, ns / 1000000000,
            ns % 1000000000);
  return buf;
}

/* "NAME with FROM at its end" -> to buf with TO there instead. */
static const char *
replace_end (char buf[BUF_SIZE], const char *name, const char *from,
             const char *to)
{
  const size_t length = strlen (name), end = strlen (from);
  const bool has = length >= end && strcmp (name + length - end, from) == 0;

  snprintf (buf, BUF_SIZE, "%.*s%s", (int) (has ? length - end : length), name,
            to);
  return buf;
}

/* JSON. -------------------------------------------------------------------- */

struct json {
  struct json_object *object;
  bool failed;
};

/* VALUE NULL because memory is out, or because it is JSON's null. */
static void
json_add (struct json *json, const char *name, struct json_object *value,
          bool is_null)
{
  if ((value == NULL && !is_null)
      || json_object_object_add (json->object, name, value) != 0) {
    json_object_put (value);
    json->failed = true;
  }
}

static void
json_number (struct json *json, const char *name, uint64_t value)
{
  json_add (json, name, json_object_new_uint64 (value), false);
}

static void
json_ratio (struct json *json, const char *name, uint32_t value)
{
  char buf[BUF_SIZE];

  if (value == STATUS_UNKNOWN)
    json_add (json, name, NULL, true);
  else
    json_add (json, name,
              json_object_new_double_s (value / 1e6, print_ratio (buf, value)),
              false);
}

static void
json_error (struct json *json, const char *name, int value)
{
  json_add (json, name, json_object_new_int (value), false);
}

static void
json_flag (struct json *json, const char *name, bool value)
{
  json_add (json, name, json_object_new_boolean (value), false);
}

static void
json_text (struct json *json, const char *name, const char *value)
{
  json_add (json, name, value ? json_object_new_string (value) : NULL,
            value == NULL);
}

static struct json_object *
new_place (const struct status_place *place)
{
  struct json place_json = { json_object_new_object (), false };

  if (place_json.object == NULL)
    return NULL;
  json_number (&place_json, "segment", place->segment);
  json_number (&place_json, "offset", place->offset);
  if (!place_json.failed)
    return place_json.object;
  json_object_put (place_json.object);
  return NULL;
}

static void
json_place (struct json *json, const char *name,
            const struct status_place *place)
{
  json_add (json, name, place->known ? new_place (place) : NULL,
            !place->known);
}

/* ELEMENT becomes the ARRAY's. */
static void
json_append (struct json *json, struct json_object *array,
             struct json_object *element)
{
  if (element == NULL || json_object_array_add (array, element) != 0) {
    json_object_put (element);
    json->failed = true;
  }
}

static void
json_places (struct json *json, const char *name,
             const struct status_places *places)
{
  struct json_object *array = json_object_new_array ();

  for (unsigned i = 0; array && i < places->count; i++)
    json_append (json, array, new_place (&places->place[i]));
  json_add (json, name, array, false);
}

static struct json_object *
new_buckets (struct json *json, const struct latency *latency)
{
  struct json_object *buckets = json_object_new_array ();

  for (unsigned i = 0; buckets && i < LATENCY_BUCKETS; i++)
    if (latency->bucket[i] > 0) {
      struct json_object *pair = json_object_new_array ();

      if (pair) {
        json_append (json, pair,
                     json_object_new_uint64 (latency_bound_ns (i)));
        json_append (json, pair, json_object_new_uint64 (latency->bucket[i]));
      }
      json_append (json, buckets, pair);
    }
  return buckets;
}

static void
json_latency (struct json *json, const char *name,
              const struct latency *latency)
{
  struct json inner = { json_object_new_object (), false };

  if (inner.object) {
    json_number (&inner, "count", latency->count);
    json_number (&inner, "sum_ns", latency->sum_ns);
    json_number (&inner, "p50_ns", latency_percentile_ns (latency, 500));
    json_number (&inner, "p99_ns", latency_percentile_ns (latency, 990));
    json_number (&inner, "p999_ns", latency_percentile_ns (latency, 999));
    json_add (&inner, "buckets", new_buckets (&inner, latency), false);
    json->failed |= inner.failed;
  }
  json_add (json, name, inner.object, false);
}

struct json_object *
status_json (const struct cache_status *status)
{
  struct json json = { json_object_new_object (), false };

  if (json.object == NULL)
    return NULL;
#define X(kind, name, unit, description) JSON_##kind (name)
#define JSON_SECTION(name)
#define JSON_COUNTER(name) json_number (&json, #name, status->name);
#define JSON_FOUND JSON_COUNTER
#define JSON_GAUGE JSON_COUNTER
#define JSON_RATIO(name) json_ratio (&json, #name, status->name);
#define JSON_ERROR(name) json_error (&json, #name, status->name);
#define JSON_FLAG(name) json_flag (&json, #name, status->name);
#define JSON_TEXT(name) json_text (&json, #name, status->name);
#define JSON_PLACE(name) json_place (&json, #name, &status->name);
#define JSON_PLACES(name) json_places (&json, #name, &status->name);
#define JSON_LATENCY(name) json_latency (&json, #name, &status->name);
  STATUS_LIST (X)
#undef X
  if (!json.failed)
    return json.object;
  json_object_put (json.object);
  return NULL;
}

/* Text. -------------------------------------------------------------------- */

/* VALUE, rounded down, in the largest of the units (each DIVISOR times the one
 * before it) of which there is at least one; two digits after the point. */
static const char *
print_scaled (char buf[BUF_SIZE], uint64_t value, uint64_t divisor,
              const char *const units[])
{
  uint64_t hundredths = 0;

  while (value >= divisor && units[1] != NULL) {
    hundredths = value % divisor * 100 / divisor;
    value /= divisor;
    units++;
  }
  if (hundredths > 0)
    snprintf (buf, BUF_SIZE, "%" PRIu64 ".%02" PRIu64 " %s", value, hundredths,
              *units);
  else
    snprintf (buf, BUF_SIZE, "%" PRIu64 " %s", value, *units);
  return buf;
}

static const char *
print_time (char buf[BUF_SIZE], uint64_t ns)
{
  static const char *const units[] = { "ns", "us", "ms", "s", NULL };

  return print_scaled (buf, ns, 1000, units);
}

static const char *
print_number (char buf[BUF_SIZE], uint64_t value, enum unit unit)
{
  static const char *const sizes[] = {
    "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", NULL
  };
  static const char *const rates[] = {
    "bytes/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s", NULL
  };
  static const char *const times[] = { "ms", "s", NULL };

  switch (unit) {
  case BYTES:
    return print_scaled (buf, value, 1024, sizes);
  case RATE:
    return print_scaled (buf, value, 1024, rates);
  case MS:
    return print_scaled (buf, value, 1000, times);
  case PERCENT:
    snprintf (buf, BUF_SIZE, "%" PRIu64 " %%", value);
    return buf;
  case COUNT:
    break;
  }
  snprintf (buf, BUF_SIZE, "%" PRIu64, value);
  return buf;
}

static void
text_line (FILE *fp, const char *name, const char *value,
           const char *description)
{
  fprintf (fp, "  %-24s %-14s  %s\n", name, value, description);
}

static void
text_number (FILE *fp, const char *name, uint64_t value, enum unit unit,
             const char *description)
{
  char buf[BUF_SIZE];

  text_line (fp, name, print_number (buf, value, unit), description);
}

static void
text_ratio (FILE *fp, const char *name, uint32_t value,
            const char *description)
{
  char buf[BUF_SIZE];

  if (value == STATUS_UNKNOWN)
    strcpy (buf, "none");
  else
    snprintf (buf, sizeof buf, "%" PRIu32 ".%02" PRIu32 " %%", value / 10000,
              value / 100 % 100);
  text_line (fp, name, buf, description);
}

static const char *
print_place (char buf[BUF_SIZE], const struct status_place *place)
{
  if (place->known)
    snprintf (buf, BUF_SIZE, "%" PRIu32 ":%" PRIu64, place->segment,
              place->offset);
  else
    strcpy (buf, "none");
  return buf;
}

static void
text_place (FILE *fp, const char *name, const struct status_place *place,
            const char *description)
{
  char buf[BUF_SIZE];

  text_line (fp, name, print_place (buf, place), description);
}

static void
text_places (FILE *fp, const char *name, const struct status_places *places,
             const char *description)
{
  char buf[BUF_SIZE];

  text_number (fp, name, places->count, COUNT, description);
  for (unsigned i = 0; i < places->count; i++)
    text_line (fp, "", print_place (buf, &places->place[i]), "");
}

static void
text_latency (FILE *fp, const char *name, const struct latency *latency,
              const char *description)
{
  static const struct { unsigned per_mille; const char *name; } tails[] = {
    { 500, "  p50" }, { 990, "  p99" }, { 999, "  p99.9" },
  };
  char buf[BUF_SIZE];

  if (latency->count == 0) {
    text_line (fp, name, "none", description);
    return;
  }
  fprintf (fp, "  %-24s %-14s  %s, on average\n", name,
           print_time (buf, latency->sum_ns / latency->count), description);
  for (unsigned i = 0; i < sizeof tails / sizeof tails[0]; i++)
    text_line (fp, tails[i].name,
               print_time (buf, latency_percentile_ns (latency,
                                                       tails[i].per_mille)),
               "");
}

void
status_text (const struct cache_status *status, FILE *fp)
{
  const char *gap = "";

#define X(kind, name, unit, description) \
  TEXT_##kind (name, #name, unit, description)
#define TEXT_SECTION(name, string, unit, description)   \
  fprintf (fp, "%s%s\n", gap, description);             \
  gap = "\n";
#define TEXT_COUNTER(name, string, unit, description)   \
  text_number (fp, string, status->name, unit, description);
#define TEXT_FOUND TEXT_COUNTER
#define TEXT_GAUGE TEXT_COUNTER
#define TEXT_RATIO(name, string, unit, description)     \
  text_ratio (fp, string, status->name, description);
#define TEXT_ERROR(name, string, unit, description)     \
  text_line (fp, string,                                \
             status->name == 0 ? "none" : strerror (-status->name), \
             description);
#define TEXT_FLAG(name, string, unit, description)      \
  text_line (fp, string, status->name ? "yes" : "no", description);
#define TEXT_TEXT(name, string, unit, description)      \
  text_line (fp, string, status->name ? status->name : "none", description);
#define TEXT_PLACE(name, string, unit, description)     \
  text_place (fp, string, &status->name, description);
#define TEXT_PLACES(name, string, unit, description)    \
  text_places (fp, string, &status->name, description);
#define TEXT_LATENCY(name, string, unit, description)   \
  text_latency (fp, string, &status->name, description);
  STATUS_LIST (X)
#undef X
}

/* Numbers. ----------------------------------------------------------------- */

static void
line (FILE *fp, const char *name, const char *suffix, uint64_t value)
{
  fprintf (fp, "%s%s: %" PRIu64 "\n", name, suffix, value);
}

static void
line_ratio (FILE *fp, const char *name, uint32_t value)
{
  char buf[BUF_SIZE];

  fprintf (fp, "%s: %s\n", name,
           print_ratio (buf, value == STATUS_UNKNOWN ? 0 : value));
}

static void
line_latency (FILE *fp, const char *name, const struct latency *latency)
{
  line (fp, name, "_count", latency->count);
  line (fp, name, "_sum_ns", latency->sum_ns);
  line (fp, name, "_p50_ns", latency_percentile_ns (latency, 500));
  line (fp, name, "_p99_ns", latency_percentile_ns (latency, 990));
  line (fp, name, "_p999_ns", latency_percentile_ns (latency, 999));
}

void
status_numbers (const struct cache_status *status, FILE *fp)
{
#define X(kind, name, unit, description) NUMBER_##kind (name)
#define NUMBER_SECTION(name)
#define NUMBER_COUNTER(name) line (fp, #name, "", status->name);
#define NUMBER_FOUND NUMBER_COUNTER
#define NUMBER_GAUGE NUMBER_COUNTER
#define NUMBER_FLAG NUMBER_COUNTER
#define NUMBER_RATIO(name) line_ratio (fp, #name, status->name);
#define NUMBER_ERROR(name) fprintf (fp, #name ": %d\n", status->name);
#define NUMBER_TEXT(name)
#define NUMBER_PLACE(name)
#define NUMBER_PLACES(name)
#define NUMBER_LATENCY(name) line_latency (fp, #name, &status->name);
  STATUS_LIST (X)
#undef X
}

/* Prometheus. -------------------------------------------------------------- */

struct metrics {
  FILE *fp;
  const char *device;           /* label; NULL: none */
};

/* The text format asks for these escapes; CHARS: of which characters. */
static void
put_escaped (FILE *fp, const char *text, const char *chars)
{
  for (; *text; text++)
    if (*text == '\n')
      fputs ("\\n", fp);
    else {
      if (strchr (chars, *text))
        fputc ('\\', fp);
      fputc (*text, fp);
    }
}

static void
put_label (FILE *fp, const char *name, const char *value)
{
  fprintf (fp, "%s=\"", name);
  put_escaped (fp, value, "\\\"");
  fputc ('"', fp);
}

/* What stands before the samples of a metric. */
static void
describe (const struct metrics *m, const char *name, const char *type,
          const char *description)
{
  fprintf (m->fp, "# HELP pcache_%s ", name);
  put_escaped (m->fp, description, "\\");
  fprintf (m->fp, "\n# TYPE pcache_%s %s\n", name, type);
}

/* LABEL with VALUE besides that of the device; NULL: none. */
static void
put_sample (const struct metrics *m, const char *name, const char *label,
            const char *value, const char *number)
{
  fprintf (m->fp, "pcache_%s", name);
  if (m->device || label) {
    fputc ('{', m->fp);
    if (m->device)
      put_label (m->fp, "device", m->device);
    if (m->device && label)
      fputc (',', m->fp);
    if (label)
      put_label (m->fp, label, value);
    fputc ('}', m->fp);
  }
  fprintf (m->fp, " %s\n", number);
}

static void
put_metric (const struct metrics *m, const char *name, const char *type,
            const char *description, const char *number)
{
  describe (m, name, type, description);
  put_sample (m, name, NULL, NULL, number);
}

static void
metric_number (const struct metrics *m, const char *name, uint64_t value,
               enum unit unit, bool is_counter, const char *description)
{
  char base[BUF_SIZE], full[BUF_SIZE + 8], number[BUF_SIZE];

  snprintf (number, sizeof number, "%" PRIu64, value);
  switch (unit) {
  case COUNT:
    /* That is for counters. */
    replace_end (base, name, is_counter ? "" : "_total", "");
    break;
  case BYTES:
    replace_end (base, name, "_bytes", "_bytes");
    break;
  case RATE:
    replace_end (base, name, "", "_bytes_per_second");
    break;
  case MS:
    replace_end (base, name, "_ms", "_seconds");
    snprintf (number, sizeof number, "%" PRIu64 ".%03" PRIu64, value / 1000,
              value % 1000);
    break;
  case PERCENT:
    replace_end (base, name, "_percent", "_ratio");
    snprintf (number, sizeof number, "%" PRIu64 ".%02" PRIu64, value / 100,
              value % 100);
    break;
  }
  snprintf (full, sizeof full, "%s%s", base, is_counter ? "_total" : "");
  put_metric (m, full, is_counter ? "counter" : "gauge", description, number);
}

static void
metric_ratio (const struct metrics *m, const char *name, uint32_t value,
              const char *description)
{
  char buf[BUF_SIZE];

  put_metric (m, name, "gauge", description,
              value == STATUS_UNKNOWN ? "NaN" : print_ratio (buf, value));
}

static void
metric_error (const struct metrics *m, const char *name, int value,
              const char *description)
{
  char number[BUF_SIZE];

  snprintf (number, sizeof number, "%d", value);
  put_metric (m, name, "gauge", description, number);
}

/* COUNT of 1: without a label for each. */
static void
metric_places (const struct metrics *m, const char *item, const char *label,
               const struct status_place *place, unsigned count,
               const char *description)
{
  for (unsigned of_offset = 0; count > 0 && of_offset < 2; of_offset++) {
    char name[BUF_SIZE], value[BUF_SIZE], number[BUF_SIZE];

    replace_end (name, item, "", of_offset ? "_offset_bytes" : "_segment");
    describe (m, name, "gauge", description);
    for (unsigned i = 0; i < count; i++) {
      snprintf (value, sizeof value, "%u", i);
      snprintf (number, sizeof number, "%" PRIu64,
                of_offset ? place[i].offset : place[i].segment);
      put_sample (m, name, label, value, number);
    }
  }
}

/* Cumulative, at powers of two: as fine as ours would be too many for a
 * server. */
static void
metric_latency (const struct metrics *m, const char *item,
                const struct latency *latency, const char *description)
{
  char name[BUF_SIZE], part[BUF_SIZE + 8], le[BUF_SIZE], number[BUF_SIZE];
  uint64_t sum = 0;

  replace_end (name, item, "", "_seconds");
  describe (m, name, "histogram", description);
  snprintf (part, sizeof part, "%s_bucket", name);
  for (unsigned i = 0; i < LATENCY_BUCKETS - 1; i++) {
    sum += latency->bucket[i];
    if (i % (1 << LATENCY_SUB_BITS) == 0) {
      snprintf (number, sizeof number, "%" PRIu64, sum);
      put_sample (m, part, "le", print_seconds (le, latency_bound_ns (i)),
                  number);
    }
  }
  snprintf (number, sizeof number, "%" PRIu64, latency->count);
  put_sample (m, part, "le", "+Inf", number);
  snprintf (part, sizeof part, "%s_sum", name);
  put_sample (m, part, NULL, NULL, print_seconds (le, latency->sum_ns));
  snprintf (part, sizeof part, "%s_count", name);
  put_sample (m, part, NULL, NULL, number);
}

/* All texts are labels of one metric. */
static void
metric_info (FILE *fp, const struct cache_status *status)
{
  const char *comma = "";

  fprintf (fp, "# HELP pcache_info What does not change, as labels.\n"
           "# TYPE pcache_info gauge\npcache_info{");
#define X(kind, name, unit, description) INFO_##kind (name)
#define INFO_SECTION(name)
#define INFO_COUNTER(name)
#define INFO_FOUND(name)
#define INFO_GAUGE(name)
#define INFO_RATIO(name)
#define INFO_ERROR(name)
#define INFO_FLAG(name)
#define INFO_TEXT(name)                         \
  if (status->name) {                           \
    fputs (comma, fp);                          \
    put_label (fp, #name, status->name);        \
    comma = ",";                                \
  }
#define INFO_PLACE(name)
#define INFO_PLACES(name)
#define INFO_LATENCY(name)
  STATUS_LIST (X)
#undef X
  fprintf (fp, "} 1\n");
}

void
status_metrics (const struct cache_status *status, FILE *fp)
{
  const struct metrics m = { fp, status->device };

  metric_info (fp, status);
#define X(kind, name, unit, description) \
  METRIC_##kind (name, #name, unit, description)
#define METRIC_SECTION(name, string, unit, description)
#define METRIC_COUNTER(name, string, unit, description)         \
  metric_number (&m, string, status->name, unit, true, description);
#define METRIC_FOUND(name, string, unit, description)           \
  metric_number (&m, string, status->name, unit, false, description);
#define METRIC_GAUGE METRIC_FOUND
#define METRIC_FLAG METRIC_FOUND
#define METRIC_RATIO(name, string, unit, description)           \
  metric_ratio (&m, string, status->name, description);
#define METRIC_ERROR(name, string, unit, description)           \
  metric_error (&m, string, status->name, description);
#define METRIC_TEXT(name, string, unit, description)
#define METRIC_PLACE(name, string, unit, description)           \
  metric_places (&m, string, NULL, &status->name, status->name.known, \
                 description);
#define METRIC_PLACES(name, string, unit, description)          \
  metric_places (&m, string, "head", status->name.place,        \
                 status->name.count, description);
#define METRIC_LATENCY(name, string, unit, description)         \
  metric_latency (&m, string, &status->name, description);
  STATUS_LIST (X)
#undef X
}

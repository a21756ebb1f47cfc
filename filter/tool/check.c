/* SPDX-License-Identifier: BSD-3-Clause */

/* Damage costs nothing as long as what is damaged is in the backing store, too,
 * or has been overwritten: the cache drops it.  It costs data if it is, or may
 * hide, the newest of a range and dirty. */

#include <config.h>

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "tool/check.h"
#include "tool/command.h"
#include "tool/offline.h"

/* A problem was reported as TEXT says; for JSON keep the facts, too. */
static struct json_object *
note (struct check_result *result, bool costs_data, const char *text)
{
  struct json_object *o = json_new ();

  if (costs_data)
    result->dirty_damaged++;
  else
    result->damaged++;
  json_put_bool (o, "costs_data", costs_data);
  json_put_text (o, "message", text);
  json_append (result->problems, o);
  return o;
}

static void
check_twin (struct check_result *result, const struct twin *twin,
            const char *what)
{
  for (int copy = 0; copy < 2; copy++) {
    CLEANUP_FREE char *text = NULL;

    if (twin->verdict[copy] == TWIN_OK)
      continue;
    if (asprintf (&text, "%s: copy %c (at %" PRIu64 " of the cache device): "
                  "%s; the other one is used", what, 'A' + copy,
                  twin->at[copy],
                  twin_verdict_name (twin->verdict[copy])) < 0)
      text = NULL;
    report (REPORT_WARNING, "%s", text ? text : what);
    json_put_number (note (result, false, text ? text : what), "at",
                     twin->at[copy]);
  }
}

static void
check_header (struct image *image, struct check_result *result, uint32_t id)
{
  const struct segment *segment = &image->engine.segments.segments[id];
  char name[64];

  snprintf (name, sizeof name, "header of segment %" PRIu32, id);
  if (!segment->damaged)
    check_twin (result, &segment->twin, name);
  else                          /* replay said so */
    json_put_number (note (result, true, "both copies of the segment's header "
                           "are damaged; it may hold data that is nowhere "
                           "else"), "segment", id);
}

static void
check_metadata (struct image *image, struct check_result *result)
{
  const struct superblock *sb = &image->engine.superblock;

  if (sb->start_is_foreign) {
    report (REPORT_ERROR, "the device starts with something that is not a "
            "pcache cache; copy B of the superblock is valid");
    note (result, true, "the start of the device was overwritten");
  }
  else
    check_twin (result, &sb->twin, "superblock");
  check_twin (result, &sb->control_twin, "control block");
  for (uint32_t id = 0; id < sb->geometry.segment_count; id++)
    check_header (image, result, id);
  for (uint32_t i = 0; i < image->replay.count; i++) {
    const struct finding *f = &image->replay.findings[i];

    if (f->damaged)             /* replay said which set */
      json_put_number (note (result, image_hides_dirty (image, f),
                             image_hides_dirty (image, f)
                             ? "damaged record sets may hide dirty data"
                             : "damaged record sets hide nothing but clean "
                             "data"), "segment", f->segment->id);
  }
}

/* Is any of the record still what the cache has of its range? */
static bool
is_mapped (struct image *image, const struct record *record)
{
  const uint64_t name = record_name (record->kind, record->at,
                                     record->sequence);
  struct index *index = image->engine.index;
  struct index_cursor cursor;
  struct piece piece;
  bool found = false;

  index_lock (index, record->range);
  index_walk_locked (&cursor, index, record->range, false);
  while (index_next_piece (&cursor, &piece))
    if (!piece.is_hole && extent_name (&piece.extent) == name)
      found = true;
  index_unlock (index, record->range);
  return found;
}

static void
note_bad_data (struct image *image, struct check_result *result,
               uint32_t segment, const struct set *set,
               const struct record *record, const char *why)
{
  const bool mapped = is_mapped (image, record);
  const bool dirty = image_record_is_dirty (image, set, record);
  CLEANUP_FREE char *text = NULL;
  struct json_object *o;

  if (asprintf (&text, "segment %" PRIu32 ", set %" PRIu32 ": data of %"
                PRIu64 "+%" PRIu64 " of the disk (at %" PRIu64 " of the cache "
                "device): %s; it is %s", segment, set->ordinal,
                record->range.start, record->range.length, record->at, why,
                !mapped ? "overwritten, nothing is lost"
                : dirty ? "dirty: lost"
                : "clean: the backing store has it") < 0)
    text = NULL;
  report (mapped && dirty ? REPORT_ERROR : REPORT_WARNING, "%s",
          text ? text : why);
  o = note (result, mapped && dirty, text ? text : why);
  json_put_number (o, "segment", segment);
  json_put_number (o, "set", set->ordinal);
  json_put_number (o, "at", record->at);
  json_put_number (o, "offset", record->range.start);
  json_put_number (o, "length", record->range.length);
}

static void
check_data (struct image *image, struct check_result *result,
            uint32_t segment, const struct set *set,
            const struct record *record)
{
  uint64_t sum;
  int r;

  if (record->kind != RECORD_DATA)
    return;
  r = pmem_checksum (image->engine.pmem, record->at, record->range.length,
                     &sum);
  result->data_bytes += record->range.length;
  if (!record->has_checksum)
    result->unverified_bytes += record->range.length;
  if (r < 0)
    note_bad_data (image, result, segment, set, record, "media error");
  else if (record->has_checksum && sum != record->checksum)
    note_bad_data (image, result, segment, set, record, "checksum wrong");
}

static int
check_log (struct image *image, struct progress *progress,
           struct check_result *result)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);

  if (set == NULL)
    return -ENOMEM;
  for (uint32_t i = 0; i < image->replay.count; i++) {
    const struct finding *finding = &image->replay.findings[i];
    struct counted_sets sets;
    int r;

    counted_sets_start (&sets, &image->engine.reader, finding);
    while ((r = counted_sets_next (&sets, set)) > 0) {
      result->sets++;
      result->records += set->count;
      for (uint32_t j = 0; j < set->count; j++)
        check_data (image, result, finding->segment->id, set,
                    &set->record[j]);
    }
    if (r < 0)
      return r;
    if (progress)
      progress_show (progress,
                     (i + 1) * image->engine.superblock.geometry.segment_size);
  }
  return 0;
}

/* What an earlier start, or write-back, has already given up. */
static void
check_lost (struct image *image, struct check_result *result)
{
  struct index_cursor cursor;
  struct extent extent;

  image_walk_start (&cursor, image);
  while (image_walk_next (&cursor, &extent))
    if (extent.kind == EXTENT_LOST) {
      struct json_object *o;

      report (REPORT_ERROR, "%" PRIu64 "+%" PRIu64 " of the disk was lost "
              "earlier: reads give an error until it is overwritten",
              extent.range.start, extent.range.length);
      o = note (result, true, "lost earlier");
      json_put_number (o, "offset", extent.range.start);
      json_put_number (o, "length", extent.range.length);
    }
}

int
check_image (struct image *image, struct progress *progress,
             struct check_result *result)
{
  int r;

  *result = (struct check_result) { .problems = json_list () };
  check_metadata (image, result);
  r = check_log (image, progress, result);
  if (r == 0)
    check_lost (image, result);
  return r;
}

void
check_free (struct check_result *result)
{
  json_object_put (result->problems);
}

/* --- the command ------------------------------------------------------ */

static int
status_of (const struct check_result *result, uint64_t dirty_bytes)
{
  return result->dirty_damaged > 0 ? EXIT_DIRTY_DAMAGED
    : result->damaged > 0 ? EXIT_DAMAGED
    : dirty_bytes > 0 ? EXIT_DIRTY : EXIT_SUCCESS;
}

static const char *
status_name (int status)
{
  switch (status) {
  case EXIT_SUCCESS: return "clean";
  case EXIT_DIRTY: return "dirty";
  case EXIT_DAMAGED: return "damaged";
  case EXIT_DIRTY_DAMAGED: return "dirty-damaged";
  case EXIT_NO_CACHE: return "no-cache";
  }
  return "failed";
}

static void
print_text (const struct check_result *result, int status, uint64_t dirty)
{
  char size[SIZE_TEXT];

  printf ("%" PRIu64 " record sets, %" PRIu64 " records, %s of data\n",
          result->sets, result->records,
          size_text (size, result->data_bytes));
  if (result->unverified_bytes > 0)
    printf ("%s of it have no checksum and could only be read\n",
            size_text (size, result->unverified_bytes));
  printf ("dirty: %s\n", size_text (size, dirty));
  printf ("damage that costs no data: %" PRIu64 "; that costs data: %" PRIu64
          "\n", result->damaged, result->dirty_damaged);
  printf ("%s\n", status_name (status));
}

static void
print_result (const struct check_result *result, int status, uint64_t dirty)
{
  struct json_object *o = json_new ();

  json_put_text (o, "verdict", status_name (status));
  json_put_number (o, "dirty_bytes", dirty);
  json_put_number (o, "sets", result->sets);
  json_put_number (o, "records", result->records);
  json_put_number (o, "data_bytes", result->data_bytes);
  json_put_number (o, "unverified_bytes", result->unverified_bytes);
  json_put_number (o, "damaged", result->damaged);
  json_put_number (o, "dirty_damaged", result->dirty_damaged);
  json_put (o, "problems", json_object_get (result->problems));
  json_put (o, "messages", messages_json ());
  print_json (o);
}

static int
check_opened (struct image *image, bool json)
{
  const uint64_t dirty = epoch_queue_dirty_bytes (&image->engine.queue);
  struct check_result result;
  struct progress progress;
  int status, r;

  progress_begin (&progress, "checking", image->replay.count
                  * image->engine.superblock.geometry.segment_size);
  r = check_image (image, &progress, &result);
  progress_end (&progress);
  status = r < 0 ? EXIT_FAILED : status_of (&result, dirty);
  if (r < 0)
    report (REPORT_ERROR, "cannot be read: %s", strerror (-r));
  else if (json)
    print_result (&result, status, dirty);
  else
    print_text (&result, status, dirty);
  check_free (&result);
  return status;
}

static int
run (int argc, char *argv[])
{
  static const struct option options[] = {
    { "json", no_argument, NULL, 'j' },
    { NULL },
  };
  enum image_verdict verdict;
  struct image image;
  struct pmem *pmem;
  bool json = false;
  int c, status;

  while ((c = getopt_long (argc, argv, "", options, NULL)) != -1)
    switch (c) {
    case 'j': json = true; break;
    default: return usage_error ("check: bad option");
    }
  if (argc - optind != 1)
    return usage_error ("check: give one DEVICE");
  status = offline_open (argv[optind], &pmem, &image, &verdict);
  if (status != 0)
    return status;
  if (verdict != IMAGE_NO_CACHE)
    status = check_opened (&image, json);
  else {
    status = EXIT_NO_CACHE;
    if (json) {
      struct json_object *o = json_new ();

      json_put_text (o, "verdict", status_name (status));
      json_put (o, "messages", messages_json ());
      print_json (o);
    }
  }
  offline_close (pmem, &image);
  return status;
}

const struct command check_command = {
  "check", "[--json] DEVICE",
  "verify every checksum; the exit status says clean, dirty or damaged", run,
};

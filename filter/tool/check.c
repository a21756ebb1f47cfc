/* SPDX-License-Identifier: BSD-3-Clause */

/* Damage costs nothing as long as what is damaged is in the backing store, too,
 * or has been overwritten: the cache drops it.  It costs data if it is, or may
 * hide, the newest of a range and dirty. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "tool/check.h"
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
check_header (struct snapshot *snap, struct check_result *result, uint32_t id)
{
  const struct segment *segment = &snap->engine.segments.segments[id];
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
check_metadata (struct snapshot *snap, struct check_result *result)
{
  const struct superblock *sb = &snap->engine.superblock;

  if (sb->start_is_foreign) {
    report (REPORT_ERROR, "the device starts with something that is not a "
            "pcache cache; copy B of the superblock is valid");
    note (result, true, "the start of the device was overwritten");
  }
  else
    check_twin (result, &sb->twin, "superblock");
  check_twin (result, &sb->control_twin, "control block");
  for (uint32_t id = 0; id < sb->geometry.segment_count; id++)
    check_header (snap, result, id);
  for (uint32_t i = 0; i < snap->replay.count; i++) {
    const struct finding *f = &snap->replay.findings[i];

    if (f->damaged)             /* replay said which set */
      json_put_number (note (result, snapshot_hides_dirty (snap, f),
                             snapshot_hides_dirty (snap, f)
                             ? "damaged record sets may hide dirty data"
                             : "damaged record sets hide nothing but clean "
                             "data"), "segment", f->segment->id);
  }
}

/* Is any of the record still what the cache has of its range? */
static bool
is_mapped (struct snapshot *snap, const struct record *record)
{
  const uint64_t name = record_name (record->kind, record->at,
                                     record->sequence);
  struct index *index = snap->engine.index;
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
note_bad_data (struct snapshot *snap, struct check_result *result,
               uint32_t segment, const struct set *set,
               const struct record *record, const char *why)
{
  const bool mapped = is_mapped (snap, record);
  const bool dirty = snapshot_record_is_dirty (snap, set, record);
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
check_data (struct snapshot *snap, struct check_result *result,
            uint32_t segment, const struct set *set,
            const struct record *record)
{
  uint64_t sum;
  int r;

  if (record->kind != RECORD_DATA)
    return;
  r = pmem_checksum (snap->engine.pmem, record->at, record->range.length,
                     &sum);
  result->data_bytes += record->range.length;
  if (!record->has_checksum)
    result->unverified_bytes += record->range.length;
  if (r < 0)
    note_bad_data (snap, result, segment, set, record, "media error");
  else if (record->has_checksum && sum != record->checksum)
    note_bad_data (snap, result, segment, set, record, "checksum wrong");
}

static int
check_log (struct snapshot *snap, struct progress *progress,
           struct check_result *result)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);

  if (set == NULL)
    return -ENOMEM;
  for (uint32_t i = 0; i < snap->replay.count; i++) {
    const struct finding *finding = &snap->replay.findings[i];
    struct counted_sets sets;
    int r;

    counted_sets_start (&sets, &snap->engine.reader, finding);
    while ((r = counted_sets_next (&sets, set)) > 0) {
      result->sets++;
      result->records += set->count;
      for (uint32_t j = 0; j < set->count; j++)
        check_data (snap, result, finding->segment->id, set,
                    &set->record[j]);
    }
    if (r < 0)
      return r;
    if (progress)
      progress_show (progress,
                     (i + 1) * snap->engine.superblock.geometry.segment_size);
  }
  return 0;
}

/* What an earlier start, or write-back, has already given up. */
static void
check_lost (struct snapshot *snap, struct check_result *result)
{
  struct index_cursor cursor;
  struct extent extent;

  snapshot_walk_start (&cursor, snap);
  while (snapshot_walk_next (&cursor, &extent))
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
check_snapshot (struct snapshot *snap, struct progress *progress,
             struct check_result *result)
{
  int r;

  *result = (struct check_result) { .problems = json_list () };
  check_metadata (snap, result);
  r = check_log (snap, progress, result);
  if (r == 0)
    check_lost (snap, result);
  return r;
}

void
check_free (struct check_result *result)
{
  json_object_put (result->problems);
}

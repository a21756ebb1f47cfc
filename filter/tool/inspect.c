/* SPDX-License-Identifier: BSD-3-Clause */

/* inspect: what the metadata of a cache device says. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "tool/command.h"
#include "tool/offline.h"

struct inspection {
  struct snapshot *snap;
  enum snapshot_verdict verdict;
  struct segment_use *use;
  struct epoch_use *epochs;
  size_t epoch_count;
  bool segments, records;
};

/* --- records ---------------------------------------------------------- */

typedef void record_shower (const struct inspection *in, uint32_t segment,
                            const struct set *set,
                            const struct record *record, bool first);

/* Of all sets that count, segment by segment.  0 or -errno. */
static int
show_records (const struct inspection *in, record_shower *show)
{
  struct snapshot *snap = in->snap;
  const uint32_t total = snap->engine.superblock.geometry.segment_count;
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  bool first = true;

  if (set == NULL)
    return -ENOMEM;
  for (uint32_t id = 0; id < total; id++) {
    const struct finding *finding = snapshot_finding (snap, id);
    struct counted_sets sets;
    int r = 0;

    if (finding == NULL)
      continue;
    counted_sets_start (&sets, &snap->engine.reader, finding);
    while ((r = counted_sets_next (&sets, set)) > 0)
      for (uint32_t i = 0; i < set->count; i++) {
        show (in, id, set, &set->record[i], first);
        first = false;
      }
    if (r < 0)
      return r;
  }
  return 0;
}

static void
record_text (const struct inspection *in, uint32_t segment,
             const struct set *set, const struct record *record, bool first)
{
  if (first)
    puts ("\nrecords\n  segment set epoch sequence offset length kind state "
          "place checksum");
  printf ("  %" PRIu32 " %" PRIu32 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %"
          PRIu64 " %s %s", segment, set->ordinal, set->epoch,
          record->sequence, record->range.start, record->range.length,
          record_kind_name (record->kind),
          snapshot_record_is_dirty (in->snap, set, record) ? "dirty" : "clean");
  if (record->kind == RECORD_DATA)
    printf (" %" PRIu64, record->at);
  if (record->kind == RECORD_DATA && record->has_checksum)
    printf (" %016" PRIx64, record->checksum);
  putchar ('\n');
}

static void
record_json (const struct inspection *in, uint32_t segment,
             const struct set *set, const struct record *record, bool first)
{
  struct json_object *o = json_new ();

  json_put_number (o, "segment", segment);
  json_put_number (o, "set", set->ordinal);
  json_put_number (o, "epoch", set->epoch);
  json_put_number (o, "sequence", record->sequence);
  json_put_number (o, "offset", record->range.start);
  json_put_number (o, "length", record->range.length);
  json_put_text (o, "kind", record_kind_name (record->kind));
  json_put_bool (o, "dirty",
                 snapshot_record_is_dirty (in->snap, set, record));
  if (record->kind == RECORD_DATA) {
    json_put_number (o, "place", record->at);
    if (record->has_checksum) {
      char text[17];

      snprintf (text, sizeof text, "%016" PRIx64, record->checksum);
      json_put_text (o, "checksum", text);
    }
  }
  printf ("%s%s", first ? "\n  " : ",\n  ",
          json_object_to_json_string_ext (o, JSON_C_TO_STRING_PLAIN));
  json_object_put (o);
}

/* --- text ------------------------------------------------------------- */

static void
twin_text (const char *name, const struct twin *twin)
{
  printf ("%s\n", name);
  for (int place = 0; place < (twin->spare ? TWIN_PLACES : 2); place++) {
    const bool spare = place >= 2;
    const uint64_t at = spare ? twin->at[place - 2] + twin->spare
      : twin->at[place];

    if (spare && twin->verdict[place] == TWIN_BLANK)
      continue;
    printf ("  %s %c at %" PRIu64 ": %s", spare ? "spare" : "copy",
            'A' + place % 2, at, twin_verdict_name (twin->verdict[place]));
    if (twin->verdict[place] == TWIN_OK)
      printf (", update %" PRIu64, twin->place_sequence[place]);
    putchar ('\n');
  }
}

static void
superblock_text (const struct superblock *sb)
{
  const struct geometry *g = &sb->geometry;
  CLEANUP_FREE char *export = printable (sb->export_name, sb->export_length);
  CLEANUP_FREE char *id = printable (sb->backing_id, sb->backing_id_length);
  char size[SIZE_TEXT];

  twin_text ("superblock", &sb->twin);
  printf ("  format version %d\n  uuid ", FORMAT_VERSION);
  for (size_t i = 0; i < sizeof sb->media.uuid; i++)
    printf ("%02x", sb->media.uuid[i]);
  printf ("\n  features: compat %#" PRIx64 ", ro_compat %#" PRIx64
          ", incompat %#" PRIx64 "\n", le64_get (sb->media.compat),
          le64_get (sb->media.ro_compat), le64_get (sb->media.incompat));
  printf ("  uses %s of the device\n", size_text (size, g->device_size));
  printf ("  %" PRIu32 " segments of %s", g->segment_count,
          size_text (size, g->segment_size));
  printf (", the first at %" PRIu64 "; room for %" PRIu32 " in the table\n",
          g->first_segment_at, g->segment_capacity);
  if (!sb->bound)
    puts ("  belongs to no backing store yet");
  else
    printf ("  belongs to a backing store of %s, export \"%s\"%s%s\n",
            size_text (size, sb->backing_size), export ? export : "?",
            sb->backing_id_length > 0 ? ", pcache-backing-id=" : "",
            id ? id : "");
}

static void
control_text (struct snapshot *snap)
{
  struct superblock *sb = &snap->engine.superblock;
  const struct control control = control_get (sb);

  twin_text ("control block", &sb->control_twin);
  printf ("  tail %" PRIu64 ", written back up to epoch %" PRIu64 "\n",
          control.tail_sequence, control.written_back);
  if (control.gc_percent <= CACHE_MAX_GC_PERCENT)
    printf ("  gc percent %" PRIu32 "\n", control.gc_percent);
  else
    puts ("  gc percent not set");
  if (control.lost)
    puts ("  something is, or was, lost");
  if (snap->has_checkpoint)
    printf ("  a checkpoint, %" PRIu64 " entries\n",
            le64_get (control_checkpoint (sb).entries));
}

static void
segments_text (const struct inspection *in)
{
  const struct segment_table *table = &in->snap->engine.segments;
  const uint32_t total =
    in->snap->engine.superblock.geometry.segment_count;

  puts ("\nsegments\n  id state generation sets records dirty-records "
        "dirty-bytes epoch-max first-sequence last-sequence");
  for (uint32_t id = 0; id < total; id++) {
    const struct segment *s = &table->segments[id];
    const struct finding *f = snapshot_finding (in->snap, id);
    const struct segment_use *u = &in->use[id];

    printf ("  %" PRIu32 " %s", id, segment_state_name (s));
    if (!s->damaged)
      printf (" %" PRIu64, s->generation);
    if (f)
      printf (" %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
              " %" PRIu64 " %" PRIu64 "%s%s", u->set_count, u->records,
              u->dirty_records, u->dirty, f->epoch_max, f->sequence_min,
              f->sequence_max, s->unordered ? " unordered" : "",
              f->damaged ? " DAMAGED" : "");
    putchar ('\n');
  }
}

static void
count_states (const struct inspection *in, uint32_t counts[4])
{
  const struct segment_table *table = &in->snap->engine.segments;

  for (uint32_t id = 0;
       id < in->snap->engine.superblock.geometry.segment_count; id++)
    counts[table->segments[id].damaged ? 0 : table->segments[id].state]++;
}

static int
inspect_text (const struct inspection *in)
{
  struct replay *replay = &in->snap->replay;
  uint32_t counts[4] = { 0 };
  char size[SIZE_TEXT];

  superblock_text (&in->snap->engine.superblock);
  control_text (in->snap);
  count_states (in, counts);
  printf ("log\n  segments: %" PRIu32 " free, %" PRIu32 " open, %" PRIu32
          " sealed, %" PRIu32 " with a damaged header\n",
          counts[SEGMENT_FREE], counts[SEGMENT_OPEN], counts[SEGMENT_SEALED],
          counts[0]);
  printf ("  last sequence number %" PRIu64 ", next epoch %" PRIu64 "\n",
          replay->sequence, replay->epoch);
  printf ("  dirty: %s in %zu epochs\n",
          size_text (size, epoch_queue_dirty_bytes
                     (&in->snap->engine.queue)), in->epoch_count);
  for (size_t i = 0; i < in->epoch_count; i++)
    printf ("    epoch %" PRIu64 ": %" PRIu64 " records, %s\n",
            in->epochs[i].epoch, in->epochs[i].records,
            size_text (size, in->epochs[i].bytes));
  if (in->verdict == SNAPSHOT_RESCUE)
    puts ("  damaged: nbdkit opens it only with pcache-damaged=rescue");
  if (in->segments)
    segments_text (in);
  return in->records ? show_records (in, record_text) : 0;
}

/* --- JSON ------------------------------------------------------------- */

static struct json_object *
twin_json (const struct twin *twin)
{
  struct json_object *o = json_new (), *copies = json_list ();

  for (int place = 0; place < (twin->spare ? TWIN_PLACES : 2); place++)
    json_append (copies, json_object_new_string
                 (twin_verdict_name (twin->verdict[place])));
  json_put (o, "copies", copies);
  json_put_number (o, "update", twin->sequence);
  return o;
}

static struct json_object *
superblock_json (const struct superblock *sb)
{
  const struct geometry *g = &sb->geometry;
  CLEANUP_FREE char *export = printable (sb->export_name, sb->export_length);
  CLEANUP_FREE char *id = printable (sb->backing_id, sb->backing_id_length);
  struct json_object *o = twin_json (&sb->twin);
  char uuid[33];

  for (size_t i = 0; i < sizeof sb->media.uuid; i++)
    snprintf (uuid + 2 * i, 3, "%02x", sb->media.uuid[i]);
  json_put_number (o, "version", FORMAT_VERSION);
  json_put_text (o, "uuid", uuid);
  json_put_number (o, "compat", le64_get (sb->media.compat));
  json_put_number (o, "ro_compat", le64_get (sb->media.ro_compat));
  json_put_number (o, "incompat", le64_get (sb->media.incompat));
  json_put_number (o, "device_size", g->device_size);
  json_put_number (o, "segment_size", g->segment_size);
  json_put_number (o, "segment_count", g->segment_count);
  json_put_number (o, "segment_capacity", g->segment_capacity);
  json_put_number (o, "first_segment_at", g->first_segment_at);
  json_put_bool (o, "bound", sb->bound);
  if (sb->bound) {
    json_put_number (o, "backing_size", sb->backing_size);
    json_put_text (o, "export", export ? export : "");
    json_put_text (o, "backing_id", id ? id : "");
  }
  return o;
}

static struct json_object *
control_json (struct snapshot *snap)
{
  struct superblock *sb = &snap->engine.superblock;
  const struct control control = control_get (sb);
  struct json_object *o = twin_json (&sb->control_twin);

  json_put_number (o, "tail", control.tail_sequence);
  json_put_number (o, "written_back", control.written_back);
  json_put (o, "gc_percent", control.gc_percent <= CACHE_MAX_GC_PERCENT
            ? json_object_new_int (control.gc_percent) : NULL);
  json_put_bool (o, "lost", control.lost);
  json_put_bool (o, "checkpoint", snap->has_checkpoint);
  return o;
}

static struct json_object *
segment_json (const struct inspection *in, uint32_t id)
{
  const struct segment *s = &in->snap->engine.segments.segments[id];
  const struct finding *f = snapshot_finding (in->snap, id);
  const struct segment_use *u = &in->use[id];
  struct json_object *o = json_new ();

  json_put_number (o, "id", id);
  json_put_text (o, "state", segment_state_name (s));
  if (s->damaged)
    return o;
  json_put_number (o, "generation", s->generation);
  if (f == NULL)
    return o;
  json_put_bool (o, "unordered", s->unordered);
  json_put_bool (o, "damaged", f->damaged);
  json_put_number (o, "sets", u->set_count);
  json_put_number (o, "records", u->records);
  json_put_number (o, "dirty_records", u->dirty_records);
  json_put_number (o, "epoch_max", f->epoch_max);
  json_put_number (o, "sequence_min", f->sequence_min);
  json_put_number (o, "sequence_max", f->sequence_max);
  json_put_number (o, "dirty_bytes", u->dirty);
  json_put_number (o, "clean_bytes", u->clean);
  json_put_number (o, "dead_bytes", u->dead);
  return o;
}

static int
inspect_json (const struct inspection *in)
{
  struct engine *engine = &in->snap->engine;
  struct json_object *o = json_new (), *segments = json_list (),
    *epochs = json_list ();
  const char *text;
  int r = 0;

  json_put_text (o, "opens", in->verdict == SNAPSHOT_OK ? "yes" : "rescue");
  json_put (o, "superblock", superblock_json (&engine->superblock));
  json_put (o, "control", control_json (in->snap));
  json_put_number (o, "tail", in->snap->replay.tail);
  json_put_number (o, "last_sequence", in->snap->replay.sequence);
  json_put_number (o, "next_epoch", in->snap->replay.epoch);
  json_put_number (o, "replayed",
                   stats_get (engine->stats, STAT_replayed_records));
  json_put_number (o, "dropped",
                   stats_get (engine->stats, STAT_replay_dropped_records));
  json_put_number (o, "dirty_bytes", epoch_queue_dirty_bytes (&engine->queue));
  for (size_t i = 0; i < in->epoch_count; i++) {
    struct json_object *epoch = json_new ();

    json_put_number (epoch, "epoch", in->epochs[i].epoch);
    json_put_number (epoch, "records", in->epochs[i].records);
    json_put_number (epoch, "dirty_bytes", in->epochs[i].bytes);
    json_append (epochs, epoch);
  }
  json_put (o, "epochs", epochs);
  for (uint32_t id = 0; id < engine->superblock.geometry.segment_count; id++)
    json_append (segments, segment_json (in, id));
  json_put (o, "segments", segments);
  json_put (o, "messages", messages_json ());
  if (!in->records) {
    print_json (o);
    return 0;
  }
  /* There may be too many records to hold them all. */
  text = json_object_to_json_string_ext (o, JSON_C_TO_STRING_PRETTY);
  printf ("%.*s,\n\"records\": [", (int) strlen (text) - 1, text);
  json_object_put (o);
  r = show_records (in, record_json);
  puts ("\n]}");
  return r;
}

/* --- the command ------------------------------------------------------ */

static int
inspect (const char *device, struct inspection *in, bool json)
{
  struct snapshot snap;
  struct pmem *pmem;
  int status = offline_open (device, &pmem, &snap, &in->verdict), r;

  if (status != 0)
    return status;
  if (in->verdict == SNAPSHOT_NO_CACHE) {
    offline_close (pmem, &snap);
    return EXIT_NO_CACHE;
  }
  in->snap = &snap;
  in->use = snapshot_use (&snap);
  r = in->use ? snapshot_epochs (&snap, &in->epochs, &in->epoch_count) : -EIO;
  if (r == 0)
    r = json ? inspect_json (in) : inspect_text (in);
  if (r < 0)
    report (REPORT_ERROR, "cannot be read: %s", strerror (-r));
  free (in->use);
  free (in->epochs);
  offline_close (pmem, &snap);
  return r < 0 ? EXIT_FAILED : EXIT_SUCCESS;
}

static int
run (int argc, char *argv[])
{
  static const struct option options[] = {
    { "json", no_argument, NULL, 'j' },
    { "records", no_argument, NULL, 'r' },
    { "segments", no_argument, NULL, 's' },
    { NULL },
  };
  struct inspection in = { 0 };
  bool json = false;
  int c;

  while ((c = next_option (argc, argv, options)) != -1)
    switch (c) {
    case 'j': json = true; break;
    case 'r': in.records = true; break;
    case 's': in.segments = true; break;
    default: return EXIT_USAGE;
    }
  if (argc - optind != 1)
    return usage_error ("inspect: give one DEVICE");
  return inspect (argv[optind], &in, json);
}

const struct command inspect_command = {
  "inspect", "[--segments] [--records] [--json] DEVICE",
  "show what the metadata of a cache device says", run,
};

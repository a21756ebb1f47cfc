/* SPDX-License-Identifier: BSD-3-Clause */

/* Every segment is read by some thread, once, and its records are collected at
 * once: for nearly all are sealed and whole, and nothing has to be judged.  Only
 * when there is damage are they collected anew, once it is known what counts.
 *
 * How much of a segment is valid:
 *
 *   state    what the walk finds             verdict
 *   -------  ------------------------------  -------------------------------
 *   free     (not walked)                    nothing in it counts
 *   sealed   as many sets as the header says whole
 *   sealed   anything else                   damaged
 *   open     sets, then nothing or a torn    ends there
 *            one, none after it
 *   open     sets, then a media error, or a  damaged
 *            set that makes no sense
 *   open     sets, a gap, then a later set   damaged, if a set that was durable
 *                                            is missing; else it ends at the
 *                                            gap
 *
 * On an ordered device each set was durable before the next was stored, so a
 * gap is always damage.  On an unordered one the kernel may have
 * written a later set and not an earlier one, as long as no sync lay
 * between; sets say how many before them were synced (durable_sets), and up
 * to which epoch everything was (durable_through).  For the same reason a
 * set of an epoch that nobody declared durable may be there without its data:
 * the data's checksums tell, and the log ends before that set.
 *
 * A damaged segment hides records.  If they were all written back (the sealed
 * header, or the next valid set, bounds their epochs), it is enough to
 * ignore every clean record that is older than what it may hold: the tail.
 * Otherwise dirty data may be hidden, and only options.rescue goes on. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "base/workers.h"
#include "engine/collect.h"
#include "engine/replay.h"

/* Fewer are not worth a thread. */
#define SEGMENTS_PER_WORKER 16

static void
note_set (struct finding *f, const struct set *set)
{
  bool dirty = false;

  for (uint32_t i = 0; i < set->count && !dirty; i++)
    dirty = !set->record[i].clean;
  if (dirty)
    f->epoch_max = MAX (f->epoch_max, set->epoch);
  f->epoch_seen = MAX (f->epoch_seen, set->epoch);
  if (f->sequence_min == 0)
    f->sequence_min = set->record[0].sequence;
  f->sequence_max = MAX (f->sequence_max,
                         set->record[set->count - 1].sequence);
  f->sets = set->ordinal + 1;
}

/* The header of a sealed segment says the same as its sets. */
static bool
agrees_with_header (const struct finding *f)
{
  return f->epoch_max == f->segment->epoch_max
    && f->sequence_min == f->segment->sequence_min
    && f->sequence_max == f->segment->sequence_max;
}

/* --- reading ------------------------------------------------------------ */

void
counted_sets_start (struct counted_sets *sets, const struct log_reader *reader,
                    const struct finding *finding)
{
  sets->finding = finding;
  log_walk_start (&sets->walk, reader, finding->segment);
}

int
counted_sets_next (struct counted_sets *sets, struct set *set)
{
  const struct finding *f = sets->finding;

  if (sets->walk.ordinal >= f->sets)
    return 0;
  if (log_walk_next (&sets->walk, set) == SET_OK)
    return 1;
  if (!f->damaged)
    return -EIO;                /* it was readable a moment ago */
  return log_walk_find_later (&sets->walk, set) ? 1 : 0;
}

static struct collect_marks
marks_of (const struct replay *rec)
{
  return (struct collect_marks) {
    .evicted_through = rec->evicted_through,
    .tail = rec->tail,
    .written_back = rec->written_back,
  };
}

/* All segments, each read by one of several threads. */
struct reading {
  struct replay *rec;
  struct collector *collector;
  int (*read) (struct reading *reading, unsigned worker, struct finding *f,
               struct set *set);
  _Atomic uint32_t next;        /* finding */
  _Atomic int error;
};

static void
read_some (void *opaque, unsigned worker)
{
  struct reading *reading = opaque;
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  uint32_t i;

  if (set == NULL) {
    atomic_store (&reading->error, -ENOMEM);
    return;
  }
  while (atomic_load (&reading->error) == 0
         && (i = atomic_fetch_add (&reading->next, 1)) < reading->rec->count) {
    struct finding *f = &reading->rec->findings[i];
    int r = f->collected ? 0 : reading->read (reading, worker, f, set);

    if (r < 0)
      atomic_store (&reading->error, r);
  }
}

static int
read_segments (struct replay *rec, struct collector *collector,
               int (*read) (struct reading *, unsigned, struct finding *,
                            struct set *))
{
  struct reading reading = {
    .rec = rec, .collector = collector, .read = read,
  };

  workers_run (rec->workers, read_some, &reading);
  return reading.error;
}

static void
raise_durable_through (struct replay *rec, uint64_t through)
{
  uint64_t before = atomic_load (&rec->durable_through);

  while (before < through
         && !atomic_compare_exchange_weak (&rec->durable_through, &before,
                                           through))
    ;
}

/* Nearly all segments are sealed and whole: then reading them once is enough.
 * What is not is left as if it had not been read. */
static int
read_whole (struct reading *reading, unsigned worker, struct finding *f,
            struct set *set)
{
  const struct segment *segment = f->segment;
  const struct collect_marks marks = marks_of (reading->rec);
  struct finding found = { .segment = f->segment };
  uint64_t durable_through = 0;
  struct log_walk walk;
  int r;

  if (segment->state != SEGMENT_SEALED)
    return 0;
  log_walk_start (&walk, &reading->rec->engine->reader, segment);
  while (log_walk_next (&walk, set) == SET_OK) {
    note_set (&found, set);
    durable_through = MAX (durable_through, set->durable_through);
    r = collect_set (reading->collector, worker, &marks, segment, set);
    if (r < 0)
      return r;
  }
  if (walk.ordinal < segment->sets || !agrees_with_header (&found))
    return 0;
  raise_durable_through (reading->rec, durable_through);
  found.collected = true;
  *f = found;
  return 0;
}

static int
read_counted (struct reading *reading, unsigned worker, struct finding *f,
              struct set *set)
{
  const struct collect_marks marks = marks_of (reading->rec);
  struct counted_sets sets;
  int r;

  counted_sets_start (&sets, &reading->rec->engine->reader, f);
  while ((r = counted_sets_next (&sets, set)) > 0) {
    r = collect_set (reading->collector, worker, &marks, f->segment, set);
    if (r < 0)
      return r;
  }
  return r;
}

/* --- survey ------------------------------------------------------------- */

static void
note_damage (struct replay *rec, struct finding *f,
             const struct log_walk *walk, const char *what)
{
  const uint64_t at = segment_at (&rec->engine->superblock, f->segment->id)
    + walk->end;

  f->damaged = true;
  stats_add (rec->engine->stats, STAT_damaged_segments, 1);
  report (REPORT_WARNING, "segment %" PRIu32 ": record set %" PRIu32
          " (ends at %" PRIu64 " of the cache device) is damaged: %s",
          f->segment->id, walk->ordinal, at, what);
}

/* Behind damage: the next set that is whole. */
static bool
next_or_later (struct log_walk *walk, struct set *set)
{
  return log_walk_next (walk, set) == SET_OK
    || log_walk_find_later (walk, set);
}

/* SET is the first whole one since EXPECTED: what is missing in between is not
 * newer. */
static void
note_gap (struct finding *f, uint32_t expected, const struct set *set)
{
  if (set->ordinal == expected)
    return;
  f->hidden_epoch = MAX (f->hidden_epoch, set->epoch);
  f->hidden_sequence = MAX (f->hidden_sequence, set->record[0].sequence - 1);
}

static void
survey_sealed (struct replay *rec, struct finding *f, struct set *set)
{
  const struct segment *segment = f->segment;
  struct log_walk walk;
  enum set_verdict verdict;
  bool contradiction;
  uint32_t expected;

  log_walk_start (&walk, &rec->engine->reader, segment);
  while ((verdict = log_walk_next (&walk, set)) == SET_OK) {
    note_set (f, set);
    raise_durable_through (rec, set->durable_through);
  }
  if (walk.ordinal < segment->sets)
    note_damage (rec, f, &walk, set_verdict_name (verdict));
  else if (!agrees_with_header (f))
    note_damage (rec, f, &walk, "the segment's header contradicts its sets");
  if (!f->damaged)
    return;
  contradiction = walk.ordinal == segment->sets;
  for (expected = walk.ordinal; next_or_later (&walk, set);
       expected = walk.ordinal) {
    note_gap (f, expected, set);
    note_set (f, set);
  }
  f->epoch_max = MAX (segment->epoch_max, f->epoch_max);
  f->sequence_max = MAX (segment->sequence_max, f->sequence_max);
  if (contradiction || walk.ordinal < segment->sets) {
    f->hidden_epoch = f->epoch_max;
    f->hidden_sequence = f->sequence_max;
  }
  /* The sets behind a gap may be younger than all that is dirty. */
  f->hidden_epoch = MIN (f->hidden_epoch, f->epoch_max);
  f->sets = segment->sets;
  /* Not evicted before all that it may hold is written back. */
  f->segment->epoch_max = f->epoch_max;
}

/* Of an epoch that nobody declared durable: is the data there? */
static bool
data_is_there (struct replay *rec, const struct set *set)
{
  for (uint32_t i = 0; i < set->count; i++) {
    const struct record *record = &set->record[i];
    uint64_t sum;

    if (record->kind != RECORD_DATA || !record->has_checksum)
      continue;
    /* A media error is not what a crash leaves: keep the record, whoever reads
     * it will be told. */
    if (pmem_checksum (rec->engine->pmem, record->at, record->range.length,
                       &sum) == 0
        && sum != record->checksum)
      return false;
  }
  return true;
}

/* The log of an open segment stops before set walk->ordinal, for reason VERDICT.
 * Is that the end, or damage? */
static void
judge_end (struct replay *rec, struct finding *f, struct log_walk *walk,
           enum set_verdict verdict, struct set *set)
{
  const struct log_walk at_gap = *walk;
  bool missing_durable = (verdict == SET_UNREADABLE
                          || verdict == SET_CORRUPT) /* no crash leaves
                                                      * these (T8) */
    && !MUTATION (T8_UNREADABLE_IS_END);
  struct finding behind = *f;
  uint32_t expected;

  for (expected = walk->ordinal; next_or_later (walk, set);
       expected = walk->ordinal) {
    note_gap (&behind, expected, set);
    if (set->durable_sets > at_gap.ordinal
        || set->epoch <= rec->durable_through)
      missing_durable = true;
    note_set (&behind, set);
  }
  if (!missing_durable) {
    f->leftovers = behind.sets != f->sets;
    return;                     /* what comes after was never promised */
  }

  note_damage (rec, f, &at_gap, set_verdict_name (verdict));
  behind.damaged = true;
  /* What nothing whole comes after may be anything. */
  verdict = log_walk_next (walk, set);
  if (walk->ordinal == at_gap.ordinal || verdict == SET_UNREADABLE
      || verdict == SET_CORRUPT) {
    behind.hidden_epoch = behind.hidden_sequence = UINT64_MAX;
    behind.sets = walk->ordinal + 1;
    behind.epoch_max = MAX (behind.epoch_max, rec->written_back + 1);
  }
  *f = behind;
}

static void
survey_open (struct replay *rec, struct finding *f, struct set *set)
{
  struct log_walk walk, before;
  enum set_verdict verdict;

  log_walk_start (&walk, &rec->engine->reader, f->segment);
  walk.barren = f->barren;
  for (;;) {
    before = walk;
    verdict = log_walk_next (&walk, set);
    if (verdict == SET_OK && f->segment->unordered
        && set->epoch > rec->durable_through
        && !MUTATION (DATA_NOT_LOOKED_FOR) && !data_is_there (rec, set)) {
      walk = before;
      f->leftovers = true;
      return;                   /* everything from here on was never synced:
                                 * a sync would have brought this data too */
    }
    if (verdict != SET_OK)
      break;
    note_set (f, set);
  }
  judge_end (rec, f, &walk, verdict, set);
}

/* What the sets of an open segment declare durable.  Needed before any open
 * segment is judged. */
static void
survey_declarations (struct replay *rec, struct finding *f,
                     struct set *set)
{
  struct log_walk walk;

  log_walk_start (&walk, &rec->engine->reader, f->segment);
  while (next_or_later (&walk, set))
    raise_durable_through (rec, set->durable_through);
  f->barren = walk.barren;
}

static int
refuse_or_go_on (struct replay *rec, const struct finding *f)
{
  struct engine *engine = rec->engine;

  if (MUTATION (T23_DAMAGE_SKIPPED))
    return 0;
  if (f->hidden_epoch <= rec->written_back) {
    rec->needs_rescue |= rec->lost;
    if (rec->lost && !engine->options.rescue) {
      report (REPORT_ERROR, "segment %" PRIu32 ": the damage may hide which "
              "data was lost in an earlier one, and that would be read as it was "
              "before; cache not opened: pcache-damaged=rescue serves what is "
              "left", f->segment->id);
      return -EUCLEAN;
    }
    rec->tail = MAX (rec->tail, f->hidden_sequence);
    report (REPORT_WARNING, "segment %" PRIu32 ": all that the damage can "
            "hide was written back (epoch %" PRIu64 " of %" PRIu64 "); "
            "clean data as old is dropped, nothing is lost",
            f->segment->id, f->hidden_epoch, rec->written_back);
    return 0;
  }
  rec->needs_rescue = rec->hides_dirty = true;
  if (engine->options.rescue) {
    report (REPORT_WARNING, "segment %" PRIu32 ": the damage may hide data "
            "that was not written back; what is left is used without it",
            f->segment->id);
    return 0;
  }
  report (REPORT_ERROR, "segment %" PRIu32 ": the damage may hide data that "
          "is nowhere else (not yet written back: epochs after %" PRIu64
          "); cache not opened: pcache-damaged=rescue serves what is left",
          f->segment->id, rec->written_back);
  return -EUCLEAN;
}

/* Whatever is hidden may have been written back, or say that a range is a hole:
 * then the backing store is newer than what was clean before, and never older. */
static void
ignore_clean (struct replay *rec)
{
  for (uint32_t i = 0; i < rec->count; i++)
    rec->tail = MAX (rec->tail, rec->findings[i].sequence_max);
}

/* What an open segment hides has at most one record for each record's size
 * of it beyond the highest number that can be seen. */
static void
bound_hidden (struct replay *rec)
{
  uint64_t highest = rec->tail;

  for (uint32_t i = 0; i < rec->count; i++)
    highest = MAX (highest, rec->findings[i].sequence_max);
  for (uint32_t i = 0; i < rec->count; i++)
    if (rec->findings[i].hidden_sequence == UINT64_MAX) {
      rec->findings[i].hidden_sequence = highest
        + rec->engine->superblock.geometry.segment_size;
      rec->findings[i].sequence_max = rec->findings[i].hidden_sequence;
    }
}

/* The header of a segment that nobody can read: it may hold anything. */
static int
find_segments (struct replay *rec)
{
  struct segment_table *table = &rec->engine->segments;
  const uint32_t total = rec->engine->superblock.geometry.segment_count;
  int error = 0;

  rec->findings = calloc (total, sizeof *rec->findings);
  if (rec->findings == NULL)
    return -ENOMEM;
  for (uint32_t id = 0; id < total; id++) {
    struct segment *segment = &table->segments[id];

    if (!segment->damaged) {
      if (segment->state != SEGMENT_FREE)
        rec->findings[rec->count++].segment = segment;
      continue;
    }
    rec->needs_rescue = rec->hides_dirty = true;
    stats_add (rec->engine->stats, STAT_damaged_segments, 1);
    report (rec->engine->options.rescue ? REPORT_WARNING : REPORT_ERROR,
            "segment %" PRIu32 ": both copies of its header are damaged "
            "(copy A at %" PRIu64 ": %s, copy B at %" PRIu64 ": %s), it may "
            "hold data that is nowhere else; %s", id, segment->twin.at[0],
            twin_verdict_name (segment->twin.verdict[0]),
            segment->twin.at[1],
            twin_verdict_name (segment->twin.verdict[1]),
            rec->engine->options.rescue ? "the rest is used without it"
            : "cache not opened: pcache-damaged=rescue serves what is left");
    if (!rec->engine->options.rescue)
      error = -EUCLEAN;
  }
  return error;
}

static int
survey (struct replay *rec, struct collector *collector)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  int error;

  if (set == NULL)
    return -ENOMEM;
  error = read_segments (rec, collector, read_whole);
  if (error < 0)
    return error;
  for (uint32_t i = 0; i < rec->count; i++) {
    struct finding *f = &rec->findings[i];

    if (f->segment->state == SEGMENT_OPEN)
      survey_declarations (rec, f, set);
    else if (!f->collected)
      survey_sealed (rec, f, set);
  }
  for (uint32_t i = 0; i < rec->count; i++)
    if (rec->findings[i].segment->state == SEGMENT_OPEN)
      survey_open (rec, &rec->findings[i], set);
  bound_hidden (rec);
  for (uint32_t i = 0; i < rec->count; i++) {
    const struct finding *f = &rec->findings[i];

    if (f->damaged) {
      int r = refuse_or_go_on (rec, f);

      if (r < 0)
        error = r;              /* name all the damage before giving up */
    }
  }
  if (rec->hides_dirty)
    ignore_clean (rec);
  return error;
}

static int
load (struct replay *rec, struct collector *collector)
{
  bool keep = rec->tail == rec->evicted_through;
  int r;

  for (uint32_t i = 0; i < rec->count; i++)
    keep &= rec->findings[i].collected
      || rec->findings[i].segment->state == SEGMENT_OPEN;
  /* What was collected may not count any more, or not so. */
  if (!keep) {
    collector_clear (collector);
    for (uint32_t i = 0; i < rec->count; i++)
      rec->findings[i].collected = false;
  }
  r = read_segments (rec, collector, read_counted);
  return r < 0 ? r : collector_finish (collector);
}

/* Where the numbers of sequences and epochs go on.  They must not reach what
 * log_reader takes for nonsense, or what is written now could not be read
 * again. */
static int
find_numbers (struct replay *rec)
{
  rec->sequence = rec->tail;
  rec->epoch = MAX (rec->written_back, rec->durable_through);
  for (uint32_t i = 0; i < rec->count; i++) {
    const struct finding *f = &rec->findings[i];

    rec->sequence = MAX (rec->sequence, f->sequence_max);
    rec->epoch = MAX (rec->epoch, MAX (f->epoch_seen, f->epoch_max));
  }
  rec->epoch++;
  if (rec->sequence < UINT64_MAX / 4 && rec->epoch < UINT64_MAX / 4)
    return 0;
  report (REPORT_ERROR, "the last sequence number (%" PRIu64 ") or epoch (%"
          PRIu64 ") makes no sense, although the checksums are right; cache "
          "not opened", rec->sequence, rec->epoch);
  return -EUCLEAN;
}

int
replay_read (struct replay *rec, struct engine *engine)
{
  const struct control control = control_get (&engine->superblock);
  struct collector *collector;
  int r;

  *rec = (struct replay) {
    .engine = engine,
    .evicted_through = control.tail_sequence,
    .tail = control.tail_sequence,
    .written_back = control.written_back,
    .lost = control.lost,
    /* Nothing is written back before it is durable here. */
    .durable_through = control.written_back,
  };
  if (control.tail_sequence >= UINT64_MAX / 2
      || control.written_back >= UINT64_MAX / 2) {
    report (REPORT_ERROR, "control block: the checksum is right but its marks "
            "make no sense (tail %" PRIu64 ", written back %" PRIu64 "); "
            "cache not opened", control.tail_sequence, control.written_back);
    return -EUCLEAN;
  }
  r = find_segments (rec);
  if (r < 0)
    return r;
  rec->workers = workers_wanted (rec->count, SEGMENTS_PER_WORKER);
  collector = collector_new (engine, rec->workers);
  if (collector == NULL)
    return -ENOMEM;
  r = survey (rec, collector);
  if (r == 0)
    r = find_numbers (rec);
  if (r == 0)
    r = load (rec, collector);
  collector_free (collector);
  return r;
}

void
replay_free (struct replay *rec)
{
  free (rec->findings);
  rec->findings = NULL;
}

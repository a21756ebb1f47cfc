/* SPDX-License-Identifier: BSD-3-Clause */

/* What a replay leaves in memory, and where it comes from here:
 *
 *   the index             the pieces
 *   hit bits              the pieces; after a replay there are none
 *   the epoch queue       the sets of segments that may have something dirty:
 *                         these are read, and have to be as their headers say
 *   numbers that go on    the control block, not below what the headers say
 *   what is lost          nothing: a cache in which something is, or was, gets no
 *                         checkpoint
 *   which holes a crash   the control block: what was dropped from memory alone is a
 *   would not find        hole here as well, and not one to a later replay
 *   damage                none was found in the life before.  If some came since:
 *                         the index is right nevertheless, and whoever reads
 *                         the log will find it, a later replay among them */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "base/workers.h"
#include "engine/checkpoint.h"
#include "engine/collect.h"

/* Of each segment header, for the digest. */
struct header_state {
  le64 update;                  /* sequence of its twin */
  le32 id;
  le32 state;
  le64 generation;
  le32 sets;
  le32 flags;
  le64 epoch_max;
  le64 sequence_min;
  le64 sequence_max;
};
MEDIA_SIZE (struct header_state, 56);

/* The digest of one header is the seed for the next. */
static uint64_t
digest_headers (const struct engine *engine)
{
  const struct superblock *sb = &engine->superblock;
  uint64_t digest = sb->instance;

  for (uint32_t id = 0; id < sb->geometry.segment_count; id++) {
    const struct segment *s = &engine->segments.segments[id];
    const struct header_state state = {
      .update = le64_of (s->twin.sequence),
      .id = le32_of (s->id),
      .state = le32_of (s->state),
      .generation = le64_of (s->generation),
      .sets = le32_of (s->sets),
      .flags = le32_of (s->unordered ? SEGMENT_UNORDERED : 0),
      .epoch_max = le64_of (s->epoch_max),
      .sequence_min = le64_of (s->sequence_min),
      .sequence_max = le64_of (s->sequence_max),
    };

    digest = XXH3_64bits_withSeed (&state, sizeof state, digest);
  }
  return digest;
}

/* NULL, or why the headers allow no checkpoint. */
static const char *
look_at_headers (const struct engine *engine)
{
  for (uint32_t id = 0; id < engine->superblock.geometry.segment_count; id++) {
    const struct segment *segment = &engine->segments.segments[id];

    if (segment->damaged)
      return "the header of a segment is damaged";
    if (segment->state == SEGMENT_OPEN && !MUTATION (CHECKPOINT_WHILE_OPEN))
      return "a segment is open";
  }
  return NULL;
}

/* Where pieces lie, in the free segments. */
struct slots {
  const struct superblock *sb;
  uint32_t *segments;           /* those that are free, ascending */
  uint64_t in_each, count;
};

/* Call slots_free in any case. */
static int
slots_find (struct slots *slots, const struct engine *engine)
{
  const struct superblock *sb = &engine->superblock;
  const struct segment *segments = engine->segments.segments;
  uint32_t free = 0;

  *slots = (struct slots) {
    .sb = sb,
    .segments = calloc (sb->geometry.segment_count, sizeof *slots->segments),
    .in_each = sb->geometry.segment_size / PIECE_SLOT,
  };
  if (slots->segments == NULL)
    return -ENOMEM;
  for (uint32_t id = 0; id < sb->geometry.segment_count; id++)
    if (segments[id].state == SEGMENT_FREE)
      slots->segments[free++] = id;
  slots->count = free * slots->in_each;
  return 0;
}

static void
slots_free (struct slots *slots)
{
  free (slots->segments);
  slots->segments = NULL;
}

static uint64_t
slot_at (const struct slots *slots, uint64_t ordinal)
{
  assert (ordinal < slots->count);
  return segment_at (slots->sb, slots->segments[ordinal / slots->in_each])
    + ordinal % slots->in_each * PIECE_SLOT;
}

struct piece_buffer {
  struct media_piece header;
  struct media_extent entry[PIECE_MAX_ENTRIES];
};
MEDIA_SIZE (struct piece_buffer, PIECE_SLOT);

static size_t
piece_bytes (uint32_t entries)
{
  return sizeof (struct media_piece)
    + entries * sizeof (struct media_extent);
}

/* The header's checksum is zero. */
static uint64_t
piece_checksum (const struct engine *engine, const struct piece_buffer *piece,
                uint32_t entries)
{
  return XXH3_64bits_withSeed (piece, piece_bytes (entries),
                               engine->superblock.instance);
}

/* --- what a replay would ignore ---------------------------------------- */

/* Clean records up to the tail.  They may still be cached: several heads are evicted
 * in another order than they were filled, and a zero outlives a segment whose sets
 * cannot be read when it is evicted.  In a checkpoint they would come back when all
 * that is clean has been made void by the tail, or where a hole was taken for certain
 * because of it (T5). */
struct names {
  uint64_t *name;               /* ascending */
  size_t count, room;
};

struct ignored {
  uint64_t tail;
  struct names dirty;           /* of sets that are not written back yet */
  struct names clean;           /* those up to the tail, of segments that go on behind
                                 * it */
};

static void
sort_names (struct names *names)
{
  if (names->count > 0)
    qsort (names->name, names->count, sizeof *names->name, compare_u64);
}

static bool
has_name (const struct names *names, uint64_t name)
{
  return names->count > 0
    && bsearch (&name, names->name, names->count, sizeof name, compare_u64)
       != NULL;
}

static int
add_name (struct names *names, uint64_t name)
{
  if (names->count == names->room) {
    const size_t room = names->room ? names->room * 2 : 256;
    uint64_t *more = realloc (names->name, room * sizeof *more);

    if (more == NULL)
      return -ENOMEM;
    names->name = more;
    names->room = room;
  }
  names->name[names->count++] = name;
  return 0;
}

static int
add_clean_of (struct ignored *ignored, const struct engine *engine,
              struct segment *segment, uint64_t written_back)
{
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  const struct finding f = { .segment = segment, .sets = segment->sets };
  struct counted_sets sets;
  int r;

  if (set == NULL)
    return -ENOMEM;
  counted_sets_start (&sets, &engine->reader, &f);
  while ((r = counted_sets_next (&sets, set)) > 0)
    for (uint32_t i = 0; i < set->count; i++) {
      const struct record *record = &set->record[i];

      if (record->sequence <= ignored->tail
          && (record->clean || set->epoch <= written_back)
          && (r = add_name (&ignored->clean,
                            record_name (record->kind, record->at,
                                         record->sequence))) < 0)
        return r;
    }
  return r;
}

/* Call ignored_free in any case. */
static int
ignored_find (struct ignored *ignored, struct engine *engine)
{
  const uint32_t total = engine->superblock.geometry.segment_count;
  const struct control control = control_get (&engine->superblock);
  int r;

  ignored->tail = control.tail_sequence;
  r = epoch_queue_names (&engine->queue, &ignored->dirty.name,
                         &ignored->dirty.count);
  if (r < 0)
    return r;
  for (uint32_t id = 0; id < total && r == 0; id++) {
    struct segment *segment = &engine->segments.segments[id];

    if (segment->state == SEGMENT_SEALED
        && segment->sequence_min <= ignored->tail
        && segment->sequence_max > ignored->tail)
      r = add_clean_of (ignored, engine, segment, control.written_back);
  }
  sort_names (&ignored->dirty);
  sort_names (&ignored->clean);
  return r;
}

static void
ignored_free (struct ignored *ignored)
{
  free (ignored->dirty.name);
  free (ignored->clean.name);
}

static bool
is_ignored (const struct ignored *ignored, const struct engine *engine,
            const struct extent *extent)
{
  const struct geometry *g = &engine->superblock.geometry;
  uint64_t first, last;         /* the record is one of these */

  if (MUTATION (CHECKPOINT_BELOW_TAIL))
    return false;
  if (extent->kind == EXTENT_DATA) {
    const uint64_t id = (extent->record_at - g->first_segment_at)
      / g->segment_size;

    first = engine->segments.segments[id].sequence_min;
    last = engine->segments.segments[id].sequence_max;
  }
  else
    first = last = extent->sequence;
  if (first > ignored->tail)
    return false;
  if (last <= ignored->tail)
    return !has_name (&ignored->dirty, extent_name (extent));
  return has_name (&ignored->clean, extent_name (extent));
}

/* --- write ------------------------------------------------------------ */

struct writer {
  struct engine *engine;
  struct slots slots;
  struct ignored ignored;
  uint64_t checksum;            /* of the last piece stored */
  uint64_t total;               /* entries, those not yet stored included */
  uint32_t ordinal, entries;    /* of the piece at hand */
  struct piece_buffer piece;
};

static int
store_piece (struct writer *writer)
{
  struct media_piece *header = &writer->piece.header;

  if (writer->ordinal == writer->slots.count)
    return -ENOSPC;
  *header = (struct media_piece) {
    .magic = le64_of (MAGIC_PIECE),
    .before = le64_of (writer->checksum),
    .ordinal = le32_of (writer->ordinal),
    .entries = le32_of (writer->entries),
  };
  writer->checksum = piece_checksum (writer->engine, &writer->piece,
                                     writer->entries);
  header->checksum = le64_of (writer->checksum);
  /* Crash: nothing tells of it.  If an older checkpoint does, its checksums do not
   * agree with this any more. */
  return pmem_copy (writer->engine->pmem,
                    slot_at (&writer->slots, writer->ordinal++),
                    &writer->piece, piece_bytes (writer->entries));
}

static int
add_entry (struct writer *writer, const struct media_extent *entry)
{
  int r = 0;

  if (writer->entries == PIECE_MAX_ENTRIES) {
    r = store_piece (writer);
    writer->entries = 0;
  }
  writer->piece.entry[writer->entries++] = *entry;
  writer->total++;
  return r;
}

static int
add_extent (struct writer *writer, const struct extent *extent)
{
  struct media_extent entry = {
    .logical = le64_of (extent->range.start),
    .length = le32_of (extent->range.length),
  };
  uint64_t place = extent->hit ? EXTENT_HIT : 0;

  switch (extent->kind) {
  case EXTENT_DATA:
    place |= extent->record_at | RECORD_DATA
      | (extent->has_checksum ? EXTENT_CHECKSUM : 0);
    entry.proof = le64_of (extent->checksum);
    entry.record_length_1 = le16_of (extent->record_length - 1);
    entry.delta = le16_of (extent->delta);
    break;
  case EXTENT_ZERO:
  case EXTENT_TRIM:
    place |= extent->kind == EXTENT_ZERO ? RECORD_ZERO : RECORD_TRIM;
    entry.proof = le64_of (extent->sequence);
    break;
  case EXTENT_LOST:
    return -EINVAL;
  }
  entry.place = le64_of (place);
  return add_entry (writer, &entry);
}

static int
add_index (struct writer *writer)
{
  struct index_scan scan;
  struct extent extent;
  unsigned region = UINT32_MAX;
  int r = 0;

  index_scan_start (&scan, writer->engine->index);
  while (r == 0 && index_scan_next (&scan, &extent)) {
    if (is_ignored (&writer->ignored, writer->engine, &extent))
      continue;
    if (scan.region != region) {
      const struct media_extent mark = { .logical = le64_of (scan.region) };

      region = scan.region;
      r = add_entry (writer, &mark);
    }
    if (r == 0)
      r = add_extent (writer, &extent);
  }
  if (r == 0 && writer->entries > 0)
    r = store_piece (writer);
  return r;
}

/* NULL, or why there cannot be one. */
static const char *
look_at_cache (struct engine *engine)
{
  const struct superblock *sb = &engine->superblock;

  if (!engine->options.checkpoint || engine->options.rescue)
    return "it is not wanted";
  if (!sb->bound)
    return "the cache was never used";
  if (sb->usable_segments < sb->geometry.segment_count)
    return "a copy of the superblock does not know of all segments";
  if (control_get (&engine->superblock).lost)
    return "something is, or was, lost";
  if (stats_get (engine->stats, STAT_damaged_segments) > 0)
    return "a segment is damaged";
  return look_at_headers (engine);
}

/* All pieces, durable. */
static int
write_pieces (struct writer *writer)
{
  struct pmem *pmem = writer->engine->pmem;
  int r = slots_find (&writer->slots, writer->engine);

  if (r == 0)
    r = ignored_find (&writer->ignored, writer->engine);
  if (r == 0)
    r = add_index (writer);
  if (r == 0)
    r = pmem_fence (pmem);
  if (r == 0)
    r = pmem_sync (pmem);
  slots_free (&writer->slots);
  ignored_free (&writer->ignored);
  return r;
}

/* Of a cache that may have one. */
static int
write_index (struct engine *engine, uint64_t digest)
{
  CLEANUP_FREE struct writer *writer = calloc (1, sizeof *writer);
  struct media_checkpoint checkpoint;
  int r;

  if (writer == NULL)
    return -ENOMEM;
  writer->engine = engine;
  writer->checksum = digest;
  r = write_pieces (writer);
  if (r < 0)
    return r;
  checkpoint = (struct media_checkpoint) {
    .layout = le32_of (CHECKPOINT_LAYOUT),
    .regions = le32_of (index_region_count (engine->index)),
    .digest = le64_of (digest),
    .checksum = le64_of (writer->checksum),
    .entries = le64_of (writer->total),
    .sequence = le64_of (log_sequence (engine->log)),
    .epoch = le64_of (log_epoch (engine->log)),
    .uncertain_through =
      le64_of (atomic_load (&engine->holes.uncertain_through)),
  };
  /* Crash before: the next start replays.  After: it reads the pieces, which are
   * durable. */
  return control_set_checkpoint (&engine->superblock, &checkpoint);
}

int
checkpoint_write (struct engine *engine)
{
  const char *why = look_at_cache (engine);
  struct media_checkpoint before;
  uint64_t digest;
  int r;

  if (why) {
    report (REPORT_DEBUG, "no checkpoint: %s", why);
    return -EINVAL;
  }
  digest = digest_headers (engine);
  before = control_checkpoint (&engine->superblock);
  /* The one that it was opened from still counts. */
  if (engine->from_checkpoint && le32_get (before.layout) != 0
      && le64_get (before.digest) == digest)
    return 0;
  r = write_index (engine, digest);
  if (r < 0)
    report (REPORT_DEBUG, "no checkpoint: %s", strerror (-r));
  return r;
}

/* --- load ------------------------------------------------------------- */

/* Fewer pieces, or segments with something dirty, are not worth a thread. */
#define TASKS_PER_WORKER 16

/* More would only read more beyond their ends. */
#define MAX_SHARES WORKERS_MAX

/* The pieces are shared out among the workers.  A region is built by the one in whose
 * share its mark lies, who reads on beyond the share for that, up to the next mark.
 * So who comes from the share before looks at the first piece of each. */
struct loader {
  struct engine *engine;
  struct replay *replay;
  struct collector *collector;
  struct media_checkpoint checkpoint;
  struct slots slots;
  uint64_t entries, pieces;
  unsigned workers;
  unsigned shares;
  uint64_t last_checksum;       /* of the last piece */
  _Atomic bool region_taken[INDEX_MAX_REGIONS];
  _Atomic uint32_t next_finding, next_share;
  _Atomic int error;
};

/* What the engine knows from headers and control block. */
static int
begin_replay (struct loader *loader)
{
  struct engine *engine = loader->engine;
  struct replay *rec = loader->replay;
  const struct control control = control_get (&engine->superblock);
  const uint32_t total = engine->superblock.geometry.segment_count;

  *rec = (struct replay) {
    .engine = engine,
    .evicted_through = control.tail_sequence,
    .tail = control.tail_sequence,
    .written_back = control.written_back,
    .sequence = le64_get (loader->checkpoint.sequence),
    .epoch = le64_get (loader->checkpoint.epoch),
    .findings = calloc (total, sizeof *rec->findings),
  };
  if (rec->findings == NULL)
    return -ENOMEM;
  rec->durable_through = rec->epoch - 1;
  if (!MUTATION (CHECKPOINT_CERTAIN))
    rec->tail = MAX (rec->tail,
                     le64_get (loader->checkpoint.uncertain_through));
  for (uint32_t id = 0; id < total; id++) {
    struct segment *segment = &engine->segments.segments[id];

    if (segment->state == SEGMENT_SEALED)
      rec->findings[rec->count++] = (struct finding) {
        .segment = segment,
        .sets = segment->sets,
        .epoch_max = segment->epoch_max,
        .sequence_min = segment->sequence_min,
        .sequence_max = segment->sequence_max,
      };
  }
  return 0;
}

/* T11: the numbers that the next ones follow. */
static bool
numbers_make_sense (const struct replay *rec)
{
  if (rec->sequence >= UINT64_MAX / 4 || rec->epoch >= UINT64_MAX / 4
      || rec->tail > rec->sequence || rec->written_back >= rec->epoch)
    return false;
  if (MUTATION (CHECKPOINT_STALE))
    return true;                /* else this would tell, too */
  for (uint32_t i = 0; i < rec->count; i++)
    if (rec->findings[i].sequence_max > rec->sequence
        || rec->findings[i].epoch_max >= rec->epoch)
      return false;
  return true;
}

/* --- what is dirty ----------------------------------------------------- */

static bool
may_be_dirty (const struct replay *rec, const struct finding *f)
{
  return f->epoch_max > rec->written_back;
}

static bool
has_dirty (const struct set *set)
{
  for (uint32_t i = 0; i < set->count; i++)
    if (!set->record[i].clean)
      return true;
  return false;
}

/* Of a segment that may have something dirty: what the epoch queue has to know.
 * -EUCLEAN: its sets are not what its header says, which is for a replay to
 * judge. */
static int
read_dirty (struct loader *loader, unsigned worker, const struct finding *f,
            struct set *set)
{
  const struct replay *rec = loader->replay;
  const struct collect_marks marks = { .written_back = rec->written_back };
  struct counted_sets sets;
  uint64_t epoch_max = 0, sequence_min = 0, sequence_max = 0;
  int r;

  counted_sets_start (&sets, &loader->engine->reader, f);
  while ((r = counted_sets_next (&sets, set)) > 0) {
    if (has_dirty (set))
      epoch_max = MAX (epoch_max, set->epoch);
    if (sequence_min == 0)
      sequence_min = set->record[0].sequence;
    sequence_max = set->record[set->count - 1].sequence;
    if (set->epoch >= rec->epoch)
      return -EUCLEAN;
    r = collect_dirty (loader->collector, worker, &marks, f->segment, set);
    if (r < 0)
      return r;
  }
  if (r < 0)
    return r;
  return epoch_max == f->epoch_max && sequence_min == f->sequence_min
    && sequence_max == f->sequence_max ? 0 : -EUCLEAN;
}

/* --- extents ------------------------------------------------------------ */

/* T11: does a record of data lie where there can be one, and is EXTENT a part of
 * it? */
static bool
data_makes_sense (const struct engine *engine, const struct extent *extent)
{
  const struct geometry *g = &engine->superblock.geometry;
  const struct range record = {
    extent->range.start - extent->delta, extent->record_length,
  };
  const uint64_t space = DATA_BYTES (extent->record_length);
  uint64_t in_segments, id;

  if (extent->delta > extent->range.start
      || extent->delta >= extent->record_length
      || extent->range.length > extent->record_length - extent->delta
      || !range_is_valid (record, engine->superblock.backing_size)
      || record.start / INDEX_CHUNK != (range_end (record) - 1) / INDEX_CHUNK
      || extent->record_at < g->first_segment_at)
    return false;
  in_segments = extent->record_at - g->first_segment_at;
  id = in_segments / g->segment_size;
  return id < g->segment_count
    && engine->segments.segments[id].state == SEGMENT_SEALED
    && in_segments % g->segment_size <= g->segment_size - space;
}

static bool
decode_extent (const struct loader *loader, const struct media_extent *m,
               struct extent *extent)
{
  const uint64_t place = le64_get (m->place);
  const uint64_t at = place & EXTENT_RECORD_AT;
  const bool short_fields = le16_get (m->record_length_1) != 0
    || le16_get (m->delta) != 0;

  *extent = (struct extent) {
    .range = { le64_get (m->logical), le32_get (m->length) },
    .has_checksum = (place & EXTENT_CHECKSUM) != 0,
    .hit = (place & EXTENT_HIT) != 0,
  };
  if ((place & ~(EXTENT_RECORD_AT | EXTENT_HIT | EXTENT_CHECKSUM
                 | EXTENT_RECORD_KIND)) != 0
      || !range_is_valid (extent->range,
                          loader->engine->superblock.backing_size))
    return false;
  switch (place & EXTENT_RECORD_KIND) {
  case RECORD_DATA:
    extent->kind = EXTENT_DATA;
    extent->record_at = at;
    extent->record_length = (uint32_t) le16_get (m->record_length_1) + 1;
    extent->delta = le16_get (m->delta);
    extent->checksum = le64_get (m->proof);
    return data_makes_sense (loader->engine, extent);
  case RECORD_ZERO:
  case RECORD_TRIM:
    extent->kind = (place & EXTENT_RECORD_KIND) == RECORD_ZERO ? EXTENT_ZERO
      : EXTENT_TRIM;
    extent->sequence = le64_get (m->proof);
    return at == 0 && !short_fields && !extent->has_checksum
      && extent->sequence > 0
      && extent->sequence <= loader->replay->sequence;
  }
  return false;
}

/* One worker in his share. */
struct reader {
  struct loader *loader;
  uint64_t first, end;          /* pieces of his share */
  uint64_t ordinal;             /* of the piece at hand */
  uint64_t checksum;            /* of the last piece read */
  bool building;                /* the builder is at a region */
  struct index_builder builder;
  uint64_t extents_end;         /* of the region's last one */
  struct piece_buffer piece;
};

static void
end_region (struct reader *reader)
{
  if (reader->building)
    index_build_end (&reader->builder);
  reader->building = false;
}

static int
begin_region (struct reader *reader, uint64_t region)
{
  struct loader *loader = reader->loader;
  struct index *index = loader->engine->index;

  end_region (reader);
  /* Only one that is still empty can be built. */
  if (region >= index_region_count (index)
      || atomic_exchange (&loader->region_taken[region], true))
    return -EUCLEAN;
  index_build_begin (&reader->builder, index, region);
  reader->building = true;
  reader->extents_end = 0;
  return 0;
}

static int
take_extent (struct reader *reader, const struct media_extent *m)
{
  const struct loader *loader = reader->loader;
  struct extent extent;

  if (!decode_extent (loader, m, &extent)
      || extent.range.start < reader->extents_end
      || (extent.kind == EXTENT_DATA
          && index_region_of (loader->engine->index, extent.range.start)
             != reader->builder.region))
    return -EUCLEAN;
  reader->extents_end = range_end (extent.range);
  return index_build_add (&reader->builder, &extent);
}

/* The mark of a region, or an extent of it. */
static int
take_entry (struct reader *reader, const struct media_extent *m)
{
  if (le32_get (m->length) != 0) {
    if (reader->building)
      return take_extent (reader, m);
    /* Of a region that began before the share, or after its end. */
    return reader->first > 0 || reader->ordinal >= reader->end ? 0 : -EUCLEAN;
  }
  if (reader->ordinal < reader->end)
    return begin_region (reader, le64_get (m->logical));
  end_region (reader);
  return 0;
}

static uint32_t
entries_of (const struct loader *loader, uint64_t ordinal)
{
  return MIN (loader->entries - ordinal * PIECE_MAX_ENTRIES,
              (uint64_t) PIECE_MAX_ENTRIES);
}

/* The first one of a share names one that was not read here. */
static bool
follows (const struct reader *reader, uint64_t before)
{
  if (reader->ordinal == 0)
    return before == le64_get (reader->loader->checkpoint.digest);
  return reader->ordinal == reader->first || before == reader->checksum;
}

static int
read_piece (struct reader *reader)
{
  struct loader *loader = reader->loader;
  struct media_piece *header = &reader->piece.header;
  const uint32_t entries = entries_of (loader, reader->ordinal);
  uint64_t checksum;
  int r;

  r = pmem_read (loader->engine->pmem, &reader->piece,
                 slot_at (&loader->slots, reader->ordinal),
                 piece_bytes (entries));
  if (r < 0)
    return r;
  checksum = le64_get (header->checksum);
  header->checksum = le64_of (0);
  if (le64_get (header->magic) != MAGIC_PIECE
      || !follows (reader, le64_get (header->before))
      || le32_get (header->ordinal) != reader->ordinal
      || le32_get (header->entries) != entries
      || (checksum != piece_checksum (loader->engine, &reader->piece, entries)
          && !MUTATION (CHECKPOINT_UNVERIFIED)))
    return -EBADMSG;
  reader->checksum = checksum;
  if (reader->ordinal + 1 == loader->pieces
      && reader->ordinal < reader->end)
    loader->last_checksum = checksum;
  return 0;
}

static int
read_share (struct reader *reader)
{
  struct loader *loader = reader->loader;
  int r = 0;

  for (reader->ordinal = reader->first;
       r == 0 && reader->ordinal < loader->pieces
       && (reader->ordinal < reader->end || reader->building);
       reader->ordinal++) {
    const uint32_t entries = entries_of (loader, reader->ordinal);

    r = read_piece (reader);
    for (uint32_t i = 0; i < entries && r == 0; i++)
      r = take_entry (reader, &reader->piece.entry[i]);
  }
  end_region (reader);
  return r;
}

/* --- all of it ------------------------------------------------------------ */

static int
read_dirty_segments (struct loader *loader, unsigned worker)
{
  const struct replay *rec = loader->replay;
  CLEANUP_FREE struct set *set = malloc (sizeof *set);
  uint32_t i;
  int r = 0;

  if (set == NULL)
    return -ENOMEM;
  while (r == 0 && atomic_load (&loader->error) == 0
         && (i = atomic_fetch_add (&loader->next_finding, 1)) < rec->count)
    if (may_be_dirty (rec, &rec->findings[i]))
      r = read_dirty (loader, worker, &rec->findings[i], set);
  return r;
}

static int
read_shares (struct loader *loader)
{
  CLEANUP_FREE struct reader *reader = malloc (sizeof *reader);
  uint32_t i;
  int r = 0;

  if (reader == NULL)
    return -ENOMEM;
  while (r == 0 && atomic_load (&loader->error) == 0
         && (i = atomic_fetch_add (&loader->next_share, 1)) < loader->shares) {
    reader->loader = loader;
    reader->first = i * loader->pieces / loader->shares;
    reader->end = (i + 1) * loader->pieces / loader->shares;
    reader->building = false;
    r = read_share (reader);
  }
  return r;
}

static void
read_some (void *opaque, unsigned worker)
{
  struct loader *loader = opaque;
  int r = read_dirty_segments (loader, worker);

  if (r == 0)
    r = read_shares (loader);
  if (r < 0)
    atomic_store (&loader->error, r);
}

static int
read_all (struct loader *loader)
{
  const struct replay *rec = loader->replay;
  uint32_t dirty = 0;
  unsigned workers;

  if (loader->entries > loader->slots.count * PIECE_MAX_ENTRIES)
    return -EUCLEAN;
  loader->pieces = (loader->entries + PIECE_MAX_ENTRIES - 1)
    / PIECE_MAX_ENTRIES;
  for (uint32_t i = 0; i < rec->count; i++)
    dirty += may_be_dirty (rec, &rec->findings[i]);
  workers = workers_wanted (dirty + loader->pieces, TASKS_PER_WORKER);
  loader->last_checksum = le64_get (loader->checkpoint.digest);
  loader->shares = MIN ((loader->pieces + TASKS_PER_WORKER - 1)
                        / TASKS_PER_WORKER, (uint64_t) MAX_SHARES);
  loader->collector = collector_new (loader->engine, workers);
  if (loader->collector == NULL)
    return -ENOMEM;
  workers_run (workers, read_some, loader);
  if (loader->error < 0)
    return loader->error;
  return loader->last_checksum == le64_get (loader->checkpoint.checksum)
    ? 0 : -EBADMSG;
}

/* NULL, or why it does not count. */
static const char *
look_at_name (struct engine *engine, const struct media_checkpoint *c)
{
  const char *why = look_at_headers (engine);

  if (why)
    return why;
  if (le64_get (c->digest) != digest_headers (engine)
      && !MUTATION (CHECKPOINT_STALE))
    return "segments have changed since";
  if (le32_get (c->layout) != CHECKPOINT_LAYOUT)
    return "it is of another kind";
  if (!engine->superblock.bound || control_get (&engine->superblock).lost)
    return "such a cache has none";
  return NULL;
}

bool
checkpoint_is_current (struct engine *engine)
{
  const struct media_checkpoint checkpoint =
    control_checkpoint (&engine->superblock);

  return look_at_name (engine, &checkpoint) == NULL;
}

/* NULL: all of it has been taken over. */
static const char *
load (struct loader *loader)
{
  struct engine *engine = loader->engine;
  const struct media_checkpoint *c = &loader->checkpoint;
  const char *why = look_at_name (engine, c);
  int r;

  if (why)
    return why;
  if (le32_get (c->regions) != index_region_count (engine->index))
    return "it is of another index";
  r = begin_replay (loader);
  if (r < 0)
    return strerror (-r);
  if (!numbers_make_sense (loader->replay))
    return "its numbers make no sense";
  r = slots_find (&loader->slots, engine);
  if (r == 0)
    r = read_all (loader);
  if (r == 0)
    r = collector_fill_queue (loader->collector);
  return r == 0 ? NULL
    : r == -EUCLEAN ? "its content makes no sense"
    : r == -EBADMSG ? "a checksum is wrong" : strerror (-r);
}

bool
checkpoint_load (struct engine *engine, struct replay *replay)
{
  const struct media_checkpoint checkpoint =
    control_checkpoint (&engine->superblock);
  struct loader *loader;
  const char *why;

  *replay = (struct replay) { 0 };
  if (!engine->options.checkpoint || engine->options.rescue
      || engine->must_replay || le32_get (checkpoint.layout) == 0)
    return false;
  loader = calloc (1, sizeof *loader);
  if (loader == NULL)
    return false;
  loader->engine = engine;
  loader->replay = replay;
  loader->checkpoint = checkpoint;
  loader->entries = le64_get (checkpoint.entries);
  why = load (loader);
  if (why) {
    report (REPORT_DEBUG, "the checkpoint is not used: %s", why);
    index_clear (engine->index);
    replay_free (replay);
  }
  collector_free (loader->collector);
  slots_free (&loader->slots);
  free (loader);
  return why == NULL;
}

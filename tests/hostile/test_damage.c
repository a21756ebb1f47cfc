/* SPDX-License-Identifier: BSD-3-Clause */

/* Damaged and hostile media: every byte of the metadata of small images is
 * flipped in turn, every field is set to the values at which things break
 * with its checksum made right again, and more than one of these at a time;
 * pieces are put where they do not belong.  life.h says what is then done
 * with the image, and what must hold.
 *
 * There are more of them than a test may take: of each kind a part is run
 * (below), more or less of it by TEST_SCALE, and with each seed another part.
 * TEST_SCALE=1000 is all.
 *
 *   HOSTILE_CASE="dirty flips 123"     only this one, as a violation names it
 *   HOSTILE_CASE="dirty"               only this image */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "hostile/life.h"
#include "support/reports.h"
#include "support/scale.h"
#include "support/seed.h"

/* No life takes a hundredth of it. */
#define LIFE_SECONDS 60
#define MAX_SHOWN 12

/* One of so many is run with TEST_SCALE=100. */
#define FLIPS 1
#define LIES 10
#define SEVERAL 2

static const char *only;        /* HOSTILE_CASE */

static struct image *image;
static struct life life;
static uint64_t randomness;

static const char *group;       /* of cases */
static uint64_t number;         /* of the case, in its group and image */
static uint64_t run;            /* so many of them were */
static unsigned violations;
static char what[300];          /* was done: grows as it is */

/* What this case has done so far. */
static struct {
  unsigned twin[MAX_TWINS];     /* copies damaged: bits */
  bool set[MAX_SETS];
} damage;

/* --- which case ------------------------------------------------------- */

static bool
is_asked_for (uint64_t n)
{
  char full[100], part[100];

  snprintf (part, sizeof part, "%s", image->name);
  snprintf (full, sizeof full, "%s %s %" PRIu64, image->name, group, n);
  return strcmp (only, part) == 0 || strcmp (only, full) == 0;
}

/* The next case begins: is it to be run?  See case_is_chosen. */
static bool
next_case (unsigned of)
{
  const uint64_t n = number++;

  if (only ? !is_asked_for (n) : !case_is_chosen (n, of))
    return false;
  memset (&life, 0, sizeof life);
  life.image = image;
  life.what = what;
  what[0] = '\0';
  memset (&damage, 0, sizeof damage);
  randomness = seed + (n << 4) + image->kind;
  return true;
}

__attribute__ ((format (printf, 1, 2)))
static void
say (const char *format, ...)
{
  const size_t used = strlen (what);
  va_list args;

  if (used > 0 && used < sizeof what - 3)
    strcat (what, "; ");
  va_start (args, format);
  vsnprintf (what + strlen (what), sizeof what - strlen (what), format, args);
  va_end (args);
}

static void
show (const struct life *l, const char *message)
{
  if (violations++ < MAX_SHOWN)
    print_message ("# HOSTILE_CASE=\"%s %s %" PRIu64 "\" --seed %" PRIu64
                   "\n#   %s\n#   %s\n", image->name, group, number - 1, seed,
                   l->what, message);
}

/* What the case was, when the engine dies of it. */
static void
last_words (void)
{
  fprintf (stderr, "# the case was HOSTILE_CASE=\"%s %s %" PRIu64 "\" --seed %"
           PRIu64 ": %s\n", image ? image->name : "none", group ? group : "",
           number - 1, seed, what);
}

static void
on_death (int signal_number)
{
  if (signal_number == SIGALRM)
    fprintf (stderr, "# a life has not ended after %d s\n", LIFE_SECONDS);
  last_words ();
  signal (signal_number, SIG_DFL);
  raise (signal_number == SIGALRM ? SIGABRT : signal_number);
}

extern void __sanitizer_set_death_callback (void (*) (void))
  __attribute__ ((weak));

static void
live_it (void)
{
  if (run++ % 64 == 0)
    alarm (LIFE_SECONDS);
  life_run (&life);
  image_restore (image);
}

/* --- damage ----------------------------------------------------------- */

static uint8_t *
on_device (uint64_t at, size_t length)
{
  image_note (image, image->device->bytes + at, length);
  return image->device->bytes + at;
}

static void
doubt_set (const struct set_place *set)
{
  for (uint32_t i = 0; i < set->records; i++)
    life_doubt (&life, set->record[i].range);
}

/* All that a segment has, from set ORDINAL on. */
static void
doubt_segment (uint32_t segment, uint32_t ordinal)
{
  for (unsigned i = 0; i < image->sets; i++)
    if (image->set[i].segment == segment && image->set[i].ordinal >= ordinal)
      doubt_set (&image->set[i]);
}

static bool
has_dirty (const struct set_place *set)
{
  for (uint32_t i = 0; i < set->records; i++)
    if (!set->record[i].clean)
      return true;
  return false;
}

static bool
segment_has_dirty (uint32_t segment)
{
  for (unsigned i = 0; i < image->sets; i++)
    if (image->set[i].segment == segment && has_dirty (&image->set[i]))
      return true;
  return false;
}

/* [D1], [D5]: does something that is still there say that SET, of an open
 * segment, was durable? */
static bool
is_vouched_for (const struct set_place *set)
{
  uint64_t through = image->written_back;

  for (unsigned i = 0; i < image->sets; i++)
    if (!damage.set[i])
      through = MAX (through, image->set[i].durable_through);
  for (unsigned i = 0; i < image->sets; i++) {
    const struct set_place *later = &image->set[i];

    if (later->segment == set->segment && later->ordinal > set->ordinal
        && !damage.set[i]
        && (later->durable_sets > set->ordinal || later->epoch <= through))
      return true;
  }
  return false;
}

static void
judge_set (unsigned n)
{
  const struct set_place *set = &image->set[n];

  if (set->open && !is_vouched_for (set)) {
    /* It may be what a crash left of a set, also of one that said what is
     * lost. */
    if (image->losts > 0)
      life.any_age = true;
    doubt_segment (set->segment, set->ordinal);
    return;
  }
  /* Where something is lost, any set may be the one that says so. */
  if (has_dirty (set) || image->losts > 0)
    life.must_refuse = true;
  else if (segment_has_dirty (set->segment))
    life.must_open = false;
}

/* What may follow from damage without a lie. */
static void
judge (void)
{
  life.must_open = true;
  for (unsigned i = 0; i < image->twins; i++) {
    const struct twin_place *t = &image->twin[i];

    if (damage.twin[i] != 3)
      continue;
    if (t->magic == MAGIC_SEGMENT)
      life.must_refuse = true;
    else
      life.never_open = true;
    life.names = t->name;
  }
  for (unsigned i = 0; i < image->sets; i++)
    if (damage.set[i])
      judge_set (i);
  if (life.must_refuse || life.never_open)
    life.must_open = false;
}

/* Which twins and sets a store to the device damages. */
static void
note_place (uint64_t at, uint64_t length)
{
  const struct range range = { at, length };

  for (unsigned i = 0; i < image->twins; i++)
    for (int copy = 0; copy < 2; copy++)
      if (range_overlaps (range, (struct range) { image->twin[i].at[copy],
                                                  image->twin[i].bytes }))
        damage.twin[i] |= 1 << copy;
  for (unsigned i = 0; i < image->sets; i++)
    if (range_overlaps (range, (struct range) {
            image->set[i].start, image->set[i].end - image->set[i].start }))
      damage.set[i] = true;
}

static void
flip (uint64_t at, uint8_t pattern)
{
  *on_device (at, 1) ^= pattern;
  note_place (at, 1);
  say ("byte %" PRIu64 " ^ 0x%02x", at, pattern);
}

/* --- 1. every byte ---------------------------------------------------- */

static const char *
place_name (const struct twin_place *t, int copy)
{
  static char name[40];

  snprintf (name, sizeof name, "%s, copy %c", t->name, 'A' + copy);
  return name;
}

/* A copy that is lost to damage is made anew from the other when the cache is
 * opened; what comes after that is worth one look in so many. */
#define BRIEF_UNLESS 16

static void
flip_byte (uint64_t at, uint8_t pattern, const char *place, unsigned of)
{
  if (!next_case (of))
    return;
  say ("%s", place);
  flip (at, pattern);
  judge ();
  life.brief = life.must_open && number % BRIEF_UNLESS != 0
    && life.doubts == 0;
  live_it ();
}

static void
flip_all_of (uint64_t at, uint64_t bytes, uint64_t header_at,
             uint64_t header_bytes, const char *place, unsigned of)
{
  uint64_t own = seed + at;
  const uint8_t pattern = 1 + random_below (&own, 255);

  for (uint64_t i = 0; i < bytes; i++)
    flip_byte (at + i, pattern, place, of);
  for (uint64_t i = 0; i < header_bytes; i++)
    for (unsigned bit = 0; bit < 8; bit++)
      flip_byte (header_at + i, 1 << bit, place, of);
}

static void
flip_everything (void)
{
  for (unsigned i = 0; i < image->twins; i++)
    for (int copy = 0; copy < 2; copy++) {
      const struct twin_place *t = &image->twin[i];
      const uint64_t at = t->at[copy];

      flip_all_of (at, t->magic == MAGIC_SEGMENT ? MEDIA_SLOT : t->bytes, at,
                   sizeof (struct media_twin), place_name (t, copy), FLIPS);
    }
  for (unsigned i = 0; i < image->sets; i++) {
    const struct set_place *s = &image->set[i];
    char place[40];

    snprintf (place, sizeof place, "segment %u, set %u", s->segment,
              s->ordinal);
    flip_all_of (s->start, s->end - s->start, s->end - 64, 64, place,
                 FLIPS);
  }
  flip_all_of (image->piece_at, image->piece_bytes, image->piece_at,
               image->piece_bytes ? sizeof (struct media_piece) : 0,
               "piece of the checkpoint", FLIPS);
}

/* --- 2. every field --------------------------------------------------- */

struct field {
  const char *name;
  unsigned offset, bytes;
};

#define FIELD(type, name) \
  { #name, offsetof (struct type, name), sizeof ((struct type *) 0)->name }

static const struct field twin_fields[] = {
  FIELD (media_twin, magic), FIELD (media_twin, sequence),
  FIELD (media_twin, at), { NULL, 0, 0 },
};

static const struct field superblock_fields[] = {
  FIELD (media_superblock, version), FIELD (media_superblock, flags),
  FIELD (media_superblock, compat), FIELD (media_superblock, ro_compat),
  FIELD (media_superblock, incompat),
  { "uuid", offsetof (struct media_superblock, uuid), 8 },
  FIELD (media_superblock, instance), FIELD (media_superblock, device_size),
  FIELD (media_superblock, segment_size),
  FIELD (media_superblock, segment_count),
  FIELD (media_superblock, segment_capacity),
  FIELD (media_superblock, segment_table_at[0]),
  FIELD (media_superblock, segment_table_at[1]),
  FIELD (media_superblock, first_segment_at),
  FIELD (media_superblock, backing_size),
  FIELD (media_superblock, export_length),
  FIELD (media_superblock, backing_id_length),
  { "export_name", offsetof (struct media_superblock, export_name), 8 },
  { "backing_id", offsetof (struct media_superblock, backing_id), 8 },
  { NULL, 0, 0 },
};

static const struct field control_fields[] = {
  FIELD (media_control, tail_sequence), FIELD (media_control, written_back),
  FIELD (media_control, gc_percent), FIELD (media_control, flags),
  FIELD (media_control, checkpoint.layout),
  FIELD (media_control, checkpoint.regions),
  FIELD (media_control, checkpoint.digest),
  FIELD (media_control, checkpoint.checksum),
  FIELD (media_control, checkpoint.entries),
  FIELD (media_control, checkpoint.sequence),
  FIELD (media_control, checkpoint.epoch),
  FIELD (media_control, checkpoint.uncertain_through),
  FIELD (media_control, reserved[0]), FIELD (media_control, reserved[17]),
  { NULL, 0, 0 },
};

static const struct field segment_fields[] = {
  FIELD (media_segment, id), FIELD (media_segment, state),
  FIELD (media_segment, generation), FIELD (media_segment, sets),
  FIELD (media_segment, flags), FIELD (media_segment, epoch_max),
  FIELD (media_segment, sequence_min), FIELD (media_segment, sequence_max),
  FIELD (media_segment, reserved[0]), FIELD (media_segment, reserved[4]),
  { NULL, 0, 0 },
};

static const struct field set_fields[] = {
  FIELD (media_set, magic), FIELD (media_set, generation),
  FIELD (media_set, segment), FIELD (media_set, offset),
  FIELD (media_set, ordinal), FIELD (media_set, records),
  FIELD (media_set, epoch), FIELD (media_set, durable_through),
  FIELD (media_set, durable_sets), FIELD (media_set, reserved),
  { NULL, 0, 0 },
};

static const struct field record_fields[] = {
  FIELD (media_record, logical), FIELD (media_record, length),
  FIELD (media_record, sequence), FIELD (media_record, checksum),
  FIELD (media_record, place), FIELD (media_record, kind),
  FIELD (media_record, flags),
  { "reserved", offsetof (struct media_record, reserved), 8 },
  { NULL, 0, 0 },
};

static const struct field *
fields_of (uint64_t magic)
{
  return magic == MAGIC_SUPERBLOCK ? superblock_fields
    : magic == MAGIC_CONTROL ? control_fields : segment_fields;
}

/* Numbers of which a few more are too many. */
static bool
is_at_limit (uint64_t value)
{
  return value >= UINT64_MAX / 4 - 4096;
}

static uint64_t
field_get (const uint8_t *at, const struct field *field)
{
  uint64_t value = 0;

  for (unsigned i = field->bytes; i > 0; i--)
    value = value << 8 | at[field->offset + i - 1];
  return value;
}

static void
field_put (uint8_t *at, const struct field *field, uint64_t value)
{
  for (unsigned i = 0; i < field->bytes; i++)
    at[field->offset + i] = value >> i * 8;
}

/* Values that mean something here: near SET, if there is one. */
static unsigned
values_for (uint64_t original, unsigned bytes, const struct set_place *set,
            uint64_t values[EDGE_VALUES_MAX])
{
  const uint64_t set_start = set ? set->start % MIB : 0;
  const uint64_t extra[] = {
    MAGIC_FORMATTING, image->device->size, image->size, MIB,
    MIB - 64, image->written_back, set_start, set_start - 64,
    set_start - 128, image->size - 65536,
    le64_get (control_on (image->device, 0)->tail_sequence),
  };

  return edge_values_near (original, bytes, extra,
                           sizeof extra / sizeof *extra, values);
}

static bool
is_twin_field (const struct field *field)
{
  return field >= twin_fields
    && field < twin_fields + sizeof twin_fields / sizeof *twin_fields;
}

static bool
is_named (const struct field *field, const char *name)
{
  return strcmp (field->name, name) == 0;
}

/* --- what FORMAT.md says of the numbers ------------------------------- */

#define LIMIT (UINT64_MAX / 2)

/* [G2] */
static bool
segment_is_sane (const struct media_segment *m, uint32_t id)
{
  const uint32_t state = le32_get (m->state);
  const uint64_t generation = le64_get (m->generation);

  if (le32_get (m->id) != id || generation == 0 || generation >= LIMIT
      || state < SEGMENT_FREE || state > SEGMENT_SEALED)
    return false;
  return state != SEGMENT_SEALED
    || (le32_get (m->sets) <= MIB / 128
        && le64_get (m->epoch_max) < LIMIT
        && le64_get (m->sequence_max) < LIMIT
        && le64_get (m->sequence_min) <= le64_get (m->sequence_max));
}

/* [S3] to [S6], and that it is this disk's. */
static bool
superblock_is_sane (const struct media_superblock *m)
{
  const struct media_superblock *before =
    (const struct media_superblock *) image->device_before;

  return le32_get (m->version) == 1 && le64_get (m->incompat) == 0
    && le64_get (m->ro_compat) == 0
    && le64_get (m->instance) == le64_get (before->instance)
    /* Any other would need another place of something, but for a table that
     * takes no more room. */
    && memcmp (&m->device_size, &before->device_size,
               offsetof (struct media_superblock, segment_capacity)
               - offsetof (struct media_superblock, device_size)) == 0
    && le32_get (m->segment_capacity) >= le32_get (m->segment_count)
    && (le32_get (m->segment_capacity) + UINT64_C (255)) / 256
       == (le32_get (before->segment_capacity) + UINT64_C (255)) / 256
    && memcmp (&m->segment_table_at, &before->segment_table_at,
               offsetof (struct media_superblock, backing_size)
               - offsetof (struct media_superblock, segment_table_at)) == 0
    && le64_get (m->backing_size) == image->size
    && le32_get (m->export_length) == 0
    && le32_get (m->backing_id_length) <= 256;
}

/* [C2] */
static bool
control_is_sane (const struct media_control *m)
{
  return le64_get (m->tail_sequence) < LIMIT
    && le64_get (m->written_back) < LIMIT;
}

/* [R1] to [R5] */
static bool
record_is_sane (const struct media_record *m, uint64_t set_start)
{
  const uint64_t logical = le64_get (m->logical);
  const uint64_t length = le64_get (m->length);
  const uint64_t sequence = le64_get (m->sequence);
  const uint64_t place = le32_get (m->place);

  if ((m->flags & ~3) != 0 || sequence == 0 || sequence >= LIMIT
      || length == 0 || logical > image->size
      || length > image->size - logical)
    return false;
  switch (m->kind) {
  case RECORD_ZERO:
  case RECORD_TRIM:
    return length <= UINT32_MAX;
  case RECORD_DATA:
    if (place % 64 != 0 || place + DATA_BYTES (length) > set_start)
      return false;
    /* fall through */
  case RECORD_LOST:
    return length <= 65536 && logical / MIB == (logical + length - 1) / MIB;
  case RECORD_HOLE:
    return (m->flags & RECORD_CLEAN) != 0 && length <= UINT32_MAX;
  }
  return false;
}

/* [K1], [K2] but for the checksum: is there a set, of as many records as
 * before? */
static bool
set_is_there (const struct set_place *s)
{
  const struct media_set *set =
    (const struct media_set *) (image->device->bytes + s->end) - 1;
  const struct media_set *before =
    (const struct media_set *) (image->device_before + s->end) - 1;

  return memcmp (&set->magic, &before->magic, 8) == 0
    && memcmp (&set->generation, &before->generation,
               offsetof (struct media_set, epoch)
               - offsetof (struct media_set, generation)) == 0;
}

/* [K3] to [K5] */
static bool
set_is_sane (const struct set_place *s)
{
  const struct media_set *set =
    (const struct media_set *) (image->device->bytes + s->end) - 1;
  const struct media_record *record =
    (const struct media_record *) (image->device->bytes + s->start);
  const uint64_t epoch = le64_get (set->epoch);
  uint64_t sequence = 0;

  if (epoch == 0 || epoch >= LIMIT || le64_get (set->durable_through) >= epoch
      || le32_get (set->durable_sets) > s->ordinal)
    return false;
  for (unsigned i = 0; i < image->sets; i++) {
    const struct set_place *before = &image->set[i];

    if (before->segment != s->segment || before->ordinal + 1 != s->ordinal)
      continue;
    sequence = before->record[before->records - 1].sequence;
    if (epoch < before->epoch)
      return false;
  }
  for (uint32_t i = 0; i < s->records; i++) {
    if (!record_is_sane (&record[i], (s->start - 2 * MIB) % MIB)
        || le64_get (record[i].sequence) <= sequence)
      return false;
    sequence = le64_get (record[i].sequence);
  }
  return true;
}

static bool
is_last_set (const struct set_place *s)
{
  for (unsigned i = 0; i < image->sets; i++)
    if (image->set[i].segment == s->segment
        && image->set[i].ordinal > s->ordinal)
      return false;
  return true;
}

/* What must follow from set N, which is not what it was, by these rules. */
static void
judge_lying_set (unsigned n)
{
  const struct set_place *s = &image->set[n];

  if (le32_get (((struct media_set *) (image->device->bytes + s->end) - 1)
                ->records) != s->records)
    return;                     /* records of chance */
  if (!set_is_there (s)) {
    /* One that says it is a later set is believed to be one, and hides those
     * behind it. */
    if (s->open
        && le32_get (((struct media_set *) (image->device->bytes + s->end)
                      - 1)->ordinal) > s->ordinal)
      return;
    damage.set[n] = true;
    judge_set (n);
  }
  else if (!set_is_sane (s)
           && (has_dirty (s) || (s->open && is_last_set (s))))
    life.must_refuse = true;
}

/* [D2] */
static bool
contradicts_its_sets (const struct media_segment *m,
                      const struct twin_place *t)
{
  const struct media_segment *before =
    (const struct media_segment *) (image->device_before + t->at[0]);

  return le32_get (m->state) == SEGMENT_SEALED
    && le32_get (before->state) == SEGMENT_SEALED
    && le64_get (m->generation) == le64_get (before->generation)
    && (le32_get (m->sets) != le32_get (before->sets)
        || memcmp (&m->epoch_max, &before->epoch_max,
                   3 * sizeof m->epoch_max) != 0);
}

static void
judge_lying_twin (const struct twin_place *t)
{
  const uint8_t *a = image->device->bytes + t->at[0];

  if (le64_get (((const struct media_twin *) a)->magic) != t->magic
      || le64_get (((const struct media_twin *) a)->at) != t->at[0])
    return;                     /* not valid; the other one is */
  if (t->magic == MAGIC_SEGMENT)
    life.must_refuse = !segment_is_sane ((const void *) a, t->segment)
      || (segment_has_dirty (t->segment)
          && contradicts_its_sets ((const void *) a, t));
  else if (t->magic == MAGIC_CONTROL)
    life.never_open = !control_is_sane ((const void *) a);
  /* Unbound, it has no size. */
  else if (le32_get (((const struct media_superblock *) a)->flags) & 1)
    life.never_open = !superblock_is_sane ((const void *) a);
}

/* What may follow from a field of T's copies COPIES (bits) that lies. */
static void
judge_twin_lie (const struct twin_place *t, unsigned copies,
                const struct field *field, uint64_t value)
{
  if (is_twin_field (field)) {
    /* A copy that is not valid, or one with another number and the same
     * content. */
    if (copies != 3 || is_named (field, "sequence")) {
      /* What starts with somebody else's magic number is left alone. */
      life.must_open = t->magic != MAGIC_SUPERBLOCK || !(copies & 1)
        || !is_named (field, "magic");
      /* And this mark means that there is nothing to lose: [S1]. */
      life.anything = !life.must_open && value == MAGIC_FORMATTING;
      life.must_refuse = !life.must_open && copies == 1 && !life.anything;
    }
    else
      life.any_age = true;
    return;
  }
  if ((t->magic == MAGIC_CONTROL && is_named (field, "flags"))
      || is_named (field, "reserved[0]")
      || is_named (field, "reserved[17]") || is_named (field, "reserved[4]")
      /* Whatever it says: it is used, or a replay takes its place. */
      || strncmp (field->name, "checkpoint.", 11) == 0
      || is_named (field, "uuid") || is_named (field, "compat")
      || is_named (field, "gc_percent")) {
    life.must_open = true;
    return;
  }
  if (t->magic == MAGIC_SUPERBLOCK) {
    /* Whatever it says: either it is refused or it changes nothing.  But an
     * unbound cache has no records, and knows of none that are lost. */
    if (image->losts > 0 && is_named (field, "flags"))
      life.any_age = true;
    return;
  }
  life.any_age = true;
}

static void
lie_in_twin (unsigned n, unsigned copies, const struct field *field,
             uint64_t value)
{
  const struct twin_place *t = &image->twin[n];

  for (int copy = 0; copy < 2; copy++)
    if (copies & 1 << copy) {
      uint8_t *p = on_device (t->at[copy], t->bytes);

      field_put (p, field, value);
    }
  for (int copy = 0; copy < 2; copy++)
    if (copies & 1 << copy)
      twin_seal_as (image->device->bytes + t->at[copy],
                    t->bytes, t->magic == MAGIC_SUPERBLOCK ? 0
                    : le64_get (((struct media_superblock *)
                                 image->device_before)->instance));
  life.at_limit |= is_at_limit (value);
  judge_twin_lie (t, copies, field, value);
  if ((copies & 1) && !is_twin_field (field))
    judge_lying_twin (t);
  say ("%s, copies %s: %s = 0x%" PRIx64, t->name,
       copies == 3 ? "A and B" : copies == 1 ? "A" : "B", field->name, value);
}

static void
lie_in_all_of (unsigned n, const struct field *field)
{
  const struct twin_place *t = &image->twin[n];
  uint64_t values[EDGE_VALUES_MAX];

  for (; field->name; field++) {
    const unsigned count =
      values_for (field_get (image->device_before + t->at[0], field),
                  field->bytes, NULL, values);

    for (unsigned i = 0; i < count; i++)
      for (unsigned copies = 1; copies <= 3; copies++)
        if (next_case (LIES)) {
          lie_in_twin (n, copies, field, values[i]);
          life.brief = life.must_open && number % BRIEF_UNLESS != 0;
          live_it ();
        }
  }
}

static struct media_set *
set_in_place (const struct set_place *s)
{
  return (struct media_set *) (image->device->bytes + s->end) - 1;
}

static void
reseal_set (const struct set_place *s)
{
  struct media_set *set = set_in_place (s);

  /* As far as there can be a set of so many records. */
  if (le32_get (set->records) <= SET_MAX_RECORDS)
    set_seal (image->device, set);
}

static void
lie_in_set (unsigned n, const struct field *field, uint64_t value)
{
  const struct set_place *s = &image->set[n];
  uint8_t *p = on_device (s->start, s->end - s->start);

  field_put (p + (s->end - s->start) - sizeof (struct media_set), field,
             value);
  reseal_set (s);
  life.at_limit |= is_at_limit (value);
  say ("segment %u, set %u: %s = 0x%" PRIx64, s->segment, s->ordinal,
       field->name, value);
  if (is_named (field, "reserved")) {
    life.must_open = true;
    return;
  }
  doubt_segment (s->segment, 0);
  judge_lying_set (n);
  if (image->losts > 0)
    life.any_age = true;
}

static void
lie_in_record (unsigned n, unsigned i, const struct field *field,
               uint64_t value)
{
  const struct set_place *s = &image->set[n];
  const struct record_place *r = &s->record[i];
  uint8_t *p = on_device (s->start, s->end - s->start);
  struct range now = r->range;
  struct doubt *d;

  field_put (p + i * sizeof (struct media_record), field, value);
  reseal_set (s);
  life.at_limit |= is_at_limit (value);
  say ("segment %u, set %u, record %u: %s = 0x%" PRIx64, s->segment,
       s->ordinal, i, field->name, value);
  if (is_named (field, "reserved")) {
    life.must_open = true;
    return;
  }
  judge_lying_set (n);
  if (image->losts > 0)
    life.any_age = true;

  d = life_doubt (&life, r->range);
  if (is_named (field, "logical"))
    now.start = value;
  else if (is_named (field, "length"))
    now.length = value;
  d = life_doubt (&life, now);
  d->may_fail = r->kind == RECORD_LOST || is_named (field, "kind")
    || ((r->kind == RECORD_DATA)
        && !is_named (field, "logical") && !is_named (field, "sequence"));
  d->may_be_zero = r->kind == RECORD_ZERO || r->kind == RECORD_TRIM
    || is_named (field, "kind");
  d->may_move = is_named (field, "logical");
  d->from = r->range.start;
  /* Without a checksum there is no telling. */
  d->may_be_anything = !is_named (field, "logical")
    && (image->kind == IMAGE_NO_CRC
        || (r->kind != RECORD_DATA && is_named (field, "kind")));
  /* [D3]: data that does not match ends the log. */
  if (s->open && (image->kind == IMAGE_UNORDERED
                  || image->kind == IMAGE_NO_CRC))
    doubt_segment (s->segment, s->ordinal);
}

/* A geometry in which each number goes with the others, but which no cache
 * has. */
static void
lie_consistently (uint64_t segment_size, uint32_t count, uint32_t capacity)
{
  const uint64_t first = 2 * MIB;

  if (!next_case (1))
    return;
  for (int copy = 0; copy < 2; copy++) {
    struct media_superblock *sb = (struct media_superblock *)
      on_device (SUPERBLOCK_AT (copy), sizeof *sb);

    sb->segment_size = le64_of (segment_size);
    sb->segment_count = le32_of (count);
    sb->segment_capacity = le32_of (capacity);
    sb->device_size = le64_of (first + segment_size * count);
    twin_seal_as (sb, sizeof *sb, 0);
  }
  say ("%u segments of %" PRIu64 " bytes, room for %u", count, segment_size,
       capacity);
  life.never_open = true;
  live_it ();
}

/* A set that is right but for its place: it would begin before its segment
 * does. */
static void
lie_about_a_beginning (uint32_t segment, uint32_t ordinal, uint32_t records,
                       uint64_t end)
{
  const uint64_t base = 2 * MIB + segment * MIB;
  const uint64_t bytes = SET_BYTES ((uint64_t) records);
  const struct media_segment *header =
    segment_on (image->device, segment, 0);
  struct media_set set = { .reserved = le32_of (0) };
  uint8_t *p;

  if (!next_case (1))
    return;
  p = on_device (base + end - bytes, bytes);
  for (uint32_t i = 0; i < records; i++) {
    const struct media_record record = {
      .length = le64_of (512), .sequence = le64_of (1000 + i),
      .kind = RECORD_ZERO,
    };

    memcpy (p + i * sizeof record, &record, sizeof record);
  }
  set.magic = le64_of (MAGIC_SET);
  set.generation = header->generation;
  set.segment = le32_of (segment);
  set.offset = le32_of (end - sizeof set);
  set.ordinal = le32_of (ordinal);
  set.records = le32_of (records);
  set.epoch = le64_of (100);
  set.durable_sets = le32_of (ordinal);
  memcpy (p + bytes - sizeof set, &set, sizeof set);
  set_seal_as ((struct media_set *) (p + bytes) - 1,
               le64_get (superblock_on (image->device, 0)->instance));
  say ("segment %u: a set of %u records that ends at %" PRIu64, segment,
       records, end);
  note_place (base + end - bytes, bytes);
  judge ();
  /* Data was written over. */
  for (unsigned n = 0; n < image->sets; n++)
    for (uint32_t i = 0; i < image->set[n].records; i++)
      life_doubt (&life, image->set[n].record[i].range)->may_fail = true;
  live_it ();
}

static void
lie_about_places (void)
{
  const uint32_t segments = image->twins - 2;

  lie_consistently (MIB / 2, segments * 2, segments * 8);
  lie_consistently (64, segments, segments * 4);
  lie_consistently (0, segments, segments * 4);
  lie_consistently (MIB + 64, segments - 1, segments * 4);
  lie_consistently (3 * MIB / 2, segments / 2, segments * 4);
  lie_consistently (2 * MIB, 2, segments * 4);
  lie_consistently (MIB, 3, segments * 4);
  lie_consistently (MIB, 0, segments * 4);
  lie_consistently (MIB, segments, segments - 1);
  lie_consistently (MIB, segments, 0);
  lie_consistently (MIB, segments + 1, segments * 4);

  /* These cost data, which without checksums would not be noticed. */
  if (image->kind == IMAGE_NO_CRC)
    return;
  for (unsigned n = 0; n < image->sets; n++)
    if (image->set[n].open && is_last_set (&image->set[n]))
      for (unsigned lines = 2; lines < 97; lines += 19)
        lie_about_a_beginning (image->set[n].segment,
                               image->set[n].ordinal + 2, SET_MAX_RECORDS,
                               lines * 64);
}

static void
lie_everywhere (void)
{
  uint64_t values[EDGE_VALUES_MAX];
  const struct field *field;

  lie_about_places ();
  for (unsigned i = 0; i < image->twins; i++) {
    lie_in_all_of (i, twin_fields);
    lie_in_all_of (i, fields_of (image->twin[i].magic));
  }
  for (unsigned n = 0; n < image->sets; n++) {
    const struct set_place *s = &image->set[n];

    for (field = set_fields; field->name; field++) {
      const unsigned count = values_for
        (field_get (image->device_before + s->end - 64, field), field->bytes,
         s, values);

      for (unsigned v = 0; v < count; v++)
        if (next_case (LIES)) {
          lie_in_set (n, field, values[v]);
          live_it ();
        }
    }
    for (unsigned i = 0; i < s->records; i++)
      for (field = record_fields; field->name; field++) {
        const unsigned count = values_for
          (field_get (image->device_before + s->start
                      + i * sizeof (struct media_record), field),
           field->bytes, s, values);

        for (unsigned v = 0; v < count; v++)
          if (next_case (LIES)) {
            lie_in_record (n, i, field, values[v]);
            live_it ();
          }
      }
  }
}

/* --- 3. more than one ------------------------------------------------- */

static void
flip_anywhere (void)
{
  const uint64_t n = random_below (&randomness, image->twins + image->sets);
  const uint8_t pattern = 1 + random_below (&randomness, 255);

  if (n < image->twins) {
    const struct twin_place *t = &image->twin[n];

    flip (t->at[random_below (&randomness, 2)]
          + random_below (&randomness, t->bytes), pattern);
  }
  else {
    const struct set_place *s = &image->set[n - image->twins];

    flip (s->start + random_below (&randomness, s->end - s->start), pattern);
  }
}

static const struct field *
any_field (const struct field *fields)
{
  unsigned count = 0;

  while (fields[count].name)
    count++;
  return fields + random_below (&randomness, count);
}

static uint64_t
any_value (const uint8_t *at, const struct field *field,
           const struct set_place *set)
{
  uint64_t values[EDGE_VALUES_MAX];
  const unsigned count = values_for (field_get (at, field), field->bytes,
                                     set, values);

  return values[random_below (&randomness, count)];
}

static void
lie_anywhere (void)
{
  const uint64_t n = random_below (&randomness, image->twins
                                   + 3 * image->sets);
  const struct field *field;

  if (n < image->twins) {
    const struct twin_place *t = &image->twin[n];

    field = any_field (random_below (&randomness, 4) ? fields_of (t->magic)
                       : twin_fields);
    lie_in_twin (n, 1 + random_below (&randomness, 3), field,
                 any_value (image->device->bytes + t->at[0], field, NULL));
  }
  else {
    const unsigned i = (n - image->twins) / 3;
    const struct set_place *s = &image->set[i];

    if ((n - image->twins) % 3 == 0) {
      field = any_field (set_fields);
      lie_in_set (i, field, any_value (image->device->bytes + s->end - 64,
                                       field, s));
    }
    else {
      const unsigned r = random_below (&randomness, s->records);

      field = any_field (record_fields);
      lie_in_record (i, r, field, any_value
                     (image->device->bytes + s->start
                      + r * sizeof (struct media_record), field, s));
    }
  }
}

#define COMBINATIONS 1500       /* of an image */

static void
do_several (void)
{
  for (unsigned i = 0; i < COMBINATIONS; i++) {
    unsigned parts;

    if (!next_case (SEVERAL))
      continue;
    parts = 2 + random_below (&randomness, 2);
    if (random_below (&randomness, 3) == 0) {
      bool foreign;

      for (unsigned p = 0; p < parts; p++)
        flip_anywhere ();
      judge ();
      /* A device that starts with somebody else's magic number is left
       * alone. */
      foreign = le64_get (superblock_on (image->device, 0)->twin.magic)
        != MAGIC_SUPERBLOCK;
      if (foreign)
        life.must_open = false;
    }
    else {
      for (unsigned p = 0; p < parts; p++)
        if (random_below (&randomness, 4))
          lie_anywhere ();
        else
          flip_anywhere ();
      /* Two lies can make a third: what is left is that nothing breaks, that
       * nothing is read that was never written, and that what is written from
       * then on is kept. */
      life.must_open = life.must_refuse = life.never_open = false;
      life.any_age = true;
      life.anything = true;
    }
    live_it ();
  }
}

/* --- 4. pieces in the wrong place ------------------------------------- */

static void
copy_piece (uint64_t to, uint64_t from, uint64_t length)
{
  memcpy (on_device (to, length), image->device_before + from, length);
}

static void
swap_copies (unsigned n)
{
  const struct twin_place *t = &image->twin[n];

  if (!next_case (1))
    return;
  copy_piece (t->at[0], t->at[1], t->bytes);
  copy_piece (t->at[1], t->at[0], t->bytes);
  say ("%s: copies swapped", t->name);
  damage.twin[n] = 3;
  judge ();
  live_it ();
}

static void
copy_over (unsigned n, int to, uint64_t from, const char *from_what)
{
  const struct twin_place *t = &image->twin[n];

  if (!next_case (1))
    return;
  copy_piece (t->at[to], from, t->bytes);
  say ("%s over %s", from_what, place_name (t, to));
  damage.twin[n] = 1 << to;
  judge ();
  /* Somebody else's magic number at the start. */
  if (t->at[to] == 0 && from != SUPERBLOCK_AT (1))
    life.must_open = false;
  live_it ();
}

static void
move_twins (void)
{
  for (unsigned n = 0; n < image->twins; n++) {
    const struct twin_place *t = &image->twin[n];

    swap_copies (n);
    for (unsigned m = 0; m < image->twins; m++)
      for (int to = 0; to < 2; to++)
        for (int from = 0; from < 2; from++)
          if ((m != n || from != to) && image->twin[m].bytes == t->bytes)
            copy_over (n, to, image->twin[m].at[from],
                       place_name (&image->twin[m], from));
  }
}

/* A set over another of the same size, or over free space. */
static void
move_set (unsigned from, uint64_t end)
{
  const struct set_place *s = &image->set[from];
  const uint64_t bytes = s->end - s->start;

  if (!next_case (1))
    return;
  copy_piece (end - bytes, s->start, bytes);
  note_place (end - bytes, bytes);
  say ("segment %u, set %u copied to end at %" PRIu64, s->segment, s->ordinal,
       end);
  judge ();
  live_it ();
}

static uint64_t
segment_bytes (uint32_t id)
{
  return segment_start (image->device, id);
}

static void
move_sets (void)
{
  const uint32_t segments = image->twins - 2;

  for (unsigned n = 0; n < image->sets; n++) {
    const struct set_place *s = &image->set[n];
    const uint64_t offset = s->end - segment_bytes (s->segment);

    for (unsigned m = 0; m < image->sets; m++)
      if (m != n && image->set[m].end - segment_bytes (image->set[m].segment)
          >= s->end - s->start)
        move_set (n, image->set[m].end);
    for (uint32_t id = 0; id < segments; id++)
      if (id != s->segment)
        move_set (n, segment_bytes (id) + offset);
    /* Behind the last one of each segment. */
    for (unsigned m = 0; m < image->sets; m++)
      if (m + 1 == image->sets
          || image->set[m + 1].segment != image->set[m].segment)
        move_set (n, image->set[m].start);
  }
  /* The whole log of one segment over that of another. */
  for (uint32_t to = 0; to < segments; to++)
    for (uint32_t from = 0; from < segments; from++)
      if (to != from && next_case (1)) {
        const uint64_t log = 16 * KIB;

        copy_piece (segment_bytes (to) + MIB - log,
                    segment_bytes (from) + MIB - log, log);
        note_place (segment_bytes (to) + MIB - log, log);
        say ("log of segment %u over that of segment %u", from, to);
        judge ();
        live_it ();
      }
}

/* The sets of a segment as they were in its last life, and an older state
 * of its header or of the control block. */
static void
put_back_the_past (void)
{
  const uint32_t segments = image->twins - 2;

  for (uint32_t id = 0; id < segments; id++) {
    struct media_segment *header = segment_on (image->device, id, 0);

    /* A set of the generation before where the log of this one goes on, or
     * where this one begins. */
    for (unsigned n = 0; n < image->sets; n++) {
      const struct set_place *s = &image->set[n];
      struct media_set *set;
      uint64_t bytes = s->end - s->start, end;

      if (s->segment != id || !next_case (1))
        continue;
      end = s->start;
      memcpy (on_device (end - bytes, bytes), image->device_before + s->start,
              bytes);
      set = (struct media_set *) (image->device->bytes + end) - 1;
      set->generation = le64_of (le64_get (header->generation) - 1);
      set->offset = le32_of (end - sizeof *set - segment_bytes (id));
      set->ordinal = le32_of (s->ordinal + 1);
      set_seal (image->device, set);
      note_place (end - bytes, bytes);
      say ("segment %u: a set of its last generation behind set %u", id,
           s->ordinal);
      judge ();
      live_it ();
    }
  }
}

/* An older copy of a twin, whole, in the place of one of the two. */
static void
age_a_copy (unsigned n, int copy)
{
  const struct twin_place *t = &image->twin[n];
  struct media_twin *twin;

  if (!next_case (1))
    return;
  twin = (struct media_twin *) on_device (t->at[copy], t->bytes);
  if (le64_get (twin->sequence) == 0)
    return;
  twin->sequence = le64_of (le64_get (twin->sequence) - 1);
  if (t->magic == MAGIC_CONTROL)
    memset ((uint8_t *) twin + 32, 0, 16);
  else if (t->magic == MAGIC_SEGMENT)
    ((struct media_segment *) twin)->state = le32_of (SEGMENT_FREE);
  twin_seal (image->device, twin, t->bytes);
  say ("%s is one update old", place_name (t, copy));
  life.must_open = true;
  live_it ();
  image_restore (image);
}

static void
resize (uint64_t size)
{
  const uint64_t whole = image->device->size;

  if (!next_case (1))
    return;
  say ("device of %" PRIu64 " bytes", size);
  if (size < whole) {
    life.never_open = true;
    image->device->size = size;
    live_it ();
    image->device->size = whole;
  }
}

static void
grow (uint64_t more)
{
  const uint64_t whole = image->device->size;
  uint8_t *bytes = image->device->bytes;

  if (!next_case (1))
    return;
  say ("device larger by %" PRIu64 " bytes", more);
  image->device->bytes = calloc (1, whole + more);
  assert_non_null (image->device->bytes);
  memcpy (image->device->bytes, bytes, whole);
  image->device->size = whole + more;
  life.must_open = true;
  live_it ();
  free (image->device->bytes);
  image->device->bytes = bytes;
  image->device->size = whole;
}

static void
put_pieces_elsewhere (void)
{
  const uint64_t whole = image->device->size;
  const uint64_t sizes[] = {
    0, 1, 8, 4095, 4096, 4352, 524287, 524288, 528384, MIB - 1, MIB,
    MIB + 65536, 2 * MIB, 2 * MIB + 64, 3 * MIB, whole - MIB, whole - 65536,
    whole - 4096, whole - 64, whole - 1,
  };

  move_twins ();
  move_sets ();
  put_back_the_past ();
  for (unsigned n = 0; n < image->twins; n++)
    for (int copy = 0; copy < 2; copy++)
      age_a_copy (n, copy);
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
    resize (sizes[i]);
  grow (1);
  grow (64);
  grow (MIB);
  grow (5 * MIB);
}

/* --- 5. data ---------------------------------------------------------- */

/* The newest record of a byte, as far as there is one; what was evicted has
 * none. */
static const struct record_place *
owner_of (uint64_t at)
{
  const struct record_place *owner = NULL;

  for (unsigned n = 0; n < image->sets; n++)
    for (unsigned i = 0; i < image->set[n].records; i++) {
      const struct record_place *r = &image->set[n].record[i];

      if (at >= r->range.start && at < range_end (r->range)
          && (owner == NULL || r->sequence > owner->sequence))
        owner = r;
    }
  return owner;
}

/* EIO for exactly what is left of R. */
static void
doubt_what_is_left (const struct record_place *r)
{
  uint64_t start = r->range.start;

  for (uint64_t at = start; at <= range_end (r->range); at++)
    if (at == range_end (r->range) || owner_of (at) != r) {
      if (at > start) {
        struct doubt *d = life_doubt (&life, (struct range) { start,
                                                              at - start });

        d->may_fail = d->must_fail = true;
      }
      start = at + 1;
    }
}

static void
flip_data (const struct set_place *s, const struct record_place *r,
           uint64_t byte)
{
  uint64_t through = image->written_back;

  if (!next_case (1))
    return;
  *on_device (r->data_at + byte, 1) ^= 1 + random_below (&randomness, 255);
  say ("segment %u, set %u: data of %" PRIu64 "+%" PRIu64 ", byte %" PRIu64,
       s->segment, s->ordinal, r->range.start, r->range.length, byte);
  for (unsigned n = 0; n < image->sets; n++)
    through = MAX (through, image->set[n].durable_through);
  life.must_open = true;
  if (s->open && image->kind == IMAGE_UNORDERED && s->epoch > through)
    doubt_segment (s->segment, s->ordinal);     /* [D3] */
  else if (!r->clean)
    doubt_what_is_left (r);
  live_it ();
}

static void
flip_the_data (void)
{
  if (image->kind == IMAGE_NO_CRC)
    return;
  for (unsigned n = 0; n < image->sets; n++)
    for (unsigned i = 0; i < image->set[n].records; i++) {
      const struct record_place *r = &image->set[n].record[i];

      if (r->kind != RECORD_DATA)
        continue;
      flip_data (&image->set[n], r, 0);
      flip_data (&image->set[n], r, r->range.length / 2);
      flip_data (&image->set[n], r, r->range.length - 1);
    }
}

/* --- all images ------------------------------------------------------- */

static void
for_each_image (const char *name, void (*work) (void))
{
  const struct life_totals before = life_totals;
  const uint64_t run_before = run;

  group = name;
  violations = 0;
  for (int kind = 0; kind < IMAGE_KINDS; kind++) {
    image = image_new (kind, seed);
    number = 0;
    /* Nothing at all is done to it. */
    memset (&life, 0, sizeof life);
    life.image = image;
    life.what = "whole";
    life.must_open = true;
    live_it ();
    assert_int_equal (violations, 0);
    work ();
    if (!image_is_whole (image))
      fail_msg ("image %s is no longer what it was", image->name);
    image_free (image);
    image = NULL;
  }
  alarm (0);
  print_message ("# %s: %" PRIu64 " lives, %" PRIu64 " opened, %" PRIu64
                 " refused, %" PRIu64 " of them rescued, %" PRIu64
                 " bytes gave EIO, %u violations\n", name, run - run_before,
                 life_totals.opened - before.opened,
                 life_totals.refused - before.refused,
                 life_totals.rescued - before.rescued,
                 life_totals.failed_bytes - before.failed_bytes, violations);
  assert_int_equal (violations, 0);
}

static void
no_flipped_byte_is_believed (void **state)
{
  (void) state;
  for_each_image ("flips", flip_everything);
}

static void
no_lie_with_a_right_checksum_breaks_it (void **state)
{
  (void) state;
  for_each_image ("lies", lie_everywhere);
}

static void
several_at_a_time_do_not_either (void **state)
{
  (void) state;
  for_each_image ("several", do_several);
}

static void
pieces_elsewhere_are_told_apart (void **state)
{
  (void) state;
  for_each_image ("pieces", put_pieces_elsewhere);
}

static void
damaged_data_is_read_again_or_an_error (void **state)
{
  (void) state;
  for_each_image ("data", flip_the_data);
}

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (no_flipped_byte_is_believed),
    cmocka_unit_test (no_lie_with_a_right_checksum_breaks_it),
    cmocka_unit_test (several_at_a_time_do_not_either),
    cmocka_unit_test (pieces_elsewhere_are_told_apart),
    cmocka_unit_test (damaged_data_is_read_again_or_an_error),
  };

  cmocka_set_message_output (CM_OUTPUT_TAP);
  seed_choose (argc, argv);
  only = getenv ("HOSTILE_CASE");
  life_violation = show;
  signal (SIGALRM, on_death);
  signal (SIGABRT, on_death);
  if (__sanitizer_set_death_callback)
    __sanitizer_set_death_callback (last_words);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

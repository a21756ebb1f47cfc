/* SPDX-License-Identifier: BSD-3-Clause */

/* Any bytes at all, as a cache device: opened, read, written, written back,
 * evicted, opened again.
 *
 * A device is too large to be a fuzzer's input, and nearly all of it has to
 * be right for the rest to be looked at.  So the input is a list of changes to
 * one of the images (image.h), or to a blank device, by the names of places
 * rather than by offsets; and it may say that checksums are to be made right
 * again, as no fuzzer finds those.
 *
 *   byte 0   which image (modulo their number and one: the blank one)
 *   byte 1   bit 0: make checksums right again
 *   then     changes: a byte that says which kind (modulo CHANGES), and what
 *            the function of that kind takes
 *
 * Nothing can be said of the bytes that such an image serves, but: what was
 * written after it was opened is read back, before and after another open,
 * and nothing takes for ever.  The rest is up to the sanitizers and to the
 * asserts, which also stand for accesses outside the device and the disk.
 *
 * Built with libFuzzer by make fuzz; test_corpus.c replays files. */

#include <config.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hostile/fuzz_open.h"
#include "hostile/life.h"
#include "hostile/look.h"

#define IMAGE_SEED 1            /* inputs mean the same for ever */

struct input {
  const uint8_t *at;
  size_t left;
};

struct target {
  struct image *image;
  struct memory_device *device;
  uint64_t checksum_seed;
  bool reseal;
  uint64_t whole_size;
};

static uint64_t
take (struct input *in, unsigned bytes)
{
  uint64_t value = 0;

  for (unsigned i = 0; i < bytes && in->left > 0; i++) {
    value |= (uint64_t) *in->at++ << i * 8;
    in->left--;
  }
  return value;
}

/* Bytes to change: none outside the device. */
static uint8_t *
change (struct target *t, uint64_t at, uint64_t length)
{
  if (at > t->device->size || length > t->device->size - at)
    return NULL;
  image_note (t->image, t->device->bytes + at, length);
  return t->device->bytes + at;
}

/* LENGTH bytes of input to AT. */
static void
store (struct target *t, struct input *in, uint64_t at, uint64_t length)
{
  uint8_t *p = change (t, at, length);

  for (uint64_t i = 0; p && i < length; i++)
    p[i] = take (in, 1);
}

/* Where segment ID is before anything is changed. */
static uint64_t
segment_at_first (const struct target *t, uint32_t id)
{
  const struct media_superblock *sb =
    (const struct media_superblock *) t->image->device_before;

  return le64_get (sb->first_segment_at) + id * MIB;
}

/* --- the changes ------------------------------------------------------ */

/* Twin, copies (bits; 0: both), offset, length 1 to 8, bytes. */
static void
change_twin (struct target *t, struct input *in)
{
  const struct twin_place *twin =
    &t->image->twin[take (in, 1) % t->image->twins];
  const unsigned copies = take (in, 1) % 4;
  const uint64_t offset = take (in, 2) % twin->bytes;
  const uint64_t length = MIN (1 + take (in, 1) % 8, twin->bytes - offset);
  struct input from = *in;

  for (int copy = 0; copy < 2; copy++)
    if (copies == 0 || copies & 1 << copy) {
      if (change (t, twin->at[copy], twin->bytes) == NULL)
        return;
      from = *in;
      store (t, &from, twin->at[copy] + offset, length);
      if (t->reseal)
        twin_seal_as (t->device->bytes + twin->at[copy], twin->bytes,
                      twin->magic == MAGIC_SUPERBLOCK ? 0
                      : t->checksum_seed);
    }
  *in = from;
}

static void
seal_set (struct target *t, const struct set_place *place)
{
  struct media_set *set =
    (struct media_set *) (t->device->bytes + place->end) - 1;
  const uint32_t records = le32_get (set->records);

  image_note (t->image, (uint8_t *) set, sizeof *set);
  if (t->reseal && records <= SET_MAX_RECORDS)
    set_seal_as (set, t->checksum_seed);
}

/* Set, offset from its end, length 1 to 8, bytes. */
static void
change_set (struct target *t, struct input *in)
{
  const struct set_place *set;
  uint64_t offset, length;

  if (t->image->sets == 0)
    return;
  set = &t->image->set[take (in, 1) % t->image->sets];
  offset = 1 + take (in, 2) % (set->end - set->start);
  length = MIN (1 + take (in, 1) % 8, offset);
  store (t, in, set->end - offset, length);
  seal_set (t, set);
}

/* Where the log of a segment goes on. */
static uint64_t
log_end (const struct target *t, uint32_t segment, uint32_t *ordinal,
         uint64_t *sequence, uint64_t *epoch)
{
  uint64_t end = segment_at_first (t, segment) + MIB;

  *ordinal = 0;
  *sequence = 0;
  *epoch = 1;
  for (unsigned i = 0; i < t->image->sets; i++) {
    const struct set_place *set = &t->image->set[i];

    if (set->segment == segment && set->start < end) {
      end = set->start;
      *ordinal = set->ordinal + 1;
      *epoch = set->epoch;
      *sequence = set->record[set->records - 1].sequence;
    }
  }
  return end;
}

/* A new set where the log of a segment goes on, and right but for what the
 * input says: segment, what to add to ordinal and epoch, how much of it was
 * durable, number of records, and of each logical, length, what to add to
 * the sequence number, place, kind, flags. */
static void
add_set (struct target *t, struct input *in)
{
  const uint32_t segment = take (in, 1) % (t->image->twins - 2);
  const uint64_t base = segment_at_first (t, segment);
  uint64_t sequence, epoch, end;
  struct media_record records[8];
  struct media_set header = { .reserved = le32_of (0) };
  uint32_t ordinal, count;
  uint8_t *p;

  end = log_end (t, segment, &ordinal, &sequence, &epoch);
  ordinal += take (in, 1);
  epoch += take (in, 1);
  header.magic = le64_of (MAGIC_SET);
  header.segment = le32_of (segment);
  header.offset = le32_of (end - base - sizeof header);
  memcpy (&header.generation, t->device->bytes
          + t->image->twin[2 + segment].at[0]
          + offsetof (struct media_segment, generation), 8);
  header.ordinal = le32_of (ordinal);
  header.epoch = le64_of (epoch);
  header.durable_sets = le32_of (take (in, 1));
  header.durable_through = le64_of (take (in, 1));
  count = 1 + take (in, 1) % 8;
  for (uint32_t i = 0; i < count; i++) {
    records[i] = (struct media_record) {
      .logical = le64_of (take (in, 3)),
      .length = le64_of (take (in, 3)),
      .sequence = le64_of (sequence += take (in, 1)),
      .place = le32_of (take (in, 2) * 64),
    };
    records[i].kind = take (in, 1);
    records[i].flags = take (in, 1);
  }
  header.records = le32_of (count);
  p = change (t, end - SET_BYTES (count), SET_BYTES (count));
  if (p == NULL)
    return;
  memset (p, 0, SET_BYTES (count));
  memcpy (p, records, count * sizeof *records);
  p += SET_BYTES (count) - sizeof header;
  memcpy (p, &header, sizeof header);
  set_seal_as ((struct media_set *) p, t->checksum_seed);
}

/* Segment, offset in units of 64 from its end, how many units; they are copied
 * to: segment, offset. */
static void
copy_units (struct target *t, struct input *in)
{
  const uint32_t segments = t->image->twins - 2;
  const uint64_t from = segment_at_first (t,
                                          take (in, 1) % segments + 1)
    - take (in, 2) % 16384 * 64;
  const uint64_t length = (1 + take (in, 1)) * 64;
  const uint64_t to = segment_at_first (t, take (in, 1) % segments + 1)
    - take (in, 2) % 16384 * 64;
  uint8_t *p;

  if (from > t->device->size || length > t->device->size - from)
    return;
  p = change (t, to, length);
  if (p)
    memmove (p, t->device->bytes + from, length);
}

/* Any place (3 bytes, in units of 8), length 1 to 16, bytes. */
static void
change_anything (struct target *t, struct input *in)
{
  const uint64_t at = take (in, 3) * 8;
  const uint64_t length = 1 + take (in, 1) % 16;

  store (t, in, at, length);
}

/* The device ends here: 3 bytes, in units of 4096. */
static void
cut_device (struct target *t, struct input *in)
{
  t->device->size = MIN (t->whole_size, take (in, 3) * 4096);
}

/* Segment: what its data starts with is damaged. */
static void
change_data (struct target *t, struct input *in)
{
  const uint32_t segments = t->image->twins - 2;
  const uint64_t at = segment_at_first (t, take (in, 1) % segments);
  uint8_t *p = change (t, at + take (in, 2), 1);

  if (p)
    *p ^= 1 + take (in, 1) % 255;
}

/* A place that cannot be read, until all was read once: 3 bytes, in units of 64; how many of them. */
static void
spoil (struct target *t, struct input *in)
{
  t->device->bad_at = take (in, 3) * 64;
  t->device->bad_length = (1 + take (in, 1)) * 64;
}

typedef void change_function (struct target *, struct input *);

static change_function *const changes[] = {
  change_twin, change_set, add_set, copy_units, change_anything, cut_device,
  change_data, spoil,
};

#define CHANGES (sizeof changes / sizeof *changes)

/* --- one input -------------------------------------------------------- */

static struct image *
image_for (unsigned which)
{
  static struct image *images[IMAGE_KINDS + 1];
  struct image *image = images[which];

  if (image == NULL) {
    image = image_new (which == IMAGE_KINDS ? IMAGE_FRESH : which, IMAGE_SEED);
    if (which == IMAGE_KINDS) {
      image->options.segment_size = MIB;
      memset (image->device->bytes, 0, image->device->size);
      memset (image->device_before, 0, image->device->size);
    }
    images[which] = image;
  }
  return image;
}

const char *fuzz_save;

/* For readers in other languages. */
static void
save (const struct memory_device *device)
{
  FILE *file = fopen (fuzz_save, "wb");

  if (file == NULL || fwrite (device->bytes, 1, device->size, file)
                      != device->size || fclose (file) != 0)
    abort ();
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct input in = { data, size };
  const unsigned which = take (&in, 1) % (IMAGE_KINDS + 1);
  struct image *image = image_for (which);
  struct life life = {
    .image = image,
    .what = "fuzzed",
    .any_age = true,
    .anything = true,
    .at_limit = true,
  };
  struct target target = {
    .image = image,
    .device = image->device,
    .reseal = take (&in, 1) & 1,
    .whole_size = image->device->size,
  };

  target.checksum_seed =
    le64_get (((struct media_superblock *) image->device_before)->instance);
  while (in.left > 0 && image->device->size == target.whole_size)
    if (which == IMAGE_KINDS)   /* has no places with names */
      change_anything (&target, &in);
    else
      changes[take (&in, 1) % CHANGES] (&target, &in);
  if (fuzz_save)
    save (image->device);
  else {
    look_at (image->device);
    life_run (&life);
  }
  image->device->size = target.whole_size;
  image->device->bad_length = 0;
  image_restore (image);
  return 0;
}

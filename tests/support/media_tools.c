/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "support/media_tools.h"

const uint64_t edge_values[] = {
  0, 1, 2, 3, 4, 63, 64, 65, 127, 128, 129, 255, 256, 300, 1023, 1024, 1025,
  4095, 4096, 65535, 65536, 65537, 1048575, 1048576, 1048577, 0x7fffffff,
  0x80000000, 0xffffffc0, 0xffffffff, UINT64_C (0x100000000),
  UINT64_C (0x100000001), UINT64_C (1) << 40, UINT64_C (1) << 50,
  UINT64_MAX / 4 - 1, UINT64_MAX / 4, UINT64_C (1) << 62, INT64_MAX - 1,
  INT64_MAX, UINT64_C (1) << 63, UINT64_MAX - 64, UINT64_MAX - 1, UINT64_MAX,
};
const unsigned edge_value_count = sizeof edge_values / sizeof *edge_values;

struct values {
  uint64_t *value;
  unsigned count;
  uint64_t mask, original;
};

static void
add_value (struct values *v, uint64_t value)
{
  value &= v->mask;
  for (unsigned i = 0; i < v->count; i++)
    if (v->value[i] == value)
      return;
  if (value == v->original)
    return;
  assert (v->count < EDGE_VALUES_MAX);
  v->value[v->count++] = value;
}

unsigned
edge_values_near (uint64_t original, unsigned bytes, const uint64_t *extra,
                  unsigned extra_count, uint64_t values[EDGE_VALUES_MAX])
{
  struct values v = {
    .value = values,
    .mask = bytes == 8 ? UINT64_MAX : (UINT64_C (1) << bytes * 8) - 1,
    .original = original,
  };
  static const uint64_t steps[] = { 1, 2, 48, 64, 4096, 65536, 1048576 };

  for (unsigned i = 0; i < edge_value_count; i++)
    if (edge_values[i] <= v.mask)
      add_value (&v, edge_values[i]);
  for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
    add_value (&v, original + steps[i]);
    add_value (&v, original - steps[i]);
  }
  add_value (&v, ~original);
  add_value (&v, -original);
  add_value (&v, original * 2);
  add_value (&v, original ^ (UINT64_C (1) << (bytes * 8 - 1)));
  for (unsigned i = 0; i < extra_count; i++) {
    add_value (&v, extra[i] - 1);
    add_value (&v, extra[i]);
    add_value (&v, extra[i] + 1);
  }
  return v.count;
}

struct media_superblock *
superblock_on (struct memory_device *device, int copy)
{
  return (struct media_superblock *) (device->bytes + SUPERBLOCK_AT (copy));
}

struct media_control *
control_on (struct memory_device *device, int copy)
{
  return (struct media_control *)
    (device->bytes + 4096 + copy % 2 * 524288 + copy / 2 * 2048);
}

/* The copy of the superblock that can be believed. */
static const struct media_superblock *
good_superblock (struct memory_device *device)
{
  const struct media_superblock *a = superblock_on (device, 0);

  return le64_get (a->twin.magic) == MAGIC_SUPERBLOCK ? a
    : superblock_on (device, 1);
}

struct media_segment *
segment_on (struct memory_device *device, uint32_t id, int copy)
{
  const struct media_superblock *sb = good_superblock (device);

  return (struct media_segment *)
    (device->bytes + le64_get (sb->segment_table_at[copy % 2])
     + (uint64_t) id * 256 + copy / 2 * 128);
}

void
twin_seal_as (void *content, size_t bytes, uint64_t checksum_seed)
{
  struct media_twin *twin = content;

  twin->checksum = le64_of (0);
  twin->checksum = le64_of (XXH3_64bits_withSeed (content, bytes,
                                                  checksum_seed));
}

void
twin_seal (struct memory_device *device, void *content, size_t bytes)
{
  const struct media_twin *twin = content;

  twin_seal_as (content, bytes, le64_get (twin->magic) == MAGIC_SUPERBLOCK ? 0
                : le64_get (good_superblock (device)->instance));
}

uint64_t
segment_start (struct memory_device *device, uint32_t id)
{
  const struct media_superblock *sb = good_superblock (device);

  return le64_get (sb->first_segment_at)
    + (uint64_t) id * le64_get (sb->segment_size);
}

static uint64_t
generation_of (struct memory_device *device, uint32_t id)
{
  uint64_t generation = 0, newest = 0;

  for (int copy = 0; copy < 4; copy++) {
    const struct media_segment *header = segment_on (device, id, copy);

    if (le64_get (header->twin.magic) == MAGIC_SEGMENT
        && le64_get (header->twin.sequence) >= newest) {
      newest = le64_get (header->twin.sequence);
      generation = le64_get (header->generation);
    }
  }
  return generation;
}

static uint32_t
set_bytes (uint32_t records)
{
  return (records * sizeof (struct media_record) + 63) / 64 * 64 + 64;
}

uint64_t
set_at (struct memory_device *device, uint32_t id, uint32_t ordinal)
{
  const uint64_t start = segment_start (device, id);
  const uint64_t generation = generation_of (device, id);
  uint64_t end = start + le64_get (good_superblock (device)->segment_size);

  for (uint32_t i = 0; end >= start + 128; i++) {
    const struct media_set *set =
      (const struct media_set *) (device->bytes + end - 64);

    if (le64_get (set->magic) != MAGIC_SET
        || le64_get (set->generation) != generation
        || le32_get (set->ordinal) != i)
      return 0;
    if (i == ordinal)
      return end - 64;
    end -= set_bytes (le32_get (set->records));
  }
  return 0;
}

struct media_set *
set_on (struct memory_device *device, uint32_t id, uint32_t ordinal)
{
  const uint64_t at = set_at (device, id, ordinal);

  assert (at != 0);
  return (struct media_set *) (device->bytes + at);
}

uint32_t
sets_on (struct memory_device *device, uint32_t id)
{
  uint32_t n = 0;

  while (set_at (device, id, n) != 0)
    n++;
  return n;
}

struct media_record *
record_in (struct media_set *set, uint32_t i)
{
  const uint32_t count = le32_get (set->records);

  return (struct media_record *) ((uint8_t *) set + 64 - set_bytes (count)) + i;
}

void
set_seal_as (struct media_set *set, uint64_t checksum_seed)
{
  const uint32_t bytes = set_bytes (le32_get (set->records));

  set->checksum = le64_of (0);
  set->checksum = le64_of (XXH3_64bits_withSeed
                           ((uint8_t *) set + 64 - bytes, bytes,
                            checksum_seed));
}

void
set_seal (struct memory_device *device, struct media_set *set)
{
  set_seal_as (set, le64_get (good_superblock (device)->instance));
}

uint32_t
set_forge (struct memory_device *device, uint32_t id, uint32_t end,
           const struct media_set *header,
           const struct media_record *records, uint32_t count)
{
  uint8_t *at = device->bytes + segment_start (device, id) + end;
  struct media_set *set = (struct media_set *) (at - 64);

  memset (at - set_bytes (count), 0, set_bytes (count));
  *set = *header;
  set->magic = le64_of (MAGIC_SET);
  set->segment = le32_of (id);
  set->offset = le32_of (end - 64);
  set->records = le32_of (count);
  if (le64_get (set->generation) == 0)
    set->generation = le64_of (generation_of (device, id));
  memcpy (at - set_bytes (count), records, count * sizeof *records);
  set_seal (device, set);
  return end - set_bytes (count);
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/arith.h"
#include "base/workers.h"
#include "bench/checkpoint.h"
#include "bench/measure.h"
#include "engine/index.h"

#define BLOCK 4096
#define REGIONS 256             /* as the cache has */
#define PART 2048              /* extents under one checksum */

/* As an index holds it. */
struct packed {
  uint64_t start, checksum, place;
  uint32_t length, record_length;
};

struct part {
  unsigned region, count;
  uint64_t first;               /* its first extent */
  uint64_t checksum;
};

struct checkpoint {
  struct packed *extents;
  uint64_t count;
  struct part *parts;
  uint64_t first_part[REGIONS + 1];
  struct index *index;          /* that is filled */
  _Atomic unsigned next;        /* region */
};

static void
end_part (struct checkpoint *checkpoint, struct part *part)
{
  part->count = checkpoint->count - part->first;
  part->checksum = XXH3_64bits (checkpoint->extents + part->first,
                                 part->count * sizeof (struct packed));
}

/* The blocks of REGION, in ascending order. */
static uint64_t
list_region (struct checkpoint *checkpoint, struct index *index,
             unsigned region, uint64_t blocks, uint64_t parts)
{
  struct part *part = NULL;

  for (uint64_t i = 0; i < blocks; i++) {
    if (index_region_of (index, i * BLOCK) != region)
      continue;
    if (part == NULL || checkpoint->count - part->first == PART) {
      if (part)
        end_part (checkpoint, part);
      part = &checkpoint->parts[parts++];
      *part = (struct part) { .region = region, .first = checkpoint->count };
    }
    checkpoint->extents[checkpoint->count++] = (struct packed) {
      .start = i * BLOCK, .checksum = i * 2654435761, .place = i * BLOCK,
      .length = BLOCK, .record_length = BLOCK,
    };
  }
  if (part)
    end_part (checkpoint, part);
  return parts;
}

struct checkpoint *
checkpoint_new (uint64_t blocks)
{
  struct checkpoint *checkpoint = calloc (1, sizeof *checkpoint);
  struct index *index = index_new (REGIONS);
  uint64_t parts = 0;

  must (checkpoint && index, "memory");
  checkpoint->extents = malloc (blocks * sizeof *checkpoint->extents);
  checkpoint->parts = malloc ((blocks / PART + REGIONS)
                               * sizeof *checkpoint->parts);
  must (checkpoint->extents && checkpoint->parts, "memory");
  for (unsigned region = 0; region < REGIONS; region++) {
    checkpoint->first_part[region] = parts;
    parts = list_region (checkpoint, index, region, blocks, parts);
  }
  checkpoint->first_part[REGIONS] = parts;
  index_free (index);
  return checkpoint;
}

void
checkpoint_free (struct checkpoint *checkpoint)
{
  free (checkpoint->extents);
  free (checkpoint->parts);
  free (checkpoint);
}

static void
load_part (struct checkpoint *checkpoint, const struct part *part,
            struct index_builder *builder)
{
  const struct packed *packed = checkpoint->extents + part->first;
  const uint64_t end = checkpoint->count * BLOCK;

  must (XXH3_64bits (packed, part->count * sizeof *packed)
        == part->checksum, "a checkpoint's checksum");
  for (unsigned i = 0; i < part->count; i++, packed++) {
    const struct extent extent = {
      .range = { packed->start, packed->length },
      .kind = EXTENT_DATA,
      .has_checksum = true,
      .record_at = packed->place,
      .record_length = packed->record_length,
      .checksum = packed->checksum,
    };

    /* From media: each field is looked at before it is used. */
    must (range_is_valid (extent.range, end)
          && extent.range.length <= extent.record_length
          && extent.record_length <= INDEX_MAX_RECORD
          && extent.record_at % 64 == 0 && extent.record_at < end
          && index_region_of (checkpoint->index, packed->start)
             == part->region, "a checkpoint's extent");
    must (index_build_add (builder, &extent) == 0, "memory");
  }
}

static void
load_regions (void *opaque, unsigned worker)
{
  struct checkpoint *checkpoint = opaque;
  unsigned region;

  (void) worker;
  while ((region = atomic_fetch_add (&checkpoint->next, 1)) < REGIONS) {
    struct index_builder builder;

    index_build_begin (&builder, checkpoint->index, region);
    for (uint64_t i = checkpoint->first_part[region];
         i < checkpoint->first_part[region + 1]; i++)
      load_part (checkpoint, &checkpoint->parts[i], &builder);
    index_build_end (&builder);
  }
}

double
checkpoint_load (struct checkpoint *checkpoint)
{
  const uint64_t start = clock_ns ();
  uint64_t ns;

  checkpoint->index = index_new (REGIONS);
  must (checkpoint->index != NULL, "memory");
  atomic_store (&checkpoint->next, 0);
  workers_run (workers_wanted (REGIONS, 1), load_regions, checkpoint);
  ns = clock_ns () - start;
  index_free (checkpoint->index);
  return (double) checkpoint->count * 1e9 / (double) ns;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/arith.h"
#include "eviction/trace.h"
#include "support/seed.h"

/* The disk, in caches. */
#define DISK_CAPACITIES 8

static const struct {
  const char *name, *description;
} about[] = {
#define X(name, text, description) { text, description },
  TRACES_LIST (X)
#undef X
};

const char *
trace_name (enum trace_kind kind)
{
  return about[kind].name;
}

const char *
trace_description (enum trace_kind kind)
{
  return about[kind].description;
}

/* Blocks by Zipf's law: the one of rank i as often as i^-alpha, ranks dealt
 * out at random. */
struct zipf {
  uint32_t blocks;
  double *sum;                  /* up to each rank; the last is 1 */
  uint32_t *block;              /* of each rank */
};

static struct zipf
zipf_new (uint32_t blocks, double alpha, uint64_t *random)
{
  struct zipf zipf = {
    blocks, malloc (blocks * sizeof *zipf.sum),
    malloc (blocks * sizeof *zipf.block),
  };
  double sum = 0;

  assert (zipf.sum && zipf.block);
  for (uint32_t i = 0; i < blocks; i++) {
    const uint32_t j = random_below (random, i + 1);

    sum += pow (i + 1, -alpha);
    zipf.sum[i] = sum;
    zipf.block[i] = zipf.block[j];
    zipf.block[j] = i;
  }
  for (uint32_t i = 0; i < blocks; i++)
    zipf.sum[i] /= sum;
  return zipf;
}

static void
zipf_free (struct zipf *zipf)
{
  free (zipf->sum);
  free (zipf->block);
}

static uint32_t
zipf_next (const struct zipf *zipf, uint64_t *random)
{
  const double u = (random_next (random) >> 11) * 0x1p-53;
  uint32_t low = 0, high = zipf->blocks - 1;

  while (low < high) {
    const uint32_t middle = (low + high) / 2;

    if (zipf->sum[middle] > u)
      high = middle;
    else
      low = middle + 1;
  }
  return zipf->block[low];
}

static void
make_zipf (struct trace *trace, double alpha, uint64_t *random)
{
  struct zipf zipf = zipf_new (trace->blocks, alpha, random);

  for (size_t i = 0; i < trace->length; i++)
    trace->block[i] = zipf_next (&zipf, random);
  zipf_free (&zipf);
}

/* After each 4 caches of reads a scan of 2 caches, every second request. */
static void
make_scans (struct trace *trace, uint32_t capacity, uint64_t *random)
{
  struct zipf zipf = zipf_new (trace->blocks, 0.9, random);
  uint32_t scanned = 0;

  for (size_t i = 0; i < trace->length; i++) {
    const bool is_scan = i % (8 * capacity) >= 4 * capacity && i % 2 == 0;

    trace->block[i] = is_scan ? scanned++ % trace->blocks
      : zipf_next (&zipf, random);
  }
  zipf_free (&zipf);
}

static void
make_loop (struct trace *trace, uint32_t capacity)
{
  for (size_t i = 0; i < trace->length; i++)
    trace->block[i] = i % (capacity + capacity / 5);
}

/* The hot ones move on by a twentieth of the cache with each half cache of
 * reads. */
static void
make_shifting (struct trace *trace, uint32_t capacity, uint64_t *random)
{
  struct zipf zipf = zipf_new (2 * capacity, 0.9, random);

  for (size_t i = 0; i < trace->length; i++) {
    const uint64_t shift = i / (capacity / 2) * (capacity / 20);

    trace->block[i] = (zipf_next (&zipf, random) + shift) % trace->blocks;
  }
  zipf_free (&zipf);
}

/* A start reads the same half cache in the same order, in runs of up to 64
 * blocks that lie all over the disk; then work by Zipf's law for 3 caches;
 * then a backup reads a cache full of other blocks. */
static void
make_boots (struct trace *trace, uint32_t capacity, uint64_t *random)
{
  const uint32_t start = capacity / 2, work = 3 * capacity;
  const uint32_t day = start + work + capacity;
  struct zipf zipf = zipf_new (trace->blocks, 0.8, random);
  uint32_t *boot = malloc (start * sizeof *boot);
  uint32_t left = 0, at = 0, saved = 0;

  assert (boot);
  for (uint32_t i = 0; i < start; i++, left--) {
    if (left == 0) {
      left = 1 + random_below (random, 64);
      at = random_below (random, trace->blocks - left);
    }
    boot[i] = at++;
  }
  for (size_t i = 0; i < trace->length; i++) {
    const uint32_t now = i % day;

    trace->block[i] = now < start ? boot[now]
      : now < start + work ? zipf_next (&zipf, random)
      : saved++ % trace->blocks;
  }
  free (boot);
  zipf_free (&zipf);
}

struct trace
trace_make (enum trace_kind kind, uint32_t capacity, size_t length,
            uint64_t random)
{
  struct trace trace = {
    malloc (length * sizeof *trace.block), length,
    DISK_CAPACITIES * capacity,
  };

  assert (trace.block && capacity >= 100);
  switch (kind) {
  case TRACE_zipf_07: make_zipf (&trace, 0.7, &random); break;
  case TRACE_zipf_09: make_zipf (&trace, 0.9, &random); break;
  case TRACE_zipf_11: make_zipf (&trace, 1.1, &random); break;
  case TRACE_scans: make_scans (&trace, capacity, &random); break;
  case TRACE_loop: make_loop (&trace, capacity); break;
  case TRACE_shifting: make_shifting (&trace, capacity, &random); break;
  case TRACE_boots: make_boots (&trace, capacity, &random); break;
  case TRACES_COUNT: abort ();
  }
  return trace;
}

void
trace_free (struct trace *trace)
{
  free (trace->block);
  trace->block = NULL;
}

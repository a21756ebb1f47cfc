/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/thread.h"
#include "engine/gc.h"
#include "support/small_engine.h"

#define SEGMENT_SIZE MIB

static int
make_space (struct engine *engine, uint64_t ticket, uint64_t since_ms)
{
  struct small_engine *small = (struct small_engine *) engine;
  bool evicted, written = false;
  int r;

  (void) ticket;
  (void) since_ms;
  r = gc_step (engine, &evicted);
  if (r == 0 && !evicted && engine->backend)
    r = writeback_step (small->writeback, UINT64_MAX, &written);
  return r < 0 ? r : evicted || written ? 0 : -ENOSPC;
}

struct small_engine *
small_engine_new (uint32_t segments, bool ordered, uint64_t disk_size)
{
  static uint64_t instances = 1000;
  struct small_engine *small = calloc (1, sizeof *small);
  struct geometry geometry;
  uint64_t size = (segments + 2) * SEGMENT_SIZE;

  assert_non_null (small);
  while (geometry_make (&geometry, size, SEGMENT_SIZE) < 0
         || geometry.segment_count < segments)
    size += SEGMENT_SIZE;
  small->device = memory_device_new (geometry.device_size, ordered);
  small->disk = memory_backend_new (disk_size);
  small->heads = 1;
  small->instance = ++instances;
  small->engine.options = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  return small;
}

struct small_engine *
small_engine_beside (const struct small_engine *small,
                     struct memory_device *image)
{
  struct small_engine *other = calloc (1, sizeof *other);

  assert_non_null (other);
  other->device = image;
  other->disk = memory_backend_new (small->disk->backend.size);
  memcpy (other->disk->bytes, small->disk->bytes, small->disk->backend.size);
  other->heads = small->heads;
  other->engine.options = small->engine.options;
  return other;
}

void
small_engine_free (struct small_engine *small)
{
  if (small->is_open)
    small_engine_kill (small);
  memory_device_free (small->device);
  memory_backend_free (small->disk);
  free (small);
}

static void
close_parts (struct small_engine *small)
{
  struct engine *engine = &small->engine;

  writeback_free (small->writeback);
  small->writeback = NULL;
  log_free (engine->log);
  engine->log = NULL;
  epoch_queue_destroy (&engine->queue);
  lost_destroy (&engine->lost);
  ghost_destroy (&engine->ghost);
  streams_destroy (&engine->streams);
  flights_destroy (&engine->flights);
  modes_destroy (&engine->modes);
  rate_destroy (&engine->writeback_rate);
  segment_table_close (&engine->segments);
  index_free (engine->index);
  engine->index = NULL;
  stats_free (engine->stats);
  engine->stats = NULL;
  superblock_destroy (&engine->superblock);
  pmem_close (engine->pmem);
}

static int
format_if_new (struct small_engine *small)
{
  static const uint8_t uuid[16] = "small engine";
  struct engine *engine = &small->engine;
  struct geometry geometry;
  int r;

  switch (superblock_read (&engine->superblock, engine->pmem)) {
  case SUPERBLOCK_OK:
    return 0;
  case SUPERBLOCK_REFUSED:
    return -EMEDIUMTYPE;
  default:
    break;
  }
  r = geometry_make (&geometry, engine->pmem->size, SEGMENT_SIZE);
  if (r == 0)
    r = superblock_format (&engine->superblock, engine->pmem, &geometry, uuid,
                           small->instance, segment_table_format);
  if (r == 0)
    r = superblock_bind (&engine->superblock, small->disk->backend.size, "",
                         NULL);
  return r;
}

static int
open_parts (struct small_engine *small)
{
  struct engine *engine = &small->engine;
  struct recovery_result found;
  int r;

  r = format_if_new (small);
  if (r < 0)
    return r;
  engine->reader = (struct log_reader) {
    .pmem = engine->pmem, .superblock = &engine->superblock,
  };
  engine->stats = stats_new ();
  engine->index = index_new (4);
  assert_true (engine->stats && engine->index);
  r = ghost_init (&engine->ghost, engine->superblock.geometry.device_size);
  if (r == 0)
    r = segment_table_open (&engine->segments, &engine->superblock,
                            engine->pmem, engine->stats);
  if (r == 0)
    r = engine_recover (engine, &found);
  if (r < 0)
    return r;
  const struct log_options options = {
    .pmem = engine->pmem,
    .superblock = &engine->superblock,
    .segments = &engine->segments,
    .queue = &engine->queue,
    .stats = engine->stats,
    .heads = small->heads,
    .data_crc = engine->options.data_crc,
    .sequence = found.sequence,
    .epoch = found.epoch,
  };

  r = log_new (&options, &engine->log);
  if (r == 0)
    r = writeback_new (engine, 0, &small->writeback);
  return r;
}

int
small_engine_try_open (struct small_engine *small)
{
  struct engine *engine = &small->engine;
  const struct cache_options options = engine->options;
  int r;

  assert_false (small->is_open);
  *engine = (struct engine) { .options = options };
  for (unsigned i = 0; i < SETTINGS_COUNT; i++)
    setting_put (&engine->settings, i, options.setting[i]);
  engine->pmem = memory_pmem_open (small->device);
  engine->backend = &small->disk->backend;
  engine->wait_for_space = make_space;
  setting_put (&engine->settings, SETTING_gc_percent, CACHE_DEFAULT_GC_PERCENT);
  epoch_queue_init (&engine->queue);
  lost_init (&engine->lost);
  streams_init (&engine->streams);
  flights_init (&engine->flights);
  modes_init (&engine->modes);
  rate_init (&engine->writeback_rate, now_ms ());
  r = open_parts (small);
  if (r < 0)
    close_parts (small);
  else
    small->is_open = true;
  return r;
}

void
small_engine_open (struct small_engine *small)
{
  assert_int_equal (small_engine_try_open (small), 0);
}

void
small_engine_kill (struct small_engine *small)
{
  assert_true (small->is_open);
  close_parts (small);
  small->is_open = false;
}

void
small_engine_restart (struct small_engine *small)
{
  seal (small);
  small_engine_kill (small);
  small_engine_open (small);
}

void
small_engine_use (struct small_engine *small, struct memory_device *image)
{
  if (small->is_open)
    small_engine_kill (small);
  memory_device_free (small->device);
  small->device = image;
}

/* --- content ---------------------------------------------------------- */

static inline uint8_t
byte_of (uint64_t at, unsigned version)
{
  /* Never zero, so that a hole in the disk is noticed. */
  return version == 0 ? 0
    : 0x80 | ((version * 41 + at * 7 + (at >> 7) * 3 + (at >> 12) * 13)
              & 0x7f);
}

void
fill_version (void *buf, uint64_t start, uint64_t length, unsigned version)
{
  uint8_t *p = buf;

  for (uint64_t i = 0; i < length; i++)
    p[i] = byte_of (start + i, version);
}

bool
is_version (const void *buf, uint64_t start, uint64_t length,
            unsigned version)
{
  const uint8_t *p = buf;

  for (uint64_t i = 0; i < length; i++)
    if (p[i] != byte_of (start + i, version))
      return false;
  return true;
}

void
put (struct small_engine *small, uint64_t start, uint64_t length,
     unsigned version)
{
  uint8_t *buf = malloc (length);

  assert_non_null (buf);
  fill_version (buf, start, length, version);
  assert_int_equal (engine_write (&small->engine, buf,
                                  (struct range) { start, length }, false), 0);
  free (buf);
}

void
flush (struct small_engine *small)
{
  assert_int_equal (log_flush (small->engine.log), 0);
}

void
write_back (struct small_engine *small)
{
  bool worked = true;

  while (worked)
    assert_int_equal (writeback_step (small->writeback, UINT64_MAX, &worked),
                      0);
}

void
seal (struct small_engine *small)
{
  unsigned sealed;

  flush (small);
  log_retire_heads (small->engine.log);
  assert_int_equal (log_seal_retired (small->engine.log, &sealed), 0);
}

bool
evict_one (struct small_engine *small)
{
  struct engine *engine = &small->engine;
  const uint64_t before = stats_get (engine->stats, STAT_evicted_segments);
  const uint64_t percent = setting_get (&engine->settings,
                                        SETTING_gc_percent);
  bool worked;

  setting_put (&engine->settings, SETTING_gc_percent, 0);
  assert_int_equal (gc_step (engine, &worked), 0);
  setting_put (&engine->settings, SETTING_gc_percent, percent);
  return stats_get (engine->stats, STAT_evicted_segments) > before;
}

int
get (struct small_engine *small, uint64_t start, uint64_t length, void *buf)
{
  memset (buf, 0xee, length);
  return engine_read (&small->engine, buf, (struct range) { start, length });
}

void
expect (struct small_engine *small, uint64_t start, uint64_t length,
        unsigned version)
{
  uint8_t *buf = malloc (length);

  assert_non_null (buf);
  assert_int_equal (get (small, start, length, buf), 0);
  if (!is_version (buf, start, length, version))
    fail_msg ("at %ju+%ju: not version %u (first byte %u, version 1: %u)",
              (uintmax_t) start, (uintmax_t) length, version, buf[0],
              byte_of (start, 1));
  free (buf);
}

void
expect_on_disk (struct small_engine *small, uint64_t start, uint64_t length,
                unsigned version)
{
  if (!is_version (small->disk->bytes + start, start, length, version))
    fail_msg ("disk at %ju+%ju: not version %u", (uintmax_t) start,
              (uintmax_t) length, version);
}

bool
is_cached (struct small_engine *small, uint64_t start, uint64_t length)
{
  while (length > 0) {
    enum map_kind kind;
    uint64_t n;

    engine_map (&small->engine, (struct range) { start, length }, &kind, &n);
    if (kind == MAP_HOLE)
      return false;
    start += n;
    length -= n;
  }
  return true;
}

struct extent
extent_at (struct small_engine *small, uint64_t start)
{
  const struct range range = { start, 1 };
  struct index *index = small->engine.index;
  struct index_cursor cursor;
  struct piece piece;

  index_lock (index, range);
  index_walk_locked (&cursor, index, range, false);
  assert_true (index_next_piece (&cursor, &piece));
  index_unlock (index, range);
  assert_false (piece.is_hole);
  return piece.extent;
}

uint32_t
segment_of (struct small_engine *small, uint64_t start)
{
  const struct geometry *g = &small->engine.superblock.geometry;

  return (extent_at (small, start).record_at - g->first_segment_at)
    / g->segment_size;
}

void
rot (struct small_engine *small, uint64_t start)
{
  const struct extent extent = extent_at (small, start);

  assert_int_equal (extent.kind, EXTENT_DATA);
  small->device->bytes[extent.record_at + extent.delta] ^= 0x10;
}

uint64_t
counted (struct small_engine *small, enum stats_counter which)
{
  return stats_get (small->engine.stats, which);
}

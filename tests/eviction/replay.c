/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cache.h"
#include "engine/format.h"
#include "eviction/replay.h"
#include "support/memory_pmem.h"

#define SEGMENT_SIZE (UINT64_C (1) << 20)

struct replay
replay_default (uint32_t segments)
{
  struct replay replay = { segments, SETTINGS_DEFAULT };

  replay.setting[SETTING_gc_percent] = CACHE_MAX_GC_PERCENT;
  return replay;
}

uint32_t
replay_capacity (const struct replay *replay)
{
  const uint32_t used = replay->segments
    * replay->setting[SETTING_gc_percent] / 100;

  return used * (SEGMENT_SIZE / REPLAY_BLOCK);
}

static int
read_zeros (struct backend *b, void *buf, size_t length, uint64_t offset)
{
  (void) b;
  (void) offset;
  memset (buf, 0, length);
  return 0;
}

struct replay_result
replay_run (const struct replay *replay, const struct trace *trace,
            size_t warm_up)
{
  static const struct backend_ops ops = { .pread = read_zeros };
  static uint8_t buf[REPLAY_BLOCK];
  struct backend disk = {
    .ops = &ops,
    .size = (uint64_t) trace->blocks * REPLAY_BLOCK,
    .max_request = 1 << 20,
    .max_zero = 1 << 20,
  };
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  struct memory_device *device;
  struct replay_result before = { 0 }, after = { 0 };
  struct cache_status status;
  struct cache *cache;
  uint64_t size = cache_min_device_size (SEGMENT_SIZE);
  int r;

  size += (replay->segments - CACHE_MIN_SEGMENTS) * SEGMENT_SIZE;
  device = memory_device_new (size, true);
  options.segment_size = SEGMENT_SIZE;
  options.data_crc = false;
  options.heads = 1;
  options.seed = 1;
  memcpy (options.setting, replay->setting, sizeof options.setting);
  r = cache_open (&options, memory_pmem_open (device), &cache);
  assert (r == 0);
  cache_get_status (cache, &status);
  assert (status.segments_total == replay->segments);
  r = cache_attach (cache, &disk, "");
  assert (r == 0);

  for (size_t i = 0; i < trace->length; i++) {
    struct stats *stats = cache_stats (cache);
    struct range range = {
      (uint64_t) trace->block[i] * REPLAY_BLOCK, REPLAY_BLOCK,
    };

    if (i == warm_up || i + 1 == trace->length) {
      before = after;
      after = (struct replay_result) {
        .hits = stats_get (stats, STAT_read_hit_bytes) / REPLAY_BLOCK,
        .filled = stats_get (stats, STAT_fill_bytes) / REPLAY_BLOCK,
        .relocated = stats_get (stats, STAT_relocated_bytes) / REPLAY_BLOCK,
      };
    }
    r = cache_read (cache, buf, range);
    assert (r == 0);
    /* As its thread would. */
    while (cache_step_eviction (cache))
      ;
  }
  after.hits -= before.hits;
  after.filled -= before.filled;
  after.relocated -= before.relocated;
  cache_stop (cache, false, 0);
  cache_close (cache);
  memory_device_free (device);
  return after;
}

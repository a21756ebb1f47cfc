/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/reports.h"
#include "support/whole_cache.h"

#define SEGMENT_SIZE (UINT64_C (1) << 20)

struct memory_device *device;
struct memory_backend *disk;
struct cache_options options;
struct cache *cache;
uint8_t buf[4 << 20];

void
set_up_cache (uint64_t device_size, uint64_t disk_size)
{
  reports_collect ();
  device = memory_device_new (device_size, true);
  disk = memory_backend_new (disk_size);
  options = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  options.segment_size = SEGMENT_SIZE;
  options.setting[SETTING_writeback_delay] = NEVER;
}

int
tear_down_cache (void **state)
{
  (void) state;
  close_cache ();
  memory_device_free (device);
  memory_backend_free (disk);
  return 0;
}

void
use_four_segments (bool ordered)
{
  memory_device_free (device);
  device = memory_device_new (cache_min_device_size (SEGMENT_SIZE), ordered);
}

int
try_open (void)
{
  struct pmem *pmem = memory_pmem_open (device);
  int r = cache_open (&options, pmem, &cache);

  if (r < 0) {
    pmem_close (pmem);
    cache = NULL;
  }
  return r;
}

void
open_cache (bool threads)
{
  assert_int_equal (try_open (), 0);
  if (threads)
    assert_int_equal (cache_start (cache), 0);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
}

void
close_cache (void)
{
  cache_close (cache);
  cache = NULL;
}

int
try_write (uint64_t start, uint64_t length, uint8_t byte, bool fua)
{
  assert_true (length <= sizeof buf);
  memset (buf, byte, length);
  return cache_write (cache, buf, (struct range) { start, length }, fua);
}

void
write_bytes (uint64_t start, uint64_t length, uint8_t byte)
{
  assert_int_equal (try_write (start, length, byte, false), 0);
}

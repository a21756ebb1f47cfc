/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "bench/stand.h"
#include "pmem/device.h"

#define FILL_BLOCK 4096
#define HOUR_MS 3600000

/* --- disks --------------------------------------------------------------- */

struct disk {
  struct backend backend;       /* first */
  uint8_t *bytes;
  int fd;
};

static int
memory_pread (struct backend *b, void *buf, size_t length, uint64_t at)
{
  memcpy (buf, ((struct disk *) b)->bytes + at, length);
  return 0;
}

static int
memory_pwrite (struct backend *b, const void *buf, size_t length, uint64_t at)
{
  memcpy (((struct disk *) b)->bytes + at, buf, length);
  return 0;
}

static int
memory_flush (struct backend *b)
{
  return 0;
}

static const struct backend_ops memory_ops = {
  .pread = memory_pread, .pwrite = memory_pwrite, .flush = memory_flush,
};

static int
file_pread (struct backend *b, void *buf, size_t length, uint64_t at)
{
  return pread (((struct disk *) b)->fd, buf, length, at)
    == (ssize_t) length ? 0 : -EIO;
}

static int
file_pwrite (struct backend *b, const void *buf, size_t length, uint64_t at)
{
  return pwrite (((struct disk *) b)->fd, buf, length, at)
    == (ssize_t) length ? 0 : -EIO;
}

static int
file_flush (struct backend *b)
{
  return fdatasync (((struct disk *) b)->fd) == 0 ? 0 : -errno;
}

static const struct backend_ops file_ops = {
  .pread = file_pread, .pwrite = file_pwrite, .flush = file_flush,
};

static struct disk *
new_disk (const struct backend_ops *ops, uint64_t size)
{
  struct disk *disk = calloc (1, sizeof *disk);

  must (disk != NULL, "calloc");
  disk->fd = -1;
  disk->backend = (struct backend) {
    .ops = ops,
    .size = size,
    .can_write = true,
    .max_request = 32 << 20,    /* as the adapter has it */
    .max_zero = 32 << 20,
  };
  return disk;
}

struct disk *
disk_new (uint64_t size)
{
  struct disk *disk = new_disk (&memory_ops, size);

  disk->bytes = mmap (NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  must (disk->bytes != MAP_FAILED, "mmap");
  return disk;
}

struct disk *
disk_new_file (const char *directory, uint64_t size)
{
  struct disk *disk = new_disk (&file_ops, size);
  char path[4096];

  snprintf (path, sizeof path, "%s/disk.XXXXXX", directory);
  disk->fd = mkstemp (path);
  must (disk->fd >= 0 && unlink (path) == 0
        && ftruncate (disk->fd, size) == 0, "a file for the disk");
  return disk;
}

void
disk_free (struct disk *disk)
{
  if (disk->bytes)
    munmap (disk->bytes, disk->backend.size);
  if (disk->fd >= 0)
    close (disk->fd);
  free (disk);
}

int
disk_fd (const struct disk *disk)
{
  return disk->fd;
}

/* --- the cache ----------------------------------------------------------- */

static void
leave_open (struct pmem *pmem)
{
}

/* The device outlives the cache, so that its pages are mapped when the time
 * counts: who has had a cache for a while has them mapped, too. */
static void
open_device (struct stand *stand)
{
  const struct device_options device = { .path = stand->path };
  const int fd = open (stand->path, O_RDWR | O_CREAT | O_EXCL, 0600);
  uint8_t byte;

  must (fd >= 0
        && posix_fallocate (fd, 0, stand->options.device_size) == 0,
        "a file for the cache device");
  close (fd);
  must (device_open (&device, &stand->pmem) == 0, "opening the cache device");
  unlink (stand->path);         /* whatever happens, its memory comes back */
  for (uint64_t at = 0; at < stand->pmem->size; at += 4096)
    must (pmem_read (stand->pmem, &byte, at, 1) == 0, "reading the device");
  stand->device_ops = stand->pmem->ops;
  stand->ops = *stand->device_ops;
  stand->ops.close = leave_open;
  stand->pmem->ops = &stand->ops;
}

static void
close_device (struct stand *stand)
{
  stand->pmem->ops = stand->device_ops;
  pmem_close (stand->pmem);
}

/* gc_percent: unless nothing is written back. */
static void
open_cache (struct stand *stand, enum cache_format format, bool threads,
            unsigned gc_percent)
{
  const struct stand_options *o = &stand->options;
  struct cache_options options = CACHE_OPTIONS_DEFAULT;

  options.format = format;
  options.data_crc = o->checksum;
  options.setting[SETTING_gc_percent] = gc_percent;
  if (!o->write_back) {
    options.setting[SETTING_writeback_delay] = HOUR_MS;
    options.setting[SETTING_dirty_high] = 100;
    options.setting[SETTING_dirty_low] = 100;
    options.setting[SETTING_gc_percent] = CACHE_MAX_GC_PERCENT;
  }
  must (cache_open (&options, stand->pmem, &stand->cache) == 0
        && (!threads || cache_start (stand->cache) == 0)
        && cache_attach (stand->cache, &stand->disk->backend, "") == 0,
        "opening the cache");
}

struct stand *
stand_new (const struct stand_options *options)
{
  struct stand *stand = calloc (1, sizeof *stand);

  must (stand != NULL, "calloc");
  stand->options = *options;
  snprintf (stand->path, sizeof stand->path, "%s/pcache-bench.%d.%p",
            options->directory, (int) getpid (), (void *) stand);
  stand->disk = options->disk_directory
    ? disk_new_file (options->disk_directory, options->disk_size)
    : disk_new (options->disk_size);
  open_device (stand);
  open_cache (stand, CACHE_FORMAT_AUTO, true, CACHE_DEFAULT_GC_PERCENT);
  return stand;
}

void
stand_close (struct stand *stand, bool drain)
{
  must (cache_stop (stand->cache, drain, HOUR_MS) == 0, "cache_stop");
  cache_detach (stand->cache);
  cache_close (stand->cache);
  stand->cache = NULL;
}

double
stand_evict (struct stand *stand, unsigned segments)
{
  uint64_t ns, delay;
  int delays;

  stand_close (stand, true);
  open_cache (stand, CACHE_FORMAT_NEVER, false, 0);
  delays = run_delay_open ();
  delay = run_delay_ns (delays);
  ns = clock_ns ();
  for (unsigned i = 0; i < segments; i++)
    must (cache_step_eviction (stand->cache), "an eviction");
  ns = clock_ns () - ns;
  delay = run_delay_ns (delays) - delay;
  if (delays >= 0)
    close (delays);
  must (stats_get (cache_stats (stand->cache), STAT_evicted_segments)
        == segments, "an eviction");
  stand_close (stand, false);
  open_cache (stand, CACHE_FORMAT_NEVER, true, CACHE_DEFAULT_GC_PERCENT);
  return (double) (ns - MIN (ns, delay)) / segments;
}

void
stand_empty (struct stand *stand)
{
  stand_close (stand, false);
  open_cache (stand, CACHE_FORMAT_FORCE, true, CACHE_DEFAULT_GC_PERCENT);
}

void
stand_free (struct stand *stand)
{
  if (stand->cache)
    stand_close (stand, false);
  close_device (stand);
  disk_free (stand->disk);
  free (stand);
}

/* --- requests ------------------------------------------------------------ */

static inline void
stand_write (void *opaque, const uint8_t *buf, uint64_t at, uint32_t length,
             bool checksum)
{
  struct stand *stand = opaque;

  must (cache_write (stand->cache, buf, (struct range) { at, length }, false)
        == 0, "a write");
}

static inline void
stand_read (void *opaque, uint8_t *buf, uint64_t at, uint32_t length,
            bool checksum)
{
  struct stand *stand = opaque;

  must (cache_read (stand->cache, buf, (struct range) { at, length }) == 0,
        "a read");
}

static inline void
stand_flush (void *opaque)
{
  struct stand *stand = opaque;

  must (cache_flush (stand->cache) == 0, "a flush");
}

static void *
stand_main (void *opaque)
{
  static const struct target target = { stand_write, stand_read, stand_flush };

  worker_run (opaque, &target);
  return NULL;
}

double
stand_run (struct stand *stand, const struct workload *workload)
{
  must (workload->working_set <= stand->options.disk_size,
        "a working set that large");
  return workload_threads (workload, "stand-load", stand_main, stand);
}

void
stand_fill (struct stand *stand, uint64_t start, uint64_t length)
{
  uint8_t buf[FILL_BLOCK];

  memset (buf, 0x5c, sizeof buf);
  for (uint64_t at = start; at < start + length; at += FILL_BLOCK) {
    memcpy (buf, &at, sizeof at);
    stand_write (stand, buf, at, FILL_BLOCK, true);
  }
}

void
stand_read_all (struct stand *stand, uint64_t length)
{
  uint8_t buf[FILL_BLOCK];

  for (uint64_t at = 0; at < length; at += FILL_BLOCK)
    stand_read (stand, buf, at, FILL_BLOCK, true);
}

struct cache_status
stand_status (struct stand *stand)
{
  struct cache_status status;

  cache_get_status (stand->cache, &status);
  return status;
}

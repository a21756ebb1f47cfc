/* SPDX-License-Identifier: BSD-3-Clause */

/* writeback: what is dirty, to a file or an NBD server, without nbdkit.
 *
 * The engine itself does it, with the target as its backing store: epoch by
 * epoch, verified, flushed.  What the engine stores meanwhile stays in memory
 * (pmem/overlay.h), and the device is opened for reading only: whether TARGET is the
 * cache's backing store, or a copy, is not known, and if a device said "written
 * back" because of a copy, what was only there would be gone.  With --mark-clean
 * the user says that it is, and the engine works on the device itself, with the
 * same order of stores as when nbdkit writes back. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "pmem/device.h"
#include "pmem/overlay.h"
#include "tool/command.h"
#include "tool/offline.h"
#include "tool/progress.h"
#include "tool/target.h"

#define FOR_EVER_MS (UINT64_C (1) << 40)

struct request {
  const char *device, *target;
  bool dry_run, mark_clean, rescue;
  enum writeback_order order;
};

/* What is known before anything is written. */
struct forecast {
  uint64_t device_bytes;        /* that the cache uses */
  uint64_t disk_bytes, dirty_bytes, lost_bytes;
  bool incomplete;              /* damage may hide dirty data */
  struct epoch_use *epochs;
  size_t epoch_count;
};

static int
open_device (const struct request *request, struct pmem **pmem)
{
  const struct device_options options = { .path = request->device };
  struct pmem *below;
  int r;

  if (request->mark_clean && !request->dry_run)
    return device_open (&options, pmem);
  r = device_open_read_only (request->device, &below);
  if (r < 0)
    return r;
  r = overlay_open (below, true, pmem);
  if (r < 0)
    pmem_close (below);
  return r;
}

static uint64_t
lost_bytes (struct snapshot *snap)
{
  struct index_cursor cursor;
  struct extent extent;
  uint64_t bytes = 0;

  snapshot_walk_start (&cursor, snap);
  while (snapshot_walk_next (&cursor, &extent))
    if (extent.kind == EXTENT_LOST)
      bytes += extent.range.length;
  return bytes;
}

/* 0, or the exit status. */
static int
look (const struct request *request, struct pmem *pmem,
      struct forecast *forecast)
{
  enum snapshot_verdict verdict;
  struct snapshot snap;
  int status = 0, r = snapshot_read (&snap, pmem, &verdict);

  if (r == 0 && verdict == SNAPSHOT_NO_CACHE)
    status = EXIT_NO_CACHE;
  else if (r == 0 && verdict == SNAPSHOT_RESCUE && !request->rescue) {
    report (REPORT_ERROR, "damage may hide dirty data, so what is found may not "
            "be the newest; nothing was written: --rescue writes what is left");
    status = EXIT_DIRTY_DAMAGED;
  }
  else if (r == 0) {
    forecast->incomplete = verdict == SNAPSHOT_RESCUE;
    forecast->device_bytes = snap.engine.superblock.geometry.device_size;
    forecast->disk_bytes = snap.engine.superblock.bound
      ? snap.engine.superblock.backing_size : 0;
    forecast->dirty_bytes = epoch_queue_dirty_bytes (&snap.engine.queue);
    forecast->lost_bytes = lost_bytes (&snap);
    r = snapshot_epochs (&snap, &forecast->epochs, &forecast->epoch_count);
  }
  if (r < 0) {
    report (REPORT_ERROR, "cannot be read: %s", strerror (-r));
    status = EXIT_FAILED;
  }
  snapshot_close (&snap);
  return status;
}

static void
show_progress (void *opaque, uint64_t bytes)
{
  progress_show (opaque, bytes);
}

static void
print_epochs (const struct forecast *forecast)
{
  char size[SIZE_TEXT];

  for (size_t i = 0; i < forecast->epoch_count; i++)
    printf ("epoch %" PRIu64 ": %" PRIu64 " records, %s\n",
            forecast->epochs[i].epoch, forecast->epochs[i].records,
            size_text (size, forecast->epochs[i].bytes));
}

static int
tell (const struct request *request, struct target *target,
      struct engine *engine, const struct forecast *forecast, int error)
{
  const uint64_t lost = forecast->lost_bytes
    + stats_get (engine->stats, STAT_lost_bytes);
  char size[SIZE_TEXT];

  printf ("%s %s in %" PRIu64 " of %zu epochs\n",
          request->dry_run ? "would write" : "wrote",
          size_text (size, target_bytes (target)),
          stats_get (engine->stats, STAT_writeback_epochs),
          forecast->epoch_count);
  if (error < 0) {
    report (REPORT_ERROR, "write-back stopped: %s; what was not written is "
            "dirty as before, and it can be tried again", strerror (-error));
    return EXIT_FAILED;
  }
  if (lost > 0) {
    report (REPORT_ERROR, "%s of dirty data could not be read and %s",
            size_text (size, lost), request->dry_run
            ? "would not be written" : "were not written");
    return EXIT_DIRTY_DAMAGED;
  }
  if (forecast->incomplete) {
    report (REPORT_ERROR, "what the damage hides is missing");
    return EXIT_DIRTY_DAMAGED;
  }
  if (!request->dry_run && !request->mark_clean)
    puts ("the cache device was not changed: it still calls this dirty");
  return EXIT_SUCCESS;
}

/* PMEM is the cache's, or closed. */
static int
write_back (const struct request *request, struct pmem *pmem,
            struct target *target, const struct forecast *forecast)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  char export[CACHE_MAX_EXPORT_NAME + 1];
  struct progress progress;
  struct cache *cache;
  int status, r, s;

  options.format = CACHE_FORMAT_NEVER;
  options.rescue = request->rescue;
  options.checkpoint = false;   /* what a tool tells comes from the log */
  options.setting[SETTING_writeback_order] = request->order;
  options.heads = 1;
  /* It is not for us to let the cache grow. */
  pmem->size = forecast->device_bytes;
  r = cache_open (&options, pmem, &cache);
  if (r < 0) {
    pmem_close (pmem);
    return EXIT_FAILED;
  }
  cache_get_export (cache, export);
  r = cache_attach (cache, target_backend (target), export);
  progress_begin (&progress, "writing back", forecast->dirty_bytes);
  target_watch (target, show_progress, &progress);
  if (r == 0)
    r = cache_drain (cache, FOR_EVER_MS);
  progress_end (&progress);
  cache_detach (cache);
  s = cache_stop (cache, false, 0);
  status = tell (request, target, cache_engine (cache), forecast,
                 r < 0 ? r : s);
  cache_close (cache);
  return status;
}

static int
writeback (const struct request *request)
{
  struct forecast forecast = { 0 };
  struct target *target = NULL;
  struct pmem *pmem;
  int status;

  messages_begin (request->device);
  if (open_device (request, &pmem) < 0)
    return EXIT_FAILED;
  status = look (request, pmem, &forecast);
  if (status == 0 && request->target
      && target_open (request->target, forecast.disk_bytes, &target) < 0)
    status = EXIT_FAILED;
  if (status == 0 && request->dry_run) {
    print_epochs (&forecast);
    target_close (target);
    target = NULL;
    if (target_open_nothing (forecast.disk_bytes, &target) < 0)
      status = EXIT_FAILED;
  }
  if (status != 0 || forecast.disk_bytes == 0) {
    if (status == 0)
      puts ("the cache was never used: there is nothing to write");
    pmem_close (pmem);
  }
  else
    status = write_back (request, pmem, target, &forecast);
  target_close (target);
  free (forecast.epochs);
  return status;
}

static int
run (int argc, char *argv[])
{
  static const struct option options[] = {
    { "dry-run", no_argument, NULL, 'n' },
    { "mark-clean", no_argument, NULL, 'm' },
    { "order", required_argument, NULL, 'o' },
    { "rescue", no_argument, NULL, 'r' },
    { NULL },
  };
  struct request request = { .order = WRITEBACK_STRICT };
  int c;

  while ((c = next_option (argc, argv, options)) != -1)
    switch (c) {
    case 'n': request.dry_run = true; break;
    case 'm': request.mark_clean = true; break;
    case 'r': request.rescue = true; break;
    case 'o':
      if (strcmp (optarg, "epoch") == 0)
        request.order = WRITEBACK_STRICT;
      else if (strcmp (optarg, "batch") == 0)
        request.order = WRITEBACK_BATCH;
      else
        return usage_error ("writeback: --order is epoch or batch, not %s",
                            optarg);
      break;
    default: return EXIT_USAGE;
    }
  if (argc - optind != 2 && !(request.dry_run && argc - optind == 1))
    return usage_error ("writeback: give DEVICE and TARGET");
  request.device = argv[optind];
  request.target = argc - optind == 2 ? argv[optind + 1] : NULL;
  return writeback (&request);
}

const struct command writeback_command = {
  "writeback", "[--dry-run] [--mark-clean] [--order=epoch|batch] [--rescue] "
  "DEVICE TARGET",
  "write what is dirty to an image file, a block device or an NBD URI", run,
};

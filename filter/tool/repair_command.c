/* SPDX-License-Identifier: BSD-3-Clause */

/* First on an overlay: that tells what would be done, and what of the device would
 * change.  With --yes that is saved, and then the same is done on the device. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "engine/superblock.h"
#include "pmem/device.h"
#include "pmem/overlay.h"
#include "tool/backup.h"
#include "tool/command.h"
#include "tool/offline.h"
#include "tool/repair.h"

struct request {
  const char *device, *backup, *restore;
  bool yes, drop;
};

static void
say_plan (const char *line)
{
  puts (line);
}

static int
status_of (const struct repair *repair, bool yes)
{
  if (repair->left > 0)
    return EXIT_DIRTY_DAMAGED;
  if (repair->left_harmless > 0 || (!yes && repair->steps > 0))
    return repair->drops > 0 && !yes ? EXIT_DIRTY_DAMAGED : EXIT_DAMAGED;
  return EXIT_SUCCESS;
}

/* In the current directory; from malloc. */
static char *
default_backup (const char *device)
{
  CLEANUP_FREE char *copy = strdup (device);
  char date[32], *name;
  const time_t now = time (NULL);
  struct tm tm;

  if (copy == NULL || gmtime_r (&now, &tm) == NULL
      || strftime (date, sizeof date, "%Y%m%dT%H%M%SZ", &tm) == 0
      || asprintf (&name, "%s.pcache-repair-%s", basename (copy), date) < 0)
    return NULL;
  return name;
}

/* Segments are not in it: what a repair writes there was free. */
static int
save_backup (const struct request *request, struct pmem *pmem,
             struct pmem *overlay)
{
  CLEANUP_FREE char *own = request->backup ? NULL
    : default_backup (request->device);
  const char *path = request->backup ? request->backup : own;
  struct superblock sb;
  uint64_t end = 0;
  int r;

  if (path == NULL)
    return -ENOMEM;
  if (superblock_read (&sb, pmem) == SUPERBLOCK_OK)
    end = sb.geometry.first_segment_at;
  superblock_destroy (&sb);
  r = backup_save (path, pmem, overlay, end);
  if (r < 0)
    report (REPORT_ERROR, "%s: what would be changed cannot be saved: %s; "
            "nothing was changed", path, strerror (-r));
  else
    printf ("saved what is changed to %s\n", path);
  return r;
}

static int
do_repair (const struct request *request, struct pmem *pmem,
           struct pmem *overlay)
{
  struct repair repair = { .drop = request->drop };
  int r = save_backup (request, pmem, overlay);

  if (r < 0)
    return EXIT_FAILED;
  r = repair_run (&repair, pmem);
  if (r < 0) {
    report (REPORT_ERROR, "the repair stopped after %u steps: %s",
            repair.steps, strerror (-r));
    return EXIT_FAILED;
  }
  puts ("repaired");
  return status_of (&repair, true);
}

static int
repair (const struct request *request, struct pmem *pmem)
{
  struct repair plan = { .drop = request->drop, .say = say_plan };
  struct pmem *overlay;
  int status, r = overlay_open (pmem, false, &overlay);

  if (r < 0)
    return EXIT_FAILED;
  r = repair_run (&plan, overlay);
  if (r < 0) {
    report (REPORT_ERROR, "cannot be repaired: %s", strerror (-r));
    status = EXIT_FAILED;
  }
  else if (plan.steps == 0) {
    puts (plan.left + plan.left_harmless > 0 ? "nothing can be repaired"
          : "nothing to repair in the metadata");
    status = status_of (&plan, false);
  }
  else if (!request->yes) {
    puts ("nothing was changed: --yes does this");
    status = status_of (&plan, false);
  }
  else
    status = do_repair (request, pmem, overlay);
  pmem_close (overlay);
  return status;
}

static int
open_device (const struct request *request, struct pmem **pmem)
{
  const struct device_options options = { .path = request->device };

  return request->yes ? device_open (&options, pmem)
    : device_open_read_only (request->device, pmem);
}

static int
run_request (const struct request *request)
{
  struct pmem *pmem;
  int status;

  messages_begin (request->device);
  if (open_device (request, &pmem) < 0)
    return EXIT_FAILED;
  if (request->restore) {
    status = backup_restore (request->restore, pmem) < 0 ? EXIT_FAILED
      : EXIT_SUCCESS;
    if (status == EXIT_SUCCESS)
      printf ("put back what was saved in %s\n", request->restore);
  }
  else
    status = repair (request, pmem);
  pmem_close (pmem);
  return status;
}

static int
run (int argc, char *argv[])
{
  static const struct option options[] = {
    { "backup", required_argument, NULL, 'b' },
    { "drop-damaged", no_argument, NULL, 'd' },
    { "restore", required_argument, NULL, 'r' },
    { "yes", no_argument, NULL, 'y' },
    { NULL },
  };
  struct request request = { 0 };
  int c;

  while ((c = next_option (argc, argv, options)) != -1)
    switch (c) {
    case 'b': request.backup = optarg; break;
    case 'd': request.drop = true; break;
    case 'r': request.restore = optarg; break;
    case 'y': request.yes = true; break;
    default: return EXIT_USAGE;
    }
  if (argc - optind != 1)
    return usage_error ("repair: give one DEVICE");
  if (request.restore && (request.backup || request.drop))
    return usage_error ("repair: --restore goes with --yes only");
  if (request.restore && !request.yes)
    return usage_error ("repair: --restore changes the device: add --yes");
  request.device = argv[optind];
  return run_request (&request);
}

const struct command repair_command = {
  "repair", "[--yes] [--drop-damaged] [--backup=FILE] [--restore=FILE] DEVICE",
  "say how damage can be repaired; --yes does it", run,
};

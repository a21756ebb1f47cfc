/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>

#include "hostile/look.h"
#include "pmem/overlay.h"
#include "support/reports.h"
#include "tool/check.h"
#include "tool/picture.h"
#include "tool/repair.h"

#define must(what) do { if (!(what)) broken (#what, __LINE__); } while (0)

static void
broken (const char *what, int line)
{
  fprintf (stderr, "look.c:%d: %s\n%s%s", line, what,
           reports_text (REPORT_ERROR), reports_text (REPORT_WARNING));
  abort ();
}

static void
draw (struct snapshot *snapshot)
{
  size_t length = 0;
  char *text = NULL;
  FILE *file = open_memstream (&text, &length);

  must (file);
  (void) picture_write (file, snapshot, "<device> & more");
  fclose (file);
  must (length < 2 << 20);
  free (text);
}

static enum snapshot_verdict
look (struct pmem *pmem)
{
  enum snapshot_verdict verdict;
  struct snapshot snapshot;
  struct check_result result;

  if (snapshot_read (&snapshot, pmem, &verdict) < 0)
    verdict = SNAPSHOT_NO_CACHE;
  else if (verdict != SNAPSHOT_NO_CACHE) {
    (void) check_snapshot (&snapshot, NULL, &result);
    check_free (&result);
    draw (&snapshot);
  }
  snapshot_close (&snapshot);
  return verdict;
}

static void
repair (struct pmem *pmem, bool drop)
{
  struct repair repair = { .drop = drop };
  struct pmem *overlay;
  int r;

  must (overlay_open (pmem, false, &overlay) == 0);
  r = repair_run (&repair, overlay);
  if (r == 0 && repair.left == 0)
    must (look (overlay) == SNAPSHOT_OK);
  if (r == 0 && !drop)
    must (repair.drops == 0);
  pmem_close (overlay);
}

void
look_at (struct memory_device *device)
{
  const unsigned copies = device->copies;
  struct pmem *pmem = memory_pmem_open (device);

  reports_collect ();
  if (look (pmem) != SNAPSHOT_NO_CACHE) {
    repair (pmem, false);
    repair (pmem, true);
  }
  must (device->copies == copies);
  pmem_close (pmem);
}

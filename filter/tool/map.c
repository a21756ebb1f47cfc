/* SPDX-License-Identifier: BSD-3-Clause */

/* map: which ranges of the disk the cache has. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/report.h"
#include "tool/command.h"
#include "tool/offline.h"
#include "tool/picture.h"

struct run {
  struct range range;
  enum extent_kind kind;
  bool dirty;
};

static const char *
state_name (const struct run *run)
{
  return run->kind == EXTENT_LOST ? "lost" : run->dirty ? "dirty" : "clean";
}

static void
print_run (const struct run *run, bool json, bool first)
{
  if (json)
    printf ("%s{ \"offset\": %" PRIu64 ", \"length\": %" PRIu64
            ", \"kind\": \"%s\", \"state\": \"%s\" }", first ? "\n" : ",\n",
            run->range.start, run->range.length, extent_kind_name (run->kind),
            state_name (run));
  else
    printf ("%" PRIu64 " %" PRIu64 " %s %s\n", run->range.start,
            run->range.length, extent_kind_name (run->kind),
            state_name (run));
}

/* Neighbours that say the same are one run. */
static void
print_map (struct snapshot *snap, bool json)
{
  struct index_cursor cursor;
  struct extent extent;
  struct run run = { 0 };
  bool first = true;

  if (json)
    putchar ('[');
  snapshot_walk_start (&cursor, snap);
  while (snapshot_walk_next (&cursor, &extent)) {
    const bool dirty = snapshot_is_dirty (snap, &extent);

    if (run.range.length > 0 && range_end (run.range) == extent.range.start
        && run.kind == extent.kind && run.dirty == dirty) {
      run.range.length += extent.range.length;
      continue;
    }
    if (run.range.length > 0) {
      print_run (&run, json, first);
      first = false;
    }
    run = (struct run) { extent.range, extent.kind, dirty };
  }
  if (run.range.length > 0)
    print_run (&run, json, first);
  if (json)
    puts ("\n]");
}

static int
draw (struct snapshot *snap, const char *device, const char *path)
{
  FILE *file = fopen (path, "w");
  int r;

  if (file == NULL) {
    fprintf (stderr, "pcachectl: %s: %s\n", path, strerror (errno));
    return EXIT_FAILED;
  }
  r = picture_write (file, snap, device);
  if (fclose (file) != 0 && r == 0)
    r = -errno;
  if (r < 0)
    fprintf (stderr, "pcachectl: %s: %s\n", path, strerror (-r));
  return r < 0 ? EXIT_FAILED : EXIT_SUCCESS;
}

static int
run (int argc, char *argv[])
{
  static const struct option options[] = {
    { "json", no_argument, NULL, 'j' },
    { "svg", required_argument, NULL, 's' },
    { NULL },
  };
  enum snapshot_verdict verdict;
  struct snapshot snap;
  struct pmem *pmem;
  const char *svg = NULL;
  bool json = false;
  int c, status;

  while ((c = next_option (argc, argv, options)) != -1)
    switch (c) {
    case 'j': json = true; break;
    case 's': svg = optarg; break;
    default: return EXIT_USAGE;
    }
  if (argc - optind != 1)
    return usage_error ("map: give one DEVICE");
  if (json && svg)
    return usage_error ("map: give --json or --svg, not both");
  status = offline_open (argv[optind], &pmem, &snap, &verdict);
  if (status != 0)
    return status;
  if (verdict == SNAPSHOT_NO_CACHE)
    status = EXIT_NO_CACHE;
  else if (svg)
    status = draw (&snap, argv[optind], svg);
  else
    print_map (&snap, json);
  offline_close (pmem, &snap);
  return status;
}

const struct command map_command = {
  "map", "[--json | --svg FILE] DEVICE",
  "show which ranges of the disk are cached, dirty and clean; or draw them",
  run,
};

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/report.h"
#include "tool/check.h"
#include "tool/command.h"
#include "tool/offline.h"

static int
status_of (const struct check_result *result, uint64_t dirty_bytes)
{
  return result->dirty_damaged > 0 ? EXIT_DIRTY_DAMAGED
    : result->damaged > 0 ? EXIT_DAMAGED
    : dirty_bytes > 0 ? EXIT_DIRTY : EXIT_SUCCESS;
}

static const char *
status_name (int status)
{
  switch (status) {
  case EXIT_SUCCESS: return "clean";
  case EXIT_DIRTY: return "dirty";
  case EXIT_DAMAGED: return "damaged";
  case EXIT_DIRTY_DAMAGED: return "dirty-damaged";
  case EXIT_NO_CACHE: return "no-cache";
  }
  return "failed";
}

static void
print_text (const struct check_result *result, int status, uint64_t dirty)
{
  char size[SIZE_TEXT];

  printf ("%" PRIu64 " record sets, %" PRIu64 " records, %s of data\n",
          result->sets, result->records,
          size_text (size, result->data_bytes));
  if (result->unverified_bytes > 0)
    printf ("%s of it have no checksum and could only be read\n",
            size_text (size, result->unverified_bytes));
  printf ("dirty: %s\n", size_text (size, dirty));
  printf ("damage that costs no data: %" PRIu64 "; that costs data: %" PRIu64
          "\n", result->damaged, result->dirty_damaged);
  printf ("%s\n", status_name (status));
}

static void
print_result (const struct check_result *result, int status, uint64_t dirty)
{
  struct json_object *o = json_new ();

  json_put_text (o, "verdict", status_name (status));
  json_put_number (o, "dirty_bytes", dirty);
  json_put_number (o, "sets", result->sets);
  json_put_number (o, "records", result->records);
  json_put_number (o, "data_bytes", result->data_bytes);
  json_put_number (o, "unverified_bytes", result->unverified_bytes);
  json_put_number (o, "damaged", result->damaged);
  json_put_number (o, "dirty_damaged", result->dirty_damaged);
  json_put (o, "problems", json_object_get (result->problems));
  json_put (o, "messages", messages_json ());
  print_json (o);
}

static int
check_opened (struct snapshot *snap, bool json)
{
  const uint64_t dirty = epoch_queue_dirty_bytes (&snap->engine.queue);
  struct check_result result;
  struct progress progress;
  int status, r;

  progress_begin (&progress, "checking", snap->replay.count
                  * snap->engine.superblock.geometry.segment_size);
  r = check_snapshot (snap, &progress, &result);
  progress_end (&progress);
  status = r < 0 ? EXIT_FAILED : status_of (&result, dirty);
  if (r < 0)
    report (REPORT_ERROR, "cannot be read: %s", strerror (-r));
  else if (json)
    print_result (&result, status, dirty);
  else
    print_text (&result, status, dirty);
  check_free (&result);
  return status;
}

static int
run (int argc, char *argv[])
{
  static const struct option options[] = {
    { "json", no_argument, NULL, 'j' },
    { NULL },
  };
  enum snapshot_verdict verdict;
  struct snapshot snap;
  struct pmem *pmem;
  bool json = false;
  int c, status;

  while ((c = next_option (argc, argv, options)) != -1)
    switch (c) {
    case 'j': json = true; break;
    default: return EXIT_USAGE;
    }
  if (argc - optind != 1)
    return usage_error ("check: give one DEVICE");
  status = offline_open (argv[optind], &pmem, &snap, &verdict);
  if (status != 0)
    return status;
  if (verdict != SNAPSHOT_NO_CACHE)
    status = check_opened (&snap, json);
  else {
    status = EXIT_NO_CACHE;
    if (json) {
      struct json_object *o = json_new ();

      json_put_text (o, "verdict", status_name (status));
      json_put (o, "messages", messages_json ());
      print_json (o);
    }
  }
  offline_close (pmem, &snap);
  return status;
}

const struct command check_command = {
  "check", "[--json] DEVICE",
  "verify every checksum; the exit status says clean, dirty or damaged", run,
};

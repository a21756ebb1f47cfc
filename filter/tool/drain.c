/* SPDX-License-Identifier: BSD-3-Clause */

/* drain: everything that is dirty now goes to the backing store.
 *
 * The connection is the request: who ends this program ends the drain. */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <json.h>

#include "base/parse.h"
#include "base/thread.h"
#include "tool/online.h"
#include "tool/progress.h"

#define MAX_TIMEOUT_MS UINT32_MAX
#define LINE_MS 2000            /* between lines where there is no terminal */

struct show {
  bool quiet;
  struct progress bar;
  bool begun;
  uint64_t line_ms;             /* when the last one was printed */
  char error[256];              /* the one that was shown last */
};

static void
show_error (struct show *show, const char *error)
{
  if (strcmp (error, show->error) == 0)
    return;
  snprintf (show->error, sizeof show->error, "%s", error);
  if (show->quiet || error[0] == '\0')
    return;
  progress_end (&show->bar);
  fprintf (stderr, "pcachectl: the backing store fails: %s; trying again\n",
           error);
}

static void
show_line (struct show *show, uint64_t done, uint64_t total)
{
  char done_text[HUMAN_TEXT], total_text[HUMAN_TEXT];
  const uint64_t now = now_ms ();

  if (now - show->line_ms < LINE_MS)
    return;
  show->line_ms = now;
  printf ("%s of %s written back\n", human_bytes (done_text, done),
          human_bytes (total_text, total));
  fflush (stdout);
}

static void
show_progress (struct show *show, struct json_object *progress)
{
  const uint64_t total = get_number (progress, "total_bytes");
  const uint64_t done = get_number (progress, "done_bytes");

  show_error (show, get_text (progress, "error") ?: "");
  if (show->quiet || total == 0)
    return;
  if (!show->begun)
    progress_begin (&show->bar, "draining", total);
  show->begun = true;
  if (isatty (STDERR_FILENO))
    progress_show (&show->bar, done);
  else
    show_line (show, done, total);
}

static int
show_result (struct show *show, struct json_object *reply, const char *path)
{
  const char *error = reply_error (reply);
  const uint64_t dirty = get_number (reply, "dirty_bytes");
  char text[HUMAN_TEXT];

  progress_end (&show->bar);
  if (error) {
    fprintf (stderr, "pcachectl: %s: not drained: %s\n", path, error);
    return EXIT_FAILED;
  }
  if (!show->quiet) {
    printf ("drained: %s\n",
            human_bytes (text, get_number (reply, "drained_bytes")));
    if (dirty > 0)
      printf ("written since, and still dirty: %s\n",
              human_bytes (text, dirty));
  }
  return EXIT_SUCCESS;
}

/* Events, then the reply. */
static int
follow (struct client *client, const char *path, bool quiet)
{
  struct show show = { .quiet = quiet, .line_ms = now_ms () };
  struct json_object *object, *progress;
  int status;

  while ((object = client_next (client)) != NULL) {
    if (!json_object_object_get_ex (object, "progress", &progress)) {
      status = show_result (&show, object, path);
      json_object_put (object);
      return status;
    }
    show_progress (&show, progress);
    json_object_put (object);
  }
  progress_end (&show.bar);
  return EXIT_FAILED;
}

static int
run_drain (int argc, char *argv[])
{
  static const struct option options[] = {
    { "detach", no_argument, NULL, 'd' },
    { "timeout", required_argument, NULL, 't' },
    { "quiet", no_argument, NULL, 'q' },
    { 0 }
  };
  struct json_object *arguments;
  struct client *client;
  bool quiet = false, detach = false;
  unsigned timeout_ms = 0;
  int c, status = EXIT_FAILED;

  while ((c = next_option (argc, argv, options)) != -1)
    switch (c) {
    case 'd':
      detach = true;
      break;
    case 't':
      if (!parse_delay (optarg, MAX_TIMEOUT_MS, &timeout_ms)
          || timeout_ms == 0)
        return usage_error ("drain: --timeout=%s: expected a time, such as "
                            "60, 0.5, 250ms, 30s or 10m", optarg);
      break;
    case 'q':
      quiet = true;
      break;
    default:
      return EXIT_USAGE;
    }
  if (!check_arguments (argc, argv, 1, 1))
    return EXIT_USAGE;
  client = client_open (argv[optind]);
  if (client == NULL)
    return EXIT_FAILED;
  arguments = json_object_new_object ();
  json_object_object_add (arguments, "timeout_ms",
                          json_object_new_int64 (timeout_ms));
  json_object_object_add (arguments, "detach",
                          json_object_new_boolean (detach));
  if (client_send (client, "drain", arguments))
    status = follow (client, argv[optind], quiet);
  client_close (client);
  return status;
}

const struct command drain_command = {
  "drain", "[--detach] [--timeout=TIME] [--quiet] SOCKET",
  "write back everything that is dirty now", run_drain
};

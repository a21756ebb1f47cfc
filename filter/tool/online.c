/* SPDX-License-Identifier: BSD-3-Clause */

/* Commands that are one request and one reply. */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <json.h>

#include "base/parse.h"
#include "tool/online.h"

/* For all of them. -------------------------------------------------------- */

bool
check_arguments (int argc, char *argv[], int least, int most)
{
  const int count = argc - optind;

  if (count == 0 && least > 0)
    usage_error ("%s: which socket?", argv[0]);
  else if (count < least)
    usage_error ("%s: an argument is missing", argv[0]);
  else if (count > most)
    usage_error ("%s: %s: one argument too many", argv[0],
                 argv[optind + most]);
  else
    return true;
  return false;
}

const char *
human_bytes (char buf[HUMAN_TEXT], uint64_t bytes)
{
  static const char *const units[] = {
    "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"
  };
  double value = bytes;
  unsigned unit = 0;

  for (; value >= 1024; value /= 1024)
    unit++;
  snprintf (buf, HUMAN_TEXT, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
  return buf;
}

bool
terminal_size (unsigned *width, unsigned *height)
{
  struct winsize size;

  if (ioctl (STDOUT_FILENO, TIOCGWINSZ, &size) == -1 || size.ws_col == 0)
    return false;
  *width = size.ws_col;
  *height = size.ws_row ?: 24;
  return true;
}

static const struct option no_options[] = { { 0 } };

/* One request and its reply.  NULL after the reason was said. */
static struct json_object *
ask_once (const char *path, const char *command,
          struct json_object *arguments)
{
  struct client *client = client_open (path);
  struct json_object *reply = NULL;

  if (client)
    reply = client_ask (client, command, arguments);
  else
    json_object_put (arguments);
  client_close (client);
  return reply;
}

/* A command without options and arguments, and with nothing to print. */
static int
run_plain (int argc, char *argv[], const char *command)
{
  struct json_object *reply;

  if (next_option (argc, argv, no_options) != -1
      || !check_arguments (argc, argv, 1, 1))
    return EXIT_USAGE;
  reply = ask_once (argv[optind], command, NULL);
  if (reply == NULL)
    return EXIT_FAILED;
  json_object_put (reply);
  return EXIT_SUCCESS;
}

/* status, metrics --------------------------------------------------------- */

/* Lines that a terminal would break are cut instead, between characters. */
static void
print_lines (const char *text)
{
  unsigned width, height;

  if (!terminal_size (&width, &height)) {
    fputs (text, stdout);
    return;
  }
  for (const char *end; *text; text = end) {
    size_t length;

    end = strchrnul (text, '\n');
    length = end - text;
    if (length > width)
      for (length = width; length > 0 && (text[length] & 0xc0) == 0x80;)
        length--;
    printf ("%.*s\n", (int) length, text);
    end += *end == '\n';
  }
}

static int
print_text (const char *path, const char *command,
            struct json_object *arguments, bool cut)
{
  struct json_object *reply = ask_once (path, command, arguments);

  if (reply == NULL)
    return EXIT_FAILED;
  if (cut)
    print_lines (get_text (reply, "text") ?: "");
  else
    fputs (get_text (reply, "text") ?: "", stdout);
  json_object_put (reply);
  return EXIT_SUCCESS;
}

static int
print_json (const char *path)
{
  const int flags = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
    | JSON_C_TO_STRING_NOSLASHESCAPE;
  struct json_object *reply = ask_once (path, "status", NULL), *status;

  if (reply == NULL)
    return EXIT_FAILED;
  if (json_object_object_get_ex (reply, "status", &status))
    puts (json_object_to_json_string_ext (status, flags));
  json_object_put (reply);
  return EXIT_SUCCESS;
}

static int
run_status (int argc, char *argv[])
{
  static const struct option options[] = {
    { "json", no_argument, NULL, 'j' }, { 0 }
  };
  struct json_object *arguments;
  bool json = false;
  int c;

  while ((c = next_option (argc, argv, options)) != -1) {
    if (c != 'j')
      return EXIT_USAGE;
    json = true;
  }
  if (!check_arguments (argc, argv, 1, 1))
    return EXIT_USAGE;
  if (json)
    return print_json (argv[optind]);
  arguments = json_object_new_object ();
  json_object_object_add (arguments, "text", json_object_new_boolean (true));
  return print_text (argv[optind], "status", arguments, true);
}

const struct command status_command = {
  "status", "[--json] SOCKET", "say how the cache is", run_status
};

static int
run_metrics (int argc, char *argv[])
{
  if (next_option (argc, argv, no_options) != -1
      || !check_arguments (argc, argv, 1, 1))
    return EXIT_USAGE;
  return print_text (argv[optind], "metrics", NULL, false);
}

const struct command metrics_command = {
  "metrics", "SOCKET", "the same in Prometheus' text format", run_metrics
};

/* get, set ---------------------------------------------------------------- */

/* All, or the value of KEY. */
static int
print_settings (const char *path, const char *key)
{
  struct json_object *reply = ask_once (path, "settings", NULL), *list;
  bool found = false;

  if (reply == NULL)
    return EXIT_FAILED;
  if (!json_object_object_get_ex (reply, "settings", &list)
      || !json_object_is_type (list, json_type_array))
    list = NULL;
  for (size_t i = 0; list && i < json_object_array_length (list); i++) {
    struct json_object *setting = json_object_array_get_idx (list, i);
    const char *name = get_text (setting, "key") ?: "";
    const char *value = get_text (setting, "value") ?: "";

    if (key == NULL)
      printf ("%-22s %-12s %s\n", name, value,
              get_text (setting, "allowed") ?: "");
    else if (strcmp (name, key) == 0) {
      puts (value);
      found = true;
    }
  }
  json_object_put (reply);
  if (key == NULL || found)
    return EXIT_SUCCESS;
  fprintf (stderr, "pcachectl: %s: there is no such setting; "
           "pcachectl get %s lists them\n", key, path);
  return EXIT_FAILED;
}

static int
run_get (int argc, char *argv[])
{
  if (next_option (argc, argv, no_options) != -1
      || !check_arguments (argc, argv, 1, 2))
    return EXIT_USAGE;
  return print_settings (argv[optind], argv[optind + 1]);
}

const struct command get_command = {
  "get", "SOCKET [KEY]", "list the settings, or print one", run_get
};

static int
run_set (int argc, char *argv[])
{
  struct json_object *arguments, *reply;

  if (next_option (argc, argv, no_options) != -1
      || !check_arguments (argc, argv, 1, 3))
    return EXIT_USAGE;
  if (argc - optind == 1)
    return print_settings (argv[optind], NULL);
  if (argc - optind == 2)
    return usage_error ("set: what shall %s be?", argv[optind + 1]);
  arguments = json_object_new_object ();
  json_object_object_add (arguments, "key",
                          json_object_new_string (argv[optind + 1]));
  json_object_object_add (arguments, "value",
                          json_object_new_string (argv[optind + 2]));
  reply = ask_once (argv[optind], "set", arguments);
  if (reply == NULL)
    return EXIT_FAILED;
  json_object_put (reply);
  return EXIT_SUCCESS;
}

const struct command set_command = {
  "set", "SOCKET [KEY VALUE]", "change a setting, or list all", run_set
};

/* flush ------------------------------------------------------------------- */

static int
run_flush (int argc, char *argv[])
{
  return run_plain (argc, argv, "flush");
}

const struct command flush_command = {
  "flush", "SOCKET", "make what was written so far durable in the cache",
  run_flush
};

/* pause, resume ----------------------------------------------------------- */

static int
run_pause (int argc, char *argv[])
{
  return run_plain (argc, argv, "pause");
}

const struct command pause_command = {
  "pause", "SOCKET", "write nothing back until resume, but for drains",
  run_pause
};

static int
run_resume (int argc, char *argv[])
{
  return run_plain (argc, argv, "resume");
}

const struct command resume_command = {
  "resume", "SOCKET", "write back as usual after pause", run_resume
};

/* invalidate -------------------------------------------------------------- */

/* "OFFSET+LENGTH", or OFFSET and LENGTH.  NULL: they are none. */
static struct json_object *
parse_range (const char *offset, const char *length)
{
  struct json_object *range;
  uint64_t start, bytes;
  char text[32];

  if (length == NULL) {
    const char *plus = strchr (offset, '+');
    const size_t before = plus ? (size_t) (plus - offset) : sizeof text;

    if (before >= sizeof text)
      return NULL;
    memcpy (text, offset, before);
    text[before] = '\0';
    offset = text;
    length = plus + 1;
  }
  if (!parse_size (offset, &start) || !parse_size (length, &bytes)
      || bytes == 0)
    return NULL;
  range = json_object_new_object ();
  json_object_object_add (range, "offset", json_object_new_uint64 (start));
  json_object_object_add (range, "length", json_object_new_uint64 (bytes));
  return range;
}

static int
run_invalidate (int argc, char *argv[])
{
  struct json_object *range = NULL, *reply;
  char text[HUMAN_TEXT];

  if (next_option (argc, argv, no_options) != -1
      || !check_arguments (argc, argv, 1, 3))
    return EXIT_USAGE;
  if (argc - optind > 1) {
    range = parse_range (argv[optind + 1], argv[optind + 2]);
    if (range == NULL)
      return usage_error ("invalidate: expected an offset and a length in "
                          "bytes, such as 0 1M, or 4k+512");
  }
  reply = ask_once (argv[optind], "invalidate", range);
  if (reply == NULL)
    return EXIT_FAILED;
  printf ("dropped: %s\n",
          human_bytes (text, get_number (reply, "dropped_bytes")));
  json_object_put (reply);
  return EXIT_SUCCESS;
}

const struct command invalidate_command = {
  "invalidate", "SOCKET [OFFSET LENGTH|OFFSET+LENGTH]",
  "drop what is clean, to be read from the backing store again",
  run_invalidate
};

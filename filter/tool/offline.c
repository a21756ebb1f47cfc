/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/report.h"
#include "pmem/device.h"
#include "tool/command.h"
#include "tool/offline.h"

/* --- messages --------------------------------------------------------- */

static const char *about;
static struct json_object *messages;    /* a list */

/* Some are made twice, when a device is looked at twice. */
static bool
was_said (const char *text)
{
  for (size_t i = 0; i < json_object_array_length (messages); i++)
    if (strcmp (json_object_get_string
                (json_object_array_get_idx (messages, i)), text) == 0)
      return true;
  return false;
}

static void
keep_message (enum report_level level, const char *format, va_list args)
{
  const size_t length = strlen (about);
  char *text;

  if (level == REPORT_DEBUG || vasprintf (&text, format, args) < 0)
    return;
  if (was_said (text)) {
    free (text);
    return;
  }
  /* Of the device's own messages many begin with its name. */
  if (strncmp (text, about, length) == 0
      && strncmp (text + length, ": ", 2) == 0)
    fprintf (stderr, "pcachectl: %s\n", text);
  else
    fprintf (stderr, "pcachectl: %s: %s\n", about, text);
  json_append (messages, json_object_new_string (text));
  free (text);
}

void
messages_begin (const char *device)
{
  about = device;
  if (messages)
    json_object_put (messages);
  messages = json_list ();
  report_set_sink (keep_message);
}

struct json_object *
messages_json (void)
{
  return json_object_get (messages);
}

/* --- the device ------------------------------------------------------- */

int
offline_open (const char *device, struct pmem **pmem, struct snapshot *snap,
              enum snapshot_verdict *verdict)
{
  int r;

  messages_begin (device);
  if (device_open_read_only (device, pmem) < 0)
    return EXIT_FAILED;
  r = snapshot_read (snap, *pmem, verdict);
  if (r == 0)
    return 0;
  report (REPORT_ERROR, "cannot be read: %s", strerror (-r));
  offline_close (*pmem, snap);
  return EXIT_FAILED;
}

void
offline_close (struct pmem *pmem, struct snapshot *snap)
{
  snapshot_close (snap);
  pmem_close (pmem);
}

/* --- words ------------------------------------------------------------ */

const char *
record_kind_name (enum record_kind kind)
{
  switch (kind) {
  case RECORD_DATA: return "data";
  case RECORD_ZERO: return "zero";
  case RECORD_TRIM: return "trim";
  case RECORD_LOST: return "lost";
  case RECORD_HOLE: return "hole";
  }
  return "?";
}

const char *
extent_kind_name (enum extent_kind kind)
{
  switch (kind) {
  case EXTENT_DATA: return "data";
  case EXTENT_ZERO: return "zero";
  case EXTENT_TRIM: return "trim";
  case EXTENT_LOST: return "lost";
  }
  return "?";
}

const char *
segment_state_name (const struct segment *segment)
{
  if (segment->damaged)
    return "damaged";
  switch (segment->state) {
  case SEGMENT_FREE: return "free";
  case SEGMENT_OPEN: return "open";
  case SEGMENT_SEALED: return "sealed";
  }
  return "?";
}

char *
printable (const uint8_t *bytes, size_t length)
{
  char *text = malloc (length * 3 + 1), *p = text;

  for (size_t i = 0; text && i < length; i++)
    if (bytes[i] < 0x20 || bytes[i] >= 0x7f || bytes[i] == '%')
      p += sprintf (p, "%%%02X", bytes[i]);
    else
      *p++ = bytes[i];
  if (text)
    *p = '\0';
  return text;
}

const char *
size_text (char buf[SIZE_TEXT], uint64_t bytes)
{
  static const char *const units[] = { "", "KiB", "MiB", "GiB", "TiB", "PiB",
                                       "EiB" };
  double value = bytes;
  unsigned unit = 0;

  while (value >= 1024) {
    value /= 1024;
    unit++;
  }
  if (unit == 0)
    snprintf (buf, SIZE_TEXT, "%" PRIu64 " bytes", bytes);
  else
    snprintf (buf, SIZE_TEXT, "%" PRIu64 " bytes (%.1f %s)", bytes, value,
              units[unit]);
  return buf;
}

/* --- JSON ------------------------------------------------------------- */

static struct json_object *
or_die (struct json_object *object)
{
  if (object)
    return object;
  fputs ("pcachectl: out of memory\n", stderr);
  exit (EXIT_FAILED);
}

struct json_object *
json_new (void)
{
  return or_die (json_object_new_object ());
}

struct json_object *
json_list (void)
{
  return or_die (json_object_new_array ());
}

void
json_put (struct json_object *object, const char *key,
          struct json_object *value)
{
  if (json_object_object_add (object, key, value) != 0)
    or_die (NULL);
}

void
json_put_number (struct json_object *object, const char *key, uint64_t value)
{
  json_put (object, key, or_die (json_object_new_uint64 (value)));
}

void
json_put_text (struct json_object *object, const char *key, const char *value)
{
  json_put (object, key, or_die (json_object_new_string (value)));
}

void
json_put_bool (struct json_object *object, const char *key, bool value)
{
  json_put (object, key, or_die (json_object_new_boolean (value)));
}

void
json_append (struct json_object *list, struct json_object *value)
{
  if (json_object_array_add (list, or_die (value)) != 0)
    or_die (NULL);
}

void
print_json (struct json_object *object)
{
  puts (json_object_to_json_string_ext (object, JSON_C_TO_STRING_PRETTY));
  json_object_put (object);
}

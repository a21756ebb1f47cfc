/* SPDX-License-Identifier: BSD-3-Clause */

/* One table of commands: how to read the arguments, where to run, what to do.
 * An argument that no command of that name takes is an error, so that nothing
 * that was meant is quietly ignored. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <json.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "control/commands.h"
#include "control/status.h"
#include "engine/settings.h"

#define MAX_DEPTH 8             /* of JSON in JSON */
#define MAX_ID 64               /* bytes of an id that is a text */
#define MAX_SHOWN 64            /* bytes of a peer's text in a message */
#define MAX_CELLS 4096
#define DEFAULT_CELLS 1024
#define MAX_TIMEOUT_MS (UINT64_C (1000) * 86400 * 365)
#define PORTION_MS 500          /* between looks whether to go on */
#define RETRY_MS 1000           /* when the backing store fails */
#define BYPASS_MS 10000         /* the same for the way past the cache */

struct arguments {
  bool as_text;                 /* status */
  enum setting setting;         /* set */
  uint64_t value;
  bool has_range;               /* invalidate */
  struct range range;
  uint64_t cells;               /* map */
  bool detach;                  /* drain */
  uint64_t timeout_ms;          /* 0: none */
};

struct request {
  struct json_object *id;       /* NULL: null */
  const struct command *command;
  struct arguments arguments;
  uint64_t since_ms;

  pthread_mutex_t lock;
  pthread_cond_t wake;
  bool cancelled;               /* lock */
  /* Of a drain; lock. */
  bool begun;
  struct cache_drain drain;
  int error;                    /* of the last attempt: 0 or -errno */
};

/* What is being read. */
struct reader {
  struct json_object *object;
  int taken;                    /* members of it */
  char error[256];
};

struct command {
  const char *name;
  enum request_lane lane;
  /* False: reader->error says why.  NULL: it has no arguments. */
  bool (*read) (struct reader *reader, struct arguments *arguments);
  /* NULL: there is nothing to begin. */
  void (*begin) (struct request *request, const struct control_target *target);
  /* Add to the reply.  False: it says why not. */
  bool (*run) (struct request *request, const struct control_target *target,
               struct json_object *reply);
};

/* Replies. --------------------------------------------------------------- */

/* VALUE becomes the object's; NULL is out of memory, and the member is then
 * missing. */
static void
add (struct json_object *object, const char *name, struct json_object *value)
{
  if (value && json_object_object_add (object, name, value) != 0)
    json_object_put (value);
}

static void
add_number (struct json_object *object, const char *name, uint64_t value)
{
  add (object, name, json_object_new_uint64 (value));
}

static void
add_text (struct json_object *object, const char *name, const char *value)
{
  add (object, name, json_object_new_string (value));
}

/* With a copy of the id, as objects must not be shared by threads; and with
 * null if there is none. */
static struct json_object *
new_reply (struct json_object *id)
{
  struct json_object *reply = json_object_new_object (), *copy = NULL;

  if (reply == NULL)
    return NULL;
  if (id && json_object_deep_copy (id, &copy, NULL) != 0)
    copy = NULL;
  if (json_object_object_add (reply, "id", copy) != 0)
    json_object_put (copy);
  return reply;
}

/* The reply says that it was not done, and why.  Returns false. */
static bool
fail (struct json_object *reply, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

static bool
fail (struct json_object *reply, const char *format, ...)
{
  CLEANUP_FREE char *text = NULL;
  va_list args;

  va_start (args, format);
  if (vasprintf (&text, format, args) == -1)
    text = NULL;
  va_end (args);
  add (reply, "ok", json_object_new_boolean (false));
  add_text (reply, "error", text ?: "out of memory");
  return false;
}

struct json_object *
control_greeting (const char *error)
{
  struct json_object *greeting = json_object_new_object ();

  if (greeting) {
    add_text (greeting, "pcache", PACKAGE_VERSION);
    add_number (greeting, "protocol", CONTROL_PROTOCOL);
    if (error)
      add_text (greeting, "error", error);
  }
  return greeting;
}

struct json_object *
request_refuse (const struct request *request, const char *error)
{
  struct json_object *reply = new_reply (request ? request->id : NULL);

  if (reply)
    fail (reply, "%s", error);
  return reply;
}

/* Arguments. ------------------------------------------------------------- */

static bool
wrong (struct reader *reader, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

static bool
wrong (struct reader *reader, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vsnprintf (reader->error, sizeof reader->error, format, args);
  va_end (args);
  return false;
}

/* NULL: it is not there, or null. */
static struct json_object *
take (struct reader *reader, const char *name)
{
  struct json_object *value;

  if (!json_object_object_get_ex (reader->object, name, &value))
    return NULL;
  reader->taken++;
  return value;
}

/* *NUMBER is the default. */
static bool
take_number (struct reader *reader, const char *name, uint64_t least,
             uint64_t most, uint64_t *number)
{
  struct json_object *value = take (reader, name);
  uint64_t n;

  if (value == NULL)
    return true;
  if (json_object_is_type (value, json_type_int)
      && json_object_get_int64 (value) >= 0) {
    /* Beyond its range, the largest. */
    n = json_object_get_uint64 (value);
    if (n >= least && n <= most) {
      *number = n;
      return true;
    }
  }
  return wrong (reader, "%s: expected a whole number from %" PRIu64
                " to %" PRIu64, name, least, most);
}

static bool
take_flag (struct reader *reader, const char *name, bool *flag)
{
  struct json_object *value = take (reader, name);

  if (value == NULL)
    return true;
  if (!json_object_is_type (value, json_type_boolean))
    return wrong (reader, "%s: expected true or false", name);
  *flag = json_object_get_boolean (value);
  return true;
}

/* *TEXT lives as long as the reader's object, and has no zeros in it. */
static bool
take_text (struct reader *reader, const char *name, const char **text)
{
  struct json_object *value = take (reader, name);

  if (value == NULL || !json_object_is_type (value, json_type_string))
    return wrong (reader, "%s: expected a text", name);
  *text = json_object_get_string (value);
  if (strlen (*text) != (size_t) json_object_get_string_len (value))
    return wrong (reader, "%s: expected a text without zeros in it", name);
  return true;
}

/* Bytes of a peer's text to be shown: whole characters of UTF-8. */
static int
shown (const char *text)
{
  size_t length = strlen (text);

  if (length <= MAX_SHOWN)
    return length;
  length = MAX_SHOWN;
  while (length > 0 && ((unsigned char) text[length] & 0xc0) == 0x80)
    length--;
  return length;
}

/* status, metrics --------------------------------------------------------- */

static bool
read_status (struct reader *reader, struct arguments *arguments)
{
  return take_flag (reader, "text", &arguments->as_text);
}

static void
get_status (const struct control_target *target, struct cache_status *status)
{
  cache_get_status (target->cache, status);
  status->device = target->device;
}

/* What PRINT writes, as a text. */
static bool
add_printed (struct json_object *reply, const struct cache_status *status,
             void (*print) (const struct cache_status *, FILE *))
{
  CLEANUP_FREE char *text = NULL;
  size_t length;
  FILE *stream = open_memstream (&text, &length);
  bool printed;

  if (stream == NULL)
    return fail (reply, "out of memory");
  print (status, stream);
  printed = !ferror (stream);
  if (fclose (stream) == EOF || !printed)
    return fail (reply, "out of memory");
  add (reply, "text", json_object_new_string_len (text, length));
  return true;
}

static bool
run_status (struct request *request, const struct control_target *target,
            struct json_object *reply)
{
  struct cache_status status;
  struct json_object *object;

  get_status (target, &status);
  if (request->arguments.as_text)
    return add_printed (reply, &status, status_text);
  object = status_json (&status);
  if (object == NULL)
    return fail (reply, "out of memory");
  add (reply, "status", object);
  return true;
}

static bool
run_metrics (struct request *request, const struct control_target *target,
             struct json_object *reply)
{
  struct cache_status status;

  get_status (target, &status);
  return add_printed (reply, &status, status_metrics);
}

/* map --------------------------------------------------------------------- */

static bool
read_map (struct reader *reader, struct arguments *arguments)
{
  arguments->cells = DEFAULT_CELLS;
  return take_number (reader, "cells", 1, MAX_CELLS, &arguments->cells);
}

/* What most of the segments from FIRST on are used for; of two the one that
 * is more remarkable. */
static enum segment_role
most_common_role (struct cache *cache, uint32_t first, uint32_t end)
{
  uint32_t count[SEGMENT_ROLES] = { 0 };
  enum segment_role most = 0;

  for (uint32_t i = first; i < end; i++)
    count[cache_segment_role (cache, i)]++;
  for (enum segment_role role = 0; role < SEGMENT_ROLES; role++)
    if (count[role] >= count[most])
      most = role;
  return most;
}

static bool
run_map (struct request *request, const struct control_target *target,
         struct json_object *reply)
{
  static const char letters[SEGMENT_ROLES] = {
    [SEGMENT_ROLE_FREE] = '.', [SEGMENT_ROLE_CLEAN] = 'c',
    [SEGMENT_ROLE_OPEN] = 'o', [SEGMENT_ROLE_DIRTY] = 'D',
    [SEGMENT_ROLE_DAMAGED] = 'x',
  };
  const uint32_t segments = cache_segment_count (target->cache);
  const uint64_t most = request->arguments.cells;
  const uint32_t per_cell = (segments + most - 1) / most;
  char cells[MAX_CELLS];
  unsigned count = 0;

  for (uint32_t first = 0; first < segments; first += per_cell) {
    const uint32_t end = MIN ((uint64_t) first + per_cell, segments);

    cells[count++] = letters[most_common_role (target->cache, first, end)];
    if (end == segments)
      break;
  }
  add_number (reply, "segments", segments);
  add_number (reply, "segments_per_cell", per_cell);
  add (reply, "cells", json_object_new_string_len (cells, count));
  return true;
}

/* settings, set ----------------------------------------------------------- */

static void
add_setting (struct json_object *object, struct cache *cache,
             enum setting which)
{
  char value[32], allowed[128];

  add_text (object, "key", setting_name (which));
  add_text (object, "value",
            setting_format (which, cache_get_setting (cache, which), value));
  add_text (object, "allowed", setting_expected (which, allowed));
}

static bool
run_settings (struct request *request, const struct control_target *target,
              struct json_object *reply)
{
  struct json_object *array = json_object_new_array ();

  if (array == NULL)
    return fail (reply, "out of memory");
  for (enum setting which = 0; which < SETTINGS_COUNT; which++) {
    struct json_object *setting = json_object_new_object ();

    if (setting == NULL)
      continue;
    add_setting (setting, target->cache, which);
    if (json_object_array_add (array, setting) != 0)
      json_object_put (setting);
  }
  add (reply, "settings", array);
  return true;
}

static bool
read_set (struct reader *reader, struct arguments *arguments)
{
  const char *key, *value;
  char allowed[128];

  if (!take_text (reader, "key", &key) ||
      !take_text (reader, "value", &value))
    return false;
  if (!setting_find (key, &arguments->setting))
    return wrong (reader, "%.*s: there is no such setting", shown (key), key);
  if (!setting_parse (arguments->setting, value, &arguments->value))
    return wrong (reader, "%s=%.*s: expected %s", key, shown (value), value,
                  setting_expected (arguments->setting, allowed));
  return true;
}

static bool
run_set (struct request *request, const struct control_target *target,
         struct json_object *reply)
{
  const enum setting which = request->arguments.setting;
  const int r = cache_set (target->cache, which, request->arguments.value);

  if (r < 0)
    return fail (reply, "%s: cannot be changed: %s", setting_name (which),
                 strerror (-r));
  add_setting (reply, target->cache, which);
  return true;
}

/* flush ------------------------------------------------------------------- */

static bool
run_flush (struct request *request, const struct control_target *target,
           struct json_object *reply)
{
  const int r = cache_flush (target->cache);

  return r == 0 || fail (reply, "the cache device fails: %s", strerror (-r));
}

/* invalidate -------------------------------------------------------------- */

static bool
read_invalidate (struct reader *reader, struct arguments *arguments)
{
  struct range *range = &arguments->range;
  const int taken = reader->taken;

  range->length = 0;
  if (!take_number (reader, "offset", 0, INT64_MAX, &range->start)
      || !take_number (reader, "length", 1, INT64_MAX, &range->length))
    return false;
  if (reader->taken == taken + 1)
    return wrong (reader, "invalidate: expected both offset and length, or "
                  "neither");
  arguments->has_range = range->length > 0;
  return true;
}

static bool
run_invalidate (struct request *request, const struct control_target *target,
                struct json_object *reply)
{
  const uint64_t size = cache_disk_size (target->cache);
  const struct range range = request->arguments.has_range
    ? request->arguments.range : (struct range) { 0, size };
  uint64_t dropped;
  int r;

  if (size == 0)
    return fail (reply, "no client has ever connected: it is not known how "
                 "large the disk is");
  if (!range_is_valid (range, size))
    return fail (reply, "the range is not within the disk, which has %" PRIu64
                 " bytes", size);
  r = cache_invalidate (target->cache, range, &dropped);
  if (r < 0)
    return fail (reply, "cannot be invalidated: %s", strerror (-r));
  add_number (reply, "dropped_bytes", dropped);
  return true;
}

/* drain ------------------------------------------------------------------- */

static bool
read_drain (struct reader *reader, struct arguments *arguments)
{
  return take_flag (reader, "detach", &arguments->detach)
    && take_number (reader, "timeout_ms", 0, MAX_TIMEOUT_MS,
                    &arguments->timeout_ms);
}

static bool
is_cancelled (struct request *request)
{
  HOLD_LOCK (&request->lock);
  return request->cancelled;
}

static void
note_error (struct request *request, int error)
{
  HOLD_LOCK (&request->lock);
  request->error = error;
}

static void
wait_before_retry (struct request *request, uint64_t until_ms)
{
  const uint64_t until = MIN (now_ms () + RETRY_MS, until_ms);

  HOLD_LOCK (&request->lock);
  while (!request->cancelled && now_ms () < until)
    cond_wait_until (&request->wake, &request->lock, until);
}

static uint64_t
deadline (const struct request *request)
{
  return request->arguments.timeout_ms == 0
    ? UINT64_MAX : request->since_ms + request->arguments.timeout_ms;
}

static void
begin_drain (struct request *request, const struct control_target *target)
{
  struct cache_drain drain;
  const int r = cache_begin_drain (target->cache, &drain);

  HOLD_LOCK (&request->lock);
  request->begun = true;
  request->error = r;
  request->drain = drain;
}

/* As long as it takes.  Errors of the backing store are told and tried again;
 * but where none is attached there is nothing to wait for, unless it fails and
 * is just being opened anew. */
static int
await_drain (struct request *request, struct cache *cache, uint64_t until_ms)
{
  struct cache_status status;
  bool failing;

  cache_get_status (cache, &status);
  failing = status.writeback_error < 0;
  for (;;) {
    const uint64_t now = now_ms ();
    const uint64_t left_ms = until_ms > now ? until_ms - now : 0;
    int r;

    if (is_cancelled (request))
      return -ECANCELED;
    r = cache_await_drain (cache, &request->drain,
                           MIN (left_ms, (uint64_t) PORTION_MS));
    if (r != -ETIMEDOUT)
      note_error (request, r);
    if (r == 0 || (r == -ESHUTDOWN && !failing) || now_ms () >= until_ms)
      return r;
    if (r != -ETIMEDOUT) {
      failing = true;
      wait_before_retry (request, until_ms);
    }
  }
}

static bool
fail_drain (struct request *request, struct cache *cache,
            struct json_object *reply, int error)
{
  const uint64_t left = cache_drain_left (cache, &request->drain);
  int last;

  {
    HOLD_LOCK (&request->lock);
    last = request->error;
  }
  add_number (reply, "left_bytes", left);
  if (error == -ECANCELED)
    return fail (reply, "nbdkit is stopping; %" PRIu64 " bytes are still to "
                 "be written back", left);
  if (error == -ESHUTDOWN && last == error && left == 0)
    return fail (reply, "the cache device can be left only while the backing "
                 "store is open for writing: that takes a client that may "
                 "write");
  if (error == -ESHUTDOWN && last == error)
    return fail (reply, "%" PRIu64 " bytes are to be written back, but the "
                 "backing store is not open for writing: that takes a client "
                 "that may write", left);
  if (last < 0)
    return fail (reply, "the backing store fails: %s; %" PRIu64 " bytes are "
                 "still to be written back", strerror (-last), left);
  return fail (reply, "the time is over; %" PRIu64 " bytes are still to be "
               "written back", left);
}

/* After a drain: what has come since is little.  Dirty data that is lost would
 * read as what it was before; trying again does not help. */
static int
leave_device (struct request *request, struct cache *cache, uint64_t until_ms)
{
  struct cache_status status;

  for (;;) {
    const uint64_t now = now_ms ();
    const uint64_t left_ms = until_ms > now ? until_ms - now : 0;
    int r;

    if (is_cancelled (request))
      return -ECANCELED;
    r = cache_bypass (cache, MIN (left_ms, (uint64_t) BYPASS_MS));
    if (r != -ETIMEDOUT)
      note_error (request, r);
    cache_get_status (cache, &status);
    if (r == 0 || r == -ESHUTDOWN || now_ms () >= until_ms)
      return r;
    if (r == -EIO && status.lost_data && status.writeback_error == 0)
      return -EUCLEAN;
    if (r != -ETIMEDOUT)
      wait_before_retry (request, until_ms);
  }
}

static bool
run_drain (struct request *request, const struct control_target *target,
           struct json_object *reply)
{
  struct cache *cache = target->cache;
  struct cache_status status;
  int r;

  if (request->error < 0)
    return fail (reply, "the cache device fails: %s",
                 strerror (-request->error));
  r = await_drain (request, cache, deadline (request));
  if (r == 0 && request->arguments.detach)
    r = leave_device (request, cache, deadline (request));
  if (r == -EUCLEAN)
    return fail (reply, "all is written back but what was lost, which would "
                 "show its older content; the cache device is not left");
  if (r < 0)
    return fail_drain (request, cache, reply, r);
  cache_get_status (cache, &status);
  add_number (reply, "drained_bytes", request->drain.bytes);
  add_number (reply, "elapsed_ms", now_ms () - request->since_ms);
  add_number (reply, "dirty_bytes", status.dirty_bytes);
  return true;
}

bool
request_has_progress (const struct request *request)
{
  return request->command->lane == LANE_DRAIN;
}

struct json_object *
request_progress (struct request *request,
                  const struct control_target *target)
{
  struct json_object *event = new_reply (request->id);
  struct json_object *progress = json_object_new_object ();

  if (event == NULL || progress == NULL) {
    json_object_put (event);
    json_object_put (progress);
    return NULL;
  }
  HOLD_LOCK (&request->lock);
  if (!request->begun)
    add (progress, "waiting", json_object_new_boolean (true));
  else {
    const uint64_t left = cache_drain_left (target->cache, &request->drain);

    add_number (progress, "total_bytes", request->drain.bytes);
    add_number (progress, "done_bytes", request->drain.bytes - left);
    if (request->error < 0)
      add_text (progress, "error", strerror (-request->error));
  }
  add_number (progress, "elapsed_ms", now_ms () - request->since_ms);
  add (event, "progress", progress);
  return event;
}

/* pause, resume ----------------------------------------------------------- */

static bool
run_pause (struct request *request, const struct control_target *target,
           struct json_object *reply)
{
  cache_pause_writeback (target->cache);
  return true;
}

static bool
run_resume (struct request *request, const struct control_target *target,
            struct json_object *reply)
{
  cache_resume_writeback (target->cache);
  return true;
}

/* All of them. ------------------------------------------------------------ */

static const struct command commands[] = {
  { "status", LANE_AT_ONCE, read_status, NULL, run_status },
  { "metrics", LANE_AT_ONCE, NULL, NULL, run_metrics },
  { "map", LANE_AT_ONCE, read_map, NULL, run_map },
  { "settings", LANE_AT_ONCE, NULL, NULL, run_settings },
  { "set", LANE_SHORT, read_set, NULL, run_set },
  { "flush", LANE_SHORT, NULL, NULL, run_flush },
  { "invalidate", LANE_SHORT, read_invalidate, NULL, run_invalidate },
  { "drain", LANE_DRAIN, read_drain, begin_drain, run_drain },
  { "pause", LANE_AT_ONCE, NULL, NULL, run_pause },
  { "resume", LANE_AT_ONCE, NULL, NULL, run_resume },
};

static const struct command *
find_command (const char *name)
{
  for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
    if (strcmp (name, commands[i].name) == 0)
      return &commands[i];
  return NULL;
}

static bool
is_id (struct json_object *value)
{
  return value == NULL || json_object_is_type (value, json_type_int)
    || (json_object_is_type (value, json_type_string)
        && json_object_get_string_len (value) <= MAX_ID);
}

/* A member that nobody took: of those that are there, as the readers take none
 * twice. */
static bool
read_request (struct reader *reader, struct request *request)
{
  const char *name;

  request->id = take (reader, "id");
  if (!is_id (request->id)) {
    request->id = NULL;
    return wrong (reader, "id: expected a whole number or a text of at most "
                  "%d bytes", MAX_ID);
  }
  json_object_get (request->id);
  if (!take_text (reader, "command", &name))
    return false;
  request->command = find_command (name);
  if (request->command == NULL)
    return wrong (reader, "%.*s: there is no such command", shown (name),
                  name);
  if (request->command->read
      && !request->command->read (reader, &request->arguments))
    return false;
  if (reader->taken != json_object_object_length (reader->object))
    return wrong (reader, "%s: there is an argument that this command does "
                  "not have", name);
  return true;
}

/* NULL: *WHY says why. */
static struct json_object *
parse (const char *line, size_t length, const char **why)
{
  const int flags = JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8;
  struct json_tokener *tokener;
  struct json_object *object;
  enum json_tokener_error error;

  /* To the tokener a zero is the end, whatever comes behind. */
  if (length >= CONTROL_MAX_LINE || memchr (line, '\0', length)) {
    *why = "a zero is in it";
    return NULL;
  }
  tokener = json_tokener_new_ex (MAX_DEPTH);
  if (tokener == NULL) {
    *why = "out of memory";
    return NULL;
  }
  json_tokener_set_flags (tokener, flags);
  object = json_tokener_parse_ex (tokener, line, length);
  error = json_tokener_get_error (tokener);
  /* A number, say, might go on. */
  if (error == json_tokener_success
      && json_tokener_get_parse_end (tokener) < length)
    error = json_tokener_error_parse_unexpected;
  *why = error == json_tokener_continue
    ? "it ends in the middle" : json_tokener_error_desc (error);
  json_tokener_free (tokener);
  if (error == json_tokener_success
      && json_object_is_type (object, json_type_object))
    return object;
  if (error == json_tokener_success)
    *why = "it is not an object";
  json_object_put (object);
  return NULL;
}

struct request *
request_parse (const char *line, size_t length, struct json_object **reply)
{
  struct request *request = calloc (1, sizeof *request);
  struct reader reader = { 0 };
  const char *why;
  bool good;

  if (request == NULL) {
    *reply = request_refuse (NULL, "out of memory");
    return NULL;
  }
  pthread_mutex_init (&request->lock, NULL);
  cond_init (&request->wake);
  request->since_ms = now_ms ();
  reader.object = parse (line, length, &why);
  good = reader.object ? read_request (&reader, request)
    : wrong (&reader, "not a JSON object in one line: %s", why);
  json_object_put (reader.object);
  if (good)
    return request;
  *reply = new_reply (request->id);
  if (*reply)
    fail (*reply, "%s", reader.error);
  request_free (request);
  return NULL;
}

void
request_free (struct request *request)
{
  json_object_put (request->id);
  pthread_cond_destroy (&request->wake);
  pthread_mutex_destroy (&request->lock);
  free (request);
}

enum request_lane
request_lane (const struct request *request)
{
  return request->command->lane;
}

void
request_begin (struct request *request, const struct control_target *target)
{
  if (request->command->begin)
    request->command->begin (request, target);
}

struct json_object *
request_run (struct request *request, const struct control_target *target)
{
  struct json_object *reply = new_reply (request->id);

  if (reply && request->command->run (request, target, reply))
    add (reply, "ok", json_object_new_boolean (true));
  return reply;
}

void
request_cancel (struct request *request)
{
  HOLD_LOCK (&request->lock);
  request->cancelled = true;
  pthread_cond_signal (&request->wake);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* One cache without threads for all inputs, so each is quick. */

#include <config.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <json.h>

#include "control/commands.h"
#include "hostile/fuzz_request.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"

#define MIB (UINT64_C (1) << 20)
#define DISK (32 * MIB)

static struct control_target target = { .device = "/the/device" };

static void
must (bool it_is)
{
  if (!it_is)
    abort ();
}

static void
open_cache (void)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  struct memory_device *device = memory_device_new (10 * MIB, true);
  struct memory_backend *disk = memory_backend_new (DISK);

  options.segment_size = MIB;
  must (cache_open (&options, memory_pmem_open (device), &target.cache) == 0);
  must (cache_attach (target.cache, &disk->backend, "") == 0);
}

static bool
is_done (struct json_object *reply)
{
  struct json_object *ok, *id;

  must (json_object_object_get_ex (reply, "id", &id));
  must (json_object_object_get_ex (reply, "ok", &ok));
  must (json_object_is_type (ok, json_type_boolean));
  return json_object_get_boolean (ok);
}

/* It is one line, which reads as what it was made of. */
static void
check_reply (struct json_object *reply, bool must_fail)
{
  const char *text;
  struct json_object *again, *error;

  must (reply != NULL);
  text = json_object_to_json_string_ext (reply, JSON_C_TO_STRING_PLAIN);
  must (strchr (text, '\n') == NULL);
  again = json_tokener_parse (text);
  must (again && json_object_equal (again, reply));
  json_object_put (again);
  if (is_done (reply))
    must (!must_fail);
  else
    must (json_object_object_get_ex (reply, "error", &error)
          && json_object_get_string_len (error) > 0);
  json_object_put (reply);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct json_object *reply = NULL;
  struct request *request;

  if (target.cache == NULL)
    open_cache ();
  if (size >= CONTROL_MAX_LINE)
    return 0;
  request = request_parse ((const char *) data, size, &reply);
  if (request) {
    must (reply == NULL);
    request_begin (request, &target);
    check_reply (request_run (request, &target), false);
    if (request_has_progress (request))
      json_object_put (request_progress (request, &target));
    request_free (request);
  }
  else
    check_reply (reply, true);
  return 0;
}

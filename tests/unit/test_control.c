/* SPDX-License-Identifier: BSD-3-Clause */

/* Requests of the control socket: what is asked for is done and told, and what
 * makes no sense is refused with words that say why. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <json.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "control/commands.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"
#include "support/reports.h"
#include "support/seed.h"

#define MIB (UINT64_C (1) << 20)
#define DISK (32 * MIB)

static struct memory_device *device;
static struct memory_backend *disk;
static struct cache *cache;
static struct control_target target;
static struct json_object *reply;

static int
set_up (void **state)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;

  (void) state;
  reports_collect ();
  device = memory_device_new (10 * MIB, true);
  disk = memory_backend_new (DISK);
  options.segment_size = MIB;
  options.setting[SETTING_writeback_delay] = 3600000;
  assert_int_equal (cache_open (&options, memory_pmem_open (device), &cache),
                    0);
  target = (struct control_target) { .cache = cache, .device = "/the/device" };
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  json_object_put (reply);
  reply = NULL;
  cache_close (cache);
  memory_device_free (device);
  memory_backend_free (disk);
  return 0;
}

static void
attach (bool threads)
{
  if (threads)
    assert_int_equal (cache_start (cache), 0);
  assert_int_equal (cache_attach (cache, &disk->backend, ""), 0);
}

static void
set_write_error (int error)
{
  HOLD_LOCK (&disk->lock);
  disk->write_error = error;
}

static void
write_bytes (uint64_t start, uint64_t length, uint8_t byte)
{
  uint8_t *buf = malloc (length);

  memset (buf, byte, length);
  assert_int_equal (cache_write (cache, buf, (struct range) { start, length },
                                 false), 0);
  free (buf);
}

/* Sets reply. */
static void
ask_bytes (const char *line, size_t length)
{
  struct request *request;

  json_object_put (reply);
  reply = NULL;
  request = request_parse (line, length, &reply);
  if (request) {
    request_begin (request, &target);
    reply = request_run (request, &target);
    request_free (request);
  }
  assert_non_null (reply);
}

static const char *
text_of (const char *name)
{
  struct json_object *value;

  return json_object_object_get_ex (reply, name, &value)
    ? json_object_get_string (value) : "(none)";
}

static uint64_t
number_of (const char *name)
{
  struct json_object *value;

  assert_true (json_object_object_get_ex (reply, name, &value));
  assert_true (json_object_is_type (value, json_type_int));
  return json_object_get_uint64 (value);
}

static void
expect_done (const char *line)
{
  ask_bytes (line, strlen (line));
  if (strcmp (text_of ("ok"), "true") != 0)
    fail_msg ("%s: %s", line, text_of ("error"));
}

static void
expect_refused (const char *line, const char *words)
{
  ask_bytes (line, strlen (line));
  if (strcmp (text_of ("ok"), "false") != 0
      || strstr (text_of ("error"), words) == NULL)
    fail_msg ("%s: not refused with \"%s\" but: %s", line, words,
              json_object_to_json_string (reply));
}

/* ------------------------------------------------------------------------ */

static void
what_is_no_request_is_refused_with_words (void **state)
{
  static const struct { const char *line, *words; } bad[] = {
    { "", "not a JSON object" },
    { " ", "not a JSON object" },
    { "hello", "not a JSON object" },
    { "1", "not a JSON object" },
    { "null", "not a JSON object" },
    { "[]", "not an object" },
    { "\"status\"", "not an object" },
    { "{\"command\":\"status\"", "ends in the middle" },
    { "{\"command\":\"status\"} x", "not a JSON object" },
    { "{\"command\":\"status\"}{}", "not a JSON object" },
    { "{'command':'status'}", "not a JSON object" },
    { "{\"command\":\"st\xff\"}", "utf-8" },
    { "{\"command\":\"\xed\xa0\x80\"}", "" },
    { "{\"command\":\"status\",}", "not a JSON object" },
    { "{}", "command: expected a text" },
    { "{\"command\":1}", "command: expected a text" },
    { "{\"command\":null}", "command: expected a text" },
    { "{\"command\":\"\"}", "no such command" },
    { "{\"command\":\"Status\"}", "no such command" },
    { "{\"command\":\"status\\u0000x\"}", "without zeros" },
    { "{\"command\":\"status\",\"texts\":true}", "does not have" },
    { "{\"command\":\"status\",\"text\":1}", "expected true or false" },
    { "{\"id\":{},\"command\":\"status\"}", "id: expected" },
    { "{\"id\":1.5,\"command\":\"status\"}", "id: expected" },
    { "{\"command\":\"map\",\"cells\":0}", "from 1 to 4096" },
    { "{\"command\":\"map\",\"cells\":4097}", "from 1 to 4096" },
    { "{\"command\":\"map\",\"cells\":-1}", "from 1 to 4096" },
    { "{\"command\":\"map\",\"cells\":1e3}", "from 1 to 4096" },
    { "{\"command\":\"map\",\"cells\":18446744073709551617}",
      "from 1 to 4096" },
    { "{\"command\":\"drain\",\"timeout_ms\":99999999999999999999999}",
      "timeout_ms: expected" },
    { "{\"command\":\"drain\",\"timeout_ms\":\"1\"}", "timeout_ms: expected" },
    { "{\"command\":\"set\",\"key\":\"gc-percent\"}",
      "value: expected a text" },
    { "{\"command\":\"set\",\"value\":\"1\"}", "key: expected a text" },
    { "{\"command\":\"set\",\"key\":\"no\",\"value\":\"1\"}",
      "no: there is no such setting" },
    { "{\"command\":\"set\",\"key\":\"gc-percent\",\"value\":\"91\"}",
      "gc-percent=91: expected a whole number from 0 to 90" },
    { "{\"command\":\"set\",\"key\":\"gc-percent\",\"value\":50}",
      "value: expected a text" },
    { "[[[[[[[[[[]]]]]]]]]]", "nesting too deep" },
  };

  (void) state;
  attach (false);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    expect_refused (bad[i].line, bad[i].words);
  ask_bytes ("{\"command\":\"flush\"}\0", 20);
  assert_string_equal (text_of ("ok"), "false");
}

static void
a_reply_carries_the_id_of_its_request (void **state)
{
  char line[256], id[100];

  (void) state;
  attach (false);
  expect_done ("{\"id\":7,\"command\":\"flush\"}");
  assert_int_equal (number_of ("id"), 7);
  expect_done ("{\"id\":\"a/b\\\"\",\"command\":\"flush\"}");
  assert_string_equal (text_of ("id"), "a/b\"");
  expect_done ("{\"command\":\"flush\"}");
  assert_null (text_of ("id"));
  expect_refused ("{\"id\":8,\"command\":\"none\"}", "no such command");
  assert_int_equal (number_of ("id"), 8);
  memset (id, 'x', sizeof id);
  snprintf (line, sizeof line, "{\"id\":\"%.64s\",\"command\":\"flush\"}", id);
  expect_done (line);
  snprintf (line, sizeof line, "{\"id\":\"%.65s\",\"command\":\"flush\"}", id);
  expect_refused (line, "id: expected");
  assert_null (text_of ("id"));
}

/* A message shows the beginning, and whole characters only. */
static void
long_texts_are_cut (void **state)
{
  char line[4096], name[3000];

  (void) state;
  attach (false);
  for (size_t i = 0; i + 2 < sizeof name; i += 2)
    memcpy (name + i, "\xc3\xa4", 2);
  for (int shift = 0; shift < 2; shift++) {
    snprintf (line, sizeof line, "{\"command\":\"%s%.2900s\"}",
              shift ? "x" : "", name);
    expect_refused (line, "there is no such command");
    assert_true (strlen (text_of ("error")) < 100);
    /* It is UTF-8 as a whole. */
    json_object_put (json_tokener_parse (json_object_to_json_string (reply)));
    for (const char *c = text_of ("error") + shift; (*c & 0x80) != 0; c += 2)
      assert_memory_equal (c, "\xc3\xa4", 2);
  }
}

static void
settings_are_changed_and_told (void **state)
{
  struct json_object *list;

  (void) state;
  attach (false);
  expect_done ("{\"command\":\"set\",\"key\":\"gc-percent\",\"value\":\"50\"}");
  assert_string_equal (text_of ("value"), "50");
  assert_int_equal (cache_get_setting (cache, SETTING_gc_percent), 50);
  expect_done ("{\"command\":\"set\",\"key\":\"writeback-order\","
               "\"value\":\"batch\"}");
  assert_string_equal (text_of ("allowed"), "strict or batch");
  expect_done ("{\"command\":\"settings\"}");
  assert_true (json_object_object_get_ex (reply, "settings", &list));
  assert_int_equal (json_object_array_length (list), SETTINGS_COUNT);
}

static void
status_comes_as_json_text_and_metrics (void **state)
{
  struct json_object *status, *value;

  (void) state;
  attach (false);
  write_bytes (0, 5000, 1);
  expect_done ("{\"command\":\"status\"}");
  assert_true (json_object_object_get_ex (reply, "status", &status));
  assert_true (json_object_object_get_ex (status, "dirty_bytes", &value));
  assert_int_equal (json_object_get_int64 (value), 5000);
  assert_true (json_object_object_get_ex (status, "device", &value));
  assert_string_equal (json_object_get_string (value), "/the/device");
  expect_done ("{\"command\":\"status\",\"text\":true}");
  assert_non_null (strstr (text_of ("text"), "dirty_bytes"));
  expect_done ("{\"command\":\"metrics\"}");
  assert_non_null (strstr (text_of ("text"), "\npcache_dirty_bytes{device="
                           "\"/the/device\"} 5000\n"));
}

static atomic_bool stop;

static void *
keep_asking (void *unused)
{
  struct cache_status *status = malloc (sizeof *status);

  while (!atomic_load (&stop)) {
    cache_get_status (cache, status);
    for (uint32_t i = 0; i < cache_segment_count (cache); i++)
      cache_segment_role (cache, i);
  }
  free (status);
  return NULL;
}

/* For ThreadSanitizer: the first client tells a new cache whose it is. */
static void
status_may_be_asked_for_at_any_time (void **state)
{
  pthread_t thread;

  (void) state;
  atomic_store (&stop, false);
  pthread_create (&thread, NULL, keep_asking, NULL);
  attach (true);
  for (uint64_t at = 0; at < 3 * MIB; at += 65536)
    write_bytes (at, 65536, 1);
  assert_int_equal (cache_drain (cache, 60000), 0);
  cache_detach (cache);
  attach (false);
  expect_done ("{\"command\":\"status\"}");
  atomic_store (&stop, true);
  pthread_join (thread, NULL);
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
the_map_has_no_more_cells_than_wanted (void **state)
{
  char line[100];

  (void) state;
  attach (false);
  for (uint64_t at = 0; at < 3 * MIB; at += 65536)
    write_bytes (at, 65536, 1);
  expect_done ("{\"command\":\"flush\"}");
  expect_done ("{\"command\":\"map\"}");
  assert_int_equal (strlen (text_of ("cells")),
                    cache_segment_count (cache));
  assert_non_null (strchr (text_of ("cells"), 'o'));
  assert_non_null (strchr (text_of ("cells"), '.'));
  for (uint32_t cells = 1; cells <= cache_segment_count (cache); cells++) {
    snprintf (line, sizeof line, "{\"command\":\"map\",\"cells\":%u}", cells);
    expect_done (line);
    assert_in_range (strlen (text_of ("cells")), 1, cells);
    assert_true (number_of ("segments_per_cell") * strlen (text_of ("cells"))
                 >= number_of ("segments"));
  }
}

static void
clean_data_is_dropped_and_dirty_data_is_not (void **state)
{
  uint8_t byte;

  (void) state;
  expect_refused ("{\"command\":\"invalidate\"}", "no client has ever");
  attach (false);
  write_bytes (0, 100000, 1);
  expect_done ("{\"command\":\"drain\"}");
  write_bytes (200000, 1000, 2);
  memset (disk->bytes, 9, DISK);
  expect_done ("{\"command\":\"invalidate\",\"offset\":4096,"
               "\"length\":4096}");
  assert_int_equal (number_of ("dropped_bytes"), 4096);
  assert_int_equal (cache_read (cache, &byte, (struct range) { 4096, 1 }), 0);
  assert_int_equal (byte, 9);
  assert_int_equal (cache_read (cache, &byte, (struct range) { 4095, 1 }), 0);
  assert_int_equal (byte, 1);
  expect_done ("{\"command\":\"invalidate\"}");
  assert_int_equal (cache_read (cache, &byte, (struct range) { 0, 1 }), 0);
  assert_int_equal (byte, 9);
  assert_int_equal (cache_read (cache, &byte, (struct range) { 200000, 1 }),
                    0);
  assert_int_equal (byte, 2);
  expect_refused ("{\"command\":\"invalidate\",\"offset\":0}", "both");
  expect_refused ("{\"command\":\"invalidate\",\"offset\":33554431,"
                  "\"length\":2}", "not within the disk");
}

static void
a_drain_writes_everything_back (void **state)
{
  (void) state;
  for (int threads = 0; threads < 2; threads++) {
    attach (threads);
    write_bytes (0, 100000, 1 + threads);
    expect_done ("{\"command\":\"drain\",\"timeout_ms\":60000}");
    assert_int_equal (number_of ("drained_bytes"), 100000);
    assert_int_equal (number_of ("dirty_bytes"), 0);
    assert_int_equal (disk->bytes[99999], 1 + threads);
    cache_detach (cache);
  }
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
a_drain_can_leave_the_cache_device (void **state)
{
  uint8_t byte;

  (void) state;
  attach (true);
  write_bytes (0, 1000, 1);
  expect_done ("{\"command\":\"drain\",\"detach\":true}");
  assert_true (cache_is_bypassed (cache));
  disk->bytes[0] = 7;
  assert_int_equal (cache_read (cache, &byte, (struct range) { 0, 1 }), 0);
  assert_int_equal (byte, 7);
  /* And nothing that is asked now touches it. */
  expect_done ("{\"command\":\"status\"}");
  expect_done ("{\"command\":\"map\"}");
  expect_done ("{\"command\":\"flush\"}");
  expect_done ("{\"command\":\"drain\",\"detach\":true}");
  expect_done ("{\"command\":\"set\",\"key\":\"gc-percent\",\"value\":\"1\"}");
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
write_back_is_paused_and_goes_on (void **state)
{
  (void) state;
  attach (true);
  expect_done ("{\"command\":\"pause\"}");
  assert_true (cache_is_paused (cache));
  expect_done ("{\"command\":\"resume\"}");
  assert_false (cache_is_paused (cache));
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
a_drain_without_a_backing_store_says_so (void **state)
{
  (void) state;
  attach (true);
  write_bytes (0, 1000, 1);
  cache_detach (cache);
  expect_refused ("{\"command\":\"drain\"}", "not open for writing");
  assert_int_equal (number_of ("left_bytes"), 1000);
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
a_drain_over_a_failing_store_ends_in_time_with_its_error (void **state)
{
  (void) state;
  attach (true);
  write_bytes (0, 1000, 1);
  set_write_error (-ENOSPC);
  expect_refused ("{\"command\":\"drain\",\"timeout_ms\":300}",
                  "No space left on device");
  set_write_error (0);
  expect_done ("{\"command\":\"drain\",\"timeout_ms\":60000}");
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

struct job {
  struct request *request;
  struct json_object *reply;
};

static void *
run_job (void *opaque)
{
  struct job *job = opaque;

  request_begin (job->request, &target);
  job->reply = request_run (job->request, &target);
  return NULL;
}

/* P6: an error is shown, and tried again until it heals. */
static void
a_drain_shows_its_progress_and_goes_on_trying (void **state)
{
  const char *line = "{\"id\":\"d\",\"command\":\"drain\"}";
  struct json_object *unused, *event, *progress, *value;
  struct job job;
  pthread_t thread;
  bool failed = false;

  (void) state;
  attach (true);
  write_bytes (0, 100000, 1);
  set_write_error (-EIO);
  job.request = request_parse (line, strlen (line), &unused);
  assert_non_null (job.request);
  assert_int_equal (request_lane (job.request), LANE_DRAIN);
  pthread_create (&thread, NULL, run_job, &job);
  while (!failed) {
    event = request_progress (job.request, &target);
    assert_true (json_object_object_get_ex (event, "progress", &progress));
    if (json_object_object_get_ex (progress, "error", &value)) {
      assert_string_equal (json_object_get_string (value),
                           "Input/output error");
      assert_true (json_object_object_get_ex (progress, "total_bytes",
                                              &value));
      assert_int_equal (json_object_get_int64 (value), 100000);
      failed = true;
    }
    json_object_put (event);
  }
  set_write_error (0);
  pthread_join (thread, NULL);
  reply = job.reply;
  assert_string_equal (text_of ("ok"), "true");
  assert_string_equal (text_of ("id"), "d");
  request_free (job.request);
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
a_drain_that_is_cancelled_ends (void **state)
{
  const char *line = "{\"command\":\"drain\"}";
  struct json_object *unused;
  struct job job;
  pthread_t thread;

  (void) state;
  attach (true);
  write_bytes (0, 100000, 1);
  set_write_error (-EIO);
  job.request = request_parse (line, strlen (line), &unused);
  pthread_create (&thread, NULL, run_job, &job);
  request_cancel (job.request);
  pthread_join (thread, NULL);
  reply = job.reply;
  assert_string_equal (text_of ("ok"), "false");
  request_free (job.request);
  assert_int_equal (cache_stop (cache, false, 0), 0);
}

static void
the_greeting_says_which_protocol (void **state)
{
  (void) state;
  reply = control_greeting (NULL);
  assert_int_equal (number_of ("protocol"), CONTROL_PROTOCOL);
  assert_string_equal (text_of ("pcache"), PACKAGE_VERSION);
  assert_string_equal (text_of ("error"), "(none)");
  json_object_put (reply);
  reply = control_greeting ("go away");
  assert_string_equal (text_of ("error"), "go away");
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (the_greeting_says_which_protocol),
    TEST (what_is_no_request_is_refused_with_words),
    TEST (a_reply_carries_the_id_of_its_request),
    TEST (long_texts_are_cut),
    TEST (settings_are_changed_and_told),
    TEST (status_comes_as_json_text_and_metrics),
    TEST (status_may_be_asked_for_at_any_time),
    TEST (the_map_has_no_more_cells_than_wanted),
    TEST (clean_data_is_dropped_and_dirty_data_is_not),
    TEST (a_drain_writes_everything_back),
    TEST (a_drain_can_leave_the_cache_device),
    TEST (write_back_is_paused_and_goes_on),
    TEST (a_drain_without_a_backing_store_says_so),
    TEST (a_drain_over_a_failing_store_ends_in_time_with_its_error),
    TEST (a_drain_shows_its_progress_and_goes_on_trying),
    TEST (a_drain_that_is_cancelled_ends),
  };

  seed_choose (argc, argv);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

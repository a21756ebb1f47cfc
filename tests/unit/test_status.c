/* SPDX-License-Identifier: BSD-3-Clause */

/* The status tells what has happened, the same in each form.
 *
 * With --metrics it prints the metrics of the example and ends: for
 * check-metrics.sh. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <json.h>

#include "base/cleanup.h"
#include "control/status.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"
#include "support/reports.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)

static struct memory_device *device;
static struct memory_backend *disk;
static struct cache *cache;
static struct cache_status status;
static uint8_t buf[MIB];

static int
set_up (void **state)
{
  reports_collect ();
  device = memory_device_new (12 * MIB, true);
  disk = memory_backend_new (4 * MIB);
  return 0;
}

static void
close_cache (void)
{
  cache_close (cache);
  cache = NULL;
}

static int
tear_down (void **state)
{
  close_cache ();
  memory_device_free (device);
  memory_backend_free (disk);
  return 0;
}

static void
open_cache (void)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;

  options.segment_size = MIB;
  options.heads = 1;
  options.regions = 4;
  options.seed = 1;
  options.setting[SETTING_gc_percent] = 60;
  assert_int_equal (cache_open (&options, memory_pmem_open (device), &cache),
                    0);
  assert_int_equal (cache_attach (cache, &disk->backend, "export"), 0);
}

static void
get (void)
{
  cache_get_status (cache, &status);
  status.device = "/dev/\"pmem\" \\ 1";
}

static void
write_at (uint64_t start, uint64_t length)
{
  assert_int_equal (cache_write (cache, buf, (struct range) { start, length },
                                 false), 0);
}

static void
read_at (uint64_t start, uint64_t length)
{
  assert_int_equal (cache_read (cache, buf, (struct range) { start, length }),
                    0);
}

/* 8 KiB at 0 and a trim are dirty; 4 KiB at 1 MiB are cached. */
static void
do_some_work (void)
{
  write_at (0, 8 * KIB);                        /* write */
  read_at (0, 4 * KIB);                         /* hit */
  read_at (4 * KIB, 8 * KIB);                   /* half a hit */
  read_at (MIB, 4 * KIB);                       /* miss, then hits */
  read_at (MIB, 4 * KIB);
  read_at (MIB, 4 * KIB);
  assert_int_equal (cache_flush (cache), 0);
  assert_int_equal (cache_prefetch (cache, (struct range) { 2 * MIB, KIB }),
                    0);
  assert_int_equal (cache_trim (cache, (struct range) { 3 * MIB, 2 * KIB },
                                true), 0);
  disk->read_error = -EIO;
  assert_int_equal (cache_read (cache, buf, (struct range) { 3 * MIB + 512 * KIB, 1 }),
                    -EIO);
  disk->read_error = 0;
}

static void
requests_are_counted_by_what_became_of_them (void **state)
{
  open_cache ();
  get ();
  assert_int_equal (status.hit_ratio, STATUS_UNKNOWN);
  assert_int_equal (status.byte_hit_ratio, STATUS_UNKNOWN);
  assert_int_equal (status.epochs_behind, 0);
  assert_false (status.dirty_tail.known);

  do_some_work ();
  get ();
  assert_int_equal (status.reads, 6);
  assert_int_equal (status.read_bytes, 24 * KIB + 1);
  assert_int_equal (status.read_hits, 3);
  assert_int_equal (status.read_partial_hits, 1);
  assert_int_equal (status.read_misses, 1);
  assert_int_equal (status.hit_ratio, 600000);
  assert_int_equal (status.read_hit_bytes, 16 * KIB);
  assert_int_equal (status.read_miss_bytes, 9 * KIB);   /* 1 prefetched */
  assert_int_equal (status.byte_hit_ratio, 640000);
  assert_int_equal (status.failed_requests, 1);
  assert_int_equal (status.backing_read_errors, 1);
  assert_int_equal (status.prefetches, 1);
  assert_int_equal (status.fua_writes, 1);
  /* Short ones are not all timed (stats.h), but the first is. */
  assert_in_range (status.read_latency.count, 1, 6);
  assert_int_equal (status.write_latency.count, 1);
  assert_int_equal (status.zero_latency.count, 1);
  assert_int_equal (status.flush_latency.count, 1);
  assert_true (status.read_latency.sum_ns > 0);
}

/* What dm-pcache's line has: where it writes, where the dirty data begins, where
 * the log does. */
static void
places_are_told (void **state)
{
  open_cache ();
  do_some_work ();
  get ();
  assert_int_equal (status.segments_total,
                    status.segments_free + status.segments_used);
  assert_int_equal (status.segments_used, 1);
  assert_int_equal (status.segments_open, 1);
  assert_int_equal (status.heads.count, 1);
  assert_true (status.heads.place[0].offset >= 13 * KIB);
  assert_false (status.tail.known);
  assert_true (status.dirty_tail.known);
  assert_int_equal (status.dirty_tail.segment, status.heads.place[0].segment);
  assert_true (status.dirty_tail.offset > status.heads.place[0].offset);
  assert_true (status.dirty_tail.offset <= MIB);
  /* The flush, and FUA, ended an epoch each. */
  assert_int_equal (status.oldest_dirty_epoch, 1);
  assert_int_equal (status.epoch, 3);
  assert_int_equal (status.epochs_behind, 3);
  assert_int_equal (status.epoch_written_back, 0);
  assert_int_equal (status.dirty_bytes, 10 * KIB);
  assert_int_equal (status.gc_percent, 60);
  for (const uint64_t age = status.oldest_dirty_ms;
       status.oldest_dirty_ms <= age; get ())
    usleep (500);
  assert_true (status.attached);
  assert_true (status.data_crc);
  assert_true (status.persistent_memory);
  assert_false (status.lost_data);

  assert_int_equal (cache_drain (cache, 10000), 0);
  get ();
  assert_int_equal (status.epochs_behind, 0);
  assert_int_equal (status.oldest_dirty_ms, 0);
  assert_false (status.dirty_tail.known);
  assert_int_equal (status.dirty_bytes, 0);
  assert_int_equal (status.epoch_written_back, 2);
  assert_int_equal (status.writeback_sent_bytes, 10 * KIB);
  assert_int_equal (status.writeback_bytes, 10 * KIB);
  assert_true (status.writeback_rate > 0);
  assert_int_equal (cache_stop (cache, false, 0), 0);
  get ();
  assert_true (status.tail.known);
  assert_int_equal (status.heads.count, 0);
}

static void
the_start_tells_what_it_found (void **state)
{
  open_cache ();
  do_some_work ();
  assert_int_equal (cache_flush (cache), 0);
  close_cache ();
  open_cache ();
  get ();
  /* One written, two read ahead or missed and one for half a hit, a trim. */
  assert_int_equal (status.replayed_records, 5);
  assert_int_equal (status.replay_dropped_records, 0);
  assert_int_equal (status.damaged_segments, 0);
  assert_int_equal (status.reads, 0);
}

static void
errors_of_the_backing_store_are_told_by_kind (void **state)
{
  open_cache ();
  write_at (0, 4 * KIB);
  disk->write_error = -EIO;
  assert_int_equal (cache_drain (cache, 1000), -EIO);
  disk->write_error = 0;
  disk->flush_error = -ENOSPC;
  assert_int_equal (cache_drain (cache, 1000), -ENOSPC);
  get ();
  assert_int_equal (status.writeback_error, -ENOSPC);
  assert_int_equal (status.backing_write_errors, 1);
  assert_int_equal (status.backing_flush_errors, 1);
  assert_int_equal (status.backing_zero_errors, 0);
  disk->flush_error = 0;
  assert_int_equal (cache_drain (cache, 1000), 0);
  /* A zero that fails is written, and that works. */
  assert_int_equal (cache_zero (cache, (struct range) { 0, 4 * KIB }, false,
                                false), 0);
  disk->zero_error = -ENOTSUP;
  assert_int_equal (cache_drain (cache, 1000), 0);
  get ();
  assert_int_equal (status.writeback_error, 0);
  assert_int_equal (status.backing_write_errors, 1);
  assert_int_equal (status.backing_zero_errors, 1);
}

/* Forms. ------------------------------------------------------------------- */

static char *
form (void (*make) (const struct cache_status *, FILE *))
{
  char *text = NULL;
  size_t length;
  FILE *fp = open_memstream (&text, &length);

  assert_non_null (fp);
  make (&status, fp);
  fclose (fp);
  return text;
}

static void
assert_has (const char *text, const char *words)
{
  if (strstr (text, words) == NULL)
    fail_msg ("no \"%s\" in:\n%s", words, text);
}

static struct json_object *
member (struct json_object *object, const char *name)
{
  struct json_object *value;

  if (!json_object_object_get_ex (object, name, &value))
    fail_msg ("no member %s", name);
  return value;
}

static const char *
json_text (struct json_object *object, const char *name)
{
  return json_object_to_json_string_ext (member (object, name),
                                         JSON_C_TO_STRING_PLAIN);
}

/* Every item of the list, and of its kind. */
static void
json_has_everything (void **state)
{
  struct json_object *json, *latency, *buckets;
  uint64_t requests = 0;
  size_t items = 0;

  open_cache ();
  get ();
  json = status_json (&status);
  assert_string_equal (json_text (json, "hit_ratio"), "null");
  assert_string_equal (json_text (json, "dirty_tail"), "null");
  json_object_put (json);

  do_some_work ();
  get ();
  status.writes = UINT64_MAX;
  json = status_json (&status);
  assert_non_null (json);
#define X(kind, name, unit, description)                        \
  if (strcmp (#kind, "SECTION") != 0) {                         \
    member (json, #name);                                       \
    items++;                                                    \
  }
  STATUS_LIST (X)
#undef X
  assert_int_equal (json_object_object_length (json), items);
  assert_string_equal (json_text (json, "hit_ratio"), "0.600000");
  assert_string_equal (json_text (json, "writes"), "18446744073709551615");
  assert_string_equal (json_text (json, "attached"), "true");
  assert_string_equal (json_text (json, "writeback_error"), "0");
  assert_string_equal (json_object_get_string (member (json, "device")),
                       status.device);
  assert_int_equal (json_object_get_int (member (member (json, "dirty_tail"),
                                                 "segment")),
                    status.dirty_tail.segment);
  assert_int_equal (json_object_array_length (member (json, "heads")), 1);
  latency = member (json, "read_latency");
  assert_true (json_object_get_int64 (member (latency, "p999_ns"))
               >= json_object_get_int64 (member (latency, "p50_ns")));
  buckets = member (latency, "buckets");
  for (size_t i = 0; i < json_object_array_length (buckets); i++)
    requests += json_object_get_uint64
      (json_object_array_get_idx (json_object_array_get_idx (buckets, i), 1));
  assert_int_equal (requests, status.read_latency.count);
  assert_int_equal (json_object_get_uint64 (member (latency, "count")),
                    requests);
  json_object_put (json);
}

static void
text_is_for_people (void **state)
{
  open_cache ();
  do_some_work ();
  get ();
  status.write_bytes = 3 * MIB / 2;
  status.oldest_dirty_ms = 61250;
  {
    CLEANUP_FREE char *text = form (status_text);

    assert_has (text, "Requests of clients\n  reads ");
    assert_has (text, " 1.50 MiB ");
    assert_has (text, " 61.25 s ");
    assert_has (text, " 60.00 %");
    assert_has (text, "\n  writeback_error          none ");
  }
}

/* pcache-statsfile: its old lines are as they were. */
static void
numbers_are_one_a_line (void **state)
{
  open_cache ();
  do_some_work ();
  get ();
  status.writeback_error = -5;
  {
    CLEANUP_FREE char *text = form (status_numbers);

    assert_true (strncmp (text, "reads: 6\nread_bytes: 24577\n", 27) == 0);
    assert_has (text, "\ndirty_bytes: 10240\n");
    assert_has (text, "\nwriteback_error: -5\n");
    assert_has (text, "\nhit_ratio: 0.600000\n");
    assert_has (text, "\nwrite_latency_count: 1\n");
    assert_has (text, "\nattached: 1\n");
  }
}

/* check-metrics.sh checks the form. */
static void
metrics_have_the_right_values (void **state)
{
#define LABEL "{device=\"/dev/\\\"pmem\\\" \\\\ 1\"}"
  open_cache ();
  do_some_work ();
  get ();
  status.oldest_dirty_ms = 61250;
  memset (&status.read_latency, 0, sizeof status.read_latency);
  status.read_latency.bucket[latency_bucket (100)] = 1;
  status.read_latency.bucket[latency_bucket (1023)] = 2;
  status.read_latency.bucket[latency_bucket (UINT64_MAX)] = 3;
  status.read_latency.count = 6;
  status.read_latency.sum_ns = 1500000000;
  {
    CLEANUP_FREE char *text = form (status_metrics);

    assert_has (text, "\npcache_reads_total" LABEL " 6\n");
    assert_has (text, "\npcache_read_bytes_total" LABEL " 24577\n");
    assert_has (text, "\n# TYPE pcache_read_bytes_total counter\n");
    assert_has (text, "\npcache_hit_ratio" LABEL " 0.600000\n");
    assert_has (text, "\npcache_oldest_dirty_seconds" LABEL " 61.250\n");
    assert_has (text, "\npcache_gc_ratio" LABEL " 0.60\n");
    assert_has (text, "\npcache_segment_size_bytes" LABEL " 1048576\n");
    assert_has (text, "\npcache_writeback_rate_bytes_per_second{");
    assert_has (text, "\npcache_heads_segment{device=");
    assert_has (text, ",head=\"0\"} ");
    assert_has (text, ",le=\"0.000000256\"} 1\n");
    assert_has (text, ",le=\"0.000000512\"} 1\n");
    assert_has (text, ",le=\"0.000001024\"} 3\n");
    assert_has (text, ",le=\"274.877906944\"} 3\n");
    assert_has (text, ",le=\"+Inf\"} 6\n");
    assert_has (text, "\npcache_read_latency_seconds_sum" LABEL
                " 1.500000000\n");
    assert_has (text, "\npcache_read_latency_seconds_count" LABEL " 6\n");
  }
  status.device = NULL;
  {
    CLEANUP_FREE char *text = form (status_metrics);

    assert_has (text, "\npcache_reads_total 6\n");
    assert_has (text, "\npcache_heads_segment{head=\"0\"} ");
  }
}

static void
print_metrics (void)
{
  set_up (NULL);
  open_cache ();
  do_some_work ();
  assert_int_equal (cache_drain (cache, 10000), 0);
  write_at (0, 512);
  get ();
  status_metrics (&status, stdout);
  tear_down (NULL);
}

int
main (int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (requests_are_counted_by_what_became_of_them),
    TEST (places_are_told),
    TEST (the_start_tells_what_it_found),
    TEST (errors_of_the_backing_store_are_told_by_kind),
    TEST (json_has_everything),
    TEST (text_is_for_people),
    TEST (numbers_are_one_a_line),
    TEST (metrics_have_the_right_values),
  };

  if (argc == 2 && strcmp (argv[1], "--metrics") == 0) {
    print_metrics ();
    return 0;
  }
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* What a writer waits for.  While there is a free segment: for no write-back and
 * no eviction.  In a full cache with something clean in it: for the eviction of
 * one segment.
 *
 * Told without a clock: write-back or eviction is held somewhere on its way, and
 * what has to go on does so meanwhile. */

#include <config.h>

#include <assert.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "engine/cache.h"
#include "engine/format.h"
#include "support/media_tools.h"
#include "support/whole_cache.h"

#define MIB (UINT64_C (1) << 20)
#define DISK (64 * MIB)
#define SEGMENTS 24
#define BLOCK UINT64_C (65536)
#define BLOCKS_IN_SEGMENT 15    /* and what they need besides */

/* Whoever has not done by then never will. */
#define PATIENCE_MS 20000

/* --- who is held where ------------------------------------------------ */

enum place {
  NOWHERE,
  IN_WRITEBACK,                 /* before data goes to the backing store */
  AT_SECOND_CHANCE,             /* an eviction copies what was hit */
  AT_TAIL,                      /* before it moves the tail */
  AT_HEADER,                    /* the segment is free on media */
};

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  enum place place;             /* lock */
  unsigned arrived, let_go;     /* lock */
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Not a service. */
static _Thread_local bool is_client;

static void
gate_close (enum place place)
{
  HOLD_LOCK (&gate.lock);

  gate.place = place;
  gate.arrived = gate.let_go = 0;
}

static void
gate_let_go (unsigned count)
{
  HOLD_LOCK (&gate.lock);

  gate.let_go += count;
  pthread_cond_broadcast (&gate.changed);
}

static void
gate_open (void)
{
  HOLD_LOCK (&gate.lock);

  gate.place = NOWHERE;
  pthread_cond_broadcast (&gate.changed);
}

/* So many have come, in all. */
static void
gate_wait (unsigned arrived)
{
  const uint64_t until = now_ms () + PATIENCE_MS;
  bool came = true;

  {
    HOLD_LOCK (&gate.lock);
    while (gate.arrived < arrived && came)
      came = cond_wait_until (&gate.changed, &gate.lock, until);
  }
  assert_true (came);
}

static void
pass (enum place place)
{
  HOLD_LOCK (&gate.lock);
  unsigned number;

  if (gate.place != place)
    return;
  number = ++gate.arrived;
  pthread_cond_broadcast (&gate.changed);
  while (gate.place == place && gate.let_go < number)
    pthread_cond_wait (&gate.changed, &gate.lock);
}

static void
hold_writeback (struct memory_backend *mb, enum backend_event event,
                struct range range, const void *data, void *opaque)
{
  if (event == BACKEND_WRITE && !is_client)
    pass (IN_WRITEBACK);
}

/* Of eviction alone: the segment it has seen freed last. */
static struct {
  uint32_t id;
  uint64_t generation;
} freed;

static void
hold_eviction (struct memory_device *d, enum memory_event event, uint64_t at,
               size_t length, void *opaque)
{
  if (is_client)
    return;
  if (event == MEMORY_BEFORE_COPY) {
    if (at == CONTROL_AT (0) || at == CONTROL_AT (1))
      pass (AT_TAIL);
    else if (length > SET_MAX_BYTES)    /* so it is data */
      pass (AT_SECOND_CHANCE);
  }
  else if (event == MEMORY_COPIED
           && length == sizeof (struct media_segment)) {
    struct media_segment header;

    memcpy (&header, d->bytes + at, sizeof header);
    /* The first of its copies only. */
    if (le64_get (header.twin.magic) == MAGIC_SEGMENT
        && le32_get (header.state) == SEGMENT_FREE
        && (le32_get (header.id) != freed.id
            || le64_get (header.generation) != freed.generation)) {
      freed.id = le32_get (header.id);
      freed.generation = le64_get (header.generation);
      pass (AT_HEADER);
    }
  }
}

/* --- the cache -------------------------------------------------------- */

static int
set_up (void **state)
{
  (void) state;
  is_client = true;
  freed.generation = 0;
  set_up_cache ((SEGMENTS + 2) * MIB, DISK);
  options.heads = 1;
  disk->before = hold_writeback;
  device->hook = hold_eviction;
  return 0;
}

static int
tear_down (void **state)
{
  gate_open ();                 /* a test that failed left it closed */
  return tear_down_cache (state);
}

static uint64_t
counted (enum stats_counter which)
{
  return stats_get (cache_stats (cache), which);
}

/* --- a writer on its own thread --------------------------------------- */

struct writer {
  pthread_t thread;
  uint64_t at;
  unsigned count;               /* of blocks */
  _Atomic bool stop, is_done;
};

static void *
write_blocks (void *opaque)
{
  struct writer *writer = opaque;
  static const uint8_t data[BLOCK] = { 1 };

  is_client = true;
  for (unsigned i = 0; i < writer->count && !writer->stop; i++) {
    const struct range range = { (writer->at + i * BLOCK) % DISK, BLOCK };
    int r = cache_write (cache, data, range, false);

    assert (r == 0);
    (void) r;
  }
  writer->is_done = true;
  return NULL;
}

static void
start_writer (struct writer *writer, uint64_t at, unsigned count)
{
  *writer = (struct writer) { .at = at, .count = count };
  assert_int_equal (pthread_create (&writer->thread, NULL, write_blocks,
                                    writer), 0);
}

static bool
ends_in_time (struct writer *writer)
{
  const uint64_t until = now_ms () + PATIENCE_MS;

  while (!writer->is_done && now_ms () < until)
    usleep (1000);
  return writer->is_done;
}

/* --- a free segment --------------------------------------------------- */

/* There is room for this in the free segments. */
static void
expect_writer_goes_on (unsigned blocks)
{
  struct writer writer;
  bool ended;

  start_writer (&writer, 0, blocks);
  ended = ends_in_time (&writer);
  gate_open ();
  pthread_join (writer.thread, NULL);
  assert_true (ended);
  assert_int_equal (counted (STAT_space_waits), 0);
}

static void
a_writer_does_not_wait_for_write_back (void **state)
{
  (void) state;
  options.setting[SETTING_writeback_delay] = 0;
  gate_close (IN_WRITEBACK);
  open_cache (true);
  write_bytes (0, BLOCK, 1);
  gate_wait (1);
  /* Over what is being written back, too. */
  expect_writer_goes_on (20 * BLOCKS_IN_SEGMENT);
}

static void
a_writer_does_not_wait_for_an_eviction (void **state)
{
  (void) state;
  for (enum place place = AT_SECOND_CHANCE; place <= AT_HEADER; place++) {
    open_cache (true);
    assert_int_equal (cache_prefetch (cache, (struct range) { 0, 10 * MIB }),
                      0);
    /* A hit. */
    assert_int_equal (cache_read (cache, buf, (struct range) { 0, 4 * MIB }),
                      0);
    gate_close (place);
    assert_int_equal (cache_set (cache, SETTING_gc_percent, 30), 0);
    gate_wait (1);
    /* Over what is being evicted, too. */
    expect_writer_goes_on (8 * BLOCKS_IN_SEGMENT);
    close_cache ();
    memset (device->bytes, 0, device->size);
    freed.generation = 0;
  }
}

/* --- none ------------------------------------------------------------- */

#define WRITERS 4

static void
wait_for_waiters (uint64_t count)
{
  const uint64_t until = now_ms () + PATIENCE_MS;

  while (counted (STAT_space_waits) < count && now_ms () < until)
    usleep (1000);
  assert_int_equal (counted (STAT_space_waits), count);
}

/* One that has to wait is done when one segment has been evicted, unless others
 * fill it first.  The next eviction is held until all are done. */
static void
in_a_full_cache_writers_wait_for_one_eviction (void **state)
{
  struct writer filler, writer[WRITERS];
  bool ended = true;
  uint64_t evicted;

  (void) state;
  gate_close (AT_HEADER);
  open_cache (true);
  assert_int_equal (cache_prefetch (cache, (struct range) { 0, 12 * MIB }),
                    0);
  /* It finds out when the cache is full. */
  start_writer (&filler, 16 * MIB, SEGMENTS * 16);
  gate_wait (1);
  wait_for_waiters (1);
  filler.stop = true;
  for (unsigned i = 0; i < WRITERS; i++)
    start_writer (&writer[i], i * BLOCK, 1);
  wait_for_waiters (1 + WRITERS);
  assert_int_equal (counted (STAT_evicted_segments), 0);

  gate_let_go (1);
  for (unsigned i = 0; i < WRITERS; i++)
    ended &= ends_in_time (&writer[i]);
  ended &= ends_in_time (&filler);
  evicted = counted (STAT_evicted_segments);
  gate_open ();
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (writer[i].thread, NULL);
  pthread_join (filler.thread, NULL);
  assert_true (ended);
  assert_int_equal (evicted, 1);
}

int
main (void)
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (a_writer_does_not_wait_for_write_back),
    TEST (a_writer_does_not_wait_for_an_eviction),
    TEST (in_a_full_cache_writers_wait_for_one_eviction),
  };

  cond_init (&gate.changed);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* Media errors for real: SIGBUS under a running cache, on the real devices.
 *
 * A page of the cache device's mapping is poisoned (userfaultfd's
 * UFFDIO_POISON, Linux 6.6, on tmpfs), so that whoever touches it gets the
 * signal that a bad page of persistent memory gives; or the file is made shorter
 * underneath.  Everything hangs on where: in data that the backing store has as
 * well, in data that it has not, in record sets, in each copy of what is
 * doubled.
 *
 * Meanwhile two other threads read and write elsewhere and must not
 * notice.
 *
 *   test_media          both
 *   test_media pmem     the device is taken for persistent memory
 *   test_media file     the device is an ordinary file: its stores are writes,
 *                       which do not notice that the mapping is poisoned */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/userfaultfd.h>

#include <cmocka.h>

#include "engine/cache.h"
#include "faults/expected.h"
#include "pmem/device.h"
#include "support/media_tools.h"
#include "support/memory_backend.h"
#include "support/reports.h"

/* Headers older than Linux 6.6 do not have it. */
#ifndef UFFDIO_POISON
struct uffdio_poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#define UFFDIO_POISON _IOWR (UFFDIO, 0x08, struct uffdio_poison)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)
#define PAGE UINT64_C (4096)
#define DISK (4 * MIB)
#define DEVICE (16 * MIB)
#define BEFORE 1                /* what the disk was: an id for change_bytes */

/* The other threads' part of the disk. */
#define ELSEWHERE (3 * MIB)

static bool is_pmem;            /* which of the two runs this is */
static char directory[128], path[256];
static int fd = -1;             /* of the device, the test's own */
static struct pmem *pmem;       /* the cache's, or to become so */
static struct cache *cache;
static struct memory_backend *mb;
static bool rescue;
static bool replay_all;         /* no checkpoint */

static _Atomic bool others_stop, others_failed;
static _Atomic unsigned others_rounds[2];
static pthread_t other[2];
static bool others_live;

/* --- poison ----------------------------------------------------------- */

/* Where the device is mapped. */
static uint64_t
mapping (void)
{
  FILE *f = fopen ("/proc/self/maps", "r");
  uint64_t start = 0;
  char line[512];

  assert_non_null (f);
  while (start == 0 && fgets (line, sizeof line, f))
    if (strstr (line, path))
      start = strtoull (line, NULL, 16);
  fclose (f);
  assert_int_not_equal (start, 0);
  return start;
}

static int
open_userfaultfd (void)
{
  struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_POISON };
  int uffd = syscall (SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

  if (uffd >= 0 && ioctl (uffd, UFFDIO_API, &api) == -1) {
    close (uffd);
    uffd = -1;
  }
  return uffd;
}

static bool
can_poison (void)
{
  const int uffd = open_userfaultfd ();
  struct statfs st;

  if (uffd < 0)
    return false;
  close (uffd);
  return statfs (directory, &st) == 0 && st.f_type == TMPFS_MAGIC;
}

/* The pages around RANGE of the device can be touched no more through the
 * cache's mapping.  The file still has them: closing the device heals it. */
static void
poison (uint64_t at, uint64_t length)
{
  const uint64_t start = at / PAGE * PAGE;
  const uint64_t bytes = round_up (at + length, PAGE) - start;
  const struct uffdio_range range = { mapping () + start, bytes };
  struct uffdio_register registration = {
    .range = range, .mode = UFFDIO_REGISTER_MODE_MISSING,
  };
  struct uffdio_poison poisoning = { .range = range };
  const int uffd = open_userfaultfd ();
  char *saved = malloc (bytes);

  assert_true (uffd >= 0);
  assert_non_null (saved);
  assert_int_equal (pread (fd, saved, bytes, start), bytes);
  assert_int_equal (ioctl (uffd, UFFDIO_REGISTER, &registration), 0);
  /* Only what is missing can be poisoned. */
  assert_int_equal (fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               start, bytes), 0);
  assert_int_equal (ioctl (uffd, UFFDIO_POISON, &poisoning), 0);
  assert_int_equal (ioctl (uffd, UFFDIO_UNREGISTER, &registration.range), 0);
  close (uffd);
  assert_int_equal (pwrite (fd, saved, bytes, start), bytes);
  free (saved);
}

/* --- the cache -------------------------------------------------------- */

static void
open_device (uint64_t create_size)
{
  const struct device_options options = { path, create_size };

  assert_null (pmem);
  assert_int_equal (device_open (&options, &pmem), 0);
  assert_string_equal (pmem->kind, is_pmem ? "pmem" : "file");
}

/* The device is open.  Nothing is written back unless a drain asks. */
static int
try_open_cache (void)
{
  struct cache_options o = CACHE_OPTIONS_DEFAULT;
  int r;

  o.segment_size = MIB;
  o.heads = 1;
  o.setting[SETTING_writeback_delay] = 3600 * 1000;
  o.writeback_threads = 2;
  o.setting[SETTING_space_timeout] = 200;
  o.rescue = rescue;
  o.checkpoint = !replay_all;
  reports_collect ();
  r = cache_open (&o, pmem, &cache);
  if (r < 0) {
    cache = NULL;
    return r;
  }
  assert_int_equal (cache_start (cache), 0);
  assert_int_equal (cache_attach (cache, &mb->backend, "x"), 0);
  return 0;
}

static void
open_cache (void)
{
  assert_int_equal (try_open_cache (), 0);
}

/* As a kill does, but for what is in the kernel. */
static void
kill_cache (void)
{
  cache_close (cache);
  cache = NULL;
  pmem = NULL;
}

static void
close_device (void)
{
  pmem_close (pmem);
  pmem = NULL;
}

static void
reopen (void)
{
  open_device (0);
  open_cache ();
}

static void
others_join (void)
{
  others_stop = true;
  for (int i = 0; others_live && i < 2; i++)
    pthread_join (other[i], NULL);
  others_live = false;
}

static void
remove_directory (void)
{
  if (fd >= 0)
    close (fd);
  fd = -1;
  unlink (path);
  rmdir (directory);
}

static int
begin (void **state)
{
  (void) state;
  snprintf (directory, sizeof directory, "/dev/shm/pcache-XXXXXX");
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/device", directory);
  cache = NULL;
  pmem = NULL;
  rescue = false;
  replay_all = false;
  mb = memory_backend_new (DISK);
  change_bytes (mb->bytes, (struct range) { 0, DISK }, BEFORE);
  return 0;
}

static int
end (void **state)
{
  (void) state;
  others_join ();               /* a test that failed did not */
  if (cache)
    cache_close (cache);
  else
    pmem_close (pmem);
  cache = NULL;
  pmem = NULL;
  memory_backend_free (mb);
  remove_directory ();
  return 0;
}

static int
put (uint64_t start, uint64_t length, uint64_t id)
{
  uint8_t *buf = malloc (length);
  int r;

  assert_non_null (buf);
  change_bytes (buf, (struct range) { start, length }, id);
  r = cache_write (cache, buf, (struct range) { start, length }, false);
  free (buf);
  return r;
}

static void
must_put (uint64_t start, uint64_t length, uint64_t id)
{
  const int r = put (start, length, id);

  if (r < 0)
    fail_msg ("write %" PRIu64 "+%" PRIu64 ": %s; reported:\n%s", start,
              length, strerror (-r), reports_text (REPORT_ERROR));
}

static void
expect (uint64_t start, uint64_t length, uint64_t id)
{
  uint8_t *buf = malloc (length), *wanted = malloc (length);

  assert_non_null (buf);
  assert_non_null (wanted);
  change_bytes (wanted, (struct range) { start, length }, id);
  assert_int_equal (cache_read (cache, buf, (struct range) { start, length }),
                    0);
  assert_memory_equal (buf, wanted, length);
  free (buf);
  free (wanted);
}

/* Each single sector of it. */
static void
expect_lost (uint64_t start, uint64_t length)
{
  uint8_t buf[512];

  for (uint64_t at = start; at < start + length; at += sizeof buf)
    assert_int_equal (cache_read (cache, buf, (struct range) { at, 512 }),
                      -EIO);
}

static void
expect_in_backing_store (uint64_t start, uint64_t length, uint64_t id)
{
  uint8_t *wanted = malloc (length);

  assert_non_null (wanted);
  change_bytes (wanted, (struct range) { start, length }, id);
  assert_memory_equal (mb->bytes + start, wanted, length);
  free (wanted);
}

static void
drain (void)
{
  assert_int_equal (cache_drain (cache, 10000), 0);
}

static uint64_t
counted (enum stats_counter which)
{
  return stats_get (cache_stats (cache), which);
}

/* What lies on the device now. */
static struct memory_device *
look_at_device (void)
{
  struct memory_device *device = memory_device_new (DEVICE, true);

  for (uint64_t at = 0; at < DEVICE; at += MIB)
    assert_int_equal (pread (fd, device->bytes + at, MIB, at), MIB);
  return device;
}

/* Where the device has the data that write ID (0x10000 bytes or less) stored
 * for START. */
static uint64_t
place_of (uint64_t start, uint64_t id)
{
  struct memory_device *device = look_at_device ();
  uint8_t wanted[64];
  uint64_t found = 0;

  change_bytes (wanted, (struct range) { start, sizeof wanted }, id);
  for (uint64_t at = 2 * MIB; at < DEVICE; at += 64)
    if (memcmp (device->bytes + at, wanted, sizeof wanted) == 0) {
      assert_int_equal (found, 0);
      found = at;
    }
  assert_int_not_equal (found, 0);
  memory_device_free (device);
  return found;
}

/* The segment that lies around a place. */
static uint32_t
segment_around (uint64_t place)
{
  struct memory_device *device = look_at_device ();
  const uint32_t id = (place - segment_start (device, 0)) / MIB;

  memory_device_free (device);
  return id;
}

static uint64_t
place_of_set (uint32_t segment, uint32_t ordinal)
{
  struct memory_device *device = look_at_device ();
  const uint64_t at = set_at (device, segment, ordinal);

  memory_device_free (device);
  assert_int_not_equal (at, 0);
  return at;
}

/* --- the other threads ------------------------------------------------ */

static void *
go_on_elsewhere (void *opaque)
{
  const unsigned me = *(unsigned *) opaque;
  const uint64_t start = ELSEWHERE + me * 64 * KIB;
  static const unsigned pause_us = 500;
  uint8_t mine[4096], back[4096];

  for (uint64_t id = 500; !others_stop; id++) {
    const struct range range = { start + id % 16 * sizeof mine, sizeof mine };

    change_bytes (mine, range, id);
    if (cache_write (cache, mine, range, false) != 0
        || cache_read (cache, back, range) != 0
        || memcmp (mine, back, sizeof mine) != 0)
      others_failed = true;
    others_rounds[me]++;
    usleep (pause_us);
  }
  return NULL;
}

static void
others_begin (void)
{
  static unsigned number[2] = { 0, 1 };

  others_stop = others_failed = false;
  others_live = true;
  for (int i = 0; i < 2; i++) {
    others_rounds[i] = 0;
    assert_int_equal (pthread_create (&other[i], NULL, go_on_elsewhere,
                                      &number[i]), 0);
  }
}

/* Until each has gone on a little. */
static void
others_wait (void)
{
  for (int i = 0; i < 2; i++) {
    const unsigned until = others_rounds[i] + 3;

    while (others_rounds[i] < until)
      usleep (200);
  }
}

/* They went on after this was called, and nothing happened to them. */
static void
others_end (void)
{
  others_wait ();
  others_join ();
  assert_false (others_failed);
}

/* --- data ------------------------------------------------------------- */

/* Not before the test itself runs: cmocka puts its own handler of SIGBUS in
 * place just before. */
#define START()                                                         \
  do {                                                                  \
    if (!can_poison ()) {                                               \
      print_message ("no UFFDIO_POISON (Linux 6.6), or no tmpfs\n");    \
      skip ();                                                          \
    }                                                                   \
    start ();                                                           \
  } while (0)

static void
start (void)
{
  open_device (DEVICE);
  fd = open (path, O_RDWR | O_CLOEXEC);
  assert_true (fd >= 0);
  open_cache ();
}

/* P4: invisibly. */
static void
clean_data_is_read_again (void **state)
{
  uint64_t filled, written;

  (void) state;
  START ();
  /* Once it came from the backing store, once it was written back. */
  expect (128 * KIB, 64 * KIB, BEFORE);
  must_put (256 * KIB, 64 * KIB, 2);
  drain ();
  filled = place_of (128 * KIB, BEFORE);
  written = place_of (256 * KIB, 2);
  /* Not before: it takes time to find them, in which others fill the cache, and
   * then they would be evicted. */
  others_begin ();
  poison (filled + 3 * PAGE, 1);
  poison (written + 7 * PAGE, 1);
  for (int i = 0; i < 3; i++) {
    expect (128 * KIB, 64 * KIB, BEFORE);
    expect (256 * KIB, 64 * KIB, 2);
  }
  others_end ();
  assert_int_equal (counted (STAT_healed_bytes), 128 * KIB);
  assert_true (counted (STAT_media_errors) >= 2);
  assert_int_equal (counted (STAT_lost_bytes), 0);
  assert_int_equal (reports_count (REPORT_ERROR), 0);
  /* A part of a record: its checksum needs the rest of it. */
  expect (512 * KIB, 64 * KIB, BEFORE);
  poison (place_of (512 * KIB, BEFORE) + 15 * PAGE, 1);
  expect (512 * KIB + 100, 50, BEFORE);
}

/* P4: EIO for exactly its range until it is overwritten; counted, logged,
 * never written back; also by the next one who opens the cache. */
static void
dirty_data_is_lost_and_says_so (void **state)
{
  (void) state;
  START ();
  must_put (0, 192 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  others_begin ();
  poison (place_of (64 * KIB, 2) + 5 * PAGE, 1);
  expect_lost (64 * KIB, 64 * KIB);
  expect (0, 64 * KIB, 2);
  expect (128 * KIB, 64 * KIB, 2);
  assert_true (reports_have (REPORT_ERROR, "dirty data at 65536+|media error|"
                             "EIO until it is overwritten"));
  assert_true (counted (STAT_media_errors) > 0);
  /* Not before it would have to be written back: until then it may yet be
   * overwritten. */
  assert_int_equal (counted (STAT_lost_bytes), 0);

  drain ();
  assert_true (reports_have (REPORT_ERROR, "dirty data at 65536+65536|"
                             "cannot be written back"));
  expect_in_backing_store (0, 64 * KIB, 2);
  expect_in_backing_store (64 * KIB, 64 * KIB, BEFORE);
  expect_in_backing_store (128 * KIB, 64 * KIB, 2);
  expect_lost (64 * KIB, 64 * KIB);
  expect (0, 64 * KIB, 2);
  others_end ();
  drain ();
  assert_int_equal (counted (STAT_lost_bytes), 64 * KIB);       /* once */

  assert_int_equal (cache_stop (cache, true, 10000), 0);
  kill_cache ();
  reopen ();
  expect_lost (64 * KIB, 64 * KIB);
  must_put (64 * KIB, 16 * KIB, 3);
  expect (64 * KIB, 16 * KIB, 3);
  expect_lost (80 * KIB, 48 * KIB);
  must_put (80 * KIB, 48 * KIB, 4);
  expect (80 * KIB, 48 * KIB, 4);
  drain ();
  expect_in_backing_store (64 * KIB, 16 * KIB, 3);
  expect_in_backing_store (80 * KIB, 48 * KIB, 4);
}

/* Nobody read it before write-back did. */
static void
write_back_finds_it_first (void **state)
{
  (void) state;
  START ();
  must_put (0, 192 * KIB, 2);
  poison (place_of (0, 2), 1);
  drain ();
  expect_lost (0, 64 * KIB);
  expect (64 * KIB, 128 * KIB, 2);
  expect_in_backing_store (0, 64 * KIB, BEFORE);
  expect_in_backing_store (64 * KIB, 128 * KIB, 2);
  assert_int_equal (counted (STAT_lost_bytes), 64 * KIB);
  /* A kill right afterwards does not make it look clean. */
  kill_cache ();
  reopen ();
  expect_lost (0, 64 * KIB);
}

/* Free space is bad: writes go elsewhere. */
static void
writes_avoid_a_bad_page (void **state)
{
  uint64_t next;

  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  next = place_of (0, 2) + 64 * KIB;
  poison (next, 1);
  /* Whoever comes first meets it, and does not notice; but a file takes
   * the write, and then it had better be this one. */
  if (is_pmem)
    others_begin ();
  must_put (MIB, 64 * KIB, 3);
  if (!is_pmem)
    others_begin ();
  for (uint64_t i = 1; i < 8; i++)
    must_put (MIB + i * 64 * KIB, 64 * KIB, 3);
  assert_int_equal (cache_flush (cache), 0);
  if (is_pmem)
    expect (MIB, 8 * 64 * KIB, 3);
  others_end ();
  drain ();
  /* A file takes the write; that it cannot be read is noticed later. */
  expect_in_backing_store (MIB + 64 * KIB, 7 * 64 * KIB, 3);
  expect_in_backing_store (MIB, 64 * KIB, is_pmem ? 3 : BEFORE);
  if (!is_pmem)
    expect_lost (MIB, 64 * KIB);
  assert_int_equal (counted (STAT_lost_bytes), is_pmem ? 0 : 64 * KIB);
}

static void
cut_file (uint64_t size)
{
  assert_int_equal (ftruncate (fd, size), 0);
}

/* The whole log is gone from one moment to the next. */
static void
a_file_cut_short_is_survived (void **state)
{
  uint64_t cut;

  (void) state;
  START ();
  /* In a segment that is known to have nothing dirty. */
  must_put (128 * KIB, 64 * KIB, 5);
  cut = place_of (128 * KIB, 5) / MIB * MIB;
  assert_int_equal (cache_stop (cache, true, 10000), 0);
  kill_cache ();
  reopen ();
  must_put (0, 64 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  assert_true (place_of (0, 2) > cut);
  cut_file (cut);
  expect (128 * KIB, 64 * KIB, 5);
  /* (Looking for its record set touches every line of the segment.) */
  expect_lost (32 * KIB, 512);
  assert_true (counted (STAT_media_errors) > 0);

  if (is_pmem) {
    for (int i = 0; i < 10; i++)
      assert_int_equal (put (MIB, 64 * KIB, 3), -EIO);
    expect (MIB, 64 * KIB, BEFORE);     /* as it was before */
  }
  else {
    must_put (MIB, 64 * KIB, 3);        /* which makes the file longer */
    expect (MIB, 64 * KIB, 3);
  }
  expect (2 * MIB, 64 * KIB, BEFORE);
  /* Memory knows what was dirty, and what can be read of it is written back.
   * That the rest is lost has to be said where the next one who opens the cache
   * finds it: no such place, no drain. */
  assert_int_equal (cache_drain (cache, 10000), is_pmem ? -EIO : 0);
  expect_in_backing_store (0, 64 * KIB, BEFORE);
  expect_in_backing_store (MIB, 64 * KIB, is_pmem ? BEFORE : 3);
  assert_int_equal (counted (STAT_lost_bytes), 64 * KIB);
  expect_lost (0, 64 * KIB);
  assert_true (cache_stop (cache, false, 0) == 0 || is_pmem);
  kill_cache ();

  if (is_pmem) {
    open_device (0);
    assert_int_equal (try_open_cache (), -EMEDIUMTYPE);
    assert_true (reports_have (REPORT_ERROR, "device has only|truncated"));
    close_device ();
  }
}

/* Reads and writes are under way while the file is cut, and until it has its
 * length again. */
static void
a_file_is_cut_under_many_threads (void **state)
{
  uint64_t size;
  struct stat st;

  (void) state;
  START ();
  assert_int_equal (fstat (fd, &st), 0);
  size = st.st_size;
  for (int round = 0; round < 20; round++) {
    others_begin ();
    others_wait ();
    cut_file (2 * MIB + round * 512 * KIB);
    others_wait ();
    cut_file (size);
    others_join ();
  }
  /* Alive; and what nobody had cached is what it was. */
  expect (2 * MIB, 64 * KIB, BEFORE);
}

/* --- record sets ------------------------------------------------------ */

/* All of the segment is in the backing store as well. */
static void
a_bad_set_of_clean_data_costs_nothing (void **state)
{
  uint32_t id;

  (void) state;
  START ();
  replay_all = true;            /* a checkpoint does not ask for it */
  must_put (0, 256 * KIB, 2);
  id = segment_around (place_of (0, 2));
  assert_int_equal (cache_stop (cache, true, 10000), 0);
  kill_cache ();
  open_device (0);
  poison (place_of_set (id, 0), 1);
  open_cache ();
  assert_true (reports_have (REPORT_WARNING, "record set 0|media error"));
  assert_true (reports_have (REPORT_WARNING, "nothing is lost"));
  assert_int_equal (counted (STAT_damaged_segments), 1);
  expect (0, 256 * KIB, 2);
  expect (MIB, 64 * KIB, BEFORE);
  must_put (0, 64 * KIB, 3);
  drain ();
  expect_in_backing_store (0, 64 * KIB, 3);
}

/* Nobody knows what it held: refused by name, or what is left. */
static void
refused_but_for_rescue (uint32_t id, uint64_t bad)
{
  char words[64];

  open_device (0);
  poison (bad, 1);
  assert_int_equal (try_open_cache (), -EUCLEAN);
  snprintf (words, sizeof words, "segment %" PRIu32 "|pcache-damaged=rescue",
            id);
  assert_true (reports_have (REPORT_ERROR, words));
  close_device ();

  /* It is still all there, if the page comes back. */
  reopen ();
  expect (0, 64 * KIB, 2);
  expect (64 * KIB, 64 * KIB, 3);
  kill_cache ();

  rescue = true;
  open_device (0);
  poison (bad, 1);
  open_cache ();
  expect (MIB, 64 * KIB, BEFORE);
  must_put (0, 64 * KIB, 4);
  expect (0, 64 * KIB, 4);
}

static void
a_bad_set_of_a_sealed_segment_is_refused (void **state)
{
  uint32_t id;

  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  must_put (64 * KIB, 64 * KIB, 3);
  id = segment_around (place_of (0, 2));
  assert_int_equal (cache_stop (cache, false, 0), 0);
  kill_cache ();
  refused_but_for_rescue (id, place_of_set (id, 0));
}

/* T8: an unreadable set is not the end of the log. */
static void
a_bad_last_set_of_an_open_segment_is_refused (void **state)
{
  uint32_t id;

  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  must_put (64 * KIB, 64 * KIB, 3);
  assert_int_equal (cache_flush (cache), 0);
  id = segment_around (place_of (0, 2));
  kill_cache ();
  refused_but_for_rescue (id, place_of_set (id, 1));
}

/* Write-back cannot read the set that it has to write back, but memory knows what
 * was in it. */
static void
a_bad_set_of_a_running_cache_is_written_back (void **state)
{
  uint64_t bad;
  uint32_t id;

  (void) state;
  START ();
  replay_all = true;
  must_put (0, 64 * KIB, 2);
  must_put (16 * KIB, 16 * KIB, 3);
  assert_int_equal (cache_flush (cache), 0);
  id = segment_around (place_of (0, 2));
  bad = place_of_set (id, 0);
  poison (bad, 1);
  others_begin ();
  must_put (32 * KIB, 16 * KIB, 4);     /* a later epoch */
  drain ();
  assert_true (reports_have (REPORT_ERROR, "record set 0|media error|"
                             "what memory still knows of it is written back"));
  for (int i = 0; i < 2; i++) {
    expect (0, 16 * KIB, 2);
    expect (16 * KIB, 16 * KIB, 3);
    expect (32 * KIB, 16 * KIB, 4);
    expect (48 * KIB, 16 * KIB, 2);
    expect_in_backing_store (0, 16 * KIB, 2);
    expect_in_backing_store (16 * KIB, 16 * KIB, 3);
    expect_in_backing_store (32 * KIB, 16 * KIB, 4);
    expect_in_backing_store (48 * KIB, 16 * KIB, 2);
    if (i == 0) {
      others_end ();
      assert_int_equal (counted (STAT_lost_bytes), 0);
      assert_int_equal (cache_stop (cache, true, 10000), 0);
      kill_cache ();
      /* The page is as bad as it was. */
      open_device (0);
      poison (bad, 1);
      open_cache ();
      assert_int_equal (counted (STAT_damaged_segments), 1);
      assert_true (reports_have (REPORT_WARNING, "nothing is lost"));
    }
  }
}

/* The place of the next set takes no store: the flush finds another one.  A file
 * takes it, and cannot be read there afterwards. */
static void
a_bad_place_for_a_set_fails_no_flush (void **state)
{
  uint64_t bad;

  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  bad = round_up (place_of (0, 2) + 1, MIB) - 1;
  poison (bad, 1);
  others_begin ();
  assert_int_equal (cache_flush (cache), 0);
  must_put (64 * KIB, 64 * KIB, 3);
  assert_int_equal (cache_flush (cache), 0);
  expect (0, 64 * KIB, 2);
  expect (64 * KIB, 64 * KIB, 3);
  others_end ();
  if (is_pmem) {
    assert_true (reports_have (REPORT_WARNING, "refuses a record set"));
    /* P1, whether or not that page can be read again. */
    for (int i = 0; i < 2; i++) {
      kill_cache ();
      open_device (0);
      if (i == 0)
        poison (bad, 1);
      open_cache ();
      assert_int_equal (counted (STAT_damaged_segments), 0);
      expect (0, 64 * KIB, 2);
      expect (64 * KIB, 64 * KIB, 3);
    }
  }
  drain ();
  expect_in_backing_store (0, 64 * KIB, 2);
  expect_in_backing_store (64 * KIB, 64 * KIB, 3);
  assert_int_equal (counted (STAT_lost_bytes), 0);
}

/* --- what is doubled -------------------------------------------------- */

enum doubled {
  SUPERBLOCK,
  CONTROL_BLOCK,
  SEGMENT_HEADER,
};

static const enum doubled all_doubled[] = {
  SUPERBLOCK, CONTROL_BLOCK, SEGMENT_HEADER,
};

static uint64_t
place_of_copy (enum doubled what, int copy)
{
  struct memory_device *device = look_at_device ();
  uint64_t at = 0;

  switch (what) {
  case SUPERBLOCK:
    at = SUPERBLOCK_AT (copy);
    break;
  case CONTROL_BLOCK:
    at = CONTROL_AT (copy);
    break;
  case SEGMENT_HEADER:
    at = (uint8_t *) segment_on (device, 0, copy) - device->bytes;
    break;
  }
  memory_device_free (device);
  return at;
}

/* Everything is asked for that could not be there. */
static void
exercise (uint64_t id)
{
  expect (0, 64 * KIB, 2);
  for (uint64_t i = 0; i < 3; i++) {
    must_put (128 * KIB, MIB, id + i);
    assert_int_equal (cache_flush (cache), 0);
    drain ();
    expect_in_backing_store (128 * KIB, MIB, id + i);
  }
  expect_in_backing_store (0, 64 * KIB, 2);
}

static void
either_copy_is_enough_to_open (void **state)
{
  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  kill_cache ();
  for (int i = 0; i < 3; i++)
    for (int copy = 0; copy < 2; copy++) {
      open_device (0);
      poison (place_of_copy (all_doubled[i], copy), 1);
      open_cache ();
      expect (0, 64 * KIB, 2);
      expect (MIB, 64 * KIB, BEFORE);
      must_put (MIB + 256 * KIB, 64 * KIB, 10 + copy);
      assert_int_equal (cache_flush (cache), 0);
      kill_cache ();
      /* Whatever was said beside the other copy is understood. */
      reopen ();
      expect (0, 64 * KIB, 2);
      expect (MIB + 256 * KIB, 64 * KIB, 10 + copy);
      kill_cache ();
    }
  reopen ();
  expect (0, 64 * KIB, 2);
}

static void
without_either_copy_it_is_refused (void **state)
{
  static const char *const words[] = {
    "both copies of the superblock are damaged|media error",
    "both copies of the control block are damaged|media error",
    "segment 0|both copies of its header are damaged|media error",
  };

  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  kill_cache ();
  for (int i = 0; i < 3; i++) {
    int r;

    open_device (0);
    poison (place_of_copy (all_doubled[i], 0), 1);
    poison (place_of_copy (all_doubled[i], 1), 1);
    r = try_open_cache ();
    assert_true (r == -EMEDIUMTYPE || r == -EUCLEAN);
    assert_true (reports_have (REPORT_ERROR, words[i]));
    close_device ();
  }
  /* Refusing changed nothing. */
  reopen ();
  expect (0, 64 * KIB, 2);
}

/* A copy is gone while the cache is used.  On a file it can still be written, and
 * nobody notices; on persistent memory it cannot, and the other copy and the
 * spare place beside it are used.  The superblock has no spare and needs none:
 * it is not written any more. */
static void
one_copy_is_enough_to_go_on (void **state)
{
  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  for (int i = 0; i < 3; i++)
    for (int copy = 0; copy < 2; copy++) {
      const bool told = is_pmem && all_doubled[i] != SUPERBLOCK;

      reports_collect ();
      poison (place_of_copy (all_doubled[i], copy), 1);
      others_begin ();
      exercise (100 + i * 10 + copy * 5);
      others_end ();
      kill_cache ();
      assert_int_equal (reports_count (REPORT_ERROR) > 0, told);
      if (told)
        assert_true (reports_have (REPORT_ERROR, all_doubled[i] == CONTROL_BLOCK
                                   ? "control block: copy|spare place"
                                   : "segment header: copy|spare place"));
      open_device (0);
      poison (place_of_copy (all_doubled[i], copy), 1);
      open_cache ();
      exercise (200 + i * 10 + copy * 5);
      kill_cache ();
      /* The page is well again. */
      reopen ();
      exercise (300 + i * 10 + copy * 5);
      assert_int_equal (counted (STAT_media_errors), 0);
    }
}

/* Written back and evicted many times over, with one copy of either. */
static void
a_dead_copy_stops_nothing (void **state)
{
  (void) state;
  START ();
  must_put (0, 64 * KIB, 2);
  assert_int_equal (cache_flush (cache), 0);
  poison (CONTROL_AT (0), 1);
  poison (place_of_copy (SEGMENT_HEADER, 1), 1);
  others_begin ();
  for (uint64_t id = 3; id < 30; id++)
    must_put (64 * KIB, 2 * MIB, id);   /* more than the device has */
  drain ();
  expect (0, 64 * KIB, 2);
  expect (64 * KIB, 2 * MIB, 29);
  others_end ();
  expect_in_backing_store (0, 64 * KIB, 2);
  expect_in_backing_store (64 * KIB, 2 * MIB, 29);
  assert_true (counted (STAT_evicted_segments) > 0);
  must_put (64 * KIB, 64 * KIB, 30);
  assert_int_equal (cache_flush (cache), 0);
  kill_cache ();
  reopen ();
  expect (0, 64 * KIB, 2);
  expect (64 * KIB, 64 * KIB, 30);
  expect (128 * KIB, 2 * MIB - 64 * KIB, 29);
  drain ();
  expect_in_backing_store (64 * KIB, 64 * KIB, 30);
}

/* 0, or what the child failed with. */
static int
run_myself (const char *program, const char *which, const char *force)
{
  pid_t pid = fork ();
  int status;

  if (pid == 0) {
    setenv ("PMEM_IS_PMEM_FORCE", force, 1);
    execl ("/proc/self/exe", program, which, NULL);
    _exit (127);
  }
  if (pid == -1 || waitpid (pid, &status, 0) == -1)
    return 1;
  return WIFEXITED (status) ? WEXITSTATUS (status) : 1;
}

#define T(name) cmocka_unit_test_setup_teardown (name, begin, end)

int
main (int argc, char *argv[])
{
  const struct CMUnitTest tests[] = {
    T (clean_data_is_read_again),
    T (dirty_data_is_lost_and_says_so),
    T (write_back_finds_it_first),
    T (writes_avoid_a_bad_page),
    T (a_file_cut_short_is_survived),
    T (a_file_is_cut_under_many_threads),
    T (a_bad_set_of_clean_data_costs_nothing),
    T (a_bad_set_of_a_sealed_segment_is_refused),
    T (a_bad_last_set_of_an_open_segment_is_refused),
    T (a_bad_set_of_a_running_cache_is_written_back),
    T (a_bad_place_for_a_set_fails_no_flush),
    T (either_copy_is_enough_to_open),
    T (without_either_copy_it_is_refused),
    T (one_copy_is_enough_to_go_on),
    T (a_dead_copy_stops_nothing),
  };
  int failed;

  if (argc < 2) {
    failed = run_myself (argv[0], "pmem", "1");
    failed |= run_myself (argv[0], "file", "0");
    return failed != 0;
  }
  alarm (300);
  is_pmem = strcmp (argv[1], "pmem") == 0;
  return cmocka_run_group_tests_name (is_pmem ? "pmem" : "file", tests, NULL,
                                      NULL);
}

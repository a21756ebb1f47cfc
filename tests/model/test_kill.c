/* SPDX-License-Identifier: BSD-3-Clause */

/* A process with a cache is killed, at any moment, again and again.
 *
 * The child opens the cache, on a real device, and works on it with all its
 * threads; the parent kills it, opens the cache itself and looks.  What the
 * child had acknowledged and flushed, it wrote down in shared memory
 * (tickets.h); the backing store's bytes are shared memory, too.
 *
 *   test_kill           both of
 *   test_kill pmem      a file on /dev/shm, taken for persistent memory
 *   test_kill file      an ordinary file in $TMPDIR
 *
 * A process of its own for each, as libpmem looks at PMEM_IS_PMEM_FORCE only
 * once.  The moments come from the seed, but what happens in them does not. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/cache.h"
#include "model/harness.h"
#include "model/tickets.h"
#include "pmem/device.h"
#include "support/memory_backend.h"

#define KILLS 40                /* of each kind, unless scaled */
#define MIN_KILLS UINT64_C (12)
#define MAX_OPEN_US 50000
#define MAX_LIFE_US 150000
#define THREADS 3
#define MAX_COUNT 1024          /* sectors a request */

struct world {
  struct rng rng;
  bool is_pmem;
  char path[PATH_MAX];
  struct memory_backend *mb;
  uint8_t *own_bytes;           /* what mb came with */
  struct tickets *tickets;
  _Atomic bool *at_work;        /* shared: the child has begun to write */
  struct cache_options options;
  uint64_t size;
  uint64_t written, flushed, drained;
};

static const char *argv0;

/* --- the child ------------------------------------------------------------ */

struct worker {
  struct world *world;
  struct cache *cache;
  struct rng rng;
  bool drains;
};

static void *
worker_main (void *opaque)
{
  struct worker *worker = opaque;
  struct world *w = worker->world;
  uint8_t *buf = malloc (MAX_COUNT * SECTOR);
  int r;

  assert (buf);
  for (;;) {
    r = tickets_anything (w->tickets, worker->cache, &worker->rng, MAX_COUNT,
                          buf);
    REQUIRE (r == 0, "a request gives %d (%s)", r, strerror (-r));
    if (worker->drains && rng_one_in (&worker->rng, 2000)) {
      r = cache_drain (worker->cache, 60000);
      REQUIRE (r == 0, "drain gives %d (%s)", r, strerror (-r));
    }
  }
  return NULL;
}

static int
open_cache (struct world *w, struct cache **cache)
{
  const struct device_options device = { .path = w->path };
  struct pmem *pmem;
  int r;

  r = device_open (&device, &pmem);
  if (r < 0)
    return r;
  REQUIRE (pmem->ordered == w->is_pmem, "the device is %s", pmem->kind);
  return cache_open (&w->options, pmem, cache);
}

/* Never returns. */
static void
run_child (struct world *w)
{
  static struct worker workers[THREADS];
  pthread_t thread;
  struct cache *cache;
  int r;

  prctl (PR_SET_PDEATHSIG, SIGKILL);
  r = open_cache (w, &cache);
  REQUIRE (r == 0, "child: open gives %d (%s)", r, strerror (-r));
  r = cache_start (cache);
  REQUIRE (r == 0, "child: start gives %d", r);
  r = cache_attach (cache, &w->mb->backend, "disk");
  REQUIRE (r == 0, "child: attach gives %d", r);
  for (unsigned i = 0; i < THREADS; i++) {
    workers[i] = (struct worker) {
      .world = w, .cache = cache, .rng = { rng_next (&w->rng) },
      .drains = i == 0,
    };
    r = pthread_create (&thread, NULL, worker_main, &workers[i]);
    REQUIRE (r == 0, "child: a thread cannot be started");
  }
  atomic_store (w->at_work, true);
  for (;;)
    pause ();
}

/* --- the parent ------------------------------------------------------------ */

static void
choose_options (struct world *w)
{
  struct cache_options *o = &w->options;
  struct rng *rng = &w->rng;

  *o = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  o->segment_size = MIB;
  o->data_crc = !rng_one_in (rng, 4);
  o->setting[SETTING_gc_percent] = rng_between (rng, 10, 90);
  o->setting[SETTING_writeback_order] = rng_one_in (rng, 3) ? WRITEBACK_BATCH
    : WRITEBACK_STRICT;
  o->setting[SETTING_writeback_delay] = rng_length (rng, 0, 200);
  o->heads = rng_between (rng, 0, 3);
}

/* A child's whole life. */
static void
live_and_die (struct world *w)
{
  pid_t pid;
  int status;

  atomic_store (w->at_work, false);
  fflush (stdout);
  pid = fork ();
  assert (pid >= 0);
  if (pid == 0)
    run_child (w);
  if (rng_one_in (&w->rng, 4))
    /* It may still be formatting or recovering. */
    usleep (rng_length (&w->rng, 1, MAX_OPEN_US));
  else {
    for (unsigned i = 0; i < 60000 && !atomic_load (w->at_work); i++)
      if (waitpid (pid, NULL, WNOHANG | WNOWAIT) == 0)
        usleep (1000);
    usleep (rng_below (&w->rng, MAX_LIFE_US));
  }
  kill (pid, SIGKILL);
  if (waitpid (pid, &status, 0) != pid)
    abort ();
  if (WIFEXITED (status))
    _exit (WEXITSTATUS (status));       /* it has said why */
  REQUIRE (WTERMSIG (status) == SIGKILL, "the child died from %s",
           strsignal (WTERMSIG (status)));
}

static void
read_all (struct cache *cache, const struct world *w, uint8_t *found)
{
  for (uint64_t at = 0; at < w->size; at += MIB) {
    const struct range range = { at, MIN (MIB, w->size - at) };
    int r = cache_read (cache, found + at, range);

    REQUIRE (r == 0, "reading %" PRIu64 "+%" PRIu64 " gives %d (%s)",
             range.start, range.length, r, strerror (-r));
  }
}

static void
look (struct world *w)
{
  uint8_t *found = malloc (w->size);
  struct cache *cache;
  int r;

  assert (found);
  r = open_cache (w, &cache);
  REQUIRE (r == 0, "open after a kill gives %d (%s)", r, strerror (-r));
  r = cache_attach (cache, &w->mb->backend, "disk");
  REQUIRE (r == 0, "attach after a kill gives %d", r);
  read_all (cache, w, found);
  w->written += atomic_load (&w->tickets->count);
  w->flushed += atomic_load (&w->tickets->flushed_at) > 0;
  tickets_begin_round (w->tickets, found, true);

  switch (rng_below (&w->rng, 4)) {
  case 0:
    r = cache_stop (cache, true, 60000);
    REQUIRE (r == 0, "drain after a kill gives %d (%s)", r, strerror (-r));
    tickets_check (w->tickets, w->mb->bytes,
                   "backing store after a kill and a drain");
    w->drained++;
    break;
  case 1:
    r = cache_stop (cache, false, 60000);
    REQUIRE (r == 0, "stop after a kill gives %d (%s)", r, strerror (-r));
    break;
  case 2:
    for (unsigned i = rng_below (&w->rng, 20); i > 0; i--)
      cache_step (cache);
    break;                      /* and again without a good-bye */
  default:
    break;
  }
  cache_close (cache);
  free (found);
}

static void
make_device (struct world *w, uint64_t size)
{
  const char *tmpdir = getenv ("TMPDIR");
  uint8_t *zeros = calloc (1, size);
  char name[PATH_MAX];
  int fd;

  snprintf (name, sizeof name, "%s/pcache-kill.XXXXXX",
            w->is_pmem ? "/dev/shm" : tmpdir ? tmpdir : "/tmp");
  fd = mkstemp (name);
  REQUIRE (fd >= 0, "%s: %s", name, strerror (errno));
  unlink (name);                /* nothing stays behind, whatever happens */
  snprintf (w->path, sizeof w->path, "/proc/self/fd/%d", fd);
  assert (zeros);
  REQUIRE (write (fd, zeros, size) == (ssize_t) size, "%s: cannot be "
           "written", name);
  free (zeros);
}

static void *
map_shared (size_t length)
{
  void *p = mmap (NULL, length, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

  assert (p != MAP_FAILED);
  return p;
}

static void
run_history (bool is_pmem, uint64_t seed, unsigned kills)
{
  struct world world = { .rng = { seed }, .is_pmem = is_pmem }, *w = &world;
  const uint64_t segments = rng_between (&w->rng, 4, 24);

  harness_begin (is_pmem ? "flushed writes survive kill -9 (pmem)"
                 : "flushed writes survive kill -9 (file)", seed);
  w->size = rng_between (&w->rng, 4, 24) * MIB;
  w->tickets = tickets_new (0, w->size / SECTOR, 500000);
  w->mb = memory_backend_new (w->size);
  w->own_bytes = w->mb->bytes;
  w->mb->bytes = map_shared (w->size);
  w->at_work = map_shared (sizeof *w->at_work);
  make_device (w, cache_min_device_size (MIB) + (segments - 4) * MIB);
  diag ("cache of %" PRIu64 " segments of 1 MiB, disk of %" PRIu64 " bytes, "
        "%u kills", segments, w->size, kills);

  for (unsigned i = 0; i < kills; i++) {
    choose_options (w);
    live_and_die (w);
    choose_options (w);
    look (w);
  }
  diag ("%u kills, %" PRIu64 " changes, %" PRIu64 " lives with flushes, %"
        PRIu64 " drains", kills, w->written, w->flushed, w->drained);
  REQUIRE (w->written > 0, "no child has written anything");
  harness_passed ("%u kills, %" PRIu64 " changes", kills, w->written);
  munmap (w->at_work, sizeof *w->at_work);
  munmap (w->mb->bytes, w->size);
  w->mb->bytes = w->own_bytes;
  memory_backend_free (w->mb);
  tickets_free (w->tickets);
}

static uint64_t
usual_kills (void)
{
  return harness.ops ? harness.ops : MAX (harness_ops (KILLS), MIN_KILLS);
}

/* Run this program again, for one kind of device. */
static bool
run_kind (const char *kind, uint64_t seed, uint64_t kills)
{
  char seed_text[32], kills_text[32];
  int status;
  pid_t pid;

  snprintf (seed_text, sizeof seed_text, "%" PRIu64, seed);
  snprintf (kills_text, sizeof kills_text, "%" PRIu64, kills);
  fflush (stdout);
  pid = fork ();
  assert (pid >= 0);
  if (pid == 0) {
    if (strcmp (kind, "pmem") == 0)
      setenv ("PMEM_IS_PMEM_FORCE", "1", 1);
    else
      unsetenv ("PMEM_IS_PMEM_FORCE");
    execl ("/proc/self/exe", argv0, kind, "--seed", seed_text, "--ops",
           kills_text, NULL);
    _exit (127);
  }
  if (waitpid (pid, &status, 0) != pid)
    return false;
  if (WIFSIGNALED (status))
    diag ("%s: died from %s", kind, strsignal (WTERMSIG (status)));
  return WIFEXITED (status) && WEXITSTATUS (status) == 0;
}

int
main (int argc, char **argv)
{
  uint64_t seed;

  argv0 = argv[0];
  if (argc > 1 && (strcmp (argv[1], "pmem") == 0
                   || strcmp (argv[1], "file") == 0)) {
    const bool is_pmem = strcmp (argv[1], "pmem") == 0;

    /* By hand the environment is wrong: get it right first. */
    if (is_pmem != (getenv ("PMEM_IS_PMEM_FORCE") != NULL)) {
      if (is_pmem)
        setenv ("PMEM_IS_PMEM_FORCE", "1", 1);
      else
        unsetenv ("PMEM_IS_PMEM_FORCE");
      execv ("/proc/self/exe", argv);
      return 1;
    }
    harness_start (argc - 1, argv + 1);
    harness.done = is_pmem ? 0 : 1;
    run_history (is_pmem, harness_new_seed (), usual_kills ());
    return 0;
  }
  harness_start (argc, argv);
  harness_plan (2);
  seed = harness_new_seed ();
  return run_kind ("pmem", seed, usual_kills ())
    & run_kind ("file", seed, usual_kills ()) ? 0 : 1;
}

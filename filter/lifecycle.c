/* SPDX-License-Identifier: BSD-3-Clause */

/* One thread looks after what no request does: it closes the shared context
 * when nobody needs it, has it opened anew when it fails, and notices that the
 * server is stopping.
 *
 * The latter matters while clients are connected: nbdkit then waits for them
 * before it calls .cleanup, for ever if they are idle, and people lose
 * patience and kill -9.  So the drain starts at the signal.  The one way to
 * see it is nbdkit_nanosleep, which fails with ESHUTDOWN and also prints an
 * error; so it is asked only while there are clients, without sleeping. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <nbdkit-filter.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "base/thread.h"
#include "below.h"
#include "config.h"
#include "control/server.h"
#include "control/status.h"
#include "engine/cache.h"
#include "engine/stats.h"
#include "gate.h"
#include "lifecycle.h"
#include "pmem/device.h"
#include "session.h"

#define TICK_MS 100             /* between looks at clients and contexts */
#define PROGRESS_MS 5000        /* between reports of a drain's progress */
#define DRAIN_TRIES 3           /* when the backing store fails */
#define RETRY_MS 1000
#define RENEW_FIRST_MS 1000     /* from a failure to opening the plugin anew */
#define RENEW_AGAIN_MS 10000    /* between two of these */

static struct cache *cache;
static FILE *stats_file;
static struct control_server *control;  /* NULL: not asked for */
static bool running;            /* set in after_fork, then constant */

static pthread_t housekeeper;
static sigset_t usual_signals;  /* nbdkit's; constant once there is one */

/* The housekeeper's; when that has ended, the main thread's. */
static pthread_t renewer;
static bool may_renew;          /* constant since get_ready */
static bool renewing;           /* there is such a thread */
static atomic_bool renewed;     /* and it is about to end */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news;
static bool woken;              /* lock */
static bool cleaning_up;        /* lock; the housekeeper is to end */
static uint64_t stop_deadline_ms;       /* lock; 0: not stopping */

struct cache *
the_cache (void)
{
  return cache;
}

bool
lifecycle_is_running (void)
{
  return running;
}

uint64_t
lifecycle_dirty_bytes (void)
{
  return cache_dirty_bytes (cache);
}

/* Draining. ------------------------------------------------------------- */

uint64_t
lifecycle_drain_deadline (void)
{
  HOLD_LOCK (&lock);
  return stop_deadline_ms ?: now_ms () + config.drain_timeout_ms;
}

static void
pause_ms (uint64_t ms)
{
  struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

  nanosleep (&ts, NULL);
}

int
lifecycle_drain (uint64_t until_ms)
{
  struct cache_drain drain;
  bool begun = false;           /* once: what comes later is not waited for */
  unsigned failures = 0;

  for (;;) {
    uint64_t now = now_ms ();
    uint64_t left_ms = until_ms > now ? until_ms - now : 0;
    int r = begun ? 0 : cache_begin_drain (cache, &drain);

    begun = r == 0;
    if (r == 0)
      r = cache_await_drain (cache, &drain,
                             MIN (left_ms, (uint64_t) PROGRESS_MS));
    now = now_ms ();
    if (r == -ETIMEDOUT && now < until_ms)
      report (REPORT_WARNING, "writing back: %" PRIu64 " bytes to go, "
              "%" PRIu64 " s left to do it", cache_drain_left (cache, &drain),
              (until_ms - now) / 1000);
    else if (r < 0 && r != -ETIMEDOUT && r != -ESHUTDOWN &&
             ++failures < DRAIN_TRIES && now + RETRY_MS < until_ms)
      pause_ms (RETRY_MS);
    else
      return r;
  }
}

/* The server is stopping: from now on time is limited.  To keep what is
 * dirty, write-back goes on at its own pace until it is stopped. */
static void
begin_stopping (void)
{
  mutex_lock (&lock);
  if (stop_deadline_ms == 0)
    stop_deadline_ms = now_ms () + config.drain_timeout_ms;
  mutex_unlock (&lock);
  cache_begin_shutdown (cache);
}

/* The housekeeper. ------------------------------------------------------- */

void
lifecycle_wake (void)
{
  HOLD_LOCK (&lock);
  woken = true;
  pthread_cond_signal (&news);
}

static bool
server_is_stopping (void)
{
  return nbdkit_nanosleep (0, 0) == -1 && errno == ESHUTDOWN;
}

static void *
renew (void *unused)
{
  /* Programs that a plugin starts inherit them. */
  pthread_sigmask (SIG_SETMASK, &usual_signals, NULL);
  sessions_renew ();
  atomic_store (&renewed, true);
  return NULL;
}

static void
await_renewer (void)
{
  if (renewing)
    pthread_join (renewer, NULL);
  renewing = false;
}

/* In a thread of its own: a server that takes one connection at a time answers
 * when the old one is closed, and it is the housekeeper that closes it. */
static void
start_renewer (void)
{
  atomic_store (&renewed, false);
  renewing = pthread_create (&renewer, NULL, renew, NULL) == 0;
}

/* A failure that goes away by itself needs no new context. */
static void
renew_when_it_fails (void)
{
  static uint64_t due_ms;               /* 0: all is well */
  static uint64_t last_ms;
  static uint64_t read_errors;          /* that were seen to */
  const uint64_t errors = stats_get (cache_stats (cache),
                                     STAT_backing_read_errors);
  const uint64_t now = now_ms ();

  if (renewing) {
    if (!atomic_load (&renewed))
      return;
    await_renewer ();
    last_ms = now;
  }
  if (cache_writeback_error (cache) == 0 && errors == read_errors)
    due_ms = 0;
  else if (due_ms == 0)
    due_ms = MAX (now + RENEW_FIRST_MS, last_ms + RENEW_AGAIN_MS);
  else if (now >= due_ms) {
    start_renewer ();
    read_errors = errors;
    due_ms = 0;
  }
}

/* False when it is time to end. */
static bool
wait_for_news (enum session_interest interest)
{
  HOLD_LOCK (&lock);
  if (interest == SESSIONS_NONE)
    while (!woken && !cleaning_up)
      pthread_cond_wait (&news, &lock);
  else if (!cleaning_up)
    cond_wait_until (&news, &lock, now_ms () + TICK_MS);
  woken = false;
  return !cleaning_up;
}

static void *
keep_house (void *unused)
{
  enum session_interest interest;

  do {
    interest = sessions_tidy ();
    if (interest == SESSIONS_ACTIVE && server_is_stopping ()) {
      begin_stopping ();
      if (config.drain_on_exit && sessions_can_drain ()) {
        nbdkit_debug ("pcache: the server is stopping but clients are still "
                      "connected: writing back %" PRIu64 " bytes",
                      lifecycle_dirty_bytes ());
        lifecycle_drain (lifecycle_drain_deadline ());
      }
      break;
    }
    if (interest != SESSIONS_NONE && may_renew)
      renew_when_it_fails ();
  } while (wait_for_news (interest));
  return NULL;
}

static int
start_control (void)
{
  const struct control_target target = {
    .cache = cache, .device = config.pmem,
  };

  return control ? control_start (control, &target) : 0;
}

static void
end_control (void)
{
  control_stop (control);
  control = NULL;
}

static void
end_housekeeper (void)
{
  mutex_lock (&lock);
  cleaning_up = true;
  pthread_cond_signal (&news);
  mutex_unlock (&lock);
  pthread_join (housekeeper, NULL);
}

/* Signals are for nbdkit's own threads. */
static int
start_threads (void)
{
  sigset_t asynchronous;
  int r;

  /* Not those that a thread gets for what it does itself: SIGBUS is how the
   * cache device reports a media error. */
  sigfillset (&asynchronous);
  sigdelset (&asynchronous, SIGBUS);
  sigdelset (&asynchronous, SIGSEGV);
  sigdelset (&asynchronous, SIGFPE);
  sigdelset (&asynchronous, SIGILL);
  pthread_sigmask (SIG_SETMASK, &asynchronous, &usual_signals);
  r = -pthread_create (&housekeeper, NULL, keep_house, NULL);
  if (r == 0) {
    r = start_control ();
    if (r < 0)
      end_housekeeper ();
  }
  pthread_sigmask (SIG_SETMASK, &usual_signals, NULL);
  return r;
}

/* Life. ------------------------------------------------------------------ */

/* What an earlier run wrote back is gone if a layer below kept it to itself; the
 * cache would mix it with the older content. */
static int
check_layers_below (void)
{
  const char *layer = below_forgets ();

  if (layer == NULL || !cache_held_data (cache))
    return 0;
  report (REPORT_ERROR, "%s forgets what is written to it when nbdkit ends, but "
          "the cache holds data of an earlier run, which it would mix with the "
          "disk's; pcache-format=force discards it", layer);
  return -1;
}

/* 0, or -1 after the reason was reported. */
static int
open_cache (void)
{
  struct device_options options = {
    .path = config.pmem, .create_size = config.pmem_size,
  };
  struct pmem *pmem;
  int r;

  if (device_open (&options, &pmem) < 0)
    return -1;
  report_about (config.pmem);
  config.cache.device_size = config.pmem_size;
  r = cache_open (&config.cache, pmem, &cache);
  if (r < 0) {
    report_about (NULL);
    pmem_close (pmem);
    cache = NULL;
    return -1;
  }
  r = check_layers_below ();
  report_about (NULL);
  return r;
}

int
lifecycle_get_ready (int thread_model)
{
  const bool parallel = thread_model == NBDKIT_THREAD_MODEL_PARALLEL;
  int r;

  gate_set_closed (!parallel,
                   thread_model < NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS);
  /* The old context is still open when the new one is. */
  may_renew = thread_model > NBDKIT_THREAD_MODEL_SERIALIZE_CONNECTIONS &&
    !below_differs_each_time ();
  /* Several would only queue at the gate. */
  if (!parallel)
    config.cache.writeback_threads = 1;
  cond_init (&news);

  if (config.statsfile) {
    stats_file = fopen (config.statsfile, "we");
    if (stats_file == NULL) {
      report (REPORT_ERROR, "pcache-statsfile: cannot write %s: %m",
              config.statsfile);
      return -1;
    }
  }

  if (sessions_init () == -1)
    return -1;
  if (config.control && control_listen (config.control, &control) < 0)
    return -1;
  r = open_cache ();
  if (r < 0)
    end_control ();
  return r;
}

void
lifecycle_after_fork (void)
{
  int r = cache_start (cache);

  if (r == 0) {
    r = start_threads ();
    if (r < 0)
      cache_stop (cache, false, 0);
  }
  if (r < 0) {
    end_control ();
    report (REPORT_ERROR, "cannot start threads: %s; all connections will be "
            "refused", strerror (-r));
  }
  running = r == 0;
}

/* Say what is not in the backing store, and why.  DRAINED: what became of
 * the drain; TRIED: was there one? */
static void
report_what_is_left (const struct cache_status *status, bool tried,
                     int drained)
{
  const char *why, *error = "";

  if (status->dirty_bytes == 0)
    return;
  if (!config.drain_on_exit)
    why = "pcache-on-exit=keep";
  else if (!tried)
    why = "no connection to the backing store that may write";
  else if (drained == -ETIMEDOUT)
    why = "pcache-drain-timeout is over";
  else if (drained < 0) {
    why = "the backing store fails: ";
    error = strerror (status->writeback_error ? -status->writeback_error
                                              : -drained);
  }
  else
    why = "written during the drain";
  report (REPORT_WARNING, "%" PRIu64 " bytes were not written back (%s%s); "
          "they stay safely in %s and will be written back at the next start",
          status->dirty_bytes, why, error, config.pmem);
}

static void
write_statistics (const struct cache_status *status)
{
  FILE *fp = stats_file;

  if (fp == NULL)
    return;
  status_numbers (status, fp);
  if (fclose (fp) == EOF)
    report (REPORT_ERROR, "pcache-statsfile: cannot write %s: %m",
            config.statsfile);
  stats_file = NULL;
}

void
lifecycle_cleanup (void)
{
  struct cache_status status;
  bool tried = false;
  int drained = 0, r;

  if (cache == NULL)
    return;

  if (running) {
    end_housekeeper ();
    begin_stopping ();
    tried = config.drain_on_exit && sessions_can_drain ();
    if (tried)
      drained = lifecycle_drain (lifecycle_drain_deadline ());
    end_control ();
    r = cache_stop (cache, false, 0);
    if (r < 0)
      report (REPORT_ERROR, "the cache device %s fails: %s; writes that were "
              "not flushed may be lost", config.pmem, strerror (-r));
  }

  end_control ();
  cache_get_status (cache, &status);
  if (status.bypassed && drained < 0)
    report (REPORT_ERROR, "the backing store fails at the last flush: %s; "
            "writes that were not flushed may be lost", strerror (-drained));
  sessions_end ();
  report_what_is_left (&status, tried, drained);
  write_statistics (&status);
  /* What it waits for may just have happened.  It finds nothing to do. */
  await_renewer ();
  cache_close (cache);
  cache = NULL;
  running = false;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <nbdkit-filter.h>

#include "backend_nbdkit.h"
#include "base/cleanup.h"
#include "base/report.h"
#include "base/thread.h"
#include "config.h"
#include "engine/cache.h"
#include "lifecycle.h"
#include "nbdkit_version.h"
#include "session.h"

/* How long the shared context outlives the last client, for the next
 * command of a script to find it open. */
#define LINGER_MS 100
/* How long a change to a new context waits for requests in the old one: one
 * that hangs there must not keep others from what they can have. */
#define RENEW_WAIT_MS 2000

/* Held while contexts are opened and closed, so a client that comes waits
 * for them.  Never held while draining. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct session *sessions;        /* lock */
static struct plugin *shared;           /* lock */
static nbdkit_backend *shared_below;    /* lock; of what it is a context */
static unsigned shared_opened;          /* lock; how often */
static bool renewing;                   /* lock; a context is being opened
                                         * that may become the shared one */
static pthread_cond_t renewed = PTHREAD_COND_INITIALIZER;
static struct plugin *retired;          /* lock; contexts that were shared once
                                         * and are still some client's */
static bool attached;                   /* lock */
static bool attached_readonly;          /* lock; nobody asked to write */
static uint64_t idle_since_ms;          /* lock; when the last client left */
static char *default_export;            /* lock; NULL: not known yet */
static char *cache_export;              /* lock; NULL: not known yet */

static struct backing *backing;         /* constant */

int
sessions_init (void)
{
  backing = backing_new ();
  if (backing == NULL) {
    report (REPORT_ERROR, "calloc: %m");
    return -1;
  }
  return 0;
}

void
sessions_free (void)
{
  backing_free (backing);
  backing = NULL;
  free (default_export);
  default_export = NULL;
  free (cache_export);
  cache_export = NULL;
}

struct plugin *
sessions_hold_plugin (void)
{
  return backing_hold (backing);
}

void
sessions_release_plugin (void)
{
  backing_release (backing);
}

/* Exports. ------------------------------------------------------------- */

void
sessions_learn_default_export (const char *name)
{
  HOLD_LOCK (&lock);
  if (default_export == NULL)
    default_export = strdup (name);
}

/* nbdkit asks for the default export only when a client does; until then
 * we take it to be "", as for nearly all plugins it is, unless the cache
 * knows better.  With any-export the name is the cache's identity only, and
 * must not depend on who came first. */
static const char *
known_export_locked (void)
{
  if (config.export)
    return config.export;
  if (config.any_export)
    return "";
  if (cache_export == NULL) {
    char name[CACHE_MAX_EXPORT_NAME + 1];

    if (cache_get_export (the_cache (), name))
      cache_export = strdup (name);
  }
  return cache_export ?: default_export;
}

static const char *
export_locked (void)
{
  return known_export_locked () ?: "";
}

const char *
sessions_known_export (void)
{
  HOLD_LOCK (&lock);
  return known_export_locked ();
}

static bool
check_export_locked (const char *export)
{
  if (config.any_export || strcmp (export, export_locked ()) == 0)
    return true;
  if (cache_export)
    report (REPORT_ERROR, "export \"%s\" refused: this cache belongs to "
            "export \"%s\"; give another cache device", export,
            cache_export);
  else
    report (REPORT_ERROR, "export \"%s\" refused: this cache is for export "
            "\"%s\"; pcache-export=NAME chooses another, "
            "pcache-any-export=true says that all names are one disk",
            export, export_locked ());
  return false;
}

static bool
use_shared_locked (void)
{
  switch (config.context) {
  case CONTEXT_SHARED: return true;
  case CONTEXT_CONNECTION: return false;
  case CONTEXT_AUTO: break;
  }
  return NBDKIT_CONTEXT_HAS_EXPORT_NAME ||
    (!config.plugin_has_exports &&
     (config.any_export || export_locked ()[0] == '\0'));
}

/* The engine's backing store. ------------------------------------------- */

static bool
attach_locked (struct plugin *plugin)
{
  assert (!attached);
  if (strlen (export_locked ()) > CACHE_MAX_EXPORT_NAME) {
    report (REPORT_ERROR, "export \"%s\" refused: its name has more than %d "
            "bytes", export_locked (), CACHE_MAX_EXPORT_NAME);
    return false;
  }
  backing_describe (backing, plugin);
  backing_use (backing, plugin);
  if (cache_attach (the_cache (), backing_backend (backing),
                    export_locked ()) < 0) {
    backing_use (backing, NULL);
    return false;
  }
  attached = true;
  attached_readonly = plugin->readonly;
  return true;
}

static void
detach_locked (void)
{
  if (!attached)
    return;
  cache_detach (the_cache ());
  backing_use (backing, NULL);
  attached = false;
}

static bool
is_a_clients_locked (const struct plugin *plugin)
{
  for (struct session *s = sessions; s; s = s->others)
    if (s->plugin == plugin)
      return true;
  return false;
}

static void
close_retired_locked (bool all)
{
  struct plugin **at = &retired;

  while (*at) {
    struct plugin *plugin = *at;

    if (all || !is_a_clients_locked (plugin)) {
      *at = plugin->retired;
      plugin_close (plugin);
    }
    else
      at = &plugin->retired;
  }
}

static void
close_shared_locked (void)
{
  detach_locked ();
  plugin_close (shared);
  shared = NULL;
}

/* The engine is told once, at attach, whether it may write. */
static bool
check_readonly_locked (bool readonly)
{
  if (readonly || !attached || !attached_readonly)
    return true;
  report (REPORT_ERROR, "connection refused: it wants to write, but the "
          "backing store was opened read-only for a client that is still "
          "connected");
  return false;
}

static bool
check_size_locked (struct plugin *plugin)
{
  uint64_t size = backing_backend (backing)->size;

  if (plugin->size == size)
    return true;
  report (REPORT_ERROR, "not used: the backing store had %" PRIu64 " bytes and "
          "now has %" PRIu64 "; its size must not change while it is cached",
          size, plugin->size);
  return false;
}

/* Clients. -------------------------------------------------------------- */

/* The context of one of the clients, best one that may write. */
static struct plugin *
elect_locked (void)
{
  struct plugin *best = NULL;

  for (struct session *s = sessions; s; s = s->others)
    if (best == NULL || (s->plugin->can_write && !best->can_write))
      best = s->plugin;
  return best;
}

static struct plugin *
join_shared_locked (nbdkit_backend *below, bool readonly, const char *export)
{
  /* A context that fails may work when opened anew: a plugin's connection
   * to its server that was lost, for example. */
  if (shared && sessions == NULL &&
      ((shared->readonly && !readonly) || shared->failed))
    close_shared_locked ();
  /* One that came too late is closed again.  With a server of one connection
   * at a time ours has to wait for that, and must not hold the lock. */
  while (shared == NULL && renewing)
    pthread_cond_wait (&renewed, &lock);
  if (!check_readonly_locked (readonly))
    return NULL;

  if (shared == NULL) {
    shared = plugin_open (below, readonly, export, true);
    if (shared == NULL)
      return NULL;
    if (!attach_locked (shared)) {
      plugin_close (shared);
      shared = NULL;
    }
    shared_below = below;
    shared_opened++;
  }
  return shared;
}

static struct plugin *
join_connection_locked (nbdkit_backend *below, bool readonly,
                        const char *export)
{
  struct plugin *plugin, *best;

  if (!check_readonly_locked (readonly))
    return NULL;
  plugin = plugin_open (below, readonly, export, false);
  if (plugin == NULL)
    return NULL;
  if (attached ? !check_size_locked (plugin) : !attach_locked (plugin)) {
    plugin_close (plugin);
    return NULL;
  }
  /* It may be that only clients that cannot write were left. */
  best = elect_locked ();
  if (best && plugin->can_write && !best->can_write)
    backing_use (backing, plugin);
  return plugin;
}

struct session *
session_open (nbdkit_context *context, bool readonly, const char *export)
{
  nbdkit_backend *below = nbdkit_context_get_backend (context);
  struct session *s = calloc (1, sizeof *s);

  if (s == NULL) {
    report (REPORT_ERROR, "calloc: %m");
    return NULL;
  }

  HOLD_LOCK (&lock);
  if (check_export_locked (export))
    s->plugin = use_shared_locked ()
      ? join_shared_locked (below, readonly, export_locked ())
      : join_connection_locked (below, readonly, export);
  if (s->plugin == NULL) {
    free (s);
    return NULL;
  }
  s->can_write = !readonly && backing_backend (backing)->can_write &&
    s->plugin->can_write;
  s->others = sessions;
  sessions = s;
  lifecycle_wake ();
  return s;
}

static void
unlink_locked (struct session *s)
{
  struct session **at = &sessions;

  while (*at != s)
    at = &(*at)->others;
  *at = s->others;
  if (sessions == NULL)
    idle_since_ms = now_ms ();
}

static bool
is_last_locked (struct session *s)
{
  return sessions == s && s->others == NULL;
}

/* Write everything back while there still is a context to do it with.  Who
 * comes meanwhile is served, and leaves us nothing to do. */
static void
drain_last_locked (struct session *s)
{
  uint64_t until_ms = lifecycle_drain_deadline ();

  while (is_last_locked (s) && attached && s->can_write &&
         lifecycle_dirty_bytes () > 0) {
    int r;

    mutex_unlock (&lock);
    r = lifecycle_drain (until_ms);
    mutex_lock (&lock);
    if (r < 0)
      break;
  }
}

static void
leave_connection_locked (struct session *s)
{
  struct plugin *plugin = s->plugin;
  bool elected;

  if (config.drain_on_exit)
    drain_last_locked (s);

  elected = backing_uses (backing, plugin);
  unlink_locked (s);
  if (elected && sessions == NULL)
    detach_locked ();
  else if (elected)
    backing_use (backing, elect_locked ());
  plugin_close (plugin);
}

void
session_leave (struct session *s)
{
  if (s->plugin == NULL)
    return;

  HOLD_LOCK (&lock);
  if (s->plugin->shared) {
    unlink_locked (s);
    close_retired_locked (false);
  }
  else
    leave_connection_locked (s);
  s->plugin = NULL;
}

void
session_close (struct session *s)
{
  session_leave (s);
  free (s);
}

/* Housekeeping. ---------------------------------------------------------- */

enum session_interest
sessions_tidy (void)
{
  HOLD_LOCK (&lock);
  if (sessions)
    return SESSIONS_ACTIVE;
  if (shared == NULL)
    return SESSIONS_NONE;
  if (now_ms () < idle_since_ms + LINGER_MS ||
      (shared->can_write && lifecycle_dirty_bytes () > 0))
    return SESSIONS_IDLE;
  close_shared_locked ();
  return SESSIONS_NONE;
}

/* PLUGIN takes the place of the shared context, if that still is the one opened
 * as number OPENED. */
static bool
replace_shared_locked (struct plugin *plugin, unsigned opened)
{
  if (shared == NULL || shared_opened != opened ||
      !check_size_locked (plugin) || plugin->can_write != shared->can_write ||
      !backing_try_use (backing, plugin, now_ms () + RENEW_WAIT_MS))
    return false;
  shared->retired = retired;
  retired = shared;
  shared = plugin;
  shared_opened++;
  close_retired_locked (false);
  return true;
}

void
sessions_renew (void)
{
  CLEANUP_FREE char *export = NULL;
  nbdkit_backend *below;
  struct plugin *plugin;
  unsigned opened;
  bool readonly;

  HOLD_LOCK (&lock);
  /* It may be the cache device that fails. */
  if (shared == NULL || !shared->failed)
    return;
  nbdkit_debug ("pcache: the backing store fails: opening it anew");
  export = strdup (export_locked ());
  if (export == NULL)
    return;
  below = shared_below;
  opened = shared_opened;
  readonly = shared->readonly;
  renewing = true;

  /* It may take long, and clients shall come and go meanwhile. */
  mutex_unlock (&lock);
  plugin = plugin_open (below, readonly, export, true);
  mutex_lock (&lock);

  if (plugin && !replace_shared_locked (plugin, opened))
    plugin_close (plugin);
  renewing = false;
  pthread_cond_broadcast (&renewed);
}

bool
sessions_can_drain (void)
{
  HOLD_LOCK (&lock);
  return attached && backing_backend (backing)->can_write;
}

void
sessions_end (void)
{
  HOLD_LOCK (&lock);
  close_shared_locked ();
  detach_locked ();
  close_retired_locked (true);
}

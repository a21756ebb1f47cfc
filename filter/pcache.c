/* SPDX-License-Identifier: BSD-3-Clause */

/* pcache: a persistent write-back cache as an nbdkit filter.
 *
 * This file is the table of callbacks and the translation of requests.
 * config.c has the parameters, lifecycle.c start and end, session.c the
 * clients and their way to the plugin, backend_nbdkit.c the calls into it;
 * the cache itself is in engine/.
 *
 * NEXT is NULL in all callbacks of a connection (see session.h), so each of
 * them must be defined here. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nbdkit-filter.h>

#include "backend_nbdkit.h"
#include "base/arith.h"
#include "base/cleanup.h"
#include "base/report.h"
#include "below.h"
#include "block_status.h"
#include "config.h"
#include "engine/cache.h"
#include "gate.h"
#include "lifecycle.h"
#include "nbdkit_version.h"
#include "session.h"

/* A client may ask for less than a block, and for any length. */
#define MINIMUM_BLOCK_SIZE 1
#define PREFERRED_BLOCK_SIZE 4096
#define MAXIMUM_BLOCK_SIZE UINT32_MAX

static unsigned times_loaded;

/* nbdkit has errors and debug messages, and nothing between. */
static void
report_to_nbdkit (enum report_level level, const char *format, va_list args)
{
  CLEANUP_FREE char *text = NULL;

  if (vasprintf (&text, format, args) == -1)
    text = NULL;
  switch (level) {
  case REPORT_ERROR:
    nbdkit_error ("pcache: %s", text ?: format);
    break;
  case REPORT_WARNING:
    nbdkit_error ("pcache: warning: %s", text ?: format);
    break;
  case REPORT_DEBUG:
    nbdkit_debug ("pcache: %s", text ?: format);
    break;
  }
}

/* The process. ----------------------------------------------------------- */

static void
pcache_load (void)
{
  times_loaded++;
  report_set_sink (report_to_nbdkit);
  below_look ();
}

static void
pcache_unload (void)
{
  config_free ();
  sessions_free ();
  report_set_sink (NULL);
}

static int
pcache_config (nbdkit_next_config *next, nbdkit_backend *nxdata,
               const char *key, const char *value)
{
  switch (config_set (key, value)) {
  case CONFIG_TAKEN: return 0;
  case CONFIG_NOT_OURS: return next (nxdata, key, value);
  case CONFIG_BAD: break;
  }
  return -1;
}

static int
pcache_config_complete (nbdkit_next_config_complete *next,
                        nbdkit_backend *nxdata)
{
  /* The two would share this module's variables. */
  if (times_loaded > 1) {
    report (REPORT_ERROR, "--filter=pcache is given %u times; it can be in "
            "the stack only once", times_loaded);
    return -1;
  }
  if (below_has_tls_fallback ()) {
    report (REPORT_ERROR, "the filter tls-fallback is to the right of pcache, "
            "where all clients would get its text; put it to the left");
    return -1;
  }
  if (config_check () == -1)
    return -1;
  return next (nxdata);
}

static int
pcache_get_ready (int thread_model)
{
  return lifecycle_get_ready (thread_model);
}

static int
pcache_after_fork (nbdkit_backend *backend)
{
  lifecycle_after_fork ();
  return 0;
}

static void
pcache_cleanup (nbdkit_backend *backend)
{
  lifecycle_cleanup ();
}

/* Before a connection. --------------------------------------------------- */

static int
pcache_preconnect (nbdkit_next_preconnect *next, nbdkit_backend *nxdata,
                   int readonly)
{
  PASS_GATE_EARLY ();
  return next (nxdata, readonly);
}

/* Only what can be opened is listed. */
static int
pcache_list_exports (nbdkit_next_list_exports *next, nbdkit_backend *nxdata,
                     int readonly, int is_tls,
                     struct nbdkit_exports *exports)
{
  const char *name;

  if (config.any_export) {
    PASS_GATE_EARLY ();
    return next (nxdata, readonly, exports);
  }
  name = sessions_known_export ();
  if (name)
    return nbdkit_add_export (exports, name, NULL);
  return nbdkit_use_default_export (exports);
}

static const char *
pcache_default_export (nbdkit_next_default_export *next,
                       nbdkit_backend *nxdata, int readonly, int is_tls)
{
  const char *name;

  if (config.export)
    return config.export;
  {
    PASS_GATE_EARLY ();
    name = next (nxdata, readonly);
  }
  if (name)
    sessions_learn_default_export (name);
  return name;
}

/* A connection. ---------------------------------------------------------- */

static void *
pcache_open (nbdkit_next_open *next, nbdkit_context *context, int readonly,
             const char *exportname, int is_tls)
{
  if (!lifecycle_is_running ()) {
    report (REPORT_ERROR, "connection refused: the cache could not be "
            "started");
    return NULL;
  }
  return session_open (context, readonly, exportname);
}

static int
pcache_finalize (nbdkit_next *next, void *handle)
{
  session_leave (handle);
  return 0;
}

static void
pcache_close (void *handle)
{
  session_close (handle);
}

static int64_t
pcache_get_size (nbdkit_next *next, void *handle)
{
  const struct session *session = handle;

  return session->plugin->size;
}

static const char *
pcache_export_description (nbdkit_next *next, void *handle)
{
  const struct session *session = handle;

  return plugin_description (session->plugin);
}

static int
pcache_block_size (nbdkit_next *next, void *handle, uint32_t *minimum,
                   uint32_t *preferred, uint32_t *maximum)
{
  const struct session *session = handle;

  *minimum = MINIMUM_BLOCK_SIZE;
  *preferred = MAX (session->plugin->preferred,
                    (uint32_t) PREFERRED_BLOCK_SIZE);
  *maximum = MAXIMUM_BLOCK_SIZE;
  return 0;
}

static int
pcache_can_write (nbdkit_next *next, void *handle)
{
  const struct session *session = handle;

  return session->can_write;
}

static int
pcache_is_rotational (nbdkit_next *next, void *handle)
{
  const struct session *session = handle;

  return session->plugin->is_rotational;
}

/* There must be a cheap way to hand it on. */
static int
pcache_can_trim (nbdkit_next *next, void *handle)
{
  const struct session *session = handle;

  return session->plugin->can_trim || session->plugin->can_zero;
}

static int
pcache_can_zero (nbdkit_next *next, void *handle)
{
  return NBDKIT_ZERO_NATIVE;
}

static int
pcache_can_fua (nbdkit_next *next, void *handle)
{
  return NBDKIT_FUA_NATIVE;
}

static int
pcache_can_cache (nbdkit_next *next, void *handle)
{
  return NBDKIT_CACHE_NATIVE;
}

/* can_flush, can_fast_zero, can_extents, and can_multi_conn: there is one
 * cache for all connections. */
static int
always (nbdkit_next *next, void *handle)
{
  return 1;
}

/* Requests. -------------------------------------------------------------- */

/* Turn R, 0 or -errno, into what nbdkit wants. */
static int
done (int r, const char *what, struct range range, int *err)
{
  if (r >= 0)
    return 0;
  *err = -r;
  nbdkit_error ("pcache: %s of %" PRIu64 " bytes at offset %" PRIu64
                " failed: %s", what, range.length, range.start, strerror (-r));
  return -1;
}

static int
pcache_pread (nbdkit_next *next, void *handle, void *buf, uint32_t count,
              uint64_t offset, uint32_t flags, int *err)
{
  struct range range = { offset, count };

  return done (cache_read (the_cache (), buf, range), "read", range, err);
}

static int
pcache_pwrite (nbdkit_next *next, void *handle, const void *buf,
               uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  struct range range = { offset, count };
  bool fua = flags & NBDKIT_FLAG_FUA;

  return done (cache_write (the_cache (), buf, range, fua),
               "write", range, err);
}

static int
pcache_flush (nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
  int r = cache_flush (the_cache ());

  if (r >= 0)
    return 0;
  *err = -r;
  nbdkit_error ("pcache: flush failed: %s", strerror (-r));
  return -1;
}

static int
pcache_trim (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
             uint32_t flags, int *err)
{
  struct range range = { offset, count };
  bool fua = flags & NBDKIT_FLAG_FUA;

  return done (cache_trim (the_cache (), range, fua), "trim", range, err);
}

static int
pcache_zero (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
             uint32_t flags, int *err)
{
  struct range range = { offset, count };
  bool may_trim = flags & NBDKIT_FLAG_MAY_TRIM;
  bool fua = flags & NBDKIT_FLAG_FUA;
  int r = cache_zero (the_cache (), range, may_trim, fua);

  /* The server would take these two for "not so fast", and abort. */
  if (r == -ENOTSUP || r == -EOPNOTSUPP)
    r = -EIO;
  return done (r, "zero", range, err);
}

static int
pcache_extents (nbdkit_next *next, void *handle, uint32_t count,
                uint64_t offset, uint32_t flags,
                struct nbdkit_extents *extents, int *err)
{
  struct range range = { offset, count };
  bool one = flags & NBDKIT_FLAG_REQ_ONE;

  return done (block_status (the_cache (), range, one, extents),
               "block status", range, err);
}

static int
pcache_cache (nbdkit_next *next, void *handle, uint32_t count,
              uint64_t offset, uint32_t flags, int *err)
{
  struct range range = { offset, count };

  return done (cache_prefetch (the_cache (), range), "prefetch", range, err);
}

static struct nbdkit_filter filter = {
  .name = "pcache",
  .longname = "nbdkit persistent cache filter",
  .description = "A crash-safe write-back cache on persistent memory or in an "
                 "ordinary file.",
  .load = pcache_load,
  .unload = pcache_unload,
  .config = pcache_config,
  .config_complete = pcache_config_complete,
  .config_help = config_help,
  NBDKIT_DUMP_PLUGIN (config_dump)
  .get_ready = pcache_get_ready,
  .after_fork = pcache_after_fork,
  .cleanup = pcache_cleanup,
  .preconnect = pcache_preconnect,
  .list_exports = pcache_list_exports,
  .default_export = pcache_default_export,
  .open = pcache_open,
  .close = pcache_close,
  .finalize = pcache_finalize,
  .get_size = pcache_get_size,
  .export_description = pcache_export_description,
  .block_size = pcache_block_size,
  .can_write = pcache_can_write,
  .can_flush = always,
  .is_rotational = pcache_is_rotational,
  .can_trim = pcache_can_trim,
  .can_zero = pcache_can_zero,
  .can_fast_zero = always,
  .can_extents = always,
  .can_fua = pcache_can_fua,
  .can_multi_conn = always,
  .can_cache = pcache_can_cache,
  .pread = pcache_pread,
  .pwrite = pcache_pwrite,
  .flush = pcache_flush,
  .trim = pcache_trim,
  .zero = pcache_zero,
  .extents = pcache_extents,
  .cache = pcache_cache,
};

NBDKIT_REGISTER_FILTER (filter)

/* SPDX-License-Identifier: BSD-3-Clause */

/* One setter a parameter, in a table.  A setter only says whether it likes
 * the value; what would have been allowed stands in the table, so that every
 * complaint has the same form: parameter, value, what is expected.  What can
 * also be changed later is in engine/settings.h instead. */

#include <config.h>

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nbdkit-filter.h>

#include "base/arith.h"
#include "base/report.h"
#include "config.h"
#include "engine/format.h"
#include "base/parse.h"

#define SETTING_PREFIX "pcache-"
#define DEFAULT_DRAIN_TIMEOUT_MS 60000
#define MAX_WRITEBACK_THREADS 64

struct config config = {
  .cache = CACHE_OPTIONS_DEFAULT,
  .drain_on_exit = true,
  .drain_timeout_ms = DEFAULT_DRAIN_TIMEOUT_MS,
};

static bool
replace_string (char **where, const char *value)
{
  char *copy = strdup (value);

  if (copy == NULL) {
    report (REPORT_ERROR, "strdup: %m");
    return false;
  }
  free (*where);
  *where = copy;
  return true;
}

static bool
set_path (char **where, const char *value)
{
  char *path;

  if (value[0] == '\0')
    return false;
  path = nbdkit_absolute_path (value);
  if (path == NULL)
    return false;
  free (*where);
  *where = path;
  return true;
}

static bool
set_pmem (const char *value)
{
  return config.pmem == NULL && set_path (&config.pmem, value);
}

static bool
set_pmem_size (const char *value)
{
  return parse_size (value, &config.pmem_size) && config.pmem_size > 0;
}

static bool
set_segment_size (const char *value)
{
  uint64_t size;

  if (!parse_size (value, &size) || !is_power_of_2 (size) ||
      size < CACHE_MIN_SEGMENT_SIZE || size > CACHE_MAX_SEGMENT_SIZE)
    return false;
  config.cache.segment_size = size;
  return true;
}

static bool
set_data_crc (const char *value)
{
  return parse_bool (value, &config.cache.data_crc);
}

static bool
set_checkpoint (const char *value)
{
  return parse_bool (value, &config.cache.checkpoint);
}

static bool
set_export (const char *value)
{
  return strlen (value) <= CACHE_MAX_EXPORT_NAME &&
    replace_string (&config.export, value);
}

static bool
set_any_export (const char *value)
{
  return parse_bool (value, &config.any_export);
}

static bool
set_writeback_threads (const char *value)
{
  uint64_t threads;

  if (!parse_number (value, MAX_WRITEBACK_THREADS, &threads) || threads < 1)
    return false;
  config.cache.writeback_threads = threads;
  return true;
}

static bool
set_on_exit (const char *value)
{
  static const char *const names[] = { "keep", "drain", NULL };
  unsigned drain;

  if (!parse_choice (value, names, &drain))
    return false;
  config.drain_on_exit = drain;
  return true;
}

static bool
set_drain_timeout (const char *value)
{
  return parse_delay (value, HOURS_24_MS, &config.drain_timeout_ms);
}

static bool
set_format (const char *value)
{
  static const char *const names[] = {
    [CACHE_FORMAT_AUTO] = "auto", [CACHE_FORMAT_FORCE] = "force",
    [CACHE_FORMAT_NEVER] = "never", NULL
  };
  unsigned i;

  if (!parse_choice (value, names, &i))
    return false;
  config.cache.format = i;
  return true;
}

static bool
set_damaged (const char *value)
{
  static const char *const names[] = { "refuse", "rescue", NULL };
  unsigned rescue;

  if (!parse_choice (value, names, &rescue))
    return false;
  config.cache.rescue = rescue;
  return true;
}

static bool
set_backing_id (const char *value)
{
  size_t length = strlen (value);

  if (length < 1 || length > CACHE_MAX_BACKING_ID ||
      !replace_string (&config.backing_id, value))
    return false;
  config.cache.backing_id = config.backing_id;
  return true;
}

static bool
set_context (const char *value)
{
  static const char *const names[] = {
    [CONTEXT_AUTO] = "auto", [CONTEXT_SHARED] = "shared",
    [CONTEXT_CONNECTION] = "connection", NULL
  };
  unsigned i;

  if (!parse_choice (value, names, &i))
    return false;
  config.context = i;
  return true;
}

static bool
set_statsfile (const char *value)
{
  return set_path (&config.statsfile, value);
}

static bool
set_control (const char *value)
{
  return set_path (&config.control, value);
}

static const struct parameter {
  const char *key;
  bool (*set) (const char *value);
  const char *expected;
} parameters[] = {
  { "pmem", set_pmem, "the path of the cache device, and only once" },
  { "pmem-size", set_pmem_size,
    "a size in bytes above 0, with a suffix such as M or G if you like" },
  { "pcache-segment-size", set_segment_size,
    "a power of two from 1M to 1G" },
  { "pcache-data-crc", set_data_crc, "true or false" },
  { "pcache-export", set_export, "the name of an export, at most 1024 bytes" },
  { "pcache-any-export", set_any_export, "true or false" },
  { "pcache-writeback-threads", set_writeback_threads,
    "a whole number from 1 to 64" },
  { "pcache-on-exit", set_on_exit, "drain or keep" },
  { "pcache-drain-timeout", set_drain_timeout,
    "a time from 0 to 24 hours, such as 60, 0.5, 250ms, 30s or 10m" },
  { "pcache-checkpoint", set_checkpoint, "true or false" },
  { "pcache-format", set_format, "auto, force or never" },
  { "pcache-damaged", set_damaged, "refuse or rescue" },
  { "pcache-backing-id", set_backing_id, "a text of 1 to 255 bytes" },
  { "pcache-context", set_context, "auto, shared or connection" },
  { "pcache-statsfile", set_statsfile, "the path of a file to be written" },
  { "pcache-control", set_control, "the path of a socket to be made" },
};

const char config_help[] =
  "pmem=<PATH>                  (required) The cache device: a DAX device, a\n"
  "                             file on a DAX file system, or any file.\n"
  "pmem-size=<SIZE>             Create PATH with this size if it is missing; if\n"
  "                             it is a file, let it and the cache have it.\n"
  "pcache-segment-size=<SIZE>   Unit of allocation of a new cache; 1M to 1G\n"
  "                             (default 16M).\n"
  "pcache-data-crc=true|false   Checksum data as well as metadata (default\n"
  "                             true).\n"
  "pcache-mode=writeback|writethrough|writearound|writeonly\n"
  "                             Acknowledge writes when they are in the cache,\n"
  "                             or in both, or in the plugin only; or cache\n"
  "                             nothing that is read (default writeback).\n"
  "pcache-gc-percent=<N>        Evict when more of the cache is in use than\n"
  "                             this; 0 to 90 (default 70).\n"
  "pcache-export=<NAME>         The one export this cache belongs to (default\n"
  "                             the plugin's default export).\n"
  "pcache-any-export=true|false All export names are one and the same disk\n"
  "                             (default false).\n"
  "pcache-writeback-order=strict|batch\n"
  "                             Keep the backing store mountable at every\n"
  "                             instant, or only between batches (default\n"
  "                             strict).\n"
  "pcache-writeback-delay=<TIME>\n"
  "                             Age at which data is written back; seconds,\n"
  "                             or with suffix ms, s, m, h (default 5).\n"
  "pcache-writeback-idle=<TIME> Write back sooner, when no client has asked\n"
  "                             for anything for so long; 0: not (default 0).\n"
  "pcache-writeback-rate=<SIZE> Bytes per second to write back at most; 0:\n"
  "                             no limit (default 0).\n"
  "pcache-dirty-high=<N>        Write back at once when more percent of the\n"
  "                             cache is dirty; 0 to 100 (default 70)...\n"
  "pcache-dirty-low=<N>         ...until no more than this is (default 60).\n"
  "pcache-writeback-threads=<N> Write-back requests in flight; 1 to 64\n"
  "                             (default 4).\n"
  "pcache-on-exit=drain|keep    Write everything back at exit, or keep it in\n"
  "                             the cache for next time (default drain).\n"
  "pcache-drain-timeout=<TIME>  Longest time that may take; 0 does not wait\n"
  "                             (default 60).\n"
  "pcache-checkpoint=true|false Leave the index behind at exit, so that the next\n"
  "                             start need not read the whole log (default\n"
  "                             true).\n"
  "pcache-format=auto|force|never\n"
  "                             Format a blank cache device; any; none\n"
  "                             (default auto).\n"
  "pcache-damaged=refuse|rescue What to do when dirty data may be damaged:\n"
  "                             do not start, or serve what is left (default\n"
  "                             refuse).\n"
  "pcache-backing-id=<TEXT>     Your own name for the backing store; a cache\n"
  "                             made with another one is refused.\n"
  "pcache-space-timeout=<TIME>  How long a write waits for free space while\n"
  "                             the backing store fails (default 30).\n"
  "pcache-eviction=clock|fifo|ghost\n"
  "                             What stays: what was read again; nothing; as\n"
  "                             clock, and a full cache only takes in what\n"
  "                             is missed twice (default clock).\n"
  "pcache-sequential-cutoff=<SIZE>\n"
  "                             Do not cache sequential reads beyond this when\n"
  "                             the cache is full; 0: do (default 4M).\n"
  "pcache-fill-size=<SIZE>      Read at least this much around a miss, a power\n"
  "                             of two from 4k to 1M; 0: only what was asked\n"
  "                             for (default 0).\n"
  "pcache-fail=stop|passthrough When the cache device fails: let flushes fail, or\n"
  "                             go on without it if that is safe (default\n"
  "                             stop).\n"
  "pcache-context=auto|shared|connection\n"
  "                             Open the plugin once for all, or use the\n"
  "                             clients' connections (default auto).\n"
  "pcache-statsfile=<PATH>      Write counters to this file at exit.\n"
  "pcache-control=<SOCKET>      Make this unix socket, for pcachectl(1).\n";

/* nbdkit itself has added pcache_path and pcache_name. */
void
config_dump (void)
{
  printf ("pcache_version=%s\n", PACKAGE_VERSION);
  printf ("pcache_format_version=%d\n", FORMAT_VERSION);
  printf ("pcache_segment_size=%" PRIu64 "\n", CACHE_DEFAULT_SEGMENT_SIZE);
  printf ("pcache_gc_percent=%d\n", CACHE_DEFAULT_GC_PERCENT);
}

static bool
has_prefix (const char *text, const char *prefix)
{
  return strncmp (text, prefix, strlen (prefix)) == 0;
}

/* Parameters of the file and nbd plugins that make these crash when they are
 * opened without an export name. */
static bool
has_exports (const char *key, const char *value)
{
  if (strcmp (key, "dynamic-export") == 0)
    return nbdkit_parse_bool (value) == 1;
  return strcmp (key, "dir") == 0 || strcmp (key, "directory") == 0 ||
    strcmp (key, "dirfd") == 0;
}

static const struct parameter *
find_parameter (const char *key)
{
  for (size_t i = 0; i < sizeof parameters / sizeof parameters[0]; i++)
    if (strcmp (key, parameters[i].key) == 0)
      return &parameters[i];
  return NULL;
}

static bool
find_setting (const char *key, enum setting *which)
{
  return has_prefix (key, SETTING_PREFIX) &&
    setting_find (key + strlen (SETTING_PREFIX), which);
}

enum config_verdict
config_set (const char *key, const char *value)
{
  const struct parameter *p = find_parameter (key);
  const char *expected = NULL;
  enum setting which;
  char buf[128];

  if (p) {
    if (p->set (value))
      return CONFIG_TAKEN;
    expected = p->expected;
  }
  else if (find_setting (key, &which)) {
    if (setting_parse (which, value, &config.cache.setting[which]))
      return CONFIG_TAKEN;
    expected = setting_expected (which, buf);
  }
  if (expected) {
    report (REPORT_ERROR, "%s=%s: expected %s", key, value, expected);
    return CONFIG_BAD;
  }

  /* Plugins would ignore or misread what is only misspelt. */
  if (has_prefix (key, "pcache-") || has_prefix (key, "pmem-")) {
    report (REPORT_ERROR, "%s: the pcache filter has no such parameter; "
            "nbdkit --filter=pcache null --help lists them", key);
    return CONFIG_BAD;
  }
  if (has_exports (key, value))
    config.plugin_has_exports = true;
  if (strcmp (key, "cache") == 0 && strcmp (value, "unsafe") == 0)
    config.cache_filter_unsafe = true;
  return CONFIG_NOT_OURS;
}

int
config_check (void)
{
  uint64_t segment_size =
    config.cache.segment_size ?: CACHE_DEFAULT_SEGMENT_SIZE;
  uint64_t least = cache_min_device_size (segment_size);

  if (config.pmem == NULL) {
    report (REPORT_ERROR, "the pcache filter needs a cache device: add "
            "pmem=PATH (and pmem-size=SIZE to create an ordinary file)");
    return -1;
  }

  /* Said before a file is created that would then be refused.  One that is
   * there may have smaller segments. */
  if (config.pmem_size != 0 && config.pmem_size < least &&
      access (config.pmem, F_OK) == -1) {
    report (REPORT_ERROR, "pmem-size=%" PRIu64 ": too small; with segments of "
            "%" PRIu64 " bytes the cache device needs at least "
            "%" PRIu64 " bytes", config.pmem_size, segment_size, least);
    return -1;
  }
  return 0;
}

void
config_free (void)
{
  free (config.pmem);
  free (config.backing_id);
  free (config.export);
  free (config.statsfile);
  free (config.control);
  config.pmem = config.backing_id = config.export = config.statsfile = NULL;
  config.control = NULL;
  config.cache.backing_id = NULL;
}

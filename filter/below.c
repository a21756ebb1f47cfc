/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "below.h"
#include "config.h"

/* Set in .load, then constant. */
static bool memory, tmpdisk, cow, cache, tls_fallback;

static int
note_module (struct dl_phdr_info *info, size_t size, void *unused)
{
  const char *slash = strrchr (info->dlpi_name, '/');
  const char *name = slash ? slash + 1 : info->dlpi_name;

  if (strcmp (name, "nbdkit-memory-plugin.so") == 0)
    memory = true;
  if (strcmp (name, "nbdkit-tmpdisk-plugin.so") == 0)
    tmpdisk = true;
  if (strcmp (name, "nbdkit-cow-filter.so") == 0)
    cow = true;
  if (strcmp (name, "nbdkit-cache-filter.so") == 0)
    cache = true;
  if (strcmp (name, "nbdkit-tls-fallback-filter.so") == 0)
    tls_fallback = true;
  return 0;
}

void
below_look (void)
{
  dl_iterate_phdr (note_module, NULL);
}

const char *
below_forgets (void)
{
  if (memory)
    return "the plugin memory";
  if (tmpdisk)
    return "the plugin tmpdisk";
  if (cow)
    return "the filter cow, to the right of pcache,";
  /* With this one it does not even hand on a flush. */
  if (cache && config.cache_filter_unsafe)
    return "the filter cache (cache=unsafe), to the right of pcache,";
  return NULL;
}

bool
below_differs_each_time (void)
{
  return tmpdisk;
}

bool
below_has_tls_fallback (void)
{
  return tls_fallback;
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* config: the filter's parameters, as given on nbdkit's command line.
 *
 * Filled in by the .config callback and constant after .config_complete. */

#ifndef PCACHE_CONFIG_H
#define PCACHE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/cache.h"

/* Whose view of the plugin the cache uses: see session.h. */
enum context_mode {
  CONTEXT_AUTO,
  CONTEXT_SHARED,
  CONTEXT_CONNECTION,
};

struct config {
  char *pmem;                   /* absolute path of the cache device */
  uint64_t pmem_size;           /* bytes; 0: must exist */
  struct cache_options cache;   /* backing_id: see below */
  char *backing_id;             /* owns cache.backing_id */
  char *export;                 /* NULL: the plugin's default export */
  bool any_export;              /* every name is this one disk */
  enum context_mode context;
  bool plugin_has_exports;      /* it was given a directory of them: the file
                                 * plugin crashes where it finds no name */
  bool cache_filter_unsafe;     /* nbdkit's cache filter, if there is one,
                                 * was given cache=unsafe */
  bool drain_on_exit;
  unsigned drain_timeout_ms;
  char *statsfile;              /* absolute path, or NULL */
  char *control;                /* the same */
};

extern struct config config;

enum config_verdict {
  CONFIG_TAKEN,
  CONFIG_NOT_OURS,              /* a parameter of the layers below */
  CONFIG_BAD,                   /* the reason was reported */
};

extern enum config_verdict config_set (const char *key, const char *value);

/* Is what was given complete and consistent?  0, or -1 after the reason was
 * reported. */
extern int config_check (void);
extern void config_free (void);

extern const char config_help[];

/* For --dump-plugin. */
extern void config_dump (void);

#endif /* PCACHE_CONFIG_H */

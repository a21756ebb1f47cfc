/* SPDX-License-Identifier: BSD-3-Clause */

/* backend_nbdkit: the layers below, as the engine's backing store.
 *
 * A plugin is one open context of those layers, and what it can do.  Its
 * calls may come from any thread; they pass the gate, respect the block size
 * and the largest request the layers below want, and return 0 or -errno.
 *
 * A backing is the backend given to the engine.  It uses one plugin at a
 * time and can change to another under way: the change waits for the calls
 * in flight, and has the old plugin flush what it was given. */

#ifndef PCACHE_BACKEND_NBDKIT_H
#define PCACHE_BACKEND_NBDKIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nbdkit-filter.h>

#include "base/arith.h"
#include "engine/backend.h"

struct plugin {
  nbdkit_next *next;
  uint64_t size;                /* bytes of the disk */
  bool readonly;                /* opened so: nobody asked to write */
  bool can_write, can_flush, can_trim, can_zero, can_extents;
  bool is_rotational;
  uint32_t minimum;             /* block size: a power of two, 1 if any */
  uint32_t preferred;           /* 0: does not matter */
  uint32_t step;                /* bytes, most at once; whole blocks */
  atomic_bool failed;           /* a read, write or flush has */
  bool shared;                  /* for all clients; constant */
  struct plugin *retired;       /* the sessions' lock */
};

/* From any thread, once there are clients.  NULL after the reason was reported. */
extern struct plugin *plugin_open (nbdkit_backend *below, bool readonly,
                                   const char *export, bool shared);
extern void plugin_close (struct plugin *plugin);

/* What the plugin says of RANGE, from its start for as far as it wants to.
 * Free the answer with nbdkit_extents_free. */
extern int plugin_extents (struct plugin *plugin, struct range range,
                           bool one, struct nbdkit_extents **answer);
/* As .export_description. */
extern const char *plugin_description (struct plugin *plugin);

struct backing;

extern struct backing *backing_new (void);
extern void backing_free (struct backing *backing);

/* The engine's view.  Its size and abilities are those of the plugin that
 * was last described, and must not change while the engine is attached. */
extern struct backend *backing_backend (struct backing *backing);
extern void backing_describe (struct backing *backing,
                              const struct plugin *plugin);

/* Use PLUGIN (NULL: none) from now on.  One caller at a time. */
extern void backing_use (struct backing *backing, struct plugin *plugin);
/* The same, but not if the calls in flight have not come back by then: false. */
extern bool backing_try_use (struct backing *backing, struct plugin *plugin,
                             uint64_t until_ms);
extern bool backing_uses (struct backing *backing,
                          const struct plugin *plugin);

/* The plugin in use, which stays until it is released.  NULL: none. */
extern struct plugin *backing_hold (struct backing *backing);
extern void backing_release (struct backing *backing);

#endif /* PCACHE_BACKEND_NBDKIT_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* session: the clients' connections, and through which context of the
 * layers below the cache reaches its backing store.
 *
 *   shared       One context for everything, opened with the first client
 *                and kept while a client is there or dirty data remains.  It
 *                is the only coherent choice where connections to a plugin
 *                do not see each other's writes, and lets write-back go on
 *                without a client.  Before nbdkit 1.44 such a context has no
 *                export name, and plugins that ask for it may crash.
 *   connection   Each client's connection has its own context; the cache
 *                uses one of them.  Write-back only while there is one.
 *
 * In both a context is opened by hand, not through .open's next, so that
 * all calls into the layers below pass the gate.  The callbacks' own next
 * is therefore NULL, and every callback must be defined. */

#ifndef PCACHE_SESSION_H
#define PCACHE_SESSION_H

#include <stdbool.h>

#include <nbdkit-filter.h>

#include "backend_nbdkit.h"

struct session {
  struct plugin *plugin;        /* constant until session_leave */
  bool can_write;
  struct session *others;       /* the sessions' lock */
};

/* 0, or -1 after the reason was reported. */
extern int sessions_init (void);
extern void sessions_free (void);

/* The plugin's own default export, when it has become known. */
extern void sessions_learn_default_export (const char *name);

/* The export this cache is for; NULL when it has not become known yet. */
extern const char *sessions_known_export (void);

/* From .open.  NULL after the reason was reported. */
extern struct session *session_open (nbdkit_context *context, bool readonly,
                                     const char *export);
/* The client is gone; its context is still good.  From .finalize, or from
 * .close when that was not called. */
extern void session_leave (struct session *session);
extern void session_close (struct session *session);

/* Housekeeping of the shared context: close it when it is of no use any
 * more.  What there is to come back for: */
enum session_interest {
  SESSIONS_NONE,                /* nothing until the next client */
  SESSIONS_IDLE,                /* no client, but something to look after */
  SESSIONS_ACTIVE,              /* clients */
};
extern enum session_interest sessions_tidy (void);

/* Open the shared context anew if it fails: a plugin's connection to its server
 * may have been lost.  What the old one was given and has not flushed is written
 * again.  It may take as long as the plugin likes, also until the old one is
 * closed. */
extern void sessions_renew (void);

/* May what is dirty be written back now? */
extern bool sessions_can_drain (void);

/* Stop using the backing store.  No client is left. */
extern void sessions_end (void);

/* The backing store's plugin for a request of a client. */
extern struct plugin *sessions_hold_plugin (void);
extern void sessions_release_plugin (void);

#endif /* PCACHE_SESSION_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* below: which plugin and filters there are between this one and the disk.
 *
 * nbdkit does not tell a filter.  But it loads the plugin first, then the
 * filters from right to left, and calls .load of each before the next one:
 * what is in the process when our .load runs is what is below us. */

#ifndef PCACHE_BELOW_H
#define PCACHE_BELOW_H

#include <stdbool.h>

/* From .load. */
extern void below_look (void);

/* Does what is written to the layers below end with this process?  Which of them
 * makes it so, in words, or NULL. */
extern const char *below_forgets (void);

/* Is it another disk each time it is opened? */
extern bool below_differs_each_time (void);

/* Is the filter tls-fallback there?  The context that all clients share
 * has no TLS: it would give its text to everybody. */
extern bool below_has_tls_fallback (void);

#endif /* PCACHE_BELOW_H */

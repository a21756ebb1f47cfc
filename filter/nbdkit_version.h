/* SPDX-License-Identifier: BSD-3-Clause */

/* nbdkit_version: where nbdkit's filter API is not the same in all versions
 * from 1.32 on.  No other file asks for the version, and none uses what 1.32
 * does not have.
 *
 * A filter has an API, but no ABI: it runs only in the version it was built
 * for.  So all this is settled when it is compiled.  A callback whose type
 * changes is an error of the compiler (see configure.ac), never a wrong call.
 *
 * Newer things we do without: nbdkit_parse_delay (1.40; parameters shall mean
 * the same everywhere), .thread_model's argument (1.44; we have no .thread_model,
 * any model will do). */

#ifndef PCACHE_NBDKIT_VERSION_H
#define PCACHE_NBDKIT_VERSION_H

#include <nbdkit-filter.h>

#define NBDKIT_AT_LEAST(major, minor)                                   \
  (NBDKIT_VERSION_MAJOR > (major) ||                                    \
   (NBDKIT_VERSION_MAJOR == (major) && NBDKIT_VERSION_MINOR >= (minor)))

#if !NBDKIT_AT_LEAST (1, 32)
#error "pcache needs nbdkit 1.32 or later"
#endif

/* Members of struct nbdkit_filter: what --dump-plugin says of a filter. */
#if NBDKIT_AT_LEAST (1, 36)
#define NBDKIT_DUMP_PLUGIN(callback) .dump_plugin = (callback),
#else
#define NBDKIT_DUMP_PLUGIN(callback)
#endif

/* Does a context that we open ourselves know its export's name?  Where it does
 * not, nbdkit_export_name () is NULL there, and plugins that ask may crash. */
#define NBDKIT_CONTEXT_HAS_EXPORT_NAME NBDKIT_AT_LEAST (1, 44)

#endif /* PCACHE_NBDKIT_VERSION_H */

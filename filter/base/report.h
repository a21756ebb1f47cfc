/* SPDX-License-Identifier: BSD-3-Clause */

/* report: where messages for the user go.
 *
 * The layers that know the facts say them here, once, in one line without
 * a newline; whoever hosts the engine decides where they are shown.
 * Without a host they go to stderr. */

#ifndef PCACHE_REPORT_H
#define PCACHE_REPORT_H

#include <stdarg.h>

enum report_level {
  REPORT_ERROR,               /* something asked for was not done */
  REPORT_WARNING,             /* done, but the user should know */
  REPORT_DEBUG,
};

typedef void report_sink (enum report_level level, const char *format,
                          va_list args);

/* Before any other thread runs.  NULL goes back to stderr. */
extern void report_set_sink (report_sink *sink);

/* What all messages from now on are about, such as a path: they begin with it.
 * NULL: nothing in particular.  The string must stay.  Only while there is but
 * one thread. */
extern void report_about (const char *subject);

extern void report (enum report_level level, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

#endif /* PCACHE_REPORT_H */

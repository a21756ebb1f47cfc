/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/report.h"

static void
report_to_stderr (enum report_level level, const char *format, va_list args)
{
  static const char *const prefix[] = {
    [REPORT_ERROR] = "error", [REPORT_WARNING] = "warning",
  };

  if (level == REPORT_DEBUG)
    return;
  flockfile (stderr);
  fprintf (stderr, "pcache: %s: ", prefix[level]);
  vfprintf (stderr, format, args);
  putc ('\n', stderr);
  funlockfile (stderr);
}

static report_sink *current_sink = report_to_stderr;

void
report_set_sink (report_sink *sink)
{
  current_sink = sink ? sink : report_to_stderr;
}

static const char *current_subject;

void
report_about (const char *subject)
{
  current_subject = subject;
}

static void
sink (enum report_level level, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  current_sink (level, format, args);
  va_end (args);
}

void
report (enum report_level level, const char *format, ...)
{
  char *text = NULL;
  va_list args;

  va_start (args, format);
  if (current_subject == NULL)
    current_sink (level, format, args);
  else if (vasprintf (&text, format, args) >= 0) {
    sink (level, "%s: %s", current_subject, text);
    free (text);
  }
  else
    sink (level, "%s: %s (out of memory)", current_subject, format);
  va_end (args);
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "support/reports.h"

#define ROOM 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char text[REPORT_DEBUG + 1][ROOM];       /* lock */
static unsigned count[REPORT_DEBUG + 1];        /* lock */

static void
collect (enum report_level level, const char *format, va_list args)
{
  HOLD_LOCK (&lock);
  const size_t used = strlen (text[level]);

  count[level]++;
  if (ROOM - used < 2048)
    return;
  vsnprintf (text[level] + used, ROOM - used - 1, format, args);
  strcat (text[level], "\n");
}

void
reports_collect (void)
{
  HOLD_LOCK (&lock);

  memset (count, 0, sizeof count);
  for (int i = 0; i <= REPORT_DEBUG; i++)
    text[i][0] = '\0';
  report_set_sink (collect);
}

const char *
reports_text (enum report_level level)
{
  return text[level];
}

unsigned
reports_count (enum report_level level)
{
  HOLD_LOCK (&lock);

  return count[level];
}

static bool
line_has (const char *line, const char *words)
{
  char copy[1024], *rest = copy, *word;

  snprintf (copy, sizeof copy, "%s", words);
  while ((word = strsep (&rest, "|")) != NULL)
    if (strstr (line, word) == NULL)
      return false;
  return true;
}

bool
reports_have (enum report_level level, const char *words)
{
  HOLD_LOCK (&lock);
  char line[4096];

  for (const char *p = text[level]; *p; p = strchr (p, '\n') + 1) {
    snprintf (line, sizeof line, "%.*s", (int) (strchr (p, '\n') - p), p);
    if (line_has (line, words))
      return true;
  }
  return false;
}

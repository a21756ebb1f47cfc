/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/thread.h"
#include "tool/progress.h"

#define WIDTH 30
#define INTERVAL_MS 200

void
progress_begin (struct progress *p, const char *what, uint64_t total)
{
  *p = (struct progress) {
    .what = what, .total = total, .begun_ms = now_ms (),
  };
  p->shown_ms = p->begun_ms;
}

void
progress_show (struct progress *p, uint64_t done)
{
  const uint64_t now = now_ms (), ms = now - p->begun_ms;
  const double part = p->total > 0 ? (double) MIN (done, p->total) / p->total
    : 1;
  const double rate = ms > 0 ? done * 1000.0 / ms : 0;  /* bytes/s */
  char bar[WIDTH + 1];

  if (now - p->shown_ms < INTERVAL_MS || !isatty (STDERR_FILENO))
    return;
  p->shown_ms = now;
  p->shown = true;
  memset (bar, '.', WIDTH);
  memset (bar, '#', (size_t) (part * WIDTH));
  bar[WIDTH] = '\0';
  fprintf (stderr, "\r%s [%s] %3.0f%% of %" PRIu64 " MiB, %.1f MiB/s",
           p->what, bar, part * 100, p->total >> 20, rate / (1 << 20));
  if (rate > 0)
    fprintf (stderr, ", %" PRIu64 " s to go ",
             (uint64_t) ((p->total - MIN (done, p->total)) / rate));
  fputs ("\033[K", stderr);
  fflush (stderr);
}

void
progress_end (struct progress *p)
{
  if (p->shown)
    fputs ("\r\033[K", stderr);
  p->shown = false;
}

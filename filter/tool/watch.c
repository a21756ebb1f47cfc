/* SPDX-License-Identifier: BSD-3-Clause */

/* watch: a screen that shows what a running cache does.
 *
 * A frame is made of two replies, "status" and "map", and of what has changed
 * in the former since the frame before.  Its lines are never wider than the
 * screen, nor more than it has.  Where there is no terminal, frames follow each
 * other as plain text. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <json.h>

#include "base/arith.h"
#include "base/parse.h"
#include "base/thread.h"
#include "tool/online.h"

#define MAX_INTERVAL_MS 3600000
#define MIN_INTERVAL_MS 100
#define MAX_WIDTH 500
#define OTHER_LINES 13          /* than those of the map */
#define MAX_CELLS 4096          /* that the server gives */

struct screen {
  bool terminal;
  bool keys;                    /* there are some to be pressed */
  unsigned width, height;
  unsigned lines;               /* of this frame so far */
};

struct sample {
  struct json_object *status;   /* NULL: there is none yet */
  uint64_t at_ms;
};

static volatile sig_atomic_t stopped, resized;
static struct termios usual;
static sigset_t usual_signals;  /* while we wait */

/* The terminal. ---------------------------------------------------------- */

static void
note_signal (int signal)
{
  if (signal == SIGWINCH)
    resized = true;
  else
    stopped = true;
}

/* They come only while we wait, and never in the middle of a frame. */
static void
begin_signals (void)
{
  const int ours[] = { SIGINT, SIGTERM, SIGHUP, SIGWINCH };
  struct sigaction action = { .sa_handler = note_signal };
  sigset_t held;

  sigemptyset (&held);
  for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
    sigaddset (&held, ours[i]);
    sigaction (ours[i], &action, NULL);
  }
  sigprocmask (SIG_BLOCK, &held, &usual_signals);
}

static void
begin_terminal (struct screen *screen)
{
  struct termios raw;

  /* So that q needs no Enter.  In the background it is not ours to change. */
  screen->keys = tcgetattr (STDIN_FILENO, &usual) == 0
    && tcgetpgrp (STDIN_FILENO) == getpgrp ();
  if (screen->keys) {
    raw = usual;
    raw.c_lflag &= ~(ICANON | ECHO);
    tcsetattr (STDIN_FILENO, TCSANOW, &raw);
  }
  fputs ("\033[?25l\033[H\033[J", stdout);      /* no cursor; an empty screen */
}

static void
end_terminal (const struct screen *screen)
{
  fputs ("\033[K\033[?25h", stdout);
  fflush (stdout);
  if (screen->keys)
    tcsetattr (STDIN_FILENO, TCSANOW, &usual);
}

static void
measure (struct screen *screen)
{
  if (!screen->terminal || !terminal_size (&screen->width, &screen->height)) {
    screen->width = 80;
    screen->height = 24;
  }
  screen->width = MIN (screen->width, (unsigned) MAX_WIDTH);
}

/* Wait for FD, or a key, until UNTIL_MS.  False when it is time to end. */
static bool
wait_for (const struct screen *screen, int fd, uint64_t until_ms,
          bool *readable)
{
  enum { KEYS, FD, COUNT };
  struct pollfd fds[COUNT] = {
    [KEYS] = { screen->keys ? STDIN_FILENO : -1, POLLIN, 0 },
    [FD] = { fd, POLLIN, 0 },
  };
  const uint64_t now = now_ms ();
  const uint64_t left = until_ms > now ? until_ms - now : 0;
  struct timespec ts = { left / 1000, left % 1000 * 1000000 };
  char keys[16];
  ssize_t n;

  *readable = false;
  if (ppoll (fds, COUNT, until_ms == UINT64_MAX ? NULL : &ts,
             &usual_signals) == -1)
    return !stopped;
  if (fds[KEYS].revents) {
    n = read (STDIN_FILENO, keys, sizeof keys);
    if (n <= 0 || memchr (keys, 'q', n) || memchr (keys, 'Q', n))
      return false;
  }
  *readable = fds[FD].revents;
  return !stopped;
}

/* Lines. ----------------------------------------------------------------- */

/* Behind what fits neither line nor screen nothing is printed. */
static void
print_line (struct screen *screen, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

static void
print_line (struct screen *screen, const char *format, ...)
{
  char text[MAX_WIDTH + 1];
  va_list args;

  /* The last line stays empty: a newline there would scroll. */
  if (screen->terminal && screen->lines + 1 >= screen->height)
    return;
  va_start (args, format);
  vsnprintf (text, screen->width + 1, format, args);
  va_end (args);
  printf ("%s%s\n", text, screen->terminal ? "\033[K" : "");
  screen->lines++;
}

static void
print_cells (struct screen *screen, const char *cells, size_t count)
{
  static const struct { char cell; const char *colour; } colours[] = {
    { 'c', "\033[32m" }, { 'o', "\033[33m" }, { 'D', "\033[31m" },
    { 'x', "\033[1;35m" },
  };
  char last = 0;

  if (!screen->terminal) {
    print_line (screen, "%.*s", (int) count, cells);
    return;
  }
  if (screen->lines + 1 >= screen->height)
    return;
  for (size_t i = 0; i < count; i++) {
    if (cells[i] != last) {
      fputs ("\033[0m", stdout);
      for (size_t k = 0; k < sizeof colours / sizeof colours[0]; k++)
        if (colours[k].cell == cells[i])
          fputs (colours[k].colour, stdout);
      last = cells[i];
    }
    putchar (cells[i]);
  }
  fputs ("\033[0m\033[K\n", stdout);
  screen->lines++;
}

static const char *
human_time (char buf[HUMAN_TEXT], uint64_t ns)
{
  if (ns < 1000)
    snprintf (buf, HUMAN_TEXT, "%" PRIu64 " ns", ns);
  else if (ns < 1000000)
    snprintf (buf, HUMAN_TEXT, "%.1f us", ns / 1e3);
  else if (ns < 1000000000)
    snprintf (buf, HUMAN_TEXT, "%.1f ms", ns / 1e6);
  else
    snprintf (buf, HUMAN_TEXT, "%.1f s", ns / 1e9);
  return buf;
}

/* Figures. --------------------------------------------------------------- */

/* What NAME has grown by from one sample to the other. */
static uint64_t
growth (const struct sample *now, const struct sample *before,
        const char *name)
{
  const uint64_t n = get_number (now->status, name);
  const uint64_t b = before->status ? get_number (before->status, name) : 0;

  return n > b ? n - b : 0;
}

/* A second; 0 if nothing can be said yet. */
static double
rate (const struct sample *now, const struct sample *before, const char *name)
{
  const uint64_t ms = now->at_ms - before->at_ms;

  return before->status && ms > 0
    ? growth (now, before, name) * 1000.0 / ms : 0;
}

/* "98.1 %", or "-" if there is nothing to judge by. */
static const char *
percent (char buf[HUMAN_TEXT], const struct sample *sample, const char *name)
{
  struct json_object *value;

  if (json_object_object_get_ex (sample->status, name, &value) && value)
    snprintf (buf, HUMAN_TEXT, "%.1f %%",
              json_object_get_double (value) * 100);
  else
    strcpy (buf, "-");
  return buf;
}

/* Latencies: what has come to a histogram since the sample before, so that
 * they are those of now.  A bucket is a pair of bound and count. */

static struct json_object *
buckets_of (const struct sample *sample, const char *name)
{
  struct json_object *latency, *buckets;

  if (sample->status
      && json_object_object_get_ex (sample->status, name, &latency)
      && json_object_object_get_ex (latency, "buckets", &buckets)
      && json_object_is_type (buckets, json_type_array))
    return buckets;
  return NULL;
}

static size_t
bucket_count (struct json_object *buckets)
{
  return buckets ? json_object_array_length (buckets) : 0;
}

static uint64_t
bucket_number (struct json_object *buckets, size_t i, size_t which)
{
  struct json_object *pair = json_object_array_get_idx (buckets, i);

  return json_object_is_type (pair, json_type_array)
    ? json_object_get_uint64 (json_object_array_get_idx (pair, which)) : 0;
}

static uint64_t
bucket_growth (struct json_object *now, size_t i, struct json_object *before)
{
  const uint64_t bound = bucket_number (now, i, 0);
  const uint64_t count = bucket_number (now, i, 1);

  for (size_t k = 0; k < bucket_count (before); k++)
    if (bucket_number (before, k, 0) == bound) {
      const uint64_t old = bucket_number (before, k, 1);

      return count > old ? count - old : 0;
    }
  return count;
}

static const char *
percentile (char buf[HUMAN_TEXT], struct json_object *now,
            struct json_object *before, unsigned per_mille)
{
  uint64_t total = 0, sum = 0;

  for (size_t i = 0; i < bucket_count (now); i++)
    total += bucket_growth (now, i, before);
  for (size_t i = 0; total > 0 && i < bucket_count (now); i++) {
    sum += bucket_growth (now, i, before);
    if (sum * 1000.0 >= total * (double) per_mille)
      return human_time (buf, bucket_number (now, i, 0));
  }
  return strcpy (buf, "-");
}

static void
print_requests (struct screen *screen, const struct sample *now,
                const struct sample *before, const char *what,
                const char *requests, const char *bytes, const char *latency)
{
  struct json_object *buckets = buckets_of (now, latency);
  struct json_object *old = buckets_of (before, latency);
  char p50[HUMAN_TEXT], p99[HUMAN_TEXT], p999[HUMAN_TEXT];
  char amount[HUMAN_TEXT] = "";

  if (bytes)
    human_bytes (amount, rate (now, before, bytes));
  print_line (screen, "%-8s %9.0f %12s %11s %11s %11s", what,
              rate (now, before, requests), amount,
              percentile (p50, buckets, old, 500),
              percentile (p99, buckets, old, 990),
              percentile (p999, buckets, old, 999));
}

/* Frames. ---------------------------------------------------------------- */

/* Rows of cells; as many as fit, for the server was asked for no more. */
static void
print_map (struct screen *screen, struct json_object *map)
{
  const char *cells = get_text (map, "cells") ?: "";
  const uint64_t per_cell = get_number (map, "segments_per_cell");
  size_t left = strlen (cells);

  while (left > 0) {
    const size_t count = MIN (left, (size_t) screen->width);

    print_cells (screen, cells, count);
    cells += count;
    left -= count;
  }
  if (per_cell > 1)
    print_line (screen, ". free  c clean  o open  D dirty  x damaged; "
                "%" PRIu64 " segments each", per_cell);
  else
    print_line (screen, ". free  c clean  o open  D dirty  x damaged");
}

static bool
is_so (const struct sample *sample, const char *name)
{
  struct json_object *value;

  return json_object_object_get_ex (sample->status, name, &value)
    && json_object_get_boolean (value);
}

static void
print_writeback (struct screen *screen, const struct sample *now)
{
  char dirty[HUMAN_TEXT], speed[HUMAN_TEXT];
  struct json_object *error;
  int code = 0;

  print_line (screen, "Dirty    %s, oldest %.1f s, epochs behind %" PRIu64
              ", write-back %s/s",
              human_bytes (dirty, get_number (now->status, "dirty_bytes")),
              get_number (now->status, "oldest_dirty_ms") / 1000.0,
              get_number (now->status, "epochs_behind"),
              human_bytes (speed, get_number (now->status,
                                              "writeback_rate")));
  if (json_object_object_get_ex (now->status, "writeback_error", &error))
    code = json_object_get_int (error);
  if (is_so (now, "bypassed"))
    print_line (screen, "         THE CACHE DEVICE IS NOT USED ANY MORE");
  if (is_so (now, "paused"))
    print_line (screen, "         WRITE-BACK IS PAUSED");
  if (code < 0)
    print_line (screen, "         THE BACKING STORE FAILS: %s",
                strerror (-code));
}

static void
print_frame (struct screen *screen, const struct sample *now,
             const struct sample *before, struct json_object *map)
{
  struct json_object *status = now->status;
  char time_text[HUMAN_TEXT], size[HUMAN_TEXT], hits[HUMAN_TEXT];
  char byte_hits[HUMAN_TEXT];
  const time_t t = time (NULL);
  struct tm tm;

  screen->lines = 0;
  if (screen->terminal)
    fputs ("\033[H", stdout);
  strftime (time_text, sizeof time_text, "%H:%M:%S", localtime_r (&t, &tm));
  print_line (screen, "%s  %s", time_text,
              get_text (status, "device") ?: "");
  print_line (screen, "Segments %" PRIu64 " of %s: %" PRIu64 " free, %" PRIu64
              " open, %" PRIu64 " full",
              get_number (status, "segments_total"),
              human_bytes (size, get_number (status, "segment_size")),
              get_number (status, "segments_free"),
              get_number (status, "segments_open"),
              get_number (status, "segments_sealed"));
  print_map (screen, map);
  print_line (screen, "Hits     %s of reads, %s of their bytes",
              percent (hits, now, "hit_ratio"),
              percent (byte_hits, now, "byte_hit_ratio"));
  print_writeback (screen, now);
  print_line (screen, "%-8s %9s %12s %11s %11s %11s", "each s", "requests",
              "bytes", "p50", "p99", "p99.9");
  print_requests (screen, now, before, "Reads", "reads", "read_bytes",
                  "read_latency");
  print_requests (screen, now, before, "Writes", "writes", "write_bytes",
                  "write_latency");
  print_requests (screen, now, before, "Flushes", "flushes", NULL,
                  "flush_latency");
  if (screen->terminal)
    fputs ("q ends\033[K\r\033[J", stdout);
  else
    putchar ('\n');
  fflush (stdout);
}

/* The reply to COMMAND.  NULL: *STATUS is the exit status. */
static struct json_object *
ask (const struct screen *screen, struct client *client, const char *command,
     struct json_object *arguments, int *status)
{
  struct json_object *reply;
  bool readable = false;

  *status = EXIT_FAILED;
  if (!client_send (client, command, arguments))
    return NULL;
  while (!readable)
    if (!wait_for (screen, client_fd (client), UINT64_MAX, &readable)) {
      *status = EXIT_SUCCESS;
      return NULL;
    }
  reply = client_next (client);
  if (reply && reply_error (reply)) {
    fprintf (stderr, "pcachectl: %s\n", reply_error (reply));
    json_object_put (reply);
    return NULL;
  }
  if (reply)
    *status = EXIT_SUCCESS;
  return reply;
}

/* Replace NOW by a new sample, of which SCREEN shows a frame.  False: *STATUS
 * is the exit status. */
static bool
show_frame (struct screen *screen, struct client *client, struct sample *now,
            int *status)
{
  struct sample before = *now;
  struct json_object *arguments, *reply, *map = NULL;
  unsigned rows, cells;

  measure (screen);
  rows = screen->height > OTHER_LINES ? screen->height - OTHER_LINES : 1;
  cells = MIN (rows * screen->width, (unsigned) MAX_CELLS);
  reply = ask (screen, client, "status", NULL, status);
  if (reply) {
    arguments = json_object_new_object ();
    json_object_object_add (arguments, "cells",
                            json_object_new_int64 (cells));
    map = ask (screen, client, "map", arguments, status);
  }
  if (map && json_object_object_get_ex (reply, "status", &now->status)) {
    json_object_get (now->status);
    now->at_ms = now_ms ();
    print_frame (screen, now, &before, map);
    json_object_put (before.status);
  }
  json_object_put (reply);
  json_object_put (map);
  return map != NULL;
}

/* Until another frame is due.  False when it is time to end. */
static bool
wait_for_next (const struct screen *screen, uint64_t until_ms)
{
  bool unused;

  resized = false;
  while (now_ms () < until_ms && !resized)
    if (!wait_for (screen, -1, until_ms, &unused))
      return false;
  return true;
}

/* Until it is stopped, or COUNT frames were shown; 0: no limit. */
static int
watch (struct screen *screen, struct client *client, unsigned interval_ms,
       uint64_t count)
{
  struct sample sample = { 0 };
  uint64_t next_ms = now_ms (), shown = 0;
  int status = EXIT_SUCCESS;

  while (show_frame (screen, client, &sample, &status)) {
    if (++shown == count || ferror (stdout))
      break;
    next_ms = MAX (next_ms + interval_ms, now_ms ());
    if (!wait_for_next (screen, next_ms))
      break;
  }
  json_object_put (sample.status);
  return status;
}

static int
run_watch (int argc, char *argv[])
{
  static const struct option options[] = {
    { "interval", required_argument, NULL, 'i' },
    { "count", required_argument, NULL, 'c' },
    { 0 }
  };
  struct screen screen = { .terminal = isatty (STDOUT_FILENO) };
  unsigned interval_ms = 1000;
  uint64_t count = 0;
  struct client *client;
  int c, status;

  while ((c = next_option (argc, argv, options)) != -1)
    switch (c) {
    case 'i':
      if (!parse_delay (optarg, MAX_INTERVAL_MS, &interval_ms)
          || interval_ms < MIN_INTERVAL_MS)
        return usage_error ("watch: --interval=%s: expected a time from 0.1 "
                            "seconds to an hour, such as 2 or 500ms", optarg);
      break;
    case 'c':
      if (!parse_number (optarg, UINT32_MAX, &count) || count == 0)
        return usage_error ("watch: --count=%s: expected a whole number above "
                            "0", optarg);
      break;
    default:
      return EXIT_USAGE;
    }
  if (!check_arguments (argc, argv, 1, 1))
    return EXIT_USAGE;
  client = client_open (argv[optind]);
  if (client == NULL)
    return EXIT_FAILED;
  begin_signals ();
  if (screen.terminal)
    begin_terminal (&screen);
  status = watch (&screen, client, interval_ms, count);
  if (screen.terminal)
    end_terminal (&screen);
  client_close (client);
  return status;
}

const struct command watch_command = {
  "watch", "[--interval=TIME] [--count=N] SOCKET",
  "show what the cache does, on a screen that is refreshed", run_watch
};

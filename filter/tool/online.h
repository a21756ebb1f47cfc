/* SPDX-License-Identifier: BSD-3-Clause */

/* online: what the commands for a running cache share. */

#ifndef PCACHE_ONLINE_H
#define PCACHE_ONLINE_H

#include <stdint.h>

#include "tool/client.h"
#include "tool/command.h"

extern const struct command status_command, metrics_command, watch_command,
  get_command, set_command, drain_command, flush_command, invalidate_command,
  pause_command, resume_command;

/* Behind the options there must be LEAST to MOST arguments, of which the first
 * is the socket.  False after it was said that there are not. */
extern bool check_arguments (int argc, char *argv[], int least, int most);

/* In characters.  False if standard output is no terminal, or does not say. */
extern bool terminal_size (unsigned *width, unsigned *height);

/* "12.3 MiB".  Returns BUF. */
#define HUMAN_TEXT 32
extern const char *human_bytes (char buf[HUMAN_TEXT], uint64_t bytes);

#endif /* PCACHE_ONLINE_H */

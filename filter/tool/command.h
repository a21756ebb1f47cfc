/* SPDX-License-Identifier: BSD-3-Clause */

/* command: what a command of pcachectl is.
 *
 * Each file of tool/ has some; pcachectl.c lists them in the order of
 * --help. */

#ifndef PCACHE_COMMAND_H
#define PCACHE_COMMAND_H

#include <getopt.h>

/* Exit statuses, the same for all commands; check has more of its own. */
#define EXIT_FAILED 1           /* what was asked for was not done */
#define EXIT_USAGE 2

struct command {
  const char *name;
  const char *arguments;        /* as --help shows them, after the name */
  const char *summary;          /* one line, without a full stop */
  /* ARGV[0] is the command's name.  Returns the exit status; what went wrong
   * has been said. */
  int (*run) (int argc, char *argv[]);
};

/* Say what is wrong with the arguments and how to get help.  Returns
 * EXIT_USAGE. */
extern int usage_error (const char *format, ...)
  __attribute__ ((format (printf, 1, 2)));

/* As getopt_long; '?' after it was said what is wrong with the option. */
extern int next_option (int argc, char *argv[], const struct option *options);

#endif /* PCACHE_COMMAND_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* pcachectl: looks into a cache and tells it what to do.
 *
 * A running cache is reached through its control socket, one that nobody has
 * open through its cache device. */

#include <config.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool/command.h"
#include "tool/offline.h"
#include "tool/online.h"

static const struct command *const commands[] = {
  &status_command,
  &metrics_command,
  &watch_command,
  &get_command,
  &set_command,
  &drain_command,
  &flush_command,
  &invalidate_command,
  &pause_command,
  &resume_command,
  &inspect_command,
  &check_command,
  &map_command,
  &writeback_command,
  &repair_command,
  NULL
};

int
usage_error (const char *format, ...)
{
  va_list args;

  fputs ("pcachectl: ", stderr);
  va_start (args, format);
  vfprintf (stderr, format, args);
  va_end (args);
  fputs ("\nTry \"pcachectl --help\".\n", stderr);
  return EXIT_USAGE;
}

int
next_option (int argc, char *argv[], const struct option *options)
{
  /* '+': a value to set, such as -1, is no option. */
  const char *const order = strcmp (argv[0], "set") == 0 ? "+:" : ":";
  int c;

  opterr = 0;
  c = getopt_long (argc, argv, order, options, NULL);
  if (c == ':') {
    usage_error ("%s: %s: its value is missing", argv[0], argv[optind - 1]);
    return '?';
  }
  if (c == '?')
    usage_error ("%s: %s: there is no such option, or it is used wrongly",
                 argv[0], argv[optind - 1]);
  return c;
}

static void
print_command (const struct command *command)
{
  printf ("  pcachectl %s %s\n      %s.\n", command->name, command->arguments,
          command->summary);
}

static int
run (const struct command *command, int argc, char *argv[])
{
  if (argc == 2 && strcmp (argv[1], "--help") == 0) {
    print_command (command);
    return EXIT_SUCCESS;
  }
  return command->run (argc, argv);
}

static void
print_help (void)
{
  puts ("usage: pcachectl COMMAND [OPTIONS] SOCKET|DEVICE [ARGUMENTS]\n"
        "\n"
        "SOCKET is the pcache-control socket of a running cache, DEVICE a cache\n"
        "device that nobody has open.\n");
  for (const struct command *const *c = commands; *c; c++)
    print_command (*c);
  puts ("\n"
        "  pcachectl --help\n"
        "  pcachectl --version\n"
        "\n"
        "The man page pcachectl(1) says more.");
}

static int
close_stdout (int status)
{
  if (fflush (stdout) == 0 && !ferror (stdout))
    return status;
  perror ("pcachectl: standard output");
  return status ? status : EXIT_FAILED;
}

int
main (int argc, char *argv[])
{
  if (argc < 2)
    return usage_error ("which command?");
  if (strcmp (argv[1], "--help") == 0) {
    print_help ();
    return close_stdout (EXIT_SUCCESS);
  }
  if (strcmp (argv[1], "--version") == 0) {
    printf ("pcachectl (pcache) %s\n", PACKAGE_VERSION);
    return close_stdout (EXIT_SUCCESS);
  }
  for (const struct command *const *c = commands; *c; c++)
    if (strcmp (argv[1], (*c)->name) == 0)
      return close_stdout (run (*c, argc - 1, argv + 1));
  return usage_error ("%s: there is no such command", argv[1]);
}

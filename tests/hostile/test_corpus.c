/* SPDX-License-Identifier: BSD-3-Clause */

/* Every input that fuzzing has found worth keeping, again.
 *
 *   test_corpus [FILE...]      these instead of all in corpus/
 *   test_corpus --save DIRECTORY FILE...
 *                              write the device that each makes to
 *                              DIRECTORY/NAME, and do nothing with it */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hostile/fuzz_open.h"

#define MAX_BYTES 65536
#define FILE_SECONDS 60

static const char *current = "no file";

static void
on_death (int number)
{
  fprintf (stderr, "# the input was %s%s\n", current,
           number == SIGALRM ? ", and has not ended" : "");
  signal (number, SIG_DFL);
  raise (number == SIGALRM ? SIGABRT : number);
}

static int
is_file (const struct dirent *entry)
{
  return entry->d_name[0] != '.';
}

static void
replay (const char *path, const char *name, int number)
{
  static uint8_t bytes[MAX_BYTES];
  FILE *file = fopen (path, "rb");
  size_t size;

  current = name;
  if (file == NULL) {
    printf ("not ok %d - %s: %s\n", number, name, strerror (errno));
    exit (EXIT_FAILURE);
  }
  size = fread (bytes, 1, sizeof bytes, file);
  fclose (file);
  alarm (FILE_SECONDS);
  LLVMFuzzerTestOneInput (bytes, size);
  alarm (0);
  printf ("ok %d - %s\n", number, name);
  fflush (stdout);
}

int
main (int argc, char *argv[])
{
  const char *srcdir = getenv ("srcdir");
  struct dirent **entries;
  char directory[2048], path[4096];
  int count;

  signal (SIGABRT, on_death);
  signal (SIGALRM, on_death);
  if (argc > 3 && strcmp (argv[1], "--save") == 0) {
    for (int i = 3; i < argc; i++) {
      const char *slash = strrchr (argv[i], '/');

      snprintf (path, sizeof path, "%s/%s", argv[2],
                slash ? slash + 1 : argv[i]);
      fuzz_save = path;
      replay (argv[i], argv[i], i - 2);
    }
    return EXIT_SUCCESS;
  }
  if (argc > 1) {
    printf ("1..%d\n", argc - 1);
    for (int i = 1; i < argc; i++)
      replay (argv[i], argv[i], i);
    return EXIT_SUCCESS;
  }

  snprintf (directory, sizeof directory, "%s/hostile/corpus",
            srcdir ? srcdir : ".");
  count = scandir (directory, &entries, is_file, alphasort);
  if (count <= 0) {
    printf ("1..1\nnot ok 1 - no inputs in %s\n", directory);
    return EXIT_FAILURE;
  }
  printf ("1..%d\n", count);
  for (int i = 0; i < count; i++) {
    snprintf (path, sizeof path, "%s/%s", directory, entries[i]->d_name);
    replay (path, entries[i]->d_name, i + 1);
    free (entries[i]);
  }
  free (entries);
  return EXIT_SUCCESS;
}

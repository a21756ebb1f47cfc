/* SPDX-License-Identifier: BSD-3-Clause */

/* Explores crash states, and says how many.  See explorer.h for what that
 * is, usage below for what can be asked for. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "crash/explorer.h"
#include "support/scale.h"
#include "support/seed.h"

#define MAX_JOBS 64

/* Distinct states that the normal run must see. */
#define ENOUGH UINT64_C (1000000)

/* All sequences over STEPS up to LENGTH, of the starts FROM..TO - 1; or, with
 * RANDOM, so many of that length. */
struct task {
  const char *name;
  unsigned from, to;
  const char *steps;
  unsigned length;
  unsigned random;
  const char *whole;            /* instead of steps */
  bool modes;                   /* random: with changes of the mode */
};

#define FEW_STEPS "wFftbgrx"
#define FEW_MODE_STEPS "wfrgbim"

static const struct task normal[] = {
  { .name = "formatting", .to = 8, .whole = "formatting" },
  { .name = "resizing", .to = 8, .whole = "resizing" },
  { .name = "all steps, up to 2", .to = 8, .steps = ALL_STEPS, .length = 2 },
  { .name = "random, 120 steps", .to = 8, .length = 120, .random = 20 },
  { .name = "few steps, up to 4", .from = 6, .to = 7, .steps = FEW_STEPS,
    .length = 4 },
  { .name = "few steps, up to 4", .to = 4, .steps = FEW_STEPS, .length = 4 },
  { .name = "all steps, up to 3", .to = 4, .steps = ALL_STEPS, .length = 3 },
  { .name = "modes, random, 120 steps", .from = 8, .to = 12, .length = 120,
    .random = 10, .modes = true },
  { .name = "modes, up to 3", .from = 8, .to = 12, .steps = FEW_MODE_STEPS,
    .length = 3 },
  { .name = "modes, up to 2", .from = 8, .to = 12, .steps = MODE_STEPS,
    .length = 2 },
};

static const struct task longer[] = {
  { .name = "formatting", .to = 8, .whole = "formatting" },
  { .name = "resizing", .to = 8, .whole = "resizing" },
  { .name = "random, 300 steps", .to = 8, .length = 300, .random = 1000 },
  { .name = "all steps, up to 4", .to = 8, .steps = ALL_STEPS, .length = 4 },
  { .name = "modes, random, 300 steps", .from = 8, .to = 12, .length = 300,
    .random = 500, .modes = true },
  { .name = "modes, up to 4", .from = 8, .to = 12, .steps = MODE_STEPS,
    .length = 4 },
};

/* Histories that once failed. */
static const struct {
  uint64_t seed;
  const char *text;
} old_histories[] = {
  /* What a killed process had stored and not fenced was built upon. */
  { 5, "pmem-used t.g.k" },
};

static const struct effort enumerated_effort = {
  .exhaustive = 4096, .samples = 12, .tears = 6, .again_every = 4,
  .nested_every = 64, .deep_every = 16,
};
static const struct effort random_effort = {
  .exhaustive = 16, .samples = 3, .tears = 1, .again_every = 4,
  .nested_every = 200, .deep_every = 16,
};

static struct shared {
  _Atomic uint64_t next;
  _Atomic uint64_t violations;
  struct counts counts;
  char doing[MAX_JOBS][4096];   /* for when one dies */
} *shared;

static struct state_set *seen, *done;
static const struct task *tasks;
static unsigned task_count;
static unsigned most_violations = 10;   /* then stop */
static bool only_modes;
static unsigned scale = 100;    /* percent of the sequences */

static void
usage (FILE *to)
{
  fputs ("usage: check_crash [--long] [--jobs N] [--seed N] [--first] [--modes]\n"
         "       check_crash [--seed N] --replay 'START STEPS'\n"
         "\n"
         "Runs histories on a model of a cache device and of a backing store, lets\n"
         "the power fail at every point of them, opens what that may have left,\n"
         "and checks it.  The normal run takes minutes; --long takes hours.\n"
         "--modes: only the histories in which the mode changes.\n"
         "--first: stop at the first violation, and do not shrink its history.\n"
         "--replay runs one history again, as it was printed.\n"
         "TEST_SCALE=N in the environment: N percent of the histories.\n", to);
}

/* --- histories as text ------------------------------------------------ */

static void
print_history (char *to, size_t room, const struct history *h)
{
  size_t n = snprintf (to, room, "%s %s", h->start->name,
                       h->whole ? h->whole : "");

  for (unsigned i = 0; i < h->count && n < room; i++) {
    n += snprintf (to + n, room - n, "%s%c", i ? "." : "",
                   h->step[i].letter);
    if (h->step[i].number && n < room)
      n += snprintf (to + n, room - n, "%" PRIu32, h->step[i].number);
  }
}

static bool
parse_history (const char *text, struct history *h)
{
  const char *space = strchr (text, ' ');

  memset (h, 0, sizeof *h);
  for (unsigned i = 0; space && i < start_count; i++)
    if (strncmp (starts[i].name, text, space - text) == 0
        && starts[i].name[space - text] == '\0')
      h->start = &starts[i];
  if (h->start == NULL)
    return false;
  h->whole = whole_named (space + 1);
  if (h->whole)
    return true;
  for (const char *p = space + 1; *p; p += *p == '.') {
    char *end;

    if (h->count == MAX_STEPS || strchr (ALL_STEPS MODE_STEPS "WTZRdp", *p) == NULL)
      return false;
    h->step[h->count].letter = *p++;
    h->step[h->count++].number = strtoul (p, &end, 10);
    p = end;
  }
  return h->count > 0;
}

/* --- which histories -------------------------------------------------- */

static uint64_t
sequences_of (const struct task *task)
{
  const uint64_t n = task->steps ? strlen (task->steps) : 0;
  uint64_t sum = 0, power = 1;

  if (task->whole)
    return 1;
  if (task->random)
    return task->random;
  for (unsigned i = 1; i <= task->length; i++)
    sum += power *= n;
  return sum;
}

static void
make_sequence (const struct task *task, uint64_t index, struct history *h)
{
  const uint64_t n = strlen (task->steps);
  uint64_t of_length = n;

  for (h->count = 1; index >= of_length; h->count++) {
    index -= of_length;
    of_length *= n;
  }
  for (unsigned i = 0; i < h->count; i++) {
    h->step[i] = (struct step) { .letter = task->steps[index % n] };
    index /= n;
  }
}

static void
make_random (const struct task *task, uint64_t index, struct history *h)
{
  static const char letters[] = "mmiiWWWWWWWWWWWWZTRRRffbbbbgggdpskox";
  const unsigned first = task->modes ? 0 : 4;
  uint64_t random = seed + index * UINT64_C (0x9e3779b97f4a7c15);

  h->count = task->length;
  for (unsigned i = 0; i < h->count; i++) {
    h->step[i].letter = letters[first + random_below (&random, sizeof letters - 1 - first)];
    h->step[i].number = strchr ("WZTRp", h->step[i].letter)
      ? random_next (&random) : 0;
  }
}

/* The history number INDEX of all tasks; false: there are no more. */
static const struct task *
choose (uint64_t index, struct history *h)
{
  h->count = 0;
  for (unsigned t = 0; t < task_count; t++) {
    const struct task *task = &tasks[t];
    const uint64_t each = sequences_of (task);

    if (only_modes && task->from < 8)
      continue;
    for (unsigned s = task->from; s < task->to; s++) {
      if (index < each) {
        h->start = &starts[s];
        h->whole = task->whole;
        if (task->random)
          make_random (task, index, h);
        else if (!task->whole)
          make_sequence (task, index, h);
        return task;
      }
      index -= each;
    }
  }
  return NULL;
}

/* --- running ---------------------------------------------------------- */

/* Leave steps out as long as something is still wrong. */
static void
shrink (struct explorer *ex, struct history *h, char *wrong, size_t room)
{
  for (unsigned i = h->count; i-- > 0 && h->count > 1;) {
    struct history less = *h;
    const char *problem;

    memmove (&less.step[i], &less.step[i + 1],
             (less.count - i - 1) * sizeof less.step[0]);
    less.count--;
    problem = explore (ex, &less, true);
    if (problem) {
      *h = less;
      snprintf (wrong, room, "%s", problem);
    }
  }
}

static void
report_violation (struct explorer *ex, const struct history *h,
                  const char *problem, bool can_shrink)
{
  static char text[8192], first[8192], wrong[800];
  struct history less = *h;

  if (atomic_fetch_add (&shared->violations, 1) >= most_violations)
    return;
  snprintf (wrong, sizeof wrong, "%s", problem);
  print_history (first, sizeof first, h);
  if (can_shrink && most_violations > 1)
    shrink (ex, &less, wrong, sizeof wrong);
  print_history (text, sizeof text, &less);
  printf ("VIOLATION: %s\n  check_crash --seed %" PRIu64
          " --replay '%s'\n  (found as '%s')\n", wrong, seed, text, first);
  fflush (stdout);
}

static struct explorer *
explorer_for (const struct start *start, const struct effort *effort)
{
  static struct explorer *kept;
  static const struct start *kept_start;
  static const struct effort *kept_effort;

  if (kept && kept_start == start && kept_effort == effort)
    return kept;
  if (kept)
    explorer_free (kept);
  kept = start ? explorer_new (start, effort, seen, done, &shared->counts)
    : NULL;
  kept_start = start;
  kept_effort = effort;
  return kept;
}

static void
run (const struct task *task, const struct history *h)
{
  struct explorer *ex =
    explorer_for (h->start,
                  task->random ? &random_effort : &enumerated_effort);
  const char *problem = h->whole ? explore_whole (ex, h->whole)
    : explore (ex, h, task->random > 0);

  if (problem)
    report_violation (ex, h, problem, h->whole == NULL);
  if (h->whole)
    explorer_for (NULL, NULL);
}

static void
work (unsigned me)
{
  struct history h;
  const struct task *task;
  uint64_t index;

  while ((index = atomic_fetch_add (&shared->next, 1),
          task = choose (index, &h)) != NULL) {
    /* Another part of them with each seed; of the wholes, which are few and
     * long, a quarter. */
    if (scale < 100
        && (index * UINT64_C (2654435761) + seed) % 100
           >= (h.whole ? MAX (scale, 25u) : scale))
      continue;
    print_history (shared->doing[me], sizeof shared->doing[me], &h);
    run (task, &h);
    if (shared->violations >= most_violations)
      break;
  }
  explorer_for (NULL, NULL);
}

static void
run_old_histories (void)
{
  static const struct task task = { .steps = ALL_STEPS };

  const uint64_t seed_of_run = seed;

  for (size_t i = 0; i < sizeof old_histories / sizeof *old_histories; i++) {
    struct history h;

    if (!parse_history (old_histories[i].text, &h))
      abort ();
    seed = old_histories[i].seed;
    run (&task, &h);
  }
  seed = seed_of_run;
  explorer_for (NULL, NULL);
}

static void
run_all (unsigned jobs)
{
  pid_t pid[MAX_JOBS];

  fflush (stdout);
  for (unsigned i = 0; i < jobs; i++) {
    pid[i] = fork ();
    assert (pid[i] >= 0);
    if (pid[i] == 0) {
      if (i == 0)
        run_old_histories ();
      work (i);
      fflush (stdout);
      /* Normally, for the leak checker. */
      exit (0);
    }
  }
  for (unsigned i = 0; i < jobs; i++) {
    int status;

    while (waitpid (pid[i], &status, 0) < 0 && errno == EINTR)
      ;
    if (status != 0) {
      shared->violations++;
      printf ("VIOLATION: a process ended with status 0x%x, at work on\n"
              "  check_crash --seed %" PRIu64 " --replay '%s'\n", status,
              seed, shared->doing[i]);
    }
  }
}

static int
replay (const char *text)
{
  struct history h;
  struct explorer *ex;
  const char *problem;

  if (!parse_history (text, &h)) {
    fprintf (stderr, "check_crash: '%s' is not a history\n", text);
    return 2;
  }
  ex = explorer_for (&h.start[0], &enumerated_effort);
  problem = h.whole ? explore_whole (ex, h.whole)
    : explore (ex, &h, true);
  if (problem) {
    shared->violations++;
    printf ("VIOLATION: %s\n", problem);
  }
  explorer_for (NULL, NULL);
  return 0;
}

static int
finish (bool must_be_enough)
{
  const uint64_t states = state_set_count (seen);

  printf ("sequences: %" PRIu64 ", crash points: %" PRIu64 "\n"
          "opened and read: %" PRIu64 " (states with what must be found in "
          "them)\n"
          "  of these a second time: %" PRIu64
          ", with a crash while opening: %" PRIu64
          ", drained, evicted and written to: %" PRIu64 "\n"
          "contents of the backing store alone: %" PRIu64 "\n",
          shared->counts.sequences, shared->counts.points,
          shared->counts.tried, shared->counts.again, shared->counts.nested,
          shared->counts.deep, shared->counts.backing);
  if (must_be_enough && states < ENOUGH) {
    printf ("fewer distinct states than the %" PRIu64 " that are promised\n",
            ENOUGH);
    shared->violations++;
  }
  printf ("crash states explored: %" PRIu64 ", violations: %" PRIu64 "\n",
          states, shared->violations);
  return shared->violations ? 1 : 0;
}

int
main (int argc, char *argv[])
{
  static const struct option options[] = {
    { "first", no_argument, NULL, 'f' },
    { "help", no_argument, NULL, 'h' },
    { "jobs", required_argument, NULL, 'j' },
    { "long", no_argument, NULL, 'l' },
    { "modes", no_argument, NULL, 'm' },
    { "replay", required_argument, NULL, 'r' },
    { "seed", required_argument, NULL, 's' },
    { NULL, 0, NULL, 0 },
  };
  const char *text = NULL;
  unsigned jobs = sysconf (_SC_NPROCESSORS_ONLN);
  char *seed_argv[] = { argv[0], "--seed", NULL };
  bool be_long = false;
  int c;

  while ((c = getopt_long (argc, argv, "", options, NULL)) != -1)
    switch (c) {
    case 'f': most_violations = 1; break;
    case 'h': usage (stdout); return 0;
    case 'j': jobs = strtoul (optarg, NULL, 10); break;
    case 'l': be_long = true; break;
    case 'm': only_modes = true; break;
    case 'r': text = optarg; break;
    case 's': seed_argv[2] = optarg; break;
    default: usage (stderr); return 2;
    }
  if (optind < argc) {
    usage (stderr);
    return 2;
  }
  jobs = MIN (MAX (jobs, 1u), (unsigned) MAX_JOBS);
  /* Where a sanitizer makes it slow, it finds what it looks for at the first
   * few. */
  scale = test_scale ();
  scale = MIN (scale, MAX (scale * scale * scale / 10000, 1u));
  seed_choose (seed_argv[2] ? 3 : 1, seed_argv);
  tasks = be_long ? longer : normal;
  task_count = be_long ? sizeof longer / sizeof *longer
    : sizeof normal / sizeof *normal;

  shared = mmap (NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert (shared != MAP_FAILED);
  seen = state_set_new (be_long ? 200000000 : 10000000);
  done = state_set_new (be_long ? 300000000 : 15000000);
  if (text) {
    c = replay (text);
    return c ? c : finish (false);
  }
  run_all (jobs);
  return finish (scale >= 100 && !only_modes);
}

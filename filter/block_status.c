/* SPDX-License-Identifier: BSD-3-Clause */

/* The cache is asked first, for the whole request, and the plugin after
 * that.  The other way round a dirty block could be written back and evicted
 * in between: a hole to the plugin's old answer, and a hole in the cache,
 * so copying tools would skip data.
 *
 * Zeros are reported in whole sectors: qemu-img copies by the sector, and
 * takes one that begins with zeros for zeros.
 *
 * A request may cover 4 GiB of small pieces, so there is a limit to the work
 * done for one; the client asks again from where the answer ends. */

#include <config.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include <nbdkit-filter.h>

#include "backend_nbdkit.h"
#include "base/arith.h"
#include "base/cleanup.h"
#include "block_status.h"
#include "engine/cache.h"
#include "session.h"

#define MAX_RUNS 16384          /* pieces that differ from the one before */
#define MAX_PIECES (1 << 18)
#define SECTOR 512
#define MAX_QUESTIONS 1024      /* to the plugin */

struct run {
  struct range range;
  enum map_kind kind;
};

/* The first runs of RANGE, at most LIMIT.  Returns how many. */
static size_t
map_runs (struct cache *cache, struct range range, struct run *runs,
          size_t limit)
{
  size_t count = 0;

  for (unsigned i = 0; range.length > 0 && i < MAX_PIECES; i++) {
    enum map_kind kind;
    uint64_t length;

    cache_map (cache, range, &kind, &length);
    if (count > 0 && runs[count - 1].kind == kind)
      runs[count - 1].range.length += length;
    else if (count == limit)
      break;
    else
      runs[count++] = (struct run) { { range.start, length }, kind };
    range.start += length;
    range.length -= length;
  }
  return count;
}

/* The plugin's answers, as far as they have been asked for. */
struct survey {
  struct plugin *plugin;
  struct nbdkit_extents *answer;
  size_t at;                    /* in answer */
  unsigned questions;
};

static void
survey_end (struct survey *s)
{
  nbdkit_extents_free (s->answer);
  if (s->plugin)
    sessions_release_plugin ();
}

/* Find the plugin's extent at the start of ALL, of which it may be asked
 * everything.  Starts only ever grow.  1; 0 when the plugin was asked often
 * enough; or -errno. */
static int
survey_find (struct survey *s, struct range all, bool one,
             struct range *found, uint32_t *type)
{
  for (bool asked = false; ; asked = true) {
    size_t count = s->answer ? nbdkit_extents_count (s->answer) : 0;
    int r;

    for (; s->at < count; s->at++) {
      struct nbdkit_extent e = nbdkit_get_extent (s->answer, s->at);

      *found = range_clip (all, (struct range) { e.offset, e.length });
      if (found->length > 0 && found->start == all.start) {
        *type = e.type;
        return 1;
      }
    }

    /* A plugin that has nothing to say: take it for data. */
    if (asked || !s->plugin->can_extents) {
      *found = all;
      *type = 0;
      return 1;
    }
    if (s->questions++ == MAX_QUESTIONS)
      return 0;
    nbdkit_extents_free (s->answer);
    s->answer = NULL;
    s->at = 0;
    r = plugin_extents (s->plugin, all, one, &s->answer);
    if (r < 0)
      return r;
  }
}

static int
add_piece (struct nbdkit_extents *extents, uint64_t start, uint64_t end,
           uint32_t type)
{
  if (start < end &&
      nbdkit_add_extent (extents, start, end - start, type) == -1)
    return errno > 0 ? -errno : -EIO;
  return 1;
}

/* The ends of ASKED may lie anywhere. */
static int
add (struct nbdkit_extents *extents, struct range asked, struct range range,
     uint32_t type)
{
  const uint64_t start = range.start, end = range_end (range);
  uint64_t from = start, to = end;
  int r;

  if (type != 0) {
    if (start != asked.start)
      from = round_up (start, SECTOR);
    if (end != range_end (asked))
      to = round_down (end, SECTOR);
    if (from >= to)
      type = 0;
  }
  if (type == 0)
    return add_piece (extents, start, end, 0);

  r = add_piece (extents, start, from, 0);
  if (r > 0)
    r = add_piece (extents, from, to, type);
  if (r > 0)
    r = add_piece (extents, to, end, 0);
  return r;
}

/* Add what the plugin says of HOLE.  1 when all of it was added. */
static int
add_hole (struct survey *s, struct range asked, struct range hole,
          uint64_t end, bool one, struct nbdkit_extents *extents)
{
  while (hole.length > 0) {
    struct range all = { hole.start, (one ? range_end (hole) : end)
                                     - hole.start };
    struct range found;
    uint32_t type;
    int r = survey_find (s, all, one, &found, &type);

    if (r <= 0)
      return r;
    found = range_clip (found, hole);
    r = add (extents, asked, found, type);
    if (r < 0 || one)
      return r;
    hole.start += found.length;
    hole.length -= found.length;
  }
  return 1;
}

int
block_status (struct cache *cache, struct range range, bool one,
              struct nbdkit_extents *extents)
{
  size_t limit = one ? 1 : MAX_RUNS;
  CLEANUP_FREE struct run *runs = calloc (limit, sizeof *runs);
  struct survey survey __attribute__ ((cleanup (survey_end))) = { 0 };
  size_t count;
  uint64_t end;
  int r = 1;

  if (runs == NULL)
    return -ENOMEM;
  survey.plugin = sessions_hold_plugin ();
  if (survey.plugin == NULL)
    return -ESHUTDOWN;

  count = map_runs (cache, range, runs, limit);
  end = range_end (runs[count - 1].range);

  for (size_t i = 0; r > 0 && i < count; i++) {
    switch (runs[i].kind) {
    case MAP_DATA:
      r = add (extents, range, runs[i].range, 0);
      break;
    case MAP_ZERO:
      r = add (extents, range, runs[i].range,
               NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO);
      break;
    case MAP_HOLE:
      r = add_hole (&survey, range, runs[i].range, end, one, extents);
      break;
    }
  }
  return r < 0 ? r : 0;
}

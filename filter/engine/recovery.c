/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mutation.h"
#include "base/report.h"
#include "engine/checkpoint.h"
#include "engine/holes.h"
#include "engine/recovery.h"
#include "engine/replay.h"

static int
compare_sealing_order (const void *a, const void *b)
{
  const struct finding *x = a, *y = b;

  return (x->sequence_max > y->sequence_max)
    - (x->sequence_max < y->sequence_max);
}

/* After a kill without a power cut, what was found may still be in the page
 * cache, or in the CPU's, only: make durable what will be called so.  Sealed
 * segments were before their headers said so, and of free ones nothing was
 * found.  A bad page keeps nobody from using the rest. */
static int
harden (struct replay *rec)
{
  struct superblock *sb = &rec->engine->superblock;
  struct pmem *pmem = rec->engine->pmem;
  int r;

  r = pmem_make_durable (pmem, 0, sb->geometry.first_segment_at);
  for (uint32_t i = 0; i < rec->count && (r == 0 || r == -EIO); i++) {
    const struct segment *segment = rec->findings[i].segment;

    if (segment->state == SEGMENT_OPEN)
      r = pmem_make_durable (pmem, segment_at (sb, segment->id),
                             sb->geometry.segment_size);
  }
  /* On a plain file an error means that nothing is known to be durable. */
  return pmem->ordered && r == -EIO ? 0 : r;
}

/* No record says so any more, and none can be hidden. */
static bool
nothing_is_lost (const struct replay *rec)
{
  struct range range;

  for (uint32_t i = 0; i < rec->count; i++)
    if (rec->findings[i].damaged)
      return false;
  for (uint32_t id = 0; id < rec->engine->superblock.geometry.segment_count;
       id++)
    if (rec->engine->segments.segments[id].damaged)
      return false;
  return !lost_get (&rec->engine->lost, 0, &range);
}

/* What a crash left open ends here: on media, too.
 *
 * If the header takes no stores, the segment's sets are as good as they were a
 * moment ago, and at the next open: nothing is appended to it, so it will end
 * where it ends now.  Only what is whole behind its end would not be judged
 * again as it was now, when later epochs have been declared durable. */
static int
close_segment (struct replay *rec, const struct finding *f)
{
  struct segment_table *table = &rec->engine->segments;
  int r;

  if (f->sets == 0) {
    r = segment_free (table, f->segment);
    if (r == 0)
      segment_release (table, f->segment);
  }
  else
    r = segment_seal (table, f->segment, f->sets, f->epoch_max,
                      f->sequence_min, f->sequence_max);
  if (r == 0)
    return 0;
  if (f->leftovers) {
    report (REPORT_ERROR, "segment %" PRIu32 ": its header cannot be written "
            "(%s), and what an earlier crash left in it would come back; "
            "cache not opened", f->segment->id, strerror (-r));
    return r;
  }
  report (REPORT_ERROR, "segment %" PRIu32 ": its header cannot be written "
          "(%s); what is in it is served and written back, but its space "
          "is lost until the header can be written", f->segment->id,
          strerror (-r));
  segment_keep (table, f->segment, f->sets, f->epoch_max, f->sequence_min,
                f->sequence_max);
  return 0;
}

/* Write down what was found, so that it is found again next time, and put every
 * segment on its list.  Crash anywhere in here: the same is found again, as
 * nothing that is judged by was changed. */
static int
settle (struct replay *rec)
{
  struct segment_table *table = &rec->engine->segments;
  const uint32_t total = rec->engine->superblock.geometry.segment_count;
  uint32_t usable;
  int r;

  r = MUTATION (OPEN_WITHOUT_SYNC) ? 0 : harden (rec);
  if (r < 0)
    return r;

  /* What is built on from now on must not be in one copy only, or losing that
   * to a media error would bring back what was before it. */
  if (superblock_repair (&rec->engine->superblock) < 0)
    report (REPORT_WARNING, "one copy of the superblock or of the control "
            "block cannot be written; going on with the other");
  usable = rec->engine->superblock.usable_segments;
  for (uint32_t id = 0; id < total; id++) {
    struct segment *segment = &table->segments[id];

    if (segment->damaged)
      continue;
    segment_repair (table, segment);
    /* The copy of the superblock that cannot be written may be the only one that
     * is left one day: what lay in segments it does not know would be gone. */
    if (segment->state == SEGMENT_FREE && id < usable)
      segment_adopt (table, segment);
  }

  qsort (rec->findings, rec->count, sizeof *rec->findings,
         compare_sealing_order);
  for (uint32_t i = 0; i < rec->count; i++) {
    const struct finding *f = &rec->findings[i];

    if (f->segment->state == SEGMENT_SEALED)
      segment_adopt (table, f->segment);
    else if ((r = close_segment (rec, f)) < 0)
      return r;
  }
  /* Crash before, or an error: it is found so again next time. */
  if (rec->lost && nothing_is_lost (rec))
    (void) control_set_lost (&rec->engine->superblock, false);
  return 0;
}

int
engine_recover (struct engine *engine, struct recovery_result *result)
{
  struct replay replay;
  int r;

  engine->from_checkpoint = checkpoint_load (engine, &replay);
  r = engine->from_checkpoint ? 0 : replay_read (&replay, engine);
  if (r == 0)
    r = settle (&replay);
  /* Media that can be read again would bring it back, and so would a replay what
   * is not in a checkpoint. */
  holes_note_unmapped (&engine->holes, replay.tail);
  *result = (struct recovery_result) { replay.sequence, replay.epoch };
  replay_free (&replay);
  if (r == -ENOMEM)
    report (REPORT_ERROR, "out of memory while replaying the cache");
  else if (r < 0 && r != -EUCLEAN)
    report (REPORT_ERROR, "cache device: %s while opening the cache",
            strerror (-r));
  return r;
}

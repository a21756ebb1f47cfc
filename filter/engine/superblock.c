/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/cache.h"
#include "engine/superblock.h"

/* The feature bits this version knows. */
#define KNOWN_RO_COMPAT UINT64_C (0)
#define KNOWN_INCOMPAT UINT64_C (0)

static struct {
  uint64_t bit;
  const char *name;
} feature_names[] = {
  /* none yet: later versions give theirs a name here */
  { 0, NULL },
};

uint64_t
geometry_min_device_size (uint64_t segment_size)
{
  struct geometry g;
  uint64_t size = SEGMENT_TABLE_AT + CACHE_MIN_SEGMENTS * segment_size;

  while (geometry_make (&g, size, segment_size) < 0)
    size += SEGMENT_TABLE_ALIGN;
  return size;
}

static void
geometry_place (struct geometry *g)
{
  const uint64_t table_bytes =
    round_up ((uint64_t) g->segment_capacity * MEDIA_SLOT,
              SEGMENT_TABLE_ALIGN);

  g->segment_table_at[0] = SEGMENT_TABLE_AT;
  g->segment_table_at[1] = SEGMENT_TABLE_AT + table_bytes;
  g->first_segment_at = round_up (g->segment_table_at[1] + table_bytes,
                                  SEGMENT_ALIGN);
}

int
geometry_make (struct geometry *g, uint64_t device_size,
               uint64_t segment_size)
{
  const uint64_t count = device_size / segment_size;

  assert (is_power_of_2 (segment_size));
  memset (g, 0, sizeof *g);
  if (count < CACHE_MIN_SEGMENTS)
    return -ENOSPC;
  /* Slots for four times as many, so that the device can grow in place. */
  g->segment_capacity = MIN (count * 4, (uint64_t) UINT32_MAX / 2);
  geometry_place (g);
  g->segment_size = segment_size;
  if (device_size < g->first_segment_at)
    return -ENOSPC;
  g->segment_count = MIN ((device_size - g->first_segment_at) / segment_size,
                          g->segment_capacity);
  if (g->segment_count < CACHE_MIN_SEGMENTS)
    return -ENOSPC;
  g->device_size = g->first_segment_at + g->segment_count * segment_size;
  return 0;
}

uint64_t
geometry_room (const struct geometry *g, uint64_t device_size)
{
  return device_size < g->first_segment_at ? 0
    : (device_size - g->first_segment_at) / g->segment_size;
}

/* Every number from the superblock that is used as a size, a count or an
 * offset must be what geometry_place would have made of it (T11). */
static bool
geometry_is_sane (const struct geometry *g)
{
  struct geometry expected = *g;

  if (g->segment_size < CACHE_MIN_SEGMENT_SIZE
      || g->segment_size > CACHE_MAX_SEGMENT_SIZE
      || !is_power_of_2 (g->segment_size)
      || g->segment_count < CACHE_MIN_SEGMENTS
      || g->segment_count > g->segment_capacity
      || g->segment_capacity > UINT32_MAX / 2)
    return false;
  geometry_place (&expected);
  expected.device_size = expected.first_segment_at
    + (uint64_t) g->segment_count * g->segment_size;
  return memcmp (&expected, g, sizeof expected) == 0;
}

static void
twin_setup (struct superblock *sb)
{
  sb->twin = (struct twin) {
    .at = { SUPERBLOCK_AT (0), SUPERBLOCK_AT (1) },
    .magic = MAGIC_SUPERBLOCK,
    .seed = 0,
    .bytes = sizeof (struct media_superblock),
    .verdict = { TWIN_BLANK, TWIN_BLANK },
  };
  sb->control_twin = (struct twin) {
    .at = { CONTROL_AT (0), CONTROL_AT (1) },
    .spare = CONTROL_SPARE,
    .what = "control block",
    .magic = MAGIC_CONTROL,
    .seed = sb->instance,
    .bytes = sizeof (struct media_control),
    .verdict = { TWIN_BLANK, TWIN_BLANK },
  };
}

static bool
features_are_known (uint64_t bits, uint64_t known, const char *word)
{
  for (unsigned bit = 0; bit < 64; bit++) {
    const char *name = "unknown to this version";

    if (((bits & ~known) & (UINT64_C (1) << bit)) == 0)
      continue;
    for (size_t i = 0; feature_names[i].name; i++)
      if (feature_names[i].bit == UINT64_C (1) << bit)
        name = feature_names[i].name;
    report (REPORT_ERROR, "superblock: %s feature bit %u (%s) is set; a newer "
            "pcache made this cache: use that, or pcache-format=force to "
            "discard its content", word, bit, name);
    return false;
  }
  return true;
}

/* Neither copy is valid: find out what is there instead. */
static enum superblock_verdict
judge_invalid (struct superblock *sb)
{
  if ((sb->twin.verdict[0] == TWIN_BLANK && sb->twin.verdict[1] == TWIN_BLANK)
      || MUTATION (T9_DAMAGED_IS_NEW))
    return SUPERBLOCK_UNFORMATTED;
  if (sb->twin.verdict[0] == TWIN_FOREIGN
      && sb->twin.verdict[1] != TWIN_CORRUPT)
    report (REPORT_ERROR, "the cache device holds something that is not a "
            "pcache cache (superblock copy A at 0: %s, copy B at %" PRIu64
            ": %s); left alone: give another device, or pcache-format=force to "
            "overwrite it", twin_verdict_name (sb->twin.verdict[0]),
            SUPERBLOCK_AT (1), twin_verdict_name (sb->twin.verdict[1]));
  else
    report (REPORT_ERROR, "both copies of the superblock are damaged "
            "(copy A at 0: %s, copy B at %" PRIu64 ": %s); left alone, as "
            "there may be data that is nowhere else: pcache-format=force "
            "would discard it", twin_verdict_name (sb->twin.verdict[0]),
            SUPERBLOCK_AT (1), twin_verdict_name (sb->twin.verdict[1]));
  return SUPERBLOCK_REFUSED;
}

static enum superblock_verdict
decode (struct superblock *sb, bool will_write)
{
  const struct media_superblock *m = &sb->media;
  struct geometry *g = &sb->geometry;

  if (le32_get (m->version) != FORMAT_VERSION) {
    report (REPORT_ERROR, "superblock: format version %" PRIu32 ", this pcache "
            "reads version %d: use the pcache that made it, or "
            "pcache-format=force to discard its content",
            le32_get (m->version), FORMAT_VERSION);
    return SUPERBLOCK_REFUSED;
  }
  sb->read_only = (le64_get (m->ro_compat) & ~KNOWN_RO_COMPAT) != 0;
  if (!features_are_known (le64_get (m->incompat), KNOWN_INCOMPAT,
                           "incompatible")
      || (will_write
          && !features_are_known (le64_get (m->ro_compat), KNOWN_RO_COMPAT,
                                  "read-only compatible")))
    return SUPERBLOCK_REFUSED;

  memset (g, 0, sizeof *g);
  g->device_size = le64_get (m->device_size);
  g->segment_size = le64_get (m->segment_size);
  g->segment_count = le32_get (m->segment_count);
  g->segment_capacity = le32_get (m->segment_capacity);
  g->segment_table_at[0] = le64_get (m->segment_table_at[0]);
  g->segment_table_at[1] = le64_get (m->segment_table_at[1]);
  g->first_segment_at = le64_get (m->first_segment_at);
  sb->instance = le64_get (m->instance);
  sb->bound = (le32_get (m->flags) & SUPERBLOCK_BOUND) != 0;
  sb->backing_size = le64_get (m->backing_size);
  sb->export_length = le32_get (m->export_length);
  sb->backing_id_length = le32_get (m->backing_id_length);
  if (!geometry_is_sane (g)
      || sb->backing_size > INT64_MAX
      || sb->export_length > MEDIA_EXPORT_BYTES
      || sb->backing_id_length > MEDIA_BACKING_ID_BYTES) {
    report (REPORT_ERROR, "superblock: the checksum is right but the geometry "
            "makes no sense (segments: %" PRIu32 " of %" PRIu64 " bytes, table "
            "for %" PRIu32 ", first at %" PRIu64 "); cache not opened",
            g->segment_count, g->segment_size, g->segment_capacity,
            g->first_segment_at);
    return SUPERBLOCK_REFUSED;
  }
  memcpy (sb->export_name, m->export_name, sb->export_length);
  memcpy (sb->backing_id, m->backing_id, sb->backing_id_length);
  return SUPERBLOCK_OK;
}

static uint32_t
count_usable (const struct superblock *sb)
{
  uint32_t count = sb->geometry.segment_count;
  struct media_superblock older;

  for (int copy = 0; copy < 2; copy++)
    if (sb->twin.verdict[copy] == TWIN_OK
        && sb->twin.place_sequence[copy] != sb->twin.sequence
        && pmem_read (sb->pmem, &older, sb->twin.at[copy], sizeof older) == 0)
      count = MIN (count, le32_get (older.segment_count));
  return count;
}

static void
publish_control (struct superblock *sb, const struct control *control)
{
  atomic_store (&sb->tail_sequence, control->tail_sequence);
  atomic_store (&sb->written_back, control->written_back);
  atomic_store (&sb->gc_percent, control->gc_percent);
  atomic_store (&sb->lost, control->lost);
}

static enum superblock_verdict
read_both (struct superblock *sb, struct pmem *pmem, bool will_write)
{
  enum superblock_verdict verdict;
  struct media_control control;
  le64 first;

  memset (sb, 0, sizeof *sb);
  pthread_mutex_init (&sb->control_lock, NULL);
  sb->pmem = pmem;
  twin_setup (sb);
  if (pmem->size < SUPERBLOCK_AT (1) + MEDIA_AREA)
    return SUPERBLOCK_UNFORMATTED;      /* too small ever to have been one */

  /* The mark is one aligned 8-byte store, so it cannot be torn. */
  if (pmem_read (pmem, &first, 0, sizeof first) == 0
      && le64_get (first) == MAGIC_FORMATTING)
    return SUPERBLOCK_HALF_FORMATTED;

  if (!twin_read (&sb->twin, pmem, &sb->media))
    return judge_invalid (sb);
  sb->start_is_foreign = sb->twin.verdict[0] == TWIN_FOREIGN;
  verdict = decode (sb, will_write);
  if (verdict != SUPERBLOCK_OK)
    return verdict;
  sb->usable_segments = count_usable (sb);

  sb->control_twin.seed = sb->instance;
  if (!twin_read (&sb->control_twin, pmem, &control)) {
    report (REPORT_ERROR, "both copies of the control block are damaged "
            "(copy A at %" PRIu64 ": %s, copy B at %" PRIu64 ": %s); cache not "
            "opened, as there may be data that is nowhere else: "
            "pcache-format=force would discard it",
            CONTROL_AT (0), twin_verdict_name (sb->control_twin.verdict[0]),
            CONTROL_AT (1), twin_verdict_name (sb->control_twin.verdict[1]));
    return SUPERBLOCK_REFUSED;
  }
  publish_control (sb, &(struct control) {
    .tail_sequence = le64_get (control.tail_sequence),
    .written_back = le64_get (control.written_back),
    .gc_percent = le32_get (control.gc_percent),
    .lost = (le32_get (control.flags) & CONTROL_LOST) != 0,
  });
  sb->checkpoint = control.checkpoint;
  return sb->geometry.device_size > pmem->size ? SUPERBLOCK_CUT
    : SUPERBLOCK_OK;
}

enum superblock_verdict
superblock_read (struct superblock *sb, struct pmem *pmem)
{
  return read_both (sb, pmem, true);
}

enum superblock_verdict
superblock_look (struct superblock *sb, struct pmem *pmem)
{
  return read_both (sb, pmem, false);
}

/* control_lock is held, or nobody else knows the superblock yet. */
static int
write_all_of_control (struct superblock *sb, const struct control *control,
                      const struct media_checkpoint *checkpoint)
{
  struct media_control media = {
    .tail_sequence = le64_of (control->tail_sequence),
    .written_back = le64_of (control->written_back),
    .gc_percent = le32_of (control->gc_percent),
    .flags = le32_of (control->lost ? CONTROL_LOST : 0),
    .checkpoint = *checkpoint,
  };
  int r;

  r = twin_update (&sb->control_twin, sb->pmem, &media);
  if (r < 0)
    return r;
  sb->checkpoint = *checkpoint;
  publish_control (sb, control);
  return 0;
}

/* As no checkpoint was made of. */
static int
write_control (struct superblock *sb, const struct control *control)
{
  static const struct media_checkpoint none;

  return write_all_of_control (sb, control, MUTATION (CHECKPOINT_KEPT)
                               ? &sb->checkpoint : &none);
}

static void
encode (struct superblock *sb, const uint8_t uuid[16])
{
  const struct geometry *g = &sb->geometry;
  struct media_superblock *m = &sb->media;

  memset (m, 0, sizeof *m);
  m->version = le32_of (FORMAT_VERSION);
  memcpy (m->uuid, uuid, sizeof m->uuid);
  m->instance = le64_of (sb->instance);
  m->device_size = le64_of (g->device_size);
  m->segment_size = le64_of (g->segment_size);
  m->segment_count = le32_of (g->segment_count);
  m->segment_capacity = le32_of (g->segment_capacity);
  m->segment_table_at[0] = le64_of (g->segment_table_at[0]);
  m->segment_table_at[1] = le64_of (g->segment_table_at[1]);
  m->first_segment_at = le64_of (g->first_segment_at);
}

int
superblock_format (struct superblock *sb, struct pmem *pmem,
                   const struct geometry *geometry, const uint8_t uuid[16],
                   uint64_t instance,
                   int (*format_segments) (struct superblock *))
{
  static const struct control fresh = { .gc_percent = GC_PERCENT_UNSET };
  const le64 mark = le64_of (MAGIC_FORMATTING);
  const struct media_superblock marked = { .twin.magic = mark };
  int r;

  memset (sb, 0, sizeof *sb);
  pthread_mutex_init (&sb->control_lock, NULL);
  sb->pmem = pmem;
  sb->geometry = *geometry;
  sb->usable_segments = geometry->segment_count;
  sb->instance = instance;
  twin_setup (sb);
  encode (sb, uuid);

  /* One aligned word.  Crash before: what was there is still there.  After:
   * half formatted, whatever the rest of the device says. */
  if ((r = pmem_copy (pmem, 0, &mark, sizeof mark)) < 0
      || (r = pmem_fence (pmem)) < 0 || (r = pmem_sync (pmem)) < 0)
    return r;
  /* What is left of an earlier copy A goes too, lest a torn new one put its
   * magic number in front of it again. */
  if ((r = pmem_copy (pmem, 0, &marked, sizeof marked)) < 0
      || (r = pmem_fence (pmem)) < 0)
    return r;
  /* Blank spares, whatever an earlier cache left there. */
  sb->control_twin.verdict[TWIN_SPARE (0)] = TWIN_UNREADABLE;
  sb->control_twin.verdict[TWIN_SPARE (1)] = TWIN_UNREADABLE;
  if ((r = format_segments (sb)) < 0
      || (r = write_control (sb, &fresh)) < 0)
    return r;
  if (!twin_is_whole (&sb->control_twin))
    return -EIO;                /* no new cache begins on one copy */

  /* Copy B first: the mark in copy A's place holds until all else is
   * durable.  A torn copy A starts with the mark (half formatted) or with the
   * magic number (then B is the valid one). */
  sb->twin.a_last = !MUTATION (FORMAT_A_FIRST);
  r = twin_update (&sb->twin, sb->pmem, &sb->media);
  sb->twin.a_last = false;
  /* If only B could be written, the mark is still in A's place: the next
   * open would format again, over whatever was written until then. */
  return r == 0 && sb->twin.verdict[0] != TWIN_OK ? -EIO : r;
}

int
superblock_bind (struct superblock *sb, uint64_t backing_size,
                 const char *export, const char *backing_id)
{
  const size_t export_length = strlen (export);
  const size_t id_length = backing_id ? strlen (backing_id) : 0;
  struct media_superblock media = sb->media;
  int r;

  assert (!sb->bound && backing_size <= INT64_MAX);
  if (export_length > MEDIA_EXPORT_BYTES || id_length > MEDIA_BACKING_ID_BYTES)
    return -ENAMETOOLONG;
  media.flags = le32_of (SUPERBLOCK_BOUND);
  media.backing_size = le64_of (backing_size);
  media.export_length = le32_of (export_length);
  memcpy (media.export_name, export, export_length);
  media.backing_id_length = le32_of (id_length);
  if (id_length > 0)
    memcpy (media.backing_id, backing_id, id_length);
  r = twin_update (&sb->twin, sb->pmem, &media);
  if (r < 0)
    return r;
  /* Status may be asked for meanwhile. */
  HOLD_LOCK (&sb->control_lock);
  sb->media = media;
  sb->bound = true;
  sb->backing_size = backing_size;
  sb->export_length = export_length;
  memcpy (sb->export_name, export, export_length);
  sb->backing_id_length = id_length;
  if (id_length > 0)
    memcpy (sb->backing_id, backing_id, id_length);
  return 0;
}

int
superblock_grow (struct superblock *sb, uint32_t segment_count)
{
  struct media_superblock media = sb->media;
  const struct geometry *g = &sb->geometry;
  int r;

  assert (segment_count > g->segment_count
          && segment_count <= g->segment_capacity);
  if (!twin_is_whole (&sb->twin))
    return -EIO;
  media.segment_count = le32_of (segment_count);
  media.device_size = le64_of (g->first_segment_at
                               + segment_count * g->segment_size);
  /* Crash before, between the copies, and after: the new segments are free, so
   * both layouts describe the same content.  What is written to the new ones
   * would be forgotten by the older: they are used only when no copy says it
   * any more. */
  r = twin_update (&sb->twin, sb->pmem, &media);
  return r == 0 && !twin_is_whole (&sb->twin) ? -EIO : r;
}

void
superblock_count_errors (struct superblock *sb, struct stats *stats)
{
  HOLD_LOCK (&sb->control_lock);

  sb->control_twin.stats = stats;
}

void
superblock_destroy (struct superblock *sb)
{
  pthread_mutex_destroy (&sb->control_lock);
}

int
superblock_repair (struct superblock *sb)
{
  HOLD_LOCK (&sb->control_lock);
  const struct control control = control_get (sb);
  int r = 0, r2 = 0;

  if (MUTATION (T1_NEWEST_FIRST))
    return 0;
  if (!twin_is_whole (&sb->twin))
    r = twin_update (&sb->twin, sb->pmem, &sb->media);
  if (twin_is_whole (&sb->twin))
    sb->usable_segments = sb->geometry.segment_count;
  if (!twin_is_whole (&sb->control_twin))
    r2 = write_all_of_control (sb, &control, &sb->checkpoint);
  return r < 0 ? r : r2;
}

int
control_advance (struct superblock *sb, uint64_t tail_sequence,
                 uint64_t written_back)
{
  HOLD_LOCK (&sb->control_lock);
  const struct control before = control_get (sb);
  struct control next = before;

  next.tail_sequence = MAX (next.tail_sequence, tail_sequence);
  next.written_back = MAX (next.written_back, written_back);
  if (next.tail_sequence == before.tail_sequence
      && next.written_back == before.written_back)
    return 0;
  return write_control (sb, &next);
}

int
control_set_gc_percent (struct superblock *sb, uint32_t gc_percent)
{
  HOLD_LOCK (&sb->control_lock);
  struct control next = control_get (sb);

  if (next.gc_percent == gc_percent)
    return 0;
  next.gc_percent = gc_percent;
  return write_control (sb, &next);
}

int
control_set_lost (struct superblock *sb, bool lost)
{
  HOLD_LOCK (&sb->control_lock);
  struct control next = control_get (sb);

  if (next.lost == lost)
    return 0;
  next.lost = lost;
  return write_control (sb, &next);
}

int
control_set_checkpoint (struct superblock *sb,
                        const struct media_checkpoint *checkpoint)
{
  HOLD_LOCK (&sb->control_lock);
  const struct control control = control_get (sb);

  return write_all_of_control (sb, &control, checkpoint);
}

struct media_checkpoint
control_checkpoint (struct superblock *sb)
{
  HOLD_LOCK (&sb->control_lock);

  return sb->checkpoint;
}

struct control
control_get (struct superblock *sb)
{
  return (struct control) {
    .tail_sequence = atomic_load (&sb->tail_sequence),
    .written_back = atomic_load (&sb->written_back),
    .gc_percent = atomic_load (&sb->gc_percent),
    .lost = atomic_load (&sb->lost),
  };
}

struct media_superblock
superblock_media (struct superblock *sb)
{
  HOLD_LOCK (&sb->control_lock);

  return sb->media;
}

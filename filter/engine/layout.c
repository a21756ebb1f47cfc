/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "engine/cache.h"
#include "engine/layout.h"
#include "pmem/device.h"

static int
random_bytes (void *buf, size_t length, uint64_t seed)
{
  uint8_t *p = buf;

  if (seed == 0)
    return getrandom (buf, length, 0) == (ssize_t) length ? 0 : -EIO;
  for (size_t i = 0; i < length; i++) {
    /* splitmix64 */
    uint64_t z = seed += UINT64_C (0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C (0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C (0x94d049bb133111eb);
    p[i] = z >> 56;
  }
  return 0;
}

/* What the options ask for, if the device can have another size than it has. */
static uint64_t
wanted_size (const struct engine *engine)
{
  return engine->options.device_size != 0 && engine->pmem->can_resize
    ? engine->options.device_size : engine->pmem->size;
}

/* What the device has beyond SIZE belongs to nobody.  False if it stays. */
static bool
cut_unused (struct engine *engine, uint64_t size)
{
  const uint64_t before = engine->pmem->size;
  int r = pmem_resize (engine->pmem, size);

  if (r < 0)
    report (REPORT_WARNING, "the cache device cannot be cut from %" PRIu64 " to %"
            PRIu64 " bytes, as pmem-size asks: %s; what is beyond is not used",
            before, size, strerror (-r));
  return r == 0;
}

static int
format (struct engine *engine, uint64_t segment_size)
{
  const uint64_t size = wanted_size (engine);
  struct { uint8_t uuid[16]; uint64_t instance; } id;
  struct geometry geometry;
  int r;

  if (geometry_make (&geometry, size, segment_size) < 0) {
    report (REPORT_ERROR, "the cache device has %" PRIu64 " bytes; a cache "
            "with segments of %" PRIu64 " bytes needs at least %" PRIu64
            ": give a larger device or a smaller pcache-segment-size",
            size, segment_size, geometry_min_device_size (segment_size));
    return -ENOSPC;
  }
  r = random_bytes (&id, sizeof id, engine->options.seed);
  /* Crash after this: what was there is there, in a larger file. */
  if (r == 0 && size > engine->pmem->size)
    r = pmem_resize (engine->pmem, size);
  if (r == 0)
    r = pmem_allocate (engine->pmem);
  if (r == 0)
    r = superblock_format (&engine->superblock, engine->pmem, &geometry,
                           id.uuid, id.instance, segment_table_format);
  if (r < 0) {
    report (REPORT_ERROR, "the cache device cannot be formatted: %s",
            strerror (-r));
    return r;
  }
  /* Crash before: a new cache in a file that is larger.  The next start cuts it, or,
   * without pmem-size, uses it. */
  if (size < engine->pmem->size)
    cut_unused (engine, size);
  return 0;
}

static int
format_new (struct engine *engine)
{
  return format (engine, engine->options.segment_size
                 ? engine->options.segment_size : CACHE_DEFAULT_SEGMENT_SIZE);
}

/* Make the cache anew, of another size, for the same backing store and with the same
 * settings.  Everything in it is known to be in the backing store.
 *
 * Crash before the mark of superblock_format: the cache as it was.  After it: half
 * formatted.  Later: an empty cache, which may belong to nobody yet, or not have its
 * settings. */
static int
format_anew (struct engine *engine)
{
  struct superblock *sb = &engine->superblock;
  const uint32_t gc_percent = control_get (sb).gc_percent;
  const uint64_t segment_size = sb->geometry.segment_size;
  const uint64_t backing_size = sb->backing_size;
  const bool bound = sb->bound;
  CLEANUP_FREE char *export = strndup ((char *) sb->export_name,
                                       sb->export_length);
  CLEANUP_FREE char *id = strndup ((char *) sb->backing_id,
                                   sb->backing_id_length);
  int r;

  if (export == NULL || id == NULL)
    return -ENOMEM;
  if (engine->options.format == CACHE_FORMAT_NEVER) {
    report (REPORT_ERROR, "to be made smaller, the cache would have to be "
            "formatted, which pcache-format=never forbids");
    return -EINVAL;
  }
  r = format (engine, segment_size);
  if (r < 0)
    return r;
  if (bound)
    r = superblock_bind (sb, backing_size, export, id[0] ? id : NULL);
  if (r == 0)
    r = control_set_gc_percent (sb, gc_percent);
  if (r < 0)
    report (REPORT_ERROR, "the cache device cannot be written: %s",
            strerror (-r));
  return r;
}

static int
format_if_blank (struct engine *engine)
{
  uint64_t offset;
  int r;

  r = device_find_content (engine->pmem, &offset);
  if (r < 0) {
    report (REPORT_ERROR, "the cache device cannot be read to see whether it "
            "is blank: %s; not formatted", strerror (-r));
    return r;
  }
  if (offset < engine->pmem->size) {
    report (REPORT_ERROR, "the cache device has no superblock but is not blank "
            "(something is at offset %" PRIu64 "); left alone: give another "
            "device, or pcache-format=force to overwrite it", offset);
    return -EMEDIUMTYPE;
  }
  return format_new (engine);
}

/* What the metadata alone proves, without a look at any segment. */
static bool
headers_say_written_back (struct engine *engine)
{
  struct superblock *sb = &engine->superblock;
  const struct control control = control_get (sb);
  struct segment_table table;
  bool proved = !control.lost && control.written_back < UINT64_MAX / 2;

  if (segment_table_open (&table, sb, engine->pmem, NULL) < 0)
    return false;
  for (uint32_t id = 0; id < sb->geometry.segment_count; id++) {
    const struct segment *segment = &table.segments[id];

    /* Of an open one nobody wrote down what it has. */
    if (segment->damaged || segment->state == SEGMENT_OPEN
        || (segment->state == SEGMENT_SEALED
            && segment->epoch_max > control.written_back))
      proved = false;
  }
  segment_table_close (&table);
  return proved;
}

/* The device has lost its end. */
static int
refuse_or_make_smaller (struct engine *engine)
{
  const uint64_t needed = engine->superblock.geometry.device_size;
  const uint64_t size = engine->pmem->size;
  int r;

  if (!headers_say_written_back (engine)) {
    report (REPORT_ERROR, "the cache needs %" PRIu64 " bytes, the device has "
            "only %" PRIu64 ": it was truncated or is another one, and what is "
            "missing may be nowhere else; cache not opened", needed, size);
    return -EMEDIUMTYPE;
  }
  r = format_anew (engine);
  if (r == 0)
    report (REPORT_WARNING, "the cache needs %" PRIu64 " bytes, the device has "
            "only %" PRIu64 "; as everything in it had been written back, it was "
            "made anew, and is empty", needed, size);
  return r;
}

int
layout_load_or_format (struct engine *engine)
{
  const struct cache_options *options = &engine->options;
  enum superblock_verdict verdict;

  if (options->format == CACHE_FORMAT_FORCE)
    return format_new (engine);
  verdict = superblock_read (&engine->superblock, engine->pmem);
  if ((verdict == SUPERBLOCK_OK || verdict == SUPERBLOCK_CUT)
      && engine->superblock.start_is_foreign) {
    report (options->rescue ? REPORT_WARNING : REPORT_ERROR,
            "the device starts with something that is not a pcache cache, though "
            "there was one (superblock copy B at %" PRIu64 " is valid); %s",
            SUPERBLOCK_AT (1), options->rescue ? "using that, as "
            "pcache-damaged=rescue asks"
            : "left alone, as it may have been put to another use: "
            "pcache-damaged=rescue uses what is left of the cache, "
            "pcache-format=force overwrites it");
    if (!options->rescue)
      return -EMEDIUMTYPE;
  }
  if (verdict == SUPERBLOCK_OK || verdict == SUPERBLOCK_CUT) {
    if (options->segment_size != 0
        && options->segment_size != engine->superblock.geometry.segment_size) {
      report (REPORT_ERROR, "the cache has segments of %" PRIu64 " bytes, "
              "pcache-segment-size asks for %" PRIu64 ": leave the parameter "
              "out, or pcache-format=force to discard the cache's content",
              engine->superblock.geometry.segment_size,
              options->segment_size);
      return -EINVAL;
    }
    return verdict == SUPERBLOCK_CUT ? refuse_or_make_smaller (engine) : 0;
  }
  if (verdict == SUPERBLOCK_REFUSED)
    return -EMEDIUMTYPE;
  if (options->format == CACHE_FORMAT_NEVER) {
    report (REPORT_ERROR, "the cache device is not formatted%s, and "
            "pcache-format=never forbids to do it",
            verdict == SUPERBLOCK_HALF_FORMATTED
            ? " (formatting was interrupted)" : "");
    return -EMEDIUMTYPE;
  }
  return verdict == SUPERBLOCK_HALF_FORMATTED ? format_new (engine)
    : format_if_blank (engine);
}

/* --- another size ----------------------------------------------------- */

static bool
is_damaged (const struct engine *engine)
{
  return stats_get (engine->stats, STAT_damaged_segments) > 0;
}

/* May all of it go?  If not, say why. */
static int
check_drained (struct engine *engine, uint64_t size)
{
  const uint64_t needed = engine->superblock.geometry.device_size;
  uint64_t epoch, since;
  struct range lost;

  if (epoch_queue_first (&engine->queue, &epoch, &since)) {
    report (REPORT_ERROR, "pmem-size asks for %" PRIu64 " bytes, the cache has %"
            PRIu64 ", and %" PRIu64 " bytes in it are not written back: start "
            "without pmem-size, let it drain, stop, and try again; cache not "
            "opened", size, needed, epoch_queue_dirty_bytes (&engine->queue));
    return -EBUSY;
  }
  if (lost_get (&engine->lost, 0, &lost) || is_damaged (engine)) {
    report (REPORT_ERROR, "pmem-size asks for %" PRIu64 " bytes, the cache has %"
            PRIu64 " and is damaged; cache not opened: leave pmem-size out, or "
            "pcache-format=force to discard the cache's content", size, needed);
    return -EUCLEAN;
  }
  return 0;
}

static int
make_smaller (struct engine *engine, uint64_t size)
{
  const uint64_t before = engine->superblock.geometry.device_size;
  int r;

  r = check_drained (engine, size);
  if (r == 0)
    r = format_anew (engine);
  if (r < 0)
    return r;
  report (REPORT_WARNING, "the cache was made anew with %" PRIu64 " bytes instead "
          "of %" PRIu64 ", as pmem-size asks, and is empty; everything in it had "
          "been written back", size, before);
  return LAYOUT_CHANGED;
}

/* For sets that an older copy of this cache, grown as well, has left in the new
 * segments: they are of another life. */
static int
new_generation (struct engine *engine, uint64_t *generation)
{
  int r = random_bytes (generation, sizeof *generation, engine->options.seed);

  /* Not 0, and far from where it would make no sense. */
  *generation = *generation % (UINT64_MAX / 4) + 1;
  return r;
}

/* COUNT segments: on media, both copies of their headers, blank spare places; durable;
 * then the superblock.  Crash before that is durable: nobody looks at the
 * slots.  After: they are free. */
static int
grow_to (struct engine *engine, uint32_t count)
{
  struct superblock *sb = &engine->superblock;
  uint64_t generation;
  int r;

  r = new_generation (engine, &generation);
  if (r == 0)
    r = pmem_allocate (engine->pmem);
  if (r == 0)
    r = segment_table_extend (sb, count, generation);
  return r < 0 ? r : superblock_grow (sb, count);
}

/* Let the file have SIZE bytes, or as many as are of use. */
static void
extend_device (struct engine *engine, uint64_t size)
{
  const uint64_t before = engine->pmem->size;
  int r = pmem_resize (engine->pmem, size);

  if (r < 0)
    report (REPORT_WARNING, "the cache device cannot be extended from %" PRIu64
            " to %" PRIu64 " bytes, as pmem-size asks: %s; used as it is",
            before, size, strerror (-r));
}

static int
grow (struct engine *engine, uint64_t size)
{
  const struct geometry *g = &engine->superblock.geometry;
  const uint32_t before = g->segment_count;
  uint64_t count = geometry_room (g, size);
  int r;

  if (count <= before)
    return 0;
  if (is_damaged (engine)) {
    report (REPORT_DEBUG, "the cache has %" PRIu32 " segments, the device has room "
            "for more: not while the cache is damaged", before);
    return 0;
  }
  if (count > g->segment_capacity) {
    report (REPORT_WARNING, "there is room for %" PRIu64 " segments, but this "
            "cache, made on a smaller device, cannot have more than %" PRIu32
            ": to use all, let it drain, stop, and start once with "
            "pcache-format=force", count, g->segment_capacity);
    count = g->segment_capacity;
    size = g->first_segment_at + count * g->segment_size;
  }
  if (size > engine->pmem->size) {
    extend_device (engine, size);
    count = MIN (count, geometry_room (g, engine->pmem->size));
  }
  if (count <= before)
    return 0;
  r = grow_to (engine, count);
  if (r < 0) {
    report (REPORT_WARNING, "the cache cannot grow from %" PRIu32 " to %" PRIu64
            " segments: %s; used as it is", before, count, strerror (-r));
    return 0;
  }
  report (REPORT_WARNING, "the cache grew from %" PRIu32 " to %" PRIu64
          " segments of %" PRIu64 " bytes", before, count, g->segment_size);
  return LAYOUT_CHANGED;
}

bool
layout_fits (const struct engine *engine)
{
  const struct geometry *g = &engine->superblock.geometry;
  const uint64_t size = wanted_size (engine);

  return size >= g->device_size
    && MIN (geometry_room (g, size), g->segment_capacity) <= g->segment_count;
}

int
layout_fit (struct engine *engine)
{
  const uint64_t size = wanted_size (engine), before = engine->pmem->size;

  if (size < engine->superblock.geometry.device_size)
    return make_smaller (engine, size);
  if (size < before && cut_unused (engine, size))
    report (REPORT_WARNING, "the cache device was cut from %" PRIu64 " to %" PRIu64
            " bytes, as pmem-size asks; the rest was not in use", before, size);
  return grow (engine, size);
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/arith.h"
#include "bench/replay_figures.h"
#include "engine/cache.h"
#include "engine/format.h"
#include "pmem/device.h"

#define MIB (UINT64_C (1) << 20)
#define GIB (UINT64_C (1) << 30)
#define BLOCK 4096

/* --- a full cache --------------------------------------------------------- */

/* A disk that forgets what is written to it. */
static int
forget_pwrite (struct backend *b, const void *buf, size_t length, uint64_t at)
{
  (void) b, (void) buf, (void) length, (void) at;
  return 0;
}

static int
forget_flush (struct backend *b)
{
  (void) b;
  return 0;
}

static const struct backend_ops forget_ops = {
  .pwrite = forget_pwrite, .flush = forget_flush,
};

struct full_cache {
  char path[4096];              /* of FD, whose file has no name any more */
  int fd;
  uint64_t records;
  double stop_ms;               /* that cache_stop took, with a checkpoint */
  struct pmem_ops sparse_ops;
};

static int
stay_sparse (struct pmem *pmem)
{
  (void) pmem;
  return 0;
}

static struct pmem *
open_device (struct full_cache *full)
{
  const struct device_options options = { .path = full->path };
  struct pmem *pmem;

  must (device_open (&options, &pmem) == 0, "opening the device");
  must (pmem->ordered, "using the device as persistent memory");
  full->sparse_ops = *pmem->ops;
  full->sparse_ops.allocate = stay_sparse;
  pmem->ops = &full->sparse_ops;
  return pmem;
}

/* Give back what is data in the first segments, up to AT of the device.  In free
 * ones, a checkpoint may lie. */
static void
forget_data (int fd, const struct media_superblock *sb, uint64_t at)
{
  const uint64_t size = le64_get (sb->segment_size);
  uint64_t header_at = le64_get (sb->segment_table_at[0]);
  struct media_segment header;

  for (uint64_t start = le64_get (sb->first_segment_at); start + size <= at;
       start += size, header_at += MEDIA_SLOT)
    must (pread (fd, &header, sizeof header, header_at) == sizeof header
          && (le32_get (header.state) == SEGMENT_FREE
              || fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            start, size - size / 16) == 0), "fallocate");
}

static uint32_t *
shuffle (uint64_t count)
{
  uint32_t *order = malloc (count * sizeof *order);
  uint64_t state = 88172645463325252;

  must (order != NULL && count <= UINT32_MAX, "malloc");
  for (uint64_t i = 0; i < count; i++) {
    uint64_t j;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    j = (state >> 16) % (i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  return order;
}

/* Write back what was written so far, if it is to be clean, and forget its data. */
static void
settle (struct cache *cache, int fd, const struct media_superblock *sb,
        uint64_t at, bool dirty)
{
  must (dirty || cache_drain (cache, UINT64_MAX / 2) == 0, "cache_drain");
  forget_data (fd, sb, at);
}

/* 4K records, each block of the disk once, in random order, until an eighth is left:
 * write-back leaves some segments half full.  Then a clean stop. */
static void
fill (struct full_cache *full, const char *directory, uint64_t size,
      bool dirty)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  const uint64_t room = size - size / 8;
  struct backend disk = { .ops = &forget_ops, .can_write = true,
                          .max_request = 32 * MIB, .max_zero = GIB };
  static uint8_t buf[BLOCK];
  struct media_superblock sb;
  struct cache *cache;
  uint64_t start;
  uint32_t *order;
  int fd;

  snprintf (full->path, sizeof full->path, "%s/pcache-bench-XXXXXX",
            directory);
  full->fd = fd = mkstemp (full->path);
  unlink (full->path);          /* whatever happens, its memory comes back */
  snprintf (full->path, sizeof full->path, "/proc/self/fd/%d", fd);
  must (fd >= 0 && ftruncate (fd, size) == 0, "creating the device");
  options.segment_size = size < GIB ? MIB : CACHE_DEFAULT_SEGMENT_SIZE;
  full->records = room / (BLOCK + sizeof (struct media_record) + 1);
  disk.size = full->records * BLOCK;
  order = shuffle (full->records);
  must (cache_open (&options, open_device (full), &cache) == 0
        && cache_attach (cache, &disk, "") == 0, "opening the cache");
  must (pread (fd, &sb, sizeof sb, 0) == sizeof sb, "pread");
  for (uint64_t i = 0; i < full->records; i++) {
    const uint64_t at = (uint64_t) order[i] * BLOCK;

    memcpy (buf, &at, sizeof at);
    must (cache_write (cache, buf, (struct range) { at, BLOCK }, false) == 0,
          "a write");
    if (i % (512 * MIB / BLOCK) == 512 * MIB / BLOCK - 1)
      settle (cache, fd, &sb, i * BLOCK, dirty);
  }
  settle (cache, fd, &sb, 0, dirty);
  start = clock_ns ();
  must (cache_stop (cache, false, 0) == 0, "cache_stop");
  full->stop_ms = (clock_ns () - start) / 1e6;
  cache_close (cache);
  forget_data (fd, &sb, size);
  free (order);
}

static void
drop (struct full_cache *full)
{
  close (full->fd);
}

/* --- the bare loop -------------------------------------------------------- */

/* What log_reader.c makes of a record. */
struct bare_record {
  uint64_t start, length, sequence, checksum, at;
  uint8_t kind;
  bool clean, has_checksum;
};

struct bare_walk {
  const uint8_t *device;
  const struct media_superblock *sb;
  uint64_t disk_size;
  struct bare_record record[SET_MAX_RECORDS];
};

static bool
bare_decode (const struct bare_walk *walk, uint64_t segment_at,
             uint32_t set_start, const struct media_record *m,
             struct bare_record *record)
{
  const uint32_t place = le32_get (m->place);

  *record = (struct bare_record) {
    .start = le64_get (m->logical),
    .length = le64_get (m->length),
    .sequence = le64_get (m->sequence),
    .checksum = le64_get (m->checksum),
    .kind = m->kind,
    .clean = m->flags & RECORD_CLEAN,
    .has_checksum = m->flags & RECORD_CHECKSUM,
    .at = segment_at + place,
  };
  return record->kind == RECORD_DATA
    && (m->flags & ~(RECORD_CLEAN | RECORD_CHECKSUM)) == 0
    && record->sequence != 0
    && record->length != 0 && record->length <= RECORD_MAX_DATA
    && record->start < walk->disk_size
    && record->length <= walk->disk_size - record->start
    && place % MEDIA_LINE == 0 && place <= set_start
    && DATA_BYTES (record->length) <= set_start - place;
}

/* Returns the records in the segment. */
static uint64_t
bare_segment (struct bare_walk *walk, uint32_t id,
              const struct media_segment *segment)
{
  const uint64_t size = le64_get (walk->sb->segment_size);
  const uint64_t at = le64_get (walk->sb->first_segment_at) + id * size;
  const uint64_t instance = le64_get (walk->sb->instance);
  const uint32_t sets = le32_get (segment->sets);
  _Alignas (64) uint8_t buf[SET_MAX_BYTES];
  uint32_t end = size;
  uint64_t records = 0, sequence = 0;

  for (uint32_t ordinal = 0; ordinal < sets; ordinal++) {
    const uint8_t *above = walk->device + at + end;
    const struct media_set *header = (const void *) (above - sizeof *header);
    const uint32_t count = le32_get (header->records);
    const uint32_t bytes = SET_BYTES (count);
    struct media_set *copy = (void *) (buf + bytes - sizeof *copy);

    must (le64_get (header->magic) == MAGIC_SET
          && le64_get (header->generation) == le64_get (segment->generation)
          && le32_get (header->segment) == id
          && le32_get (header->offset) == end - sizeof *header
          && le32_get (header->ordinal) == ordinal
          && count > 0 && count <= SET_MAX_RECORDS && bytes <= end,
          "the bare loop: a set's header");
    memcpy (buf, above - bytes, bytes);
    copy->checksum = le64_of (0);
    must (XXH3_64bits_withSeed (buf, bytes, instance)
          == le64_get (header->checksum), "the bare loop: a checksum");
    for (uint32_t i = 0; i < count; i++) {
      struct media_record media;

      memcpy (&media, buf + i * sizeof media, sizeof media);
      must (bare_decode (walk, at, end - bytes, &media, &walk->record[i])
            && walk->record[i].sequence > sequence,
            "the bare loop: a record");
      sequence = walk->record[i].sequence;
    }
    records += count;
    end -= bytes;
  }
  return records;
}

/* Records a second. */
static double
bare_side (void *opaque)
{
  const struct full_cache *full = opaque;
  const int fd = open (full->path, O_RDONLY);
  const off_t size = lseek (fd, 0, SEEK_END);
  void *device = mmap (NULL, size, PROT_READ, MAP_SHARED, fd, 0);
  struct bare_walk walk = { .device = device, .sb = device };
  uint64_t start, table, records = 0;

  must (fd >= 0 && device != MAP_FAILED, "mapping the device");
  start = clock_ns ();
  table = le64_get (walk.sb->segment_table_at[0]);
  walk.disk_size = le64_get (walk.sb->backing_size);
  for (uint32_t id = 0; id < le32_get (walk.sb->segment_count); id++) {
    const struct media_segment *segment =
      (const void *) (walk.device + table + id * MEDIA_SLOT);

    if (le32_get (segment->state) == SEGMENT_SEALED)
      records += bare_segment (&walk, id, segment);
  }
  start = clock_ns () - start;
  must (records == full->records, "the bare loop: finding all records");
  munmap (device, size);
  close (fd);
  return records * 1e9 / start;
}

/* --- the engine ------------------------------------------------------------- */

struct opened {
  double ms;
  uint64_t index_bytes;
  uint64_t peak_bytes;          /* of all memory taken meanwhile */
};

/* A line of /proc/self/status, in bytes. */
static uint64_t
memory_of_process (const char *name)
{
  FILE *f = fopen ("/proc/self/status", "r");
  const size_t length = strlen (name);
  char line[256];
  uint64_t kib = 0;

  must (f != NULL, "reading /proc/self/status");
  while (fgets (line, sizeof line, f))
    if (strncmp (line, name, length) == 0 && line[length] == ':')
      kib = strtoull (line + length + 1, NULL, 10);
  fclose (f);
  return kib * 1024;
}

static void
forget_peak (void)
{
  FILE *f = fopen ("/proc/self/clear_refs", "w");

  must (f != NULL && fputs ("5", f) >= 0 && fclose (f) == 0,
        "writing /proc/self/clear_refs");
}

/* By replay, or from the checkpoint that the stop has left.  Timed is all that
 * cache_open does. */
static struct opened
open_cache (struct full_cache *full, bool checkpoint)
{
  struct cache_options options = CACHE_OPTIONS_DEFAULT;
  struct pmem *pmem = open_device (full);
  struct cache_status status;
  struct cache *cache;
  struct opened opened;
  uint64_t start, before;

  options.checkpoint = checkpoint;
  /* The memory of the last turn would be there already. */
  malloc_trim (0);
  forget_peak ();
  before = memory_of_process ("RssAnon");
  start = clock_ns ();
  must (cache_open (&options, pmem, &cache) == 0, "opening the cache");
  opened.ms = (clock_ns () - start) / 1e6;
  opened.peak_bytes = memory_of_process ("VmHWM")
    - memory_of_process ("RssShmem") - memory_of_process ("RssFile") - before;
  cache_get_status (cache, &status);
  must (status.from_checkpoint == checkpoint
        && status.replayed_records == (checkpoint ? 0 : full->records),
        "having all records in the way that was asked for");
  opened.index_bytes = status.index_bytes;
  cache_close (cache);
  return opened;
}

static double
replay_side (void *opaque)
{
  struct full_cache *full = opaque;

  return full->records * 1e3 / open_cache (full, false).ms;
}

static double
checkpoint_side (void *opaque)
{
  struct full_cache *full = opaque;

  return full->records * 1e3 / open_cache (full, true).ms;
}

/* --- figures ---------------------------------------------------------------- */

/* Of three. */
static struct opened
best_open (struct full_cache *full, bool checkpoint)
{
  struct opened opened, best = { 0 };

  for (unsigned turn = 0; turn < 3; turn++) {
    opened = open_cache (full, checkpoint);
    if (turn == 0 || opened.ms < best.ms)
      best = opened;
  }
  return best;
}

static void
figure_of_size (struct results *results, const char *name, uint64_t size,
                double value, const char *unit)
{
  char full_name[64];

  snprintf (full_name, sizeof full_name, "%s-%" PRIu64 "m", name, size / MIB);
  results_figure (results, full_name, value, unit);
}

static void
measure_size (struct results *results, const char *directory, uint64_t size)
{
  struct opened replay, checkpoint;
  struct full_cache full;

  fill (&full, directory, size, false);
  replay = best_open (&full, false);
  checkpoint = best_open (&full, true);
  drop (&full);
  figure_of_size (results, "open-time", size, replay.ms, "ms");
  figure_of_size (results, "open-memory", size,
                  (double) replay.index_bytes / MIB, "MiB");
  figure_of_size (results, "open-peak", size,
                  (double) replay.peak_bytes / MIB, "MiB");
  figure_of_size (results, "open-checkpoint-time", size, checkpoint.ms, "ms");
  figure_of_size (results, "open-checkpoint-peak", size,
                  (double) checkpoint.peak_bytes / MIB, "MiB");
  figure_of_size (results, "stop-time", size, full.stop_ms, "ms");
  results_point (results, "open-time-ms", "cache size in GiB",
                 "time to open in ms", (double) size / GIB, replay.ms);
  results_point (results, "open-memory-mib", "cache size in GiB",
                 "memory of the index in MiB", (double) size / GIB,
                 (double) replay.index_bytes / MIB);
}

/* An open by replay, against the bare loop and against a checkpoint. */
static void
measure_records (struct results *results, const struct ratio *ratio,
                 const struct ratio *checkpoint, const char *directory,
                 uint64_t size, bool dirty)
{
  struct full_cache full;

  if (!results_want (results, ratio->name)
      && !results_want (results, checkpoint->name))
    return;
  fill (&full, directory, size, dirty);
  if (results_want (results, ratio->name))
    measure_ratio (results, ratio, bare_side, replay_side, &full);
  if (results_want (results, checkpoint->name))
    measure_ratio (results, checkpoint, checkpoint_side, replay_side, &full);
  drop (&full);
}

void
replay_figures_run (struct results *results, bool quick,
                    const char *directory)
{
  static const struct ratio clean = {
    .name = "replay-records",
    .about = "records replayed / records that a bare loop decodes and checks",
    .target = 0.40,
  };
  static const struct ratio dirty = {
    .name = "replay-records-dirty",
    .about = "the same, and none is written back",
  };
  static const struct ratio checkpoint = {
    .name = "replay-vs-checkpoint",
    .about = "cache opened by replay / from its checkpoint",
  };
  static const struct ratio checkpoint_dirty = {
    .name = "replay-vs-checkpoint-dirty",
    .about = "the same, and none is written back",
  };

  /* 1.1 million records; or 0.45. */
  const uint64_t size = quick ? 2 * GIB : 5 * GIB;

  measure_records (results, &clean, &checkpoint, directory, size, false);
  if (!quick)
    measure_records (results, &dirty, &checkpoint_dirty, directory, size,
                     true);
  if (results_want (results, "open-time-ms"))
    for (unsigned i = 0; i < 3; i++)
      measure_size (results, directory, (quick ? GIB / 16 : GIB) << 2 * i);
}

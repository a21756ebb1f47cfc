/* SPDX-License-Identifier: BSD-3-Clause */

/* The figures, by groups that share a stand.  A group is set up only if one of its
 * figures is wanted. */

#include <config.h>

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arith.h"
#include "bench/bare.h"
#include "bench/engine_figures.h"
#include "bench/replay_figures.h"
#include "bench/stand.h"
#include "engine/index.h"

#define MIB (UINT64_C (1) << 20)
#define BLOCK 4096
#define EXTENTS UINT64_C (1000000)      /* whose memory is measured */

/* Of a cache device, what is not for blocks: tables, sets, heads. */
#define BLOCKS_OF(device_size) ((device_size) / BLOCK * 97 / 100)

struct sizes {
  uint64_t device;
  uint64_t working_set;
  uint64_t requests;
  uint64_t steady_device;       /* the disk is four times as large */
  uint64_t full_device;         /* some segments stay free whatever is written, so
                                 * a small one cannot be 97 % full */
  uint64_t drained;             /* bytes that are drained */
};

static const struct sizes full_sizes = {
  4096 * MIB, 1024 * MIB, 300000, 1024 * MIB, 4096 * MIB, 1024 * MIB,
};
static const struct sizes quick_sizes = {
  512 * MIB, 96 * MIB, 30000, 160 * MIB, 1024 * MIB, 96 * MIB,
};

static const struct sizes *
sizes_of (const struct bench *bench)
{
  return bench->quick ? &quick_sizes : &full_sizes;
}

/* --- writes and reads, nothing going on behind them ------------------------ */

struct pair {
  struct bench *bench;
  struct bare *bare;
  struct stand *stand;
  struct workload workload, reference;
};

/* So many bytes more than are written now must fit, else it is begun anew, with
 * the working set written once. */
static void
make_room (struct pair *pair, const struct workload *workload)
{
  const struct cache_status status = stand_status (pair->stand);
  const uint64_t free_bytes = status.segments_free * status.segment_size;
  const uint64_t needed = workload->requests * (workload->block + 128);

  if (free_bytes > needed + needed / 8
      && status.segments_used > 0)
    return;
  stand_empty (pair->stand);
  stand_fill (pair->stand, 0, workload->working_set);
  /* Else it is eviction that is measured. */
  must (needed + workload->working_set
        < pair->stand->options.device_size / 100 * CACHE_MAX_GC_PERCENT,
        "room for the requests");
}

static double
bare_side (void *opaque)
{
  struct pair *pair = opaque;

  return bare_run (pair->bare, &pair->reference);
}

static double
engine_side (void *opaque)
{
  struct pair *pair = opaque;

  if (pair->workload.read_percent < 100)
    make_room (pair, &pair->workload);
  return stand_run (pair->stand, &pair->workload);
}

static double
engine_reference_side (void *opaque)
{
  struct pair *pair = opaque;

  make_room (pair, &pair->reference);
  return stand_run (pair->stand, &pair->reference);
}

static void
measure_writes (struct pair *pair, unsigned threads)
{
  static const struct ratio ratios[] = {
    { "engine-randwrite-4k-1t", "random 4K writes / copy + XXH3 + fence to "
      "random places, one thread", 0.70, false },
    { "engine-randwrite-4k-2t", "the same, two threads", 0.70, false },
  };

  pair->workload.threads = threads;
  pair->workload.requests *= threads;
  pair->reference = pair->workload;
  /* The limit: any place of the device. */
  pair->reference.working_set = sizes_of (pair->bench)->device;
  measure_ratio (pair->bench->results, &ratios[threads - 1], bare_side,
                 engine_side, pair);
}

static void
measure_reads (struct pair *pair, unsigned threads)
{
  static const struct ratio ratios[] = {
    { "engine-randread-4k-1t", "random 4K hits / copy from the mapping + "
      "XXH3, one thread", 0.70, false },
    { "engine-randread-4k-2t", "the same, two threads", 0.70, false },
  };

  pair->workload.threads = threads;
  pair->workload.requests *= threads;
  pair->workload.read_percent = 100;
  pair->reference = pair->workload;
  measure_ratio (pair->bench->results, &ratios[threads - 1], bare_side,
                 engine_side, pair);
}

static void
measure_flushes (struct pair *pair)
{
  static const struct ratio ratio = {
    "engine-write-flush-4k", "4K write + flush / copy 4K + fence + copy 128 "
    "bytes + fence", 0.60, false,
  };

  pair->workload.flush_every = 1;
  pair->workload.requests /= 2;
  pair->reference = pair->workload;
  pair->reference.checksum = false;
  pair->reference.working_set = sizes_of (pair->bench)->device;
  measure_ratio (pair->bench->results, &ratio, bare_side, engine_side, pair);
}

static double
bare_pair_side (void *opaque)
{
  struct pair *pair = opaque;

  return bare_run (pair->bare, &pair->workload);
}

static void
measure_scaling (struct pair *pair)
{
  static const struct ratio engine = {
    "engine-scaling-2t", "random 4K writes, two threads / one", 1.8, false,
  };
  /* What two CPUs of this machine can do more than one, at that time. */
  static const struct ratio bare = {
    "bare-scaling-2t", "copy + XXH3 + fence, two threads / one", 0, false,
  };

  pair->reference = pair->workload;
  pair->workload.threads = 2;
  pair->workload.requests *= 2;
  measure_ratio (pair->bench->results, &engine, engine_reference_side,
                 engine_side, pair);
  measure_ratio (pair->bench->results, &bare, bare_side, bare_pair_side, pair);
}

static const char *const plain_names[] = {
  "engine-randwrite-4k-1t", "engine-randwrite-4k-2t", "engine-randread-4k-1t",
  "engine-randread-4k-2t", "engine-write-flush-4k", "engine-scaling-2t", NULL,
};

static void
plain_group (struct bench *bench)
{
  const struct sizes *sizes = sizes_of (bench);
  const struct stand_options options = {
    .directory = bench->directory,
    .device_size = sizes->device,
    .disk_size = sizes->working_set,
    .checksum = true,
  };
  struct pair pair = {
    .bench = bench,
    .bare = bare_new (bench->directory, sizes->device),
    .stand = stand_new (&options),
  };
  const struct workload workload = {
    .threads = 1, .block = BLOCK, .working_set = sizes->working_set,
    .requests = sizes->requests, .checksum = true,
  };

  stand_fill (pair.stand, 0, sizes->working_set);
  for (unsigned i = 0; plain_names[i]; i++) {
    if (!results_want (bench->results, plain_names[i]))
      continue;
    pair.workload = workload;
    switch (i) {
    case 0: case 1: measure_writes (&pair, i + 1); break;
    case 2: case 3: measure_reads (&pair, i - 1); break;
    case 4: measure_flushes (&pair); break;
    case 5: measure_scaling (&pair); break;
    }
  }
  stand_free (pair.stand);
  bare_free (pair.bare);
}

/* --- more than fits ---------------------------------------------------------- */

struct steady {
  struct pair alone;            /* the reference: nothing behind it */
  struct stand *stand;
  struct workload workload;

  uint64_t longest_ns;          /* of the slice; the next three, of all */
  uint64_t stall_ns, space_waits;
  double eviction_ns;
  unsigned slices;
};

/* So many in turn make one measurement. */
#define EVICTIONS 2

static double
alone_side (void *opaque)
{
  struct steady *steady = opaque;

  return engine_reference_side (&steady->alone);
}

static double
steady_side (void *opaque)
{
  struct steady *steady = opaque;

  return stand_run (steady->stand, &steady->workload);
}

static void
print_latency (struct bench *bench, const char *of,
               const struct latency *latency)
{
  static const struct {
    const char *name;
    unsigned per_mille;
  } percentiles[] = {
    { "p50", 500 }, { "p99", 990 }, { "p99.9", 999 }, { "max", 1000 },
  };
  char name[64];

  for (unsigned i = 0; i < 4; i++) {
    snprintf (name, sizeof name, "%s-%s", of, percentiles[i].name);
    results_figure (bench->results, name,
                    (double) latency_percentile_ns
                    (latency, percentiles[i].per_mille) / 1000, "us");
  }
}

static double
idle_tail_side (void *opaque)
{
  struct steady *steady = opaque;

  make_room (&steady->alone, &steady->alone.reference);
  (void) stand_run (steady->alone.stand, &steady->alone.reference);
  return (double) latency_percentile_ns (steady->alone.reference.latency, 999);
}

static double
busy_tail_side (void *opaque)
{
  struct steady *steady = opaque;

  (void) stand_run (steady->stand, &steady->workload);
  return (double) latency_percentile_ns (steady->workload.latency, 999);
}

/* Writers no faster than write-back, so that there is clean space: what they wait
 * for then is no disk, but the threads behind. */
static void
measure_tail (struct bench *bench, struct steady *steady)
{
  static const struct ratio ratio = {
    "engine-tail-p99.9", "time that 99.9 % of 4K writes take at most while "
    "write-back and eviction run / while nothing else does", 0, true,
  };
  static struct latency idle, busy;

  steady->workload.pace = steady->alone.reference.pace = 50000;
  steady->workload.requests = steady->alone.reference.requests =
    bench->quick ? 15000 : 100000;
  steady->workload.latency = &busy;
  steady->alone.reference.latency = &idle;
  measure_ratio (bench->results, &ratio, idle_tail_side, busy_tail_side,
                 steady);
  print_latency (bench, "write-idle", &idle);
  print_latency (bench, "write-busy", &busy);
  steady->workload.latency = NULL;
}

static double
eviction_side (void *opaque)
{
  struct steady *steady = opaque;
  const double ns = stand_evict (steady->stand, EVICTIONS);

  steady->eviction_ns += ns;
  steady->slices++;
  return ns;
}

static double
stall_side (void *opaque)
{
  struct steady *steady = opaque;

  (void) stand_run (steady->stand, &steady->workload);
  steady->stall_ns = MAX (steady->stall_ns, steady->longest_ns);
  steady->space_waits += stand_status (steady->stand).space_waits;
  return (double) steady->longest_ns;
}

/* Of each slice the longest write counts, so one bad moment in it is enough, for
 * which the machine may be to blame as well: the median is of slices. */
static void
measure_stall (struct bench *bench, struct steady *steady)
{
  static const struct ratio ratio = {
    "engine-tail-stall", "the longest of many 4K writes while write-back and "
    "eviction run and there is clean space / the eviction of one segment, "
    "nothing else going on; both less what a thread waits for a CPU", 1.0,
    true,
  };

  steady->workload.pace = 50000;
  steady->workload.requests = bench->quick ? 15000 : 100000;
  steady->workload.longest_ns = &steady->longest_ns;
  measure_ratio (bench->results, &ratio, eviction_side, stall_side, steady);
  results_figure (bench->results, "write-busy-longest",
                  (double) steady->stall_ns / 1000, "us");
  results_figure (bench->results, "segment-eviction",
                  steady->eviction_ns / steady->slices / 1000, "us");
  results_figure (bench->results, "write-busy-space-waits",
                  (double) steady->space_waits, "waits");
}

static const char *const steady_names[] = {
  "engine-steady", "engine-tail-p99.9", "engine-tail-stall", NULL,
};

static void
steady_group (struct bench *bench)
{
  static const struct ratio ratio = {
    "engine-steady", "random 4K writes over four times the cache's size, "
    "write-back and eviction going / into an empty cache", 0.35, false,
  };
  const struct sizes *sizes = sizes_of (bench);
  const struct stand_options alone = {
    .directory = bench->directory,
    .device_size = sizes->device,
    .disk_size = sizes->working_set,
    .checksum = true,
  };
  const struct stand_options options = {
    .directory = bench->directory,
    .device_size = sizes->steady_device,
    .disk_size = 4 * sizes->steady_device,
    .checksum = true,
    .write_back = true,
  };
  const struct workload workload = {
    .threads = 1, .block = BLOCK, .working_set = sizes->working_set,
    .requests = sizes->requests, .checksum = true,
  };
  struct steady steady = {
    .alone = {
      .bench = bench, .stand = stand_new (&alone), .reference = workload,
    },
    .stand = stand_new (&options),
    .workload = workload,
  };

  stand_fill (steady.alone.stand, 0, sizes->working_set);
  steady.workload.working_set = options.disk_size;
  /* Until it is full, and each page of the disk is there. */
  stand_fill (steady.stand, 0, options.disk_size);
  if (results_want (bench->results, "engine-steady"))
    measure_ratio (bench->results, &ratio, alone_side, steady_side, &steady);
  if (results_want (bench->results, "engine-tail-p99.9"))
    measure_tail (bench, &steady);
  if (results_want (bench->results, "engine-tail-stall"))
    measure_stall (bench, &steady);
  stand_free (steady.stand);
  stand_free (steady.alone.stand);
}

/* --- full -------------------------------------------------------------------- */

struct full {
  struct stand *stand;
  struct workload workload;
};

/* Fill PERCENT of the cache but for half of what is measured, with blocks that are
 * all different; then write to them at random.  Write-back waits, else what is
 * full would be emptied. */
static double
run_at (struct full *full, unsigned percent)
{
  const uint64_t blocks = BLOCKS_OF (full->stand->options.device_size);
  struct workload workload = full->workload;

  workload.working_set = (blocks * percent / 100 - workload.requests / 2)
    * BLOCK;
  stand_empty (full->stand);
  cache_pause_writeback (full->stand->cache);
  stand_fill (full->stand, 0, workload.working_set);
  return stand_run (full->stand, &workload);
}

static double
at_5_percent (void *opaque)
{
  return run_at (opaque, 5);
}

static double
at_95_percent (void *opaque)
{
  return run_at (opaque, 95);
}

static const char *const full_names[] = { "engine-full", NULL };

static void
full_group (struct bench *bench)
{
  static const struct ratio ratio = {
    "engine-full", "random 4K writes into a cache 95 % full / 5 % full", 0.85,
    false,
  };
  const struct sizes *sizes = sizes_of (bench);
  const struct stand_options options = {
    .directory = bench->directory,
    .device_size = sizes->full_device,
    .disk_size = sizes->full_device,
    .checksum = true,
  };
  struct full full = {
    .stand = stand_new (&options),
    .workload = {
      .threads = 1, .block = BLOCK, .checksum = true,
      .requests = BLOCKS_OF (sizes->full_device) * 4 / 100,
    },
  };

  measure_ratio (bench->results, &ratio, at_5_percent, at_95_percent, &full);
  stand_free (full.stand);
}

/* --- write-back -------------------------------------------------------------- */

struct drain {
  struct stand *stand;
  struct disk *plain;
  uint64_t bytes;
};

/* All blocks of the first BYTES, in an order that jumps: a step that shares no
 * factor with their number. */
static void
write_shuffled (struct stand *stand, uint64_t bytes)
{
  const uint64_t blocks = bytes / BLOCK, step = 2654435761;
  uint8_t buf[BLOCK];

  memset (buf, 0x3a, sizeof buf);
  for (uint64_t i = 0; i < blocks; i++) {
    const uint64_t at = i * step % blocks * BLOCK;

    memcpy (buf, &at, sizeof at);
    must (cache_write (stand->cache, buf, (struct range) { at, BLOCK }, false)
          == 0, "a write");
  }
  must (cache_flush (stand->cache) == 0, "a flush");
}

static double
sequential_side (void *opaque)
{
  const struct drain *drain = opaque;
  const uint64_t since = clock_ns ();
  uint8_t *buf = malloc (MIB);

  must (buf != NULL, "malloc");
  memset (buf, 0x77, MIB);
  for (uint64_t at = 0; at < drain->bytes; at += MIB)
    must (pwrite (disk_fd (drain->plain), buf, MIB, at) == (ssize_t) MIB,
          "pwrite");
  must (fdatasync (disk_fd (drain->plain)) == 0, "fdatasync");
  free (buf);
  return (double) drain->bytes / (double) (clock_ns () - since);
}

static double
drain_side (void *opaque)
{
  const struct drain *drain = opaque;
  uint64_t since;

  write_shuffled (drain->stand, drain->bytes);
  since = clock_ns ();
  must (cache_drain (drain->stand->cache, 3600000) == 0, "cache_drain");
  return (double) drain->bytes / (double) (clock_ns () - since);
}

static const char *const drain_names[] = { "writeback", NULL };

static void
drain_group (struct bench *bench)
{
  static const struct ratio ratio = {
    "writeback", "drain of shuffled dirty 4K blocks into a file / as much by "
    "pwrite of 1 MiB in order, both with fdatasync", 0.60, false,
  };
  const uint64_t bytes = sizes_of (bench)->drained;
  const struct stand_options options = {
    .directory = bench->directory,
    .device_size = bytes * 2,
    .disk_size = bytes,
    .disk_directory = bench->disk_directory,
    .checksum = true,
  };
  struct drain drain = {
    .stand = stand_new (&options),
    .plain = disk_new_file (bench->disk_directory, bytes),
    .bytes = bytes,
  };

  /* Each file has its blocks before the time counts. */
  (void) sequential_side (&drain);
  (void) drain_side (&drain);
  measure_ratio (bench->results, &ratio, sequential_side, drain_side, &drain);
  stand_free (drain.stand);
  disk_free (drain.plain);
}

/* --- memory ------------------------------------------------------------------ */

static const char *const memory_names[] = { "index-bytes-per-extent", NULL };

/* Blocks here and there, so that few are neighbours. */
static uint64_t
scattered (uint64_t i)
{
  return i * 2654435761 % (4 * EXTENTS) * BLOCK;
}

static double
index_bytes (void)
{
  struct index *index = index_new (256);
  double bytes;

  must (index != NULL, "index_new");
  for (uint64_t i = 0; i < EXTENTS; i++) {
    const struct extent extent = {
      .range = { scattered (i), BLOCK }, .kind = EXTENT_DATA,
      .record_at = i * BLOCK, .record_length = BLOCK, .has_checksum = true,
    };

    index_lock (index, extent.range);
    must (index_reserve_locked (index, extent.range, 1) == 0, "memory");
    index_insert_locked (index, &extent);
    index_unlock (index, extent.range);
  }
  bytes = (double) index_memory (index);
  index_free (index);
  return bytes;
}

/* All that a cache takes: besides the index, the sets that are to be written back,
 * with the names of their records. */
static void
measure_heap (struct bench *bench)
{
  const struct stand_options options = {
    .directory = bench->directory,
    .device_size = (EXTENTS * (BLOCK + 64) / (16 * MIB) + 4) * 16 * MIB,
    .disk_size = EXTENTS * BLOCK * 4,
    .checksum = true,
  };
  struct stand *stand = stand_new (&options);
  const size_t before = mallinfo2 ().uordblks;

  cache_pause_writeback (stand->cache);
  for (uint64_t i = 0; i < EXTENTS; i++)
    stand_fill (stand, scattered (i), BLOCK);
  results_figure (bench->results, "heap-bytes-per-dirty-extent",
                  (double) (mallinfo2 ().uordblks - before) / EXTENTS,
                  "bytes");
  must (cache_drain (stand->cache, 3600000) == 0, "cache_drain");
  results_figure (bench->results, "heap-bytes-per-clean-extent",
                  (double) (mallinfo2 ().uordblks - before) / EXTENTS,
                  "bytes");
  stand_free (stand);
}

static void
memory_group (struct bench *bench)
{
  results_figure (bench->results, "index-bytes-per-extent",
                  index_bytes () / EXTENTS, "bytes");
  if (!bench->quick)
    measure_heap (bench);
}

/* --- opening ----------------------------------------------------------------- */

static const char *const open_names[] = {
  "replay-records", "replay-records-dirty", "replay-vs-checkpoint",
  "replay-vs-checkpoint-dirty", "open-time-ms", NULL,
};

static void
open_group (struct bench *bench)
{
  replay_figures_run (bench->results, bench->quick, bench->directory);
}

/* --- all of them ------------------------------------------------------------ */

static const struct {
  const char *const *names;
  void (*run) (struct bench *bench);
} groups[] = {
  { plain_names, plain_group },
  { steady_names, steady_group },
  { full_names, full_group },
  { drain_names, drain_group },
  { memory_names, memory_group },
  { open_names, open_group },
};

void
engine_figures_list (void)
{
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
    for (unsigned j = 0; groups[i].names[j]; j++)
      puts (groups[i].names[j]);
}

void
engine_figures_run (struct bench *bench)
{
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
    bool wanted = false;

    for (unsigned j = 0; groups[i].names[j]; j++)
      wanted |= results_want (bench->results, groups[i].names[j]);
    if (wanted)
      groups[i].run (bench);
  }
}

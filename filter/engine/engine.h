/* SPDX-License-Identifier: BSD-3-Clause */

/* engine: the parts of an open cache, as the services share them.
 *
 * cache.c opens the parts and fills this in.  read, write, recovery, writeback
 * and gc are siblings: they use the parts and never each other. */

#ifndef PCACHE_ENGINE_H
#define PCACHE_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/backend.h"
#include "engine/cache.h"
#include "engine/epoch_queue.h"
#include "engine/flights.h"
#include "engine/ghost.h"
#include "engine/holes.h"
#include "engine/index.h"
#include "engine/log.h"
#include "engine/log_reader.h"
#include "engine/lost.h"
#include "engine/modes.h"
#include "engine/rate.h"
#include "engine/segment.h"
#include "engine/settings.h"
#include "engine/stats.h"
#include "engine/streams.h"
#include "engine/superblock.h"
#include "pmem/pmem.h"

struct engine {
  struct cache_options options; /* as given; settings: see below */
  struct settings settings;
  struct pmem *pmem;
  struct superblock superblock;
  struct segment_table segments;
  struct epoch_queue queue;
  struct log_reader reader;
  struct log *log;
  struct index *index;
  struct stats *stats;
  struct backend *backend;      /* NULL: none attached */
  struct lost_ranges lost;
  struct streams streams;       /* of reads */
  struct flights flights;
  struct ghost ghost;
  struct holes holes;
  struct modes modes;
  struct {
    pthread_mutex_t lock;       /* held while it is flushed */
    _Atomic uint64_t failures;  /* of flushes; changed under lock */
  } backing;
  struct rate writeback_rate;   /* bytes sent to the backing store */
  bool must_replay;             /* a checkpoint is not enough for this open */
  bool from_checkpoint;         /* the index was, at the open; constant then */
  _Atomic uint64_t device_failures;     /* see engine_note_device */

  /* Wait until a segment may have become free since TICKET was taken.
   * 0: try again.  -errno: give up. */
  int (*wait_for_space) (struct engine *, uint64_t ticket,
                         uint64_t waiting_since_ms);
  /* Somebody waits for write-back: pcache-writeback-rate is not in force.
   * NULL: nobody ever does. */
  bool (*is_urgent) (struct engine *);
  /* The path is CLOSED or BROKEN: wait until it is another, or until an attempt to
   * write back has failed.  0: look again.  -errno: give up. */
  int (*wait_for_path) (struct engine *);
};

/* cache.c: for tests and tools that look inside. */
extern struct engine *cache_engine (struct cache *cache);

/* read.c */
extern int engine_read (struct engine *engine, void *buf,
                        struct range range);
extern int engine_prefetch (struct engine *engine, struct range range);
extern void engine_map (struct engine *engine, struct range range,
                        enum map_kind *kind, uint64_t *length);

/* write.c */
extern int engine_write (struct engine *engine, const void *buf,
                         struct range range, bool fua);
/* kind: RECORD_ZERO or RECORD_TRIM. */
extern int engine_write_zeros (struct engine *engine, enum record_kind kind,
                               struct range range, bool fua);

/* flush.c: beneath read, write, writeback and gc, too.  No lock is held. */

/* Everything appended before the call is durable when it returns 0.  Records whose
 * place refuses them are written elsewhere. */
extern int engine_flush (struct engine *engine);

/* Flush the backing store.  FAILURES is what engine_backing_failures said before
 * anything was written that this is to make durable: a store says but once that
 * it lost something, and it may have said so to somebody else since. */
extern uint64_t engine_backing_failures (struct engine *engine);
extern int engine_flush_backing (struct engine *engine, uint64_t failures);

/* R is what the cache device answered in the end, all other places having been
 * tried.  Count it in device_failures if it is a failure of the device, and give
 * it back. */
extern int engine_note_device (struct engine *engine, int r);

/* FUA: make what was appended with this reservation durable, end the epoch, and
 * release the reservation. */
extern int engine_commit (struct engine *engine, struct reservation *res);

/* The same, but the epoch goes on. */
extern int engine_persist (struct engine *engine, struct reservation *res);

/* Move the records of open sets that could not be stored to other segments.
 * 1: there were some; 0: none; -errno: they are where they were, and will be
 * tried again. */
extern int engine_move_refused (struct engine *engine);

/* record_io.c: records and their data on the way to the log and back.
 * Beneath read, write, writeback and gc. */

/* Cut RANGE, which fits one reservation, into data records; *data_bytes: what
 * to reserve for them.  Returns how many (at most LOG_MAX_RESERVE_RECORDS). */
extern unsigned records_cut (const struct engine *engine, struct range range,
                             bool clean, struct record *records,
                             uint32_t *data_bytes);

/* Copy the records' data (BUF holds RANGE) to AT on the device, checksum it
 * and fence it.  No lock is held. */
extern int records_store (struct engine *engine, const uint8_t *buf,
                          struct range range, struct record *records,
                          unsigned count, uint64_t at);

/* Append the records to the log and map them.  All or nothing.  RANGE, in
 * which they lie, is locked. */
extern int records_publish_locked (struct engine *engine,
                                   struct reservation *res,
                                   struct range range,
                                   struct record *records, unsigned count);

/* Copy piece->range's bytes.  0; -EBADMSG when the checksum is wrong; -EIO
 * on a media error.  Both are counted.  The caller keeps the segment from being
 * reused (read-side critical section, or being the one who evicts). */
extern int extent_read (struct engine *engine, const struct extent *extent,
                        void *buf);

/* Is what the extent refers to also in the backing store?  The extent is
 * mapped and its region locked.  When it cannot be told: false. */
extern bool extent_is_clean (struct engine *engine,
                             const struct extent *extent);

#endif /* PCACHE_ENGINE_H */

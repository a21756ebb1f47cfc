/* SPDX-License-Identifier: BSD-3-Clause */

/* log: the only way into the segments.
 *
 * A writer reserves space in a head's segment (data and room for its
 * records), stores its data there without any lock, and then appends
 * the records to the head's open set, which is in DRAM.  The set goes to
 * media when it is full, when its epoch ends, by FUA, or when its segment is
 * sealed.  After a successful reservation the append fails only if a full
 * set cannot be written (media error) or memory is out, and then it has
 * changed nothing.
 *
 * Epochs: a set holds records of one epoch.  log_flush ends the current epoch
 * and makes every record of it and of all before durable.  FUA makes
 * its own records durable and ends the epoch too, but says nothing of other
 * heads' records.
 *
 * Lock order: moving, outside everything; flush_lock or head->refill, neither with an index region held;
 * then head->lock, for which a region may be; then those of the epoch queue and
 * the segment table.  No lock is held while data is copied. */

#ifndef PCACHE_LOG_H
#define PCACHE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/epoch_queue.h"
#include "engine/log_reader.h"
#include "engine/segment.h"
#include "engine/stats.h"

struct log;

struct log_options {
  struct pmem *pmem;
  struct superblock *superblock;
  struct segment_table *segments;
  struct epoch_queue *queue;
  struct stats *stats;
  unsigned heads;               /* at least 1 */
  bool data_crc;
  uint64_t sequence;            /* the last one used */
  uint64_t epoch;               /* the open one; all before it are durable */
  void (*on_retired) (void *opaque);    /* a segment waits to be sealed */
  void *opaque;
};

extern int log_new (const struct log_options *options, struct log **log);
extern void log_free (struct log *log);

/* From now on each CPU has its head.  Before, heads take turns, so that
 * whoever has but one thread can repeat himself exactly. */
extern void log_use_cpus (struct log *log);

enum log_purpose {
  LOG_WRITE,
  LOG_OPTIONAL,                 /* fills, second chances: leave the last free
                                 * segments to writes */
  LOG_LOST,                     /* "this range is lost", and what a place
                                 * refused (flush.c).  Has a free segment that nothing else takes,
                                 * and then a head of its own: write-back and
                                 * eviction must be able to say it in a cache
                                 * in which nothing else finds room, or there
                                 * never would be any again. */
};

/* Free segments that LOG_OPTIONAL leaves alone. */
extern uint32_t log_kept_for_writes (struct log *log);

/* The most that fits into one reservation. */
#define LOG_MAX_RESERVE (UINT32_C (256) * 1024)
#define LOG_MAX_RESERVE_RECORDS 16

struct open_segment;
struct head;

struct reservation {
  struct head *head;
  struct open_segment *open;
  uint64_t at;                  /* on the device: DATA_BYTES of each record,
                                 * one after another */
  unsigned records;
  bool ends_with_append;        /* the caller's, false at first: the append that
                                 * succeeds releases it, too, if it can.  Then
                                 * neither commit nor persist. */
};

/* 0; -EAGAIN when there is no room at present; another -errno when there
 * will not be.  Ends with log_release. */
extern int log_reserve (struct log *log, enum log_purpose purpose,
                        uint32_t data_bytes, unsigned records,
                        struct reservation *reservation);

/* Number the records (ascending) and append them to the open set.  The
 * data they refer to has been fenced.  At most as many as reserved, in all.
 * The caller holds the index region of every range, so that log and index
 * agree on who is newer (which is why it is called _locked). */
extern int log_append_locked (struct log *log,
                              struct reservation *reservation,
                              struct record *records, unsigned count);

/* FUA: make what was appended with this reservation durable, then end the
 * epoch. */
extern int log_commit (struct log *log, struct reservation *reservation);
/* The same, and the epoch goes on. */
extern int log_persist (struct log *log, struct reservation *reservation);
/* If a flush is to be expected soon, leave it less to do: the open set of this
 * reservation is written already.  Nothing is promised. */
extern void log_expect_flush (struct log *log, struct reservation *reservation);
extern void log_release (struct log *log, struct reservation *reservation);

/* Everything appended before the call is durable when it returns 0. */
extern int log_flush (struct log *log);

/* An open set that its place refused to take, with what was in it. */
struct refused_set {
  struct head *head;
  struct open_segment *open;
  uint32_t segment;
  uint32_t count;
  struct record record[SET_MAX_RECORDS];
};

/* Take one, if there is: nothing more comes into it, and its head leaves the
 * segment.  Ends with log_end_refused; moved: nothing is mapped to these records any
 * more, and the set is forgotten.  Otherwise it is as it was. */
extern bool log_take_refused (struct log *log, struct refused_set *set);
extern void log_end_refused (struct log *log, struct refused_set *set,
                             bool moved);

/* How often a set was moved. */
extern uint64_t log_moves (struct log *log);

/* A sync has failed, and is forgiven (pmem_trust) only so that a mark can be
 * made.  What is in the log counts as durable no more than it did: every
 * log_flush fails from here on, and no segment is sealed. */
extern void log_distrust (struct log *log);
extern bool log_is_distrusted (const struct log *log);

/* Then: close all sets, that write-back can take them, although they are not
 * durable.  Only once nothing clean counts on the device any more, else a crash
 * would bring back, as clean, what is older than the backing store (T24).
 * Nobody appends.  -EBADMSG: what they speak of cannot be verified, as there are
 * no data checksums. */
extern int log_close_distrusted (struct log *log);

/* EPOCH, or the last one before it that is durable.  They differ only after
 * log_close_distrusted. */
extern uint64_t log_durable_until (const struct log *log, uint64_t epoch);

/* All epochs up to it are durable and complete (but see
 * log_close_distrusted). */
extern uint64_t log_closed_through (struct log *log);
extern uint64_t log_epoch (struct log *log);
extern uint64_t log_sequence (struct log *log);

/* Seal the segments that heads have left.  *count: how many. */
extern int log_seal_retired (struct log *log, unsigned *count);

/* Make heads leave their segments, so that these can be sealed, written back
 * and evicted.  A head whose segment is empty keeps it. */
extern void log_retire_heads (struct log *log);

/* Make the head that has segment ID, if there is one, leave it. */
extern void log_retire_segment (struct log *log, uint32_t id);

/* True if the record whose data is at AT is in an open set; then *clean says
 * what it is. */
extern bool log_find_open (struct log *log, uint64_t at, bool *clean);

/* In open sets: bytes of dirty ranges, and of segments that they take.  What moves from
 * one to another meanwhile is counted at least once. */
struct log_dirty {
  uint64_t bytes, space;
};

extern struct log_dirty log_dirty (struct log *log);
extern uint64_t log_dirty_bytes (struct log *log);

/* Is there a segment that its head has left, that needs only to be sealed to be
 * evictable? */
extern bool log_has_evictable_retired (struct log *log,
                                       uint64_t written_back);
/* When the oldest record not in the epoch queue yet came; false if none. */
extern bool log_oldest_open (struct log *log, uint64_t *since_ms);
/* Its set, as it would be closed now. */
extern bool log_oldest_open_set (struct log *log, struct set_entry *oldest);

/* Where the I-th head writes next: false if it has no segment at present.  There
 * are log_head_count. */
extern unsigned log_head_count (const struct log *log);
extern bool log_head_position (struct log *log, unsigned i, uint32_t *segment,
                               uint32_t *offset);

#endif /* PCACHE_LOG_H */

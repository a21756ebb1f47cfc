/* SPDX-License-Identifier: BSD-3-Clause */

/* epoch_queue: the sets on media that hold dirty records, in the order in
 * which write-back wants them.
 *
 * Each set gets its entry when it is closed and loses it when its epoch is
 * written back.  Entries stand in order of their epochs.  The queue locks
 * itself.
 *
 * An entry also names the set's records: should the set become unreadable, the
 * index still knows what is mapped to them. */

#ifndef PCACHE_EPOCH_QUEUE_H
#define PCACHE_EPOCH_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct set_entry {
  struct set_entry *next, *previous;    /* the queue's */
  uint64_t epoch;
  uint32_t segment;
  uint32_t end;                 /* offset in the segment where the set ends */
  uint32_t ordinal;
  uint32_t records;             /* dirty ones */
  uint64_t dirty_bytes;
  uint64_t space_bytes;         /* of the segment that the dirty ones take */
  uint64_t since_ms;            /* when its first record came */
  uint64_t *names;              /* extent_name of the dirty ones and of those
                                 * that say "lost" */
  uint32_t name_count;
  bool damaged;                 /* found so, and reported */
};

struct epoch_queue {
  pthread_mutex_t lock;
  struct set_entry head;        /* lock; ring, head.epoch is 0 */
  uint64_t dirty_bytes;         /* lock */
  uint64_t space_bytes;         /* lock */
  uint64_t count;               /* lock */
};

extern void epoch_queue_init (struct epoch_queue *queue);
extern void epoch_queue_destroy (struct epoch_queue *queue);

/* A copy of ENTRY, in no queue and without names, and with room for so many.
 * NULL: out of memory. */
extern struct set_entry *set_entry_new (const struct set_entry *entry,
                                        uint32_t max_names);
extern void set_entry_free (struct set_entry *entry);

/* The queue owns ENTRY, from set_entry_new, from now on. */
extern void epoch_queue_add (struct epoch_queue *queue,
                             struct set_entry *entry);

/* The lowest epoch with an entry, and the age of that entry's first record.
 * False if the queue is empty. */
extern bool epoch_queue_first (struct epoch_queue *queue, uint64_t *epoch,
                               uint64_t *since_ms);

/* A copy of that entry, without its names. */
extern bool epoch_queue_oldest (struct epoch_queue *queue,
                                struct set_entry *oldest);

/* Copy the entries of epochs up to THROUGH to a new array, *COUNT of them.
 * Their names stay the queue's, until they are dropped.  0 or -ENOMEM. */
extern int epoch_queue_list (struct epoch_queue *queue, uint64_t through,
                             struct set_entry **entries, uint64_t *count);

/* The names of all entries, in a new array of *COUNT.  0 or -ENOMEM. */
extern int epoch_queue_names (struct epoch_queue *queue, uint64_t **names,
                              size_t *count);

/* Remember that the set of ENTRY, a copy, is damaged.  True the first time. */
extern bool epoch_queue_note_damage (struct epoch_queue *queue,
                                     const struct set_entry *entry);

/* Forget the entries of epochs up to THROUGH. */
extern void epoch_queue_drop (struct epoch_queue *queue, uint64_t through);

extern uint64_t epoch_queue_dirty_bytes (struct epoch_queue *queue);
/* The same of epochs up to THROUGH only. */
extern uint64_t epoch_queue_dirty_through (struct epoch_queue *queue,
                                           uint64_t through);
extern uint64_t epoch_queue_space_bytes (struct epoch_queue *queue);

#endif /* PCACHE_EPOCH_QUEUE_H */

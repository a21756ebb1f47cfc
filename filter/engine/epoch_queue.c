/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/epoch_queue.h"

struct set_entry *
set_entry_new (const struct set_entry *entry, uint32_t max_names)
{
  /* One block: it is made at every flush. */
  struct set_entry *copy = malloc (sizeof *copy
                                   + max_names * sizeof *copy->names);

  if (copy == NULL)
    return NULL;
  *copy = *entry;
  copy->names = (uint64_t *) (copy + 1);
  copy->name_count = 0;
  return copy;
}

void
set_entry_free (struct set_entry *entry)
{
  free (entry);
}

void
epoch_queue_init (struct epoch_queue *queue)
{
  *queue = (struct epoch_queue) { .lock = PTHREAD_MUTEX_INITIALIZER };
  queue->head.next = queue->head.previous = &queue->head;
}

void
epoch_queue_destroy (struct epoch_queue *queue)
{
  epoch_queue_drop (queue, UINT64_MAX);
  pthread_mutex_destroy (&queue->lock);
}

void
epoch_queue_add (struct epoch_queue *queue, struct set_entry *entry)
{
  HOLD_LOCK (&queue->lock);
  struct set_entry *after = queue->head.previous;

  /* Heads close their sets in nearly the order of epochs: this loop hardly
   * ever turns. */
  while (after != &queue->head && after->epoch > entry->epoch)
    after = after->previous;
  entry->previous = after;
  entry->next = after->next;
  after->next->previous = entry;
  after->next = entry;
  queue->dirty_bytes += entry->dirty_bytes;
  queue->space_bytes += entry->space_bytes;
  queue->count++;
}

bool
epoch_queue_first (struct epoch_queue *queue, uint64_t *epoch,
                   uint64_t *since_ms)
{
  HOLD_LOCK (&queue->lock);
  const struct set_entry *first = queue->head.next;

  if (first == &queue->head)
    return false;
  *epoch = first->epoch;
  *since_ms = first->since_ms;
  return true;
}

bool
epoch_queue_oldest (struct epoch_queue *queue, struct set_entry *oldest)
{
  HOLD_LOCK (&queue->lock);

  if (queue->head.next == &queue->head)
    return false;
  *oldest = *queue->head.next;
  oldest->names = NULL;
  oldest->next = oldest->previous = NULL;
  return true;
}

int
epoch_queue_list (struct epoch_queue *queue, uint64_t through,
                  struct set_entry **entries, uint64_t *count)
{
  HOLD_LOCK (&queue->lock);
  const struct set_entry *entry;
  uint64_t n = 0;

  for (entry = queue->head.next;
       entry != &queue->head && entry->epoch <= through; entry = entry->next)
    n++;
  *entries = malloc ((n > 0 ? n : 1) * sizeof **entries);
  if (*entries == NULL)
    return -ENOMEM;
  n = 0;
  for (entry = queue->head.next;
       entry != &queue->head && entry->epoch <= through; entry = entry->next)
    (*entries)[n++] = *entry;
  *count = n;
  return 0;
}

int
epoch_queue_names (struct epoch_queue *queue, uint64_t **names, size_t *count)
{
  HOLD_LOCK (&queue->lock);
  const struct set_entry *entry;

  *count = 0;
  for (entry = queue->head.next; entry != &queue->head; entry = entry->next)
    *count += entry->name_count;
  *names = malloc ((*count + 1) * sizeof **names);
  if (*names == NULL)
    return -ENOMEM;
  *count = 0;
  for (entry = queue->head.next; entry != &queue->head; entry = entry->next) {
    memcpy (*names + *count, entry->names,
            entry->name_count * sizeof **names);
    *count += entry->name_count;
  }
  return 0;
}

bool
epoch_queue_note_damage (struct epoch_queue *queue,
                         const struct set_entry *damaged)
{
  HOLD_LOCK (&queue->lock);
  struct set_entry *entry;

  for (entry = queue->head.next;
       entry != &queue->head && entry->epoch <= damaged->epoch;
       entry = entry->next)
    if (entry->segment == damaged->segment
        && entry->ordinal == damaged->ordinal) {
      const bool first = !entry->damaged;

      entry->damaged = true;
      return first;
    }
  return false;
}

/* Take those of epochs up to THROUGH out: a list by .next. */
static struct set_entry *
take_out_locked (struct epoch_queue *queue, uint64_t through)
{
  struct set_entry *first = queue->head.next, *entry, *last = NULL;

  for (entry = first; entry != &queue->head && entry->epoch <= through;
       entry = entry->next) {
    queue->dirty_bytes -= entry->dirty_bytes;
    queue->space_bytes -= entry->space_bytes;
    queue->count--;
    last = entry;
  }
  if (last == NULL)
    return NULL;
  queue->head.next = entry;
  entry->previous = &queue->head;
  last->next = NULL;
  return first;
}

void
epoch_queue_drop (struct epoch_queue *queue, uint64_t through)
{
  struct set_entry *entry, *next;

  {
    HOLD_LOCK (&queue->lock);
    entry = take_out_locked (queue, through);
  }
  /* They may be many, and whoever flushes needs the lock. */
  for (; entry; entry = next) {
    next = entry->next;
    set_entry_free (entry);
  }
}

uint64_t
epoch_queue_dirty_bytes (struct epoch_queue *queue)
{
  HOLD_LOCK (&queue->lock);

  return queue->dirty_bytes;
}

uint64_t
epoch_queue_dirty_through (struct epoch_queue *queue, uint64_t through)
{
  HOLD_LOCK (&queue->lock);
  const struct set_entry *entry;
  uint64_t sum = 0;

  for (entry = queue->head.next;
       entry != &queue->head && entry->epoch <= through; entry = entry->next)
    sum += entry->dirty_bytes;
  return sum;
}

uint64_t
epoch_queue_space_bytes (struct epoch_queue *queue)
{
  HOLD_LOCK (&queue->lock);

  return queue->space_bytes;
}

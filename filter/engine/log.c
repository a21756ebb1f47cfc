/* SPDX-License-Identifier: BSD-3-Clause */

/* Inside a head.
 *
 * The head's current segment takes reservations; segments it has left
 * (retired) stay in its list until the last reservation in them is
 * released and log_seal_retired has sealed them.  head->lock guards the
 * cursors and open sets of all of them.
 *
 * Room is counted for the worst case, each record in a set of its own:
 *
 *   | data | free, reserved_bytes of it spoken for | sets |
 *          data_end                                set_end
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/log.h"

struct open_segment {
  struct open_segment *next;    /* head's list; current first */
  struct segment *segment;
  uint32_t in_flight;           /* reservations not yet released */
  uint32_t data_end, set_end;
  uint32_t reserved_bytes;
  uint32_t sets;                /* on media */
  uint32_t durable_sets;        /* of them, known to be synced */
  uint32_t syncing_sets;        /* there when the sync under way started */
  uint64_t epoch_max;           /* of dirty records */
  uint64_t sequence_min, sequence_max;  /* of sets on media */
  bool retired;
  bool refused;                 /* the open set could not be stored */
  bool abandoned;               /* its records move elsewhere: no more come */
  bool passed_over;             /* by this pass of sealing: it failed */

  /* The open set. */
  uint32_t count;
  uint64_t epoch;
  struct set_entry dirty;       /* of its dirty records, if there are any; the
                                 * rest is known when it is closed */
  _Alignas (64) uint8_t records[SET_MAX_BYTES];
};

struct head {
  _Alignas (64) pthread_mutex_t lock;
  bool locked;                  /* lock; so that _locked can assert it */
  struct open_segment *segments;        /* lock; current one first */
  /* False: there is neither a reservation nor an open set, so whoever appends
   * next reads the epoch later than this was read.  Changed under lock. */
  _Atomic bool active;
  pthread_mutex_t refill;       /* held while a new segment is fetched */
};

struct log {
  struct log_options options;
  struct head *heads;           /* options.heads that take turns; behind them
                                 * the one of LOG_LOST, empty until needed */
  unsigned head_count;          /* with that one */
  bool by_cpu;
  _Alignas (64) _Atomic uint64_t sequence;      /* the last one used */
  _Alignas (64) _Atomic uint64_t epoch;
  _Atomic uint64_t closed_through;
  _Atomic uint64_t durable_through;
  _Atomic bool distrusted;      /* see log_distrust */
  _Atomic unsigned turn;

  pthread_mutex_t moving;       /* held from log_take_refused to
                                 * log_end_refused */
  _Atomic uint64_t moves;       /* sets that were forgotten; changed in the same
                                 * hold of their head's lock */

  /* Concurrent flushes share one. */
  pthread_mutex_t flush_lock;
  _Atomic uint64_t flushes_started;
  uint64_t flush_completed;     /* flush_lock; number of the last one that
                                 * succeeded */
  _Atomic uint64_t syncs_started;       /* by log_persist */
  uint64_t sync_completed;      /* flush_lock; number of the last one that
                                 * succeeded */
  uint64_t flushed_sequence;    /* flush_lock; nothing newer than this was
                                 * appended when that one started */
};

#define RECORD_ROOM SET_BYTES (1)

/* Free segments that only LOG_LOST takes. */
#define KEPT_FOR_LOST 1

int
log_new (const struct log_options *options, struct log **result)
{
  struct log *log;

  assert (options->heads > 0 && options->epoch > 0);
  log = aligned_alloc (64, round_up (sizeof *log, 64));
  if (log == NULL)
    return -ENOMEM;
  memset (log, 0, sizeof *log);
  log->options = *options;
  log->head_count = options->heads + 1;
  log->heads = aligned_alloc (64, log->head_count * sizeof *log->heads);
  if (log->heads == NULL) {
    free (log);
    return -ENOMEM;
  }
  memset (log->heads, 0, log->head_count * sizeof *log->heads);
  for (unsigned i = 0; i < log->head_count; i++) {
    pthread_mutex_init (&log->heads[i].lock, NULL);
    pthread_mutex_init (&log->heads[i].refill, NULL);
  }
  pthread_mutex_init (&log->flush_lock, NULL);
  pthread_mutex_init (&log->moving, NULL);
  log->sequence = log->flushed_sequence = options->sequence;
  log->epoch = options->epoch;
  log->closed_through = log->durable_through = options->epoch - 1;
  *result = log;
  return 0;
}

void
log_free (struct log *log)
{
  if (log == NULL)
    return;
  for (unsigned i = 0; i < log->head_count; i++) {
    struct head *head = &log->heads[i];
    struct open_segment *open;

    while ((open = head->segments) != NULL) {
      head->segments = open->next;
      free (open);
    }
    pthread_mutex_destroy (&head->lock);
    pthread_mutex_destroy (&head->refill);
  }
  pthread_mutex_destroy (&log->flush_lock);
  pthread_mutex_destroy (&log->moving);
  free (log->heads);
  free (log);
}

void
log_use_cpus (struct log *log)
{
  log->by_cpu = true;
}

static void
assert_held (pthread_mutex_t *lock)
{
  assert (pthread_mutex_trylock (lock) != 0);
  (void) lock;
}

static inline struct head *
head_lock (struct head *head)
{
  mutex_lock (&head->lock);
  head->locked = true;
  return head;
}

static inline void
head_unlock (struct head **head)
{
  (*head)->locked = false;
  mutex_unlock (&(*head)->lock);
}

/* As HOLD_LOCK. */
#define HOLD_HEAD(which)                                                \
  __attribute__ ((cleanup (head_unlock), unused))                       \
  struct head *HOLD_LOCK_NAME (__LINE__) = head_lock (which)

/* --- sets ------------------------------------------------------------- */

/* What the queue is told about the open set, which has dirty records: names, but
 * for those of clean ones. */
static struct set_entry *
describe_set (const struct log *log, const struct open_segment *open)
{
  const uint64_t base = segment_at (log->options.superblock,
                                    open->segment->id);
  struct set_entry *entry = set_entry_new (&open->dirty, open->count);

  if (entry == NULL)
    return NULL;
  entry->epoch = open->epoch;
  entry->segment = open->segment->id;
  entry->end = open->set_end;
  entry->ordinal = open->sets;
  for (uint32_t i = 0; i < open->count; i++) {
    struct media_record media;

    memcpy (&media, open->records + i * sizeof media, sizeof media);
    if (!(media.flags & RECORD_CLEAN) || media.kind == RECORD_LOST)
      entry->names[entry->name_count++] =
        record_name (media.kind, base + le32_get (media.place),
                     le64_get (media.sequence));
  }
  return entry;
}

/* The header tells of sets on media only. */
static void
note_sequence (struct open_segment *open)
{
  struct media_record first, last;

  memcpy (&first, open->records, sizeof first);
  memcpy (&last, open->records + (open->count - 1) * sizeof last, sizeof last);
  if (open->sets == 0)
    open->sequence_min = le64_get (first.sequence);
  open->sequence_max = le64_get (last.sequence);
}

/* Write the open set to media.  Durable at once on an ordered device,
 * with the next sync elsewhere.  On error it stays open. */
static int
close_set_locked (struct log *log, struct head *head,
                  struct open_segment *open)
{
  struct pmem *pmem = log->options.pmem;
  const uint32_t bytes = SET_BYTES (open->count);
  const uint32_t header_at = open->set_end - sizeof (struct media_set);
  const uint64_t at = segment_at (log->options.superblock, open->segment->id)
    + open->set_end - bytes;
  const uint32_t used = open->count * sizeof (struct media_record);
  uint8_t *buf = open->records;
  struct media_set header = {
    .magic = le64_of (MAGIC_SET),
    .generation = le64_of (open->segment->generation),
    .segment = le32_of (open->segment->id),
    .offset = le32_of (header_at),
    .ordinal = le32_of (open->sets),
    .records = le32_of (open->count),
    .epoch = le64_of (open->epoch),
    .durable_through = le64_of (MIN (atomic_load (&log->durable_through),
                                     open->epoch - 1)),
    .durable_sets = le32_of (pmem->ordered ? open->sets
                             : open->durable_sets),
  };
  struct set_entry *entry = NULL;
  int r;

  assert (head->locked);
  assert (open->count > 0);
  memset (buf + used, 0, bytes - used);
  memcpy (buf + bytes - sizeof header, &header, sizeof header);
  header.checksum = le64_of (XXH3_64bits_withSeed
                             (buf, bytes, log->options.superblock->instance));
  memcpy (buf + bytes - sizeof header, &header, sizeof header);

  /* Where a fence does not order stores, the set may reach media before
   * the data it speaks of.  Replay finds that out by the data's checksums; with
   * none, the data has to be there first. */
  if (!pmem->ordered && !log->options.data_crc) {
    r = pmem_sync (pmem);
    if (r < 0)
      return r;
  }

  if (open->dirty.records > 0) {
    entry = describe_set (log, open);
    if (entry == NULL)
      return -ENOMEM;
  }

  /* Crash before the fence: the set is torn and is the end of this
   * segment's log; nothing in it was promised yet.  After: it is valid, and
   * so is every set before it, since each was fenced here before the next was
   * stored. */
  r = pmem_copy (pmem, at, buf, bytes);
  if (r == 0 && !MUTATION (FLUSH_WITHOUT_FENCE))
    r = pmem_fence (pmem);
  if (r < 0) {
    stats_add (log->options.stats, STAT_media_errors, 1);
    set_entry_free (entry);
    open->refused = true;
    return r;
  }

  stats_add (log->options.stats, STAT_sets_written, 1);
  open->refused = false;
  note_sequence (open);
  if (entry) {
    epoch_queue_add (log->options.queue, entry);
    open->dirty.records = 0;
    open->epoch_max = open->epoch;
  }
  open->reserved_bytes -= open->count * RECORD_ROOM;
  open->set_end -= bytes;
  open->sets++;
  open->count = 0;
  return 0;
}

static void
encode_record (const struct log *log, const struct open_segment *open,
               const struct record *record, struct media_record *m)
{
  *m = (struct media_record) {
    .logical = le64_of (record->range.start),
    .length = le64_of (record->range.length),
    .sequence = le64_of (record->sequence),
    .kind = record->kind,
    .flags = (record->clean ? RECORD_CLEAN : 0)
      | (record->has_checksum ? RECORD_CHECKSUM : 0),
  };
  if (record->kind == RECORD_DATA) {
    m->place = le32_of (record->at - segment_at (log->options.superblock,
                                                 open->segment->id));
    m->checksum = le64_of (record->checksum);
  }
}

static void
count_dirty (struct set_entry *dirty, const struct record *record)
{
  if (dirty->records++ == 0)
    *dirty = (struct set_entry) { .records = 1, .since_ms = coarse_now_ms () };
  dirty->dirty_bytes += record->range.length;
  dirty->space_bytes += record_space (record);
}

/* Unused room is lost: it is little, and the segment may have been left by its
 * head already. */
static void
give_back_locked (struct reservation *res)
{
  assert (res->head->locked);
  res->open->reserved_bytes -= res->records * RECORD_ROOM;
  res->open->in_flight--;
}

int
log_append_locked (struct log *log, struct reservation *res,
                   struct record *records, unsigned count)
{
  struct head *head = res->head;
  struct open_segment *open = res->open;
  uint64_t sequence, epoch;
  int r;

  assert (count > 0 && count <= res->records);
  HOLD_HEAD (head);
  /* Read under the lock: log_flush advances the epoch before it takes the
   * lock, so either it sees these records, or they see its epoch. */
  epoch = atomic_load (&log->epoch);
  if (open->abandoned)
    return -EIO;
  if (open->count > 0
      && (open->epoch != epoch || open->count + count > SET_MAX_RECORDS)) {
    r = close_set_locked (log, head, open);
    if (r < 0)
      return r;
  }

  /* Nothing fails from here on. */
  sequence = atomic_fetch_add (&log->sequence, count);
  for (unsigned i = 0; i < count; i++) {
    struct media_record media;

    records[i].sequence = ++sequence;
    encode_record (log, open, &records[i], &media);
    memcpy (open->records + open->count * sizeof media, &media, sizeof media);
    open->count++;
    if (!records[i].clean)
      count_dirty (&open->dirty, &records[i]);
  }
  open->epoch = epoch;
  res->records -= count;
  /* Whoever waits for the last one to leave a retired segment has to be
   * told, and not by one who holds so many locks. */
  if (res->ends_with_append && !open->retired) {
    give_back_locked (res);
    res->open = NULL;
  }
  return 0;
}

/* --- space ------------------------------------------------------------ */

static struct head *
choose_head (struct log *log, enum log_purpose purpose)
{
  if (purpose == LOG_LOST)
    return &log->heads[log->options.heads];
  if (log->options.heads == 1)
    return log->heads;
  if (log->by_cpu && !MUTATION (T13_IDLE_HEADS))
    return &log->heads[(unsigned) sched_getcpu () % log->options.heads];
  return &log->heads[atomic_fetch_add (&log->turn, 1) % log->options.heads];
}

uint32_t
log_kept_for_writes (struct log *log)
{
  /* One for each head, but never so many that a small cache could not
   * keep anything; and one of them at least is more than writes leave
   * alone. */
  return MAX (KEPT_FOR_LOST + 1u,
              MIN (1 + log->options.heads,
                   log->options.superblock->geometry.segment_count / 4));
}

/* Free segments that PURPOSE leaves alone. */
static uint32_t
kept_from (struct log *log, enum log_purpose purpose)
{
  switch (purpose) {
  case LOG_WRITE: return KEPT_FOR_LOST;
  case LOG_OPTIONAL: return log_kept_for_writes (log);
  case LOG_LOST: return 0;
  }
  return 0;
}

static bool
take_locked (struct head *head, uint32_t data_bytes, unsigned records,
             struct log *log, struct reservation *res)
{
  struct open_segment *open = head->segments;
  const uint64_t room = data_bytes + (uint64_t) records * RECORD_ROOM;

  assert (head->locked);
  /* What goes to a set that its place refuses has to move again, and what
   * moves cannot. */
  if (open == NULL || open->retired || open->refused
      || room > open->set_end - open->data_end - open->reserved_bytes)
    return false;
  *res = (struct reservation) {
    .head = head,
    .open = open,
    .at = segment_at (log->options.superblock, open->segment->id)
      + open->data_end,
    .records = records,
  };
  open->data_end += data_bytes;
  open->reserved_bytes += records * RECORD_ROOM;
  open->in_flight++;
  if (!atomic_load_explicit (&head->active, memory_order_relaxed))
    atomic_store (&head->active, true);
  return true;
}

static bool
try_take (struct log *log, struct head *head, uint32_t data_bytes,
          unsigned records, struct reservation *res)
{
  HOLD_HEAD (head);

  return take_locked (head, data_bytes, records, log, res);
}

static void
retire_locked (struct open_segment *open)
{
  if (open)
    open->retired = true;
}

/* Give HEAD a new segment and take the reservation from it. */
static int
refill (struct log *log, struct head *head, enum log_purpose purpose,
        uint32_t data_bytes, unsigned records, struct reservation *res)
{
  HOLD_LOCK (&head->refill);
  struct open_segment *open;
  struct segment *segment;
  bool taken;
  int r;

  /* Another thread may have done it while this one waited. */
  if (try_take (log, head, data_bytes, records, res))
    return 0;

  open = aligned_alloc (64, round_up (sizeof *open, 64));
  if (open == NULL)
    return -ENOMEM;
  r = segment_acquire (log->options.segments, kept_from (log, purpose),
                       &segment);
  if (r < 0) {
    /* What this head has may be all there is to write back and evict:
     * let go of it. */
    if (purpose != LOG_OPTIONAL && !MUTATION (T13_IDLE_HEADS)) {
      {
        HOLD_HEAD (head);
        retire_locked (head->segments);
      }
      if (log->options.on_retired)
        log->options.on_retired (log->options.opaque);
    }
    free (open);
    return r;
  }
  memset (open, 0, sizeof *open);
  open->segment = segment;
  open->set_end = log->options.superblock->geometry.segment_size;

  {
    HOLD_HEAD (head);
    retire_locked (head->segments);
    open->next = head->segments;
    head->segments = open;
    taken = take_locked (head, data_bytes, records, log, res);
    assert (taken);
  }
  /* Another writer may have looked while the segment was on no list and in no
   * head, and wait for one to be freed. */
  segment_wake_all (log->options.segments);
  if (log->options.on_retired)
    log->options.on_retired (log->options.opaque);
  return 0;
}

/* Any head but that of LOG_LOST. */
static bool
take_anywhere (struct log *log, uint32_t data_bytes, unsigned records,
               struct reservation *res)
{
  for (unsigned i = 0; i < log->options.heads; i++)
    if (try_take (log, &log->heads[i], data_bytes, records, res))
      return true;
  return false;
}

int
log_reserve (struct log *log, enum log_purpose purpose, uint32_t data_bytes,
             unsigned records, struct reservation *res)
{
  struct head *head = choose_head (log, purpose);
  int r;

  assert (data_bytes % MEDIA_LINE == 0 && data_bytes <= LOG_MAX_RESERVE
          + LOG_MAX_RESERVE_RECORDS * MEDIA_LINE
          && records > 0 && records <= LOG_MAX_RESERVE_RECORDS);
  if (try_take (log, head, data_bytes, records, res))
    return 0;
  /* A segment of its own only when there is no room elsewhere. */
  if (purpose == LOG_LOST && take_anywhere (log, data_bytes, records, res))
    return 0;
  r = refill (log, head, purpose, data_bytes, records, res);
  if (r == -EAGAIN && take_anywhere (log, data_bytes, records, res))
    return 0;
  return r;
}

void
log_release (struct log *log, struct reservation *res)
{
  bool last;

  if (res->open == NULL)
    return;                     /* it has been, by the append */
  {
    HOLD_HEAD (res->head);
    give_back_locked (res);
    last = res->open->retired && res->open->in_flight == 0;
  }
  /* After this the open segment may be gone. */
  if (last && log->options.on_retired)
    log->options.on_retired (log->options.opaque);
}

/* --- durability ------------------------------------------------------- */

/* Close the sets of epochs up to EPOCH.  Goes on after an error, so that
 * one bad line does not keep the rest from being durable. */
static int
close_sets (struct log *log, struct head *head, uint64_t epoch)
{
  bool active = false;
  int error = 0;

  /* The epoch has been advanced before this is read. */
  if (!atomic_load (&head->active))
    return 0;
  HOLD_HEAD (head);
  for (struct open_segment *open = head->segments; open; open = open->next) {
    if (open->count > 0 && open->epoch <= epoch) {
      int r = close_set_locked (log, head, open);

      if (r < 0)
        error = r;
    }
    active |= (open->count > 0 || open->in_flight > 0)
      && !MUTATION (HEADS_FORGOTTEN);
  }
  if (!active)
    atomic_store_explicit (&head->active, false, memory_order_relaxed);
  return error;
}

/* Remember how many sets each segment has, or that those have been synced. */
static void
note_sync (struct log *log, bool synced)
{
  for (unsigned i = 0; i < log->head_count; i++) {
    struct head *head = &log->heads[i];
    HOLD_HEAD (head);

    for (struct open_segment *open = head->segments; open; open = open->next) {
      if (synced)
        open->durable_sets = MAX (open->durable_sets, open->syncing_sets);
      else
        open->syncing_sets = open->sets;
    }
  }
}

static int
flush_locked (struct log *log)
{
  struct pmem *pmem = log->options.pmem;
  const uint64_t number = atomic_fetch_add (&log->flushes_started, 1) + 1;
  const uint64_t sequence = atomic_load (&log->sequence);
  uint64_t epoch, moves;
  int r, error = 0;

  assert_held (&log->flush_lock);
  if (sequence == log->flushed_sequence) {
    log->flush_completed = number;
    return 0;                   /* nothing new since the last one */
  }
  do {
    /* A set that vanishes while this goes on has gone to a head that may have
     * had its turn already. */
    moves = atomic_load (&log->moves);
    epoch = atomic_fetch_add (&log->epoch, 1);
    for (unsigned i = 0; i < log->head_count; i++) {
      r = close_sets (log, &log->heads[i], epoch);
      if (r < 0)
        error = r;
    }
    if (error < 0)
      return error;
  } while (atomic_load (&log->moves) != moves);
  if (!pmem->ordered) {
    note_sync (log, false);
    /* Crash before: any part of these sets and their data may be there; replay
     * keeps what verifies.  After: all of it is. */
    r = MUTATION (SYNC_LEFT_OUT) ? 0 : pmem_sync (pmem);
    if (r < 0)
      return r;
    note_sync (log, true);
  }
  /* Nothing here is read before these are seen: no fence is needed. */
  atomic_store_explicit (&log->durable_through, epoch, memory_order_release);
  atomic_store_explicit (&log->closed_through, epoch, memory_order_release);
  log->flush_completed = number;
  log->flushed_sequence = sequence;
  return 0;
}

int
log_flush (struct log *log)
{
  const uint64_t before = atomic_load (&log->flushes_started);
  HOLD_LOCK (&log->flush_lock);

  if (atomic_load (&log->distrusted))
    return -EIO;
  /* One that started after this call came has done the work. */
  if (log->flush_completed > before)
    return 0;
  return flush_locked (log);
}

void
log_distrust (struct log *log)
{
  HOLD_LOCK (&log->flush_lock);

  atomic_store (&log->distrusted, true);
}

bool
log_is_distrusted (const struct log *log)
{
  return atomic_load (&log->distrusted);
}

uint64_t
log_durable_until (const struct log *log, uint64_t epoch)
{
  return log_is_distrusted (log)
    ? MIN (epoch, atomic_load (&log->durable_through)) : epoch;
}

int
log_close_distrusted (struct log *log)
{
  struct pmem *pmem = log->options.pmem;
  HOLD_LOCK (&log->flush_lock);
  uint64_t epoch;

  assert (atomic_load (&log->distrusted));
  /* Their data is not known to be what it was, and could not be verified. */
  if (!pmem->ordered && !log->options.data_crc && log_dirty (log).bytes > 0)
    return -EBADMSG;
  epoch = atomic_fetch_add (&log->epoch, 1);
  for (unsigned i = 0; i < log->head_count; i++) {
    int r = close_sets (log, &log->heads[i], epoch);

    if (r < 0)
      return r;
  }
  atomic_store (&log->closed_through, epoch);
  return 0;
}

/* *moved: the set is gone, its records are in other heads. */
static int
close_own_set (struct log *log, struct reservation *res, bool *moved)
{
  HOLD_HEAD (res->head);

  if (res->open->count > 0)
    return close_set_locked (log, res->head, res->open);
  *moved = res->open->abandoned;
  return 0;
}

/* Sync what was stored before the call. */
static int
share_sync (struct log *log)
{
  const uint64_t before = atomic_load (&log->syncs_started);
  HOLD_LOCK (&log->flush_lock);
  int r;

  /* One that started after this call came has done the work. */
  if (log->sync_completed > before)
    return 0;
  atomic_fetch_add (&log->syncs_started, 1);
  note_sync (log, false);
  r = pmem_sync (log->options.pmem);
  if (r < 0)
    return r;
  note_sync (log, true);
  log->sync_completed = atomic_load (&log->syncs_started);
  return 0;
}

void
log_expect_flush (struct log *log, struct reservation *res)
{
  bool moved;

  /* Without checksums the data would have to be there first.  If it fails, the set
   * stays open, for the flush to find. */
  if ((log->options.data_crc || MUTATION (EARLY_SET_UNVERIFIED))
      && pmem_sync_is_near (log->options.pmem))
    (void) close_own_set (log, res, &moved);
}

int
log_persist (struct log *log, struct reservation *res)
{
  bool moved = false;
  int r = close_own_set (log, res, &moved);

  if (r < 0)
    return r;
  if (moved)
    return log_flush (log);
  return log->options.pmem->ordered ? 0 : share_sync (log);
}

int
log_commit (struct log *log, struct reservation *res)
{
  int r;

  /* On an unordered device one sync costs the same for everybody. */
  if (!log->options.pmem->ordered)
    return log_flush (log);
  r = log_persist (log, res);
  if (r < 0)
    return r;
  /* T20: whoever hears of this write belongs to a later epoch. */
  if (!MUTATION (T20_FUA_WITHOUT_EPOCH))
    atomic_fetch_add (&log->epoch, 1);
  return 0;
}

uint64_t
log_closed_through (struct log *log)
{
  return atomic_load (&log->closed_through);
}

uint64_t
log_epoch (struct log *log)
{
  return atomic_load (&log->epoch);
}

uint64_t
log_sequence (struct log *log)
{
  return atomic_load (&log->sequence);
}

/* --- places that refuse ----------------------------------------------- */

/* As log_reader does it for sets on media. */
static struct record
decode_open (const struct log *log, const struct open_segment *open,
             uint32_t i)
{
  struct media_record m;

  memcpy (&m, open->records + i * sizeof m, sizeof m);
  return (struct record) {
    .range = { le64_get (m.logical), le64_get (m.length) },
    .sequence = le64_get (m.sequence),
    .kind = m.kind,
    .clean = (m.flags & RECORD_CLEAN) != 0,
    .has_checksum = (m.flags & RECORD_CHECKSUM) != 0,
    .at = segment_at (log->options.superblock, open->segment->id)
      + le32_get (m.place),
    .checksum = le64_get (m.checksum),
  };
}

static bool
take_refused (struct log *log, struct head *head, struct refused_set *set)
{
  HOLD_HEAD (head);
  struct open_segment *open;

  for (open = head->segments; open; open = open->next)
    if (open->refused && open->count > 0)
      break;
  if (open == NULL)
    return false;
  retire_locked (open);
  open->abandoned = true;
  open->in_flight++;            /* it must not go away */
  set->head = head;
  set->open = open;
  set->segment = open->segment->id;
  set->count = open->count;
  for (uint32_t i = 0; i < open->count; i++)
    set->record[i] = decode_open (log, open, i);
  return true;
}

uint64_t
log_moves (struct log *log)
{
  return atomic_load (&log->moves);
}

bool
log_take_refused (struct log *log, struct refused_set *set)
{
  mutex_lock (&log->moving);
  for (unsigned i = 0; i < log->head_count; i++)
    if (take_refused (log, &log->heads[i], set))
      return true;
  mutex_unlock (&log->moving);
  return false;
}

void
log_end_refused (struct log *log, struct refused_set *set, bool moved)
{
  struct open_segment *open = set->open;

  {
    HOLD_HEAD (set->head);
    /* No more came, but the place may have taken it after all meanwhile: then its
     * records are there twice, and the newer ones say the same. */
    if (moved && open->count > 0) {
      assert (open->count == set->count);
      open->reserved_bytes -= open->count * RECORD_ROOM;
      open->count = 0;
      open->dirty.records = 0;
      open->refused = false;
    }
    if (moved)
      atomic_fetch_add (&log->moves, 1);
    /* Whoever still has a reservation in it finds the bad place again. */
    open->abandoned = moved;
    open->in_flight--;
  }
  mutex_unlock (&log->moving);
}

/* --- sealing ---------------------------------------------------------- */

/* Take one segment that is ready to be sealed out of HEAD's list.  Those
 * whose last set cannot be written are passed over: *error. */
static struct open_segment *
take_retired (struct log *log, struct head *head, int *error)
{
  HOLD_HEAD (head);
  struct open_segment **link, *open;

  for (link = &head->segments; (open = *link) != NULL; link = &open->next) {
    if (!open->retired || open->passed_over
        || open->in_flight > 0)
      continue;
    if (open->count > 0) {
      int r = close_set_locked (log, head, open);

      if (r < 0) {
        open->passed_over = true;
        *error = r;
        continue;
      }
    }
    *link = open->next;
    return open;
  }
  return NULL;
}

static void
put_back (struct head *head, struct open_segment *open)
{
  HOLD_HEAD (head);
  struct open_segment **link = &head->segments;

  while (*link)
    link = &(*link)->next;
  open->next = NULL;
  open->passed_over = true;
  *link = open;
}

static void
pass_over_none (struct head *head)
{
  HOLD_HEAD (head);

  for (struct open_segment *open = head->segments; open; open = open->next)
    open->passed_over = false;
}

/* OPEN is in no list.  Nobody appends to it any more, and its sets are all on
 * media, so who flushes need not see it. */
static int
seal (struct log *log, struct open_segment *open)
{
  int r;

  /* The header must not say "sealed" before what it vouches for is
   * durable. */
  if (atomic_load (&log->distrusted))
    return -EIO;
  r = MUTATION (SEAL_BEFORE_SYNC) ? 0 : pmem_sync (log->options.pmem);
  if (r < 0)
    return r;
  return segment_seal (log->options.segments, open->segment, open->sets,
                       open->epoch_max, open->sequence_min,
                       open->sequence_max);
}

/* Seal what HEAD has left.  What cannot be sealed now stays retired and is tried
 * again next time; the others do not wait for it. */
static int
seal_head (struct log *log, struct head *head, unsigned *count)
{
  struct open_segment *open;
  int error = 0;

  pass_over_none (head);
  while ((open = take_retired (log, head, &error)) != NULL) {
    int r = seal (log, open);

    if (r < 0) {
      put_back (head, open);
      error = r;
      continue;
    }
    free (open);
    ++*count;
  }
  return error;
}

int
log_seal_retired (struct log *log, unsigned *count)
{
  int error = 0;

  *count = 0;
  for (unsigned i = 0; i < log->head_count; i++) {
    int r = seal_head (log, &log->heads[i], count);

    if (r < 0)
      error = r;
  }
  return error;
}

void
log_retire_segment (struct log *log, uint32_t id)
{
  for (unsigned i = 0; i < log->head_count; i++) {
    HOLD_HEAD (&log->heads[i]);

    for (struct open_segment *open = log->heads[i].segments; open;
         open = open->next)
      if (open->segment->id == id)
        retire_locked (open);
  }
}

void
log_retire_heads (struct log *log)
{
  for (unsigned i = 0; i < log->head_count; i++) {
    HOLD_HEAD (&log->heads[i]);
    struct open_segment *open = log->heads[i].segments;

    if (open && (open->sets > 0 || open->count > 0
                 || open->in_flight > 0))
      retire_locked (open);
  }
}

bool
log_find_open (struct log *log, uint64_t at, bool *clean)
{
  for (unsigned i = 0; i < log->head_count; i++) {
    HOLD_HEAD (&log->heads[i]);

    for (struct open_segment *open = log->heads[i].segments; open;
         open = open->next) {
      const uint64_t base = segment_at (log->options.superblock,
                                        open->segment->id);

      for (uint32_t j = 0; j < open->count; j++) {
        struct media_record media;

        memcpy (&media, open->records + j * sizeof media, sizeof media);
        if (media.kind == RECORD_DATA && base + le32_get (media.place) == at) {
          *clean = (media.flags & RECORD_CLEAN) != 0;
          return true;
        }
      }
    }
  }
  return false;
}

static struct log_dirty
sum_dirty (struct log *log)
{
  struct log_dirty sum = { 0 };

  for (unsigned i = 0; i < log->head_count; i++) {
    HOLD_HEAD (&log->heads[i]);

    for (struct open_segment *open = log->heads[i].segments; open;
         open = open->next)
      if (open->dirty.records > 0) {
        sum.bytes += open->dirty.dirty_bytes;
        sum.space += open->dirty.space_bytes;
      }
  }
  return sum;
}

struct log_dirty
log_dirty (struct log *log)
{
  struct log_dirty sum;
  uint64_t moves;

  /* As in flush_locked: what moves may go to a head that has had its turn. */
  do {
    moves = atomic_load (&log->moves);
    sum = sum_dirty (log);
  } while (atomic_load (&log->moves) != moves);
  return sum;
}

uint64_t
log_dirty_bytes (struct log *log)
{
  return log_dirty (log).bytes;
}

static bool
is_evictable_when_sealed (const struct open_segment *open,
                          uint64_t written_back)
{
  return open->retired && !open->passed_over && !open->refused
    && open->dirty.records == 0 && open->epoch_max <= written_back
    && open->in_flight == 0;
}

bool
log_has_evictable_retired (struct log *log, uint64_t written_back)
{
  for (unsigned i = 0; i < log->head_count; i++) {
    HOLD_HEAD (&log->heads[i]);

    for (struct open_segment *open = log->heads[i].segments; open;
         open = open->next)
      if (is_evictable_when_sealed (open, written_back))
        return true;
  }
  return false;
}

static bool
find_oldest (struct log *log, struct set_entry *oldest)
{
  bool found = false;

  for (unsigned i = 0; i < log->head_count; i++) {
    HOLD_HEAD (&log->heads[i]);

    for (struct open_segment *open = log->heads[i].segments; open;
         open = open->next)
      if (open->dirty.records > 0
          && (!found || open->dirty.since_ms < oldest->since_ms)) {
        found = true;
        *oldest = open->dirty;
        oldest->epoch = open->epoch;
        oldest->segment = open->segment->id;
        oldest->end = open->set_end;
      }
  }
  return found;
}

bool
log_oldest_open_set (struct log *log, struct set_entry *oldest)
{
  uint64_t moves;
  bool found;

  do {
    moves = atomic_load (&log->moves);
    found = find_oldest (log, oldest);
  } while (atomic_load (&log->moves) != moves);
  return found;
}

bool
log_oldest_open (struct log *log, uint64_t *since_ms)
{
  struct set_entry oldest;

  if (!log_oldest_open_set (log, &oldest))
    return false;
  *since_ms = oldest.since_ms;
  return true;
}

unsigned
log_head_count (const struct log *log)
{
  return log->head_count;
}

bool
log_head_position (struct log *log, unsigned i, uint32_t *segment,
                   uint32_t *offset)
{
  HOLD_HEAD (&log->heads[i]);
  const struct open_segment *open = log->heads[i].segments;

  if (open == NULL || open->retired)
    return false;
  *segment = open->segment->id;
  *offset = open->data_end;
  return true;
}

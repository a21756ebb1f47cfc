/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "crash/shadow_device.h"

struct store {
  uint64_t at;
  uint32_t length;              /* within one unit */
  uint32_t next;                /* of the same unit, or NONE */
  size_t data;                  /* in the arena */
  pthread_t thread;
};

#define NONE UINT32_MAX

struct shadow_pending {
  pthread_mutex_t lock;
  struct store *stores;
  size_t count, room;
  uint8_t *arena;
  size_t used, arena_room;

  struct shadow_unit *units;    /* of the last shadow_units */
  uint32_t *last;               /* store of each unit */
  size_t unit_room;
  uint32_t *table;              /* hash of unit->at -> index + 1 */
  size_t table_room;
};

/* Old bytes, in the order they were replaced. */
struct change {
  uint64_t at;
  uint32_t length;
  bool durable;                 /* or loads only */
  size_t data;
};

struct shadow_undo {
  struct change *changes;
  size_t count, room;
  uint8_t *arena;
  size_t used, arena_room;
};

struct shadow_pmem {
  struct pmem pmem;
  struct shadow_device *device;
  _Atomic unsigned asked;       /* whether a sync is near */
};

static void *
grow (void *p, size_t *room, size_t wanted, size_t each)
{
  if (wanted > *room) {
    *room = MAX (wanted, *room * 2);
    p = realloc (p, *room * each);
    assert (p);
  }
  return p;
}

/* --- what is visible, what is durable --------------------------------- */

static void
note_change (struct shadow_device *device, bool durable, uint64_t at,
             size_t length)
{
  struct shadow_undo *undo = device->undo;

  undo->changes = grow (undo->changes, &undo->room, undo->count + 1,
                        sizeof *undo->changes);
  undo->arena = grow (undo->arena, &undo->arena_room, undo->used + length, 1);
  undo->changes[undo->count++] = (struct change) {
    .at = at, .length = length, .durable = durable, .data = undo->used,
  };
  memcpy (undo->arena + undo->used,
          (durable ? device->durable : device->bytes) + at, length);
  undo->used += length;
}

static uint64_t
hash_line (const uint8_t *line, uint64_t at)
{
  return XXH3_64bits_withSeed (line, SHADOW_LINE, at);
}

static void
set_durable (struct shadow_device *device, uint64_t at, const uint8_t *from,
             size_t length)
{
  const uint64_t start = round_down (at, SHADOW_LINE);
  const uint64_t end = round_up (at + length, SHADOW_LINE);

  for (uint64_t line = start; line < end; line += SHADOW_LINE)
    device->hash -= hash_line (device->durable + line, line);
  memcpy (device->durable + at, from, length);
  for (uint64_t line = start; line < end; line += SHADOW_LINE)
    device->hash += hash_line (device->durable + line, line);
  if (device->follower) {
    /* Nobody is trying a state there at the moment. */
    assert (device->follower->undo->count == 0);
    memcpy (device->follower->bytes + at, from, length);
    set_durable (device->follower, at, from, length);
  }
}

static void
make_durable (struct shadow_device *device, uint64_t at, const uint8_t *from,
              size_t length)
{
  note_change (device, true, at, length);
  set_durable (device, at, from, length);
}

static void
make_visible (struct shadow_device *device, uint64_t at, const void *from,
              size_t length)
{
  note_change (device, false, at, length);
  memcpy (device->bytes + at, from, length);
}

void
shadow_place (struct shadow_device *device, uint64_t at, const void *from,
              size_t length)
{
  make_visible (device, at, from, length);
  if (device->tracks)
    make_durable (device, at, from, length);
}

void
shadow_forget (struct shadow_device *device)
{
  struct shadow_pending *p = device->pending;

  for (size_t i = 0; i < p->count; i++)
    make_visible (device, p->stores[i].at, device->durable + p->stores[i].at,
                  p->stores[i].length);
  p->count = p->used = 0;
}

size_t
shadow_mark (const struct shadow_device *device)
{
  return device->undo->count;
}

void
shadow_rollback (struct shadow_device *device, size_t mark)
{
  struct shadow_undo *undo = device->undo;

  assert (mark <= undo->count);
  while (undo->count > mark) {
    const struct change *c = &undo->changes[--undo->count];
    const uint8_t *old = undo->arena + c->data;

    if (c->durable)
      set_durable (device, c->at, old, c->length);
    else
      memcpy (device->bytes + c->at, old, c->length);
    undo->used = c->data;
  }
  device->pending->count = device->pending->used = 0;
}

pthread_mutex_t *
shadow_device_lock (struct shadow_device *device)
{
  return &device->pending->lock;
}

/* --- what is pending -------------------------------------------------- */

static uint32_t
unit_bytes (const struct shadow_device *device)
{
  return device->ordered ? SHADOW_LINE : SHADOW_PAGE;
}

static void
note_store (struct shadow_device *device, uint64_t at, const uint8_t *from,
            size_t length)
{
  struct shadow_pending *p = device->pending;
  const uint32_t unit = unit_bytes (device);

  p->arena = grow (p->arena, &p->arena_room, p->used + length, 1);
  memcpy (p->arena + p->used, from, length);
  while (length > 0) {
    const uint32_t part = MIN (length, unit - at % unit);

    p->stores = grow (p->stores, &p->room, p->count + 1, sizeof *p->stores);
    p->stores[p->count++] = (struct store) {
      .at = at, .length = part, .data = p->used, .thread = pthread_self (),
    };
    p->used += part;
    at += part;
    length -= part;
  }
}

void
shadow_not_durable (struct shadow_device *device, uint64_t at, size_t length)
{
  note_store (device, at, device->bytes + at, length);
}

/* Those that lie in RANGE and are of THREAD, or of whatever thread. */
static void
settle (struct shadow_device *device, struct range range,
        const pthread_t *thread)
{
  struct shadow_pending *p = device->pending;
  size_t kept = 0;

  for (size_t i = 0; i < p->count; i++) {
    const struct store *s = &p->stores[i];

    if (range_overlaps (range, (struct range) { s->at, s->length })
        && (thread == NULL || pthread_equal (s->thread, *thread)))
      make_durable (device, s->at, p->arena + s->data, s->length);
    else
      p->stores[kept++] = *s;
  }
  p->count = kept;
  if (kept == 0)
    p->used = 0;
}

static void
put_in_unit (struct shadow_device *device, uint32_t index, size_t *count)
{
  struct shadow_pending *p = device->pending;
  struct store *s = &p->stores[index];
  const uint64_t at = round_down (s->at, unit_bytes (device));
  size_t slot = at / unit_bytes (device) * UINT64_C (0x9e3779b97f4a7c15)
    % p->table_room;

  s->next = NONE;
  for (; p->table[slot] != 0; slot = (slot + 1) % p->table_room) {
    const uint32_t u = p->table[slot] - 1;

    if (p->units[u].at == at) {
      p->stores[p->last[u]].next = index;
      p->last[u] = index;
      p->units[u].stores++;
      return;
    }
  }
  p->units[*count] = (struct shadow_unit) {
    .at = at,
    .length = MIN ((uint64_t) unit_bytes (device), device->size - at),
    .stores = 1,
    .first = index,
  };
  p->last[*count] = index;
  p->table[slot] = ++*count;
}

size_t
shadow_units (struct shadow_device *device, const struct shadow_unit **units)
{
  struct shadow_pending *p = device->pending;
  size_t count = 0;

  if (p->count > p->unit_room) {
    p->unit_room = p->count * 2;
    p->units = realloc (p->units, p->unit_room * sizeof *p->units);
    p->last = realloc (p->last, p->unit_room * sizeof *p->last);
    assert (p->units && p->last);
  }
  if (p->table_room < p->count * 2 + 1) {
    p->table_room = p->count * 4 + 1;
    p->table = realloc (p->table, p->table_room * sizeof *p->table);
    assert (p->table);
  }
  if (p->count > 0)
    memset (p->table, 0, p->table_room * sizeof *p->table);
  for (size_t i = 0; i < p->count; i++)
    put_in_unit (device, i, &count);
  *units = p->units;
  return count;
}

void
shadow_unit_bytes (const struct shadow_device *device,
                   const struct shadow_unit *unit,
                   struct shadow_choice choice, uint8_t *bytes)
{
  const struct shadow_pending *p = device->pending;
  const uint32_t part = unit_bytes (device) / 8;
  uint32_t i = unit->first;

  memcpy (bytes, device->durable + unit->at, unit->length);
  for (uint32_t n = 1; n <= choice.stores; n++, i = p->stores[i].next) {
    const struct store *s = &p->stores[i];
    const uint32_t start = s->at - unit->at;
    const uint8_t *from = p->arena + s->data;

    if (n < choice.stores || choice.parts == SHADOW_WHOLE)
      memcpy (bytes + start, from, s->length);
    else
      for (uint32_t b = 0; b < s->length; b++)
        if (choice.parts >> ((start + b) / part) & 1)
          bytes[start + b] = from[b];
  }
}

uint64_t
shadow_hash_change (const struct shadow_device *device, uint64_t at,
                    const uint8_t *bytes, size_t length)
{
  uint64_t change = 0;

  assert (at % SHADOW_LINE == 0 && length % SHADOW_LINE == 0);
  for (size_t i = 0; i < length; i += SHADOW_LINE)
    change += hash_line (bytes + i, at + i)
      - hash_line (device->durable + at + i, at + i);
  return change;
}

/* --- the ops table ---------------------------------------------------- */

static struct shadow_device *
device_of (struct pmem *pmem)
{
  return ((struct shadow_pmem *) pmem)->device;
}

static void
check (const struct shadow_device *device, uint64_t at, size_t length)
{
  assert (at <= device->size && length <= device->size - at);
}

static int
shadow_copy (struct pmem *pmem, uint64_t at, const void *from, size_t length)
{
  struct shadow_device *device = device_of (pmem);
  HOLD_LOCK (&device->pending->lock);

  check (device, at, length);
  make_visible (device, at, from, length);
  if (device->tracks)
    note_store (device, at, from, length);
  return 0;
}

static void
barrier (struct shadow_device *device, struct range range,
         const pthread_t *thread)
{
  HOLD_LOCK (&device->pending->lock);

  if (device->pending->count == 0)
    return;
  if (device->before_barrier)
    device->before_barrier (device, device->opaque);
  settle (device, range, thread);
}

static int
shadow_fence (struct pmem *pmem)
{
  const pthread_t self = pthread_self ();

  if (pmem->ordered)
    barrier (device_of (pmem), (struct range) { 0, pmem->size }, &self);
  return 0;
}

static int
shadow_sync (struct pmem *pmem)
{
  /* On an ordered device it adds nothing to the fence (pmem.h). */
  if (!pmem->ordered)
    barrier (device_of (pmem), (struct range) { 0, pmem->size }, NULL);
  return 0;
}

/* Now and then, so that there are sets which wait for the flush, and sets which do
 * not. */
static bool
shadow_sync_is_near (struct pmem *pmem)
{
  struct shadow_pmem *sp = (struct shadow_pmem *) pmem;

  return !pmem->ordered && atomic_fetch_add (&sp->asked, 1) % 3 == 0;
}

static int
shadow_make_durable (struct pmem *pmem, uint64_t at, size_t length)
{
  struct shadow_device *device = device_of (pmem);

  check (device, at, length);
  barrier (device, (struct range) { at, length }, NULL);
  return 0;
}

static int
shadow_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  struct shadow_device *device = device_of (pmem);

  check (device, at, length);
  memcpy (to, device->bytes + at, length);
  return 0;
}

static int
shadow_checksum (struct pmem *pmem, uint64_t at, size_t length, uint64_t *sum)
{
  struct shadow_device *device = device_of (pmem);

  check (device, at, length);
  *sum = XXH3_64bits (device->bytes + at, length);
  return 0;
}

static int
shadow_allocate (struct pmem *pmem)
{
  (void) pmem;
  return 0;
}

/* Of a file it is the end only that moves. */
static int
shadow_resize (struct pmem *pmem, uint64_t size)
{
  assert (size <= device_of (pmem)->size);
  pmem->size = size;
  return 0;
}

static void
shadow_close (struct pmem *pmem)
{
  free (pmem);
}

static const struct pmem_ops shadow_ops = {
  .copy = shadow_copy,
  .fence = shadow_fence,
  .sync = shadow_sync,
  .sync_is_near = shadow_sync_is_near,
  .make_durable = shadow_make_durable,
  .read = shadow_read,
  .checksum = shadow_checksum,
  .allocate = shadow_allocate,
  .resize = shadow_resize,
  .close = shadow_close,
};

struct pmem *
shadow_pmem_open (struct shadow_device *device)
{
  struct shadow_pmem *sp = calloc (1, sizeof *sp);

  assert (sp);
  sp->device = device;
  sp->pmem = (struct pmem) {
    .ops = &shadow_ops,
    .size = device->size,
    .ordered = device->ordered,
    .can_resize = true,
    .kind = "shadow",
  };
  return &sp->pmem;
}

struct shadow_device *
shadow_device_new (uint64_t size, bool ordered)
{
  struct shadow_device *device = calloc (1, sizeof *device);

  assert (device && size % SHADOW_PAGE == 0);
  device->size = size;
  device->ordered = ordered;
  device->bytes = calloc (1, size);
  device->durable = calloc (1, size);
  device->pending = calloc (1, sizeof *device->pending);
  assert (device->bytes && device->durable && device->pending);
  pthread_mutex_init (&device->pending->lock, NULL);
  device->undo = calloc (1, sizeof *device->undo);
  assert (device->undo);
  device->tracks = true;
  return device;
}

void
shadow_device_free (struct shadow_device *device)
{
  if (device == NULL)
    return;
  free (device->undo->changes);
  free (device->undo->arena);
  free (device->undo);
  pthread_mutex_destroy (&device->pending->lock);
  free (device->pending->stores);
  free (device->pending->arena);
  free (device->pending->units);
  free (device->pending->last);
  free (device->pending->table);
  free (device->pending);
  free (device->bytes);
  free (device->durable);
  free (device);
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hostile/image.h"
#include "support/seed.h"

const char *const image_names[IMAGE_KINDS] = {
  "fresh", "clean", "dirty", "mixed", "heads", "zeros", "lost", "unordered",
  "no-crc", "checkpoint",
};

/* An assert that is there in every build. */
#define must(what) do { if (!(what)) broken (#what, __LINE__); } while (0)

static void
broken (const char *what, int line)
{
  fprintf (stderr, "image.c:%d: %s\n", line, what);
  abort ();
}

/* --- undo ------------------------------------------------------------- */

void
image_note (struct image *image, uint8_t *where, size_t length)
{
  if (image->undos == image->undos_room) {
    image->undos_room = image->undos_room ? image->undos_room * 2 : 256;
    image->undo = realloc (image->undo,
                           image->undos_room * sizeof *image->undo);
    must (image->undo);
  }
  while (image->saved_room - image->saved_bytes < length) {
    image->saved_room = image->saved_room ? image->saved_room * 2 : 1 << 20;
    image->saved = realloc (image->saved, image->saved_room);
    must (image->saved);
  }
  image->undo[image->undos++] = (struct undo_entry) {
    where, length, image->saved_bytes,
  };
  memcpy (image->saved + image->saved_bytes, where, length);
  image->saved_bytes += length;
}

void
image_restore (struct image *image)
{
  while (image->undos > 0) {
    const struct undo_entry *e = &image->undo[--image->undos];

    memcpy (e->where, image->saved + e->saved_at, e->length);
  }
  image->saved_bytes = 0;
}

bool
image_is_whole (const struct image *image)
{
  return memcmp (image->device->bytes, image->device_before,
                 image->device->size) == 0
    && memcmp (image->disk->bytes, image->disk_before, image->size) == 0;
}

unsigned
image_stores (const struct image *image)
{
  return image->device->copies;
}

static void
before_store (struct memory_device *device, enum memory_event event,
              uint64_t at, size_t length, void *opaque)
{
  if (event == MEMORY_BEFORE_COPY)
    image_note (opaque, device->bytes + at, length);
}

static void
before_request (struct memory_backend *mb, enum backend_event event,
                struct range range, const void *buf, void *opaque)
{
  (void) buf;
  if (event != BACKEND_READ && event != BACKEND_FLUSH)
    image_note (opaque, mb->bytes + range.start, range.length);
}

/* --- a small history -------------------------------------------------- */

uint8_t
image_byte (uint64_t at, unsigned version)
{
  uint64_t state = (at / 8) << 16 | version;

  return 0x80 | random_next (&state) >> at % 8 * 8;
}

void
image_remember (struct image *image, const uint8_t *bytes)
{
  if (image->pasts == image->pasts_room) {
    image->pasts_room = image->pasts_room ? image->pasts_room * 2 : 16;
    image->past = realloc (image->past, image->pasts_room * image->size);
    must (image->past);
  }
  memcpy (image->past + image->pasts++ * image->size, bytes, image->size);
}

struct maker {
  struct image *image;
  struct cache *cache;
  unsigned version;
};

static void
start (struct maker *m)
{
  struct image *image = m->image;

  must (cache_open (&image->options, memory_pmem_open (image->device),
                    &m->cache) == 0);
  must (cache_attach (m->cache, &image->disk->backend, "") == 0);
}

static void
kill_it (struct maker *m)
{
  cache_close (m->cache);
}

static void
leave (struct maker *m)
{
  must (cache_stop (m->cache, false, 0) == 0);
  cache_close (m->cache);
}

static void
flush (struct maker *m)
{
  must (cache_flush (m->cache) == 0);
}

static void
put_flags (struct maker *m, uint64_t at, uint64_t length, bool fua)
{
  struct image *image = m->image;

  m->version++;
  for (uint64_t i = at; i < at + length; i++)
    image->want[i] = image_byte (i, m->version);
  must (cache_write (m->cache, image->want + at,
                     (struct range) { at, length }, fua) == 0);
  image_remember (image, image->want);
}

static void
put (struct maker *m, uint64_t at, uint64_t length)
{
  put_flags (m, at, length, false);
}

static void
zero (struct maker *m, uint64_t at, uint64_t length, bool trim)
{
  struct image *image = m->image;
  const struct range range = { at, length };

  memset (image->want + at, 0, length);
  must ((trim ? cache_trim (m->cache, range, false)
         : cache_zero (m->cache, range, false, false)) == 0);
  image_remember (image, image->want);
}

/* Through the cache: what is not in it comes in. */
static void
look (struct maker *m, uint64_t at, uint64_t length)
{
  uint8_t *buf = malloc (length);

  must (buf);
  must (cache_read (m->cache, buf, (struct range) { at, length }) == 0);
  must (memcmp (buf, m->image->want + at, length) == 0);
  free (buf);
}

static void
drain (struct maker *m)
{
  must (cache_drain (m->cache, 0) == 0);
}

static void
evict (struct maker *m)
{
  const uint64_t before = stats_get (cache_stats (m->cache),
                                     STAT_evicted_segments);

  must (cache_step (m->cache));
  must (stats_get (cache_stats (m->cache), STAT_evicted_segments) > before);
}

/* Damage the data of the record that has byte AT, and find out. */
static void
lose (struct maker *m, uint64_t at, uint64_t length)
{
  struct image *image = m->image;
  uint8_t *found = NULL;

  for (uint64_t i = 2 * MIB; i + length < image->device->size; i += 64)
    if (memcmp (image->device->bytes + i, image->want + at, length) == 0) {
      must (found == NULL);
      found = image->device->bytes + i;
    }
  must (found);
  found[length / 2] ^= 0x10;
  image->lost[image->losts++] = (struct range) { at, length };
}

static void
make_clean (struct maker *m)
{
  put (m, 0, 5000);
  flush (m);
  put (m, 4096, 3000);
  put (m, 70000, 700);
  zero (m, 20000, 6000, false);
  flush (m);
  drain (m);
  look (m, 30000, 9000);
  look (m, 0, 300);
  leave (m);
}

static void
make_dirty (struct maker *m)
{
  put (m, 0, 4096);
  put (m, 8192, 1000);
  flush (m);
  drain (m);
  look (m, 60000, 5000);
  put (m, 2048, 4096);
  flush (m);
  put_flags (m, 8200, 100, true);
  zero (m, 3000, 2000, true);
  put (m, 100000, 6000);
  flush (m);
  put (m, 102000, 512);
  put (m, 0, 64);
  flush (m);
  kill_it (m);
}

static void
make_mixed (struct maker *m)
{
  /* Two lives that end in eviction. */
  put (m, 0, 8192);
  put (m, 50000, 5000);
  drain (m);
  leave (m);
  start (m);
  evict (m);
  put (m, 0, 3000);
  put (m, 51000, 1000);
  flush (m);
  drain (m);
  look (m, 90000, 4000);
  leave (m);
  start (m);
  /* What is clean, dirty, and overwritten. */
  put (m, 1000, 1000);
  put (m, 52000, 3000);
  flush (m);
  zero (m, 91000, 1000, false);
  put (m, 110000, 2000);
  flush (m);
  leave (m);
  start (m);
  put (m, 1500, 5000);
  flush (m);
  put (m, 52500, 100);
  put (m, 91500, 1000);
  flush (m);
  kill_it (m);
}

static void
make_heads (struct maker *m)
{
  for (unsigned i = 0; i < 6; i++) {
    put (m, i * 9000, 2000);
    put (m, 1000 + i * 9000, 2000);
    if (i % 2)
      flush (m);
  }
  drain (m);
  for (unsigned i = 0; i < 5; i++) {
    put (m, 500 + i * 9000, 1000);
    put (m, 700 + i * 9000, 1000);
    flush (m);
  }
  kill_it (m);
}

static void
make_zeros (struct maker *m)
{
  put (m, 0, 3000);
  put (m, MIB - 2000, 4000);
  flush (m);
  drain (m);
  zero (m, 1000, 1000, false);
  zero (m, 10000, MIB, true);
  flush (m);
  put (m, MIB - 100, 200);
  zero (m, MIB - 50, 20000, false);
  flush (m);
  put (m, MIB + 1000, 5000);
  zero (m, 500, 60000, true);
  flush (m);
  kill_it (m);
}

static void
make_lost (struct maker *m)
{
  put (m, 0, 4096);
  put (m, 16384, 1024);
  flush (m);
  drain (m);
  put (m, 16384, 1024);
  put (m, 40000, 3000);
  flush (m);
  lose (m, 16384, 1024);
  drain (m);
  leave (m);
  start (m);
  put (m, 32768, 512);
  put (m, 41000, 500);
  flush (m);
  lose (m, 32768, 512);
  drain (m);
  put (m, 60000, 1000);
  flush (m);
  kill_it (m);
}

static void
make_unordered (struct maker *m)
{
  put (m, 0, 3000);
  put (m, 20000, 2000);
  flush (m);
  drain (m);
  look (m, 80000, 3000);
  put (m, 1000, 3000);
  flush (m);
  put (m, 21000, 100);
  zero (m, 2000, 500, false);
  flush (m);
  put (m, 1500, 400);
  put (m, 100000, 2000);
  flush (m);
  kill_it (m);
}

static void
make_checkpoint (struct maker *m)
{
  put (m, 0, 5000);
  put (m, 50000, 3000);
  flush (m);
  drain (m);
  look (m, 90000, 4000);
  put (m, 4096, 3000);
  zero (m, 20000, 6000, false);
  flush (m);
  put (m, 51000, 100);
  leave (m);
}

static void
make_fresh (struct maker *m)
{
  kill_it (m);
}

/* --- what is where ---------------------------------------------------- */

static void
add_twin (struct image *image, const char *name, uint64_t magic,
          uint32_t segment, uint64_t a, uint64_t b, uint32_t bytes)
{
  struct twin_place *t = &image->twin[image->twins++];

  must (image->twins <= MAX_TWINS);
  snprintf (t->name, sizeof t->name, "%s", name);
  t->magic = magic;
  t->segment = segment;
  t->at[0] = a;
  t->at[1] = b;
  t->bytes = bytes;
}

static void
add_set (struct image *image, uint32_t segment, uint32_t ordinal, bool open)
{
  struct memory_device *device = image->device;
  struct set_place *p = &image->set[image->sets++];
  struct media_set *set = set_on (device, segment, ordinal);
  const uint64_t base = segment_start (device, segment);

  must (image->sets <= MAX_SETS);
  p->segment = segment;
  p->ordinal = ordinal;
  p->open = open;
  p->records = le32_get (set->records);
  must (p->records <= PLACE_RECORDS);
  p->end = (uint8_t *) (set + 1) - device->bytes;
  p->start = (uint8_t *) record_in (set, 0) - device->bytes;
  p->epoch = le64_get (set->epoch);
  p->durable_through = le64_get (set->durable_through);
  p->durable_sets = le32_get (set->durable_sets);
  for (uint32_t i = 0; i < p->records; i++) {
    const struct media_record *r = record_in (set, i);

    p->record[i].range = (struct range) {
      le64_get (r->logical), le64_get (r->length),
    };
    p->record[i].kind = r->kind;
    p->record[i].sequence = le64_get (r->sequence);
    p->record[i].data_at = r->kind == RECORD_DATA
      ? base + le32_get (r->place) : 0;
    p->record[i].clean = (r->flags & RECORD_CLEAN) != 0
      || p->epoch <= image->written_back;
  }
}

/* There is one at most, in the first free segment. */
static void
find_piece (struct image *image, uint32_t segments)
{
  struct memory_device *device = image->device;
  const uint64_t entries =
    le64_get (control_on (device, 0)->checkpoint.entries);
  uint32_t id = 0;

  if (entries == 0)
    return;
  must (entries <= PIECE_MAX_ENTRIES);
  while (le32_get (segment_on (device, id, 0)->state) != SEGMENT_FREE)
    must (++id < segments);
  image->piece_at = segment_start (device, id);
  image->piece_bytes = sizeof (struct media_piece)
    + entries * sizeof (struct media_extent);
}

static void
survey (struct image *image)
{
  struct memory_device *device = image->device;
  const uint32_t segments =
    le32_get (superblock_on (device, 0)->segment_count);
  char name[24];

  image->written_back = le64_get (control_on (device, 0)->written_back);
  add_twin (image, "superblock", MAGIC_SUPERBLOCK, 0, SUPERBLOCK_AT (0),
            SUPERBLOCK_AT (1), sizeof (struct media_superblock));
  add_twin (image, "control block", MAGIC_CONTROL, 0, CONTROL_AT (0),
            CONTROL_AT (1), sizeof (struct media_control));
  for (uint32_t id = 0; id < segments; id++) {
    const struct media_segment *header = segment_on (device, id, 0);
    const uint32_t state = le32_get (header->state);

    snprintf (name, sizeof name, "segment %u", id);
    add_twin (image, name, MAGIC_SEGMENT, id,
              (uint8_t *) segment_on (device, id, 0) - device->bytes,
              (uint8_t *) segment_on (device, id, 1) - device->bytes,
              sizeof *header);
    if (state == SEGMENT_FREE)
      continue;
    for (uint32_t k = 0; k < sets_on (device, id); k++)
      add_set (image, id, k, state == SEGMENT_OPEN);
  }
  find_piece (image, segments);
}

/* --- new and free ----------------------------------------------------- */

struct image *
image_new (enum image_kind kind, uint64_t random)
{
  static void (*const make[IMAGE_KINDS]) (struct maker *) = {
    make_fresh, make_clean, make_dirty, make_mixed, make_heads, make_zeros,
    make_lost, make_unordered, make_unordered, make_checkpoint,
  };
  struct image *image = calloc (1, sizeof *image);
  struct maker m = { .image = image };

  must (image);
  image->name = image_names[kind];
  image->kind = kind;
  image->size = kind == IMAGE_ZEROS ? MIB + 64 * KIB : 128 * KIB;
  image->device = memory_device_new ((kind == IMAGE_HEADS ? 18 : 6) * MIB,
                                     kind != IMAGE_UNORDERED
                                     && kind != IMAGE_NO_CRC);
  image->disk = memory_backend_new (image->size);
  image->options = (struct cache_options) CACHE_OPTIONS_DEFAULT;
  image->options.segment_size = MIB;
  image->options.data_crc = kind != IMAGE_NO_CRC;
  image->options.heads = kind == IMAGE_HEADS ? 2 : 1;
  image->options.regions = 2;
  /* Whatever can be evicted is, whenever there is a step of it. */
  image->options.setting[SETTING_gc_percent] = 0;
  image->options.seed = random | 1;

  for (uint64_t i = 0; i < image->size; i++)
    image->disk->bytes[i] = image_byte (i, 0);
  image->want = malloc (image->size);
  must (image->want);
  memcpy (image->want, image->disk->bytes, image->size);
  image_remember (image, image->want);
  start (&m);
  make[kind] (&m);
  survey (image);
  /* From now on what the device says counts. */
  image->options.segment_size = 0;

  image->device_before = malloc (image->device->size);
  image->disk_before = malloc (image->size);
  must (image->device_before && image->disk_before);
  memcpy (image->device_before, image->device->bytes, image->device->size);
  memcpy (image->disk_before, image->disk->bytes, image->size);
  image->device->hook = before_store;
  image->device->opaque = image;
  image->disk->before = before_request;
  image->disk->opaque = image;
  return image;
}

void
image_free (struct image *image)
{
  memory_device_free (image->device);
  memory_backend_free (image->disk);
  free (image->want);
  free (image->past);
  free (image->device_before);
  free (image->disk_before);
  free (image->undo);
  free (image->saved);
  free (image);
}

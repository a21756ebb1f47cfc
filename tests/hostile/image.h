/* SPDX-License-Identifier: BSD-3-Clause */

/* image: small cache devices of every kind, with what is known of them.
 *
 * Each is made through the front door (cache.h), in one thread, so it is the
 * same each time but for a seed.  What is known: what the disk must read as,
 * what each byte of it ever was, and where on the device which metadata lies.
 * The places are found with media_tools, which go by docs/FORMAT.md.
 *
 * An image is damaged and used again and again.  All that stores to its
 * device or disk, the engine included, is undone by image_restore: what was
 * there before is kept of each store, as copying a whole device each time
 * would cost more than the engine does. */

#ifndef PCACHE_HOSTILE_IMAGE_H
#define PCACHE_HOSTILE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"
#include "engine/cache.h"
#include "support/media_tools.h"
#include "support/memory_backend.h"
#include "support/memory_pmem.h"

#define KIB UINT64_C (1024)
#define MIB (KIB * 1024)

enum image_kind {
  IMAGE_FRESH,                  /* bound, never used */
  IMAGE_CLEAN,                  /* clean exit, nothing dirty */
  IMAGE_DIRTY,                  /* killed with dirty data */
  IMAGE_MIXED,                  /* sealed clean, sealed dirty, open, and free
                                 * ones that were used before */
  IMAGE_HEADS,                  /* two heads, killed */
  IMAGE_ZEROS,                  /* zeros and trims, long ones too */
  IMAGE_LOST,                   /* what is lost, in a sealed and an open one */
  IMAGE_UNORDERED,              /* an ordinary file */
  IMAGE_NO_CRC,                 /* the same, data without checksums */
  IMAGE_CHECKPOINT,             /* clean exit, clean, dirty and zeros */
  IMAGE_KINDS
};

extern const char *const image_names[IMAGE_KINDS];

/* A doubled block. */
struct twin_place {
  char name[24];                /* as messages call it */
  uint64_t magic;
  uint32_t segment;             /* of a segment header */
  uint64_t at[2];
  uint32_t bytes;               /* of the struct */
};

#define PLACE_RECORDS 24

struct set_place {
  uint32_t segment, ordinal;
  bool open;                    /* its segment is not sealed */
  uint64_t start, end;          /* on the device */
  uint64_t epoch, durable_through;
  uint32_t durable_sets, records;
  struct record_place {
    struct range range;
    uint64_t data_at;           /* on the device; 0: no data */
    uint64_t sequence;
    uint8_t kind;
    bool clean;                 /* or written back */
  } record[PLACE_RECORDS];
};

#define MAX_TWINS (2 + 16)
#define MAX_SETS 48
#define MAX_LOST 4

struct undo_entry {
  uint8_t *where;
  size_t length, saved_at;
};

struct image {
  const char *name;
  enum image_kind kind;
  struct memory_device *device;
  struct memory_backend *disk;
  struct cache_options options;
  struct range lost[MAX_LOST];  /* of the disk: must give EIO */
  unsigned losts;
  uint64_t written_back;

  uint64_t size;                /* of the disk */
  uint8_t *want;                /* what it reads as */
  uint8_t *past;                /* all that it ever was, one after another */
  unsigned pasts, pasts_room;

  struct twin_place twin[MAX_TWINS];
  unsigned twins;
  struct set_place set[MAX_SETS];
  unsigned sets;
  uint64_t piece_at, piece_bytes;       /* of the checkpoint; or 0 */

  uint8_t *device_before, *disk_before;
  struct undo_entry *undo;
  size_t undos, undos_room;
  uint8_t *saved;
  size_t saved_bytes, saved_room;
};

extern struct image *image_new (enum image_kind kind, uint64_t random);
extern void image_free (struct image *image);

/* Call it before the LENGTH bytes at WHERE, of the device or of the disk,
 * change. */
extern void image_note (struct image *image, uint8_t *where, size_t length);
/* As it was made. */
extern void image_restore (struct image *image);
/* Is it?  (Slow.) */
extern bool image_is_whole (const struct image *image);
/* Stores to the device so far. */
extern unsigned image_stores (const struct image *image);

/* Remember what BYTES (of the whole disk) are, as one that it was. */
extern void image_remember (struct image *image, const uint8_t *bytes);

/* Content: byte AT of the disk in that version.  Never zero, so zeros are
 * told from all of them. */
extern uint8_t image_byte (uint64_t at, unsigned version);

#endif /* PCACHE_HOSTILE_IMAGE_H */

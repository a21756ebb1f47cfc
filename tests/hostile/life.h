/* SPDX-License-Identifier: BSD-3-Clause */

/* life: everything that is done with a damaged image, and what must hold.
 *
 * Open (if refused: for a reason that was said, with nothing stored; then
 * again with rescue), read all, write, write back, evict, exit, open once
 * more, read all.  At each step each byte read, and each byte of the disk after
 * it was written back, is compared with what it may be; no step may take
 * longer than a bounded number of calls.
 *
 * What a byte may be depends on what was done to the image:
 *
 *   always         what the image's history wants there
 *   doubtful       one of the things that it ever was: its place is in
 *                  a range whose newest record a damage can hide without a trace
 *                  (FORMAT.md, end of section 9), or a lie with a right
 *                  checksum concerns it, or it was opened with rescue
 *   false          also a zero, or the bytes that the lying record has
 *
 * and EIO only where data that is nowhere else was damaged.  What the life
 * itself has written must be right whatever was done. */

#ifndef PCACHE_HOSTILE_LIFE_H
#define PCACHE_HOSTILE_LIFE_H

#include "hostile/image.h"

#define MAX_DOUBTS 64

struct doubt {
  struct range range;           /* of the disk */
  bool may_be_zero, may_be_anything;
  bool may_fail;                /* EIO */
  bool must_fail;               /* nothing but EIO will do */
  /* The bytes of this range may show up here, in order. */
  bool may_move;
  uint64_t from;
};

struct life {
  struct image *image;
  const char *what;             /* was done to it: for messages */
  bool must_open;               /* without rescue */
  bool must_refuse;             /* without rescue */
  bool never_open;              /* not even with it */
  bool any_age;                 /* doubtful everywhere */
  bool anything;                /* no byte of the image can be trusted */
  bool at_limit;                /* a lie is so near the end of all numbers that
                                 * the next open may find one beyond it */
  bool brief;                   /* open, read, close: no more */
  const char *names;            /* NULL, or what a refusal has to name:
                                 * words as for reports_have */
  struct doubt doubt[MAX_DOUBTS];
  unsigned doubts;

  /* Results. */
  bool opened, rescued;
  bool written;                 /* all that was tried went well */
  uint64_t failed_bytes;        /* gave EIO */

  /* Private. */
  struct cache *cache;
  bool rescue;
  uint8_t *want;
  uint8_t *state;               /* per byte */
  unsigned violations;
};

/* Called with a message for everything that must not be.  The default prints
 * it and aborts. */
extern void (*life_violation) (const struct life *life, const char *message);

/* Damage has been done (each with image_note first).  Lives the life; the
 * image is as that leaves it.  Returns the number of violations. */
extern unsigned life_run (struct life *life);

/* A range of the disk that may be doubtful. */
extern struct doubt *life_doubt (struct life *life, struct range range);

/* What all lives did together. */
struct life_totals {
  uint64_t lives, opened, rescued, refused, failed_bytes;
};

extern struct life_totals life_totals;

#endif /* PCACHE_HOSTILE_LIFE_H */

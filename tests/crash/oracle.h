/* SPDX-License-Identifier: BSD-3-Clause */

/* oracle: what a disk may hold, byte by byte.
 *
 * The disk is cut into cells at all the places where requests start or end.
 * Each cell has its history: the versions written to it, in order, with the
 * epoch of each and how many of them must have survived.  From that follows
 *   P2  what a client must read now: the newest version;
 *   P1  what it may find after a crash: any version from the newest durable one
 *       up to the newest, byte by byte;
 *   P3  what the backing store alone may hold: there is an epoch e such that
 *       each byte is the newest of the epochs up to e, or any version of epoch
 *       e + 1.
 * A version is a pattern in which each byte depends on its place, so that
 * another range's bytes are noticed; version 0 is zeros. */

#ifndef PCACHE_ORACLE_H
#define PCACHE_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"

#define ORACLE_CELLS 40
#define ORACLE_ENTRIES 60       /* of a cell */
#define ORACLE_VERSIONS 64
#define ORACLE_EPOCHS 62

struct oracle_entry {
  int version;                  /* or found[-version - 1] */
  uint8_t epoch;
  bool optional;                /* a crash may have lost it, although what
                                 * overwrote it is there */
};

struct oracle_cell {
  uint32_t start, length;
  uint8_t count;
  uint8_t durable;              /* entry that survives everything */
  uint8_t flushed;              /* the same, but by a flush, not by FUA */
  struct oracle_entry entry[ORACLE_ENTRIES];
};

/* Copied by assignment. */
struct oracle {
  uint32_t size;
  unsigned cells;
  uint8_t epoch;                /* the open one */
  int version;                  /* the last one used */
  int found;                    /* contents that are no version */
  struct oracle_cell cell[ORACLE_CELLS];
};

/* A disk of zeros.  BOUNDS: COUNT places besides 0 and SIZE where cells begin,
 * ascending. */
extern void oracle_init (struct oracle *oracle, uint32_t size,
                         const uint32_t *bounds, unsigned count);

/* Is there room for another version, or epoch? */
extern bool oracle_has_room (const struct oracle *oracle);

/* The bytes of a version of the whole disk. */
extern const uint8_t *oracle_pattern (int version);

/* A write has been sent: returns its version.  RANGE begins and ends at
 * bounds. */
extern int oracle_write (struct oracle *oracle, struct range range,
                         bool zeros);
/* ... as FUA, and has been acknowledged. */
extern void oracle_fua (struct oracle *oracle, struct range range);
/* A flush has been acknowledged that was sent when nothing else was under
 * way. */
extern void oracle_flush (struct oracle *oracle);

/* Each of these returns NULL, or what is wrong. */
/* Is RANGE of DISK what a client must read? */
extern const char *oracle_check_now (const struct oracle *oracle,
                                     const uint8_t *disk, struct range range);
extern const char *oracle_check_crash (const struct oracle *oracle,
                                       const uint8_t *disk);
extern const char *oracle_check_backing (const struct oracle *oracle,
                                         const uint8_t *disk);

/* DISK was found after a crash and checked: that is what there is now. */
extern void oracle_settle (struct oracle *oracle, const uint8_t *disk);
/* The backing store has been found to hold the newest of everything, flushed:
 * begin again with that. */
extern void oracle_restart (struct oracle *oracle, const uint8_t *disk);

/* Of all that the checks depend on. */
extern uint64_t oracle_hash (const struct oracle *oracle);

#endif /* PCACHE_ORACLE_H */

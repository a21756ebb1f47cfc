/* SPDX-License-Identifier: BSD-3-Clause */

/* format: the cache device, byte by byte (see docs/FORMAT.md).
 *
 *   0        superblock, copy A        SUPERBLOCK_AT (0)
 *   4096     control block, copy A     CONTROL_AT (0)
 *   524288   superblock, copy B        SUPERBLOCK_AT (1)
 *   528384   control block, copy B     CONTROL_AT (1)
 *   1 MiB    segment table, copy A     capacity slots of 256 bytes: a header,
 *                                      and its spare place at 128
 *   ...      segment table, copy B     starts on a 64 KiB boundary
 *   ...      segments                  start on a 1 MiB boundary
 *
 * A segment: data from its start upwards in units of 64 bytes, record sets
 * from its end downwards.  A set's header lies above its records, so that
 * whoever walks down meets the header first:
 *
 *   | data ... | free | ... set 1 | records of set 0, padding, header |
 *
 * In free segments, from their starts, may lie pieces of a checkpoint.
 *
 * All structs that lie on media are in this file, are little-endian by
 * type and carry the proof of their layout beneath them. */

#ifndef PCACHE_FORMAT_H
#define PCACHE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "base/le.h"

#define MEDIA_SIZE(type, size)                                          \
  _Static_assert (sizeof (type) == (size), #type " has another size")
#define MEDIA_FIELD(type, field, offset)                                \
  _Static_assert (offsetof (type, field) == (offset),                   \
                  #type "." #field " is at another offset")

/* Magic numbers read as text in a dump of the little-endian media. */
#define MEDIA_MAGIC(a, b, c, d, e, f, g, h)                             \
  ((uint64_t) (a) | (uint64_t) (b) << 8 | (uint64_t) (c) << 16 |        \
   (uint64_t) (d) << 24 | (uint64_t) (e) << 32 | (uint64_t) (f) << 40 | \
   (uint64_t) (g) << 48 | (uint64_t) (h) << 56)

#define MAGIC_FORMATTING MEDIA_MAGIC ('P','C','A','C','H','E','f','m')
#define MAGIC_SUPERBLOCK MEDIA_MAGIC ('P','C','A','C','H','E','s','b')
#define MAGIC_CONTROL    MEDIA_MAGIC ('P','C','A','C','H','E','c','b')
#define MAGIC_SEGMENT    MEDIA_MAGIC ('P','C','A','C','H','E','s','g')
#define MAGIC_SET        MEDIA_MAGIC ('P','C','A','C','H','E','s','t')
#define MAGIC_PIECE      MEDIA_MAGIC ('P','C','A','C','H','E','c','k')

#define FORMAT_VERSION 1

#define MEDIA_PAGE 4096
#define MEDIA_LINE 64           /* unit of data placement and set size */
#define MEDIA_SLOT 256          /* stride of the segment table */
#define MEDIA_AREA 524288       /* from copy A to copy B */
#define SUPERBLOCK_AT(copy) ((uint64_t) (copy) * MEDIA_AREA)
#define CONTROL_AT(copy) (SUPERBLOCK_AT (copy) + MEDIA_PAGE)
/* From a copy to its spare place (twin.h), in the same page. */
#define CONTROL_SPARE 2048
#define SEGMENT_SPARE (MEDIA_SLOT / 2)
#define SEGMENT_TABLE_AT UINT64_C (1048576)
#define SEGMENT_TABLE_ALIGN UINT64_C (65536)
#define SEGMENT_ALIGN UINT64_C (1048576)

/* What every doubled block starts with.  checksum: XXH3 (64 bits, seeded
 * with the cache's instance number; with 0 in the superblock, which defines it)
 * of the whole struct with this field zero.  at: this copy's own offset on
 * the device. */
struct media_twin {
  le64 magic;
  le64 checksum;
  le64 sequence;                /* grows by one with each update */
  le64 at;
};
MEDIA_SIZE (struct media_twin, 32);
MEDIA_FIELD (struct media_twin, checksum, 8);
MEDIA_FIELD (struct media_twin, sequence, 16);
MEDIA_FIELD (struct media_twin, at, 24);

#define MEDIA_EXPORT_BYTES 1024
#define MEDIA_BACKING_ID_BYTES 256

/* superblock.flags */
#define SUPERBLOCK_BOUND 1      /* backing_size and export are set */

struct media_superblock {
  struct media_twin twin;
  le32 version;
  le32 flags;
  le64 compat;                  /* unknown bits here: no matter */
  le64 ro_compat;               /* unknown bits: may be read, not changed */
  le64 incompat;                /* unknown bits: hands off */
  uint8_t uuid[16];
  le64 instance;                /* random; seed of all other checksums */
  le64 device_size;             /* bytes in use, tables and segments */
  le64 segment_size;
  le32 segment_count;
  le32 segment_capacity;        /* slots in each copy of the table */
  le64 segment_table_at[2];
  le64 first_segment_at;
  le64 backing_size;
  le32 export_length;
  le32 backing_id_length;
  uint8_t export_name[MEDIA_EXPORT_BYTES];
  uint8_t backing_id[MEDIA_BACKING_ID_BYTES];
};
MEDIA_SIZE (struct media_superblock, 1432);
MEDIA_FIELD (struct media_superblock, version, 32);
MEDIA_FIELD (struct media_superblock, flags, 36);
MEDIA_FIELD (struct media_superblock, compat, 40);
MEDIA_FIELD (struct media_superblock, ro_compat, 48);
MEDIA_FIELD (struct media_superblock, incompat, 56);
MEDIA_FIELD (struct media_superblock, uuid, 64);
MEDIA_FIELD (struct media_superblock, instance, 80);
MEDIA_FIELD (struct media_superblock, device_size, 88);
MEDIA_FIELD (struct media_superblock, segment_size, 96);
MEDIA_FIELD (struct media_superblock, segment_count, 104);
MEDIA_FIELD (struct media_superblock, segment_capacity, 108);
MEDIA_FIELD (struct media_superblock, segment_table_at, 112);
MEDIA_FIELD (struct media_superblock, first_segment_at, 128);
MEDIA_FIELD (struct media_superblock, backing_size, 136);
MEDIA_FIELD (struct media_superblock, export_length, 144);
MEDIA_FIELD (struct media_superblock, backing_id_length, 148);
MEDIA_FIELD (struct media_superblock, export_name, 152);
MEDIA_FIELD (struct media_superblock, backing_id, 1176);

#define GC_PERCENT_UNSET 0xffffffff

/* control.flags */
#define CONTROL_LOST 1          /* there are, or were, records that say "lost":
                                 * damage may hide one although all is written
                                 * back */

/* Of the index at a clean stop; the pieces of it lie in free segments.  It
 * counts as long as no header of a segment and nothing else in the control block
 * has changed: each other update of the control block has zeros here. */
struct media_checkpoint {
  le32 layout;                  /* CHECKPOINT_LAYOUT; 0: there is none */
  le32 regions;                 /* of that index */
  le64 digest;                  /* of all segment headers */
  le64 checksum;                /* of the last piece; DIGEST if there is none */
  le64 entries;                 /* of all pieces */
  le64 sequence;                /* the last one used */
  le64 epoch;                   /* the first one not used */
  le64 uncertain_through;       /* holes are, while the tail is lower */
};
MEDIA_SIZE (struct media_checkpoint, 56);
MEDIA_FIELD (struct media_checkpoint, digest, 8);
MEDIA_FIELD (struct media_checkpoint, checksum, 16);
MEDIA_FIELD (struct media_checkpoint, entries, 24);
MEDIA_FIELD (struct media_checkpoint, sequence, 32);
MEDIA_FIELD (struct media_checkpoint, epoch, 40);
MEDIA_FIELD (struct media_checkpoint, uncertain_through, 48);

#define CHECKPOINT_LAYOUT 1

struct media_control {
  struct media_twin twin;
  le64 tail_sequence;           /* replay ignores records up to it that are
                                 * clean or written back */
  le64 written_back;            /* epochs up to it are in the backing store */
  le32 gc_percent;
  le32 flags;
  struct media_checkpoint checkpoint;
  le64 reserved[18];
};
MEDIA_SIZE (struct media_control, 256);
MEDIA_FIELD (struct media_control, tail_sequence, 32);
MEDIA_FIELD (struct media_control, written_back, 40);
MEDIA_FIELD (struct media_control, gc_percent, 48);
MEDIA_FIELD (struct media_control, flags, 52);
MEDIA_FIELD (struct media_control, checkpoint, 56);

enum segment_state {
  SEGMENT_FREE = 1,
  SEGMENT_OPEN = 2,
  SEGMENT_SEALED = 3,
};

/* segment.flags */
#define SEGMENT_UNORDERED 1     /* opened on a device where a fence does not
                                 * make stores durable: sets may be there
                                 * without their data */

struct media_segment {
  struct media_twin twin;
  le32 id;                      /* its place in the table */
  le32 state;
  le64 generation;
  le32 sets;                    /* sealed: how many there are */
  le32 flags;
  le64 epoch_max;               /* sealed: last epoch with dirty records in it,
                                 * 0 if there is none */
  le64 sequence_min;            /* sealed: of all records; 0 if none */
  le64 sequence_max;
  le64 reserved[5];
};
MEDIA_SIZE (struct media_segment, 120);
_Static_assert (sizeof (struct media_segment) <= SEGMENT_SPARE,
                "a header reaches into its spare place");
MEDIA_FIELD (struct media_segment, id, 32);
MEDIA_FIELD (struct media_segment, state, 36);
MEDIA_FIELD (struct media_segment, generation, 40);
MEDIA_FIELD (struct media_segment, sets, 48);
MEDIA_FIELD (struct media_segment, flags, 52);
MEDIA_FIELD (struct media_segment, epoch_max, 56);
MEDIA_FIELD (struct media_segment, sequence_min, 64);
MEDIA_FIELD (struct media_segment, sequence_max, 72);

#define SET_MAX_RECORDS 128

/* A set of n records takes SET_BYTES (n): the records in ascending order,
 * zeros up to a multiple of 64, this header.  checksum: XXH3, seeded with the
 * instance number, of all that with this field zero. */
struct media_set {
  le64 magic;
  le64 checksum;
  le64 generation;              /* the segment's */
  le32 segment;
  le32 offset;                  /* of this header in the segment */
  le32 ordinal;                 /* 0, 1, 2... in the segment */
  le32 records;                 /* 1..SET_MAX_RECORDS */
  le64 epoch;
  le64 durable_through;         /* all epochs up to it were durable on the
                                 * device before this was written */
  le32 durable_sets;            /* so were this many sets of this segment */
  le32 reserved;
};
MEDIA_SIZE (struct media_set, 64);
MEDIA_FIELD (struct media_set, checksum, 8);
MEDIA_FIELD (struct media_set, generation, 16);
MEDIA_FIELD (struct media_set, segment, 24);
MEDIA_FIELD (struct media_set, offset, 28);
MEDIA_FIELD (struct media_set, ordinal, 32);
MEDIA_FIELD (struct media_set, records, 36);
MEDIA_FIELD (struct media_set, epoch, 40);
MEDIA_FIELD (struct media_set, durable_through, 48);
MEDIA_FIELD (struct media_set, durable_sets, 56);

enum record_kind {
  RECORD_DATA = 1,
  RECORD_ZERO = 2,              /* reads as zeros */
  RECORD_TRIM = 3,              /* reads as zeros, need not be stored */
  RECORD_LOST = 4,              /* dirty data that can no longer be read */
  RECORD_HOLE = 5,              /* not cached: older records do not count */
};

/* record.flags */
#define RECORD_CLEAN 1          /* the backing store had it already */
#define RECORD_CHECKSUM 2       /* checksum is that of the data */

#define RECORD_MAX_DATA 65536

struct media_record {
  le64 logical;
  le64 length;
  le64 sequence;
  le64 checksum;                /* XXH3, no seed, of the data */
  le32 place;                   /* of the data, in the segment; 64-aligned */
  uint8_t kind;
  uint8_t flags;
  uint8_t reserved[10];
};
MEDIA_SIZE (struct media_record, 48);
MEDIA_FIELD (struct media_record, length, 8);
MEDIA_FIELD (struct media_record, sequence, 16);
MEDIA_FIELD (struct media_record, checksum, 24);
MEDIA_FIELD (struct media_record, place, 32);
MEDIA_FIELD (struct media_record, kind, 36);
MEDIA_FIELD (struct media_record, flags, 37);

/* A piece of a checkpoint: this, and up to PIECE_MAX_ENTRIES entries.  All but
 * the last have as many.  Pieces lie in the free segments, in the order of these, a
 * slot each from the segment's start.  checksum: XXH3, seeded with the instance
 * number, of the piece with this field zero. */
struct media_piece {
  le64 magic;
  le64 checksum;
  le64 before;                  /* checksum of the piece before; DIGEST in the
                                 * first */
  le32 ordinal;                 /* 0, 1, 2... */
  le32 entries;
};
MEDIA_SIZE (struct media_piece, 32);
MEDIA_FIELD (struct media_piece, before, 16);
MEDIA_FIELD (struct media_piece, ordinal, 24);
MEDIA_FIELD (struct media_piece, entries, 28);

#define PIECE_SLOT 65536

/* media_extent.place: where data is on the device, a multiple of 64, and */
#define EXTENT_RECORD_KIND UINT64_C (3) /* data, zero or trim */
#define EXTENT_CHECKSUM UINT64_C (4)    /* proof is that of the data */
#define EXTENT_HIT UINT64_C (8) /* read since it came */
#define EXTENT_RECORD_AT (~UINT64_C (63))

/* An extent; or, with nothing but LOGICAL, the start of those of that region. */
struct media_extent {
  le64 logical;
  le64 proof;                   /* checksum of data, sequence of others */
  le64 place;
  le32 length;
  le16 record_length_1;         /* less one */
  le16 delta;                   /* of the first byte, within the record */
};
MEDIA_SIZE (struct media_extent, 32);
MEDIA_FIELD (struct media_extent, proof, 8);
MEDIA_FIELD (struct media_extent, place, 16);
MEDIA_FIELD (struct media_extent, length, 24);
MEDIA_FIELD (struct media_extent, record_length_1, 28);
MEDIA_FIELD (struct media_extent, delta, 30);

#define PIECE_MAX_ENTRIES                                               \
  ((PIECE_SLOT - sizeof (struct media_piece)) / sizeof (struct media_extent))

/* Bytes a set of N records takes in its segment. */
#define SET_BYTES(n)                                                    \
  ((sizeof (struct media_set) + (n) * sizeof (struct media_record)      \
    + MEDIA_LINE - 1) / MEDIA_LINE * MEDIA_LINE)
#define SET_MAX_BYTES SET_BYTES (SET_MAX_RECORDS)

/* Bytes that data of LENGTH bytes takes. */
#define DATA_BYTES(length)                                              \
  (((uint64_t) (length) + MEDIA_LINE - 1) / MEDIA_LINE * MEDIA_LINE)

#endif /* PCACHE_FORMAT_H */

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/le.h"
#include "base/report.h"
#include "pmem/overlay.h"
#include "tool/backup.h"

#define BACKUP_MAGIC "pcachebk"
#define PIECE (UINT64_C (64) << 10)

struct backup_header {
  char magic[8];
  le64 device_size;
  le64 pieces;
  le64 checksum;                /* XXH3 of all that comes after this struct */
};

struct backup_piece {
  le64 at;
  le64 length;
  le64 after;                   /* XXH3 of the bytes that the repair left */
};

/* The whole file, in memory: metadata is small. */
struct buffer {
  uint8_t *bytes;
  size_t length;
};

static int
append (struct buffer *buffer, const void *bytes, size_t length)
{
  uint8_t *more = realloc (buffer->bytes, buffer->length + length);

  if (more == NULL)
    return -ENOMEM;
  memcpy (more + buffer->length, bytes, length);
  buffer->bytes = more;
  buffer->length += length;
  return 0;
}

static int
append_piece (struct buffer *buffer, struct pmem *below,
              struct pmem *overlay, struct range range)
{
  CLEANUP_FREE uint8_t *bytes = calloc (1, range.length);
  struct backup_piece piece = {
    .at = le64_of (range.start), .length = le64_of (range.length),
  };
  uint64_t sum;
  int r;

  if (bytes == NULL)
    return -ENOMEM;
  r = pmem_checksum (overlay, range.start, range.length, &sum);
  if (r < 0)
    return r;
  piece.after = le64_of (sum);
  /* What cannot be read cannot be kept: zeros. */
  if (pmem_read (below, bytes, range.start, range.length) < 0)
    memset (bytes, 0, range.length);
  r = append (buffer, &piece, sizeof piece);
  return r < 0 ? r : append (buffer, bytes, range.length);
}

static int
write_file (const char *path, const struct buffer *buffer)
{
  CLEANUP_CLOSE int fd = open (path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                               0600);
  int r;

  if (fd == -1)
    return -errno;
  r = file_pwrite (fd, buffer->bytes, buffer->length, 0);
  if (r < 0)
    return r;
  return fsync (fd) == -1 ? -errno : file_sync_directory_of (path);
}

int
backup_save (const char *path, struct pmem *below, struct pmem *overlay,
             uint64_t end)
{
  struct backup_header header = {
    .magic = BACKUP_MAGIC, .device_size = le64_of (below->size),
  };
  struct buffer buffer = { 0 };
  struct range range;
  uint64_t at = 0, pieces = 0;
  int r = append (&buffer, &header, sizeof header);

  while (r == 0 && overlay_next_change (overlay, at, PIECE, &range)
         && range.start < end) {
    range.length = MIN (range.length, end - range.start);
    r = append_piece (&buffer, below, overlay, range);
    at = range_end (range);
    pieces++;
  }
  if (r == 0) {
    header.pieces = le64_of (pieces);
    header.checksum = le64_of (XXH3_64bits (buffer.bytes + sizeof header,
                                            buffer.length - sizeof header));
    memcpy (buffer.bytes, &header, sizeof header);
    r = write_file (path, &buffer);
  }
  free (buffer.bytes);
  return r;
}

/* --- and back --------------------------------------------------------- */

static int
read_file (const char *path, struct buffer *buffer)
{
  FILE *file = fopen (path, "re");
  uint8_t part[16384];
  size_t n;
  int r = 0;

  if (file == NULL)
    return -errno;
  while (r == 0 && (n = fread (part, 1, sizeof part, file)) > 0)
    r = append (buffer, part, n);
  if (r == 0 && ferror (file))
    r = -EIO;
  fclose (file);
  return r;
}

/* Every number in it is checked. */
static bool
is_sane (const struct buffer *buffer, struct pmem *pmem)
{
  struct backup_header header;
  uint64_t pieces;
  size_t at = sizeof header;

  if (buffer->length < sizeof header)
    return false;
  memcpy (&header, buffer->bytes, sizeof header);
  if (memcmp (header.magic, BACKUP_MAGIC, sizeof header.magic) != 0
      || le64_get (header.device_size) != pmem->size
      || le64_get (header.checksum)
         != XXH3_64bits (buffer->bytes + at, buffer->length - at))
    return false;
  for (pieces = le64_get (header.pieces); pieces > 0; pieces--) {
    struct backup_piece piece;
    struct range range;

    if (buffer->length - at < sizeof piece)
      return false;
    memcpy (&piece, buffer->bytes + at, sizeof piece);
    at += sizeof piece;
    range = (struct range) { le64_get (piece.at), le64_get (piece.length) };
    if (!range_is_valid (range, pmem->size)
        || range.length > buffer->length - at)
      return false;
    at += range.length;
  }
  return at == buffer->length;
}

/* Calls EACH for every piece until one fails. */
static int
each_piece (const struct buffer *buffer, struct pmem *pmem,
            int (*each) (struct pmem *, struct range, const uint8_t *bytes,
                         uint64_t after))
{
  size_t at = sizeof (struct backup_header);
  int r = 0;

  while (r == 0 && at < buffer->length) {
    struct backup_piece piece;
    struct range range;

    memcpy (&piece, buffer->bytes + at, sizeof piece);
    range = (struct range) { le64_get (piece.at), le64_get (piece.length) };
    at += sizeof piece;
    r = each (pmem, range, buffer->bytes + at, le64_get (piece.after));
    at += range.length;
  }
  return r;
}

/* As the repair found it, or as it left it: nothing has used it since. */
static int
compare_piece (struct pmem *pmem, struct range range, const uint8_t *bytes,
               uint64_t after)
{
  uint64_t sum;
  int r = pmem_checksum (pmem, range.start, range.length, &sum);

  if (r < 0)
    return r;
  return sum == after || sum == XXH3_64bits (bytes, range.length) ? 0
    : -ESTALE;
}

static int
store_piece (struct pmem *pmem, struct range range, const uint8_t *bytes,
             uint64_t after)
{
  return pmem_copy (pmem, range.start, bytes, range.length) < 0 ? -EIO : 0;
}

int
backup_restore (const char *path, struct pmem *pmem)
{
  struct buffer buffer = { 0 };
  int r = read_file (path, &buffer);

  if (r == 0 && !is_sane (&buffer, pmem))
    r = -EINVAL;
  if (r == 0)
    r = each_piece (&buffer, pmem, compare_piece);
  /* Crash from here on: some of it is as before; restore it again. */
  if (r == 0)
    r = each_piece (&buffer, pmem, store_piece);
  if (r == 0 && (pmem_fence (pmem) < 0 || pmem_sync (pmem) < 0))
    r = -EIO;
  free (buffer.bytes);
  if (r == -ESTALE)
    report (REPORT_ERROR, "the cache was used since that repair; nothing was "
            "put back");
  else if (r == -EINVAL)
    report (REPORT_ERROR, "%s: not a whole copy from a repair of this device",
            path);
  else if (r < 0)
    report (REPORT_ERROR, "%s: cannot be put back: %s", path, strerror (-r));
  return r;
}

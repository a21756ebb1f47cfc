/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/report.h"
#include "tool/target.h"

#define MAX_REQUEST ((size_t) 1 << 20)
#define MAX_ZERO (UINT64_C (1) << 30)

struct target {
  struct backend backend;       /* first */
  const char *name;
  int fd;                       /* -1: not a file */
  struct nbd_handle *nbd;       /* NULL: not a server */
  uint64_t block;               /* bytes; requests to the server are of whole
                                 * ones */
  bool can_flush;
  uint64_t bytes;
  void (*watch) (void *opaque, uint64_t bytes);
  void *opaque;
};

static struct target *
target_of (struct backend *backend)
{
  return (struct target *) backend;
}

/* Of each request.  The engine says no more than the error's name. */
static int
done (struct target *t, const char *what, int error, uint64_t length,
      uint64_t offset)
{
  if (error < 0) {
    const char *reason = t->nbd ? nbd_get_error () : NULL;

    report (REPORT_ERROR, "%s: cannot %s at %" PRIu64 "+%" PRIu64 ": %s",
            t->name, what, offset, length, reason ? reason
            : strerror (-error));
    return error;
  }
  t->bytes += length;
  if (t->watch && length > 0)
    t->watch (t->opaque, t->bytes);
  return 0;
}

/* --- files ------------------------------------------------------------ */

static int
file_pread (struct backend *backend, void *buf, size_t length,
            uint64_t offset)
{
  return -ENOTSUP;              /* write-back does not read */
}

static int
file_backend_pwrite (struct backend *backend, const void *buf, size_t length,
                     uint64_t offset)
{
  struct target *t = target_of (backend);

  return done (t, "write", file_pwrite (t->fd, buf, length, offset), length,
               offset);
}

/* An error is none: zeros are written then. */
static int
file_zero (struct backend *backend, uint64_t length, uint64_t offset,
           bool may_trim)
{
  struct target *t = target_of (backend);
  const int how = may_trim ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

  if (fallocate (t->fd, how, offset, length) == -1)
    return -errno;
  return done (t, "zero", 0, length, offset);
}

static int
file_flush (struct backend *backend)
{
  struct target *t = target_of (backend);

  return done (t, "flush", fdatasync (t->fd) == -1 ? -errno : 0, 0, 0);
}

static const struct backend_ops file_ops = {
  .pread = file_pread,
  .pwrite = file_backend_pwrite,
  .zero = file_zero,
  .flush = file_flush,
};

static int
open_file (struct target *t)
{
  struct stat st;
  off_t size;

  /* O_EXCL: nor is a block device written to that is mounted. */
  if (stat (t->name, &st) == -1)
    return -errno;
  if (!S_ISREG (st.st_mode) && !S_ISBLK (st.st_mode))
    return -ENOTSUP;
  t->fd = open (t->name, O_RDWR | O_CLOEXEC
                | (S_ISBLK (st.st_mode) ? O_EXCL : 0));
  if (t->fd == -1)
    return -errno;
  /* Who else locks it is another run of this, or a cache on it. */
  if (flock (t->fd, LOCK_EX | LOCK_NB) == -1)
    return errno == EWOULDBLOCK ? -EBUSY : -errno;
  size = lseek (t->fd, 0, SEEK_END);
  if (size == -1)
    return -errno;
  t->backend.ops = &file_ops;
  t->backend.size = size;
  t->backend.can_zero = true;
  t->can_flush = true;
  return 0;
}

/* --- NBD servers ------------------------------------------------------ */

static int
nbd_error (void)
{
  const int err = nbd_get_errno ();

  return err > 0 ? -err : -EIO;
}

/* One request of whole blocks that covers part of them only. */
static int
write_around (struct target *t, const char *buf, size_t length,
              uint64_t offset)
{
  const uint64_t start = round_down (offset, t->block);
  const uint64_t end = MIN (round_up (offset + length, t->block),
                            t->backend.size);
  CLEANUP_FREE char *whole = malloc (end - start);

  if (whole == NULL)
    return -ENOMEM;
  if (nbd_pread (t->nbd, whole, end - start, start, 0) == -1)
    return nbd_error ();
  memcpy (whole + (offset - start), buf, length);
  return nbd_pwrite (t->nbd, whole, end - start, start, 0) == -1
    ? nbd_error () : 0;
}

static int
nbd_backend_pwrite (struct backend *backend, const void *buf, size_t length,
                    uint64_t offset)
{
  struct target *t = target_of (backend);
  int r;

  if ((offset | length) & (t->block - 1))
    r = write_around (t, buf, length, offset);
  else
    r = nbd_pwrite (t->nbd, buf, length, offset, 0) == -1 ? nbd_error () : 0;
  return done (t, "write", r, length, offset);
}

static int
nbd_backend_zero (struct backend *backend, uint64_t length, uint64_t offset,
                  bool may_trim)
{
  struct target *t = target_of (backend);

  if ((offset | length) & (t->block - 1))
    return -EINVAL;
  if (nbd_zero (t->nbd, length, offset,
                may_trim ? 0 : LIBNBD_CMD_FLAG_NO_HOLE) == -1)
    return nbd_error ();
  return done (t, "zero", 0, length, offset);
}

static int
nbd_backend_flush (struct backend *backend)
{
  struct target *t = target_of (backend);

  if (!t->can_flush)
    return 0;
  return done (t, "flush", nbd_flush (t->nbd, 0) == -1 ? nbd_error () : 0,
               0, 0);
}

static const struct backend_ops nbd_ops = {
  .pread = file_pread,
  .pwrite = nbd_backend_pwrite,
  .zero = nbd_backend_zero,
  .flush = nbd_backend_flush,
};

static int
open_nbd (struct target *t)
{
  int64_t size, block;

  t->nbd = nbd_create ();
  if (t->nbd == NULL || nbd_connect_uri (t->nbd, t->name) == -1
      || (size = nbd_get_size (t->nbd)) == -1)
    return nbd_error ();
  if (nbd_is_read_only (t->nbd) != 0)
    return -EROFS;
  block = nbd_get_block_size (t->nbd, LIBNBD_SIZE_MINIMUM);
  t->block = block > 0 ? block : 1;
  /* Room for what comes before and behind. */
  if (!is_power_of_2 (t->block) || t->block > MAX_REQUEST)
    return -ENOTSUP;
  t->backend.ops = &nbd_ops;
  t->backend.size = size;
  t->backend.can_zero = nbd_can_zero (t->nbd) > 0;
  t->can_flush = nbd_can_flush (t->nbd) > 0;
  if (!t->can_flush)
    report (REPORT_WARNING, "%s: the server has no flush; what it does when "
            "the power fails is not known", t->name);
  return 0;
}

/* --- nothing ---------------------------------------------------------- */

static int
nothing_pwrite (struct backend *backend, const void *buf, size_t length,
                uint64_t offset)
{
  return done (target_of (backend), "write", 0, length, offset);
}

static int
nothing_zero (struct backend *backend, uint64_t length, uint64_t offset,
              bool may_trim)
{
  return done (target_of (backend), "zero", 0, length, offset);
}

static int
nothing_flush (struct backend *backend)
{
  return 0;
}

static const struct backend_ops nothing_ops = {
  .pread = file_pread,
  .pwrite = nothing_pwrite,
  .zero = nothing_zero,
  .flush = nothing_flush,
};

/* --- all -------------------------------------------------------------- */

static struct target *
target_new (const char *name)
{
  struct target *t = calloc (1, sizeof *t);

  if (t)
    *t = (struct target) {
      .backend = {
        .can_write = true, .max_request = MAX_REQUEST, .max_zero = MAX_ZERO,
      },
      .name = name, .fd = -1, .block = 1,
    };
  return t;
}

int
target_open (const char *name, uint64_t expected, struct target **target)
{
  struct target *t = target_new (name);
  int r;

  if (t == NULL)
    return -ENOMEM;
  r = strstr (name, "://") ? open_nbd (t) : open_file (t);
  if (r < 0) {
    const char *reason = t->nbd ? nbd_get_error () : NULL;

    report (REPORT_ERROR, "%s: cannot be written to: %s", name,
            r == -ENOTSUP ? "neither an image file, nor a block device, nor an "
            "NBD server that takes any block"
            : reason && r != -EROFS ? reason : strerror (-r));
  }
  else if (t->backend.size != expected) {
    r = -EMEDIUMTYPE;
    report (REPORT_ERROR, "%s: has %" PRIu64 " bytes, the cache belongs to a "
            "backing store of %" PRIu64 ": give that, or a copy of it", name,
            t->backend.size, expected);
  }
  if (r < 0)
    target_close (t);
  else
    *target = t;
  return r;
}

int
target_open_nothing (uint64_t size, struct target **target)
{
  struct target *t = target_new ("nothing");

  if (t == NULL)
    return -ENOMEM;
  t->backend.ops = &nothing_ops;
  t->backend.size = size;
  t->backend.can_zero = true;
  *target = t;
  return 0;
}

void
target_close (struct target *t)
{
  if (t == NULL)
    return;
  if (t->fd >= 0)
    close (t->fd);
  if (t->nbd) {
    (void) nbd_shutdown (t->nbd, 0);    /* what was flushed is there */
    nbd_close (t->nbd);
  }
  free (t);
}

struct backend *
target_backend (struct target *t)
{
  return &t->backend;
}

void
target_watch (struct target *t, void (*watch) (void *opaque, uint64_t bytes),
              void *opaque)
{
  t->watch = watch;
  t->opaque = opaque;
}

uint64_t
target_bytes (const struct target *t)
{
  return t->bytes;
}

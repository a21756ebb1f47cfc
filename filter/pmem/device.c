/* SPDX-License-Identifier: BSD-3-Clause */

/* Opening goes: what is it (stat, before open: opening some devices does
 * things), open, lock, is it still the same; only then is anything written.
 *
 * Creation grows the file by writing zeros to it, so that a crash leaves
 * either a file shorter than it shall be, all zeros, which the next open
 * finishes, or the whole. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/mutation.h"
#include "base/report.h"
#include "pmem/device.h"
#include "pmem/pmem.h"
#include "pmem/pmem_impl.h"

/* What a device starts with while it is being formatted. */
#define FORMATTING_MARK "PCACHEfm"
#define FORMATTING_MARK_LENGTH 8

#define SEARCH_PIECE ((size_t) 1 << 20)

static bool
is_dax_device (dev_t rdev)
{
  char link[64], target[256];
  const char *base;
  ssize_t n;

  snprintf (link, sizeof link, "/sys/dev/char/%u:%u/subsystem",
            major (rdev), minor (rdev));
  n = readlink (link, target, sizeof target - 1);
  if (n == -1)
    return false;
  target[n] = '\0';
  base = strrchr (target, '/');
  return strcmp (base ? base + 1 : target, "dax") == 0;
}

static int
refuse (const char *path, const char *found)
{
  report (REPORT_ERROR, "%s: is %s, not a cache device; expected a file, "
          "a DAX device or a block device", path, found);
  return -EINVAL;
}

static int
check_type (const char *path, const struct stat *st)
{
  switch (st->st_mode & S_IFMT) {
  case S_IFREG:
  case S_IFBLK:
    return 0;
  case S_IFCHR:
    if (is_dax_device (st->st_rdev))
      return 0;
    return refuse (path, "a character device which is not DAX");
  case S_IFDIR:
    return refuse (path, "a directory");
  case S_IFIFO:
    return refuse (path, "a FIFO");
  case S_IFSOCK:
    return refuse (path, "a socket");
  default:
    return refuse (path, "of unknown type");
  }
}

static int
refuse_in_use (const char *path, int err)
{
  report (REPORT_ERROR, "%s: in use by another process; a cache device has "
          "one user at a time: stop the other one first", path);
  return -err;
}

static int
open_for_writing (const char *path, const struct stat *st)
{
  /* O_EXCL: nor is a block device used that is mounted. */
  int flags = O_RDWR | O_CLOEXEC | (S_ISBLK (st->st_mode) ? O_EXCL : 0);
  int fd = open (path, flags), err = errno;

  if (fd >= 0)
    return fd;
  switch (err) {
  case EACCES:
  case EPERM:
  case EROFS:
    report (REPORT_ERROR, "%s: not writable: %s; the cache device is written "
            "to even if the disk is served read-only",
            path, strerror (err));
    return -err;
  case EBUSY:
    report (REPORT_ERROR, "%s: in use: mounted, part of another device, or "
            "opened by another process; stop that first", path);
    return -err;
  default:
    report (REPORT_ERROR, "%s: cannot be opened: %s", path, strerror (err));
    return -err;
  }
}

/* The lock belongs to the open file, not to the process: forked children
 * hold it as well, and it ends when the last of them closes.  Sets *LOCKED to
 * what it is that was locked.  HOW: LOCK_EX, or LOCK_SH to look only. */
static int
lock_device (const char *path, int fd, int how, struct stat *locked)
{
  struct stat named;

  if (!MUTATION (T18_NO_LOCK) && flock (fd, how | LOCK_NB) == -1) {
    int err = errno;

    if (err == EWOULDBLOCK)
      return refuse_in_use (path, err);
    report (REPORT_ERROR, "%s: cannot be locked against a second user: %s",
            path, strerror (err));
    return -err;
  }

  /* Who had it before may have removed it, and someone else may have put
   * another one there, which this lock does not protect. */
  if (fstat (fd, locked) == -1 || stat (path, &named) == -1 ||
      locked->st_dev != named.st_dev || locked->st_ino != named.st_ino) {
    report (REPORT_ERROR, "%s: was replaced while it was being opened; "
            "try again", path);
    return -EAGAIN;
  }
  return 0;
}

/* Let the file end at SIZE instead of FROM, everything in it written and
 * durable. */
static int
grow_file (const char *path, int fd, uint64_t from, uint64_t size)
{
  int r = file_fill_holes (fd, from);

  if (r == 0)
    r = file_set_size (fd, from, size);
  if (r == 0)
    r = file_sync_directory_of (path);
  return r;
}

/* Returns the locked file. */
static int
create_file (const char *path, uint64_t size, struct stat *st)
{
  int fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  int r;

  if (fd == -1) {
    int err = errno;

    report (REPORT_ERROR, "%s: cannot be created: %s%s", path,
            strerror (err), err != EEXIST ? "" :
            " (a symbolic link to nothing, or it appeared just now)");
    return -err;
  }
  r = lock_device (path, fd, LOCK_EX, st);
  if (r < 0) {
    /* Not removed: it is already someone else's. */
    close (fd);
    return r;
  }
  r = grow_file (path, fd, 0, size);
  if (r < 0) {
    report (REPORT_ERROR, "%s: cannot be created with %" PRIu64 " bytes: %s; "
            "removed again", path, size, strerror (-r));
    unlink (path);
    close (fd);
    return r;
  }
  return fd;
}

/* 1 or 0, or -errno. */
static int
is_unfinished (const char *path, int fd, uint64_t size)
{
  char start[FORMATTING_MARK_LENGTH];
  struct pmem *pmem;
  uint64_t content;
  int fd2, r;

  if (size == 0)
    return 1;
  if (pread (fd, start, sizeof start, 0) == sizeof start &&
      memcmp (start, FORMATTING_MARK, sizeof start) == 0)
    return 1;

  fd2 = fcntl (fd, F_DUPFD_CLOEXEC, 0);
  if (fd2 == -1)
    return -errno;
  r = pmem_file_open (fd2, path, "file", size, &pmem);
  if (r < 0) {
    close (fd2);
    return r;
  }
  r = device_find_content (pmem, &content);
  pmem_close (pmem);
  return r < 0 ? r : content == size;
}

static int
finish_creation (const char *path, int fd, uint64_t size, uint64_t create_size)
{
  int r;

  if (size >= create_size)
    return 0;
  r = is_unfinished (path, fd, size);
  if (r == 0)
    return 0;
  if (r < 0) {
    report (REPORT_ERROR, "%s: cannot be examined: %s", path, strerror (-r));
    return r;
  }

  r = grow_file (path, fd, size, create_size);
  if (r < 0) {
    report (REPORT_ERROR, "%s: cannot be extended from %" PRIu64 " to %" PRIu64
            " bytes to finish its creation: %s", path, size, create_size,
            strerror (-r));
    /* As it was: no worse than before if this fails, too. */
    if (ftruncate (fd, size) == -1)
      report (REPORT_DEBUG, "%s: ftruncate: %s", path, strerror (errno));
    return r;
  }
  return 0;
}

static int
open_dax_device (const char *path, int fd, struct pmem **pmem)
{
  int r = pmem_dax_open (fd, pmem);

  if (r < 0)
    report (REPORT_ERROR, "%s: DAX device cannot be mapped as persistent "
            "memory: %s", path, strerror (-r));
  return r;
}

static int
open_file_or_block (const char *path, int fd, bool is_block,
                    struct pmem **pmem)
{
  off_t size = lseek (fd, 0, SEEK_END);
  int r;

  if (size == -1) {
    int err = errno;

    report (REPORT_ERROR, "%s: size cannot be found: %s", path,
            strerror (err));
    return -err;
  }
  if (size == 0) {
    report (REPORT_ERROR, "%s: is empty (size 0), so nothing can be stored in "
            "it; %s", path, is_block ? "is there a medium?" :
            "remove it, or add pmem-size=SIZE");
    return -EINVAL;
  }

  /* A killed process leaves in the page cache what was not durable yet.
   * Nobody could tell it from what is, nor would a sync that looks only at
   * its own stores save it. */
  r = file_sync_data (fd);
  if (r < 0) {
    report (REPORT_ERROR, "%s: what it has cannot be made durable: %s", path,
            strerror (-r));
    return r;
  }

  if (!is_block) {
    r = pmem_dax_open (fd, pmem);
    if (r == 0)
      return 0;
    report (REPORT_DEBUG, "%s: not mapped as persistent memory (%s), so used "
            "as an ordinary file", path, strerror (-r));
  }
  r = pmem_file_open (fd, path, is_block ? "block device" : "file", size,
                      pmem);
  if (r < 0)
    report (REPORT_ERROR, "%s: cannot be mapped: %s", path, strerror (-r));
  else if (is_block)
    report (REPORT_WARNING, "%s: is a block device, which cannot be mapped as "
            "persistent memory, so it is used like a disk; for the speed of "
            "persistent memory use a devdax namespace, or a file on a file "
            "system mounted with -o dax in an fsdax namespace", path);
  return r;
}

int
device_open (const struct device_options *options, struct pmem **pmem)
{
  const char *path = options->path;
  CLEANUP_CLOSE int fd = -1;
  struct stat st;
  int r;

  if (stat (path, &st) == 0) {
    r = check_type (path, &st);
    if (r < 0)
      return r;
    fd = open_for_writing (path, &st);
    if (fd < 0)
      return fd;
    r = lock_device (path, fd, LOCK_EX, &st);
    if (r == 0)
      r = check_type (path, &st);
    if (r == 0 && S_ISREG (st.st_mode))
      r = finish_creation (path, fd, st.st_size, options->create_size);
    if (r < 0)
      return r;
  }
  else if (errno != ENOENT) {
    r = -errno;
    report (REPORT_ERROR, "%s: cannot be looked up: %s", path, strerror (-r));
    return r;
  }
  else if (options->create_size == 0) {
    report (REPORT_ERROR, "%s: does not exist; add pmem-size=SIZE to create "
            "it", path);
    return -ENOENT;
  }
  else {
    fd = create_file (path, options->create_size, &st);
    if (fd < 0)
      return fd;
  }

  r = S_ISCHR (st.st_mode)
    ? open_dax_device (path, fd, pmem)
    : open_file_or_block (path, fd, S_ISBLK (st.st_mode), pmem);
  if (r == 0)
    fd = -1;                    /* the pmem's now */
  return r;
}

/* Of a DAX device; its file has no size. */
static int
dax_device_size (dev_t rdev, uint64_t *size)
{
  char path[64];
  unsigned long long bytes;
  FILE *file;
  int n;

  snprintf (path, sizeof path, "/sys/dev/char/%u:%u/size", major (rdev),
            minor (rdev));
  file = fopen (path, "r");
  if (file == NULL)
    return -errno;
  n = fscanf (file, "%llu", &bytes);
  fclose (file);
  *size = bytes;
  return n == 1 ? 0 : -EIO;
}

static int
size_to_read (int fd, const struct stat *st, uint64_t *size)
{
  off_t end;

  if (S_ISCHR (st->st_mode))
    return dax_device_size (st->st_rdev, size);
  end = lseek (fd, 0, SEEK_END);
  if (end == -1)
    return -errno;
  *size = end;
  return end > 0 ? 0 : -ENODATA;
}

int
device_open_read_only (const char *path, struct pmem **pmem)
{
  CLEANUP_CLOSE int fd = -1;
  struct stat st;
  uint64_t size = 0;
  int r;

  if (stat (path, &st) == -1) {
    r = -errno;
    report (REPORT_ERROR, "%s: cannot be looked up: %s", path, strerror (-r));
    return r;
  }
  r = check_type (path, &st);
  if (r < 0)
    return r;
  fd = open (path, O_RDONLY | O_CLOEXEC);
  if (fd == -1) {
    r = -errno;
    report (REPORT_ERROR, "%s: cannot be opened: %s", path, strerror (-r));
    return r;
  }
  r = lock_device (path, fd, LOCK_SH, &st);
  if (r == 0)
    r = check_type (path, &st);
  if (r < 0)
    return r;
  r = size_to_read (fd, &st, &size);
  if (r == 0)
    /* Also of persistent memory: to read, any mapping will do. */
    r = pmem_file_open (fd, path, "read only", size, pmem);
  if (r < 0) {
    report (REPORT_ERROR, "%s: cannot be read: %s", path,
            r == -ENODATA ? "it is empty" : strerror (-r));
    return r;
  }
  fd = -1;                      /* the pmem's now */
  return 0;
}

/* The first byte that is not zero, or LENGTH. */
static size_t
find_nonzero (const char *buf, size_t length)
{
  size_t i;

  /* Zero when its first byte is, and each byte is like the one before. */
  if (length == 0 || (buf[0] == 0 && memcmp (buf, buf + 1, length - 1) == 0))
    return length;
  for (i = 0; buf[i] == 0; i++)
    ;
  return i;
}

int
device_find_content (struct pmem *pmem, uint64_t *offset)
{
  CLEANUP_FREE char *buf = malloc (SEARCH_PIECE);
  struct range data;

  *offset = 0;
  if (buf == NULL)
    return -ENOMEM;
  /* Once for each run of data: to find its end, some file systems look at every
   * page of it. */
  while (pmem_next_data (pmem, *offset, &data), data.length > 0)
    for (*offset = data.start; *offset < range_end (data);) {
      size_t n = MIN (range_end (data) - *offset, SEARCH_PIECE), found;
      int r;

      r = pmem_read (pmem, buf, *offset, n);
      if (r < 0)
        return r;
      found = find_nonzero (buf, n);
      *offset += found;
      if (found < n)
        return 0;
    }
  *offset = pmem->size;
  return 0;
}

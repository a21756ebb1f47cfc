/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"

int
file_pwrite (int fd, const void *buf, size_t length, uint64_t at)
{
  const char *p = buf;

  while (length > 0) {
    ssize_t n = pwrite (fd, p, length, at);

    if (n == -1 && errno == EINTR)
      continue;
    if (n == -1)
      return -errno;
    if (n == 0)                 /* the end of a block device */
      return -ENOSPC;
    p += n;
    at += n;
    length -= n;
  }
  return 0;
}

int
file_sync_directory_of (const char *path)
{
  const char *slash = strrchr (path, '/');
  CLEANUP_FREE char *directory =
    slash == NULL ? strdup (".") :
    strndup (path, slash == path ? 1 : slash - path);
  CLEANUP_CLOSE int fd = -1;

  if (directory == NULL)
    return -ENOMEM;
  fd = open (directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd == -1 || fsync (fd) == -1)
    return -errno;
  return 0;
}

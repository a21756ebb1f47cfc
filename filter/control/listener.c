/* SPDX-License-Identifier: BSD-3-Clause */

/* The file is known again by its inode, whose number nobody else gets while
 * the bound socket is open. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/report.h"
#include "control/listener.h"

#define BACKLOG 16
#define LOCK_TRIES 20
#define LOCK_PAUSE_US 50000

static int
complain (const char *path, const char *what, int error)
{
  report (REPORT_ERROR, "pcache-control=%s: %s: %s", path, what,
          strerror (error));
  return -error;
}

/* Two that start at the same time must not both find an old socket, and the
 * second remove the first one's new one.  Where the lock is not to be had,
 * because others use it for something else, it is done without. */
static int
lock_directory (const char *path)
{
  CLEANUP_FREE char *copy = strdup (path);
  int fd = copy ? open (dirname (copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    : -1;

  for (int i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
    if (flock (fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
      break;
    usleep (LOCK_PAUSE_US);
  }
  return fd;
}

/* Is there something that may go?  0: it has gone. */
static int
remove_stale (const struct sockaddr_un *address)
{
  const char *path = address->sun_path;
  CLEANUP_CLOSE int fd = -1;
  struct stat st;

  if (lstat (path, &st) == -1)
    return errno == ENOENT ? 0 : complain (path, "cannot be looked at", errno);
  if (!S_ISSOCK (st.st_mode)) {
    report (REPORT_ERROR, "pcache-control=%s: there is something that is not "
            "a socket; it is left alone", path);
    return -EEXIST;
  }
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1)
    return complain (path, "socket", errno);
  if (connect (fd, (const struct sockaddr *) address, sizeof *address) == 0
      || errno != ECONNREFUSED) {
    report (REPORT_ERROR, "pcache-control=%s: in use by another process",
            path);
    return -EADDRINUSE;
  }
  if (unlink (path) == -1 && errno != ENOENT)
    return complain (path, "an old socket cannot be removed", errno);
  return 0;
}

/* The kernel gives the file the mode of the socket.  (The umask would be the
 * whole process's.) */
static int
bind_and_listen (int fd, const struct sockaddr_un *address,
                 struct listener *listener)
{
  struct stat st;

  if (fchmod (fd, S_IRUSR | S_IWUSR) == -1
      || bind (fd, (const struct sockaddr *) address, sizeof *address) == -1)
    return complain (listener->path, "cannot be made", errno);
  if (lstat (listener->path, &st) == -1 || listen (fd, BACKLOG) == -1) {
    const int error = errno;

    unlink (listener->path);
    return complain (listener->path, "cannot be listened to", error);
  }
  listener->device = st.st_dev;
  listener->inode = st.st_ino;
  listener->fd = fd;
  return 0;
}

int
listener_open (struct listener *listener, const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  CLEANUP_CLOSE int directory = -1;
  int fd, r;

  if (strlen (path) >= sizeof address.sun_path) {
    report (REPORT_ERROR, "pcache-control=%s: the path is longer than %zu "
            "bytes, as the path of a socket may not be", path,
            sizeof address.sun_path - 1);
    return -ENAMETOOLONG;
  }
  strcpy (address.sun_path, path);
  *listener = (struct listener) { .fd = -1, .path = path };
  directory = lock_directory (path);
  r = remove_stale (&address);
  if (r < 0)
    return r;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1)
    return complain (path, "socket", errno);
  r = bind_and_listen (fd, &address, listener);
  if (r < 0)
    close (fd);
  return r;
}

void
listener_close (struct listener *listener)
{
  struct stat st;

  if (listener->fd == -1)
    return;
  if (lstat (listener->path, &st) == 0 && st.st_dev == listener->device
      && st.st_ino == listener->inode)
    unlink (listener->path);
  close (listener->fd);
  listener->fd = -1;
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* listener: a unix socket in the file system, from bind to unlink. */

#ifndef PCACHE_CONTROL_LISTENER_H
#define PCACHE_CONTROL_LISTENER_H

#include <sys/stat.h>

struct listener {
  int fd;                       /* does not block */
  const char *path;
  dev_t device;                 /* of the file at PATH */
  ino_t inode;
};

/* Only the owner may ever connect.  A socket that nobody serves is replaced;
 * one that is served, and anything else at PATH, is left alone.  0, or -errno
 * after the reason was reported.  PATH must stay. */
extern int listener_open (struct listener *listener, const char *path);

/* Remove the file, if it is still ours. */
extern void listener_close (struct listener *listener);

#endif /* PCACHE_CONTROL_LISTENER_H */

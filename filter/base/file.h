/* SPDX-License-Identifier: BSD-3-Clause */

/* file: writing to files so that it is done. */

#ifndef PCACHE_FILE_H
#define PCACHE_FILE_H

#include <stddef.h>
#include <stdint.h>

/* All of it, whatever EINTR and short writes do.  0 or -errno. */
extern int file_pwrite (int fd, const void *buf, size_t length, uint64_t at);

/* Make durable that PATH is there, or no longer is.  0 or -errno. */
extern int file_sync_directory_of (const char *path);

#endif /* PCACHE_FILE_H */

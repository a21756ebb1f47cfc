/* SPDX-License-Identifier: BSD-3-Clause */

/* device: finds out what a path is and opens it as a pmem.
 *
 *   DAX character device, file on a DAX file system
 *     (libpmem maps it with MAP_SYNC, or PMEM_IS_PMEM_FORCE=1)   pmem_dax.c
 *   ordinary file, block device                                  pmem_file.c
 *
 * The device is locked (flock) against a second user until it is closed;
 * the lock survives a fork of the process that took it.
 *
 * What an earlier user left in the page cache of a file or block device is
 * made durable by the open: everything that can be read from then on is as
 * durable as if pmem_sync had been called. */

#ifndef PCACHE_DEVICE_H
#define PCACHE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "pmem/pmem.h"

struct device_options {
  const char *path;
  uint64_t create_size;         /* bytes; 0: a missing path is an error.
                                 * Otherwise a missing path is created as an
                                 * ordinary file of this size, every byte
                                 * written (so no write later meets a hole
                                 * or an unwritten extent).  A smaller file
                                 * that is all zeros or starts with the
                                 * mark of an unfinished formatting is a
                                 * creation that was interrupted, and is
                                 * finished.  Any other is opened as it is: whether
                                 * it may have another size is for who
                                 * knows its content (pmem_resize). */
};

/* 0, or -errno after the reason was reported: missing (says what to add),
 * a directory, not writable, in use by another process, empty... */
extern int device_open (const struct device_options *options,
                        struct pmem **pmem);

/* To look only: the device can be a read-only file, stores to the pmem fail, and
 * the lock keeps out who would write, not others who look.  0, or -errno after
 * the reason was reported. */
extern int device_open_read_only (const char *path, struct pmem **pmem);

/* Set *OFFSET to the first byte that is not zero, or to the size when
 * there is none.  Holes of sparse files are not read.  0 or -errno; after
 * -EIO, *OFFSET is near where the device could not be read. */
extern int device_find_content (struct pmem *pmem, uint64_t *offset);

#endif /* PCACHE_DEVICE_H */

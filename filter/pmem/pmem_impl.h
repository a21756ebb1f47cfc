/* SPDX-License-Identifier: BSD-3-Clause */

/* pmem_impl: what device.c and the kinds of pmem share.
 *
 * Only for pmem/. */

#ifndef PCACHE_PMEM_IMPL_H
#define PCACHE_PMEM_IMPL_H

#include <stdint.h>

#include "base/arith.h"
#include "base/file.h"
#include "pmem/pmem.h"

/* Open what FD (read-write, locked) refers to.  On success the pmem owns
 * FD, otherwise the caller still does.  0 or -errno, nothing reported;
 * -ENOTSUP when libpmem can map it, but not as persistent memory. */
extern int pmem_dax_open (int fd, struct pmem **pmem);

/* NAME is for messages.  KIND lives as long as the pmem. */
extern int pmem_file_open (int fd, const char *name, const char *kind,
                           uint64_t size, struct pmem **pmem);

/* 0 or -errno. */
extern int file_write_zeros (int fd, struct range range);
extern int file_sync_data (int fd);

/* Let a regular file of FROM bytes end at TO.  What is new is zeros, written and
 * durable.  0; or -errno, and the file has FROM bytes again. */
extern int file_set_size (int fd, uint64_t from, uint64_t to);

/* Write zeros where a regular file of SIZE bytes has holes or extents that
 * were allocated but never written.  Not durable yet. */
extern int file_fill_holes (int fd, uint64_t size);

/* The same as pmem_next_data, of a regular file of SIZE bytes. */
extern void file_next_data (int fd, uint64_t size, uint64_t at,
                            struct range *data);

#endif /* PCACHE_PMEM_IMPL_H */

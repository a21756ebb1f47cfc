/* SPDX-License-Identifier: BSD-3-Clause */

/* Persistent memory, stored to directly: a devdax device, or a file on a
 * DAX file system mapped with MAP_SYNC (so that a page fault has made the
 * file's metadata durable before the first store to the page).
 *
 * Stores bypass the CPU's caches.  Where a copy begins or ends within a
 * cache line, libpmem stores normally and starts to write the line back.
 * Either way the bytes are durable after the storing thread's next
 * pmem_drain, and not before. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libpmem.h>

#include "pmem/media_error.h"
#include "pmem/pmem.h"
#include "pmem/pmem_impl.h"

#define PAGE 4096

struct pmem_dax {
  struct pmem pmem;             /* first */
  struct mapping mapping;
  int fd;                       /* holds the lock */
  bool is_regular;
};

struct copy_args {
  void *to;
  const void *from;
  size_t length;
};

static void
do_copy (void *arg)
{
  struct copy_args *args = arg;

  pmem_memcpy (args->to, args->from, args->length,
               PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN);
}

static int
dax_copy (struct pmem *pmem, uint64_t at, const void *from, size_t length)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;
  struct copy_args args = { d->mapping.base + at, from, length };

  assert (at <= pmem->size && length <= pmem->size - at);
  return mapping_guard (&d->mapping, do_copy, &args);
}

static int
dax_fence (struct pmem *pmem)
{
  pmem_drain ();
  return 0;
}

static void
do_make_durable (void *arg)
{
  struct copy_args *args = arg;

  pmem_persist (args->to, args->length);
}

static int
dax_make_durable (struct pmem *pmem, uint64_t at, size_t length)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;
  struct copy_args args = { d->mapping.base + at, NULL, length };
  const uint64_t end = at + length;
  int r;

  assert (at <= pmem->size && length <= pmem->size - at);
  r = mapping_guard (&d->mapping, do_make_durable, &args);
  if (r == 0)
    return 0;
  /* A bad page must not keep the others from it. */
  for (; at < end; at += args.length) {
    args.to = d->mapping.base + at;
    args.length = MIN (end - at, PAGE - at % PAGE);
    (void) mapping_guard (&d->mapping, do_make_durable, &args);
  }
  return r;
}

static int
dax_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;

  return mapping_read (&d->mapping, to, at, length);
}

static void
dax_prefetch (struct pmem *pmem, uint64_t at, size_t length)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;

  mapping_prefetch (&d->mapping, at, length);
}

static int
dax_checksum (struct pmem *pmem, uint64_t at, size_t length, uint64_t *sum)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;

  return mapping_checksum (&d->mapping, at, length, sum);
}

/* A store that meets a hole when the file system is full is a SIGBUS, and
 * comes much too late to be handled well. */
static int
dax_allocate (struct pmem *pmem)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;
  int r;

  if (!d->is_regular)
    return 0;
  do
    r = posix_fallocate (d->fd, 0, pmem->size);
  while (r == EINTR);
  return -r;
}

static int
map_whole (int fd, struct mapping *mapping)
{
  /* libpmem opens by name: this one cannot come to mean another file. */
  char name[sizeof "/proc/self/fd/" + 3 * sizeof fd];
  int is_pmem;

  snprintf (name, sizeof name, "/proc/self/fd/%d", fd);
  mapping->base = pmem_map_file (name, 0, 0, 0, &mapping->length, &is_pmem);
  if (mapping->base == NULL)
    return errno > 0 ? -errno : -EIO;
  if (is_pmem)
    return 0;
  pmem_unmap (mapping->base, mapping->length);
  return -ENOTSUP;
}

static int
dax_resize (struct pmem *pmem, uint64_t size)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;
  struct mapping mapping;
  int r;

  r = file_set_size (d->fd, pmem->size, size);
  if (r < 0)
    return r;
  r = map_whole (d->fd, &mapping);
  if (r < 0) {
    (void) file_set_size (d->fd, size, pmem->size);
    return r;
  }
  pmem_unmap (d->mapping.base, d->mapping.length);
  d->mapping = mapping;
  pmem->size = mapping.length;
  return 0;
}

static void
dax_next_data (struct pmem *pmem, uint64_t at, struct range *data)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;

  if (d->is_regular)
    file_next_data (d->fd, pmem->size, at, data);
  else
    *data = (struct range) { at, pmem->size - at };
}

static void
dax_close (struct pmem *pmem)
{
  struct pmem_dax *d = (struct pmem_dax *) pmem;

  pmem_unmap (d->mapping.base, d->mapping.length);
  media_error_release ();
  close (d->fd);
  free (d);
}

static const struct pmem_ops dax_ops = {
  .copy = dax_copy,
  .fence = dax_fence,
  .sync = dax_fence,
  .make_durable = dax_make_durable,
  .read = dax_read,
  .checksum = dax_checksum,
  .prefetch = dax_prefetch,
  .allocate = dax_allocate,
  .resize = dax_resize,
  .close = dax_close,
  .next_data = dax_next_data,
};

int
pmem_dax_open (int fd, struct pmem **pmem)
{
  struct mapping mapping;
  struct pmem_dax *d;
  struct stat st;
  int r;

  if (fstat (fd, &st) == -1)
    return -errno;
  r = map_whole (fd, &mapping);
  if (r < 0)
    return r;

  d = malloc (sizeof *d);
  if (d == NULL) {
    pmem_unmap (mapping.base, mapping.length);
    return -ENOMEM;
  }
  *d = (struct pmem_dax) {
    .pmem = {
      .ops = &dax_ops, .size = mapping.length, .ordered = true, .kind = "pmem",
      .can_resize = S_ISREG (st.st_mode),
    },
    .mapping = mapping,
    .fd = fd,
    .is_regular = S_ISREG (st.st_mode),
  };
  media_error_catch ();
  *pmem = &d->pmem;
  return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */

/* An ordinary file or a block device: read through a mapping, written with
 * pwrite, made durable with fdatasync.
 *
 * Storing through the mapping as well would be slower by an order of
 * magnitude: msync of one page writes back the whole folio around it.  The
 * mapping and pwrite share the page cache, so a read sees a store at once.
 *
 * Syncs are shared.  Stores are counted when they are complete; a sync
 * covers those counted before its fdatasync started.  Who asks for a sync
 * needs one that covers the stores counted when they asked: it may be done
 * already, or be under way; otherwise the first who can starts it, for all
 * who came until then.
 *
 *   stores        1   2           3
 *   fdatasync           |--- a ---|   |--- b ---|
 *   callers              ^1         ^2  ^3         ^4
 *
 * 1 starts a, 2 starts b, 3 waits for b, 4 has nothing to do.
 *
 * A client that flushes after every write makes two stores, of data and of a record
 * set, and then waits for the disk.  When that was so the last time, the kernel is
 * asked to write these stores at once: the disk is at work while the client is
 * told, and asks for the flush.  That promises nothing. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/report.h"
#include "base/thread.h"
#include "pmem/media_error.h"
#include "pmem/pmem.h"
#include "pmem/pmem_impl.h"

/* Between two syncs, if the second is to be taken for usual. */
#define FEW_STORES 2

struct pmem_file {
  struct pmem pmem;             /* first */
  struct mapping mapping;       /* read only */
  int fd;                       /* holds the lock */
  char *name;
  bool is_regular;

  _Atomic uint64_t stores;      /* completed */
  _Atomic uint64_t early_until; /* of stores; these are written at once */

  pthread_mutex_t lock;
  pthread_cond_t sync_ended;
  uint64_t stores_synced;       /* lock; of stores, so many are durable */
  bool sync_running;            /* lock */
  bool sync_failed;             /* lock; see pmem_trust */
};

int
file_write_zeros (int fd, struct range range)
{
  static char zeros[1 << 20];   /* never written: costs no memory */

  while (range.length > 0) {
    size_t n = MIN (range.length, sizeof zeros);
    int r = file_pwrite (fd, zeros, n, range.start);

    if (r < 0)
      return r;
    range.start += n;
    range.length -= n;
  }
  return 0;
}

int
file_sync_data (int fd)
{
  int r;

  do
    r = fdatasync (fd);
  while (r == -1 && errno == EINTR);
  return r == -1 ? -errno : 0;
}

/* File systems that know nothing of holes say that all is data. */
void
file_next_data (int fd, uint64_t size, uint64_t at, struct range *data)
{
  off_t start = lseek (fd, at, SEEK_DATA), end;

  *data = (struct range) { at, size - at };
  if (start == -1 && errno == ENXIO)
    data->length = 0;
  if (start < 0)
    return;
  end = lseek (fd, start, SEEK_HOLE);
  if (end <= start)
    end = size;
  *data = range_clip ((struct range) { start, end - start }, *data);
}

/* Never written extents count as holes, too: the first write to each would
 * be many times slower than a later one. */
int
file_fill_holes (int fd, uint64_t size)
{
  uint64_t at = 0;

  while (at < size) {
    struct range data;
    int r;

    file_next_data (fd, size, at, &data);
    if (data.length == 0)
      data.start = size;
    r = file_write_zeros (fd, (struct range) { at, data.start - at });
    if (r < 0)
      return r;
    at = range_end (data);
  }
  return 0;
}

int
file_set_size (int fd, uint64_t from, uint64_t to)
{
  int r = 0;

  if (to > from) {
    r = file_write_zeros (fd, (struct range) { from, to - from });
    if (r == 0)
      r = file_sync_data (fd);
  }
  else if (ftruncate (fd, to) == -1)
    return -errno;
  if (r < 0 && ftruncate (fd, from) == -1)
    report (REPORT_DEBUG, "ftruncate to %" PRIu64 ": %s", from,
            strerror (errno));
  return r;
}

static bool
file_sync_is_near (struct pmem *pmem)
{
  struct pmem_file *f = (struct pmem_file *) pmem;

  return atomic_load_explicit (&f->stores, memory_order_relaxed)
    < atomic_load_explicit (&f->early_until, memory_order_relaxed);
}

static int
file_copy (struct pmem *pmem, uint64_t at, const void *from, size_t length)
{
  struct pmem_file *f = (struct pmem_file *) pmem;
  const bool early = file_sync_is_near (pmem);
  int r;

  assert (at <= pmem->size && length <= pmem->size - at);
  r = file_pwrite (f->fd, from, length, at);
  /* Also after an error: a part may have been stored. */
  atomic_fetch_add (&f->stores, 1);
  /* If this fails, so does the next fdatasync: the page stays dirty, or the error
   * noted. */
  if (early)
    (void) sync_file_range (f->fd, at, length, SYNC_FILE_RANGE_WRITE);
  return r;
}

static int
file_fence (struct pmem *pmem)
{
  return 0;
}

/* Gives up the lock meanwhile. */
static void
run_sync_locked (struct pmem_file *f)
{
  uint64_t covered = atomic_load (&f->stores);
  const bool few = covered - f->stores_synced <= FEW_STORES;
  int r;

  atomic_store (&f->early_until, few ? covered + FEW_STORES : 0);
  f->sync_running = true;
  mutex_unlock (&f->lock);
  r = file_sync_data (f->fd);
  if (r < 0)
    report (REPORT_ERROR, "%s: data could not be made durable: %s; "
            "flushes fail until the cache is opened again or left",
            f->name, strerror (-r));
  mutex_lock (&f->lock);
  f->sync_running = false;

  /* After a failure the kernel may have dropped what it could not write
   * and called it clean: the next fdatasync would succeed, and lie. */
  if (r < 0)
    f->sync_failed = true;
  else
    f->stores_synced = covered;
  pthread_cond_broadcast (&f->sync_ended);
}

static int
file_sync (struct pmem *pmem)
{
  struct pmem_file *f = (struct pmem_file *) pmem;
  uint64_t wanted = atomic_load (&f->stores);
  HOLD_LOCK (&f->lock);

  while (!f->sync_failed && f->stores_synced < wanted) {
    if (f->sync_running)
      pthread_cond_wait (&f->sync_ended, &f->lock);
    else
      run_sync_locked (f);
  }
  return f->sync_failed ? -EIO : 0;
}

static bool
file_trust (struct pmem *pmem, bool trust)
{
  struct pmem_file *f = (struct pmem_file *) pmem;
  HOLD_LOCK (&f->lock);
  const bool had_failed = f->sync_failed;

  assert (!f->sync_running);
  f->sync_failed = !trust;
  return had_failed;
}

/* Of the pages that somebody before us stored to, only the kernel knows. */
static int
file_make_durable (struct pmem *pmem, uint64_t at, size_t length)
{
  struct pmem_file *f = (struct pmem_file *) pmem;

  atomic_fetch_add (&f->stores, 1);
  return file_sync (pmem);
}

static int
file_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  struct pmem_file *f = (struct pmem_file *) pmem;

  return mapping_read (&f->mapping, to, at, length);
}

static void
file_prefetch (struct pmem *pmem, uint64_t at, size_t length)
{
  struct pmem_file *f = (struct pmem_file *) pmem;

  mapping_prefetch (&f->mapping, at, length);
}

static int
file_checksum (struct pmem *pmem, uint64_t at, size_t length, uint64_t *sum)
{
  struct pmem_file *f = (struct pmem_file *) pmem;

  return mapping_checksum (&f->mapping, at, length, sum);
}

/* What cannot be had should not be tried: it would leave the file system full.
 * Extents that were never written look like holes, but are allocated; where the file
 * system compresses, what is written is not. */
static bool
holes_are_too_large (int fd, uint64_t size)
{
  uint64_t holes = 0, allocated;
  struct statvfs fs;
  struct range data;
  struct stat st;

  if (fstat (fd, &st) == -1 || fstatvfs (fd, &fs) == -1 || fs.f_blocks == 0)
    return false;

  for (uint64_t at = 0; at < size; at = range_end (data)) {
    file_next_data (fd, size, at, &data);
    if (data.length == 0)
      data.start = size;
    holes += data.start - at;
  }
  allocated = (uint64_t) st.st_blocks * 512;
  return MIN (holes, size - MIN (size, allocated))
    > (uint64_t) fs.f_bfree * fs.f_frsize;
}

static int
file_allocate (struct pmem *pmem)
{
  struct pmem_file *f = (struct pmem_file *) pmem;
  int r;

  if (!f->is_regular)
    return 0;
  if (holes_are_too_large (f->fd, pmem->size))
    return -ENOSPC;
  r = file_fill_holes (f->fd, pmem->size);
  atomic_fetch_add (&f->stores, 1);
  return r < 0 ? r : file_sync (pmem);
}

static int
file_resize (struct pmem *pmem, uint64_t size)
{
  struct pmem_file *f = (struct pmem_file *) pmem;
  void *base;
  int r;

  if (size > SIZE_MAX)
    return -EFBIG;
  r = file_set_size (f->fd, pmem->size, size);
  if (r < 0)
    return r;
  base = mremap (f->mapping.base, f->mapping.length, size, MREMAP_MAYMOVE);
  if (base == MAP_FAILED) {
    r = -errno;
    (void) file_set_size (f->fd, size, pmem->size);
    return r;
  }
  f->mapping = (struct mapping) { base, size };
  pmem->size = size;
  return 0;
}

static void
file_find_data (struct pmem *pmem, uint64_t at, struct range *data)
{
  struct pmem_file *f = (struct pmem_file *) pmem;

  if (f->is_regular)
    file_next_data (f->fd, pmem->size, at, data);
  else
    *data = (struct range) { at, pmem->size - at };
}

static void
file_close (struct pmem *pmem)
{
  struct pmem_file *f = (struct pmem_file *) pmem;

  munmap (f->mapping.base, f->mapping.length);
  media_error_release ();
  close (f->fd);
  pthread_cond_destroy (&f->sync_ended);
  pthread_mutex_destroy (&f->lock);
  free (f->name);
  free (f);
}

static const struct pmem_ops file_ops = {
  .copy = file_copy,
  .fence = file_fence,
  .sync = file_sync,
  .sync_is_near = file_sync_is_near,
  .trust = file_trust,
  .make_durable = file_make_durable,
  .read = file_read,
  .checksum = file_checksum,
  .prefetch = file_prefetch,
  .allocate = file_allocate,
  .resize = file_resize,
  .close = file_close,
  .next_data = file_find_data,
};

int
pmem_file_open (int fd, const char *name, const char *kind, uint64_t size,
                struct pmem **pmem)
{
  struct pmem_file *f;
  struct stat st;
  char *own_name;
  void *base;

  if (size > SIZE_MAX)
    return -EFBIG;
  if (fstat (fd, &st) == -1)
    return -errno;
  base = mmap (NULL, size, PROT_READ, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED)
    return -errno;

  f = malloc (sizeof *f);
  own_name = strdup (name);
  if (f == NULL || own_name == NULL) {
    free (f);
    free (own_name);
    munmap (base, size);
    return -ENOMEM;
  }
  *f = (struct pmem_file) {
    .pmem = {
      .ops = &file_ops, .size = size, .kind = kind,
      .can_resize = S_ISREG (st.st_mode),
    },
    .mapping = { base, size },
    .fd = fd,
    .name = own_name,
    .is_regular = S_ISREG (st.st_mode),
  };
  pthread_mutex_init (&f->lock, NULL);
  cond_init (&f->sync_ended);
  media_error_catch ();
  *pmem = &f->pmem;
  return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "support/faults.h"

static struct {
  _Atomic bool armed;
  enum fault fault;             /* constant while armed */
  uint64_t nth;
  bool sticky;
  _Atomic uint64_t seen, struck;
} faults;

static _Thread_local bool spared;

const char *
fault_name (enum fault fault)
{
  static const char *const names[] = {
    [FAULT_ALLOCATION] = "allocation",
    [FAULT_THREAD] = "thread creation",
    [FAULT_BACKING_READ] = "backing store's read",
    [FAULT_BACKING_WRITE] = "backing store's write",
    [FAULT_BACKING_ZERO] = "backing store's zero",
    [FAULT_BACKING_TRIM] = "backing store's trim",
    [FAULT_BACKING_FLUSH] = "backing store's flush",
    [FAULT_STORE] = "store to the cache device",
    [FAULT_FENCE] = "fence of the cache device",
    [FAULT_SYNC] = "sync of the cache device",
    [FAULT_READ] = "read of the cache device",
    [FAULT_CHECKSUM] = "checksum on the cache device",
    [FAULT_SPACE] = "space on the cache device",
  };

  return names[fault];
}

bool
fault_is_backing (enum fault fault)
{
  return fault >= FAULT_BACKING_READ && fault <= FAULT_BACKING_FLUSH;
}

void
faults_arm (enum fault fault, uint64_t nth, bool sticky)
{
  assert (!faults.armed && nth > 0);
  faults.fault = fault;
  faults.nth = nth;
  faults.sticky = sticky;
  faults.seen = faults.struck = 0;
  faults.armed = true;
}

void
faults_lift (void)
{
  faults.armed = false;
}

uint64_t
faults_struck (void)
{
  return faults.struck;
}

void
faults_spare_me (bool spare)
{
  spared = spare;
}

static bool
strikes (enum fault fault)
{
  uint64_t number;

  if (spared || !faults.armed || faults.fault != fault)
    return false;
  number = atomic_fetch_add (&faults.seen, 1) + 1;
  if (faults.sticky ? number < faults.nth : number != faults.nth)
    return false;
  faults.struck++;
  return true;
}

/* --- memory and threads ----------------------------------------------- */

/* What -Wl,--wrap makes of the names. */
extern void *__real_malloc (size_t size);
extern void *__wrap_malloc (size_t size);
extern void *__real_calloc (size_t n, size_t size);
extern void *__wrap_calloc (size_t n, size_t size);
extern void *__real_realloc (void *p, size_t size);
extern void *__wrap_realloc (void *p, size_t size);
extern void *__real_aligned_alloc (size_t alignment, size_t size);
extern void *__wrap_aligned_alloc (size_t alignment, size_t size);
extern int __real_posix_memalign (void **p, size_t alignment, size_t size);
extern int __wrap_posix_memalign (void **p, size_t alignment, size_t size);
extern void *__real_mmap (void *at, size_t size, int protection, int flags,
                          int fd, off_t offset);
extern void *__wrap_mmap (void *at, size_t size, int protection, int flags,
                          int fd, off_t offset);
extern char *__real_strdup (const char *s);
extern char *__wrap_strdup (const char *s);
extern char *__real_strndup (const char *s, size_t n);
extern char *__wrap_strndup (const char *s, size_t n);
extern int __real_pthread_create (pthread_t *thread,
                                  const pthread_attr_t *attr,
                                  void *(*start) (void *), void *arg);
extern int __wrap_pthread_create (pthread_t *thread,
                                  const pthread_attr_t *attr,
                                  void *(*start) (void *), void *arg);

static bool
no_memory (void)
{
  if (!strikes (FAULT_ALLOCATION))
    return false;
  errno = ENOMEM;
  return true;
}

void *
__wrap_malloc (size_t size)
{
  return no_memory () ? NULL : __real_malloc (size);
}

void *
__wrap_calloc (size_t n, size_t size)
{
  return no_memory () ? NULL : __real_calloc (n, size);
}

void *
__wrap_realloc (void *p, size_t size)
{
  return no_memory () ? NULL : __real_realloc (p, size);
}

void *
__wrap_aligned_alloc (size_t alignment, size_t size)
{
  return no_memory () ? NULL : __real_aligned_alloc (alignment, size);
}

int
__wrap_posix_memalign (void **p, size_t alignment, size_t size)
{
  return no_memory () ? ENOMEM : __real_posix_memalign (p, alignment, size);
}

/* Of memory, not of files. */
void *
__wrap_mmap (void *at, size_t size, int protection, int flags, int fd,
             off_t offset)
{
  return (flags & MAP_ANONYMOUS) && no_memory () ? MAP_FAILED
    : __real_mmap (at, size, protection, flags, fd, offset);
}

char *
__wrap_strdup (const char *s)
{
  return no_memory () ? NULL : __real_strdup (s);
}

char *
__wrap_strndup (const char *s, size_t n)
{
  return no_memory () ? NULL : __real_strndup (s, n);
}

int
__wrap_pthread_create (pthread_t *thread, const pthread_attr_t *attr,
                       void *(*start) (void *), void *arg)
{
  return strikes (FAULT_THREAD) ? EAGAIN
    : __real_pthread_create (thread, attr, start, arg);
}

/* --- the cache device ------------------------------------------------- */

struct fault_pmem {
  struct pmem pmem;             /* first */
  struct pmem *inner;
  _Atomic bool sync_failed;     /* see pmem_trust */
};

static struct pmem *
inner_of (struct pmem *pmem)
{
  return ((struct fault_pmem *) pmem)->inner;
}

static int
fault_copy (struct pmem *pmem, uint64_t at, const void *from, size_t length)
{
  if (strikes (FAULT_STORE)) {
    /* No device tears an aligned word. */
    pmem_copy (inner_of (pmem), at, from, round_down (length / 2, 8));
    return -EIO;
  }
  return pmem_copy (inner_of (pmem), at, from, length);
}

static int
fault_fence (struct pmem *pmem)
{
  return strikes (FAULT_FENCE) ? -EIO : pmem_fence (inner_of (pmem));
}

static int
fault_sync (struct pmem *pmem)
{
  struct fault_pmem *fp = (struct fault_pmem *) pmem;

  if (strikes (FAULT_SYNC))
    fp->sync_failed = true;
  return fp->sync_failed ? -EIO : pmem_sync (fp->inner);
}

static bool
fault_trust (struct pmem *pmem, bool trust)
{
  struct fault_pmem *fp = (struct fault_pmem *) pmem;
  const bool inner = pmem_trust (fp->inner, trust);

  return atomic_exchange (&fp->sync_failed, !trust) || inner;
}

static int
fault_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  return strikes (FAULT_READ) ? -EIO
    : pmem_read (inner_of (pmem), to, at, length);
}

static int
fault_make_durable (struct pmem *pmem, uint64_t at, size_t length)
{
  return strikes (FAULT_FENCE) ? -EIO
    : pmem_make_durable (inner_of (pmem), at, length);
}

static int
fault_checksum (struct pmem *pmem, uint64_t at, size_t length, uint64_t *sum)
{
  return strikes (FAULT_CHECKSUM) ? -EIO
    : pmem_checksum (inner_of (pmem), at, length, sum);
}

static int
fault_allocate (struct pmem *pmem)
{
  return strikes (FAULT_SPACE) ? -ENOSPC : pmem_allocate (inner_of (pmem));
}

static int
fault_resize (struct pmem *pmem, uint64_t size)
{
  int r = strikes (FAULT_SPACE) ? -ENOSPC
    : pmem_resize (inner_of (pmem), size);

  pmem->size = inner_of (pmem)->size;
  return r;
}

static void
fault_next_data (struct pmem *pmem, uint64_t at, struct range *data)
{
  pmem_next_data (inner_of (pmem), at, data);
}

static void
fault_close (struct pmem *pmem)
{
  pmem_close (inner_of (pmem));
  free (pmem);
}

static const struct pmem_ops fault_pmem_ops = {
  .copy = fault_copy,
  .fence = fault_fence,
  .sync = fault_sync,
  .trust = fault_trust,
  .make_durable = fault_make_durable,
  .read = fault_read,
  .checksum = fault_checksum,
  .allocate = fault_allocate,
  .resize = fault_resize,
  .close = fault_close,
  .next_data = fault_next_data,
};

struct pmem *
fault_pmem_new (struct pmem *inner)
{
  struct fault_pmem *fp = calloc (1, sizeof *fp);

  assert (fp);
  fp->pmem = *inner;
  fp->pmem.ops = &fault_pmem_ops;
  fp->inner = inner;
  return &fp->pmem;
}

/* --- the backing store ------------------------------------------------ */

/* All that are in use at a time have the same ones. */
static const struct backend_ops *inner_ops;

static int
fault_pread (struct backend *b, void *buf, size_t length, uint64_t offset)
{
  if (strikes (FAULT_BACKING_READ)) {
    memset (buf, 0xee, length);
    return -EIO;
  }
  return inner_ops->pread (b, buf, length, offset);
}

static int
fault_pwrite (struct backend *b, const void *buf, size_t length,
              uint64_t offset)
{
  if (strikes (FAULT_BACKING_WRITE)) {
    if (length > 1)
      inner_ops->pwrite (b, buf, length / 2, offset);
    return -EIO;
  }
  return inner_ops->pwrite (b, buf, length, offset);
}

static int
fault_zero (struct backend *b, uint64_t length, uint64_t offset,
            bool may_trim)
{
  if (strikes (FAULT_BACKING_ZERO)) {
    if (length > 1)
      inner_ops->zero (b, length / 2, offset, may_trim);
    return -EIO;
  }
  return inner_ops->zero (b, length, offset, may_trim);
}

static int
fault_trim (struct backend *b, uint64_t length, uint64_t offset)
{
  if (strikes (FAULT_BACKING_TRIM)) {
    if (length > 1)
      inner_ops->trim (b, length / 2, offset);
    return -EIO;
  }
  return inner_ops->trim (b, length, offset);
}

static int
fault_flush (struct backend *b)
{
  struct memory_backend *mb = (struct memory_backend *) b;

  if (strikes (FAULT_BACKING_FLUSH)) {
    uint64_t random = faults.seen;

    if (mb->stable)
      memory_backend_crash (mb, &random);
    return -EIO;
  }
  return inner_ops->flush (b);
}

static const struct backend_ops fault_backend_ops = {
  .pread = fault_pread,
  .pwrite = fault_pwrite,
  .zero = fault_zero,
  .trim = fault_trim,
  .flush = fault_flush,
};

void
fault_backend_use (struct memory_backend *mb)
{
  if (mb->backend.ops == &fault_backend_ops)
    return;
  inner_ops = mb->backend.ops;
  mb->backend.ops = &fault_backend_ops;
}

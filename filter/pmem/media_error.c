/* SPDX-License-Identifier: BSD-3-Clause */

/* One handler for the process, one pointer for each thread.  A guarded call
 * publishes its guard in the thread's pointer; the signal of a fault is
 * delivered to the thread that made it, so the handler finds there all that it
 * needs and nothing is shared.
 *
 * The address is compared with the whole mapping, not with the bytes asked
 * for: that of a machine check is only good to the page, and may lie before
 * the first byte of a read. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <ucontext.h>

#include <xxhash.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "pmem/media_error.h"

struct guard {
  const struct mapping *mapping;
  sigjmp_buf recover;
};

/* The handler reads this also in threads that never made a guarded call.
 * The usual thread-local variable of a dlopen()ed module is allocated at the
 * first touch, which a signal handler must not do; this one exists when the
 * thread does. */
static THREAD_LOCAL struct guard *volatile active;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned users;            /* lock */
static struct sigaction previous; /* lock; constant while users > 0 */

/* The running instruction cannot complete.  Not so if a process sent the
 * signal, nor if memory was found bad that nobody has asked for yet. */
static bool
is_fault (const siginfo_t *info)
{
  return info->si_code > 0 && info->si_code != SI_KERNEL
#ifdef BUS_MCEERR_AO
    && info->si_code != BUS_MCEERR_AO
#endif
    ;
}

static void
pass_on (int signo, siginfo_t *info, void *context)
{
  if (previous.sa_flags & SA_SIGINFO)
    previous.sa_sigaction (signo, info, context);
  else if (previous.sa_handler == SIG_IGN && info->si_code <= 0)
    return;
  else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
    previous.sa_handler (signo);
  else {
    /* A fault comes again as soon as we return, and has its default action
     * then.  What was sent has to be sent again. */
    signal (signo, SIG_DFL);
    if (!is_fault (info))
      raise (signo);
  }
}

static void
handle_sigbus (int signo, siginfo_t *info, void *context)
{
  struct guard *guard = active;

  if (guard && is_fault (info) &&
      (uintptr_t) info->si_addr - (uintptr_t) guard->mapping->base <
      guard->mapping->length) {
    /* The guard did not save the mask: that is a system call, on each
     * read.  The kernel did. */
    ucontext_t *interrupted = context;

    pthread_sigmask (SIG_SETMASK, &interrupted->uc_sigmask, NULL);
    siglongjmp (guard->recover, 1);
  }
  pass_on (signo, info, context);
}

void
media_error_catch (void)
{
  struct sigaction action = { .sa_sigaction = handle_sigbus };
  HOLD_LOCK (&lock);

  if (users++ > 0)
    return;
  sigaction (SIGBUS, NULL, &previous);
  /* The handler before us runs as it asked to. */
  action.sa_flags = SA_SIGINFO |
    (previous.sa_flags & (SA_ONSTACK | SA_NODEFER | SA_RESTART));
  action.sa_mask = previous.sa_mask;
  sigaction (SIGBUS, &action, NULL);
}

void
media_error_release (void)
{
  struct sigaction current;
  HOLD_LOCK (&lock);

  assert (users > 0);
  if (--users > 0)
    return;
  /* Someone who came after us may pass signals on to us: leave them. */
  sigaction (SIGBUS, NULL, &current);
  if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == handle_sigbus)
    sigaction (SIGBUS, &previous, NULL);
}

/* Nothing here changes after sigsetjmp but memory that ARG points to, so
 * there is nothing for siglongjmp to make indeterminate.  The fences keep the
 * compiler from moving accesses to the mapping out of the guard. */
int
mapping_guard (const struct mapping *mapping, void (*access) (void *),
               void *arg)
{
  struct guard guard;

  assert (active == NULL);
  guard.mapping = mapping;
  if (sigsetjmp (guard.recover, 0) != 0) {
    active = NULL;
    return -EIO;
  }
  active = &guard;
  atomic_signal_fence (memory_order_seq_cst);
  access (arg);
  atomic_signal_fence (memory_order_seq_cst);
  active = NULL;
  return 0;
}

static void
assert_inside (const struct mapping *mapping, uint64_t at, size_t length)
{
  assert (at <= mapping->length && length <= mapping->length - at);
}

struct read_args {
  void *to;
  const void *from;
  size_t length;
};

static void
do_read (void *arg)
{
  struct read_args *args = arg;

  memcpy (args->to, args->from, args->length);
}

int
mapping_read (const struct mapping *mapping, void *to, uint64_t at,
              size_t length)
{
  struct read_args args = { to, mapping->base + at, length };

  assert_inside (mapping, at, length);
  return mapping_guard (mapping, do_read, &args);
}

struct checksum_args {
  const void *from;
  size_t length;
  uint64_t sum;
};

static void
do_checksum (void *arg)
{
  struct checksum_args *args = arg;

  args->sum = XXH3_64bits (args->from, args->length);
}

int
mapping_checksum (const struct mapping *mapping, uint64_t at, size_t length,
                  uint64_t *sum)
{
  struct checksum_args args = { mapping->base + at, length, 0 };
  int r;

  assert_inside (mapping, at, length);
  r = mapping_guard (mapping, do_checksum, &args);
  if (r == 0)
    *sum = args.sum;
  return r;
}

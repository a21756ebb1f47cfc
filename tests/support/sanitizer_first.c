/* SPDX-License-Identifier: BSD-3-Clause */

/* Start the sanitizer before anything else: tests/bin/nbdkit preloads this
 * after the sanitizer's runtime.
 *
 * A runtime that is preloaded starts at the first call that it intercepts.  In
 * nbdkit that is a malloc inside newlocale (in the constructor of GnuTLS's
 * p11-kit), which holds libc's locale lock; the runtime's start looks for
 * symbols that are not there, the message about it is translated, and
 * that unlocks what newlocale has locked.  nbdkit then hangs when it ends.
 *
 * Linked with -z initfirst, so that this constructor is the first one. */

#include <stdlib.h>

static void *volatile memory;

static __attribute__ ((constructor)) void
start_sanitizer (void)
{
  memory = malloc (1);
  free (memory);
}

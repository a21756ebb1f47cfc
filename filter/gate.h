/* SPDX-License-Identifier: BSD-3-Clause */

/* gate: one call at a time into a plugin that is not fully parallel.
 *
 * nbdkit takes its thread model locks for requests of clients, not for
 * calls from a filter's own threads.  So when the final thread model is
 * anything but parallel, every call into the layers below, foreground or
 * background, passes this gate.  It is first come, first served: write-back
 * calling in a loop does not shut out a client's read.
 *
 * Innermost of all locks: nothing is locked while inside. */

#ifndef PCACHE_GATE_H
#define PCACHE_GATE_H

#include <stdbool.h>

/* Closed: calls pass one by one.  Open: they all pass at once.  Before any
 * other thread runs. */
extern void gate_set_closed (bool closed);

extern void gate_enter (void);
extern void gate_leave (void);

static inline void
cleanup_gate_leave (int *unused)
{
  (void) unused;
  gate_leave ();
}

/* Pass the gate until the end of the block. */
#define PASS_GATE()                                                     \
  __attribute__ ((cleanup (cleanup_gate_leave), unused))                \
  int _in_gate = (gate_enter (), 0)

#endif /* PCACHE_GATE_H */

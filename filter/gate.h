/* SPDX-License-Identifier: BSD-3-Clause */

/* gate: one call at a time into a plugin that is not fully parallel.
 *
 * nbdkit takes its thread model locks for requests of clients, not for
 * calls from a filter's own threads.  So when the final thread model is
 * anything but parallel, every call into the layers below, foreground or
 * background, passes this gate.  It is first come, first served: write-back
 * calling in a loop does not shut out a client's read.
 *
 * What is asked before a client has opened anything, and to open a context and to
 * close one, passes only with a model that serialises across connections, too.
 * With serialize_requests nbdkit does it at any time.  A call that takes a minute
 * (the retry filter waits inside) shall not keep new clients out, and a server of
 * one connection at a time answers a second one only when the first is closed.
 *
 * Innermost of all locks: nothing is locked while inside. */

#ifndef PCACHE_GATE_H
#define PCACHE_GATE_H

#include <stdbool.h>

/* What passes one by one: all calls, and those about no context that is in use; the
 * others pass at once.  Before any other thread runs. */
extern void gate_set_closed (bool all, bool early);

/* Both return what gate_leave is to be given. */
extern bool gate_enter (void);
extern bool gate_enter_early (void);
extern void gate_leave (bool entered);

static inline void
cleanup_gate_leave (bool *entered)
{
  gate_leave (*entered);
}

/* Pass the gate until the end of the block. */
#define PASS_GATE()                                                     \
  __attribute__ ((cleanup (cleanup_gate_leave), unused))                \
  bool _in_gate = gate_enter ()

/* The same for what is about no context that is in use. */
#define PASS_GATE_EARLY()                                               \
  __attribute__ ((cleanup (cleanup_gate_leave), unused))                \
  bool _in_gate = gate_enter_early ()

#endif /* PCACHE_GATE_H */

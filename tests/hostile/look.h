/* SPDX-License-Identifier: BSD-3-Clause */

/* look: what the offline commands of pcachectl do with a device, but for
 * printing.  Aborts if the device is changed by it, or if a repair that says it
 * has left nothing leaves something. */

#ifndef PCACHE_HOSTILE_LOOK_H
#define PCACHE_HOSTILE_LOOK_H

#include "support/memory_pmem.h"

extern void look_at (struct memory_device *device);

#endif /* PCACHE_HOSTILE_LOOK_H */

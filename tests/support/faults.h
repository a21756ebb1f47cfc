/* SPDX-License-Identifier: BSD-3-Clause */

/* faults: make the Nth operation of a kind fail, once or from then on.
 *
 * What can fail: allocations and the creation of threads (the program has to
 * be linked with -Wl,--wrap=..., see tests/Makefile.am), every call of a cache
 * device and every call of a backing store that were put behind the doubles
 * made here.
 *
 * Only the engine's operations count, not the test's: a thread whose
 * operations are the test's says so with faults_spare_me.  Threads that the
 * engine starts are never spared. */

#ifndef PCACHE_TEST_FAULTS_H
#define PCACHE_TEST_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/backend.h"
#include "pmem/pmem.h"
#include "support/memory_backend.h"

enum fault {
  FAULT_ALLOCATION,             /* malloc and its relatives */
  FAULT_THREAD,                 /* pthread_create */
  FAULT_BACKING_READ,
  FAULT_BACKING_WRITE,
  FAULT_BACKING_ZERO,
  FAULT_BACKING_TRIM,
  FAULT_BACKING_FLUSH,
  FAULT_STORE,                  /* pmem_copy: half of it is stored */
  FAULT_FENCE,
  FAULT_SYNC,
  FAULT_READ,                   /* pmem_read */
  FAULT_CHECKSUM,               /* pmem_checksum */
  FAULT_SPACE,                  /* pmem_allocate */
  FAULT_COUNT
};

extern const char *fault_name (enum fault fault);
/* On the side of the backing store. */
extern bool fault_is_backing (enum fault fault);

/* From now on count operations of that kind; the one numbered NTH (from 1)
 * fails, and if STICKY all after it. */
extern void faults_arm (enum fault fault, uint64_t nth, bool sticky);
/* Nothing fails any more. */
extern void faults_lift (void);
/* How many have failed since faults_arm. */
extern uint64_t faults_struck (void);

/* Whether what this thread does from now on is the test's doing. */
extern void faults_spare_me (bool spare);

/* INNER behind a door that may fail; closing it closes INNER.  As pmem.h has
 * it, a sync that has failed fails for good. */
extern struct pmem *fault_pmem_new (struct pmem *inner);

/* Put a door that may fail before MB.  What fails has been done by half, and a
 * flush that fails may have lost what it was to make durable, if MB is
 * tracked. */
extern void fault_backend_use (struct memory_backend *mb);

#endif /* PCACHE_TEST_FAULTS_H */

/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "crash/state_set.h"

struct state_set {
  size_t room;
  _Atomic uint64_t count;
  _Atomic uint64_t slot[];      /* 0: free */
};

struct state_set *
state_set_new (size_t most)
{
  const size_t room = most + most / 2 + 64;
  struct state_set *set =
    mmap (NULL, sizeof *set + room * sizeof set->slot[0],
          PROT_READ | PROT_WRITE,
          MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  assert (set != MAP_FAILED);
  set->room = room;
  return set;
}

bool
state_set_add (struct state_set *set, uint64_t hash)
{
  size_t i;

  hash = hash ? hash : 1;
  for (i = hash % set->room;; i = i + 1 < set->room ? i + 1 : 0) {
    uint64_t there = atomic_load (&set->slot[i]);

    if (there == 0
        && atomic_compare_exchange_strong (&set->slot[i], &there, hash)) {
      const uint64_t count = atomic_fetch_add (&set->count, 1);

      assert (count < set->room / 10 * 9);
      return true;
    }
    if (there == hash)
      return false;
  }
}

uint64_t
state_set_count (const struct state_set *set)
{
  return atomic_load (&set->count);
}

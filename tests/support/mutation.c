/* SPDX-License-Identifier: BSD-3-Clause */

/* Only in the programs of run-mutations: the known bug that is put back in is
 * the one whose number PCACHE_MUTATION gives. */

#include <config.h>

#include <stdlib.h>

#include "base/mutation.h"

enum mutation mutation_chosen;

static void __attribute__ ((constructor))
choose_mutation (void)
{
  const char *number = getenv ("PCACHE_MUTATION");

  if (number)
    mutation_chosen = atoi (number);
}

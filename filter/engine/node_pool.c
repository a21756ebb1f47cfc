/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "engine/node_pool.h"

/* At the start of its memory, in the place of a node. */
struct slab {
  struct slab *next, **link;    /* in the list of open ones */
  void *free;                   /* nodes that were put back: a list by their first
                                 * word */
  size_t fresh;                 /* offset of those that were never taken */
  size_t taken;
};

void
node_pool_init (struct node_pool *pool, size_t node_size)
{
  assert (node_size % NODE_POOL_ALIGNMENT == 0
          && node_size >= sizeof (struct slab));
  *pool = (struct node_pool) {
    .node_size = node_size, .lock = PTHREAD_MUTEX_INITIALIZER,
  };
}

void
node_pool_destroy (struct node_pool *pool)
{
  assert (pool->slabs == 0);
  pthread_mutex_destroy (&pool->lock);
}

static struct slab *
slab_of (void *node)
{
  return (struct slab *) ((uintptr_t) node & ~(uintptr_t) (NODE_POOL_SLAB - 1));
}

static void
open_slab_locked (struct node_pool *pool, struct slab *slab)
{
  slab->next = pool->open;
  slab->link = &pool->open;
  if (slab->next)
    slab->next->link = &slab->next;
  pool->open = slab;
}

static void
close_slab_locked (struct slab *slab)
{
  *slab->link = slab->next;
  if (slab->next)
    slab->next->link = slab->link;
}

static bool
is_full (const struct node_pool *pool, const struct slab *slab)
{
  return slab->free == NULL && slab->fresh + pool->node_size > NODE_POOL_SLAB;
}

static void *
map (size_t size)
{
  void *memory = mmap (NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  return memory == MAP_FAILED ? NULL : memory;
}

/* Not by aligned_alloc, which takes twice the address space for each and two or
 * three mappings, of which a process may have 65530. */
static void *
map_slab (void)
{
  char *memory = map (NODE_POOL_SLAB), *slab;

  /* Most often it lies next to the last one, and the kernel makes one mapping of
   * both. */
  if (memory == NULL || (uintptr_t) memory % NODE_POOL_SLAB == 0)
    return memory;
  munmap (memory, NODE_POOL_SLAB);
  memory = map (2 * NODE_POOL_SLAB);
  if (memory == NULL)
    return NULL;
  slab = memory + (-(uintptr_t) memory & (NODE_POOL_SLAB - 1));
  if (slab > memory)
    munmap (memory, slab - memory);
  munmap (slab + NODE_POOL_SLAB, memory + NODE_POOL_SLAB - slab);
  return slab;
}

static struct slab *
new_slab_locked (struct node_pool *pool)
{
  struct slab *slab = map_slab ();

  if (slab == NULL)
    return NULL;
#ifdef MADV_HUGEPAGE
  /* A hint: without it each lookup in a large index misses the TLB.  Not for the
   * first: the kernel would clear 2 MiB for an index of a few extents. */
  (void) madvise (slab, NODE_POOL_SLAB,
                  pool->slabs > 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
  *slab = (struct slab) { .fresh = pool->node_size };
  open_slab_locked (pool, slab);
  atomic_fetch_add (&pool->slabs, 1);
  return slab;
}

void *
node_pool_take (struct node_pool *pool)
{
  HOLD_LOCK (&pool->lock);
  struct slab *slab = pool->open ?: new_slab_locked (pool);
  void *node;

  if (slab == NULL)
    return NULL;
  node = slab->free;
  if (node)
    slab->free = *(void **) node;
  else {
    node = (char *) slab + slab->fresh;
    slab->fresh += pool->node_size;
  }
  slab->taken++;
  if (is_full (pool, slab))
    close_slab_locked (slab);
  return node;
}

void
node_pool_put (struct node_pool *pool, void *node)
{
  HOLD_LOCK (&pool->lock);
  struct slab *slab = slab_of (node);

  if (is_full (pool, slab))
    open_slab_locked (pool, slab);
  *(void **) node = slab->free;
  slab->free = node;
  if (--slab->taken > 0)
    return;
  close_slab_locked (slab);
  munmap (slab, NODE_POOL_SLAB);
  atomic_fetch_sub (&pool->slabs, 1);
}

size_t
node_pool_memory (const struct node_pool *pool)
{
  return atomic_load (&pool->slabs) * NODE_POOL_SLAB;
}

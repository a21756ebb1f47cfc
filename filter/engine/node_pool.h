/* SPDX-License-Identifier: BSD-3-Clause */

/* node_pool: memory for the nodes of the index.
 *
 * Nodes are small, each begins at a line of the CPU's cache, and a lookup
 * comes to one in a million at random.  So they lie side by side in slabs of
 * 2 MiB, which the kernel is asked to map as huge pages, all but the first.  A
 * slab without nodes is given back.  The pool locks itself. */

#ifndef PCACHE_NODE_POOL_H
#define PCACHE_NODE_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#define NODE_POOL_ALIGNMENT 64
#define NODE_POOL_SLAB ((size_t) 2 << 20)

struct slab;

struct node_pool {
  size_t node_size;             /* a multiple of the alignment */
  pthread_mutex_t lock;
  struct slab *open;            /* lock; those that have a free node */
  atomic_size_t slabs;          /* changed under lock */
};

extern void node_pool_init (struct node_pool *pool, size_t node_size);
/* No node is out any more. */
extern void node_pool_destroy (struct node_pool *pool);

/* NULL: out of memory. */
extern void *node_pool_take (struct node_pool *pool);
extern void node_pool_put (struct node_pool *pool, void *node);

/* Bytes of DRAM in use.  Takes no lock. */
extern size_t node_pool_memory (const struct node_pool *pool);

#endif /* PCACHE_NODE_POOL_H */

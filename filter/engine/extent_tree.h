/* SPDX-License-Identifier: BSD-3-Clause */

/* extent_tree: one B+tree of extents that never overlap.
 *
 * The index's building block: no locks, no chunks, whoever calls has the
 * tree for himself.  Leaves hold extents packed to 32 bytes; nodes have 512
 * bytes, from a node_pool.  Memory is only taken by extent_tree_reserve and
 * extent_tree_append, and only given back by extent_tree_trim and
 * extent_tree_clear; in between, nodes come from and go to a list of spare
 * ones. */

#ifndef PCACHE_EXTENT_TREE_H
#define PCACHE_EXTENT_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/index.h"
#include "engine/node_pool.h"

/* Adjacent nodes of one parent that are not more than three quarters full
 * together become one, so that two together have that much, and each level divides
 * their number by five at least: more levels than this would not fit into any
 * machine's memory. */
#define EXTENT_TREE_MAX_HEIGHT INDEX_MAX_HEIGHT

struct tree_node;

/* All zeros, but for the pool, is an empty tree. */
struct extent_tree {
  struct node_pool *pool;       /* of nodes of extent_tree_node_size */
  struct tree_node *root;
  struct tree_node *spare;
  unsigned height;              /* levels; 0: empty, 1: the root is a leaf */
  unsigned spares;
  unsigned promised;            /* inserts that were reserved and are to come */
  unsigned nodes;               /* with spare ones */
  unsigned level_nodes[EXTENT_TREE_MAX_HEIGHT];
};

/* A set of records: those of one kind whose name (record_at of data,
 * sequence of the others) lies between first and last, both included. */
struct record_match {
  enum extent_kind kind;
  uint64_t first, last;
};

/* An extent in the tree; node is NULL behind the last.  Valid until the
 * tree changes. */
struct tree_position {
  struct tree_node *node;
  unsigned slot;
};

/* Promise EXTENTS more inserts (or removals that split) that need no memory.
 * Promises add up; each insert uses one.  0 or -ENOMEM, and then the older
 * promises hold. */
extern int extent_tree_reserve (struct extent_tree *tree, unsigned extents);

/* Forget all promises and give back what is spare beyond a little. */
extern void extent_tree_trim (struct extent_tree *tree);

/* Remove all extents and give back all memory. */
extern void extent_tree_clear (struct extent_tree *tree);

extern size_t extent_tree_node_size (void);

/* Put EXTENT in the place of whatever was there.  Needs a promise, unless
 * it replaces exactly one extent. */
extern void extent_tree_insert (struct extent_tree *tree,
                                const struct extent *extent);

/* Put EXTENT behind all that is in the tree, which was made by this call alone:
 * LAST is the last node of each level, whatever while the tree is empty.  Needs no
 * promise.  Leaves are left with room for one extent.  0 or -ENOMEM, with
 * nothing changed. */
extern int extent_tree_append (struct extent_tree *tree,
                               struct tree_node *last[EXTENT_TREE_MAX_HEIGHT],
                               const struct extent *extent);

/* Remove RANGE from the extents of the records in MATCH (NULL: of all).
 * Extents that cross a border are clipped.  Needs a promise only if one extent
 * crosses both.  Returns how many extents were removed or clipped. */
extern unsigned extent_tree_remove (struct extent_tree *tree,
                                    struct range range,
                                    const struct record_match *match);

/* Whoever will soon insert at AT need not wait for the leaf's memory then.  Changes
 * nothing. */
extern void extent_tree_prefetch (const struct extent_tree *tree, uint64_t at);

/* The first extent that ends after AT. */
extern struct tree_position extent_tree_find (const struct extent_tree *tree,
                                              uint64_t at);

/* False, and EXTENT untouched, behind the last one. */
extern bool extent_tree_get (struct tree_position position,
                             struct extent *extent);
extern void extent_tree_advance (struct tree_position *position);

/* Remember that the extent was read. */
extern void extent_tree_mark_hit (struct tree_position position);

/* For tests: assert everything that must always hold.  Returns the number of
 * extents. */
extern uint64_t extent_tree_check (const struct extent_tree *tree);

#endif /* PCACHE_EXTENT_TREE_H */

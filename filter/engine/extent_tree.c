/* SPDX-License-Identifier: BSD-3-Clause */

/* extent_tree: a B+tree of packed extents.
 *
 *            keys  0 ------- 900            a key is exactly the start of the
 *                  |          |             first extent below it
 *           leaf [0 40 96] [900 912 ...]    leaves are linked both ways
 *
 * Keys are exact so that no extent reaches past the next key: then an extent
 * may be clipped at its front where it lies, for its new start still belongs
 * to its leaf.  The price is that a change of a leaf's first start goes up the
 * path, which is rare and touches nodes just read.
 *
 * Memory per extent is what the leaves' fill makes of 32 bytes:
 *
 *   - A full leaf first tries to shift entries to a neighbour under the same
 *     parent and splits in halves only when both are nearly full.  Random
 *     inserts fill leaves to 80 % by that, and ascending or descending ones to
 *     93 %.  (Cutting a leaf where a run of inserts goes on was tried: it
 *     gains 3 % for one endless run, and loses 8 % when each chunk of the
 *     disk is written by a run of its own.)
 *   - Neighbours that fit into three quarters of a node are merged.
 *
 * Nodes of the upper levels are about one twentieth of the memory, so
 * they are simply split in halves; worst_case_nodes counts on that. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "engine/extent_tree.h"

/* Eight lines of the CPU's cache: few enough to ask for all of them at once, so
 * that a lookup waits for memory once a level.  (With 2 KiB it was twice, for the
 * lines that cut the node in pieces and then for one piece.)  May be set smaller
 * to test tall trees. */
#ifndef EXTENT_TREE_NODE_SIZE
#define EXTENT_TREE_NODE_SIZE INDEX_NODE_BYTES
#endif

#define NODE_HEADER_SIZE 32
#define LEAF_MAX ((EXTENT_TREE_NODE_SIZE - NODE_HEADER_SIZE) / 32)
#define BRANCH_MAX ((EXTENT_TREE_NODE_SIZE - NODE_HEADER_SIZE) / 16)

/* Neighbours are merged when they have no more entries than this. */
#define LEAF_MERGE (LEAF_MAX * 3 / 4)
#define BRANCH_MERGE (BRANCH_MAX * 3 / 4)

/* So many entries must come into a branch after it was split or merged
 * before it can be full. */
#define BRANCH_ROOM (BRANCH_MAX / 4)

/* The least room of a neighbour to which is shifted for an insert of two entries,
 * and half of it for one: half of the room must take them. */
#define SHIFT_MIN 4

/* So full are nodes made by extent_tree_append: as full as ascending inserts would
 * make them, and the next one need not split its leaf. */
#define LEAF_FILL (LEAF_MAX - LEAF_MAX / 10)
#define BRANCH_FILL (BRANCH_MAX - BRANCH_MAX / 10)

#define LINE 64

/* What remains of an extent.  The low bits of a record's place are free,
 * as it is a multiple of 64. */
#define PLACE_KIND UINT64_C (3)
#define PLACE_HAS_CHECKSUM UINT64_C (4)
#define PLACE_HIT UINT64_C (8)
#define PLACE_RECORD_AT (~UINT64_C (63))

struct entry {
  uint64_t start;
  uint64_t proof;               /* checksum of data, sequence of others */
  uint64_t place;               /* record_at and PLACE_ bits */
  uint32_t length;
  uint16_t record_length_1;     /* less one */
  uint16_t delta;
};

struct tree_node {
  struct tree_node *next;       /* leaves: in order; spare nodes: the list */
  struct tree_node *prev;
  uint16_t count;               /* never 0 in a tree */
  union {
    alignas (NODE_HEADER_SIZE) struct entry entries[LEAF_MAX];
    struct {
      uint64_t keys[BRANCH_MAX];
      struct tree_node *children[BRANCH_MAX];
    };
  };
};

static_assert (sizeof (struct entry) == 32, "memory per extent");
static_assert (sizeof (struct tree_node) <= EXTENT_TREE_NODE_SIZE,
               "size of a node");

/* From the root to a leaf; level 0 is the leaf. */
struct path {
  struct tree_node *node[EXTENT_TREE_MAX_HEIGHT];
  unsigned slot[EXTENT_TREE_MAX_HEIGHT];
  uint64_t upper;               /* the first start behind the leaf */
};

static inline uint64_t
entry_end (const struct entry *entry)
{
  return entry->start + entry->length;
}

static inline enum extent_kind
entry_kind (const struct entry *entry)
{
  return entry->place & PLACE_KIND;
}

/* Field by field to where it goes: to make it elsewhere and copy it would wait for
 * the stores. */
static inline void
entry_put (struct entry *entry, const struct extent *extent)
{
  const uint64_t kind = extent->kind;
  const bool is_data = kind == EXTENT_DATA;

  entry->start = extent->range.start;
  entry->proof = is_data ? extent->checksum : extent->sequence;
  entry->place = kind | (extent->hit ? PLACE_HIT : 0)
    | (is_data ? extent->record_at : 0)
    | (is_data && extent->has_checksum ? PLACE_HAS_CHECKSUM : 0);
  entry->length = extent->range.length;
  entry->record_length_1 = is_data ? extent->record_length - 1 : 0;
  entry->delta = is_data ? extent->delta : 0;
}

static inline struct entry
entry_pack (const struct extent *extent)
{
  struct entry entry;

  entry_put (&entry, extent);
  return entry;
}

static inline void
entry_unpack (const struct entry *entry, struct extent *extent)
{
  *extent = (struct extent) {
    .range = { entry->start, entry->length },
    .kind = entry_kind (entry),
    .hit = entry->place & PLACE_HIT,
  };
  if (extent->kind == EXTENT_DATA) {
    extent->has_checksum = entry->place & PLACE_HAS_CHECKSUM;
    extent->record_at = entry->place & PLACE_RECORD_AT;
    extent->record_length = (uint32_t) entry->record_length_1 + 1;
    extent->delta = entry->delta;
    extent->checksum = entry->proof;
  }
  else
    extent->sequence = entry->proof;
}

/* Let ENTRY start at START, which lies inside. */
static void
entry_clip_front (struct entry *entry, uint64_t start)
{
  uint64_t cut = start - entry->start;

  entry->start = start;
  entry->length -= cut;
  if (entry_kind (entry) == EXTENT_DATA)
    entry->delta += cut;
}

static void
entry_clip_end (struct entry *entry, uint64_t end)
{
  entry->length = end - entry->start;
}

static inline bool
entry_matches (const struct entry *entry, const struct record_match *match)
{
  uint64_t name;

  if (match == NULL)
    return true;
  if (entry_kind (entry) != match->kind)
    return false;
  name = match->kind == EXTENT_DATA ? entry->place & PLACE_RECORD_AT
                                    : entry->proof;
  return name >= match->first && name <= match->last;
}

/*-- Memory. --*/

size_t
extent_tree_node_size (void)
{
  return round_up (sizeof (struct tree_node), NODE_POOL_ALIGNMENT);
}

static struct tree_node *
node_take (struct extent_tree *tree, unsigned level)
{
  struct tree_node *node = tree->spare;

  assert (node != NULL);        /* extent_tree_reserve came before */
  assert (level < EXTENT_TREE_MAX_HEIGHT);
  tree->spare = node->next;
  tree->spares--;
  tree->level_nodes[level]++;
  node->next = node->prev = NULL;
  node->count = 0;
  return node;
}

static void
node_put (struct extent_tree *tree, struct tree_node *node, unsigned level)
{
  node->next = tree->spare;
  tree->spare = node;
  tree->spares++;
  tree->level_nodes[level]--;
}

static void
free_spares (struct extent_tree *tree, unsigned keep)
{
  for (; tree->spares > keep; tree->spares--) {
    struct tree_node *node = tree->spare;

    tree->spare = node->next;
    node_pool_put (tree->pool, node);
    tree->nodes--;
  }
}

/* How many nodes EXTENTS inserts can take.  An insert (of one extent, and
 * perhaps the rest of another behind it) splits at most one node of each
 * level.  A branch must moreover either have been there already or have
 * got BRANCH_ROOM entries before it can be split.  And the root may get
 * levels above it. */
static size_t
worst_case_nodes (const struct extent_tree *tree, size_t extents)
{
  size_t again = extents / BRANCH_ROOM;
  size_t nodes = extents;
  unsigned level;

  for (level = 1; level < tree->height; ++level)
    nodes += MIN (extents, tree->level_nodes[level] + again);
  return nodes + 1 + 3 * again;
}

int
extent_tree_reserve (struct extent_tree *tree, unsigned extents)
{
  size_t total = (size_t) tree->promised + extents;
  size_t need = total == 1 ? tree->height + 1 : worst_case_nodes (tree, total);

  while (tree->spares < need) {
    struct tree_node *node = node_pool_take (tree->pool);

    if (node == NULL)
      return -ENOMEM;
    node->next = tree->spare;
    tree->spare = node;
    tree->spares++;
    tree->nodes++;
  }
  tree->promised = total;
  return 0;
}

void
extent_tree_trim (struct extent_tree *tree)
{
  unsigned keep = 0;

  tree->promised = 0;
  /* Enough for the next insert and for some coming and going. */
  if (tree->height > 0)
    keep = tree->height + 1 + tree->level_nodes[0] / 32;
  if (tree->spares > keep)
    free_spares (tree, keep);
}

static void
put_subtree (struct extent_tree *tree, struct tree_node *node, unsigned level)
{
  unsigned i;

  if (level > 0)
    for (i = 0; i < node->count; ++i)
      put_subtree (tree, node->children[i], level - 1);
  node_put (tree, node, level);
}

void
extent_tree_clear (struct extent_tree *tree)
{
  if (tree->height > 0)
    put_subtree (tree, tree->root, tree->height - 1);
  tree->root = NULL;
  tree->height = 0;
  tree->promised = 0;
  free_spares (tree, 0);
}

/*-- Search. --*/

/* In a large tree the time goes into waiting for memory.  So all lines of a node
 * are asked for as soon as it is known, and then looked at in order; no branch
 * depends on what is compared. */
static inline void
prefetch_node (const struct tree_node *node)
{
  for (size_t i = 0; i < sizeof *node; i += LINE)
    __builtin_prefetch ((const char *) node + i);
}

/* The child whose key is the last at or before AT; the first if all keys
 * are beyond. */
static inline unsigned
branch_search (const struct tree_node *node, uint64_t at)
{
  const unsigned n = node->count;
  unsigned low = 0, i;

  for (i = 1; i < n; ++i)
    low += node->keys[i] <= at;
  return low;
}

/* How many entries start at or before AT. */
static inline unsigned
leaf_search (const struct tree_node *leaf, uint64_t at)
{
  const unsigned n = leaf->count;
  unsigned low = 0, i;

  for (i = 0; i < n; ++i)
    low += leaf->entries[i].start <= at;
  return low;
}

void
extent_tree_prefetch (const struct extent_tree *tree, uint64_t at)
{
  const struct tree_node *node = tree->root;
  unsigned level;

  if (tree->height == 0)
    return;
  for (level = tree->height - 1; level > 0; --level)
    node = node->children[branch_search (node, at)];
  prefetch_node (node);
}

/* The leaf's slot is the one behind the last entry that starts at or
 * before AT.  The tree is not empty. */
static inline void
descend (const struct extent_tree *tree, uint64_t at, struct path *path)
{
  struct tree_node *node = tree->root;
  unsigned level;

  path->upper = UINT64_MAX;
  for (level = tree->height - 1; level > 0; --level) {
    unsigned slot = branch_search (node, at);

    path->node[level] = node;
    path->slot[level] = slot;
    if (slot + 1 < node->count)
      path->upper = node->keys[slot + 1];
    node = node->children[slot];
    prefetch_node (node);
  }
  path->node[0] = node;
  path->slot[0] = leaf_search (node, at);
}

/*-- Changes of shape. --*/

/* The first key below path->node[LEVEL] has become KEY. */
static void
raise_first_key (struct extent_tree *tree, struct path *path, unsigned level,
                 uint64_t key)
{
  while (++level < tree->height) {
    path->node[level]->keys[path->slot[level]] = key;
    if (path->slot[level] > 0)
      break;
  }
}

static void
branch_open (struct tree_node *node, unsigned slot, uint64_t key,
             struct tree_node *child)
{
  unsigned tail = node->count - slot;

  memmove (&node->keys[slot + 1], &node->keys[slot],
           tail * sizeof node->keys[0]);
  memmove (&node->children[slot + 1], &node->children[slot],
           tail * sizeof node->children[0]);
  node->keys[slot] = key;
  node->children[slot] = child;
  node->count++;
}

static void
branch_close (struct tree_node *node, unsigned slot)
{
  unsigned tail = node->count - slot - 1;

  memmove (&node->keys[slot], &node->keys[slot + 1],
           tail * sizeof node->keys[0]);
  memmove (&node->children[slot], &node->children[slot + 1],
           tail * sizeof node->children[0]);
  node->count--;
}

static void
add_root (struct extent_tree *tree, uint64_t key, struct tree_node *child)
{
  struct tree_node *root = node_take (tree, tree->height);
  struct tree_node *old = tree->root;

  root->keys[0] = tree->height == 1 ? old->entries[0].start : old->keys[0];
  root->children[0] = old;
  root->keys[1] = key;
  root->children[1] = child;
  root->count = 2;
  tree->root = root;
  tree->height++;
}

/* A node of the level below was split: CHILD comes behind the one that PATH
 * goes through. */
static void
branch_insert (struct extent_tree *tree, struct path *path, unsigned level,
               uint64_t key, struct tree_node *child)
{
  struct tree_node *node, *right;
  unsigned slot, cut;

  if (level == tree->height) {
    add_root (tree, key, child);
    return;
  }
  node = path->node[level];
  slot = path->slot[level] + 1;
  if (node->count < BRANCH_MAX) {
    branch_open (node, slot, key, child);
    return;
  }

  cut = BRANCH_MAX / 2;
  right = node_take (tree, level);
  right->count = BRANCH_MAX - cut;
  memcpy (right->keys, &node->keys[cut], right->count * sizeof node->keys[0]);
  memcpy (right->children, &node->children[cut],
          right->count * sizeof node->children[0]);
  node->count = cut;
  if (slot <= cut)
    branch_open (node, slot, key, child);
  else
    branch_open (right, slot - cut, key, child);
  branch_insert (tree, path, level + 1, right->keys[0], right);
}

static void
leaf_open (struct tree_node *leaf, unsigned slot, const struct entry *entries,
           unsigned n)
{
  memmove (&leaf->entries[slot + n], &leaf->entries[slot],
           (leaf->count - slot) * sizeof leaf->entries[0]);
  memcpy (&leaf->entries[slot], entries, n * sizeof leaf->entries[0]);
  leaf->count += n;
}

static void
leaf_close (struct tree_node *leaf, unsigned slot, unsigned n)
{
  memmove (&leaf->entries[slot], &leaf->entries[slot + n],
           (leaf->count - slot - n) * sizeof leaf->entries[0]);
  leaf->count -= n;
}

/* Insert into the full leaf's left neighbour, or into the leaf after
 * moving entries there. */
static void
shift_left (struct path *path, struct tree_node *left, unsigned slot,
            const struct entry *entries, unsigned n)
{
  struct tree_node *leaf = path->node[0];
  unsigned shift = (LEAF_MAX - left->count) / 2;
  unsigned old = left->count;

  memcpy (&left->entries[old], leaf->entries,
          shift * sizeof leaf->entries[0]);
  left->count += shift;
  leaf_close (leaf, 0, shift);
  if (slot <= shift)
    leaf_open (left, old + slot, entries, n);
  else
    leaf_open (leaf, slot - shift, entries, n);
  path->node[1]->keys[path->slot[1]] = leaf->entries[0].start;
}

static void
shift_right (struct extent_tree *tree, struct path *path,
             struct tree_node *right, unsigned slot,
             const struct entry *entries, unsigned n)
{
  struct tree_node *leaf = path->node[0];
  unsigned shift = (LEAF_MAX - right->count) / 2;
  unsigned rest = leaf->count - shift;

  leaf_open (right, 0, &leaf->entries[rest], shift);
  leaf->count = rest;
  if (slot <= rest)
    leaf_open (leaf, slot, entries, n);
  else
    leaf_open (right, slot - rest, entries, n);
  path->node[1]->keys[path->slot[1] + 1] = right->entries[0].start;
  if (slot == 0)
    raise_first_key (tree, path, 0, leaf->entries[0].start);
}

static bool
try_shift (struct extent_tree *tree, struct path *path, unsigned slot,
           const struct entry *entries, unsigned n)
{
  struct tree_node *parent, *left = NULL, *right = NULL;
  unsigned at, left_room = 0, right_room = 0;

  if (tree->height == 1)
    return false;
  parent = path->node[1];
  at = path->slot[1];
  if (at > 0) {
    left = parent->children[at - 1];
    left_room = LEAF_MAX - left->count;
  }
  if (at + 1 < parent->count) {
    right = parent->children[at + 1];
    right_room = LEAF_MAX - right->count;
  }
  if (MAX (left_room, right_room) < n * SHIFT_MIN / 2)
    return false;
  if (left_room > right_room)
    shift_left (path, left, slot, entries, n);
  else
    shift_right (tree, path, right, slot, entries, n);
  return true;
}

static void
split_leaf (struct extent_tree *tree, struct path *path, unsigned slot,
            const struct entry *entries, unsigned n)
{
  struct tree_node *leaf = path->node[0];
  struct tree_node *right = node_take (tree, 0);
  unsigned cut = leaf->count / 2;

  memcpy (right->entries, &leaf->entries[cut],
          (leaf->count - cut) * sizeof leaf->entries[0]);
  right->count = leaf->count - cut;
  leaf->count = cut;
  right->prev = leaf;
  right->next = leaf->next;
  if (right->next)
    right->next->prev = right;
  leaf->next = right;

  if (slot > cut)
    leaf_open (right, slot - cut, entries, n);
  else {
    leaf_open (leaf, slot, entries, n);
    if (slot == 0)
      raise_first_key (tree, path, 0, leaf->entries[0].start);
  }
  branch_insert (tree, path, 1, right->entries[0].start, right);
}

/* Put N entries, which fit there, in front of the leaf's SLOT. */
static void
leaf_insert (struct extent_tree *tree, struct path *path, unsigned slot,
             const struct entry *entries, unsigned n)
{
  struct tree_node *leaf = path->node[0];

  if (leaf->count + n <= LEAF_MAX) {
    leaf_open (leaf, slot, entries, n);
    if (slot == 0)
      raise_first_key (tree, path, 0, leaf->entries[0].start);
    return;
  }
  if (!try_shift (tree, path, slot, entries, n))
    split_leaf (tree, path, slot, entries, n);
}

static void shrunk (struct extent_tree *tree, struct path *path,
                    unsigned level);

/* Take path->node[LEVEL]'s child at SLOT, which is empty, out of the tree. */
static void
drop_child (struct extent_tree *tree, struct path *path, unsigned level,
            unsigned slot)
{
  struct tree_node *node = path->node[level];
  struct tree_node *child = node->children[slot];

  if (level == 1) {
    if (child->prev)
      child->prev->next = child->next;
    if (child->next)
      child->next->prev = child->prev;
  }
  node_put (tree, child, level - 1);
  branch_close (node, slot);
  if (slot == 0 && node->count > 0)
    raise_first_key (tree, path, level, node->keys[0]);
  shrunk (tree, path, level);
}

static void
append_node (struct tree_node *left, struct tree_node *right, bool is_leaf)
{
  if (is_leaf)
    memcpy (&left->entries[left->count], right->entries,
            right->count * sizeof left->entries[0]);
  else {
    memcpy (&left->keys[left->count], right->keys,
            right->count * sizeof left->keys[0]);
    memcpy (&left->children[left->count], right->children,
            right->count * sizeof left->children[0]);
  }
  left->count += right->count;
  right->count = 0;
}

/* path->node[LEVEL] has lost entries, perhaps all of them.  PATH is not
 * good for anything afterwards. */
static void
shrunk (struct extent_tree *tree, struct path *path, unsigned level)
{
  struct tree_node *node = path->node[level], *parent;
  int limit = level == 0 ? LEAF_MERGE : BRANCH_MERGE;
  unsigned slot;

  if (level + 1 == tree->height) {
    if (node->count == 0) {
      node_put (tree, node, level);
      tree->root = NULL;
      tree->height = 0;
    }
    else if (level > 0 && node->count == 1) {
      tree->root = node->children[0];
      tree->height--;
      node_put (tree, node, level);
      path->node[level - 1] = tree->root;
      shrunk (tree, path, level - 1);
    }
    return;
  }

  parent = path->node[level + 1];
  slot = path->slot[level + 1];
  if (node->count == 0) {
    drop_child (tree, path, level + 1, slot);
    return;
  }
  /* Without this, each removal would touch both neighbours. */
  if (node->count > limit * 2 / 3)
    return;
  if (slot + 1 < parent->count &&
      node->count + parent->children[slot + 1]->count <= limit) {
    append_node (node, parent->children[slot + 1], level == 0);
    drop_child (tree, path, level + 1, slot + 1);
  }
  else if (slot > 0 &&
           parent->children[slot - 1]->count + node->count <= limit) {
    append_node (parent->children[slot - 1], node, level == 0);
    drop_child (tree, path, level + 1, slot);
  }
}

/*-- Insert and remove. --*/

static void
use_promise (struct extent_tree *tree)
{
  if (tree->promised > 0)
    tree->promised--;
}

unsigned
extent_tree_remove (struct extent_tree *tree, struct range range,
                    const struct record_match *match)
{
  uint64_t at = range.start, end = range_end (range);
  unsigned changed = 0;

  /* Leaf by leaf; the way down is walked again as the last may have
   * changed the shape above. */
  while (tree->height > 0) {
    struct path path;
    struct tree_node *leaf;
    unsigned first, in, out;
    bool more;

    descend (tree, at, &path);
    leaf = path.node[0];
    first = path.slot[0];
    if (first > 0 && entry_end (&leaf->entries[first - 1]) > at)
      first--;
    for (in = out = first; in < leaf->count; ++in) {
      struct entry *entry = &leaf->entries[in];

      if (entry->start >= end)
        break;
      if (entry_matches (entry, match)) {
        bool keeps_front = entry->start < range.start;
        bool keeps_end = entry_end (entry) > end;

        changed++;
        if (keeps_front && keeps_end) {
          struct entry rest = *entry;

          entry_clip_front (&rest, end);
          entry_clip_end (entry, range.start);
          leaf_insert (tree, &path, in + 1, &rest, 1);
          use_promise (tree);
          return changed;
        }
        if (!keeps_front && !keeps_end)
          continue;
        if (keeps_front)
          entry_clip_end (entry, range.start);
        else
          entry_clip_front (entry, end);
      }
      if (out != in)
        leaf->entries[out] = *entry;
      out++;
    }

    more = in == leaf->count && path.upper < end;
    at = path.upper;
    if (out < in)
      leaf_close (leaf, out, in - out);
    if (first == 0 && leaf->count > 0)
      raise_first_key (tree, &path, 0, leaf->entries[0].start);
    if (out < in)
      shrunk (tree, &path, 0);
    if (!more)
      break;
  }
  return changed;
}

static void
insert_first (struct extent_tree *tree, const struct entry *entry)
{
  tree->root = node_take (tree, 0);
  tree->height = 1;
  leaf_open (tree->root, 0, entry, 1);
}

void
extent_tree_insert (struct extent_tree *tree, const struct extent *extent)
{
  struct entry entries[2] = { entry_pack (extent) };
  uint64_t start = entries[0].start, end = entry_end (&entries[0]);
  struct path path;
  struct tree_node *leaf;
  unsigned slot, behind;

  use_promise (tree);
  if (tree->height == 0) {
    insert_first (tree, &entries[0]);
    return;
  }
  descend (tree, start, &path);
  leaf = path.node[0];
  slot = path.slot[0];

  /* What starts at or before us. */
  if (slot > 0) {
    struct entry *before = &leaf->entries[slot - 1];

    if (before->start == start) {
      if (before->length == entries[0].length) {
        *before = entries[0];
        return;
      }
      slot--;
    }
    else if (entry_end (before) > end) {
      entries[1] = *before;
      entry_clip_front (&entries[1], end);
      entry_clip_end (before, start);
      leaf_insert (tree, &path, slot, entries, 2);
      return;
    }
    else if (entry_end (before) > start)
      entry_clip_end (before, start);
  }

  /* What ends at or before our end is replaced: slot to behind. */
  for (behind = slot; behind < leaf->count; ++behind)
    if (entry_end (&leaf->entries[behind]) > end)
      break;
  if (behind == leaf->count && path.upper < end) {
    extent_tree_remove (tree, extent->range, NULL);
    if (tree->height == 0) {
      insert_first (tree, &entries[0]);
      return;
    }
    descend (tree, start, &path);
    leaf_insert (tree, &path, path.slot[0], entries, 1);
    return;
  }
  if (behind < leaf->count && leaf->entries[behind].start < end)
    entry_clip_front (&leaf->entries[behind], end);
  if (behind == slot) {
    leaf_insert (tree, &path, slot, entries, 1);
    return;
  }
  leaf->entries[slot] = entries[0];
  if (slot == 0)
    raise_first_key (tree, &path, 0, start);
  if (behind > slot + 1) {
    leaf_close (leaf, slot + 1, behind - slot - 1);
    shrunk (tree, &path, 0);
  }
}

/*-- Append. --*/

/* CHILD, whose first start is KEY, comes behind the last node below LEVEL. */
static void
append_child (struct extent_tree *tree, struct tree_node **last,
              unsigned level, uint64_t key, struct tree_node *child)
{
  struct tree_node *node;

  if (level == tree->height) {
    add_root (tree, key, child);
    last[level] = tree->root;
    return;
  }
  node = last[level];
  if (node->count == BRANCH_FILL) {
    node = last[level] = node_take (tree, level);
    append_child (tree, last, level + 1, key, node);
  }
  branch_open (node, node->count, key, child);
}

static void
append_leaf (struct extent_tree *tree, struct tree_node **last,
             const struct extent *extent)
{
  struct tree_node *leaf = node_take (tree, 0);

  entry_put (&leaf->entries[leaf->count++], extent);
  if (tree->height == 0) {
    tree->root = leaf;
    tree->height = 1;
  }
  else {
    leaf->prev = last[0];
    last[0]->next = leaf;
    append_child (tree, last, 1, extent->range.start, leaf);
  }
  last[0] = leaf;
}

int
extent_tree_append (struct extent_tree *tree,
                    struct tree_node *last[EXTENT_TREE_MAX_HEIGHT],
                    const struct extent *extent)
{
  assert (tree->promised == 0);
  if (tree->height > 0) {
    struct tree_node *leaf = last[0];

    assert (entry_end (&leaf->entries[leaf->count - 1])
            <= extent->range.start);
    if (leaf->count < LEAF_FILL) {
      entry_put (&leaf->entries[leaf->count++], extent);
      return 0;
    }
  }
  /* A new node of each level, and perhaps a root. */
  if (extent_tree_reserve (tree, 1) < 0)
    return -ENOMEM;
  tree->promised = 0;
  append_leaf (tree, last, extent);
  return 0;
}

/*-- Look. --*/

struct tree_position
extent_tree_find (const struct extent_tree *tree, uint64_t at)
{
  struct tree_position position = { NULL, 0 };
  struct tree_node *node = tree->root;
  unsigned level, slot;

  if (tree->height == 0)
    return position;
  for (level = tree->height - 1; level > 0; --level) {
    node = node->children[branch_search (node, at)];
    prefetch_node (node);
  }
  slot = leaf_search (node, at);
  if (slot > 0 && entry_end (&node->entries[slot - 1]) > at)
    slot--;
  position.node = node;
  position.slot = slot;
  if (slot == node->count) {
    position.node = node->next;
    position.slot = 0;
  }
  return position;
}

bool
extent_tree_get (struct tree_position position, struct extent *extent)
{
  if (position.node == NULL)
    return false;
  entry_unpack (&position.node->entries[position.slot], extent);
  return true;
}

void
extent_tree_advance (struct tree_position *position)
{
  if (++position->slot == position->node->count) {
    position->node = position->node->next;
    position->slot = 0;
  }
}

void
extent_tree_mark_hit (struct tree_position position)
{
  struct entry *entry = &position.node->entries[position.slot];

  /* Most are marked already: leave their cache lines clean. */
  if (!(entry->place & PLACE_HIT))
    entry->place |= PLACE_HIT;
}

/*-- Check. --*/

struct check {
  const struct extent_tree *tree;
  const struct tree_node *last_leaf;
  uint64_t end;                 /* of the last extent seen */
  uint64_t extents;
  unsigned nodes[EXTENT_TREE_MAX_HEIGHT];
};

static void
check_leaf (struct check *check, const struct tree_node *leaf)
{
  unsigned i;

  assert (leaf->count <= LEAF_MAX);
  assert (leaf->prev == check->last_leaf);
  if (check->last_leaf)
    assert (check->last_leaf->next == leaf);
  check->last_leaf = leaf;
  for (i = 0; i < leaf->count; ++i) {
    const struct entry *entry = &leaf->entries[i];

    assert (entry->length > 0);
    assert (entry->start >= check->end);
    check->end = entry_end (entry);
    if (entry_kind (entry) == EXTENT_DATA)
      assert (entry->delta + entry->length <= entry->record_length_1 + 1u);
    else
      assert ((entry->place & ~(PLACE_KIND | PLACE_HIT)) == 0
              && entry->delta == 0 && entry->record_length_1 == 0);
  }
  check->extents += leaf->count;
}

static void
check_node (struct check *check, const struct tree_node *node, unsigned level)
{
  unsigned i;

  assert (node->count > 0);
  check->nodes[level]++;
  if (level == 0) {
    check_leaf (check, node);
    return;
  }
  assert (node->count <= BRANCH_MAX);
  for (i = 0; i < node->count; ++i) {
    const struct tree_node *child = node->children[i];

    assert (node->keys[i] == (level == 1 ? child->entries[0].start
                              : child->keys[0]));
    check_node (check, child, level - 1);
  }
}

uint64_t
extent_tree_check (const struct extent_tree *tree)
{
  struct check check = { .tree = tree };
  const struct tree_node *spare;
  unsigned level, nodes = 0, spares = 0;

  assert (tree->height <= EXTENT_TREE_MAX_HEIGHT);
  assert ((tree->height == 0) == (tree->root == NULL));
  if (tree->height > 0) {
    if (tree->height > 1)
      assert (tree->root->count > 1);
    check_node (&check, tree->root, tree->height - 1);
    assert (check.last_leaf->next == NULL);
  }
  for (level = 0; level < EXTENT_TREE_MAX_HEIGHT; ++level) {
    assert (check.nodes[level] == tree->level_nodes[level]);
    nodes += check.nodes[level];
  }
  for (spare = tree->spare; spare; spare = spare->next)
    spares++;
  assert (spares == tree->spares);
  assert (nodes + spares == tree->nodes);
  return check.extents;
}

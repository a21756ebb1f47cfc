/* SPDX-License-Identifier: BSD-3-Clause */

/* state_set: which states have been seen, by their hash; shared by all
 * processes forked after state_set_new.  Two states in ten million are taken for
 * one with a chance of about one in 400,000: a hash has 64 bits. */

#ifndef PCACHE_STATE_SET_H
#define PCACHE_STATE_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_set;

/* For up to MOST states. */
extern struct state_set *state_set_new (size_t most);
/* True if it was not there. */
extern bool state_set_add (struct state_set *set, uint64_t hash);
extern uint64_t state_set_count (const struct state_set *set);

#endif /* PCACHE_STATE_SET_H */

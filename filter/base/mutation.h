/* SPDX-License-Identifier: BSD-3-Clause */

/* mutation: known bugs that can be put back in, one at a time, to see that the
 * tests notice (make check-mutations; tests/mutations.list says which).
 * Each is one of the traps of docs/DESIGN.md.  A real build has none: MUTATION is
 * then the constant false, and no code comes of it.  That of tests/run-mutations
 * has them all, and PCACHE_MUTATION in the environment chooses. */

#ifndef PCACHE_MUTATION_H
#define PCACHE_MUTATION_H

enum mutation {
  NONE,
  T1_IN_PLACE,                  /* both copies of a twin at once */
  T1_NEWEST_FIRST,              /* the first update goes to the newest copy,
                                 * nothing is repaired at an open */
  T2_STRIDE,                    /* of the segment table from a sizeof */
  T3_STALE_SETS,                /* sets of an earlier life are valid */
  T4_REUSE_BEFORE_TAIL,         /* segment free before the tail is durable */
  T5_NO_TAIL,                   /* eviction does not move the tail */
  T6_INDEX_FIRST,               /* mapped before it is in the log */
  T7_FLUSH_IGNORED,             /* result of the backing store's flush */
  T7_CLEAN_BEFORE_FLUSH,        /* called clean before that flush */
  T8_UNREADABLE_IS_END,         /* of the log */
  T9_DAMAGED_IS_NEW,            /* two bad superblocks: a new device */
  T10_STALE_FILL,               /* cached over what came meanwhile */
  T11_NO_BOUNDS,                /* places of records are believed */
  T12_PERCENT_CUT,              /* to a byte */
  T13_IDLE_HEADS,               /* each keeps a segment of a small cache */
  T14_GC_BY_TIMER,              /* and by nothing else */
  T15_SPIN,                     /* retries at once */
  T15_GIVE_UP,                  /* never retries */
  T16_ANY_STORE,                /* of any size is taken for ours */
  T17_LAST_FLUSH_IGNORED,
  T18_NO_LOCK,                  /* on the cache device */
  T19_UNVERIFIED_READS,
  T20_FUA_WITHOUT_EPOCH,        /* what follows it is of the same epoch */
  T21_DIRTY_BELOW_TAIL,         /* is dropped at replay */
  T22_DEAD_WITHOUT_TAIL,        /* a segment of which nothing is mapped */
  T23_DAMAGE_SKIPPED,           /* what is older is served */
  T24_TOO_EARLY,                /* written back before it is durable here */
  T25_ENDLESS_DRAIN,            /* waits for what comes after it */

  /* Not among the traps, but each as bad. */
  SET_BEFORE_DATA,              /* no fence between them */
  FLUSH_WITHOUT_FENCE,
  SYNC_LEFT_OUT,                /* a flush on a plain file does not sync */
  DATA_NOT_LOOKED_FOR,          /* at replay of a plain file */
  SEAL_BEFORE_SYNC,             /* the header vouches too early */
  HEADER_AFTER_SETS,            /* segment used before its header says open */
  OLD_GENERATION,               /* a freed segment keeps its generation */
  NEWEST_LOSES,                 /* replay lets the older record win */
  FORMAT_A_FIRST,               /* superblock A before the rest */
  GROWN_TOO_EARLY,              /* the superblock counts new segments before their
                                 * headers are durable */
  OPEN_WITHOUT_SYNC,            /* what a kill left is called durable */
  SPARE_NOT_WIPED,              /* when both copies of a twin are well again */
  PORTION_UNFLUSHED,            /* of an epoch, and not written again */
  FAIL_OVER_WITHOUT_MARK,       /* what is clean counts while it is left */
  BYPASS_WITHOUT_TAIL,          /* the device that was left stays valid */
  SPARE_OVER_NEWEST,            /* of a twin's last two places the newest first */
  MODE_WITHOUT_DRAIN,           /* written through over what is dirty */
  THROUGH_UNDURABLE,            /* written through before it is durable here */
  SETTLE_TOO_MUCH,              /* also what is still on its way through */
  AROUND_WITHOUT_HOLE,          /* written around, and the cache keeps the old */
  AROUND_FILLED_UNFLUSHED,      /* what was written around is cached too soon */
  AROUND_FILLED,                /* what is being written around is cached */
  EARLY_SET_UNVERIFIED,         /* stored with its data, which has no checksum */
  HEADS_FORGOTTEN,              /* a flush skips heads that have open sets */
  CHECKPOINT_STALE,             /* used although the log has changed */
  CHECKPOINT_KEPT,              /* when the control block changes */
  CHECKPOINT_UNVERIFIED,        /* checksums of its pieces are not looked at */
  CHECKPOINT_CERTAIN,           /* all its holes are taken for certain */
  CHECKPOINT_BELOW_TAIL,        /* has what a replay ignores */
  CHECKPOINT_WHILE_OPEN,        /* made and used although a segment is open */
};

#ifdef PCACHE_MUTATIONS
extern enum mutation mutation_chosen;   /* tests/support/mutation.c */
#define MUTATION(which) (mutation_chosen == (which))
#else
#define MUTATION(which) ((which) == NONE)
#endif

#endif /* PCACHE_MUTATION_H */

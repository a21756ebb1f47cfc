/* SPDX-License-Identifier: BSD-3-Clause */

/* settings: what can be changed while the cache runs.
 *
 * One list makes the enum, the names, the limits and the defaults.  On
 * nbdkit's command line a setting is "pcache-NAME=VALUE", live it is
 * "pcachectl set SOCKET NAME VALUE", with the same texts.  A value is one
 * number: it is read without a lock, wherever it is needed, and what has
 * begun may still go by the old one.
 *
 * Times are in milliseconds, sizes in bytes, rates in bytes per second, of a
 * choice the value is its place in the list of words. */

#ifndef PCACHE_SETTINGS_H
#define PCACHE_SETTINGS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum writeback_order {
  WRITEBACK_STRICT,             /* epoch by epoch: promise P3 */
  WRITEBACK_BATCH,              /* all closed epochs at once */
};

enum eviction_policy {
  EVICTION_CLOCK,               /* what was hit gets a second chance */
  EVICTION_FIFO,                /* nothing does */
  EVICTION_GHOST,               /* as clock, and a full cache only takes in what
                                 * was missed before */
};

enum cache_mode {
  MODE_WRITEBACK,
  MODE_WRITETHROUGH,
  MODE_WRITEAROUND,
  MODE_WRITEONLY,
};

/* When the cache device fails. */
enum fail_mode {
  FAIL_STOP,                    /* flushes, perhaps writes fail */
  FAIL_PASSTHROUGH,             /* the cache is left, if that is safe */
};

enum setting_type {
  SETTING_NUMBER,
  SETTING_SIZE,
  SETTING_UNIT,                 /* 0, or a size that is a power of two */
  SETTING_TIME,
  SETTING_CHOICE,               /* its words stand for the limits' text */
};

/* At the start: what the cache device remembers, or the default. */
#define SETTING_REMEMBERED UINT64_MAX

#define CACHE_DEFAULT_GC_PERCENT 70
#define CACHE_MAX_GC_PERCENT 90

#define HOURS_24_MS UINT64_C (86400000)

/* X (name, name on the command line, type, least, most, default,
 *    what is expected; of a choice, its words) */
#define SETTINGS_LIST(X)                                                \
  X (mode, "mode", CHOICE, 0, 3, MODE_WRITEBACK,                        \
     "writeback|writethrough|writearound|writeonly")                    \
  X (gc_percent, "gc-percent", NUMBER, 0, CACHE_MAX_GC_PERCENT,         \
     SETTING_REMEMBERED, "a whole number from 0 to 90")                 \
  X (writeback_order, "writeback-order", CHOICE, 0, 1,                  \
     WRITEBACK_STRICT, "strict|batch")                                  \
  X (writeback_delay, "writeback-delay", TIME, 0, HOURS_24_MS, 5000,    \
     "a time from 0 to 24 hours, such as 5, 0.5, 250ms, 30s or 10m")    \
  X (writeback_idle, "writeback-idle", TIME, 0, HOURS_24_MS, 0,         \
     "a time from 0 to 24 hours, such as 2, 0.5, 250ms or 1m")          \
  X (writeback_rate, "writeback-rate", SIZE, 0, INT64_MAX, 0,           \
     "bytes per second, with a suffix such as k, M or G if you like")   \
  X (dirty_high, "dirty-high", NUMBER, 0, 100, 70,                      \
     "a whole number from 0 to 100")                                    \
  X (dirty_low, "dirty-low", NUMBER, 0, 100, 60,                        \
     "a whole number from 0 to 100")                                    \
  X (space_timeout, "space-timeout", TIME, 0, HOURS_24_MS, 30000,       \
     "a time from 0 to 24 hours, such as 30, 0.5, 250ms, 30s or 10m")   \
  X (eviction, "eviction", CHOICE, 0, 2, EVICTION_CLOCK,                \
     "clock|fifo|ghost")                                                \
  X (sequential_cutoff, "sequential-cutoff", SIZE, 0, INT64_MAX,        \
     UINT64_C (4) << 20, "a size such as 4M, or 0")                     \
  X (fill_size, "fill-size", UNIT, 4096, 1 << 20, 0,                    \
     "0, or a power of two from 4k to 1M")                              \
  X (fail, "fail", CHOICE, 0, 1, FAIL_STOP, "stop|passthrough")

enum setting {
#define X(name, ...) SETTING_##name,
  SETTINGS_LIST (X)
#undef X
  SETTINGS_COUNT
};

/* To initialise an array of values. */
#define SETTING_INITIAL_(name, text, type, least, most, initial, expected) \
  [SETTING_##name] = initial,
#define SETTINGS_DEFAULT { SETTINGS_LIST (SETTING_INITIAL_) }

struct settings {
  _Atomic uint64_t value[SETTINGS_COUNT];
};

static inline uint64_t
setting_get (const struct settings *settings, enum setting which)
{
  return atomic_load_explicit (&settings->value[which],
                               memory_order_relaxed);
}

static inline void
setting_put (struct settings *settings, enum setting which, uint64_t value)
{
  atomic_store_explicit (&settings->value[which], value,
                         memory_order_relaxed);
}

/* "writeback-delay" */
extern const char *setting_name (enum setting which);
extern enum setting_type setting_type (enum setting which);
extern bool setting_allows (enum setting which, uint64_t value);

/* What a value may be, as words after "expected". */
extern const char *setting_expected (enum setting which,
                                     char buf[static 128]);

/* False: there is none of that name. */
extern bool setting_find (const char *name, enum setting *which);

/* False, and *VALUE as it was: TEXT is not a value for it. */
extern bool setting_parse (enum setting which, const char *text,
                           uint64_t *value);

/* As setting_parse takes it.  Returns BUF. */
extern const char *setting_format (enum setting which, uint64_t value,
                                   char buf[static 32]);

#endif /* PCACHE_SETTINGS_H */

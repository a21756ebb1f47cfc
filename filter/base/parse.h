/* SPDX-License-Identifier: BSD-3-Clause */

/* parse: parameter values from text.
 *
 * Strict: the whole text must be the value; no sign, no white space, no
 * overflow.  False leaves the result alone; the caller knows the parameter
 * and says what is allowed. */

#ifndef PCACHE_PARSE_H
#define PCACHE_PARSE_H

#include <stdbool.h>
#include <stdint.h>

/* Decimal digits. */
extern bool parse_number (const char *text, uint64_t max, uint64_t *number);

/* A number of bytes with one of nbdkit's suffixes (b k M G T P E, or s for
 * 512 byte sectors; capital or small); at most INT64_MAX. */
extern bool parse_size (const char *text, uint64_t *bytes);

/* 1, true, t, yes, y, on; 0, false, f, no, n, off, in any case. */
extern bool parse_bool (const char *text, bool *value);

/* A time: a number that may have decimals, in seconds or with a suffix ms,
 * s, m or h.  Rounded up to milliseconds, so only nothing becomes nothing. */
extern bool parse_delay (const char *text, unsigned max_ms, unsigned *ms);

/* The index of TEXT in NAMES, which ends with NULL. */
extern bool parse_choice (const char *text, const char *const names[],
                          unsigned *index);

#endif /* PCACHE_PARSE_H */

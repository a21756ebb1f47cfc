/* SPDX-License-Identifier: BSD-3-Clause */

/* fuzz_open: see fuzz_open.c. */

#ifndef PCACHE_HOSTILE_FUZZ_OPEN_H
#define PCACHE_HOSTILE_FUZZ_OPEN_H

#include <stddef.h>
#include <stdint.h>

/* What libFuzzer calls.  Aborts when something must not be. */
extern int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

/* Not NULL: the device is written to this file, and nothing is done with it. */
extern const char *fuzz_save;

#endif /* PCACHE_HOSTILE_FUZZ_OPEN_H */

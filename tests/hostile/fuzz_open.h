/* SPDX-License-Identifier: BSD-3-Clause */

/* fuzz_open: see fuzz_open.c. */

#ifndef PCACHE_HOSTILE_FUZZ_OPEN_H
#define PCACHE_HOSTILE_FUZZ_OPEN_H

#include <stddef.h>
#include <stdint.h>

/* What libFuzzer calls.  Aborts when something must not be. */
extern int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

#endif /* PCACHE_HOSTILE_FUZZ_OPEN_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* fuzz_request: any bytes at all, as a line on the control socket.
 *
 * What may come of it is a reply that is well formed, and nothing else: the
 * cache goes on.  The rest is up to the sanitizers. */

#ifndef PCACHE_HOSTILE_FUZZ_REQUEST_H
#define PCACHE_HOSTILE_FUZZ_REQUEST_H

#include <stddef.h>
#include <stdint.h>

/* What libFuzzer calls.  Aborts when something must not be. */
extern int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

#endif /* PCACHE_HOSTILE_FUZZ_REQUEST_H */

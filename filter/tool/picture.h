/* SPDX-License-Identifier: BSD-3-Clause */

/* picture: the device's segments and the cached ranges of the disk, as SVG.
 *
 * Of bounded size, however large both are: each square stands for several
 * segments, or for a part of the disk. */

#ifndef PCACHE_PICTURE_H
#define PCACHE_PICTURE_H

#include <stdio.h>

#include "tool/snapshot.h"

/* 0 or -errno. */
extern int picture_write (FILE *file, struct snapshot *snap,
                          const char *device);

#endif /* PCACHE_PICTURE_H */

/* SPDX-License-Identifier: BSD-3-Clause */

/* backup: what a repair is about to change of a device's metadata, in a file.
 *
 *   backup_header, then for each piece backup_piece and its bytes as they were.
 *
 * Little-endian, as everything on the device. */

#ifndef PCACHE_BACKUP_H
#define PCACHE_BACKUP_H

#include "pmem/pmem.h"

/* Save to the new file PATH what of the first END bytes of BELOW differs in
 * OVERLAY; durable when it returns 0.  -errno; -EEXIST: PATH is left alone. */
extern int backup_save (const char *path, struct pmem *below,
                        struct pmem *overlay, uint64_t end);

/* Put it back.  0; -errno, with the reason reported: nothing was stored unless it is
 * -EIO. */
extern int backup_restore (const char *path, struct pmem *pmem);

#endif /* PCACHE_BACKUP_H */

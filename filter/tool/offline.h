/* SPDX-License-Identifier: BSD-3-Clause */

/* offline: what the commands for a cache device that nobody has open share. */

#ifndef PCACHE_OFFLINE_H
#define PCACHE_OFFLINE_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/log_reader.h"
#include "engine/twin.h"
#include "tool/command.h"
#include "tool/snapshot.h"

/* Exit statuses of check; the others use those that fit. */
#define EXIT_DIRTY 3            /* all well; some data is only in the cache */
#define EXIT_DAMAGED 4          /* damaged, but no data that is only there */
#define EXIT_DIRTY_DAMAGED 5    /* data that is only there is damaged, may be
                                 * missing, or is lost */
#define EXIT_NO_CACHE 6         /* none, or one that cannot be read at all */

extern const struct command inspect_command, check_command, map_command,
  writeback_command, repair_command;

/* Messages of the engine go to stderr, with the device's name in front, and are
 * kept for messages_json.  DEVICE must stay. */
extern void messages_begin (const char *device);
extern struct json_object *messages_json (void);

/* Open DEVICE for reading and look at it.  0; or the exit status, with the reason
 * said.  *PMEM is to be closed after snapshot_close. */
extern int offline_open (const char *device, struct pmem **pmem,
                         struct snapshot *snap, enum snapshot_verdict *verdict);
/* The reverse of a call that returned 0. */
extern void offline_close (struct pmem *pmem, struct snapshot *snap);

extern const char *record_kind_name (enum record_kind kind);
extern const char *extent_kind_name (enum extent_kind kind);
extern const char *segment_state_name (const struct segment *segment);

/* BYTES as text: what is not printable becomes %XX.  From malloc. */
extern char *printable (const uint8_t *bytes, size_t length);

/* "1234 (1.2 KiB)"; BUF is returned. */
#define SIZE_TEXT 64
extern const char *size_text (char buf[SIZE_TEXT], uint64_t bytes);

/* Print OBJECT, with a newline, and free it. */
extern void print_json (struct json_object *object);

/* json-c's, under names that fit on a line.  NULL objects: out of memory ends
 * the program. */
extern struct json_object *json_new (void);
extern struct json_object *json_list (void);
extern void json_put (struct json_object *object, const char *key,
                      struct json_object *value);
extern void json_put_number (struct json_object *object, const char *key,
                             uint64_t value);
extern void json_put_text (struct json_object *object, const char *key,
                           const char *value);
extern void json_put_bool (struct json_object *object, const char *key,
                           bool value);
extern void json_append (struct json_object *list, struct json_object *value);

#endif /* PCACHE_OFFLINE_H */

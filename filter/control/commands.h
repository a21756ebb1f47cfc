/* SPDX-License-Identifier: BSD-3-Clause */

/* commands: what the requests on the control socket ask for, and what is
 * answered.
 *
 * A request is one line with a JSON object; docs/CONTROL.md says what may be in
 * it.  It comes from a peer, and nothing in it is trusted.  This module knows
 * the cache, and neither sockets nor nbdkit. */

#ifndef PCACHE_CONTROL_COMMANDS_H
#define PCACHE_CONTROL_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/cache.h"

#define CONTROL_PROTOCOL 1
#define CONTROL_MAX_LINE 65536          /* bytes of a request, with its end */

struct json_object;
struct request;

/* What all of them work with. */
struct control_target {
  struct cache *cache;
  const char *device;           /* path of the cache device */
};

/* Where a request is to be run.  Those of one lane run one after the other. */
enum request_lane {
  LANE_AT_ONCE,                 /* does not wait for anything slow */
  LANE_SHORT,                   /* may wait for a device */
  LANE_DRAIN,                   /* waits for the backing store */
};

/* The first line of a connection.  ERROR is NULL, or why it ends right away.
 * All objects are the caller's; NULL: out of memory. */
extern struct json_object *control_greeting (const char *error);

/* LINE is without its end.  NULL: *REPLY says why. */
extern struct request *request_parse (const char *line, size_t length,
                                      struct json_object **reply);
/* The reply that it is not done, and why.  NULL: of one that could not be
 * read. */
extern struct json_object *request_refuse (const struct request *request,
                                           const char *error);
extern void request_free (struct request *request);

extern enum request_lane request_lane (const struct request *request);

/* The part of a drain that is short: what is dirty now is what it is about,
 * however long it then has to wait for its turn.  Of others, nothing. */
extern void request_begin (struct request *request,
                           const struct control_target *target);

/* Do it; once.  The reply. */
extern struct json_object *request_run (struct request *request,
                                        const struct control_target *target);

/* From any thread: end soon.  What is not done is left undone. */
extern void request_cancel (struct request *request);

/* From any thread: does it have progress to tell while it runs, or waits to?
 * An event. */
extern bool request_has_progress (const struct request *request);
extern struct json_object *
request_progress (struct request *request,
                  const struct control_target *target);

#endif /* PCACHE_CONTROL_COMMANDS_H */

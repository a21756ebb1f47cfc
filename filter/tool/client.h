/* SPDX-License-Identifier: BSD-3-Clause */

/* client: a connection to the control socket of a running cache.
 *
 * docs/CONTROL.md is what it goes by.  Messages begin with the socket's
 * path. */

#ifndef PCACHE_CLIENT_H
#define PCACHE_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

struct json_object;
struct client;

/* NULL after the reason was said. */
extern struct client *client_open (const char *path);
extern void client_close (struct client *client);

/* For poll: readable when client_next would not wait long. */
extern int client_fd (const struct client *client);

/* Send COMMAND with ARGUMENTS, an object that becomes the client's; NULL:
 * none.  False after the reason was said. */
extern bool client_send (struct client *client, const char *command,
                         struct json_object *arguments);

/* The next event or reply to it; the caller puts it.  NULL after the reason was
 * said: the connection is of no more use. */
extern struct json_object *client_next (struct client *client);

/* Send, and wait for the reply.  NULL after the reason was said, which may be
 * that the request failed. */
extern struct json_object *client_ask (struct client *client,
                                       const char *command,
                                       struct json_object *arguments);

/* A reply's error, to be said; NULL: it was done. */
extern const char *reply_error (struct json_object *reply);

/* Members; 0 or NULL if they are not there. */
extern uint64_t get_number (struct json_object *object, const char *name);
extern const char *get_text (struct json_object *object, const char *name);

#endif /* PCACHE_CLIENT_H */

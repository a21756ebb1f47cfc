/* SPDX-License-Identifier: BSD-3-Clause */

/* server: the control socket.
 *
 * One thread serves all clients and never waits for one of them, nor for a
 * device: what may take long is run in one of two threads of its own, drains in
 * one and the rest in the other.
 *
 * What a client can cost is bounded: so many clients, so long a line, one
 * request at a time of each, and none is read before the reply to the one
 * before it is gone.  Who takes no reply, or sends a line piece by piece, is
 * let go.
 *
 * Life: control_listen -> [fork] -> control_start -> control_stop. */

#ifndef PCACHE_CONTROL_SERVER_H
#define PCACHE_CONTROL_SERVER_H

#include "control/commands.h"

struct control_server;

/* Make the socket at PATH, which is absolute and stays.  From its first
 * instant on, only its owner may connect.  What a killed process has left there
 * is replaced.  0, or -errno after the reason was reported. */
extern int control_listen (const char *path, struct control_server **server);

/* Serve it, in threads, after the last fork.  TARGET is copied; what it names
 * must stay until control_stop.  0 or -errno. */
extern int control_start (struct control_server *server,
                          const struct control_target *target);

/* End all requests, with their replies; close and remove the socket, unless
 * another one is there by now; free SERVER.  NULL is allowed. */
extern void control_stop (struct control_server *server);

#endif /* PCACHE_CONTROL_SERVER_H */

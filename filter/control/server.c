/* SPDX-License-Identifier: BSD-3-Clause */

/* The thread that serves owns the clients.  A request that may take long
 * becomes a job: it goes to its lane's thread and comes back done.  Meanwhile
 * its client may leave; then nobody wants the reply, and a job that is not
 * being run goes with it, so that there are never more jobs than clients and
 * lanes. */

#include <config.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <json.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/report.h"
#include "base/thread.h"
#include "control/listener.h"
#include "control/server.h"

#define MAX_CLIENTS 16
#define FIRST_INPUT 1024        /* bytes of a buffer; doubles as needed */
#define STUCK_MS 5000           /* a line, or a reply, stands still so long */
#define IDLE_MS 5000            /* then a client may have to make room */
#define PROGRESS_MS 500         /* between events */
#define NO_ACCEPT_MS 500        /* when there are no file descriptors left */
#define LANES LANE_DRAIN        /* those with threads are 1..LANES */

struct client;

struct job {
  struct job *next;
  struct request *request;
  struct client *client;        /* the serving thread's; NULL: gone */
  struct json_object *reply;    /* when it is done */
};

struct lane {
  struct control_server *server;
  pthread_t thread;
  bool started;
  pthread_cond_t wake;
  struct job *first, **last;    /* server's lock: those waiting */
  struct job *running;          /* server's lock */
};

struct client {
  int fd;                       /* -1: nobody */
  char *input;
  size_t input_length, input_room;
  char *output;                 /* what is to be sent; NULL: nothing */
  size_t output_length, output_sent;
  struct job *job;
  bool ending;                  /* close it when the output is sent */
  uint64_t moved_ms;            /* when bytes last went or a line was done */
};

struct control_server {
  struct listener listener;
  struct control_target target;
  int event_fd;                 /* written to when a job is done, or to stop */
  pthread_t thread;
  bool started;

  pthread_mutex_t lock;
  bool stopping;                /* lock; no more jobs */
  bool ended;                   /* lock; no more anything */
  struct job *done;             /* lock */
  struct lane lanes[LANES];

  /* The serving thread's. */
  struct client clients[MAX_CLIENTS];
  uint64_t accept_after_ms;
  uint64_t progress_at_ms;
};

/* Jobs. ------------------------------------------------------------------ */

static void
wake_server (struct control_server *server)
{
  const uint64_t one = 1;
  ssize_t r = write (server->event_fd, &one, sizeof one);

  (void) r;                     /* full: it is awake */
}

static void
job_free (struct job *job)
{
  json_object_put (job->reply);
  request_free (job->request);
  free (job);
}

static struct job *
take_job_locked (struct lane *lane)
{
  struct job *job = lane->first;

  if (job) {
    lane->first = job->next;
    if (lane->first == NULL)
      lane->last = &lane->first;
  }
  lane->running = job;
  return job;
}

static void
append_job_locked (struct lane *lane, struct job *job)
{
  job->next = NULL;
  *lane->last = job;
  lane->last = &job->next;
  pthread_cond_signal (&lane->wake);
}

static void
finish_job_locked (struct control_server *server, struct job *job)
{
  job->next = server->done;
  server->done = job;
  wake_server (server);
}

/* All jobs begin in the first lane, and end in their own. */
static void *
run_lane (void *opaque)
{
  struct lane *lane = opaque;
  struct control_server *server = lane->server;
  struct lane *first = &server->lanes[0], *own;
  struct job *job;

  HOLD_LOCK (&server->lock);
  while (!server->stopping) {
    job = take_job_locked (lane);
    if (job == NULL) {
      pthread_cond_wait (&lane->wake, &server->lock);
      continue;
    }
    own = &server->lanes[request_lane (job->request) - 1];
    mutex_unlock (&server->lock);
    if (lane == first)
      request_begin (job->request, &server->target);
    if (lane == own)
      job->reply = request_run (job->request, &server->target);
    mutex_lock (&server->lock);
    lane->running = NULL;
    if (lane == own)
      finish_job_locked (server, job);
    else
      append_job_locked (own, job);
  }
  return NULL;
}

/* NULL, or why not; then REQUEST is still the caller's. */
static const char *
start_job (struct control_server *server, struct client *client,
           struct request *request)
{
  struct job *job = calloc (1, sizeof *job);

  if (job == NULL)
    return "out of memory";
  HOLD_LOCK (&server->lock);
  if (server->stopping) {
    free (job);
    return "nbdkit is stopping";
  }
  job->request = request;
  job->client = client;
  client->job = job;
  append_job_locked (&server->lanes[0], job);
  return NULL;
}

/* True: it was waiting. */
static bool
withdraw_job_locked (struct control_server *server, struct job *job)
{
  for (unsigned i = 0; i < LANES; i++)
    for (struct job **p = &server->lanes[i].first; *p; p = &(*p)->next)
      if (*p == job) {
        *p = job->next;
        if (*p == NULL)
          server->lanes[i].last = p;
        return true;
      }
  return false;
}

static void
abandon_job (struct control_server *server, struct job *job)
{
  bool withdrawn;

  mutex_lock (&server->lock);
  withdrawn = withdraw_job_locked (server, job);
  mutex_unlock (&server->lock);
  if (withdrawn)
    job_free (job);
  else {
    job->client = NULL;
    request_cancel (job->request);
  }
}

/* Clients. --------------------------------------------------------------- */

static void
client_close (struct control_server *server, struct client *client)
{
  if (client->job)
    abandon_job (server, client->job);
  close (client->fd);
  free (client->input);
  free (client->output);
  *client = (struct client) { .fd = -1 };
}

/* As much as goes without waiting. */
static void
client_send (struct control_server *server, struct client *client)
{
  ssize_t n;

  while (client->output) {
    n = send (client->fd, client->output + client->output_sent,
              client->output_length - client->output_sent,
              MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == -1 && errno == EINTR)
      continue;
    if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return;
    if (n == -1) {
      client_close (server, client);
      return;
    }
    client->moved_ms = now_ms ();
    client->output_sent += n;
    if (client->output_sent == client->output_length) {
      free (client->output);
      client->output = NULL;
    }
  }
  if (client->ending)
    client_close (server, client);
}

/* Behind what is still to be sent: at most an event, then the reply. */
static bool
queue_line (struct client *client, const char *text, size_t length)
{
  const size_t unsent = client->output
    ? client->output_length - client->output_sent : 0;
  char *output = malloc (unsent + length + 1);

  if (output == NULL)
    return false;
  if (unsent > 0)
    memcpy (output, client->output + client->output_sent, unsent);
  else
    client->moved_ms = now_ms ();
  memcpy (output + unsent, text, length);
  output[unsent + length] = '\n';
  free (client->output);
  client->output = output;
  client->output_length = unsent + length + 1;
  client->output_sent = 0;
  return true;
}

/* Send OBJECT, which becomes ours, as one line.  The client may be gone
 * afterwards. */
static void
client_reply (struct control_server *server, struct client *client,
              struct json_object *object)
{
  const int flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
  size_t length;
  const char *text = object
    ? json_object_to_json_string_length (object, flags, &length) : NULL;

  /* The end of the connection is better than no answer. */
  if (text == NULL || !queue_line (client, text, length))
    client->ending = true;
  json_object_put (object);
  client_send (server, client);
}

static void
client_handle_line (struct control_server *server, struct client *client,
                    const char *line, size_t length)
{
  struct json_object *reply = NULL;
  struct request *request = request_parse (line, length, &reply);

  if (request && request_lane (request) != LANE_AT_ONCE) {
    const char *why = start_job (server, client, request);

    if (why == NULL)
      return;
    reply = request_refuse (request, why);
  }
  else if (request)
    reply = request_run (request, &server->target);
  if (request)
    request_free (request);
  client_reply (server, client, reply);
}

/* Handle lines until one has to wait.  The client may be gone afterwards. */
static void
client_handle_input (struct control_server *server, struct client *client)
{
  size_t done = 0;

  while (client->fd >= 0 && !client->job && !client->output) {
    const char *line = client->input + done;
    const char *end = client->input_length > done
      ? memchr (line, '\n', client->input_length - done) : NULL;

    if (end == NULL)
      break;
    done += end + 1 - line;
    client->moved_ms = now_ms ();
    client_handle_line (server, client, line, end - line);
  }
  if (client->fd < 0)
    return;
  client->input_length -= done;
  if (client->input_length > 0)
    memmove (client->input, client->input + done, client->input_length);
  else {
    free (client->input);
    client->input = NULL;
    client->input_room = 0;
  }
}

/* False: it cannot be larger, or there is no memory. */
static bool
make_room (struct client *client)
{
  const size_t room = client->input_room ? client->input_room * 2
    : FIRST_INPUT;
  char *larger;

  if (client->input_length < client->input_room)
    return true;
  if (room > CONTROL_MAX_LINE)
    return false;
  larger = realloc (client->input, room);
  if (larger == NULL)
    return false;
  client->input = larger;
  client->input_room = room;
  return true;
}

static void
client_receive (struct control_server *server, struct client *client)
{
  ssize_t n;

  if (!make_room (client)) {
    client->ending = true;
    client_reply (server, client,
                  request_refuse (NULL, "the line is longer than 64 KiB"));
    return;
  }
  n = recv (client->fd, client->input + client->input_length,
            client->input_room - client->input_length, MSG_DONTWAIT);
  if (n == -1 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n <= 0) {
    client_close (server, client);
    return;
  }
  /* A line that comes piece by piece gets no more time for each. */
  if (client->input_length == 0)
    client->moved_ms = now_ms ();
  client->input_length += n;
  client_handle_input (server, client);
}

static bool
is_idle (const struct client *client)
{
  return !client->job && !client->output && client->input_length == 0;
}

/* Who can be let go for another one, if there must be one: the longest idle. */
static struct client *
longest_idle (struct control_server *server)
{
  struct client *longest = NULL;

  for (unsigned i = 0; i < MAX_CLIENTS; i++) {
    struct client *client = &server->clients[i];

    if (is_idle (client) && now_ms () - client->moved_ms >= IDLE_MS
        && (longest == NULL || client->moved_ms < longest->moved_ms))
      longest = client;
  }
  return longest;
}

static struct client *
place_for_client (struct control_server *server)
{
  struct client *client;

  for (unsigned i = 0; i < MAX_CLIENTS; i++)
    if (server->clients[i].fd == -1)
      return &server->clients[i];
  client = longest_idle (server);
  if (client)
    client_close (server, client);
  return client;
}

static void
accept_client (struct control_server *server)
{
  static const char full[] = "too many clients";
  const int fd = accept4 (server->listener.fd, NULL, NULL,
                          SOCK_CLOEXEC | SOCK_NONBLOCK);
  struct client *client, refused = { .fd = -1 };

  if (fd == -1) {
    /* It would be ready again at once. */
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      server->accept_after_ms = now_ms () + NO_ACCEPT_MS;
    return;
  }
  client = place_for_client (server);
  if (client == NULL) {
    client = &refused;
    client->ending = true;
  }
  client->fd = fd;
  client_reply (server, client, control_greeting (client->ending ? full
                                                  : NULL));
  /* Not even that went through. */
  if (refused.fd >= 0)
    client_close (server, client);
}

/* The loop. -------------------------------------------------------------- */

static void
finish_jobs (struct control_server *server)
{
  uint64_t count;
  ssize_t n = read (server->event_fd, &count, sizeof count);
  struct job *job, *next;

  (void) n;                     /* nothing to read: nothing is done */
  mutex_lock (&server->lock);
  job = server->done;
  server->done = NULL;
  mutex_unlock (&server->lock);
  for (; job; job = next) {
    struct client *client = job->client;

    next = job->next;
    if (client) {
      client->job = NULL;
      client_reply (server, client, json_object_get (job->reply));
    }
    job_free (job);
  }
}

/* The line that has begun, or the reply, stands still. */
static bool
is_halted (const struct client *client)
{
  return client->output || (client->input_length > 0 && !client->job);
}

static void
drop_stuck (struct control_server *server, struct client *client)
{
  if (!is_halted (client) || now_ms () < client->moved_ms + STUCK_MS)
    return;
  if (client->output)
    client_close (server, client);
  else {
    client->ending = true;
    client_reply (server, client,
                  request_refuse (NULL, "the rest of the line did not come"));
  }
}

static bool
wants_events (const struct client *client)
{
  return client->job && request_has_progress (client->job->request);
}

/* Who has not taken the last one gets none. */
static void
send_events (struct control_server *server)
{
  if (now_ms () < server->progress_at_ms)
    return;
  server->progress_at_ms = now_ms () + PROGRESS_MS;
  for (unsigned i = 0; i < MAX_CLIENTS; i++) {
    struct client *client = &server->clients[i];

    if (wants_events (client) && !client->output)
      client_reply (server, client,
                    request_progress (client->job->request,
                                      &server->target));
  }
}

/* When there is something to do even if nothing happens, for poll. */
static int
time_to_wait (const struct control_server *server)
{
  const uint64_t now = now_ms ();
  uint64_t until = UINT64_MAX;

  if (server->accept_after_ms > now)
    until = server->accept_after_ms;
  for (unsigned i = 0; i < MAX_CLIENTS; i++) {
    const struct client *client = &server->clients[i];

    if (is_halted (client))
      until = MIN (until, client->moved_ms + STUCK_MS);
    if (wants_events (client))
      until = MIN (until, server->progress_at_ms);
  }
  if (until == UINT64_MAX)
    return -1;
  return until > now ? until - now : 0;
}

/* Poll always tells when a client is gone. */
static short
wanted (const struct client *client)
{
  return client->output ? POLLOUT : client->job ? 0 : POLLIN;
}

static void
serve_client (struct control_server *server, struct client *client,
              short happened)
{
  if (happened & POLLOUT)
    client_send (server, client);
  else if (happened & POLLIN)
    client_receive (server, client);
  else if (happened)
    client_close (server, client);
  /* What was received before and had to wait. */
  if (client->fd >= 0 && client->input_length > 0)
    client_handle_input (server, client);
  if (client->fd >= 0)
    drop_stuck (server, client);
}

static void
serve_once (struct control_server *server)
{
  enum { EVENT, LISTENER, FIRST_CLIENT };
  struct pollfd fds[FIRST_CLIENT + MAX_CLIENTS];
  const bool may_accept = server->accept_after_ms <= now_ms ();

  fds[EVENT] = (struct pollfd) { server->event_fd, POLLIN, 0 };
  fds[LISTENER] = (struct pollfd) {
    may_accept ? server->listener.fd : -1, POLLIN, 0
  };
  /* Poll skips those with fd -1. */
  for (unsigned i = 0; i < MAX_CLIENTS; i++)
    fds[FIRST_CLIENT + i] = (struct pollfd) {
      server->clients[i].fd, wanted (&server->clients[i]), 0
    };
  if (poll (fds, FIRST_CLIENT + MAX_CLIENTS, time_to_wait (server)) == -1)
    return;
  if (fds[EVENT].revents)
    finish_jobs (server);
  for (unsigned i = 0; i < MAX_CLIENTS; i++)
    /* It may have gone with its job. */
    if (fds[FIRST_CLIENT + i].fd >= 0 && server->clients[i].fd >= 0)
      serve_client (server, &server->clients[i],
                    fds[FIRST_CLIENT + i].revents);
  send_events (server);
  if (fds[LISTENER].revents)
    accept_client (server);
}

static bool
has_ended (struct control_server *server)
{
  HOLD_LOCK (&server->lock);
  return server->ended;
}

static void *
serve (void *opaque)
{
  struct control_server *server = opaque;

  while (!has_ended (server))
    serve_once (server);
  finish_jobs (server);
  for (unsigned i = 0; i < MAX_CLIENTS; i++)
    if (server->clients[i].fd >= 0)
      client_close (server, &server->clients[i]);
  return NULL;
}

/* Life. ------------------------------------------------------------------ */

int
control_listen (const char *path, struct control_server **result)
{
  struct control_server *server = calloc (1, sizeof *server);
  int r;

  if (server == NULL) {
    report (REPORT_ERROR, "pcache-control: out of memory");
    return -ENOMEM;
  }
  r = listener_open (&server->listener, path);
  if (r < 0) {
    free (server);
    return r;
  }
  pthread_mutex_init (&server->lock, NULL);
  for (unsigned i = 0; i < LANES; i++) {
    server->lanes[i].server = server;
    server->lanes[i].last = &server->lanes[i].first;
    cond_init (&server->lanes[i].wake);
  }
  for (unsigned i = 0; i < MAX_CLIENTS; i++)
    server->clients[i].fd = -1;
  server->event_fd = -1;
  *result = server;
  return 0;
}

static int
start_threads (struct control_server *server)
{
  int r;

  for (unsigned i = 0; i < LANES; i++) {
    struct lane *lane = &server->lanes[i];

    r = -pthread_create (&lane->thread, NULL, run_lane, lane);
    if (r < 0)
      return r;
    lane->started = true;
  }
  r = -pthread_create (&server->thread, NULL, serve, server);
  server->started = r == 0;
  return r;
}

/* Those that run are told to end, and what is left then gets no thread. */
static void
stop_threads (struct control_server *server)
{
  mutex_lock (&server->lock);
  server->stopping = true;
  for (unsigned i = 0; i < LANES; i++) {
    if (server->lanes[i].running)
      request_cancel (server->lanes[i].running->request);
    pthread_cond_signal (&server->lanes[i].wake);
  }
  mutex_unlock (&server->lock);
  for (unsigned i = 0; i < LANES; i++)
    if (server->lanes[i].started)
      pthread_join (server->lanes[i].thread, NULL);

  mutex_lock (&server->lock);
  server->ended = true;
  mutex_unlock (&server->lock);
  if (server->started) {
    wake_server (server);
    pthread_join (server->thread, NULL);
  }
}

int
control_start (struct control_server *server,
               const struct control_target *target)
{
  int r;

  server->target = *target;
  server->event_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  r = server->event_fd == -1 ? -errno : start_threads (server);
  if (r < 0)
    stop_threads (server);
  return r;
}

void
control_stop (struct control_server *server)
{
  if (server == NULL)
    return;
  stop_threads (server);
  listener_close (&server->listener);
  if (server->event_fd >= 0)
    close (server->event_fd);
  for (unsigned i = 0; i < LANES; i++)
    pthread_cond_destroy (&server->lanes[i].wake);
  pthread_mutex_destroy (&server->lock);
  free (server);
}

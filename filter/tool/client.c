/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <json.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "control/commands.h"
#include "engine/format.h"
#include "tool/client.h"

#define MAX_REPLY (16 << 20)    /* bytes; that is no reply of ours */
#define GREETING_MS 10000

struct client {
  int fd;
  const char *path;
  char *input;
  size_t length, used, room;    /* received, and of that handed out */
};

/* Returns NULL. */
static void *
complain (const char *path, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

static void *
complain (const char *path, const char *format, ...)
{
  va_list args;

  fflush (stdout);
  fprintf (stderr, "pcachectl: %s: ", path);
  va_start (args, format);
  vfprintf (stderr, format, args);
  va_end (args);
  fputc ('\n', stderr);
  return NULL;
}

/* Connecting. ------------------------------------------------------------ */

static bool
is_cache_device (const char *path, const struct stat *st)
{
  CLEANUP_CLOSE int fd = -1;
  le64 magic;

  if (S_ISBLK (st->st_mode) || S_ISCHR (st->st_mode))
    return true;
  if (!S_ISREG (st->st_mode))
    return false;
  fd = open (path, O_RDONLY | O_CLOEXEC);
  return fd >= 0 && read (fd, &magic, sizeof magic) == sizeof magic
    && (le64_get (magic) == MAGIC_SUPERBLOCK
        || le64_get (magic) == MAGIC_FORMATTING);
}

/* What else there is at PATH. */
static bool
check_socket (const char *path)
{
  struct stat st;

  /* Connecting says what is wrong with the path. */
  if (stat (path, &st) == -1 || S_ISSOCK (st.st_mode))
    return true;
  if (is_cache_device (path, &st))
    complain (path, "is a cache device; this command needs the control socket "
              "of a running cache (nbdkit's pcache-control=SOCKET)");
  else
    complain (path, "is not a socket; this command needs the control socket of "
              "a running cache (nbdkit's pcache-control=SOCKET)");
  return false;
}

static void
complain_of_connecting (const char *path, int error)
{
  switch (error) {
  case ENOENT:
  case ENOTDIR:
    complain (path, "there is no such socket; was nbdkit started with "
              "pcache-control=%s?", path);
    break;
  case EACCES:
  case EPERM:
    complain (path, "permission denied; only the user who started nbdkit, and "
              "root, may use it");
    break;
  case ECONNREFUSED:
    complain (path, "nobody answers: the nbdkit that made this socket has "
              "ended");
    break;
  default:
    complain (path, "cannot connect: %s", strerror (error));
  }
}

static bool
connect_to (struct client *client)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };

  if (strlen (client->path) >= sizeof address.sun_path) {
    complain (client->path, "the path is too long for a socket");
    return false;
  }
  strcpy (address.sun_path, client->path);
  client->fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (client->fd == -1
      || connect (client->fd, (struct sockaddr *) &address,
                  sizeof address) == -1) {
    complain_of_connecting (client->path, errno);
    return false;
  }
  return true;
}

/* Lines. ----------------------------------------------------------------- */

/* The next line without its end, or NULL if it has not all come. */
static char *
take_line (struct client *client, size_t *length)
{
  char *line = client->input + client->used;
  char *end = client->length > client->used
    ? memchr (line, '\n', client->length - client->used) : NULL;

  if (end == NULL)
    return NULL;
  *length = end - line;
  client->used += *length + 1;
  return line;
}

/* Returns what read does; -1 also when the line grows too long. */
static ssize_t
receive (struct client *client)
{
  ssize_t n;

  if (client->used > 0) {
    client->length -= client->used;
    memmove (client->input, client->input + client->used, client->length);
    client->used = 0;
  }
  if (client->length == client->room) {
    const size_t room = client->room ? client->room * 2 : 4096;
    char *larger = room <= MAX_REPLY ? realloc (client->input, room) : NULL;

    if (larger == NULL) {
      errno = ENOMEM;
      return -1;
    }
    client->input = larger;
    client->room = room;
  }
  do
    n = read (client->fd, client->input + client->length,
              client->room - client->length);
  while (n == -1 && errno == EINTR);
  if (n > 0)
    client->length += n;
  return n;
}

static struct json_object *
parse_object (const char *line, size_t length)
{
  struct json_tokener *tokener = json_tokener_new ();
  struct json_object *object = NULL;

  if (tokener == NULL)
    return NULL;
  object = json_tokener_parse_ex (tokener, line, length);
  json_tokener_free (tokener);
  if (json_object_is_type (object, json_type_object))
    return object;
  json_object_put (object);
  return NULL;
}

struct json_object *
client_next (struct client *client)
{
  struct json_object *object;
  size_t length;
  char *line;

  while ((line = take_line (client, &length)) == NULL) {
    const ssize_t n = receive (client);

    if (n == 0 || (n == -1 && errno == ECONNRESET))
      return complain (client->path, "nbdkit has ended, or closed the "
                       "connection, before it answered");
    if (n == -1)
      return complain (client->path, "cannot read the answer: %m");
  }
  object = parse_object (line, length);
  return object ?: complain (client->path, "the answer makes no sense");
}

static bool
has_line (const struct client *client)
{
  return client->length > client->used
    && memchr (client->input + client->used, '\n',
               client->length - client->used);
}

/* False: it ends, or takes too long, or is no line of ours. */
static bool
await_greeting (struct client *client)
{
  struct pollfd fd = { client->fd, POLLIN, 0 };

  while (!has_line (client))
    if (client->length > 4096 || poll (&fd, 1, GREETING_MS) != 1
        || receive (client) <= 0)
      return false;
  return true;
}

static bool
check_greeting (struct client *client)
{
  struct json_object *greeting = NULL;
  const char *version, *error;
  uint64_t protocol;
  size_t length = 0;
  char *line;
  bool good = false;

  if (await_greeting (client)) {
    line = take_line (client, &length);
    greeting = parse_object (line, length);
  }
  version = greeting ? get_text (greeting, "pcache") : NULL;
  if (version == NULL)
    complain (client->path, "is not the control socket of a pcache filter");
  else {
    protocol = get_number (greeting, "protocol");
    error = get_text (greeting, "error");
    if (protocol != CONTROL_PROTOCOL)
      complain (client->path, "pcache %s speaks version %d of the protocol, "
                "this pcachectl version %d; use the pcachectl of pcache %s",
                version, (int) protocol, CONTROL_PROTOCOL, version);
    else if (error)
      complain (client->path, "%s", error);
    else
      good = true;
  }
  json_object_put (greeting);
  return good;
}

struct client *
client_open (const char *path)
{
  struct client *client;

  if (!check_socket (path))
    return NULL;
  client = calloc (1, sizeof *client);
  if (client == NULL)
    return complain (path, "out of memory");
  client->fd = -1;
  client->path = path;
  if (connect_to (client) && check_greeting (client))
    return client;
  client_close (client);
  return NULL;
}

void
client_close (struct client *client)
{
  if (client == NULL)
    return;
  if (client->fd >= 0)
    close (client->fd);
  free (client->input);
  free (client);
}

int
client_fd (const struct client *client)
{
  return client->fd;
}

/* Requests. --------------------------------------------------------------- */

bool
client_send (struct client *client, const char *command,
             struct json_object *arguments)
{
  struct json_object *request = arguments ?: json_object_new_object ();
  const char *text;
  size_t length, sent = 0;
  bool good = false;

  json_object_object_add (request, "command",
                          json_object_new_string (command));
  text = json_object_to_json_string_length (request, JSON_C_TO_STRING_PLAIN,
                                            &length);
  if (length + 1 >= CONTROL_MAX_LINE)
    complain (client->path, "the arguments are too long");
  else {
    CLEANUP_FREE char *line = NULL;

    if (asprintf (&line, "%s\n", text) == -1)
      line = NULL;
    while (line && sent < length + 1) {
      const ssize_t n = send (client->fd, line + sent, length + 1 - sent,
                              MSG_NOSIGNAL);

      if (n == -1 && errno != EINTR)
        break;
      sent += n > 0 ? n : 0;
    }
    good = line && sent == length + 1;
    if (!good)
      complain (client->path, "nbdkit has ended, or closed the connection");
  }
  json_object_put (request);
  return good;
}

struct json_object *
client_ask (struct client *client, const char *command,
            struct json_object *arguments)
{
  struct json_object *reply;

  if (!client_send (client, command, arguments))
    return NULL;
  reply = client_next (client);
  if (reply && reply_error (reply)) {
    complain (client->path, "%s", reply_error (reply));
    json_object_put (reply);
    return NULL;
  }
  return reply;
}

const char *
reply_error (struct json_object *reply)
{
  struct json_object *ok;

  if (json_object_object_get_ex (reply, "ok", &ok)
      && json_object_get_boolean (ok))
    return NULL;
  return get_text (reply, "error") ?: "it failed and does not say why";
}

uint64_t
get_number (struct json_object *object, const char *name)
{
  struct json_object *value;

  return json_object_object_get_ex (object, name, &value)
    ? json_object_get_uint64 (value) : 0;
}

const char *
get_text (struct json_object *object, const char *name)
{
  struct json_object *value;

  return json_object_object_get_ex (object, name, &value)
    && json_object_is_type (value, json_type_string)
    ? json_object_get_string (value) : NULL;
}

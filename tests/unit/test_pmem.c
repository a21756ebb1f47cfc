/* SPDX-License-Identifier: BSD-3-Clause */

/* The cache device, as persistent memory and as an ordinary file.
 *
 * Most stories hold for both.  Which one a file becomes is up to libpmem, and
 * it looks at PMEM_IS_PMEM_FORCE only once; so this program runs itself twice,
 * once for each:
 *
 *   test_pmem           both
 *   test_pmem pmem      files on /dev/shm, taken for persistent memory
 *   test_pmem file      files below $TMPDIR
 *
 * The system calls that make things durable are replaced by ours, which count
 * them, hold them up, and make them fail. */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/report.h"
#include "base/thread.h"
#include "pmem/device.h"
#include "pmem/media_error.h"
#include "pmem/overlay.h"
#include "pmem/pmem.h"

#define MIB (UINT64_C (1) << 20)
#define PAGE 4096

static bool is_pmem;            /* which of the two runs this is */
static char directory[128];
static char path[256];          /* of the device, in the directory */

/* What was reported. */

static pthread_mutex_t reports_lock = PTHREAD_MUTEX_INITIALIZER;
static char reports[3][4096];   /* reports_lock; by level, a line each */

static void
remember_report (enum report_level level, const char *format, va_list args)
{
  size_t used;

  mutex_lock (&reports_lock);
  used = strlen (reports[level]);
  vsnprintf (reports[level] + used, sizeof reports[level] - used - 1, format,
             args);
  strcat (reports[level], "\n");
  mutex_unlock (&reports_lock);
}

static int
lines (const char *s)
{
  int n = 0;

  for (; *s; s++)
    n += *s == '\n';
  return n;
}

/* One line, about the device, with these words. */
static void
assert_reported (enum report_level level, const char *words)
{
  if (lines (reports[level]) != 1 || !strstr (reports[level], words) ||
      strncmp (reports[level], path, strlen (path)) != 0)
    fail_msg ("expected one line about %s with \"%s\", got:\n%s", path, words,
              reports[level]);
  reports[level][0] = '\0';
}

static void
assert_silent (void)
{
  assert_string_equal (reports[REPORT_ERROR], "");
  assert_string_equal (reports[REPORT_WARNING], "");
}

/* System calls of ours. */

static _Atomic int fdatasyncs;          /* number of calls */
static _Atomic int fdatasync_error;     /* errno for the next one */
static _Atomic int64_t pwrite_room = INT64_MAX; /* bytes until ENOSPC */
static _Atomic bool pwrite_is_difficult;
static _Atomic int fallocate_error;

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_moved = PTHREAD_COND_INITIALIZER;
static bool gate_closed;                /* gate_lock */
static int waiting_at_gate;             /* gate_lock */

int
fdatasync (int fd)
{
  int err;

  atomic_fetch_add (&fdatasyncs, 1);
  mutex_lock (&gate_lock);
  waiting_at_gate++;
  pthread_cond_broadcast (&gate_moved);
  while (gate_closed)
    pthread_cond_wait (&gate_moved, &gate_lock);
  waiting_at_gate--;
  mutex_unlock (&gate_lock);

  err = atomic_exchange (&fdatasync_error, 0);
  if (err) {
    errno = err;
    return -1;
  }
  return syscall (SYS_fdatasync, fd);
}

static void
close_gate (void)
{
  mutex_lock (&gate_lock);
  gate_closed = true;
  mutex_unlock (&gate_lock);
}

static void
wait_for_one_at_gate (void)
{
  mutex_lock (&gate_lock);
  while (waiting_at_gate == 0)
    pthread_cond_wait (&gate_moved, &gate_lock);
  mutex_unlock (&gate_lock);
}

static void
open_gate (void)
{
  mutex_lock (&gate_lock);
  gate_closed = false;
  pthread_cond_broadcast (&gate_moved);
  mutex_unlock (&gate_lock);
}

ssize_t
pwrite (int fd, const void *buf, size_t length, off_t at)
{
  static _Atomic unsigned calls;

  if (pwrite_is_difficult) {
    if (atomic_fetch_add (&calls, 1) % 2 == 0) {
      errno = EINTR;
      return -1;
    }
    length = length > 1000 ? 1000 : length;
  }
  if (atomic_fetch_sub (&pwrite_room, length) < (int64_t) length) {
    errno = ENOSPC;
    return -1;
  }
  return syscall (SYS_pwrite64, fd, buf, length, at);
}

int
posix_fallocate (int fd, off_t at, off_t length)
{
  int err = atomic_exchange (&fallocate_error, 0);

  if (err)
    return err;
  return syscall (SYS_fallocate, fd, 0, at, length) == -1 ? errno : 0;
}

/* Each test starts without a device, in an empty directory. */

static int
begin (void **state)
{
  const char *tmp = is_pmem ? "/dev/shm" : getenv ("TMPDIR");

  if (tmp == NULL)
    tmp = "/tmp";
  snprintf (directory, sizeof directory, "%s/pcache-XXXXXX", tmp);
  if (mkdtemp (directory) == NULL)
    return -1;
  snprintf (path, sizeof path, "%s/device", directory);
  memset (reports, 0, sizeof reports);
  report_set_sink (remember_report);
  fdatasyncs = fdatasync_error = fallocate_error = 0;
  pwrite_room = INT64_MAX;
  pwrite_is_difficult = false;
  return 0;
}

static char loop[100];          /* a block device to be taken down, or "" */

static bool
run_losetup (const char *arguments, char *answer, size_t size)
{
  char command[600];
  FILE *f;

  snprintf (command, sizeof command, "losetup %s 2>/dev/null", arguments);
  f = popen (command, "r");
  if (f == NULL)
    return false;
  if (fgets (answer, size, f) == NULL)
    answer[0] = '\0';
  answer[strcspn (answer, "\n")] = '\0';
  return pclose (f) == 0;
}

static int
end (void **state)
{
  char ignored[10], command[120];
  struct dirent *entry;
  DIR *dir;

  open_gate ();
  if (loop[0]) {
    snprintf (command, sizeof command, "-d %s", loop);
    run_losetup (command, ignored, sizeof ignored);
    loop[0] = '\0';
  }
  dir = opendir (directory);
  while ((entry = readdir (dir)) != NULL)
    unlinkat (dirfd (dir), entry->d_name,
              entry->d_type == DT_DIR ? AT_REMOVEDIR : 0);
  closedir (dir);
  return rmdir (directory);
}

static int
try_open (uint64_t create_size, struct pmem **pmem)
{
  struct device_options options = { path, create_size };

  return device_open (&options, pmem);
}

static struct pmem *
must_open (uint64_t create_size)
{
  struct pmem *pmem;

  assert_int_equal (try_open (create_size, &pmem), 0);
  assert_silent ();
  fdatasyncs = 0;
  return pmem;
}

static void
assert_refused (uint64_t create_size, int error, const char *words)
{
  struct pmem *pmem;

  assert_int_equal (try_open (create_size, &pmem), -error);
  assert_reported (REPORT_ERROR, words);
}

/* A file of SIZE bytes, all hole but for TEXT at AT. */
static void
make_file (uint64_t size, const char *text, uint64_t at)
{
  int fd = open (path, O_RDWR | O_CREAT | O_EXCL, 0600);

  assert_true (fd >= 0);
  assert_int_equal (ftruncate (fd, size), 0);
  assert_int_equal (pwrite (fd, text, strlen (text), at), strlen (text));
  close (fd);
}

static uint64_t
file_size (void)
{
  struct stat st;

  assert_int_equal (stat (path, &st), 0);
  return st.st_size;
}

static bool
file_exists (void)
{
  return access (path, F_OK) == 0;
}

static bool
file_has_holes (void)
{
  int fd = open (path, O_RDONLY);
  off_t hole = lseek (fd, 0, SEEK_HOLE);
  off_t size = lseek (fd, 0, SEEK_END);

  close (fd);
  return hole < size;
}

static void
fill (unsigned char *buf, size_t length, unsigned seed)
{
  size_t i;

  for (i = 0; i < length; i++) {
    seed = seed * 1103515245 + 12345;
    buf[i] = seed >> 16;
  }
}

/* What a child that was forked to run CHILD ended with, as from wait. */
static int
run_child (void (*child) (void))
{
  pid_t pid = fork ();
  int status;

  assert_true (pid >= 0);
  if (pid == 0) {
    child ();
    _exit (0);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  return status;
}

/* Inside a child: cmocka's assertions would run on in it. */
#define CHILD_ASSERT(condition)                                         \
  do {                                                                  \
    if (!(condition)) {                                                 \
      fprintf (stderr, "child, line %d: %s\n%s", __LINE__, #condition,  \
               reports[REPORT_ERROR]);                                  \
      _exit (1);                                                        \
    }                                                                   \
  } while (0)

/* A device tells what it is. */
static void
device_is_what_this_run_is_about (void **state)
{
  struct pmem *pmem = must_open (MIB + PAGE);

  assert_int_equal (pmem->size, MIB + PAGE);
  assert_string_equal (pmem->kind, is_pmem ? "pmem" : "file");
  assert_int_equal (pmem->ordered, is_pmem);
  pmem_close (pmem);
}

/* Wherever a store begins and ends, its bytes and no others are read back, now
 * and after the next open. */
static void
stores_are_read_back (void **state)
{
  static unsigned char model[2 * MIB], buf[2 * MIB], from[100000];
  struct pmem *pmem = must_open (sizeof model);
  unsigned seed = 1;
  size_t i;

  memset (model, 0, sizeof model);
  for (i = 0; i < 2000; i++) {
    size_t length, at;

    seed = seed * 1103515245 + 12345;
    length = (seed >> 8) % (i % 10 == 0 ? sizeof from : 300);
    seed = seed * 1103515245 + 12345;
    at = (seed >> 8) % (sizeof model - length + 1);
    fill (from, length, seed);
    assert_int_equal (pmem_copy (pmem, at, from, length), 0);
    memcpy (model + at, from, length);

    memset (buf, 0xee, length);
    assert_int_equal (pmem_read (pmem, buf, at, length), 0);
    assert_memory_equal (buf, model + at, length);
  }
  /* The very last byte is a byte as well; nothing after it is nothing. */
  assert_int_equal (pmem_copy (pmem, sizeof model - 1, "x", 1), 0);
  model[sizeof model - 1] = 'x';
  assert_int_equal (pmem_copy (pmem, sizeof model, "x", 0), 0);
  assert_int_equal (pmem_fence (pmem), 0);
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (pmem_read (pmem, buf, 0, sizeof buf), 0);
  assert_memory_equal (buf, model, sizeof model);
  pmem_close (pmem);

  pmem = must_open (0);
  assert_int_equal (pmem_read (pmem, buf, 0, sizeof buf), 0);
  assert_memory_equal (buf, model, sizeof model);
  pmem_close (pmem);
}

static void
sync_after (struct pmem *pmem, unsigned stores)
{
  for (unsigned i = 0; i < stores; i++)
    assert_int_equal (pmem_copy (pmem, i * 4096, "x", 1), 0);
  assert_int_equal (pmem_sync (pmem), 0);
}

/* A write and its flush are two stores and a sync.  Who does so will do so again;
 * who stores more, or does not sync, will not. */
static void
a_sync_is_near_after_few_stores_each (void **state)
{
  struct pmem *pmem = must_open (2 * MIB);

  sync_after (pmem, 3);
  assert_false (pmem_sync_is_near (pmem));
  sync_after (pmem, 2);
  assert_int_equal (pmem_sync_is_near (pmem), !pmem->ordered);
  assert_int_equal (pmem_copy (pmem, 0, "x", 1), 0);
  assert_int_equal (pmem_sync_is_near (pmem), !pmem->ordered);
  assert_int_equal (pmem_copy (pmem, 0, "x", 1), 0);
  assert_false (pmem_sync_is_near (pmem));
  assert_int_equal (pmem_copy (pmem, 0, "x", 1), 0);
  assert_int_equal (pmem_sync (pmem), 0);
  assert_false (pmem_sync_is_near (pmem));
  pmem_close (pmem);
}

static void
checksum_is_that_of_the_bytes_on_the_device (void **state)
{
  static unsigned char buf[MIB];
  struct pmem *pmem = must_open (sizeof buf);
  static const size_t lengths[] = { 0, 1, 17, 240, 241, PAGE, 300000 };
  size_t i;

  fill (buf, sizeof buf, 7);
  assert_int_equal (pmem_copy (pmem, 0, buf, sizeof buf), 0);
  for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    uint64_t sum = 0;

    assert_int_equal (pmem_checksum (pmem, 12345, lengths[i], &sum), 0);
    assert_true (sum == XXH3_64bits (buf + 12345, lengths[i]));
  }
  pmem_close (pmem);
}

static void
call_at_last_byte (int (*call) (struct pmem *, uint64_t))
{
  struct rlimit none = { 0, 0 };
  int null = open ("/dev/null", O_WRONLY);
  struct pmem *pmem;

  setrlimit (RLIMIT_CORE, &none);
  signal (SIGABRT, SIG_DFL);
  CHILD_ASSERT (try_open (MIB, &pmem) == 0);
  dup2 (null, STDERR_FILENO);
  call (pmem, MIB - 1);
}

static char any_two[2];
static uint64_t sum_of_two;

static int
read_two (struct pmem *pmem, uint64_t at)
{
  return pmem_read (pmem, any_two, at, 2);
}

static int
copy_two (struct pmem *pmem, uint64_t at)
{
  return pmem_copy (pmem, at, any_two, 2);
}

static int
checksum_two (struct pmem *pmem, uint64_t at)
{
  return pmem_checksum (pmem, at, 2, &sum_of_two);
}

static void
read_beyond (void)
{
  call_at_last_byte (read_two);
}

static void
copy_beyond (void)
{
  call_at_last_byte (copy_two);
}

static void
checksum_beyond (void)
{
  call_at_last_byte (checksum_two);
}

/* Going beyond the end is our own mistake. */
static void
beyond_the_end_is_an_assertion (void **state)
{
  void (*const children[]) (void) = {
    read_beyond, copy_beyond, checksum_beyond
  };
  size_t i;

  for (i = 0; i < 3; i++) {
    int status = run_child (children[i]);

    assert_true (WIFSIGNALED (status) && WTERMSIG (status) == SIGABRT);
  }
}

/* Interrupted and short writes are only details. */
static void
difficult_writes_are_completed (void **state)
{
  static unsigned char buf[100000], back[sizeof buf];
  struct pmem *pmem;

  pwrite_is_difficult = true;
  pmem = must_open (MIB);
  fill (buf, sizeof buf, 3);
  assert_int_equal (pmem_copy (pmem, 77, buf, sizeof buf), 0);
  assert_int_equal (pmem_read (pmem, back, 77, sizeof back), 0);
  assert_memory_equal (back, buf, sizeof buf);
  pmem_close (pmem);
}

/* Opening. */

static void
missing_device_says_how_to_create_it (void **state)
{
  assert_refused (0, ENOENT, "does not exist; add pmem-size=SIZE");
  assert_false (file_exists ());
}

static void
directory_is_refused (void **state)
{
  assert_int_equal (mkdir (path, 0700), 0);
  assert_refused (MIB, EINVAL, "is a directory");
}

static void
fifo_is_refused_without_waiting_for_it (void **state)
{
  assert_int_equal (mkfifo (path, 0600), 0);
  alarm (10);
  assert_refused (MIB, EINVAL, "is a FIFO");
  alarm (0);
}

static void
socket_is_refused (void **state)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int s = socket (AF_UNIX, SOCK_STREAM, 0);

  snprintf (address.sun_path, sizeof address.sun_path, "%.100s", path);
  assert_int_equal (bind (s, (void *) &address, sizeof address), 0);
  assert_refused (MIB, EINVAL, "is a socket");
  close (s);
}

static void
character_device_is_refused (void **state)
{
  assert_int_equal (symlink ("/dev/null", path), 0);
  assert_refused (MIB, EINVAL, "is a character device which is not DAX");
}

static void
empty_file_is_refused (void **state)
{
  make_file (0, "", 0);
  assert_refused (0, EINVAL, "is empty (size 0)");
}

static void
missing_directory_is_named (void **state)
{
  struct device_options options = { path, MIB };
  struct pmem *pmem;

  strcat (path, "/x/y");
  assert_int_equal (device_open (&options, &pmem), -ENOENT);
  assert_reported (REPORT_ERROR, "cannot be created: No such file");
}

static void
dangling_link_is_named (void **state)
{
  assert_int_equal (symlink ("nothing-here", path), 0);
  assert_refused (MIB, EEXIST, "a symbolic link to nothing");
}

static void
open_as_nobody (void)
{
  struct pmem *pmem;

  if (geteuid () == 0)
    CHILD_ASSERT (setuid (65534) == 0);
  CHILD_ASSERT (try_open (0, &pmem) == -EACCES);
  CHILD_ASSERT (lines (reports[REPORT_ERROR]) == 1);
  CHILD_ASSERT (strstr (reports[REPORT_ERROR], "not writable") != NULL);
}

static void
read_only_file_is_refused (void **state)
{
  make_file (MIB, "", 0);
  assert_int_equal (chmod (directory, 0755), 0);
  assert_int_equal (chmod (path, 0444), 0);
  assert_int_equal (run_child (open_as_nobody), 0);
}

static void
second_user_is_refused (void **state)
{
  struct pmem *pmem = must_open (MIB);

  assert_refused (0, EWOULDBLOCK, "in use by another process");
  assert_refused (2 * MIB, EWOULDBLOCK, "in use by another process");
  assert_true (file_exists ());
  assert_int_equal (file_size (), MIB);
  pmem_close (pmem);
  pmem_close (must_open (0));
}

/* Who looks keeps out who would write, and the reverse, but nobody else. */
static void
who_looks_does_not_write (void **state)
{
  struct pmem *pmem = must_open (MIB), *other;
  char c = 'x';

  assert_int_equal (pmem_copy (pmem, 5, "a", 1), 0);
  assert_int_equal (device_open_read_only (path, &other), -EWOULDBLOCK);
  assert_reported (REPORT_ERROR, "in use by another process");
  pmem_close (pmem);

  assert_int_equal (chmod (path, 0400), 0);
  assert_int_equal (device_open_read_only (path, &pmem), 0);
  assert_int_equal (device_open_read_only (path, &other), 0);
  assert_int_equal (chmod (path, 0600), 0);
  assert_refused (0, EWOULDBLOCK, "in use by another process");
  pmem_close (other);
  assert_refused (0, EWOULDBLOCK, "in use by another process");
  assert_true (pmem->size == MIB);
  assert_true (pmem_copy (pmem, 5, "b", 1) < 0);
  assert_int_equal (pmem_read (pmem, &c, 5, 1), 0);
  assert_int_equal (c, 'a');
  pmem_close (pmem);
  pmem_close (must_open (0));
}

/* Stores to an overlay are read back, and nobody else sees them. */
static void
an_overlay_keeps_its_stores (void **state)
{
  static char buf[3 * 4096], want[3 * 4096];
  struct pmem *pmem = must_open (MIB), *overlay;
  struct range change;
  uint64_t sum, sum_below;

  assert_int_equal (pmem_copy (pmem, 4090, "below", 5), 0);
  assert_int_equal (overlay_open (pmem, false, &overlay), 0);
  assert_false (overlay_next_change (overlay, 0, MIB, &change));
  /* Across a border of pages; the last page; and one with what is there. */
  assert_int_equal (pmem_copy (overlay, 4094, "over", 4), 0);
  assert_int_equal (pmem_copy (overlay, MIB - 1, "e", 1), 0);
  assert_int_equal (pmem_copy (overlay, 40960, "\0", 1), 0);
  memcpy (want + 4090, "beloover", 8);
  assert_int_equal (pmem_read (overlay, buf, 0, sizeof buf), 0);
  assert_memory_equal (buf, want, sizeof buf);
  assert_int_equal (pmem_checksum (overlay, 4090, 8, &sum), 0);
  assert_int_equal (pmem_checksum (pmem, 4090, 8, &sum_below), 0);
  assert_true (sum != sum_below);
  assert_true (overlay_next_change (overlay, 0, MIB, &change));
  assert_true (change.start == 0 && change.length == 8192);
  assert_true (overlay_next_change (overlay, 8192, MIB, &change));
  assert_true (change.start == MIB - 4096 && change.length == 4096);
  assert_false (overlay_next_change (overlay, MIB, MIB, &change));
  pmem_close (overlay);
  assert_int_equal (pmem_read (pmem, buf, 4090, 8), 0);
  assert_memory_equal (buf, "below\0\0\0", 8);
  pmem_close (pmem);
}

/* nbdkit goes to the background by a fork after the device was opened. */
static void
lock_survives_a_fork (void **state)
{
  struct pmem *pmem = must_open (MIB);
  int status, until[2];
  pid_t pid;
  char c;

  assert_int_equal (pipe (until), 0);
  pid = fork ();
  if (pid == 0) {
    close (until[1]);
    prctl (PR_SET_PDEATHSIG, SIGKILL);
    CHILD_ASSERT (pmem_copy (pmem, 5, "from the child", 14) == 0);
    CHILD_ASSERT (pmem_sync (pmem) == 0);
    CHILD_ASSERT (read (until[0], &c, 1) == 0);
    _exit (0);
  }
  close (until[0]);
  pmem_close (pmem);
  assert_refused (0, EWOULDBLOCK, "in use by another process");

  close (until[1]);
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_int_equal (status, 0);
  pmem_close (must_open (0));
}

/* If set, a file that is renamed to the device's path between open and
 * flock. */
static const char *replacement;

int
flock (int fd, int operation)
{
  if (replacement) {
    rename (replacement, path);
    replacement = NULL;
  }
  return syscall (SYS_flock, fd, operation);
}

static void
replaced_device_is_refused (void **state)
{
  char other[300];

  make_file (MIB, "other", 0);
  snprintf (other, sizeof other, "%s-other", path);
  assert_int_equal (rename (path, other), 0);
  make_file (MIB, "", 0);
  replacement = other;
  assert_refused (0, EAGAIN, "was replaced while it was being opened");
}

/* What a killed user left in the page cache is not durable, however well it
 * can be read.  The open makes it so: no later sync would. */
static void
open_makes_durable_what_can_be_read (void **state)
{
  struct pmem *pmem;

  make_file (MIB, "of one who was killed", 0);
  assert_int_equal (try_open (0, &pmem), 0);
  assert_int_equal (fdatasyncs, 1);
  pmem_close (pmem);

  fdatasync_error = EIO;
  assert_refused (0, EIO, "cannot be made durable");
}

/* Creation. */

static void
created_file_has_no_holes (void **state)
{
  struct pmem *pmem = must_open (5 * MIB + 1000);
  struct stat st;
  uint64_t content;

  assert_int_equal (file_size (), 5 * MIB + 1000);
  assert_false (file_has_holes ());
  assert_int_equal (stat (path, &st), 0);
  assert_int_equal (st.st_mode & 07777, 0600);
  assert_int_equal (device_find_content (pmem, &content), 0);
  assert_int_equal (content, 5 * MIB + 1000);
  pmem_close (pmem);
}

static void
created_file_is_durable (void **state)
{
  struct pmem *pmem;

  assert_int_equal (try_open (MIB, &pmem), 0);
  assert_true (fdatasyncs >= 1);
  pmem_close (pmem);
  unlink (path);

  fdatasync_error = EIO;
  assert_refused (MIB, EIO, "cannot be created with 1048576 bytes");
  assert_false (file_exists ());
}

static void
failed_creation_leaves_nothing (void **state)
{
  pwrite_room = 3 * MIB;
  assert_refused (5 * MIB, ENOSPC, "cannot be created with 5242880 bytes: "
                  "No space left on device; removed again");
  assert_false (file_exists ());
}

static void
interrupted_creation_is_finished (void **state)
{
  uint64_t content;
  struct pmem *pmem;

  /* Before the first byte, somewhere in the middle, and with a hole. */
  static const uint64_t sizes[] = { 0, 1, 2 * MIB + 77 };
  size_t i;

  for (i = 0; i < 3; i++) {
    make_file (sizes[i], "", 0);
    pmem = must_open (3 * MIB);
    assert_int_equal (pmem->size, 3 * MIB);
    assert_int_equal (file_size (), 3 * MIB);
    assert_false (file_has_holes ());
    assert_int_equal (device_find_content (pmem, &content), 0);
    assert_int_equal (content, 3 * MIB);
    pmem_close (pmem);
    unlink (path);
  }
}

static void
interrupted_formatting_is_finished (void **state)
{
  char start[9] = "";
  struct pmem *pmem;

  make_file (MIB, "PCACHEfm and more", 0);
  pmem = must_open (2 * MIB);
  assert_int_equal (pmem->size, 2 * MIB);
  assert_false (file_has_holes ());
  assert_int_equal (pmem_read (pmem, start, 0, 8), 0);
  assert_string_equal (start, "PCACHEfm");
  pmem_close (pmem);
}

static void
other_content_is_never_extended (void **state)
{
  static const char *const starts[] = { "PCACHE", "PCACHEfn", "x" };
  size_t i;

  for (i = 0; i < 3; i++) {
    make_file (MIB, starts[i], i == 2 ? MIB - 1 : 0);
    pmem_close (must_open (2 * MIB));
    assert_int_equal (file_size (), MIB);
    unlink (path);
  }
}

static void
larger_file_is_never_cut (void **state)
{
  make_file (2 * MIB, "", 0);
  pmem_close (must_open (MIB));
  assert_int_equal (file_size (), 2 * MIB);
}

static void
failed_extension_leaves_the_file_as_it_was (void **state)
{
  make_file (MIB, "PCACHEfm", 0);
  pwrite_room = MIB;
  assert_refused (5 * MIB, ENOSPC, "cannot be extended from 1048576 to "
                  "5242880 bytes");
  assert_int_equal (file_size (), MIB);
}

/* Allocation. */

static void
allocate_fills_holes_and_keeps_content (void **state)
{
  char back[5] = "";
  struct pmem *pmem;
  uint64_t content;
  int fd;

  make_file (4 * MIB, "here", 2 * MIB + PAGE + 100);
  fd = open (path, O_RDWR);
  /* An extent that was never written is no better than a hole. */
  assert_int_equal (syscall (SYS_fallocate, fd, 0, 0, MIB), 0);
  close (fd);
  pmem = must_open (0);
  assert_true (file_has_holes ());
  assert_int_equal (pmem_allocate (pmem), 0);

  if (is_pmem) {
    struct stat st;

    assert_int_equal (stat (path, &st), 0);
    assert_true ((uint64_t) st.st_blocks * 512 >= 4 * MIB);
  }
  else {
    assert_false (file_has_holes ());
    assert_int_equal (fdatasyncs, 1);
  }
  assert_int_equal (pmem_read (pmem, back, 2 * MIB + PAGE + 100, 4), 0);
  assert_string_equal (back, "here");
  assert_int_equal (device_find_content (pmem, &content), 0);
  assert_int_equal (content, 2 * MIB + PAGE + 100);
  pmem_close (pmem);
}

static void
allocate_says_when_space_is_short (void **state)
{
  struct pmem *pmem;

  make_file (4 * MIB, "", 0);
  pmem = must_open (0);
  pwrite_room = MIB;
  fallocate_error = ENOSPC;
  assert_int_equal (pmem_allocate (pmem), -ENOSPC);
  pwrite_room = INT64_MAX;
  assert_int_equal (pmem_allocate (pmem), 0);
  pmem_close (pmem);
}

static void
interrupted_allocation_goes_on (void **state)
{
  struct pmem *pmem;
  struct stat st;

  make_file (MIB, "", 0);
  pmem = must_open (0);
  fallocate_error = EINTR;
  assert_int_equal (pmem_allocate (pmem), 0);
  assert_int_equal (stat (path, &st), 0);
  assert_true ((uint64_t) st.st_blocks * 512 >= MIB);
  pmem_close (pmem);
}

/* Another size. */

static void
resized_file_keeps_its_content (void **state)
{
  char back[5] = "";
  struct pmem *pmem;

  make_file (2 * MIB, "here", MIB + 100);
  pmem = must_open (0);
  assert_true (pmem->can_resize);
  assert_int_equal (pmem_resize (pmem, 5 * MIB + 512), 0);
  assert_true (fdatasyncs >= 1);
  assert_int_equal (pmem->size, 5 * MIB + 512);
  assert_int_equal (file_size (), 5 * MIB + 512);
  assert_int_equal (pmem_copy (pmem, 5 * MIB, "new", 4), 0);
  assert_int_equal (pmem_read (pmem, back, MIB + 100, 4), 0);
  assert_string_equal (back, "here");
  assert_int_equal (pmem_read (pmem, back, 4 * MIB, 5), 0);
  assert_memory_equal (back, "\0\0\0\0", 5);

  assert_int_equal (pmem_resize (pmem, MIB + PAGE), 0);
  assert_int_equal (pmem->size, MIB + PAGE);
  assert_int_equal (file_size (), MIB + PAGE);
  assert_int_equal (pmem_read (pmem, back, MIB + 100, 4), 0);
  assert_string_equal (back, "here");
  pmem_close (pmem);
}

static void
failed_resize_leaves_the_file_as_it_was (void **state)
{
  char back[5] = "";
  struct pmem *pmem;

  make_file (2 * MIB, "here", MIB + 100);
  pmem = must_open (0);
  pwrite_room = MIB;
  assert_int_equal (pmem_resize (pmem, 8 * MIB), -ENOSPC);
  pwrite_room = INT64_MAX;
  fdatasync_error = EIO;
  assert_int_equal (pmem_resize (pmem, 8 * MIB), -EIO);
  fdatasync_error = 0;
  assert_int_equal (pmem->size, 2 * MIB);
  assert_int_equal (file_size (), 2 * MIB);
  assert_int_equal (pmem_read (pmem, back, MIB + 100, 4), 0);
  assert_string_equal (back, "here");
  pmem_close (pmem);
}

/* Content. */

static void
content_is_found_at_its_first_byte (void **state)
{
  static const uint64_t places[] = {
    0, 1, MIB - 1, MIB, 2 * MIB + 12345, 4 * MIB - 1
  };
  struct pmem *pmem;
  uint64_t content;
  size_t i;

  /* With and without holes around it. */
  for (i = 0; i < 2 * sizeof places / sizeof places[0]; i++) {
    uint64_t at = places[i / 2];

    make_file (4 * MIB, "x", at);
    pmem = must_open (0);
    if (i & 1)
      assert_int_equal (pmem_allocate (pmem), 0);
    assert_int_equal (device_find_content (pmem, &content), 0);
    assert_int_equal (content, at);
    pmem_close (pmem);
    unlink (path);
  }
}

static struct pmem *inner;
static uint64_t bytes_read;

static int
counting_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  bytes_read += length;
  return pmem_read (inner, to, at, length);
}

static unsigned searches;

static void
pass_next_data (struct pmem *pmem, uint64_t at, struct range *data)
{
  searches++;
  pmem_next_data (inner, at, data);
}

/* A large sparse file takes no time. */
static void
holes_are_not_searched (void **state)
{
  static const struct pmem_ops ops = {
    .read = counting_read, .next_data = pass_next_data
  };
  struct pmem counting = { .ops = &ops };
  uint64_t size = UINT64_C (1) << (is_pmem ? 30 : 36);
  uint64_t content;

  make_file (size, "", 0);
  inner = must_open (0);
  assert_int_equal (pmem_copy (inner, size - 5000, "x", 1), 0);
  counting.size = inner->size;
  bytes_read = 0;
  assert_int_equal (device_find_content (&counting, &content), 0);
  assert_int_equal (content, size - 5000);
  assert_true (bytes_read <= 64 * PAGE);
  pmem_close (inner);
}

/* For each run of data its end is looked for once: on tmpfs that reads the whole
 * run, and a new cache device of 12 GiB took more than ten minutes. */
static void
end_of_data_is_looked_for_once (void **state)
{
  static const struct pmem_ops ops = {
    .read = counting_read, .next_data = pass_next_data
  };
  struct pmem counting = { .ops = &ops };
  const uint64_t size = UINT64_C (8) << 20;
  uint64_t content;

  make_file (size, "", 0);
  inner = must_open (0);
  assert_int_equal (pmem_allocate (inner), 0);
  counting.size = inner->size;
  searches = 0;
  assert_int_equal (device_find_content (&counting, &content), 0);
  assert_int_equal (content, size);
  assert_true (searches <= 2);
  pmem_close (inner);
}

static int
plain_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  return pmem_read (inner, to, at, length);
}

/* As on devdax: no one knows of holes there. */
static void
content_is_found_without_knowledge_of_holes (void **state)
{
  static const struct pmem_ops ops = { .read = plain_read };
  struct pmem plain = { .ops = &ops };
  uint64_t content;

  inner = must_open (3 * MIB + 7);
  plain.size = inner->size;
  assert_int_equal (device_find_content (&plain, &content), 0);
  assert_int_equal (content, 3 * MIB + 7);
  assert_int_equal (pmem_copy (inner, 3 * MIB + 6, "x", 1), 0);
  assert_int_equal (device_find_content (&plain, &content), 0);
  assert_int_equal (content, 3 * MIB + 6);
  pmem_close (inner);
}

/* Media errors. */

static struct pmem *shared;
static _Atomic bool stop;
static _Atomic unsigned good_reads;

static void *
read_the_good_part (void *arg)
{
  char buf[PAGE];
  uint64_t sum;

  while (!stop) {
    if (pmem_read (shared, buf, 0, sizeof buf) != 0 ||
        memcmp (buf, "still here", 10) != 0 ||
        pmem_checksum (shared, 0, PAGE, &sum) != 0 ||
        pmem_copy (shared, PAGE, buf, PAGE) != 0)
      return (void *) "failed";
    good_reads++;
  }
  return NULL;
}

/* Each call that hits the missing part fails, as often as it is made; what it
 * would have set stays as it is, and nobody else notices. */
static void
truncated_file_gives_eio_and_other_threads_go_on (void **state)
{
  struct pmem *pmem = must_open (2 * MIB);
  static char buf[3 * PAGE];
  pthread_t thread;
  void *result;
  uint64_t sum = 42;
  sigset_t before, after;
  unsigned until;
  int i;

  assert_int_equal (pmem_copy (pmem, 0, "still here", 10), 0);
  shared = pmem;
  stop = false;
  good_reads = 0;
  assert_int_equal (pthread_create (&thread, NULL, read_the_good_part, NULL),
                    0);
  while (good_reads < 10)
    usleep (100);

  pthread_sigmask (SIG_SETMASK, NULL, &before);
  assert_int_equal (truncate (path, MIB), 0);
  for (i = 0; i < 200; i++) {
    assert_int_equal (pmem_read (pmem, buf, MIB, PAGE), -EIO);
    assert_int_equal (pmem_read (pmem, buf, 2 * MIB - 1, 1), -EIO);
    /* Starts well. */
    assert_int_equal (pmem_read (pmem, buf, MIB - PAGE, 2 * PAGE), -EIO);
    assert_int_equal (pmem_checksum (pmem, MIB + 5, PAGE, &sum), -EIO);
    assert_int_equal (sum, 42);
    if (is_pmem) {
      assert_int_equal (pmem_copy (pmem, MIB + 3, buf, 1), -EIO);
      assert_int_equal (pmem_copy (pmem, MIB - PAGE, buf, 3 * PAGE), -EIO);
    }
    assert_int_equal (pmem_read (pmem, buf, MIB - PAGE, PAGE), 0);
  }
  pthread_sigmask (SIG_SETMASK, NULL, &after);
  assert_memory_equal (&before, &after, 8);      /* 64 signals */

  until = good_reads + 10;
  while (good_reads < until)
    usleep (100);
  stop = true;
  pthread_join (thread, &result);
  assert_null (result);
  pmem_close (pmem);
}

static void
search_says_where_it_could_not_read (void **state)
{
  struct pmem *pmem = must_open (4 * MIB);
  static const struct pmem_ops ops = { .read = plain_read };
  struct pmem plain = { .ops = &ops };
  uint64_t content;

  assert_int_equal (truncate (path, 2 * MIB + PAGE), 0);
  inner = pmem;
  plain.size = inner->size;
  assert_int_equal (device_find_content (&plain, &content), -EIO);
  assert_int_equal (content, 2 * MIB);
  pmem_close (pmem);
}

/* A mapping of no one's, whose pages cannot be had. */
static char *
bad_memory (void)
{
  char name[300];
  void *p;
  int fd;

  snprintf (name, sizeof name, "%s-bad", path);
  fd = open (name, O_RDWR | O_CREAT | O_EXCL, 0600);
  p = mmap (NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  unlink (name);
  close (fd);
  return p;
}

static void
handle_as_info (int signo, siginfo_t *info, void *context)
{
  _exit (info->si_addr != NULL ? 17 : 18);
}

static void
handle_plainly (int signo)
{
  _exit (19);
}

static int
set_handler (void (*plain) (int), void (*info) (int, siginfo_t *, void *))
{
  struct sigaction action = { .sa_handler = plain };

  if (info) {
    action.sa_sigaction = info;
    action.sa_flags = SA_SIGINFO;
  }
  return sigaction (SIGBUS, &action, NULL);
}

static void
touch_bad_memory_with_device_open (void)
{
  struct rlimit none = { 0, 0 };
  volatile char *bad = bad_memory ();
  struct pmem *pmem;
  char buf[16];

  setrlimit (RLIMIT_CORE, &none);
  alarm (20);
  CHILD_ASSERT (try_open (MIB, &pmem) == 0);
  /* That one is ours... */
  CHILD_ASSERT (truncate (path, 0) == 0);
  CHILD_ASSERT (pmem_read (pmem, buf, 5, 1) == -EIO);
  /* ...and that is not. */
  buf[0] = *bad;
}

static void
touch_after_info_handler (void)
{
  set_handler (NULL, handle_as_info);
  touch_bad_memory_with_device_open ();
}

static void
touch_after_plain_handler (void)
{
  set_handler (handle_plainly, NULL);
  touch_bad_memory_with_device_open ();
}

static void
touch_with_default (void)
{
  set_handler (SIG_DFL, NULL);
  touch_bad_memory_with_device_open ();
}

static void
touch_while_ignored (void)
{
  set_handler (SIG_IGN, NULL);
  touch_bad_memory_with_device_open ();
}

/* The caller's buffer is bad, inside a guarded call. */
static void
read_into_bad_memory (void)
{
  struct pmem *pmem;

  set_handler (NULL, handle_as_info);
  CHILD_ASSERT (try_open (MIB, &pmem) == 0);
  pmem_read (pmem, bad_memory (), 0, PAGE);
}

static void
copy_from_bad_memory (void)
{
  struct pmem *pmem;

  set_handler (NULL, handle_as_info);
  CHILD_ASSERT (try_open (MIB, &pmem) == 0);
  /* pwrite is told, not signalled. */
  if (pmem_copy (pmem, 0, bad_memory (), PAGE) == -EFAULT)
    _exit (17);
}

static void
assert_exit (void (*child) (void), int code)
{
  int status = run_child (child);

  assert_true (WIFEXITED (status));
  assert_int_equal (WEXITSTATUS (status), code);
  unlink (path);
}

static void
assert_killed (void (*child) (void))
{
  int status = run_child (child);

  assert_true (WIFSIGNALED (status));
  assert_int_equal (WTERMSIG (status), SIGBUS);
  unlink (path);
}

static void
foreign_sigbus_is_passed_on (void **state)
{
  assert_exit (touch_after_info_handler, 17);
  assert_exit (touch_after_plain_handler, 19);
  assert_killed (touch_with_default);
  assert_killed (touch_while_ignored);
}

static void
bad_memory_of_the_caller_is_foreign (void **state)
{
  assert_exit (read_into_bad_memory, 17);
  assert_exit (copy_from_bad_memory, 17);
}

static void
be_sent_sigbus (void)
{
  struct rlimit none = { 0, 0 };
  struct pmem *pmem;

  setrlimit (RLIMIT_CORE, &none);
  set_handler (SIG_DFL, NULL);
  CHILD_ASSERT (try_open (MIB, &pmem) == 0);
  kill (getpid (), SIGBUS);
}

static void
be_sent_sigbus_ignoring_it (void)
{
  struct pmem *pmem;

  set_handler (SIG_IGN, NULL);
  CHILD_ASSERT (try_open (MIB, &pmem) == 0);
  kill (getpid (), SIGBUS);
  _exit (20);
}

static void
sigbus_that_was_sent_has_its_usual_effect (void **state)
{
  assert_killed (be_sent_sigbus);
  assert_exit (be_sent_sigbus_ignoring_it, 20);
}

/* The module may be unloaded then. */
static void
last_close_puts_the_old_handler_back (void **state)
{
  struct sigaction before, during, after;
  struct pmem *one, *two;
  char other[300];

  sigaction (SIGBUS, NULL, &before);
  one = must_open (MIB);
  snprintf (other, sizeof other, "%s-other", path);
  assert_int_equal (rename (path, other), 0);
  two = must_open (MIB);
  pmem_close (one);

  sigaction (SIGBUS, NULL, &during);
  assert_true (during.sa_sigaction != before.sa_sigaction);
  assert_int_equal (truncate (path, 0), 0);
  assert_int_equal (pmem_read (two, other, MIB - 1, 1), -EIO);
  pmem_close (two);

  sigaction (SIGBUS, NULL, &after);
  assert_true (after.sa_sigaction == before.sa_sigaction);
}

/* Also what nobody stored since it was opened: a killed process may have. */
static void
what_is_there_is_made_durable_on_request (void **state)
{
  struct pmem *pmem = must_open (2 * MIB);

  assert_int_equal (pmem_make_durable (pmem, 0, 2 * MIB), 0);
  assert_int_equal (pmem_make_durable (pmem, 100, 1), 0);
  if (!is_pmem) {
    assert_int_equal (fdatasyncs, 2);
    fdatasync_error = EIO;
    assert_int_equal (pmem_make_durable (pmem, 0, 2 * MIB), -EIO);
    assert_int_equal (pmem_sync (pmem), -EIO);
    assert_true (pmem_trust (pmem, true));
    assert_int_equal (pmem_copy (pmem, 0, "x", 1), 0);
    assert_int_equal (pmem_sync (pmem), 0);
    assert_int_equal (fdatasyncs, 4);
    assert_false (pmem_trust (pmem, false));
    assert_int_equal (pmem_sync (pmem), -EIO);
  }
  else
    assert_false (pmem_trust (pmem, true));
  pmem_close (pmem);
}

/* Syncs: of the ordinary file only. */

static void
sync_without_stores_does_nothing (void **state)
{
  struct pmem *pmem = must_open (MIB);

  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (fdatasyncs, 0);
  assert_int_equal (pmem_copy (pmem, 0, "x", 1), 0);
  assert_int_equal (pmem_fence (pmem), 0);
  assert_int_equal (fdatasyncs, 0);
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (fdatasyncs, 1);
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (fdatasyncs, 1);
  assert_int_equal (pmem_copy (pmem, 0, "y", 1), 0);
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (fdatasyncs, 2);
  pmem_close (pmem);
}

struct syncer {
  pthread_t thread;
  _Atomic bool returned;
  int result;
};

static void *
sync_shared (void *arg)
{
  struct syncer *syncer = arg;

  syncer->result = pmem_sync (shared);
  syncer->returned = true;
  return NULL;
}

static void
start_syncer (struct syncer *syncer)
{
  syncer->returned = false;
  assert_int_equal (pthread_create (&syncer->thread, NULL, sync_shared,
                                    syncer), 0);
}

/* A store that came while a sync was running needs another one; all who wait
 * for it share it. */
static void
waiting_syncs_share_one_that_starts_later (void **state)
{
  struct syncer first, others[8];
  int i;

  shared = must_open (MIB);
  assert_int_equal (pmem_copy (shared, 0, "x", 1), 0);
  close_gate ();
  start_syncer (&first);
  wait_for_one_at_gate ();

  assert_int_equal (pmem_copy (shared, 1, "y", 1), 0);
  for (i = 0; i < 8; i++)
    start_syncer (&others[i]);
  usleep (50000);
  assert_int_equal (fdatasyncs, 1);
  assert_false (first.returned);
  for (i = 0; i < 8; i++)
    assert_false (others[i].returned);

  open_gate ();
  pthread_join (first.thread, NULL);
  assert_int_equal (first.result, 0);
  for (i = 0; i < 8; i++) {
    pthread_join (others[i].thread, NULL);
    assert_int_equal (others[i].result, 0);
  }
  assert_int_equal (fdatasyncs, 2);
  pmem_close (shared);
}

/* Nothing was stored since it started: its end is what a second caller needs
 * as well. */
static void
sync_that_is_running_is_enough_for_older_stores (void **state)
{
  struct syncer first, second;

  shared = must_open (MIB);
  assert_int_equal (pmem_copy (shared, 0, "x", 1), 0);
  close_gate ();
  start_syncer (&first);
  wait_for_one_at_gate ();
  start_syncer (&second);
  usleep (20000);
  assert_false (second.returned);
  open_gate ();
  pthread_join (first.thread, NULL);
  pthread_join (second.thread, NULL);
  assert_int_equal (second.result, 0);
  assert_int_equal (fdatasyncs, 1);
  pmem_close (shared);
}

static void *
store_and_sync (void *arg)
{
  int i;

  for (i = 0; i < 200; i++)
    if (pmem_copy (shared, i * 8, "threads.", 8) != 0 ||
        pmem_sync (shared) != 0)
      return (void *) "failed";
  return NULL;
}

static void
many_threads_store_and_sync (void **state)
{
  pthread_t threads[6];
  void *result;
  int i;

  shared = must_open (MIB);
  for (i = 0; i < 6; i++)
    assert_int_equal (pthread_create (&threads[i], NULL, store_and_sync,
                                      NULL), 0);
  for (i = 0; i < 6; i++) {
    pthread_join (threads[i], &result);
    assert_null (result);
  }
  assert_true (fdatasyncs <= 6 * 200);
  pmem_close (shared);
}

/* The kernel may have dropped what it could not write.  Another fdatasync would
 * say that all is well. */
static void
failed_sync_is_not_forgotten (void **state)
{
  struct syncer first, second;

  shared = must_open (MIB);
  assert_int_equal (pmem_copy (shared, 0, "x", 1), 0);
  close_gate ();
  fdatasync_error = ENOSPC;
  start_syncer (&first);
  wait_for_one_at_gate ();
  assert_int_equal (pmem_copy (shared, 1, "y", 1), 0);
  start_syncer (&second);
  usleep (20000);
  open_gate ();
  pthread_join (first.thread, NULL);
  pthread_join (second.thread, NULL);
  assert_int_equal (first.result, -EIO);
  assert_int_equal (second.result, -EIO);

  assert_int_equal (pmem_sync (shared), -EIO);
  assert_int_equal (pmem_copy (shared, 2, "z", 1), 0);
  assert_int_equal (pmem_sync (shared), -EIO);
  assert_int_equal (fdatasyncs, 1);
  assert_reported (REPORT_ERROR, "could not be made durable");
  pmem_close (shared);
}

static void
failed_write_is_told (void **state)
{
  static char buf[PAGE];
  struct pmem *pmem = must_open (MIB);

  pwrite_room = 100;
  assert_int_equal (pmem_copy (pmem, 0, buf, PAGE), -ENOSPC);
  pwrite_room = INT64_MAX;
  /* Some of it may be there. */
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (fdatasyncs, 1);
  pmem_close (pmem);
}

static void
interrupted_sync_is_repeated (void **state)
{
  struct pmem *pmem = must_open (MIB);

  assert_int_equal (pmem_copy (pmem, 0, "x", 1), 0);
  fdatasync_error = EINTR;
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (fdatasyncs, 2);
  pmem_close (pmem);
}

static void
block_device_is_used_with_a_warning (void **state)
{
  char arguments[400], back[3];
  struct pmem *pmem;
  uint64_t content;

  make_file (MIB, "", 0);
  snprintf (arguments, sizeof arguments, "-f --show %s", path);
  if (geteuid () != 0 || !run_losetup (arguments, loop, sizeof loop)) {
    loop[0] = '\0';
    skip ();
  }
  strcpy (path, loop);

  assert_int_equal (try_open (0, &pmem), 0);
  assert_reported (REPORT_WARNING, "fsdax");
  assert_string_equal (pmem->kind, "block device");
  assert_false (pmem->ordered);
  assert_int_equal (pmem->size, MIB);
  assert_int_equal (pmem_allocate (pmem), 0);
  assert_int_equal (device_find_content (pmem, &content), 0);
  assert_int_equal (content, MIB);
  assert_int_equal (pmem_copy (pmem, MIB - 3, "end", 3), 0);
  assert_int_equal (pmem_sync (pmem), 0);
  assert_int_equal (pmem_read (pmem, back, MIB - 3, 3), 0);
  assert_memory_equal (back, "end", 3);
  assert_refused (0, EBUSY, "in use");
  pmem_close (pmem);
}

/* 0, or what the child failed with. */
static int
run_myself (const char *program, const char *which, const char *force)
{
  pid_t pid = fork ();
  int status;

  if (pid == 0) {
    setenv ("PMEM_IS_PMEM_FORCE", force, 1);
    execl ("/proc/self/exe", program, which, NULL);
    _exit (127);
  }
  if (pid == -1 || waitpid (pid, &status, 0) == -1)
    return 1;
  return WIFEXITED (status) ? WEXITSTATUS (status) : 1;
}

#define T(name) cmocka_unit_test_setup_teardown (name, begin, end)

static const struct CMUnitTest of_both[] = {
  T (device_is_what_this_run_is_about),
  T (stores_are_read_back),
  T (a_sync_is_near_after_few_stores_each),
  T (checksum_is_that_of_the_bytes_on_the_device),
  T (beyond_the_end_is_an_assertion),
  T (difficult_writes_are_completed),
  T (missing_device_says_how_to_create_it),
  T (directory_is_refused),
  T (fifo_is_refused_without_waiting_for_it),
  T (socket_is_refused),
  T (character_device_is_refused),
  T (empty_file_is_refused),
  T (missing_directory_is_named),
  T (dangling_link_is_named),
  T (read_only_file_is_refused),
  T (second_user_is_refused),
  T (who_looks_does_not_write),
  T (an_overlay_keeps_its_stores),
  T (lock_survives_a_fork),
  T (replaced_device_is_refused),
  T (open_makes_durable_what_can_be_read),
  T (created_file_has_no_holes),
  T (created_file_is_durable),
  T (failed_creation_leaves_nothing),
  T (interrupted_creation_is_finished),
  T (interrupted_formatting_is_finished),
  T (other_content_is_never_extended),
  T (larger_file_is_never_cut),
  T (failed_extension_leaves_the_file_as_it_was),
  T (allocate_fills_holes_and_keeps_content),
  T (allocate_says_when_space_is_short),
  T (interrupted_allocation_goes_on),
  T (resized_file_keeps_its_content),
  T (failed_resize_leaves_the_file_as_it_was),
  T (content_is_found_at_its_first_byte),
  T (holes_are_not_searched),
  T (end_of_data_is_looked_for_once),
  T (content_is_found_without_knowledge_of_holes),
  T (truncated_file_gives_eio_and_other_threads_go_on),
  T (search_says_where_it_could_not_read),
  T (foreign_sigbus_is_passed_on),
  T (bad_memory_of_the_caller_is_foreign),
  T (sigbus_that_was_sent_has_its_usual_effect),
  T (last_close_puts_the_old_handler_back),
  T (what_is_there_is_made_durable_on_request),
};

static const struct CMUnitTest of_file[] = {
  T (sync_without_stores_does_nothing),
  T (waiting_syncs_share_one_that_starts_later),
  T (sync_that_is_running_is_enough_for_older_stores),
  T (many_threads_store_and_sync),
  T (failed_sync_is_not_forgotten),
  T (failed_write_is_told),
  T (interrupted_sync_is_repeated),
  T (block_device_is_used_with_a_warning),
};

int
main (int argc, char *argv[])
{
  int failed;

  if (argc < 2) {
    failed = run_myself (argv[0], "pmem", "1");
    failed |= run_myself (argv[0], "file", "0");
    return failed != 0;
  }
  is_pmem = strcmp (argv[1], "pmem") == 0;
  failed = cmocka_run_group_tests_name (is_pmem ? "pmem" : "file", of_both,
                                        NULL, NULL);
  if (!is_pmem)
    failed += cmocka_run_group_tests_name ("file only", of_file, NULL, NULL);
  return failed != 0;
}

# SPDX-License-Identifier: BSD-3-Clause

# What the tests in integration/ and interop/ share; each of the former starts
# with
#
#   . "$(dirname "$0")/functions.sh"
#
# A test runs in an empty directory of its own, $dir, with its sockets, logs
# and images in it, removed at its end with all processes it started.  A
# server has a name, first by custom, from which follow name.sock, name.pid,
# name.log (all it printed) and name.stats.
#
#   start first file disk.img pmem=cache.img pmem-size=64M
#   nbdsh -u "$(uri first)" -c 'h.pwrite (b"a", 0)'
#   stop first                  # SIGTERM; it must end well
#
# The scripts also run by hand, from anywhere, after make:
# top_builddir=/my/build tests/integration/test-requests.sh

set -euo pipefail
export LC_ALL=C
unset PMEM_IS_PMEM_FORCE

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
this_test=$(cd "$(dirname "$0")" && pwd)/${0##*/}
top_srcdir=$(cd "${top_srcdir:-$here/../..}" && pwd)
top_builddir=$(cd "${top_builddir:-$top_srcdir}" && pwd)
: "${PYTHON3:=/usr/bin/python3}" "${SANITIZERS:=}" "${TEST_SCALE:=100}"
: "${NBDKIT:=$top_builddir/tests/bin/nbdkit}"
: "${PCACHE_FILTER:=$top_builddir/filter/.libs/nbdkit-pcache-filter.so}"
export PYTHON3 TEST_SCALE
# One byte code file less to leave behind.
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here

# How much longer than usual things may take.
slow=1
if [ -n "$SANITIZERS" ]; then slow=5; fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/XXXXXX")
shm=                            # a directory in /dev/shm, when it is needed
loops=()                        # loop devices
declare -A pid_of               # of the running servers
helpers=()                      # other processes
kills=0                         # how many servers kill -9 has ended
cd "$dir"

say () { printf '%s\n' "$*"; }
skip () { say "$*"; exit 77; }
fail ()
{
  say "FAILED: $*"
  exit 1
}

# At the end. ------------------------------------------------------------

# A process and those that it has started.
end_tree ()
{
  local pid children

  children=$(pgrep -P "$1")
  kill -KILL "$1"
  for pid in $children; do end_tree "$pid"; done
}

# Numbers of processes that have ended are given to others before long.
is_child ()
{
  [ "$(awk '$1 == "PPid:" { print $2 }' "/proc/$1/status" 2>/dev/null)" = $$ ]
}

at_exit ()
{
  local code=$? pid log device

  trap - EXIT
  set +eu
  # A test may have one.
  if declare -F clean_up >/dev/null; then clean_up; fi
  # The shell would say of each that it was killed, after the last line.
  {
    for pid in "${pid_of[@]}" "${helpers[@]}"; do
      if is_child "$pid"; then end_tree "$pid"; fi
    done
    wait
  } 2>/dev/null
  # Daemons are not our children.
  for pid in "$dir"/*.pid; do
    pid=$(cat "$pid" 2>/dev/null)
    if [ -n "$pid" ] &&
       [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = nbdkit ] &&
       grep -qF -e "$dir" "/proc/$pid/cmdline" "/proc/$pid/environ"
    then kill -KILL "$pid"; fi 2>/dev/null
  done
  # Where mount_loop and attach put them.
  umount -l "$dir/mnt" "$dir/fuse" 2>/dev/null
  for device in "${loops[@]}"; do
    losetup -d "$device" 2>/dev/null
  done
  if [ $code -ne 0 ] && [ $code -ne 77 ]; then
    for log in "$dir"/*.log; do
      [ -s "$log" ] || continue
      say "--- ${log##*/}"
      tail -n 30 "$log"
    done
  fi
  cd /
  if [ -z "${KEEP:-}" ]; then
    rm -rf "$dir" ${shm:+"$shm"}
  else
    say "kept: $dir $shm"
  fi
  exit $code
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What a test needs. -----------------------------------------------------

need ()
{
  local program

  for program; do
    command -v "$program" >/dev/null || skip "$program is not installed"
  done
}

need_plugin ()
{
  "$NBDKIT" "$1" --version >/dev/null 2>&1 ||
    skip "nbdkit has no plugin $1 here"
}

# For a test that mounts something: where it may, it starts again with mounts
# of its own.  When its last process is gone, so are they, even if it was
# killed.
own_mounts ()
{
  if [ -z "${PCACHE_OWN_MOUNTS:-}" ] && [ "$(id -u)" -eq 0 ] &&
     unshare -m true 2>/dev/null
  then
    cd /
    rm -rf "$dir"
    PCACHE_OWN_MOUNTS=1 exec unshare -m "$BASH" "$this_test"
  fi
}

PATH=$PATH:/usr/sbin:/sbin
need nbdinfo
[ -e "$PCACHE_FILTER" ] || fail "$PCACHE_FILTER is missing: run make first"
"$PYTHON3" -c 'import nbd' 2>/dev/null ||
  skip "$PYTHON3 has no nbd module (python3-libnbd)"

# Time. ------------------------------------------------------------------

# within SECONDS COMMAND...: fail if it takes longer.  Its exit code otherwise.
within ()
{
  local limit=$(($1 * slow)) code=0
  shift

  timeout -k 5 "$limit" "$@" || code=$?
  if [ $code -eq 124 ] || [ $code -eq 137 ]; then
    fail "not done within $limit s: $*"
  fi
  return $code
}

# until_true SECONDS COMMAND...: try again until it succeeds.
until_true ()
{
  local tries=$(($1 * slow * 20)) i
  shift

  for (( i = 0; i < tries; i++ )); do
    if "$@"; then return 0; fi
    sleep 0.05
  done
  fail "still not so after $((tries / 20)) s: $*"
}

now_ms () { date +%s%3N; }

# How long ago $1 was, in ms.
since () { echo $(( $(now_ms) - $1 )); }

# use_seed: a run's choices are made with RANDOM; SEED=N repeats them.
use_seed ()
{
  seed=${SEED:-$(date +%s)}
  say "seed $seed"
  RANDOM=$seed
}

# sleep_up_to MS: for a random time.
sleep_up_to ()
{
  local ms=$((RANDOM % ($1 + 1)))
  sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
}

# scaled NUMBER: as many as a sanitizer leaves time for.
scaled ()
{
  local n=$(($1 * TEST_SCALE / 100))
  echo $((n > 0 ? n : 1))
}

# Servers. ---------------------------------------------------------------

uri () { echo "nbd+unix:///${2:-}?socket=$dir/$1.sock"; }

is_running () { kill -0 "$1" 2>/dev/null; }
is_gone () { ! is_running "$1"; }
has_text () { grep -q -e "$2" "$1"; }

# start NAME ARGUMENT...: nbdkit with pcache as the first filter, in the
# foreground of a background job.  Comes back when it takes connections.
start ()
{
  local name=$1
  shift

  start_nbdkit "$name" --filter=pcache "$@" pcache-statsfile="$name.stats"
}

# start_nbdkit NAME ARGUMENT...: the same with nothing added.
start_nbdkit ()
{
  local name=$1 i
  shift

  launch "$name" "$@"
  for (( i = 0; i < 600 * slow; i++ )); do
    # Written when it listens.
    [ -s "$name.pid" ] && return
    is_running "${pid_of[$name]}" || fail "$name: nbdkit did not start"
    sleep 0.02
  done
  fail "$name: nbdkit is not ready"
}

launch ()
{
  local name=$1
  shift

  # A killed nbdkit leaves them behind.
  rm -f "$name.sock" "$name.pid"
  say "\$ nbdkit $*"
  "$NBDKIT" -f -U "$dir/$name.sock" -P "$dir/$name.pid" "$@" \
            > "$name.log" 2>&1 < /dev/null &
  pid_of[$name]=$!
}

# stop NAME [SECONDS]: SIGTERM, then it must end by itself, with exit code 0.
stop ()
{
  local name=$1 code=0

  # It may have ended when its last client did.
  kill -TERM "${pid_of[$name]}" 2>/dev/null || true
  await "$name" "${2:-30}" || code=$?
  [ $code -eq 0 ] || fail "$name: nbdkit ended with exit code $code"
}

# await NAME SECONDS: wait for its end.  Returns its exit code.
await ()
{
  local name=$1 code=0

  until_true "$2" is_gone "${pid_of[$name]}"
  wait "${pid_of[$name]}" || code=$?
  unset "pid_of[$name]"
  return $code
}

# As a power cut would, but for what the kernel has.  Counted only if that was
# what ended it.
kill_hard ()
{
  local name=$1 code=0

  # A client may have done it.
  kill -KILL "${pid_of[$name]}" 2>/dev/null || true
  wait "${pid_of[$name]}" 2>/dev/null || code=$?
  unset "pid_of[$name]"
  if [ $code -eq 137 ]; then kills=$((kills + 1)); fi
}

# start_killed MS NAME ARGUMENT...: kill -9 it within MS of its start.
start_killed ()
{
  local ms=$1 name=$2
  shift 2

  launch "$name" --filter=pcache "$@"
  sleep_up_to "$ms"
  kill_hard "$name"
}

# The last line of a test that is about kills.
say_kills () { say "$kills kills${1:+: $1}"; }

# figure NAME COUNTER: from the statistics it wrote when it ended.
figure ()
{
  awk -v counter="$2:" '$1 == counter { print $2; found = 1 }
                        END { exit !found }' "$1.stats" ||
    fail "no $2 among the statistics of $1"
}

# refused NAME PATTERN... -- ARGUMENT...: nbdkit must not start; what it says
# must be one line, with all the patterns (grep -E) in it.
refused ()
{
  local name=$1 patterns=() pattern code=0
  shift

  while [ "$1" != -- ]; do patterns+=("$1"); shift; done
  shift
  say "\$ nbdkit $*"
  rm -f "$name.sock" "$name.pid"
  timeout -k 5 $((20 * slow)) "$NBDKIT" -f -U "$dir/$name.sock" \
     -P "$dir/$name.pid" "$@" > "$name.log" 2>&1 < /dev/null || code=$?
  say_said "$name.log"
  [ $code -ne 0 ] || fail "it was accepted"
  [ $code -ne 124 ] || fail "it was not refused: it serves"
  [ $code -lt 128 ] || fail "it crashed: exit code $code"
  [ ! -e "$name.pid" ] || fail "it had already started to serve"
  one_message "$name.log" "${patterns[@]}"
}

say_said () { sed 's/^/  | /' "$1"; }

# one_message LOG PATTERN...: one line is an error of ours, and all is in it.
one_message ()
{
  local log=$1 said pattern
  shift

  said=$(grep '^nbdkit: .*error: pcache: ' "$log" |
           grep -v 'pcache: warning: ' || true)
  [ "$(grep -c . <<< "$said")" -eq 1 ] ||
    fail "expected one error message of pcache, not this: $said"
  for pattern; do
    grep -qE -e "$pattern" <<< "$said" ||
      fail "the message does not say /$pattern/"
  done
}

# Cache devices. ---------------------------------------------------------

# use_cache file|pmem: sets $cache, the path of a file not yet there.  pmem: in
# /dev/shm, taken for persistent memory.
use_cache ()
{
  case $1 in
    file)
      unset PMEM_IS_PMEM_FORCE
      cache=$dir/cache.img
      ;;
    pmem)
      if [ -z "$shm" ]; then
        # What a test that was killed itself has left: it, or a server of it,
        # would hold the lock.
        find /dev/shm -maxdepth 1 -name 'pcache.??????' -mmin +10 \
             -exec flock -n {} rm -rf {} \; 2>/dev/null || true
        shm=$(mktemp -d /dev/shm/pcache.XXXXXX) ||
          skip "/dev/shm is not writable"
        exec {shm_lock}< "$shm"
        flock -n "$shm_lock"
      fi
      export PMEM_IS_PMEM_FORCE=1
      cache=$shm/cache.img
      ;;
  esac
  rm -f "$cache"
}

# Clients. ---------------------------------------------------------------

# nbdsh ARGUMENT...: libnbd's shell.
nbdsh () { within 60 "$PYTHON3" -m nbd "$@"; }

python () { within 100 "$PYTHON3" "$@"; }

# serves NAME IMAGE [WHEN]: exactly that.
serves ()
{
  python -c '
import nbd, sys
h = nbd.NBD ()
h.connect_uri (sys.argv[1])
with open (sys.argv[2], "rb") as f:
    want = f.read ()
if h.get_size () != len (want):
    sys.exit ("the size is %d" % h.get_size ())
for at in range (0, len (want), 1 << 20):
    got = h.pread (min (1 << 20, len (want) - at), at)
    if got != want[at:at + len (got)]:
        sys.exit ("byte %d differs" % (
            at + next (i for i, b in enumerate (got) if b != want[at + i])))
' "$(uri "$1")" "$2" || fail "$1 does not serve $2${3:+ $3}"
}

# start_client NAME [PYTHON-CODE]: stays connected until end_client; runs the
# code (h is the handle) and then says so in client.log.
start_client ()
{
  local fifo=$dir/client.fifo

  rm -f "$fifo"
  : > client.log
  mkfifo "$fifo"
  "$PYTHON3" -c '
import nbd, sys
h = nbd.NBD ()
h.connect_uri (sys.argv[1])
exec (sys.argv[2])
print ("ready", flush=True)
open (sys.argv[3]).read ()
' "$(uri "$1")" "${2:-}" "$fifo" > client.log 2>&1 &
  client=$!
  helpers+=($client)
  until_true 30 has_text client.log ready
}

end_client ()
{
  kill -KILL "$client" 2>/dev/null || true
  wait "$client" 2>/dev/null || true
}

# File systems. ----------------------------------------------------------

# attach NAME [OPTION...]: fuse/disk is what the server serves, as a file.
attach ()
{
  mkdir -p fuse
  nbdfuse "${@:2}" fuse/disk "$(uri "$1")" > nbdfuse.log 2>&1 &
  fuse=$!
  helpers+=($fuse)
  until_true 10 is_attached
  [ -e fuse/disk ] || skip "FUSE does not work here: $(head -n 1 nbdfuse.log)"
}
is_attached () { [ -e fuse/disk ] || is_gone $fuse; }

# Also when its server is gone.
detach ()
{
  umount fuse 2>/dev/null || fusermount3 -u fuse || umount -l fuse
  # It has tripped over that.
  within 20 tail -s 0.05 --pid=$fuse -f /dev/null
}

# mount_loop FILE [OPTIONS]: on mnt, until umount mnt.  Nothing between the
# file and us caches it.
mount_loop ()
{
  local log

  mkdir -p mnt
  # The device goes with the mount, unlike one from losetup.
  log=$(mount -o "loop${2:+,$2}" "$1" mnt 2>&1) ||
    { say "$log"; return 1; }
  losetup --direct-io=on "$(findmnt -n -o SOURCE mnt)"
}

# attach_loop FILE: $loop is a block device on it, until detach_loop.  Through
# it a program's writes come in whole blocks, as on a disk; e2fsck changes a
# superblock two bytes at a time.
attach_loop ()
{
  loop=$(losetup --find --show --direct-io=on "$1") ||
    fail "no loop device on $1"
  loops+=("$loop")
}

detach_loop ()
{
  losetup -d "$loop"
  unset 'loops[-1]'
}

# Images. ----------------------------------------------------------------

# random_file PATH SIZE: not compressible, the same every time.
random_file ()
{
  "$PYTHON3" -c '
import random, sys
r = random.Random (7)
n = int (sys.argv[2])
with open (sys.argv[1], "wb") as f:
    while n > 0:
        k = min (n, 1 << 20)
        f.write (r.randbytes (k))
        n -= k
' "$1" "$2"
}

same ()
{
  cmp "$1" "$2" || fail "$1 differs from $2${3:+: $3}"
}

differs ()
{
  ! cmp -s "$1" "$2" || fail "$1 is the same as $2${3:+: $3}"
}

MiB=1048576

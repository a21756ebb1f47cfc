# SPDX-License-Identifier: BSD-3-Clause

# What the tests of interoperability share; each of them starts with
#
#   . "$(dirname "$0")/functions.sh"
#
# and has all that ../integration/functions.sh has.  A test's name says what it
# puts the cache together with: test-plugin-NAME.sh, test-filter-NAME.sh,
# test-client-NAME.sh, test-load-NAME.sh.  docs/INTEROP.md is the table of what was
# run and what came of it: keep the two together.  check-docs.sh complains of a test
# that it does not mention.

. "$(dirname "${BASH_SOURCE[0]}")/../integration/functions.sh"

# File systems under load. -----------------------------------------------

# LOAD_SCALE=N: how much the loads do, times N.  1 takes some ten seconds.
: "${LOAD_SCALE:=1}"

need_file_system ()
{
  need nbdfuse losetup findmnt "mkfs.$1"
  case $1 in
    ext4) need e2fsck ;;
    xfs) need xfs_repair ;;
  esac
  [ -e /dev/fuse ] || skip "there is no /dev/fuse"
  [ "$(id -u)" -eq 0 ] || skip "only root can mount"
  # It may be a module that is not loaded yet.
  grep -qw "$1" /proc/filesystems || modprobe "$1" 2>/dev/null ||
    skip "the kernel has no $1"
}

# make_fs ext4|xfs FILE
make_fs ()
{
  case $1 in
    ext4) mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$2" ;;
    xfs) mkfs.xfs -q -f "$2" ;;
  esac > mkfs.log 2>&1 || fail "mkfs: $(cat mkfs.log)"
}

# clean_fs ext4|xfs FILE WHEN: nothing to repair, the journal is empty.
clean_fs ()
{
  case $1 in
    ext4) e2fsck -fn "$2" ;;
    xfs) xfs_repair -n -f "$2" ;;
  esac > fsck.log 2>&1 || fail "$3: $(cat fsck.log)"
}

# sums DIRECTORY: a line for each file in it, from the disk if it was mounted
# just now.
sums ()
{
  (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z |
     xargs -0 -r sha256sum)
}

# load NAME COMMAND...: in the background, not for ever; end_loads waits for all
# of them.
declare -A load_pids
load ()
{
  local name=$1
  shift

  timeout -k 5 $(((60 + 120 * LOAD_SCALE) * slow)) "$@" \
          > "$name.load.log" 2>&1 < /dev/null &
  load_pids[$name]=$!
  helpers+=($!)
}

# Each must end well.
end_loads ()
{
  local name code

  for name in "${!load_pids[@]}"; do
    code=0
    wait "${load_pids[$name]}" || code=$?
    [ $code -ne 124 ] || fail "$name does not end"
    [ $code -eq 0 ] ||
      fail "$name: exit code $code: $(tail -n 70 "$name.load.log")"
    unset "load_pids[$name]"
  done
}

# load_work NUMBER: as many as LOAD_SCALE and TEST_SCALE say.
load_work () { echo $((LOAD_SCALE * $(scaled "$1"))); }

# The loads, each in a directory of its own beneath mnt. A load's figures are
# what keeps it at some five seconds, together with the others.

load_fsx ()
{
  load "fsx$1" "$PYTHON3" "$top_srcdir/tests/interop/fsx.py" run $RANDOM \
       "$(load_work 900)" "mnt/fsx$1"
}

# Each block says where in its file it is.
load_fio ()
{
  mkdir -p mnt/fio
  load fio fio --directory=mnt/fio --size=12M --loops="$LOAD_SCALE" \
       --verify=pattern --verify_pattern='%o"pcache!"' --verify_fatal=1 \
       --randseed=$RANDOM --fallocate=none --overwrite=0 \
       --name=direct --ioengine=libaio --direct=1 --iodepth=8 --bs=4k-64k \
       --rw=randwrite --fsync=64 \
       --name=buffered --ioengine=psync --bs=8k --rw=randwrite --fdatasync=50 \
       --invalidate=1 --end_fsync=1 \
       --name=mapped --ioengine=mmap --bs=16k --rw=randwrite --fsync=100 \
       --name=written --ioengine=psync --direct=1 --bs=128k --rw=write
}

# Those of its classes "filesystem" and "io" that make requests of a disk, and
# end after so many of them.
load_stress ()
{
  mkdir -p mnt/stress
  load stress stress-ng --temp-path mnt/stress --verify --timeout 1h \
       --hdd 1 --hdd-bytes 8M --hdd-opts fsync,direct \
       --hdd-ops "$(load_work 300)" \
       --aio 1 --aio-ops "$(load_work 100)" \
       --aiol 1 --aiol-ops "$(load_work 100)" \
       --dentry 1 --dentry-ops "$(load_work 500)" \
       --dir 1 --dir-ops "$(load_work 200)" \
       --fallocate 1 --fallocate-bytes 8M --fallocate-ops "$(load_work 4)" \
       --fiemap 1 --fiemap-bytes 4M --fiemap-ops "$(load_work 100)" \
       --iomix 1 --iomix-bytes 4M --iomix-ops "$(load_work 100)" \
       --io-uring 1 --io-uring-ops "$(load_work 100)" \
       --msync 1 --msync-bytes 4M --msync-ops "$(load_work 50)" \
       --readahead 1 --readahead-bytes 8M --readahead-ops "$(load_work 200)" \
       --rename 1 --rename-ops "$(load_work 200)" \
       --revio 1 --revio-bytes 8M --revio-ops "$(load_work 200)" \
       --seek 1 --seek-size 8M --seek-punch --seek-ops "$(load_work 300)" \
       --sync-file 1 --sync-file-bytes 4M --sync-file-ops "$(load_work 5)" \
       --utime 1 --utime-fsync --utime-ops "$(load_work 50)" \
       --xattr 1 --xattr-ops "$(load_work 2)"
}

# Its files stay.
load_dbench ()
{
  mkdir -p mnt/dbench
  load dbench dbench -c /usr/share/dbench/client.txt -D mnt/dbench --fsync \
       --sync-dir --skip-cleanup --timelimit=$((3 * LOAD_SCALE)) 2
}

# loaded_fs ext4|xfs: a file system on the cache's disk, which is many times as
# large as the cache, under all the loads at once; it and its files are then
# the same through the cache, and on the disk alone after the drain.
loaded_fs ()
{
  local fs=$1 kind peak

  need_file_system "$fs"
  need fio stress-ng dbench fstrim sha256sum
  own_mounts
  use_seed
  random_file data $((24 * MiB))
  for kind in file pmem; do
    say "$fs, cache $kind"
    use_cache $kind
    rm -f disk.img
    truncate -s 512M disk.img
    start $kind file disk.img pmem="$cache" pmem-size=24M \
          pcache-segment-size=1M pcache-writeback-delay=100ms
    attach $kind
    make_fs "$fs" fuse/disk
    mount_loop fuse/disk discard ||
      skip "no loop device over FUSE can be mounted here"
    cp data mnt/
    load_fsx 1
    load_fsx 2
    load_fio
    load_stress
    load_dbench
    end_loads
    tail -n 1 fsx1.load.log fsx2.load.log dbench.load.log stress.load.log
    fstrim mnt
    sums mnt > written.sums
    umount mnt
    clean_fs "$fs" fuse/disk "through the cache"
    mount_loop fuse/disk ro || fail "it cannot be mounted again"
    sums mnt > cached.sums
    same mnt/data data
    umount mnt
    detach
    peak=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/${pid_of[$kind]}/status")
    stop $kind 60
    clean_fs "$fs" disk.img "after the drain"
    mount_loop disk.img ro || fail "the drained disk cannot be mounted"
    sums mnt > drained.sums
    umount mnt
    same cached.sums written.sums "as soon as the kernel had forgotten them"
    same drained.sums written.sums "after the drain"

    say "$(wc -l < written.sums) files; peak memory $peak KiB;" \
        "$(grep -E '^(evicted_segments|write_bytes|writeback_epochs|trims|space_waits)' \
             $kind.stats | tr '\n' ' ')"
    [ "$(figure $kind write_bytes)" -gt $((100 * MiB)) ] ||
      fail "hardly anything was written"
    [ "$(figure $kind evicted_segments)" -gt 48 ] ||
      fail "hardly anything was evicted"
    [ "$(figure $kind trims)" -gt 0 ] || fail "nothing was trimmed"
    [ "$(figure $kind writeback_errors)" -eq 0 ] || fail "write-back failed"
    [ -n "$SANITIZERS" ] || [ "$peak" -lt $((192 << 10)) ] ||
      fail "nbdkit has used $peak KiB"
  done
}

# Random requests. -------------------------------------------------------

# exercise NAME [WORD...]: random requests to the server of that name, or to a
# URI; see exercise.py.  model.img is what the disk must hold before, and holds
# afterwards.  $export is the export.
export=
exercise ()
{
  local uri=$1

  case $uri in *://*) ;; *) uri=$(uri "$1" "$export") ;; esac
  python "$top_srcdir/tests/interop/exercise.py" "$uri" model.img $RANDOM \
         "${@:2}" || fail "$1: not what model.img holds; seed $seed"
}

# lives NAME ARGUMENT...: nbdkit with a new cache, and with pcache as the first
# filter if it is not among the arguments.  One life for each of $ends: keep, it
# ends with dirty data kept; kill; or drain, the last one, so that the disk
# holds what is in model.img then.  In each of them, exercise.
ends=(keep kill drain)
exercise_options=()
cache_kind=pmem                 # see use_cache
lives ()
{
  local name=$1 end first=(--filter=pcache)
  shift

  say "== $name"
  use_cache $cache_kind
  case " $* " in *" --filter=pcache "*) first=() ;; esac
  for end in "${ends[@]}"; do
    start_nbdkit "$name" "${first[@]}" "$@" pmem="$cache" pmem-size=10M \
                 pcache-segment-size=1M pcache-writeback-delay=0.1 \
                 pcache-on-exit=${end/kill/drain} \
                 pcache-statsfile="$name.stats"
    exercise "$name" "${exercise_options[@]}"
    case $end in
      kill) kill_hard "$name" ;;
      *) stop "$name" ;;
    esac
  done
  drained "$name"
}

drained ()
{
  [ "$(figure "$1" dirty_bytes)" -eq 0 ] || fail "$1: something is dirty"
}

# Filters. ---------------------------------------------------------------

# content IMAGE ARGUMENT...: what nbdkit with them serves.  unchanged=yes: the
# filters leave the disk as it is.
unchanged=
content ()
{
  local image=$1
  shift

  rm -f "$image"
  if [ -n "$unchanged" ]; then cp disk.img "$image"; return; fi
  within 30 "$NBDKIT" -r -U - "$@" --run "nbdcopy \"\$uri\" $image" \
     > content.log 2>&1 || { cat content.log; fail "nothing was served"; }
}

# life "FILTER..." "WORD..." PLUGIN... PARAMETER...: lives of the cache among these
# filters; one of them is pcache.  $source is the disk at the start, disk.img the
# one in use.  The words are for exercise.  The stack without pcache says what is
# in model.img at first, and must serve what is in it in the end.
life ()
{
  local stack=$1 plain=() with=() filter began
  local exercise_options=(requests=40 $2)
  shift 2

  began=$(now_ms)
  for filter in $stack; do
    with+=("--filter=$filter")
    if [ "$filter" != pcache ]; then plain+=("--filter=$filter"); fi
  done
  cp "$source" disk.img
  content model.img "${plain[@]}" "$@"
  lives filters "${with[@]}" "$@"
  ! has_text filters.log 'pcache: ' || fail "$stack: $(cat filters.log)"
  content after.img "${plain[@]}" "$@"
  same after.img model.img "$stack"
  say "  $(since "$began") ms"
}

# Clients. ---------------------------------------------------------------

# sparse_file PATH SIZE [SEED]: pieces of random data, of 1 to 400000 bytes,
# with holes between them; the same every time.
sparse_file ()
{
  "$PYTHON3" -c '
import random, sys
path, size, seed = sys.argv[1], int (sys.argv[2]), int (sys.argv[3])
r = random.Random (seed)
with open (path, "wb") as f:
  f.truncate (size)
  for i in range (size >> 18):
    length = r.randrange (1, 400000)
    f.seek (r.randrange (size - length))
    f.write (r.randbytes (length))
' "$1" "$2" "${3:-11}"
}

# map_agrees MAP IMAGE [SLACK]: MAP is the output of qemu-img map or of nbdinfo
# --map, as JSON.  It must cover IMAGE from end to end; what it calls zero must
# be so, and of the 4 KiB blocks of zeros at most SLACK may be called data.
map_agrees ()
{
  python -c '
import json, sys
with open (sys.argv[1]) as f:
    pieces = json.load (f)
with open (sys.argv[2], "rb") as f:
    truth = f.read ()
slack, at = 0, 0
zeros = bytes (4096)
for p in pieces:
    start = p["start"] if "start" in p else p["offset"]
    zero = p["zero"] if "zero" in p else bool (p["type"] & 2)
    end = start + p["length"]
    if start != at:
        sys.exit ("a gap in the map, or an overlap, at %d" % at)
    at = end
    if zero:
        if truth[start:end].count (0) != end - start:
            sys.exit ("[%d, %d) is said to be zero, and is not" % (start, end))
    else:
        for b in range ((start + 4095) & -4096, end - 4095, 4096):
            slack += truth[b:b + 4096] == zeros
if at != len (truth):
    sys.exit ("the map ends at %d, the disk at %d" % (at, len (truth)))
print ("%d pieces, %d blocks of zeros called data" % (len (pieces), slack))
if slack > int (sys.argv[3]):
    sys.exit ("more than %s blocks of zeros are called data" % sys.argv[3])
' "$1" "$2" "${3:-0}" || fail "the map $1 does not agree with $2"
}

# as_sparse COPY ORIGINAL: it has kept the holes, but for 256 KiB.
as_sparse ()
{
  local copy original

  copy=$(du -k "$1" | cut -f 1)
  original=$(du -k "$2" | cut -f 1)
  say "$1: $copy KiB on the disk, $2: $original KiB"
  [ "$copy" -le $((original + 256)) ] || fail "$1 has lost the holes of $2"
}

# Plugins. ---------------------------------------------------------------

# A free port of 127.0.0.1, and not given twice to tests of one machine that run
# at the same time, as far as possible.  Whoever listens must cope with losing it.
free_port ()
{
  "$PYTHON3" -c '
import socket
s = socket.socket ()
s.bind (("127.0.0.1", 0))
print (s.getsockname ()[1])
'
}

# start_qemu_nbd NAME IMAGE FORMAT [OPTION...]: on NAME.sock, for several clients
# one after the other and at the same time; end_qemu_nbd NAME ends it well.
declare -A qemu_nbd_of
start_qemu_nbd ()
{
  local name=$1 image=$2 format=$3
  shift 3

  rm -f "$name.sock"
  say "\$ qemu-nbd -f $format $* $image"
  qemu-nbd -k "$dir/$name.sock" -t -e 16 -f "$format" "$@" "$image" \
           > "$name.log" 2>&1 &
  qemu_nbd_of[$name]=$!
  helpers+=($!)
  until_true 20 test -S "$name.sock"
}

end_qemu_nbd ()
{
  kill -TERM "${qemu_nbd_of[$1]}"
  until_true 30 is_gone "${qemu_nbd_of[$1]}"
  wait "${qemu_nbd_of[$1]}" || true
}

# start_sshd: on 127.0.0.1, $ssh_port, for the user who runs the test and a key of
# the test's; plugins find what they need with "${ssh_options[@]}".  Each
# connection has a process of its own; end_sshd ends all of them.
start_sshd ()
{
  local tries

  if [ "$(id -u)" -eq 0 ] && [ ! -d /run/sshd ]; then
    # Where it keeps nothing, but wants to.  Nobody else sees it.
    if [ -z "${PCACHE_OWN_MOUNTS:-}" ] || ! mount -t tmpfs none /run; then
      skip "there is no /run/sshd"
    fi
    mkdir -m 755 /run/sshd
  fi
  if [ ! -e ssh/key ]; then
    mkdir -p -m 700 ssh
    ssh-keygen -q -t ed25519 -N '' -f ssh/key
    ssh-keygen -q -t ed25519 -N '' -f ssh/host_key
    cp ssh/key.pub ssh/authorized_keys
  fi
  for tries in 1 2 3 4 5; do
    : "${ssh_port:=$(free_port)}"
    cat > ssh/sshd_config <<SSHD
ListenAddress 127.0.0.1
Port $ssh_port
HostKey $dir/ssh/host_key
AuthorizedKeysFile $dir/ssh/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
SSHD
    echo "[127.0.0.1]:$ssh_port $(cut -d ' ' -f 1,2 ssh/host_key.pub)" \
         > ssh/known_hosts
    : > sshd.log
    "$(command -v sshd)" -D -e -f ssh/sshd_config 2> sshd.log &
    sshd=$!
    helpers+=("$sshd")
    until_true 20 sshd_has_begun
    has_text sshd.log 'Server listening' && break
    # Somebody else has the port now.
    ssh_port=
  done
  has_text sshd.log 'Server listening' || fail "sshd does not start"
  ssh_options=(host=127.0.0.1 port="$ssh_port" user="$(id -un)"
               known-hosts="$dir/ssh/known_hosts" identity="$dir/ssh/key")
}
sshd_has_begun () { has_text sshd.log 'Server listening' || is_gone "$sshd"; }
end_sshd ()
{
  end_tree "$sshd" 2>/dev/null || true
  wait "$sshd" 2>/dev/null || true
}

# start_nginx: on the socket nginx.sock, serving www/ ; with the locations that
# are its standard input.  All it writes is in nginx/.
start_nginx ()
{
  mkdir -p nginx
  cat > nginx/nginx.conf <<NGINX
daemon off;
master_process off;
pid $dir/nginx/pid;
error_log $dir/nginx.log;
events { worker_connections 200; }
http {
  access_log off;
  client_body_temp_path $dir/nginx/body;
  proxy_temp_path $dir/nginx/proxy;
  fastcgi_temp_path $dir/nginx/fastcgi;
  uwsgi_temp_path $dir/nginx/uwsgi;
  scgi_temp_path $dir/nginx/scgi;
  server {
    listen unix:$dir/nginx.sock;
    root $dir/www;
$(cat)
  }
}
NGINX
  start_nginx_again
}

start_nginx_again ()
{
  # It does not take the place of one that was killed.
  rm -f nginx.sock
  nginx -e "$dir/nginx.log" -p "$dir/nginx" -c "$dir/nginx/nginx.conf" \
        2>> nginx.log < /dev/null &
  nginx=$!
  helpers+=("$nginx")
  until_true 20 nginx_has_begun
  is_running "$nginx" || skip "nginx does not start here: $(tail -n 1 nginx.log)"
}
nginx_has_begun () { [ -S nginx.sock ] || is_gone "$nginx"; }

# At once, in the middle of what it is doing.
end_nginx ()
{
  kill -KILL "$nginx"
  wait "$nginx" 2>/dev/null || true
}

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# However nbdkit is started and ended, the cache works and drains at the end:
# in the foreground, as a daemon, with --run, by socket activation, with -s.

. "$(dirname "$0")/functions.sh"

parameters=(pmem=cache.img pmem-size=16M pcache-segment-size=1M
            pcache-writeback-delay=10m)
text=
write ()
{
  text=$1
  nbdsh -u "$2" -c "h.pwrite (b'$text', 4000)" -c 'h.flush ()' \
        -c "assert h.pread (${#text}, 4000) == b'$text'"
  on_disk && fail "$text: the test is about data not yet written back"
  return 0
}
on_disk ()
{
  [ "$(dd if="$dir/disk.img" bs=1 skip=4000 count=${#text} status=none |
       tr -d '\0')" = "$text" ]
}
drained () { on_disk || fail "$text: not on the disk"; }
fresh () { truncate -s 0 disk.img; truncate -s 8M disk.img; rm -f cache.img; }

# No process that holds the cache any more.
unlocked () { flock -n "$dir/cache.img" true; }

say "in the foreground, by each signal"
for signal in TERM INT QUIT HUP; do
  fresh
  start front-$signal file disk.img "${parameters[@]}"
  write front-$signal "$(uri front-$signal)"
  kill -$signal "${pid_of[front-$signal]}"
  # Python and shells start background jobs with INT and QUIT ignored.
  case $signal in INT|QUIT) sleep 0.2
    ! is_running "${pid_of[front-$signal]}" ||
      kill -TERM "${pid_of[front-$signal]}" ;;
  esac
  await front-$signal 20 || fail "exit code $?"
  drained
done

say "as a daemon, with relative paths"
fresh
rm -f daemon.pid
within 20 "$NBDKIT" -U "$dir/daemon.sock" -P daemon.pid --filter=pcache \
       file disk.img "${parameters[@]}" pcache-statsfile=daemon.stats \
       2> daemon.log
# The parent does not wait for the child to write it.
until_true 20 test -s daemon.pid
pid=$(cat daemon.pid)
write daemon "$(uri daemon)"
! unlocked || fail "the daemon does not hold the lock"
kill -TERM "$pid"
until_true 20 is_gone "$pid"
drained
[ "$(figure daemon dirty_bytes)" -eq 0 ] || fail "not drained"

say "a daemon that cannot start says so before it is one"
if within 20 "$NBDKIT" -U "$dir/bad.sock" -P bad.pid --filter=pcache \
          file disk.img pmem=missing.img 2> bad.log
then fail "exit code 0"; fi
has_text bad.log 'does not exist' || fail "it does not say why"
[ ! -e bad.pid ] || fail "it wrote a pid file"

say "--run"
fresh
text=captive
# Two clients, one after the other.
within 30 "$NBDKIT" -U - --filter=pcache file disk.img "${parameters[@]}" \
       --run '"$PYTHON3" -c "
import nbd
h = nbd.NBD ()
h.connect_uri (\"$uri\")
h.pwrite (b\"captive\", 4000)
" && nbdinfo --size "$uri" && cmp -s disk.img /dev/null; exit 7' \
       > run.log 2>&1 && code=0 || code=$?
[ "$code" -eq 7 ] || fail "--run: exit code $code: $(cat run.log)"
drained
until_true 5 unlocked

say "socket activation"
fresh
"$PYTHON3" - "$dir/activated.sock" "$NBDKIT" --filter=pcache file disk.img \
           "${parameters[@]}" > activated.log 2>&1 <<'END' &
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
END
pid_of[activated]=$!
until_true 10 test -S activated.sock
write activated "$(uri activated)"
stop activated
drained

say "-s: on standard input and output"
fresh
text=single
within 30 "$PYTHON3" - "$NBDKIT" -s --filter=pcache file disk.img \
       "${parameters[@]}" <<'END'
import nbd, sys
h = nbd.NBD()
h.connect_command(sys.argv[1:])
h.pwrite(b"single", 4000)
h.flush()
assert h.pread(6, 4000) == b"single"
h.shutdown()
END
# The client does not wait for its end.
until_true 20 unlocked
drained

say "-s, and the client just dies"
fresh
text=orphan
within 30 "$PYTHON3" - "$NBDKIT" -s --filter=pcache file disk.img \
       "${parameters[@]}" <<'END'
import nbd, os, sys
h = nbd.NBD()
h.connect_command(sys.argv[1:])
h.pwrite(b"orphan", 4000)
os._exit(0)
END
until_true 20 unlocked
drained

say "as another user, who may not write the cache device afterwards"
if [ "$(id -u)" -eq 0 ] && id nobody >/dev/null 2>&1; then
  fresh
  chmod 755 "$dir"
  chmod 666 disk.img
  mkdir -m 777 sockets
  "$NBDKIT" -f -u nobody -U "$dir/sockets/x.sock" -P "$dir/sockets/x.pid" \
     --filter=pcache file disk.img "${parameters[@]}" > nobody.log 2>&1 &
  pid_of[nobody]=$!
  until_true 10 test -s sockets/x.pid
  write nobody "nbd+unix:///?socket=$dir/sockets/x.sock"
  stop nobody
  drained
fi

say "no client ever came"
fresh
start lonely file disk.img "${parameters[@]}"
stop lonely 5

say "--dump-config, --help, --version, --dump-plugin touch nothing"
rm -f cache.img
for option in --help --version --dump-plugin; do
  within 10 "$NBDKIT" --filter=pcache file disk.img "${parameters[@]}" \
         $option > option.out
done
[ ! -e cache.img ] || fail "the cache device was created"
within 10 "$NBDKIT" --filter=pcache null --help > help.out
for parameter in pmem pmem-size pcache-segment-size pcache-data-crc \
    pcache-gc-percent pcache-export pcache-any-export pcache-writeback-order \
    pcache-writeback-delay pcache-writeback-threads pcache-on-exit \
    pcache-drain-timeout pcache-format pcache-damaged; do
  has_text help.out "^$parameter=" || fail "--help does not have $parameter"
done

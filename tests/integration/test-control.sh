#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcachectl with a running cache: each command does what it says, through a
# socket that is its owner's alone and goes when nbdkit does.

. "$(dirname "$0")/functions.sh"

pcachectl=$top_builddir/filter/pcachectl
[ -x "$pcachectl" ] || fail "$pcachectl is missing: run make first"
socket=$dir/control
control () { within 60 "$pcachectl" "$@"; }

# says STATUS PATTERN COMMAND...: with that exit status, and that message; ''
# for none.
says ()
{
  local want=$1 pattern=$2 code=0
  shift 2

  say "\$ pcachectl $*"
  within 60 "$pcachectl" "$@" > said 2>&1 || code=$?
  say_said said
  [ $code -eq "$want" ] || fail "the exit status is $code, not $want"
  if [ -n "$pattern" ]; then
    grep -qE -e "$pattern" said || fail "it does not say /$pattern/"
  else
    [ ! -s said ] || fail "it is not quiet"
  fi
}

# item NAME: of status.
item ()
{
  control status --json "$socket" |
    "$PYTHON3" -c 'import json, sys; print (json.load (sys.stdin)[sys.argv[1]])' \
               "$1"
}

truncate -s 64M disk.img
args=(pmem=cache.img pmem-size=32M pcache-segment-size=1M)

say "Whatever the umask is, the socket is the owner's alone"
(umask 0; "$NBDKIT" -U "$dir/daemon.sock" -P "$dir/daemon.pid" \
  --filter=pcache file disk.img "${args[@]}" pcache-control=control) ||
  fail "it does not start as a daemon"
[ "$(stat -c %a control)" = 600 ] || fail "mode $(stat -c %a control)"
cd /
says 0 'dirty_bytes' status "$socket"
cd "$dir"
say "It is removed when nbdkit ends"
kill -TERM "$(cat daemon.pid)"
until_true 30 is_gone "$(cat daemon.pid)"
rm daemon.pid
[ ! -e control ] || fail "it is still there"

say "Status, metrics, settings"
start first file disk.img "${args[@]}" pcache-control=control \
      pcache-writeback-delay=60m
nbdsh -u "$(uri first)" -c 'h.pwrite (b"x" * 100000, 0)'
says 0 '^  dirty_bytes  *97\.' status control
[ "$(item dirty_bytes)" = 100000 ] || fail "dirty_bytes is wrong"
[ "$(item device)" = "$dir/cache.img" ] || fail "device is wrong"
says 0 '^pcache_writes_total\{.*\} 1$' metrics control
says 0 '^gc-percent +70 +a whole number from 0 to 90$' get control
says 0 '^gc-percent' set control
says 0 '' set control gc-percent 40
[ "$(control get control gc-percent)" = 40 ] || fail "gc-percent was not set"
says 1 'gc-percent=91: expected a whole number from 0 to 90' \
     set control gc-percent 91
says 1 'no-such: there is no such setting' set control no-such 1
says 1 'no-such: there is no such setting' get control no-such
says 2 'what shall gc-percent be' set control gc-percent
says 2 'which socket' status
says 2 'one argument too many' flush control control
says 2 'expected a time' drain --timeout=never control
says 2 'there is no such option' status --yaml control
says 2 'its value is missing' drain control --timeout
says 0 '"dirty_bytes": ?100000' status control --json
says 1 'gc-percent=-1: expected' set control gc-percent -1
for key in $(control get control | awk '{ print $1 }'); do
  say "set $key to what it is"
  control set control "$key" "$(control get control "$key")"
done

say "Completion of settings and of choices"
. "$top_srcdir/docs/bash-completion/pcachectl"
complete_last ()
{
  COMP_WORDS=("$pcachectl" "$@") COMP_CWORD=$# COMPREPLY=()
  _pcachectl
  echo "${COMPREPLY[*]}"
}
[ "$(complete_last set control gc-)" = gc-percent ] || fail "gc-percent"
[ "$(complete_last set control writeback-order '')" = 'strict batch' ] ||
  fail "strict, batch: $(complete_last set control writeback-order '')"
[ "$(complete_last set control gc-percent '')" = '' ] || fail "no choice"
[ "$(complete_last writeback cache.img disk)" = disk.img ] || fail "a target"
[ "$(complete_last writeback --order = b)" = batch ] || fail "an order"
[ "$(complete_last writeback --order = '')" = 'epoch batch' ] || fail "orders"
[ "$(complete_last map --svg disk)" = disk.img ] || fail "a file for --svg"

say "Flush and drain"
flushes=$(item flushes)
says 0 '' flush control
[ "$(item flushes)" = $((flushes + 1)) ] || fail "nothing was flushed"
says 0 'drained: 97.7 KiB' drain control
[ "$(item dirty_bytes)" = 0 ] || fail "it is still dirty"
cmp -n 100000 disk.img <(head -c 100000 /dev/zero | tr '\0' x) ||
  fail "it was not written back"
says 0 'drained: 0 bytes' drain control
[ -z "$(control drain --quiet control 2>&1)" ] || fail "it is not quiet"

say "What was changed behind its back is read again"
printf y | dd of=disk.img conv=notrunc status=none
says 0 'dropped: 97.7 KiB' invalidate control 0 1M
nbdsh -u "$(uri first)" -c 'assert h.pread (2, 0) == b"yx"'
says 0 'dropped: 2 bytes' invalidate control 0+1k
says 0 'dropped: 0 bytes' invalidate control
says 2 'expected an offset and a length' invalidate control 5
says 1 'not within the disk' invalidate control 1G+1

say "One that is in use is refused, and goes on"
refused second 'control.*in use by another process' -- \
        --filter=pcache file disk.img pmem=other.img pmem-size=32M \
        pcache-segment-size=1M pcache-control=control
[ ! -e other.img ] || fail "the cache device was created"
[ "$(item dirty_bytes)" = 0 ] || fail "the first does not answer"

say "What stands there when nbdkit ends and is another's stays"
mv control moved
echo mine > control
stop first
[ "$(cat control)" = mine ] || fail "it was removed"
rm -f moved

say "What is no socket is refused, and left alone"
refused file 'control.*not a socket' -- --filter=pcache file disk.img \
        "${args[@]}" pcache-control=control
[ "$(cat control)" = mine ] || fail "it was removed"
rm control
refused long 'longer than 107 bytes' -- --filter=pcache file disk.img \
        "${args[@]}" pcache-control="$(printf 'x%.0s' {1..108})"
refused nowhere 'No such file or directory' -- --filter=pcache file disk.img \
        "${args[@]}" pcache-control=nowhere/control

say "What a killed nbdkit leaves is replaced; gc-percent is remembered"
start third file disk.img "${args[@]}" pcache-control=control
says 0 '' set control writeback-delay 77
kill_hard third
[ -S control ] || fail "the socket is gone"
says 1 'control: nobody answers: .* has ended' status control
start third file disk.img "${args[@]}" pcache-control=control
[ "$(control get control gc-percent)" = 40 ] || fail "gc-percent is forgotten"
[ "$(control get control writeback-delay)" != 77000ms ] ||
  fail "writeback-delay is remembered"
stop third

say "Paths that are no control socket"
says 1 'control: there is no such socket; .*pcache-control=control' \
     status control
says 1 'is a cache device; this command needs the control socket' \
     drain cache.img
says 1 'is not a socket' watch disk.img
says 1 'the path is too long' flush "$dir/$(printf 'x%.0s' {1..108})"
if [ "$(id -u)" -eq 0 ] && command -v setpriv > /dev/null; then
  start mine file disk.img "${args[@]}" pcache-control=control
  chmod 755 "$dir"
  code=0
  within 20 setpriv --reuid=65534 --regid=65534 --clear-groups \
         "$pcachectl" status "$socket" > said 2>&1 || code=$?
  say_said said
  # It may not even be able to reach the program.
  [ $code -ne 0 ] || fail "others may use it"
  stop mine
fi

# speak TEXT: a server that says that to one client.
speak ()
{
  rm -f spoken.sock
  # The helper may take a while to open it.
  : > speak.log
  "$PYTHON3" -c '
import socket, sys
s = socket.socket (socket.AF_UNIX)
s.bind ("spoken.sock")
s.listen ()
print ("ready", flush=True)
c, _ = s.accept ()
c.sendall (sys.argv[1].encode ())
if len (sys.argv) > 2:
    c.recv (1)
' "$@" > speak.log 2>&1 &
  helpers+=($!)
  until_true 10 has_text speak.log ready
}
speak $'SSH-2.0-OpenSSH_9.2\r\n'
says 1 'is not the control socket of a pcache filter' status spoken.sock
speak ''
says 1 'is not the control socket of a pcache filter' status spoken.sock
speak $'{"pcache":"9.0","protocol":2}\n'
says 1 'pcache 9.0 speaks version 2 .* this pcachectl version 1' \
     status spoken.sock
speak $'{"pcache":"9.0","protocol":1,"new":[],"error":"too many clients"}\n'
says 1 'too many clients' status spoken.sock
speak $'{"pcache":"9.0","protocol":1}\n' wait
says 1 'nbdkit has ended, or closed the connection' status spoken.sock

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcachectl drain ends although clients go on writing, shows how far it is and
# what fails, keeps nobody from asking, and does not hold up nbdkit's end.

. "$(dirname "$0")/functions.sh"

pcachectl=$top_builddir/filter/pcachectl
[ -x "$pcachectl" ] || fail "$pcachectl is missing: run make first"
control () { within 60 "$pcachectl" "$@"; }
item ()
{
  control status --json control |
    "$PYTHON3" -c 'import json, sys; print (json.load (sys.stdin)[sys.argv[1]])' \
               "$1"
}

# In the background; what the one before said is gone at once.
begin_drain ()
{
  : > drain.log
  "$pcachectl" drain control > drain.log 2>&1 &
  drain=$!
  helpers+=($drain)
}

truncate -s 64M disk.img
args=(pmem=cache.img pmem-size=40M pcache-segment-size=1M
      pcache-control=control pcache-writeback-delay=60m
      pcache-writeback-threads=1)

say "Before any client has come there is nothing to drain to"
start first file disk.img "${args[@]}" pcache-on-exit=keep
control drain control
nbdsh -u "$(uri first)" -c 'h.pwrite (b"x" * 1000, 0)' -c 'h.flush ()'
stop first
start first file disk.img "${args[@]}" pcache-on-exit=keep
if control drain control 2> said; then fail "drained to nowhere"; fi
say_said said
grep -q 'not open for writing: that takes a client' said || fail "why?"
stop first

say "A slow disk and a client that does not stop"
start slow --filter=delay file disk.img "${args[@]}" wdelay=40ms \
      pcache-drain-timeout=0
start_client slow '
h.pwrite (b"a" * 4096, 0)
for i in range (10):
    h.pwrite (b"b" * 4096, (i + 1) << 20)
    h.flush ()
import threading
def go_on ():
    g = nbd.NBD ()
    g.connect_uri (sys.argv[1])
    i = 0
    while True:
        i = i + 1
        g.pwrite (b"c" * 4096, (32 + i % 16) << 20)
        if i % 4 == 0:
            g.flush ()
threading.Thread (target=go_on, daemon=True).start ()
'
begin_drain
"$pcachectl" drain --quiet control > second.log 2>&1 &
second=$!
helpers+=($second)
say "Meanwhile others are answered"
for i in 1 2 3; do item dirty_bytes > /dev/null; done
control set control gc-percent 60
control flush control
for log in drain second; do
  code=0
  until_true 60 is_gone ${!log}
  wait ${!log} || code=$?
  say_said $log.log
  [ $code -eq 0 ] || fail "drain: exit status $code"
done
grep -q '^drained: ' drain.log || fail "it does not say what it did"
grep -q 'written since, and still dirty' drain.log || fail "nothing was written"
[ ! -s second.log ] || fail "it is not quiet"
[ "$(head -c 4096 disk.img | tr -d a | wc -c)" = 0 ] || fail "a is missing"
[ "$(tail -c +$((10 * MiB + 1)) disk.img | head -c 4096 | tr -d b | wc -c)" \
  = 0 ] || fail "b is missing"

say "A drain ends with nbdkit"
begin_drain
until_true 10 eval 'item attached | grep -q True'
end_client
stop slow 20
code=0
until_true 10 is_gone $drain
wait $drain || code=$?
say_said drain.log
# It may have been quick.
[ $code -eq 1 ] || grep -q '^drained: ' drain.log || fail "exit status $code"

say "A disk that fails: the error is shown, and tried again until it heals"
rm -f cache.img
start failing --filter=error file disk.img "${args[@]}" \
      error-pwrite=ENOSPC error-pwrite-rate=100% error-file="$dir/fails"
start_client failing 'h.pwrite (b"d" * 4096, 0)'
touch fails
if control drain --timeout=1 control 2> said; then fail "drained"; fi
say_said said
grep -q 'not drained: the backing store fails: No space left' said ||
  fail "why?"
begin_drain
until_true 20 has_text drain.log 'fails: No space left on device; trying again'
rm fails
code=0
until_true 40 is_gone $drain
wait $drain || code=$?
say_said drain.log
[ $code -eq 0 ] || fail "exit status $code"
[ "$(head -c 4096 disk.img | tr -d d | wc -c)" = 0 ] || fail "d is missing"

say "Who leaves ends the drain"
touch fails
nbdsh -u "$(uri failing)" -c 'h.pwrite (b"e" * 4096, 0)'
begin_drain
until_true 20 has_text drain.log 'trying again'
kill -INT $drain || true
kill -TERM $drain
wait $drain 2>/dev/null || true
rm fails
control drain control
end_client
stop failing

say "Paused, nothing is written back; then the cache device is let go of"
start last file disk.img "${args[@]}" pcache-writeback-delay=0
control pause control
nbdsh -u "$(uri last)" -c 'h.pwrite (b"f" * 4096, 0)' -c 'h.flush ()'
[ "$(item dirty_bytes)" = 4096 ] || fail "it is written back"
control watch --count=1 control > frame
grep -q 'WRITE-BACK IS PAUSED' frame || fail "watch does not say so"
control drain --detach control
[ "$(head -c 4096 disk.img | tr -d f | wc -c)" = 0 ] || fail "f is missing"
nbdsh -u "$(uri last)" -c 'h.pwrite (b"g" * 4096, 0)'
[ "$(head -c 4096 disk.img | tr -d g | wc -c)" = 0 ] || fail "g is missing"
control resume control
stop last

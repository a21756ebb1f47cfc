#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcachectl watch keeps to its screen, whatever the size; ends by q, ^C and
# --count, and leaves the terminal as it was; and is plain text elsewhere.

. "$(dirname "$0")/functions.sh"

pcachectl=$top_builddir/filter/pcachectl
[ -x "$pcachectl" ] || fail "$pcachectl is missing: run make first"

truncate -s 64M disk.img
start first file disk.img pmem=cache.img pmem-size=130M \
      pcache-segment-size=1M pcache-control=control \
      pcache-writeback-delay=60m
nbdsh -u "$(uri first)" -c '
for i in range (30):
    h.pwrite (b"x" * 100000, i * 100000)
h.flush ()
h.pread (100000, 0)'

say "Not on a terminal"
within 20 "$pcachectl" watch --count=2 --interval=0.1 control \
       < /dev/null > frames 2>&1 || { cat frames; fail "exit status $?"; }
cat frames
if grep -q $'\033' frames; then fail "escapes"; fi
[ "$(grep -c '^Segments 128 of 1.0 MiB' frames)" = 2 ] || fail "two frames"
[ "$(grep -cE '^(Reads|Writes|Flushes) ' frames)" = 6 ] || fail "requests"
grep -qE '^Dirty +2\.9 MiB' frames || fail "dirty"
grep -qE '^[.coDx]*D[.coDx]*$' frames || fail "map"

say "On terminals"
python - "$pcachectl" <<'E'
import fcntl, os, pty, re, select, signal, struct, sys, termios, time

def run (columns, rows, arguments, at_first_frame, resize=None):
    pid, fd = pty.fork ()
    if pid == 0:
        time.sleep (0.2)        # until the size is set
        os.execv (sys.argv[1], [sys.argv[1], "watch"] + arguments
                  + ["control"])
    fcntl.ioctl (fd, termios.TIOCSWINSZ,
                 struct.pack ("HHHH", rows, columns, 0, 0))
    before = termios.tcgetattr (fd)
    out, acted = b"", False
    end = time.monotonic () + 60
    while time.monotonic () < end:
        if select.select ([fd], [], [], 0.1)[0]:
            try:
                data = os.read (fd, 65536)
            except OSError:
                break
            if not data:
                break
            out += data
        if b"q ends" in out and not acted:
            acted = True
            if resize:
                fcntl.ioctl (fd, termios.TIOCSWINSZ,
                             struct.pack ("HHHH", resize[1], resize[0], 0, 0))
            at_first_frame (pid, fd)
    try:
        after = termios.tcgetattr (fd)
    except termios.error:
        after = None
    _, status = os.waitpid (pid, 0)
    os.close (fd)
    assert status == 0, "%s: status %d: %s" % (arguments, status, out)
    text = out.decode ()
    # No cursor in between, and one at the end.
    assert text.index ("\033[?25l") < text.rindex ("\033[?25h")
    if after:
        assert after[3] == before[3], "the terminal is not as it was"
    frames = text.split ("\033[H")[1:]
    if frames[0].startswith ("\033[J"):
        frames = frames[1:]
    assert frames, text
    for frame in frames:
        columns_now, rows_now = columns, rows
        if resize:
            columns_now, rows_now = (max (columns, resize[0]),
                                     max (rows, resize[1]))
        plain = re.sub (r"\033\[[0-9;?]*[a-zA-Z]", "", frame)
        lines = plain.split ("\n")
        assert len (lines) <= rows_now, (len (lines), rows_now)
        for line in lines:
            # The last line goes back to its start.
            line = line.replace ("q ends\r", "").rstrip ("\r")
            assert len (line) <= columns_now, (len (line), line)
    return frames

def press (key):
    return lambda pid, fd: os.write (fd, key)

for columns, rows in (80, 24), (40, 10), (200, 60), (20, 3), (1, 1):
    frames = run (columns, rows, [], press (b"q"))
    print ("%dx%d: %d frames" % (columns, rows, len (frames)))
    if rows >= 24:
        for word in "Segments", "Hits", "Dirty", "Reads", "Writes", "Flushes":
            assert word in frames[0], (word, frames[0])
assert len (run (80, 24, ["--count=3", "--interval=100ms"],
                 lambda pid, fd: None)) == 3
run (80, 24, [], press (b"\x03"))
run (80, 24, [], lambda pid, fd: os.kill (pid, signal.SIGTERM))
# Lines of status end where the terminal does.
def status (columns):
    pid, fd = pty.fork ()
    if pid == 0:
        time.sleep (0.2)
        os.execv (sys.argv[1], [sys.argv[1], "status", "control"])
    fcntl.ioctl (fd, termios.TIOCSWINSZ,
                 struct.pack ("HHHH", 24, columns, 0, 0))
    out = b""
    while True:
        try:
            out += os.read (fd, 65536)
        except OSError:
            break
    assert os.waitpid (pid, 0)[1] == 0
    os.close (fd)
    return out.decode ().split ("\r\n")

wide, narrow = status (1000), status (50)
assert max (len (line) for line in narrow) == 50
assert [line[:20] for line in wide] == [line[:20] for line in narrow]
# A change of the size draws a new frame, long before it is due.
frames = run (80, 24, ["--interval=3600", "--count=2"],
              lambda pid, fd: None, (120, 40))
assert len (frames) == 2
E

say "nbdkit ends under it"
: > frames
"$pcachectl" watch --interval=0.1 control > frames 2>&1 < /dev/null &
watch=$!
helpers+=($watch)
until_true 20 has_text frames Segments
stop first
code=0
until_true 20 is_gone $watch
wait $watch || code=$?
[ $code -eq 1 ] || fail "exit status $code"
grep -q 'nbdkit has ended' frames || fail "it does not say so: $(tail -n 1 frames)"

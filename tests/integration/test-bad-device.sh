#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A cache device that is missing, of the wrong kind, not writable, too small, in
# use, somebody else's, or another disk's, is refused in one line that says
# which, what was found and what to do; and not one byte of it is changed.

. "$(dirname "$0")/functions.sh"
need flock mkfs.ext4

truncate -s 8M disk.img
serve=(--filter=pcache file disk.img)

# unchanged NAME PATTERN... -- ARGUMENT...: refused, and device.img is as before.
unchanged ()
{
  local name=$1
  shift

  cp --sparse=always device.img before.img
  # Many servers may report to one log: each message says which device.
  refused "$name" '(device|link)\.img' "$@"
  same device.img before.img "refused, but changed"
  [ "$(stat -c %s device.img)" = "$(stat -c %s before.img)" ] ||
    fail "refused, but its size was changed"
}

is_locked () { ! flock -n "$1" true; }

say "Missing"
refused missing 'missing.img' 'does not exist' 'pmem-size=SIZE' -- \
        "${serve[@]}" pmem=missing.img
refused missing 'no/such/dir/x' 'cannot be (created|looked up)' \
        'No such file or directory' -- \
        "${serve[@]}" pmem=no/such/dir/x pmem-size=69206016
[ ! -e missing.img ] || fail "it was created"

say "Not a device"
mkdir directory
refused directory "$dir/directory: is a directory" 'expected a file' -- \
        "${serve[@]}" pmem=directory pmem-size=1G
mkfifo fifo
refused fifo 'fifo: is a FIFO' -- "${serve[@]}" pmem=fifo
refused null '/dev/null: is a character device' -- \
        "${serve[@]}" pmem=/dev/null
"$PYTHON3" -c 'import socket; socket.socket (socket.AF_UNIX).bind ("socket")'
refused socket 'socket: is a socket' -- "${serve[@]}" pmem=socket
ln -s nowhere dangling
refused dangling 'dangling: ' -- "${serve[@]}" pmem=dangling
[ ! -e nowhere ] || fail "it was created through a link"

say "Empty, too small"
truncate -s 0 device.img
unchanged empty 'device.img: is empty' 'pmem-size=SIZE' -- \
          "${serve[@]}" pmem=device.img
truncate -s 5M device.img
unchanged small 'needs at least [0-9]+' -- \
          "${serve[@]}" pmem=device.img pcache-segment-size=1M
truncate -s 60M device.img
unchanged small2 'needs at least [0-9]+' -- "${serve[@]}" pmem=device.img
refused small3 'pmem-size=2097152' 'needs at least [0-9]+' -- \
        "${serve[@]}" pmem=new.img pmem-size=2M pcache-segment-size=1M
[ ! -e new.img ] || fail "it was created"
# What it says is the truth.
least=$(sed -n 's/.* at least \([0-9]*\) .*/\1/p' small3.log)
refused small4 "needs at least $least" -- "${serve[@]}" pmem=new.img \
        pmem-size=$((least - 1)) pcache-segment-size=1M
start least file disk.img pmem=least.img pmem-size="$least" \
      pcache-segment-size=1M
stop least

say "Not writable"
truncate -s 80M device.img
if [ "$(id -u)" -ne 0 ]; then
  chmod 400 device.img
  unchanged mode 'device.img: not writable' -- "${serve[@]}" pmem=device.img
  chmod 600 device.img
elif chattr +i device.img 2>/dev/null; then
  unchanged immutable 'device.img: not writable' -- \
            "${serve[@]}" pmem=device.img
  chattr -i device.img
fi

say "Somebody else's content"
mkfs.ext4 -q -F device.img 2>/dev/null
unchanged ext4 'not blank|not a pcache cache' 'left alone' \
          'pcache-format=force' -- "${serve[@]}" pmem=device.img
rm device.img
random_file device.img $((70 * MiB))
unchanged random 'not a pcache cache|not blank' 'pcache-format=force' -- \
          "${serve[@]}" pmem=device.img
# One byte, anywhere.
for at in 0 511 5000 600000 $((69 * MiB)) $((80 * MiB - 1)); do
  rm device.img
  truncate -s 80M device.img
  printf 'x' | dd of=device.img bs=1 seek=$at conv=notrunc status=none
  unchanged byte-$at 'pcache-format=force' -- "${serve[@]}" pmem=device.img
done

say "pcache-format=never"
rm device.img
truncate -s 80M device.img
unchanged never 'not formatted' 'pcache-format=never' -- \
          "${serve[@]}" pmem=device.img pcache-format=never

say "pcache-format=force takes anything"
mkfs.ext4 -q -F device.img 2>/dev/null
start forced file disk.img pmem=device.img pcache-format=force
nbdsh -u "$(uri forced)" -c 'h.pwrite (b"x", 0); assert h.pread (2, 0) == b"x\0"'
stop forced

say "In use by another process, also while that only serves reads"
rm device.img
start user -r file disk.img pmem=device.img pmem-size=16M \
      pcache-segment-size=1M
nbdinfo --size "$(uri user)" >/dev/null
sleep 0.5
unchanged second 'device.img: in use' 'stop' -- "${serve[@]}" pmem=device.img
unchanged second-force 'device.img: in use' -- \
          "${serve[@]}" pmem=device.img pcache-format=force
ln device.img link.img
unchanged link 'link.img: in use' -- "${serve[@]}" pmem=link.img
nbdinfo --size "$(uri user)" >/dev/null
stop user
say "Locked by anything else"
flock --no-fork device.img sleep 30 &
helpers+=($!)
until_true 5 is_locked device.img
unchanged locked 'device.img: in use' -- "${serve[@]}" pmem=device.img

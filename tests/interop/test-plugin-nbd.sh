#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The nbd plugin, to qemu-nbd with a qcow2 image and to another nbdkit.  When its
# server goes away, what is in the cache is served; when it is back, the retry
# filter finds it, or else the next client does, and nothing is lost.

# run-tests: long

. "$(dirname "$0")/functions.sh"
need_plugin nbd
need qemu-nbd qemu-img nbdcopy
use_seed

# same_qcow2: qemu-img's opinion.
same_qcow2 ()
{
  qemu-img check -q -f qcow2 disk.qcow2 || fail "the qcow2 image is damaged"
  qemu-img compare -f qcow2 -F raw disk.qcow2 model.img ||
    fail "disk.qcow2 differs from model.img"
}

size=$((16 * MiB + 512))
sparse_file model.img $size
qemu-img convert -f raw -O qcow2 model.img disk.qcow2
start_qemu_nbd qemu disk.qcow2 qcow2
lives qcow2 nbd socket=qemu.sock
end_qemu_nbd qemu
same_qcow2

say "An export with a name, and with all that qemu-nbd can do"
start_qemu_nbd qemu disk.qcow2 qcow2 -x main --discard=unmap \
               --detect-zeroes=unmap
lives named nbd uri="nbd+unix:///main?socket=$dir/qemu.sock"
export=main
lives dynamic nbd socket=qemu.sock dynamic-export=true pcache-export=main
export=
end_qemu_nbd qemu
same_qcow2

say "The server goes away and comes back"
lost ()
{
  local name=$1 i
  shift

  start_qemu_nbd qemu disk.qcow2 qcow2
  use_cache pmem
  start "$name" "$@" pmem="$cache" pmem-size=34M pcache-segment-size=1M \
        pcache-writeback-delay=0
  # It keeps the plugin open.
  start_client "$name"
  exercise "$name" requests=50
  end_qemu_nbd qemu
  nbdsh -u "$(uri "$name")" -c '
for i in range (50): h.pwrite (bytes ([i]) * 5000, i * 100000 + 17)
h.flush ()
for i in range (50):
  assert h.pread (5000, i * 100000 + 17) == bytes ([i]) * 5000
'
  "$PYTHON3" -c '
with open ("model.img", "r+b") as f:
  for i in range (50):
    f.seek (i * 100000 + 17)
    f.write (bytes ([i]) * 5000)
'
}

lost retried --filter=retry nbd socket=qemu.sock retry-delay=1 \
     retry-exponential=no retries=60
start_qemu_nbd qemu disk.qcow2 qcow2
exercise retried
end_client
stop retried
drained retried
end_qemu_nbd qemu
same_qcow2

lost reopened nbd socket=qemu.sock
until_true 20 has_text reopened.log 'pcache: write-back failed'
start_qemu_nbd qemu disk.qcow2 qcow2
end_client
# Once no client is left, or later by itself.
exercise reopened
stop reopened
drained reopened
end_qemu_nbd qemu
same_qcow2

say "The same, with clients all the time, and the server killed in mid-write"
qemu-img create -q -f qcow2 disk.qcow2 16M
random_file model.img $((16 * MiB))
start_qemu_nbd qemu disk.qcow2 qcow2
use_cache pmem
start renewed --filter=rate nbd socket=qemu.sock rate=32M pmem="$cache" \
      pmem-size=34M pcache-segment-size=1M pcache-writeback-delay=0
start_client renewed
nbdcopy --flush model.img "$(uri renewed)"
has_megabytes () { [ "$(du -m disk.qcow2 | cut -f 1)" -ge "$1" ]; }
until_true 20 has_megabytes 5
kill -KILL "${qemu_nbd_of[qemu]}"
wait "${qemu_nbd_of[qemu]}" 2>/dev/null || true
# Killed between the two, it leaves clusters that it has taken and not used.
qemu-img check -q -r leaks -f qcow2 disk.qcow2 > check.log ||
  fail "the qcow2 image is damaged: $(cat check.log)"
until_true 20 has_text renewed.log 'pcache: write-back failed'
# It has forgotten what it had acknowledged.
start_qemu_nbd qemu disk.qcow2 qcow2
until_true 40 has_text renewed.log 'backing store works again'
nbdsh -u "$(uri renewed)" -c '
assert h.pread (16 << 20, 0) == open ("model.img", "rb").read ()
'
end_client
stop renewed
# The rate filter may have cut that short: it does not wait once nbdkit stops.
start renewed nbd socket=qemu.sock pmem="$cache"
nbdsh -u "$(uri renewed)" -c '
assert h.pread (16 << 20, 0) == open ("model.img", "rb").read ()
'
stop renewed
drained renewed
end_qemu_nbd qemu
same_qcow2

lost kept nbd socket=qemu.sock pcache-drain-timeout=2
end_client
stop kept
has_text kept.log 'were not written back' || fail "it does not say what is left"
start_qemu_nbd qemu disk.qcow2 qcow2
start kept nbd socket=qemu.sock pmem="$cache"
exercise kept
stop kept
drained kept
end_qemu_nbd qemu
same_qcow2

say "Another nbdkit"
sparse_file model.img 8000001
cp model.img disk.img
start_nbdkit other file disk.img
lives nbdkit nbd socket=other.sock
stop other
same disk.img model.img

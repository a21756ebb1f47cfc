#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The cache is persistent for what is clean as well: after a clean exit and
# after kill -9, what was read or written before is served without asking the
# plugin.

. "$(dirname "$0")/functions.sh"

random_file disk.img $((8 * MiB))
cp disk.img expected.img
dd if=/dev/urandom of=new.img bs=1M count=2 status=none
dd if=new.img of=expected.img bs=1M seek=3 conv=notrunc status=none

begin ()
{
  local name=$1
  shift
  start "$name" --filter=log file disk.img logfile="$name.calls" \
        pmem="$cache" pmem-size=32M pcache-segment-size=1M "$@"
}

# reads NAME: how often the plugin was asked to read.
reads () { grep -c ' Read ' "$1.calls" || true; }

read_all ()
{
  nbdsh -u "$(uri "$1")" -c '
expected = open ("expected.img", "rb").read ()
for at in range (0, len (expected), 65536):
  assert h.pread (65536, at) == expected[at:at + 65536], at
'
}

for kind in file pmem; do
  use_cache $kind
  random_file disk.img $((8 * MiB))

  begin first
  nbdsh -u "$(uri first)" -c '
h.pwrite (open ("new.img", "rb").read (), 3 << 20)
for at in range (0, 8 << 20, 1 << 20):
  h.pread (1 << 20, at)
h.flush ()
'
  stop first
  [ "$(reads first)" -gt 0 ] || fail "the log filter does not show reads"

  say "$kind: after a clean exit"
  begin second
  read_all second
  kill_hard second
  [ "$(reads second)" -eq 0 ] || fail "the plugin was asked $(reads second) times"

  say "$kind: after kill -9"
  begin third
  read_all third
  stop third
  [ "$(reads third)" -eq 0 ] || fail "the plugin was asked $(reads third) times"
  [ "$(figure third read_hit_bytes)" -eq $((8 * MiB)) ] ||
    fail "hits: $(figure third read_hit_bytes)"

  say "$kind: prefetched, killed once it is flushed"
  rm -f "$cache"
  begin fourth
  nbdsh -u "$(uri fourth)" -c 'h.cache (8 << 20, 0); h.flush ()'
  kill_hard fourth
  begin fifth
  read_all fifth
  stop fifth
  [ "$(reads fifth)" -eq 0 ] || fail "the plugin was asked $(reads fifth) times"
done

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# nbdinfo says what the cache offers; its map of the disk agrees with what is
# there, whether that is in the cache, on the disk or in both, and with what
# qemu-img makes of it.

. "$(dirname "$0")/functions.sh"
need qemu-img nbdcopy

info () { within 20 nbdinfo "$@"; }

sparse_file disk.img $((24 * MiB))
parameters=(file disk.img pmem=cache.img pmem-size=12M pcache-segment-size=1M)

say "Read only"
start reader -r "${parameters[@]}"
info --is read-only "$(uri reader)" || fail "it is not read-only"
! info --can write "$(uri reader)" || fail "it can be written"
stop reader

say "All of it"
start first "${parameters[@]}" pcache-writeback-delay=10m
info --can trim "$(uri first)" || fail "it cannot trim"
! info --is rotational "$(uri first)" || fail "it rotates"
! info --is tls "$(uri first)" || fail "it is encrypted"
[ "$(info --size "$(uri first)")" -eq $((24 * MiB)) ] || fail "a wrong size"
# What is read is cached, and data then.
info --no-content "$(uri first)" > info.txt
has_text info.txt 'export-size: 25165824' || fail "$(cat info.txt)"
info --no-content --json "$(uri first)" > info.json
info --list --json "$(uri first)" > list.json
python -c '
import json
for name in "info.json", "list.json":
    got = json.load (open (name))
    assert got["structured"], got
    (e,) = got["exports"]
    assert e["export-name"] == "" and e["export-size"] == 24 << 20, e
    assert not e["is_read_only"], e
    for can in "cache", "df", "fast_zero", "flush", "fua", "multi_conn", \
               "trim", "zero":
        assert e["can_" + can], (can, e)
    assert "base:allocation" in e["contexts"], e
'

# agrees NAME [SLACK]: all that asks for the map gets the same, and it is true.
agrees ()
{
  info --map --json "$(uri "$1")" > map.json
  map_agrees map.json expected.img "${2:-0}"
  within 20 qemu-img map -f raw --output=json "$(uri "$1")" > qemu.json
  map_agrees qemu.json expected.img "${2:-0}"
  info --map --totals --json "$(uri "$1")" > totals.json
  python -c '
import json
pieces, qemu, totals = (json.load (open (f)) for f in
                        ("map.json", "qemu.json", "totals.json"))
ours, theirs = bytearray (), []
for p in pieces:
    ours += bytes ([p["type"]]) * (p["length"] // 512)
for p in qemu:
    theirs += bytes ([3 if p["zero"] else 0]) * (p["length"] // 512)
if bytes (ours) != bytes (theirs):
    raise SystemExit ("nbdinfo and qemu-img do not agree")
for kind in 0, 3:
    want = sum (p["length"] for p in pieces if p["type"] == kind)
    got = sum (t["size"] for t in totals if t["type"] == kind)
    if want != got:
        raise SystemExit ("kind %d: total %d, not %d" % (kind, got, want))
' || fail "the maps differ"
}

cp --sparse=always disk.img expected.img
# change TO OFFSET LENGTH: random bytes, whole blocks.
random_file random.img $((3 * MiB))
change ()
{
  dd if=random.img of=expected.img bs=4k seek=$(($1 / 4096)) \
     count=$(($2 / 4096)) conv=notrunc status=none
  nbdsh -u "$(uri first)" -c "h.pwrite (open ('random.img', 'rb').read ($2), $1)"
}
clear ()
{
  fallocate -p -o "$1" -l "$2" expected.img
  nbdsh -u "$(uri first)" -c "h.$3 ($2, $1)"
}
agrees first
change $((5 * MiB)) $((1 * MiB))
change $((9 * MiB + 4096)) 8192
clear $((2 * MiB)) $((2 * MiB)) zero
clear $((16 * MiB)) $((1 * MiB)) trim
agrees first
within 20 nbdcopy "$(uri first)" copy.img
same copy.img expected.img
as_sparse copy.img expected.img
# A hole that was read is cached as bytes, and called data.  That is less sparse,
# but loses nothing.
nbdsh -u "$(uri first)" -c 'for i in range (4): h.pread (1 << 20, i << 20)'
agrees first 1024
within 20 nbdcopy "$(uri first)" copy.img
same copy.img expected.img
as_sparse copy.img expected.img

say "After kill -9, and after it was written back"
nbdsh -u "$(uri first)" -c 'h.flush ()'
kill_hard first
start second "${parameters[@]}"
agrees second 1024
stop second
start third "${parameters[@]}"
agrees third 1024
stop third
same disk.img expected.img
as_sparse disk.img expected.img

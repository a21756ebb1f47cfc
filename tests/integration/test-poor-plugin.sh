#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A plugin that can only read and write, without flush, trim, zero, extents,
# FUA, cache: all of it works through the cache, and reaches the plugin as
# writes.  So it does when it says it can zero or trim, but fails to.

. "$(dirname "$0")/functions.sh"
need_plugin eval

truncate -s 4M empty.img
cat > client.py <<'END'
import nbd, sys
h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(sys.argv[1])
disk = bytearray(b"\xff" * (4 << 20))
for at in range(0, 4 << 20, 1 << 20):
    h.pwrite(disk[:1 << 20], at)
h.flush()
h.zero(1000000, 777)
disk[777:1000777] = bytes(1000000)
h.zero(65536, 2 << 20, nbd.CMD_FLAG_FUA)
disk[2 << 20:(2 << 20) + 65536] = bytes(65536)
if h.can_trim():
    h.trim(65536, 3 << 20)
    disk[3 << 20:(3 << 20) + 65536] = h.pread(65536, 3 << 20)
h.pwrite(b"abc", 5, nbd.CMD_FLAG_FUA)
disk[5:8] = b"abc"
h.cache(100000, 0)
h.flush()
for at in range(0, 4 << 20, 1 << 20):
    assert h.pread(1 << 20, at) == disk[at:at + (1 << 20)]
entries = []
h.block_status(4 << 20, 0, lambda c, o, e, err: entries.extend(e) or 0)
assert entries
open("expected.img", "wb").write(disk)
END

run ()
{
  local name=$1
  shift

  cp empty.img disk.img
  DISK=$dir/disk.img start "$name" eval \
    get_size='echo 4194304' \
    pread='dd if=$DISK iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k \
              status=none' \
    can_write='exit 0' \
    pwrite='dd of=$DISK oflag=seek_bytes seek=$4 conv=notrunc bs=64k \
               status=none' \
    "$@" pmem="$name.img" pmem-size=16M pcache-segment-size=1M
  python client.py "$(uri "$name")"
  stop "$name"
  same disk.img expected.img "$name"
  [ "$(figure "$name" dirty_bytes)" -eq 0 ] || fail "$name: not drained"
}

run nothing
run zero-unsupported can_zero='exit 0' zero='echo EOPNOTSUPP no >&2; exit 1' \
    can_trim='exit 0' trim='echo EOPNOTSUPP no >&2; exit 1' \
    can_flush='exit 0' flush='exit 0'
run zero-fails can_zero='exit 0' zero='echo EIO no >&2; exit 1' \
    can_trim='exit 0' trim='echo EIO no >&2; exit 1'
run zero-emulated can_zero='echo emulate; exit 0'

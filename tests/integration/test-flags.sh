#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# What is advertised: multi-conn, flush, FUA, zero, fast zero, cache, extents
# and any block size always, however little the plugin can; trim where there
# is a cheap way to hand it on; is_rotational and the description as below.

. "$(dirname "$0")/functions.sh"
need_plugin eval

cat > client.py <<'END'
import nbd, sys

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.set_full_info(True)
h.connect_uri(sys.argv[1])
found = {
    "read_only": h.is_read_only(), "rotational": h.is_rotational(),
    "flush": h.can_flush(), "fua": h.can_fua(), "zero": h.can_zero(),
    "fast_zero": h.can_fast_zero(), "trim": h.can_trim(),
    "multi_conn": h.can_multi_conn(), "cache": h.can_cache(), "df": h.can_df(),
    "extents": h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION),
    "minimum": h.get_block_size(nbd.SIZE_MINIMUM),
    "preferred": h.get_block_size(nbd.SIZE_PREFERRED),
    "description": None,
}
try:
    found["description"] = h.get_export_description()
except nbd.Error:
    pass
expected = {
    "read_only": False, "rotational": False, "flush": True, "fua": True,
    "zero": True, "fast_zero": True, "trim": True, "multi_conn": True,
    "cache": True, "df": True, "extents": True, "minimum": 1,
    "preferred": 4096, "description": None,
}
expected.update(eval(sys.argv[2]))
wrong = {k: (found[k], "expected", v) for k, v in expected.items()
         if found[k] != v}
if wrong:
    sys.exit("wrong: %r" % wrong)
END

# advertised NAME EXPECTED-DIFFERENCES ARGUMENT...
advertised ()
{
  local name=$1 expected=$2
  shift 2

  start "$name" "$@" pmem="$name.img" pmem-size=16M pcache-segment-size=1M
  python client.py "$(uri "$name")" "$expected"
  stop "$name"
}

read_zeros='pread=dd if=/dev/zero bs=$3 count=1 status=none'

truncate -s 10M disk.img
advertised file '{}' file disk.img
advertised least '{"trim": False}' \
  eval get_size='echo 1048576' "$read_zeros" pwrite='cat >/dev/null' \
  can_write='exit 0'
advertised serial '{"rotational": True, "preferred": 65536,
                    "description": "what it is"}' \
  eval get_size='echo 1048576' "$read_zeros" pwrite='cat >/dev/null' \
  can_write='exit 0' can_trim='exit 0' trim='exit 0' \
  is_rotational='exit 0' block_size='echo 512 65536 1M' \
  export_description='echo "what it is"'
# nbdkit itself takes the changing ones from a read-only export.
readonly='{"read_only": True, "fua": False, "zero": False, "fast_zero": False,
           "trim": False}'
advertised readonly-plugin "$readonly" \
  eval get_size='echo 1048576' "$read_zeros"
advertised readonly-option "$readonly" -r file disk.img

# A plugin that takes whole blocks only: the cache lifts the limit.
start blocks --filter=blocksize-policy file disk.img \
      blocksize-minimum=4096 blocksize-preferred=4096 blocksize-maximum=1M \
      blocksize-error-policy=error \
      pmem=blocks.img pmem-size=16M pcache-segment-size=1M
python client.py "$(uri blocks)" '{}'
nbdsh -u "$(uri blocks)" -c '
h.pwrite (b"b" * 5000, 1000)
h.pwrite (b"end", (10 << 20) - 3)
h.zero (777, 2000)
h.flush ()
assert h.pread (5002, 999) == \
  b"\0" + b"b" * 1000 + bytes (777) + b"b" * 3223 + b"\0"
'
stop blocks
"$PYTHON3" -c '
d = open ("disk.img", "rb").read ()
assert d[:6001] == bytes (1000) + b"b" * 1000 + bytes (777) + b"b" * 3223 + b"\0"
assert len (d) == 10 << 20 and d[-4:] == b"\0end"
'

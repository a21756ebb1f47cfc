#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A bad parameter is refused in one line that names it, what was given and what
# is expected; nothing is created or changed.

. "$(dirname "$0")/functions.sh"

truncate -s 8M disk.img
good=(--filter=pcache file disk.img pmem=cache.img pmem-size=16M
      pcache-segment-size=1M)

# bad KEY EXPECTED VALUE...
bad ()
{
  local key=$1 expected=$2 value
  shift 2

  for value; do
    refused bad "$key=${value//[^a-zA-Z0-9=-]/.}" 'expected ' "$expected" -- \
            "${good[@]}" "$key=$value"
    [ ! -e cache.img ] || fail "the cache device was created"
  done
}

bad pcache-mode 'writeback, writethrough, writearound or writeonly' \
    through WRITEBACK ''
bad pcache-gc-percent '0 to 90' 300 91 -1 70% 4294967366 seventy 1.5 '' ' 7'
bad pmem-size 'size in bytes' -1 0 -1M 16Q 9999999999999999999999 \
    9223372036854775808 16777216T 1.5G '' 0x100000
bad pcache-segment-size 'power of two from 1M to 1G' 0 -1 512K 3M 2G \
    18446744073709551616 1048577 ''
bad pcache-data-crc 'true or false' maybe 2 ''
bad pcache-any-export 'true or false' maybe
bad pcache-writeback-order 'strict or batch' STRICT sometimes ''
bad pcache-writeback-delay 'time from 0 to 24 hours' -1 25h 86401 '' 5x 1e3 \
    99999999999999999999
bad pcache-writeback-threads '1 to 64' 0 65 -1 many
bad pcache-on-exit 'drain or keep' yes ''
bad pcache-drain-timeout 'time from 0 to 24 hours' -1 never
bad pcache-checkpoint 'true or false' maybe 2 ''
bad pcache-format 'auto, force or never' yes ''
bad pcache-damaged 'refuse or rescue' yes
bad pcache-export 'at most 1024' "$(printf 'x%.0s' {1..1025})"

say "Twice the cache device"
refused twice 'pmem=other.img' 'only once' -- "${good[@]}" pmem=other.img

say "An unknown parameter of ours"
refused unknown 'pcache-gc-procent' 'no such parameter' -- \
        "${good[@]}" pcache-gc-procent=70
refused unknown 'pmem-sise' 'no such parameter' -- \
        "${good[@]}" pmem-sise=70

say "None at all"
refused none 'needs a cache device' 'pmem=PATH' -- --filter=pcache file disk.img

say "The filter twice"
refused two 'only once' -- --filter=pcache "${good[@]}"
refused two 'only once' -- --filter=pcache --filter=log "${good[@]}" \
        logfile=two.calls

[ ! -e cache.img ] || fail "the cache device was created"
say "And with all of them right it starts"
start good file disk.img pmem=cache.img pmem-size=16384K \
  pcache-segment-size=1048576 pcache-mode=writearound pcache-gc-percent=90 \
  pcache-data-crc=yes \
  pcache-export= pcache-any-export=0 pcache-writeback-order=batch \
  pcache-writeback-delay=0.25 pcache-writeback-threads=64 \
  pcache-on-exit=keep pcache-drain-timeout=1m pcache-format=auto \
  pcache-damaged=refuse pcache-backing-id=disk-7
nbdsh -u "$(uri good)" -c 'h.pwrite (b"x", 0)'
stop good

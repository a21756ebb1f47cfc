#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# With each filter to the left of the cache (above) or to its right (below),
# clients read what they wrote, across kill -9 and restarts.  When all is written
# back, it is on the disk; or, if the filter changes what the disk is, the same
# stack without the cache serves exactly that.

# run-tests: long

. "$(dirname "$0")/functions.sh"
need nbdcopy
use_seed

random_file odd.img $((2 * MiB + 3 * 4096 + 513))
random_file even.img $((2 * MiB))
source=odd.img
ends=(kill drain)
unchanged=yes

# both FILTER WORDS ARGUMENT...: above and below.
both ()
{
  life "$1 pcache" "${@:2}"
  life "pcache $1" "${@:2}"
}

disk=(file disk.img)

say "Nothing changes but for the filter's own purpose"
for filter in cacheextents noextents readahead; do
  both $filter "" "${disk[@]}"
done
life "delay pcache" "" "${disk[@]}" rdelay=1ms wdelay=1ms
# It fails when nbdkit stops, so the drain must not need it; in 1.42 also what it
# does not delay.
case $("$NBDKIT" --version) in
  'nbdkit 1.3'*) life "pcache delay" "" "${disk[@]}" rdelay=1ms ;;
  *) say "Not with this version: pcache delay" ;;
esac
both rate "" "${disk[@]}" rate=2G connection-rate=1G
both retry-request "" "${disk[@]}" retry-request-delay=1
both scan "" "${disk[@]}" scan-forever=true
life "exitlast pcache" one "${disk[@]}"
life "ip pcache" "" "${disk[@]}" allow=all
life "limit pcache" "" "${disk[@]}" limit=2
say "0 10G 0" > extents
both extentlist "" "${disk[@]}" extentlist=extents

say "What the layers below offer, changed"
# "none" is its default, but it does not take the word.
life "pcache fua" "" "${disk[@]}"
life "pcache fua" "" "${disk[@]}" fuamode=emulate
life "pcache fua" "" "${disk[@]}" fuamode=force
life "multi-conn pcache" "" "${disk[@]}" multi-conn-mode=disable
life "pcache multi-conn" "" "${disk[@]}" multi-conn-mode=disable
life "pcache multi-conn" "" "${disk[@]}" multi-conn-mode=emulate
life "nocache pcache" "" "${disk[@]}" cachemode=none
life "pcache nocache" "" "${disk[@]}" cachemode=emulate
life "nozero pcache" "" "${disk[@]}" zeromode=none
life "pcache nozero" "" "${disk[@]}" zeromode=none
life "pcache nozero" "" "${disk[@]}" zeromode=notrim

say "Less parallel"
life "pcache noparallel" "" "${disk[@]}" serialize=requests
life "noparallel pcache" "" "${disk[@]}" serialize=all-requests
both noparallel one "${disk[@]}" serialize=connections
# Also serialises requests.
both retry "" "${disk[@]}" retry-delay=1

say "Block sizes"
unchanged=
# Parts of a block are not trimmed by it.
life "blocksize pcache" loose-trim "${disk[@]}" minblock=4k maxdata=64k
life "pcache blocksize" "" "${disk[@]}" minblock=64k maxdata=128k maxlen=1M
life "swab pcache" aligned=8 "${disk[@]}" swab-bits=64
life "pcache swab" aligned=8 "${disk[@]}" swab-bits=64
# No byte of what they get is beyond the end or less than a block.
source=even.img
life "pcache blocksize-policy" "" "${disk[@]}" blocksize-error-policy=error \
     blocksize-minimum=4096 blocksize-preferred=64k blocksize-maximum=256k
life "blocksize-policy pcache" aligned=512 "${disk[@]}" \
     blocksize-error-policy=error \
     blocksize-minimum=512 blocksize-preferred=64k blocksize-maximum=1M
source=odd.img

say "Another size"
life "offset pcache" "" "${disk[@]}" offset=1000 range=2000001
life "pcache offset" "" "${disk[@]}" offset=1000 range=2000001
life "truncate pcache" "" "${disk[@]}" round-down=4096
life "pcache truncate" "" "${disk[@]}" round-down=4096
life "pcache truncate" "" "${disk[@]}" truncate=2000000

say "A second cache"
unchanged=yes
# It has no trim of its own: what was trimmed reads as before.  Nor has it block
# status: what it has not yet flushed is called a hole.
life "cache pcache" "loose-trim loose-status" "${disk[@]}"
life "pcache cache" "" "${disk[@]}"
life "cache pcache" "loose-trim loose-status" "${disk[@]}" \
     cache=writethrough cache-on-read=true
life "pcache cache" "" "${disk[@]}" cache=writethrough cache-on-read=true

say "Several"
unchanged=
ends=(keep kill drain)
life "log nofilter blocksize stats pause pcache" loose-trim "${disk[@]}" \
     minblock=512 logfile=log.out statsfile=stats.out pause-control=pause.sock
life "pcache nofilter retry readahead log cacheextents offset" "" "${disk[@]}" \
     logfile=log.out retry-delay=1 offset=4096

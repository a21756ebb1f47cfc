#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# With each filter to the left of the cache (above) or to its right (below),
# clients read what they wrote, across kill -9 and restarts, and when all is
# written back, the same stack without the cache serves exactly that.

. "$(dirname "$0")/functions.sh"
need nbdcopy
use_seed
use_cache pmem

random_file odd.img $((5 * MiB + 3 * 4096 + 513))
random_file even.img $((5 * MiB))
source=odd.img

cache_parameters=(pmem="$cache" pmem-size=10M pcache-segment-size=1M
                  pcache-writeback-delay=100ms)

# life above|below "FILTER..." "WORD..." PLUGIN... PARAMETER...
life ()
{
  local position=$1 filters=$2 words=$3 plain=() with=() filter began
  shift 3

  began=$(now_ms)
  for filter in $filters; do plain+=(--filter=$filter); done
  case $position in
    above) with=("${plain[@]}" --filter=pcache) ;;
    below) with=(--filter=pcache "${plain[@]}") ;;
  esac
  cp "$source" disk.img
  rm -f "$cache"
  content model.img "${plain[@]}" "$@"
  start_nbdkit first "${with[@]}" "$@" "${cache_parameters[@]}"
  requests first 60 $words
  kill_hard first
  start_nbdkit second "${with[@]}" "$@" "${cache_parameters[@]}" \
     pcache-on-exit=keep
  requests second 20 $words
  stop second
  start_nbdkit third "${with[@]}" "$@" "${cache_parameters[@]}"
  requests third 20 $words
  stop third
  ! has_text third.log 'pcache: ' || fail "$(cat third.log)"
  content after.img "${plain[@]}" "$@"
  same after.img model.img "$position $filters"
  say "    $(since $began) ms"
}

# content IMAGE ARGUMENT...: what nbdkit serves.
content ()
{
  local image=$1
  shift

  rm -f "$image"
  within 20 "$NBDKIT" -r -U - "$@" --run "nbdcopy \"\$uri\" $image" \
     > content.log 2>&1 || { cat content.log; fail "no content"; }
}

requests ()
{
  python "$here/../interop/random_requests.py" "$(uri "$1")" model.img \
     $RANDOM "${@:2}" || fail "$1: seed $seed"
}


both () { life above "$@"; life below "$@"; }

disk=(file disk.img)

say "Nothing changes but for the filter's own purpose"
for filter in cacheextents nofilter noextents readahead; do
  both $filter "" "${disk[@]}"
done
both delay "" "${disk[@]}" rdelay=1ms wdelay=1ms
both exportname "" "${disk[@]}" exportname=main exportname-list=explicit
both log "" "${disk[@]}" logfile=log.out
both pause "" "${disk[@]}" pause-control=pause.sock
both rate "" "${disk[@]}" rate=2G connection-rate=1G
both retry-request "" "${disk[@]}" retry-request-delay=1
both scan "" "${disk[@]}" scan-forever=true
both stats "" "${disk[@]}" statsfile=stats.out
life above exitlast one "${disk[@]}"
life above ip "" "${disk[@]}" allow=all
life above limit "" "${disk[@]}" limit=2
say "0 10G 0" > extents
both extentlist "" "${disk[@]}" extentlist=extents

say "What the layers below offer, changed"
# "none" is its default, but it does not take the word.
life below fua "" "${disk[@]}"
life above fua "" "${disk[@]}"
life below fua "" "${disk[@]}" fuamode=emulate
life above fua "" "${disk[@]}" fuamode=force
life below fua "" "${disk[@]}" fuamode=force
life above multi-conn "" "${disk[@]}" multi-conn-mode=disable
life below multi-conn "" "${disk[@]}" multi-conn-mode=disable
life above multi-conn "" "${disk[@]}" multi-conn-mode=emulate
life below multi-conn "" "${disk[@]}" multi-conn-mode=emulate
life above nocache "" "${disk[@]}" cachemode=none
life below nocache "" "${disk[@]}" cachemode=emulate
life above nozero "" "${disk[@]}" zeromode=none
life below nozero "" "${disk[@]}" zeromode=none
life above nozero "" "${disk[@]}" zeromode=emulate fastzeromode=slow
life below nozero "" "${disk[@]}" zeromode=notrim

say "Less parallel"
life below noparallel "" "${disk[@]}" serialize=requests
life above noparallel "" "${disk[@]}" serialize=all-requests
both noparallel one "${disk[@]}" serialize=connections
# Also serialises requests.
both retry "" "${disk[@]}" retry-delay=1

say "Block sizes"
# Parts of a block are not trimmed by it.
life above blocksize no-trim "${disk[@]}" minblock=4k maxdata=64k
life below blocksize "" "${disk[@]}" minblock=64k maxdata=128k maxlen=1M
life above swab aligned=8 "${disk[@]}" swab-bits=64
life below swab aligned=8 "${disk[@]}" swab-bits=64
# No byte of what they get is beyond the end or less than a block.
source=even.img
life below blocksize-policy "" "${disk[@]}" blocksize-error-policy=error \
     blocksize-minimum=4096 blocksize-preferred=64k blocksize-maximum=256k
life above blocksize-policy aligned=512 "${disk[@]}" \
     blocksize-error-policy=error \
     blocksize-minimum=512 blocksize-preferred=64k blocksize-maximum=1M
source=odd.img

say "Another size"
# What is beyond the plugin's end is zeros, and takes nothing else.
life above offset "" "${disk[@]}" offset=1000 range=5000001
life below offset "" "${disk[@]}" offset=1000 range=5000001
life above truncate "" "${disk[@]}" round-down=4096
life below truncate "" "${disk[@]}" round-down=4096
life below truncate "" "${disk[@]}" truncate=5000000

say "A second cache"
# It has no trim of its own: what was trimmed reads as before.
life above cache no-trim "${disk[@]}"
life below cache no-trim "${disk[@]}"
life above cache no-trim "${disk[@]}" cache=writethrough cache-on-read=true
life below cache no-trim "${disk[@]}" cache=writethrough cache-on-read=true

say "Several"
life above "log blocksize stats" no-trim "${disk[@]}" minblock=512 \
     logfile=log.out statsfile=stats.out
life below "retry readahead log cacheextents offset" "" "${disk[@]}" \
     logfile=log.out retry-delay=1 offset=4096

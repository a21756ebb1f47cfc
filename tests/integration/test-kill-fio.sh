#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# fio verifies what it wrote, and the cache, much smaller than that, is killed
# with kill -9 at random moments.  SEED=N repeats a run's choices.
#
# First by clients that never notice: between them and the cache stands an
# nbdkit with the retry filter, which connects again and repeats what was not
# answered.  What was answered but not flushed may be lost by a kill, and no
# one would repeat that; so the fua filter makes every write one with FUA.
# Then directly, with plain writes: fio writes an area and flushes; while the
# next area is being written the cache is killed; all but that one is verified.

. "$(dirname "$0")/functions.sh"
need fio
fio --enghelp=nbd >/dev/null 2>&1 || skip "fio has no nbd engine"
for filter in fua retry; do
  "$NBDKIT" --filter=$filter null --version >/dev/null 2>&1 ||
    skip "nbdkit has no filter $filter here"
done
need_plugin nbd
use_seed

# Four parts of 4 MiB, of which the cache holds one and a bit.
parts=4
part=$((4 * MiB))
delays=(0 20ms 200ms 2)

# run_fio OUTPUT OPTION...
run_fio ()
{
  local output=$1
  shift

  timeout -k 5 $((60 * slow)) fio --output="$output" "$@"
}

# job PART VERSION OPTION...: add one to jobs, that writes each block of the
# part once.  Each block says over and over where it belongs and which version
# it is: fio's checksums would be right in an older one as well.
job ()
{
  jobs+=(--name="part$1" --offset=$(($1 * part)) --size=$part --bs=8k
         --rw=randwrite --verify=pattern --verify_fatal=1
         --verify_pattern="%o\"v$(printf %07d "$2")\"" --randseed="$2"
         "${@:3}")
}

over_nbd () { where=(--ioengine=nbd --uri="$(uri "$1")" --iodepth=8); }
on_disk=(--ioengine=psync --filename=disk.img)

start_cache ()
{
  start cache file disk.img pmem="$cache" pmem-size=8M \
        pcache-segment-size=1M \
        pcache-writeback-delay="${delays[RANDOM % ${#delays[@]}]}"
}

# fio after fio, each with another version, until the file "enough" is there.
keep_verifying ()
{
  local i version=0

  over_nbd front
  until [ -e enough ]; do
    version=$((version + 1))
    jobs=()
    for (( i = 0; i < parts; i++ )); do
      job $i $version "${where[@]}" --verify_backlog=32
    done
    run_fio through.out "${jobs[@]}" || return
    echo $version > verified
  done
}

never_noticed ()
{
  local i version

  rm -f enough verified
  start_cache
  # Both look for the cache once a second: the filter for a client that there
  # is, the plugin for one that comes while the cache is gone.
  start_nbdkit front --filter=fua --filter=retry nbd socket="$dir/cache.sock" \
               retry=60 fuamode=force retries=60 retry-delay=1 \
               retry-exponential=no
  keep_verifying > through.log 2>&1 &
  fio=$!
  helpers+=($fio)
  for (( i = $(scaled 6); i > 0; i-- )); do
    # Until the clients are back, and then at a random moment.
    sleep 1
    sleep_up_to 600
    is_running $fio || break
    kill_hard cache
    start_cache
  done
  touch enough
  wait $fio || fail "fio: $(cat through.log; tail -n 30 through.out)"
  [ -s verified ] || fail "fio has verified nothing"
  version=$(cat verified)
  say "verified $version times"
  stop front
  # The last kill may have come when fio was done: then nobody has been there
  # since, and it would not write back.
  nbdsh -u "$(uri cache)" -c pass
  stop cache
  jobs=()
  for (( i = 0; i < parts; i++ )); do
    job $i "$version" "${on_disk[@]}" --verify_only
  done
  run_fio disk.out "${jobs[@]}" || fail "the disk: $(tail -n 30 disk.out)"
}

# verify WHERE...: each part has the version in version_of.
verify ()
{
  local i

  jobs=()
  for i in "${!version_of[@]}"; do
    job "$i" "${version_of[i]}" "$@" --verify_only
  done
  run_fio verify.out "${jobs[@]}" > verify.log 2>&1
}

flushed ()
{
  local i n next noise code

  version_of=()
  start_cache
  over_nbd cache
  for (( n = 0; n < $(scaled 6) + 1; n++ )); do
    i=$((n % parts))
    next=$(((n + 1) % parts))
    version_of[i]=$((n + 1))
    jobs=()
    job $i $((n + 1)) "${where[@]}" --do_verify=0 --end_fsync=1
    run_fio write.out "${jobs[@]}" || fail "fio: $(tail -n 30 write.out)"
    unset "version_of[next]"
    jobs=()
    job $next $((n + 1000)) "${where[@]}" --do_verify=0 --time_based \
        --runtime=60
    run_fio noise.out "${jobs[@]}" > noise.log 2>&1 &
    noise=$!
    helpers+=($noise)
    sleep_up_to 500
    kill_hard cache
    code=0
    wait $noise || code=$?
    [ $code -ne 0 ] || fail "fio did not notice that its server is gone"
    start_cache
    verify "${where[@]}" ||
      fail "after kill $kills: $(cat verify.log; tail -n 30 verify.out)"
  done
  # Would it have noticed?
  version_of[i]=$((version_of[i] - parts))
  ! verify "${where[@]}" || fail "fio took one version for another"
  version_of[i]=$((version_of[i] + parts))
  stop cache
  verify "${on_disk[@]}" ||
    fail "the disk: $(cat verify.log; tail -n 30 verify.out)"
}

for kind in file pmem; do
  use_cache $kind
  rm -f disk.img
  truncate -s $((parts * part)) disk.img
  say "$kind: clients that never notice"
  never_noticed
  say "$kind: what was flushed"
  flushed
done
say_kills

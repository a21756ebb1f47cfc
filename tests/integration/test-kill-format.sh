#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# kill -9 while a cache device is created, allocated or formatted: the next
# start finishes that, or uses what there still is, and serves the right disk;
# it never refuses what an interrupted formatting of its own left.  SEED=N
# repeats a run's choices.

. "$(dirname "$0")/functions.sh"
use_seed

size=$((128 * MiB))
disk=(file disk.img pcache-writeback-delay=10m)
make=(pmem-size=$size pcache-segment-size=1M)
format=(pcache-segment-size=1M pcache-format=force)

# What the kills left; an array by what there is.
declare -A left
note_left () { left[$1]=$((${left[$1]:-0} + 1)); }
look ()
{
  local start

  if [ ! -e "$cache" ]; then note_left nothing; return; fi
  start=$(head -c 8 "$cache" | tr -d '\0')
  case $start in
    PCACHEfm)
      note_left half-formatted ;;
    PCACHEsb)
      note_left superblock ;;
    '')
      if [ "$(stat -c %s "$cache")" -lt $size ]; then note_left short
      else note_left blank; fi ;;
    *)
      note_left other ;;
  esac
}

# killed ARGUMENT...: at a random moment of a start that would take $took, or
# of the short time in which the device is formatted.
killed ()
{
  local after=(0 100 300 1000 3000 10000 30000)

  if [ $((RANDOM % 2)) -eq 0 ]; then
    start_killed $((took + took / 10)) killed "${disk[@]}" pmem="$cache" "$@"
  else
    launch killed --filter=pcache "${disk[@]}" pmem="$cache" "$@"
    kill -STOP "${pid_of[killed]}"
    python "$here/kill_at_format.py" "${pid_of[killed]}" "$cache" killed.pid \
           "$((RANDOM % (${after[RANDOM % ${#after[@]}]} + 1)))"
    kill_hard killed
  fi
  look
}

# It starts and serves IMAGE, takes writes, and has them after a kill.
works ()
{
  local image=$1
  shift

  start next "${disk[@]}" pmem="$cache" "$@"
  [ "$(stat -c %s "$cache")" -eq $size ] ||
    fail "after kill $kills the device has $(stat -c %s "$cache") bytes"
  serves next "$image" "after kill $kills"
  cp "$image" written.img
  python "$here/scatter.py" "$(uri next)" written.img $RANDOM 20 5000 10
  kill_hard next
  start after "${disk[@]}" pmem="$cache"
  serves after written.img
  kill_hard after
}

# timed ARGUMENT...: how long it takes if nothing comes in between.
timed ()
{
  local started
  started=$(now_ms)

  start whole "${disk[@]}" pmem="$cache" "$@"
  took=$(since "$started")
  kill_hard whole
}

# again SET-UP ARGUMENT...: a few tries, with one kill or several in a row.
# Then $finish says how it must go on.
again ()
{
  local i set_up=$1
  shift

  "$set_up"
  timed "$@"
  say "$kind: $set_up: takes $took ms"
  for (( i = $(scaled 5); i > 0; i-- )); do
    "$set_up"
    killed "$@"
    while [ $((RANDOM % 3)) -eq 0 ]; do killed "$@"; done
    "$finish" "$@"
  done
}

creation () { rm -f "$cache"; }
blank_device () { rm -f "$cache"; truncate -s $size "$cache"; }
# With holes, so that it has to be allocated first.
old_cache () { cp --sparse=always old-cache.img "$cache"; }
garbage ()
{
  rm -f "$cache"
  truncate -s $size "$cache"
  dd if=/dev/urandom of="$cache" conv=notrunc bs=64k count=1 status=none
  dd if=/dev/urandom of="$cache" conv=notrunc bs=64k count=1 seek=99 status=none
}

finish_new () { works disk.img "$@"; }

# Whatever it serves it serves altogether.
finish_old ()
{
  local start

  if [ $((RANDOM % 3)) -eq 0 ]; then
    works disk.img "$@"
    return
  fi
  start either "${disk[@]}" pmem="$cache" pcache-segment-size=1M
  if (serves either old.img) > either.out 2>&1; then
    note_left old-cache
  else
    serves either disk.img "after kill $kills; nor $(cat either.out)"
    note_left new-cache
  fi
  kill_hard either
}

# Formatting may not have begun when it was killed.
finish_garbage ()
{
  if [ "$(head -c 8 "$cache" | tr -d '\0')" = PCACHEfm ]; then
    works disk.img pcache-segment-size=1M
  else
    works disk.img "$@"
  fi
}

random_file disk.img $((8 * MiB))
for kind in file pmem; do
  use_cache $kind

  finish=finish_new
  again creation "${make[@]}"
  again blank_device pcache-segment-size=1M

  cp disk.img old.img
  blank_device
  start old "${disk[@]}" pmem="$cache" pcache-segment-size=1M
  python "$here/scatter.py" "$(uri old)" old.img $RANDOM 300 20000 50
  kill_hard old
  cp --sparse=always "$cache" old-cache.img
  finish=finish_old
  again old_cache "${format[@]}"

  finish=finish_garbage
  again garbage "${format[@]}"
done
for what in "${!left[@]}"; do
  say "left behind: $what ${left[$what]} times"
done
unfinished=$((${left[nothing]:-0} + ${left[short]:-0} + ${left[blank]:-0} +
              ${left[half-formatted]:-0}))
[ $unfinished -gt 0 ] || fail "no kill came in time"
say_kills "$unfinished left a device that was not ready"

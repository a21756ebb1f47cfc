#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# qemu's servers as clients: qemu-nbd and qemu-storage-daemon serve the cached
# disk to others, as it is, as a qcow2 on it, and with writes that turn into
# discards; all of it arrives, through a kill -9 too.

. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io qemu-nbd nbdcopy

img () { within 60 qemu-img "$@"; }

# serve NAME PROGRAM ARGUMENT...: a server that makes NAME.sock.  It needs to
# be ended by end_server.
serve ()
{
  local name=$1
  shift

  rm -f "$name.sock"
  say "\$ $*"
  "$@" > "$name.log" 2>&1 < /dev/null &
  server=$!
  helpers+=($server)
  until_true 20 is_served "$name"
}
is_served ()
{
  is_running $server || fail "$1: it did not start"
  [ -S "$1.sock" ] && nbdinfo --size "$(uri "$1")" > size 2> size.err
}
end_server ()
{
  kill -TERM $server
  within 20 tail -s 0.05 --pid=$server -f /dev/null
}

sparse_file source.img $((32 * MiB))
sparse_file other.img $((32 * MiB)) 13
truncate -s 32M disk.img
parameters=(file disk.img pmem=cache.img pmem-size=14M pcache-segment-size=1M)
disk=driver=nbd,server.type=unix,server.path=$dir/cache.sock

start cache "${parameters[@]}"
say "qemu-nbd, to eight connections at once"
serve front qemu-nbd -t -e 8 -k "$dir/front.sock" --discard=unmap \
      --cache=writeback --image-opts "$disk"
within 60 nbdcopy --connections=8 --requests=64 --flush source.img \
       "$(uri front)"
serves cache source.img "and it was flushed"
nbdinfo --map --json "$(uri front)" > map.json
map_agrees map.json source.img 1024
within 60 nbdcopy --connections=8 "$(uri front)" copy.img
same copy.img source.img
as_sparse copy.img source.img
# What it returned for is in the cache, whatever happens to either of them.
kill -KILL $server
kill_hard cache
start cache "${parameters[@]}"
serves cache source.img

say "Zeros that are written turn into discards"
serve front qemu-nbd -t -e 8 -k "$dir/front.sock" --discard=unmap \
      --detect-zeroes=unmap --cache=none --image-opts "$disk"
within 60 nbdcopy --connections=4 --no-extents --sparse=0 \
       --request-size=4096 other.img "$(uri front)"
end_server
img map -f raw --output=json "$(uri cache)" > map.json
map_agrees map.json other.img
serves cache other.img
stop cache
same disk.img other.img
as_sparse disk.img other.img

if command -v qemu-storage-daemon >/dev/null; then
  say "qemu-storage-daemon, with a qcow2 on the cached disk; killed, and back"
  rm -f cache.img disk.img
  truncate -s 48M disk.img
  start cache "${parameters[@]}"
  img create -q -f qcow2 "$(uri cache)" 32M
  serve front qemu-storage-daemon \
        --blockdev "$disk,node-name=disk,discard=unmap,reconnect-delay=60" \
        --blockdev driver=qcow2,file=disk,node-name=image,discard=unmap \
        --nbd-server addr.type=unix,addr.path="$dir/front.sock",max-connections=8 \
        --export type=nbd,id=one,node-name=image,name=,writable=on
  within 60 nbdcopy --connections=4 --requests=64 --flush source.img \
         "$(uri front)"
  kill_hard cache
  start cache "${parameters[@]}"
  within 60 nbdcopy --connections=4 "$(uri front)" copy.img
  same copy.img source.img
  within 60 nbdcopy --connections=4 --flush other.img "$(uri front)"
  end_server
  img check -q -f qcow2 "$(uri cache)"
  img compare -q -f qcow2 -F raw "$(uri cache)" other.img
  stop cache
  img check -q -f qcow2 disk.img
  img compare -q -f qcow2 -F raw disk.img other.img
fi

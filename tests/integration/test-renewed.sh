#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A plugin that fails is opened anew, and whatever that meets, clients go on and
# nbdkit ends: a server that takes one connection at a time, requests that hang.
# It is not opened anew where that would do harm.

. "$(dirname "$0")/functions.sh"
need_plugin eval
need_plugin nbd

cache=(pmem-size=16M pcache-segment-size=1M pcache-writeback-delay=0)
anew='pcache: the backing store fails: opening it anew'

# An eval plugin on disk.img.  It notes when it is opened.
disk=(eval get_size='echo 8388608' can_write='exit 0'
      open='echo >> $DIR/opened'
      pwrite='[ ! -e $DIR/fail ] || { echo EIO no >&2; exit 1; }
              dd of=$DIR/disk.img oflag=seek_bytes seek=$4 conv=notrunc bs=64k \
                 status=none')
reads='dd if=$DIR/disk.img iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k \
          status=none'
export DIR=$dir
truncate -s 8M disk.img
has_opened () { [ "$(wc -l < opened)" -ge "$1" ]; }

say "A server with one connection at a time"
# busy NAME [serialize=...]: writes to it have failed, and the second connection
# waits.
busy ()
{
  touch fail
  start_nbdkit "$1-server" --filter=noparallel --filter=error file disk.img \
               serialize=connections error-pwrite=EIO error-pwrite-rate=100% \
               error-pwrite-file="$dir/fail"
  start "$1" -v ${2:+--filter=noparallel} nbd socket="$1-server.sock" ${2-} \
        pmem="$1.img" "${cache[@]}"
  start_client "$1" 'h.pwrite (b"'"$1"'" * 10000, 0)'
  until_true 10 has_text "$1.log" "$anew"
  sleep 0.5
}

busy ends
rm fail
until_true 20 has_text ends.log 'backing store works again'
end_client
stop ends
[ "$(figure ends dirty_bytes)" -eq 0 ] || fail "something is dirty"
stop ends-server

busy serial serialize=requests
nbdsh -u "$(uri serial)" -c 'assert h.pread (1, 1 << 20) == bytes (1)'
end_client
stop serial
stop serial-server

busy next
end_client
rm fail
nbdsh -u "$(uri next)" -c 'assert h.pread (40000, 0) == b"next" * 10000'
stop next
[ "$(figure next dirty_bytes)" -eq 0 ] || fail "something is dirty"
stop next-server

say "A plugin that is made for one connection at a time"
touch fail
rm -f opened
start once "${disk[@]}" pread="$reads" \
      thread_model='echo serialize_connections' pmem=once.img "${cache[@]}"
start_client once 'h.pwrite (b"once" * 10000, 0)'
until_true 10 has_text once.log 'pcache: write-back failed'
sleep 2.5
has_opened 2 && fail "it was opened twice at once"
rm fail
end_client
stop once
[ "$(figure once dirty_bytes)" -eq 0 ] || fail "something is dirty"

say "A plugin that is another disk each time"
if "$NBDKIT" tmpdisk --version >/dev/null 2>&1; then
  touch fail
  start other -v --filter=error tmpdisk size=8M command='truncate -s 8M "$disk"' \
        error-pwrite=ENOSPC error-pwrite-rate=100% \
        error-pwrite-file="$dir/fail" pmem=other.img "${cache[@]}"
  start_client other 'h.pwrite (b"other" * 10000, 0)'
  until_true 10 has_text other.log 'pcache: write-back failed'
  sleep 2.5
  has_text other.log "$anew" && fail "it was opened anew"
  rm fail
  until_true 30 has_text other.log 'backing store works again'
  end_client
  stop other
fi

say "No client is there; and what the plugin starts can be stopped"
cat > script <<'END'
#!/bin/bash
case $1 in
  get_size) echo 8388608 ;;
  can_write) ;;
  open) grep SigBlk /proc/self/status >> $DIR/opened ;;
  pwrite)
    [ ! -e $DIR/fail ] || { echo EIO no >&2; exit 1; }
    dd of=$DIR/disk.img oflag=seek_bytes seek=$4 conv=notrunc bs=64k status=none
    ;;
  *) exit 2 ;;
esac
END
chmod +x script
touch fail
rm -f opened
start alone sh script pmem=alone.img "${cache[@]}"
nbdsh -u "$(uri alone)" -c 'h.pwrite (b"alone" * 10000, 0)'
until_true 20 has_opened 2
[ "$(sort -u opened | wc -l)" -eq 1 ] ||
  fail "it blocks other signals: $(cat opened)"
rm fail
stop alone
[ "$(figure alone dirty_bytes)" -eq 0 ] || fail "something is dirty"

say "One request hangs, others fail, clients come and go"
touch hang fail
rm -f opened
start hangs "${disk[@]}" thread_model='echo parallel' \
      pread='[ $4 -ne 4194304 ] || while [ -e $DIR/hang ]; do sleep 0.1; done
             [ ! -e $DIR/fail ] || { echo EIO no >&2; exit 1; }
             head -c $3 /dev/zero' \
      pmem=hangs.img "${cache[@]}"
start_client hangs 'h.aio_pread (nbd.Buffer (1), 4 << 20)
try: h.pread (1, 0)
except nbd.Error: pass'
until_true 10 has_opened 2
for i in 1 2; do
  nbdsh -u "$(uri hangs)" -c 'h.pwrite (b"x", 1); h.pread (1, 1)'
  sleep 0.5
done
rm hang fail
nbdsh -u "$(uri hangs)" -c 'assert h.pread (1, 8192) == bytes (1)'
end_client
stop hangs

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Plugins that are scripts (python, sh, eval): each thread model, with and without
# flush, trim, zero, FUA, several connections, extents; with calls that fail now
# and then, half done; with block sizes that they insist on.  They are called as
# they wish to be, and have all of it in the end.

. "$(dirname "$0")/functions.sh"
need_plugin python
need_plugin sh
need_plugin eval
use_seed

disk=$top_srcdir/tests/interop/disk.py
size=$((4 * MiB))

# with NAME PARAMETER...
with ()
{
  rm -f complaints
  lives "$1" python "$disk" "${@:2}"
  [ ! -e complaints ] || fail "$1: it complains: $(sort complaints | uniq -c |
                                                     head -n 5)"
  same disk.img model.img "$1"
}

exercise_options=(requests=60 loose-trim)
sparse_file model.img $size
cp model.img disk.img
with nothing can=write
with all can=write,flush,trim,zero,fua,extents,multi_conn,fast_zero,cache \
     model=serialize_requests
with emulated can=write,flush,trim,fua-emulate

say "Some calls fail, and have done half of their work"
unreliable=(python "$disk" can=write,flush,trim,zero,fua pmem=failing.img
            pmem-size=10M pcache-segment-size=1M pcache-writeback-delay=0)
start failing "${unreliable[@]}" fail=3
exercise failing patient requests=80
kill_hard failing
start failing "${unreliable[@]}" fail=3 pcache-on-exit=keep
exercise failing patient requests=80
stop failing
has_text failing.log 'as asked' || fail "nothing failed"
start failing "${unreliable[@]}"
exercise failing requests=10
stop failing
drained failing
same disk.img model.img
[ ! -e complaints ] || fail "it complains: $(cat complaints)"

say "Block sizes, and a disk that ends with less than one"
with minimum can=write,flush,trim,zero minimum=512 maximum=65536
with large can=write,flush,zero,extents minimum=4096 maximum=4096
with larger can=write,flush,trim minimum=65536
sparse_file model.img $((size + 1000))
cp model.img disk.img
with short can=write,flush,trim,zero,extents minimum=4096 maximum=32768

say "One client after the other: serialize_connections"
start one python "$disk" model=serialize_connections can=write,flush,multi_conn \
      pmem=one.img pmem-size=10M pcache-segment-size=1M pcache-writeback-delay=0
nbdinfo "$(uri one)" > info
has_text info 'can_multi_conn: false' ||
  fail "it promises several connections that would wait for each other"
start_client one 'h.pwrite (b"1", 0)'
"$PYTHON3" -m nbd -u "$(uri one)" -c 'assert h.pread (1, 0) == b"1"' \
           -c 'h.pwrite (b"2", 0)' > second.log 2>&1 &
second=$!
helpers+=($second)
end_client
within 30 tail -s 0.05 --pid=$second -f /dev/null
wait $second || fail "the second client was not served: $(cat second.log)"
stop one
drained one
[ "$(head -c 1 disk.img)" = 2 ] || fail "not written back"

say "Scripts that can only read"
cp disk.img model.img
cat > plugin.sh << SH
#!/bin/sh
case \$1 in
  get_size) stat -c %s $dir/disk.img ;;
  pread) dd if=$dir/disk.img iflag=skip_bytes,count_bytes skip=\$4 count=\$3 \
            bs=64k status=none ;;
  *) exit 2 ;;
esac
SH
chmod +x plugin.sh
start sh sh ./plugin.sh pmem=sh.img pmem-size=34M pcache-segment-size=1M
exercise sh readonly requests=20
stop sh
start eval eval get_size="stat -c %s $dir/disk.img" \
      pread='echo EIO gone >&2; exit 1' pmem=sh.img
exercise eval readonly requests=20
stop eval

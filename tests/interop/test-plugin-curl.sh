#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The curl plugin, to nginx: many requests at once, a slow server, one that fails for
# some ranges or half-way through an answer, and one that is gone.  A read cache: the
# bytes are right or there is an error, and what has been read needs no server.
# Without -r the plugin says that it can write, and cannot: nothing is lost, and it
# ends within bounds.

. "$(dirname "$0")/functions.sh"
need_plugin curl
need nginx nbdcopy
use_seed

size=$((8 * MiB + 333))
mkdir www
sparse_file www/disk.img $size
cp www/disk.img model.img
ln www/disk.img www/slow.img
ln www/disk.img www/bad.img
start_nginx <<'END'
    location = /slow.img { limit_rate 8m; }
    # The third MiB cannot be had.
    location = /bad.img {
      if ($http_range ~ "bytes=2[0-9][0-9][0-9][0-9][0-9][0-9]-") { return 503; }
    }
END
at=(unix-socket-path="$dir/nginx.sock")
cached=(pmem-size=34M pcache-segment-size=1M)

say "Read, end, start again, kill"
start first -r curl "${at[@]}" http://localhost/disk.img pmem=first.img \
      "${cached[@]}"
exercise first readonly requests=50
stop first
[ "$(figure first read_miss_bytes)" -gt 0 ] || fail "it asked nobody"
start first -r curl "${at[@]}" http://localhost/disk.img pmem=first.img
exercise first readonly requests=50
# The server is gone; it is the cache that answers, also new clients.
start_client first
end_nginx
exercise first readonly requests=50
end_client
stop first
[ "$(figure first read_miss_bytes)" -eq 0 ] || fail "something was read again"

say "Without its server it starts, but a client needs its size"
start first -r curl "${at[@]}" http://localhost/disk.img pmem=first.img
! nbdsh -u "$(uri first)" -c 'h.pread (1, 0)' 2> client.err ||
  fail "it knows the size of a file that nobody serves"
start_nginx_again
exercise first readonly requests=50
kill_hard first
start first -r curl "${at[@]}" http://localhost/disk.img pmem=first.img
exercise first readonly requests=50
stop first
[ "$(figure first read_miss_bytes)" -eq 0 ] || fail "something was read again"

say "A slow server, more in flight than it likes, a cache that is too small"
start slow -r curl "${at[@]}" http://localhost/slow.img pmem=slow.img \
      pmem-size=6M pcache-segment-size=1M
nbdcopy --connections=8 --requests=8 "$(uri slow)" copy.img
same copy.img model.img
stop slow

say "A server that cannot give one part, and ends in the middle of an answer"
start bad -r curl "${at[@]}" http://localhost/bad.img pmem=bad.img "${cached[@]}"
nbdsh -u "$(uri bad)" -c '
model = open ("model.img", "rb").read ()
def is_right (at, n): assert h.pread (n, at) == model[at:at + n], at
is_right (0, 2000000)
is_right (3000000, 1000000)
for n in (1, 512, 1000000):
  try: h.pread (n, 2000000)
  except nbd.Error as e: assert e.errno == "EIO", e
  else: raise SystemExit ("what the server did not give")
is_right (0, 2000000)
'
stop bad
start cut -r curl "${at[@]}" http://localhost/slow.img pmem=cut.img "${cached[@]}"
# It takes half a second.
nbdcopy --connections=1 --requests=1 --request-size=4194304 "$(uri cut)" null: \
        2> copy.err &
copy=$!
helpers+=($copy)
sleep 0.25
end_nginx
! wait $copy || fail "the second half came from nowhere"
start_nginx_again
exercise cut readonly requests=20
stop cut

say "Without -r"
start write curl "${at[@]}" http://localhost/disk.img pmem=write.img \
      "${cached[@]}" pcache-writeback-delay=0 pcache-drain-timeout=3
start_client write
exercise write requests=50
until_true 20 has_text write.log 'pcache: write-back failed'
[ "$(grep -c 'pcache: ' write.log)" -le 5 ] || fail "it says so again and again"
end_client
stop write
say_said write.log
has_text write.log 'were not written back' || fail "it does not say what is left"
# Read only, it serves what was written; and a place that can be written gets it.
start write -r curl "${at[@]}" http://localhost/disk.img pmem=write.img
exercise write readonly requests=50
stop write
differs www/disk.img model.img
cp www/disk.img copy.img
start write file copy.img pmem=write.img
nbdsh -u "$(uri write)" -c 'h.pread (1, 0)'
stop write
drained write
same copy.img model.img

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# pcachectl with a cache device that nobody has open: it shows, checks and maps
# what is there without changing it, writes back what is dirty, and repairs
# damage.  A reader written from docs/FORMAT.md agrees with it, on these
# devices and on the hostile ones.

. "$(dirname "$0")/functions.sh"

pcachectl=$top_builddir/filter/pcachectl
reader () { python "$top_srcdir/tests/format_reader.py" "$@"; }
compare ()
{
  PYTHONPATH=$top_srcdir/tests python "$top_srcdir/tests/compare_inspect.py" \
    "$pcachectl" "$@" || fail "the reader and inspect see different caches"
}

# ctl STATUS ARGUMENT...: pcachectl must end with that status; out, err.
ctl ()
{
  local want=$1 code=0
  shift
  say "\$ pcachectl $*"
  within 60 "$pcachectl" "$@" > out 2> err || code=$?
  cat err
  [ $code -eq "$want" ] || fail "it ended with $code, not $want: $(cat out)"
}

# json EXPRESSION: of what was printed, as d.
json () { python -c "import json; d = json.load (open ('out')); print ($1)"; }

# A clean disk in random bytes, and a cache of 34 MiB.
cat > client.py <<'END'
import nbd, random, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
random.seed(sys.argv[2])
size = h.get_size()
for i in range(int(sys.argv[3])):
    length = random.choice([random.randint(1, 9000), 4096,
                            random.randint(1, 100000)])
    at = random.randrange(size - length)
    what = random.random()
    if what < 0.6:
        h.pwrite(random.randbytes(length), at)
    elif what < 0.7:
        h.zero(length, at)
    elif what < 0.75:
        h.trim(length, at)
    elif what < 0.9:
        h.pread(length, at)
    else:
        h.flush()
h.flush()
END

use_cache file
random_file disk.img 8000777
cp disk.img before.img
parameters=(pmem="$cache" pmem-size=34M pcache-segment-size=1M)

say "no cache"
: > empty
head -c 3000000 /dev/zero > blank
head -c 3000000 /dev/urandom > foreign
ctl 1 inspect missing
ctl 1 check empty
ctl 6 inspect blank
ctl 6 check foreign
ctl 6 check --json foreign
[ "$(json 'd["verdict"]')" = no-cache ] || fail "check --json: $(cat out)"
ctl 6 map blank
ctl 6 writeback blank disk.img
ctl 2 inspect
ctl 2 check --wrong blank
ctl 2 writeback blank
ctl 2 map --json --svg picture.svg blank
has_text err 'not both' || fail "another message"
ctl 2 map blank --svg
has_text err 'its value is missing' || fail "another message"
# What only begins as the device's name gets the name before it as well.
cp blank blankest
ctl 6 writeback blank blankest
compare blank foreign empty

say "in use"
start first file disk.img "${parameters[@]}" pcache-writeback-delay=10m
for command in inspect check map "writeback --dry-run" repair; do
  # shellcheck disable=SC2086
  ctl 1 $command "$cache"
  has_text err 'in use by another process' || fail "another message"
done

say "dirty, and read-only"
python client.py "$(uri first)" 1 300   # enough to fill segments
kill_hard first
chmod 400 "$cache"
cp "$cache" dirty.cache
ctl 3 check "$cache"
ctl 3 check --json "$cache"
[ "$(json 'd["verdict"]')" = dirty ] || fail "check --json: $(cat out)"
compare "$cache"
ctl 0 inspect --segments --records "$cache"
ctl 0 map "$cache"
python - out <<'END' || fail "the map is no map"
import sys
end = 0
for line in open(sys.argv[1]):
    offset, length, kind, state = line.split()
    if int(offset) < end or kind not in ('data', 'zero', 'trim') \
       or state not in ('clean', 'dirty'):
        sys.exit(line)
    end = int(offset) + int(length)
END
ctl 0 map --json "$cache"
[ "$(json 'sum (r["length"] for r in d if r["state"] == "dirty") > 0')" \
  = True ] || fail "nothing is dirty in the map"
ctl 0 map --svg picture.svg "$cache"
python -c 'import xml.dom.minidom; xml.dom.minidom.parse ("picture.svg")' ||
  fail "the picture is no XML"
[ "$(stat -c %s picture.svg)" -lt 1000000 ] || fail "the picture is too large"

say "written back, to a file and to an NBD server"
reader image "$cache" disk.img want.img
ctl 0 writeback --dry-run "$cache"
has_text out 'would write' || fail "it does not say what it would do"
same disk.img before.img
head -c 4096 /dev/urandom > small.img
ctl 1 writeback "$cache" small.img
has_text err 'give that, or a copy of it' || fail "another message"
cp disk.img target.img
ctl 0 writeback "$cache" target.img
same target.img want.img
# Again: the device still calls it dirty, and it is the same.
ctl 0 writeback --order=batch "$cache" target.img
same target.img want.img
same "$cache" dirty.cache
start_nbdkit target --filter=blocksize-policy file disk.img \
             blocksize-minimum=512 blocksize-preferred=4096 \
             blocksize-error-policy=error 2>/dev/null ||
  start_nbdkit target file disk.img
ctl 0 writeback "$cache" "$(uri target)"
stop target
same disk.img want.img
same "$cache" dirty.cache

say "a target that fails, and one that is marked"
chmod 600 "$cache"
cp before.img disk.img
start_nbdkit fails --filter=error file disk.img error-pwrite-rate=50%
ctl 1 writeback --mark-clean "$cache" "$(uri fails)"
stop fails
ctl 3 check "$cache"
ctl 0 writeback --mark-clean "$cache" disk.img
same disk.img want.img
ctl 0 check "$cache"
compare "$cache"
start again file disk.img "${parameters[@]}"
serves again want.img "from a cache that was marked clean"
stop again

# damage PYTHON: c is the Cache of a copy of dirty.cache, d its bytes; the
# result is damaged.cache.
damage ()
{
  PYTHONPATH=$top_srcdir/tests python - "$1" <<'END'
import sys
from format_reader import *
with open('dirty.cache', 'rb') as f:
    d = bytearray(f.read())
c = Cache(bytes(d))
used = [s for s in c.segments if s.kept]
sealed = [s for s in used if s.state == SEALED]
exec(sys.argv[1])
with open('damaged.cache', 'wb') as f:
    f.write(d)
END
}

say "one copy is damaged"
damage 'd[528384 + 40] ^= 1'
ctl 4 check damaged.cache
compare damaged.cache
ctl 4 repair damaged.cache
has_text out 'yes does this' || fail "it does not say how"
cp damaged.cache as-it-was.cache
ctl 0 repair --yes --backup=saved damaged.cache
ctl 3 check damaged.cache
cp damaged.cache repaired.cache
ctl 0 repair --yes --restore=saved damaged.cache
same damaged.cache as-it-was.cache
ctl 1 repair --yes --backup=saved damaged.cache
has_text err 'nothing was changed' || fail "another message"
same damaged.cache as-it-was.cache

say "dirty data is damaged"
damage 'inside = lambda r: any(s.base <= r.at < s.base + c.segment_size
                       for s in sealed)
r = [r for start, end, r, dirty in c.extents
     if dirty and r.kind == DATA and inside(r)
     and (start, end) == (r.start, r.end())][-1]
d[r.at] ^= 1
print(r.start, r.length)' > where
ctl 5 check damaged.cache
has_text err "$(sed 's/ /+/' where)" || fail "it does not say which"
compare damaged.cache
cp before.img target.img
ctl 5 writeback damaged.cache target.img
has_text err 'were not written' || fail "it does not say so"
PYTHONPATH=$top_srcdir/tests python - <<'END' || fail "another range suffered"
start, length = map(int, open('where').read().split())
want, got, was = (bytearray(open(f, 'rb').read())
                  for f in ('want.img', 'target.img', 'before.img'))
if want[start:start + length] == got[start:start + length]:
    raise SystemExit('damaged data was written')
want[start:start + length] = got[start:start + length]
raise SystemExit(want != got)
END

say "record sets are damaged"
damage 'k = sealed[0].kept[1]; d[sealed[0].base + k.start] ^= 1'
ctl 5 check damaged.cache
has_text err 'segment .*: record set 1' || fail "it does not say which"
compare damaged.cache
ctl 5 writeback damaged.cache target.img
has_text err '[-]-rescue writes what is left' || fail "another message"
ctl 5 writeback --rescue damaged.cache target.img
ctl 5 repair --yes damaged.cache
cp before.img disk.img
refused damaged 'damage may hide data' \
        -- --filter=pcache file disk.img pmem=damaged.cache
ctl 5 repair --drop-damaged damaged.cache
has_text out 'DROPPED' || fail "it does not say what would be dropped"
ctl 0 repair --yes --drop-damaged damaged.cache
ls damaged.cache.pcache-repair-* > /dev/null || fail "nothing was saved"
ctl 3 check damaged.cache
compare damaged.cache
start opened file disk.img pmem="$dir/damaged.cache"
nbdsh -u "$(uri opened)" -c 'h.pread (4096, 0)'
stop opened

say "fresh, then used, then grown"
use_cache file
cp before.img disk.img
start small file disk.img pmem="$cache" pmem-size=20M pcache-segment-size=1M \
      pcache-writeback-delay=0 pcache-gc-percent=30
kill_hard small
ctl 0 check "$cache"
compare "$cache"
start small file disk.img pmem="$cache" pcache-writeback-delay=0 \
      pcache-gc-percent=30
python client.py "$(uri small)" 2 "$(scaled 300)"
stop small
ctl 0 check "$cache"
compare "$cache"
before=$(reader info "$cache" | grep '^segments')
start grown file disk.img pmem="$cache" pmem-size=34M \
      pcache-writeback-delay=10m
python client.py "$(uri grown)" 3 "$(scaled 100)"
kill_hard grown
[ "$(reader info "$cache" | grep '^segments')" != "$before" ] ||
  fail "it has not grown"
ctl 3 check "$cache"
compare "$cache"

say "hostile devices"
corpus=$top_builddir/tests/hostile/test_corpus
[ -x "$corpus" ] || skip "$corpus is not built"
mkdir hostile
inputs=("$top_srcdir"/tests/hostile/corpus/*)
[ ${#inputs[@]} -gt 50 ] || fail "only ${#inputs[@]} hostile inputs"
# 8 MiB each.
for (( i = 0; i < ${#inputs[@]}; i += 16 )); do
  "$corpus" --save hostile "${inputs[@]:i:16}" > hostile.log 2>&1 ||
    fail "a device cannot be made"
  compare hostile/*
  rm hostile/*
done
say "${#inputs[@]} hostile devices"

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A cache belongs to one export: pcache-export, or the plugin's default.  Any
# other name is refused, so that no export is served another one's data, unless
# pcache-any-export says that all names are one disk.

. "$(dirname "$0")/functions.sh"

mkdir files
for name in a b; do
  "$PYTHON3" -c '
import sys
open ("files/" + sys.argv[1], "wb").write (sys.argv[1].encode () * (4 << 20))
' $name
done
cp files/a a.img; cp files/b b.img

# refuses NAME EXPORT: no client is served, the server goes on.
refuses ()
{
  if nbdsh -u "$(uri "$1" "$2")" -c 'h.pread (1, 0)' 2> client.err
  then fail "export \"$2\" was served"
  fi
  is_running "${pid_of[$1]}" || fail "nbdkit is gone"
}

say "One of several: file dir="
start dir file dir=files pcache-export=b pmem=cache.img pmem-size=16M \
      pcache-segment-size=1M pcache-writeback-delay=0
refuses dir a
refuses dir missing
nbdsh -u "$(uri dir b)" -c '
assert h.pread (1000, 5) == b"b" * 1000
h.pwrite (b"written", 0)
h.flush ()
'
# Over several connections at once, and again.
start_client dir 'pass' 2>/dev/null || true
end_client
nbdsh -u "$(uri dir b)" -c 'assert h.pread (8, 0) == b"writtenb"' -c '
other = nbd.NBD ()
other.set_export_name ("b")
other.connect_unix ("'"$dir/dir.sock"'")
other.pwrite (b"W", 0)
assert h.pread (1, 0) == b"W"
'
refuses dir a
stop dir
say_said dir.log
has_text dir.log 'export "a" refused: this cache is for export "b".*pcache-export=' ||
  fail "it does not say why and what to do"
same files/a a.img "another export was written to"
[ "$(head -c 8 files/b)" = Writtenb ] || fail "not written back"

say "The list has what can be opened"
start list file dir=files pcache-export=b pmem=cache.img
nbdinfo --list "$(uri list)" > list.out || true
has_text list.out 'export="b"' || fail "b is not listed"
! has_text list.out 'export="a"' || fail "a is listed, and cannot be opened"
# The default export is this one.
nbdsh -u "$(uri list)" -c 'assert h.pread (2, 0) == b"Wr"'
stop list

say "Another export with this cache, by mistake"
start mistake file dir=files pcache-export=a pmem=cache.img
refuses mistake a
refuses mistake b
stop mistake
say_said mistake.log
has_text mistake.log 'belongs to export "b", this is "a"' ||
  fail "it does not say what was found"
same files/a a.img "another export was written to"

say "Single-content plugins: any name is accepted by them, but not by a cache"
truncate -s 4M disk.img
start single file disk.img pmem=single.img pmem-size=16M \
      pcache-segment-size=1M
nbdsh -u "$(uri single)" -c 'h.pwrite (b"x", 0)'
refuses single other
stop single

say "pcache-any-export: all names are one disk"
start any file disk.img pmem=single.img pcache-any-export=true
nbdsh -u "$(uri any other)" -c 'assert h.pread (1, 0) == b"x"' \
      -c 'h.pwrite (b"y", 0)'
nbdsh -u "$(uri any another)" -c 'assert h.pread (1, 0) == b"y"'
nbdsh -u "$(uri any)" -c 'assert h.pread (1, 0) == b"y"'
stop any
[ "$(head -c 1 disk.img)" = y ] || fail "not written back"

say "A default export with a name"
start named --filter=exportname file disk.img \
      exportname=main default-export=main exportname-strict=true \
      pmem=named.img pmem-size=16M pcache-segment-size=1M \
      pcache-export=main
nbdsh -u "$(uri named main)" -c 'h.pwrite (b"z", 0)'
nbdsh -u "$(uri named)" -c 'assert h.pread (1, 0) == b"z"'
refuses named other
stop named
[ "$(head -c 1 disk.img)" = z ] || fail "not written back"

say "It is learned from the first client that asks for the default"
rm named.img
named=(--filter=exportname file disk.img exportname=main default-export=main
       pmem=named.img pmem-size=16M pcache-segment-size=1M)
start learned "${named[@]}"
refuses learned main
nbdsh -u "$(uri learned)" -c 'h.pwrite (b"l", 0)'
nbdsh -u "$(uri learned main)" -c 'assert h.pread (1, 0) == b"l"'
stop learned

say "and then the cache knows it"
start known "${named[@]}"
nbdinfo --list "$(uri known)" > list.out || true
has_text list.out 'export="main"' || fail "main is not listed"
nbdsh -u "$(uri known main)" -c 'assert h.pread (1, 0) == b"l"'
refuses known other
nbdsh -u "$(uri known)" -c 'assert h.pread (1, 0) == b"l"'
stop known
say_said known.log
has_text known.log 'export "other" refused: this cache belongs to export "main"' ||
  fail "it does not say whose cache it is"

say "A plugin that has come to have another default"
start changed --filter=exportname file disk.img exportname=new \
      default-export=new pmem=named.img
refuses changed ""
refuses changed new
stop changed

say "Both kinds of context give the same disk"
for context in shared connection; do
  truncate -s 0 disk.img
  truncate -s 4M disk.img
  start $context file disk.img pmem=$context.img pmem-size=16M \
        pcache-segment-size=1M pcache-context=$context \
        pcache-writeback-delay=10m
  start_client $context 'h.pwrite (b"one", 0)'
  nbdsh -u "$(uri $context)" -c '
assert h.pread (3, 0) == b"one"
h.pwrite (b"two", 3)
'
  end_client
  nbdsh -u "$(uri $context)" -c 'assert h.pread (6, 0) == b"onetwo"'
  stop $context
  [ "$(head -c 6 disk.img)" = onetwo ] || fail "$context: not written back"
done

say "Another server's exports, by name: nbd dynamic-export="
cp a.img files/a
start_nbdkit names file dir=files
parameters=(nbd socket="$dir/names.sock" dynamic-export=true
            pmem-size=16M pcache-segment-size=1M)
# The default name is none of them.  The plugin must not be opened without any:
# it would end the server.
start none "${parameters[@]}" pmem=none.img
refuses none ""
refuses none a
stop none
start bridge "${parameters[@]}" pmem=bridge.img pcache-export=a
nbdsh -u "$(uri bridge a)" -c 'assert h.pread (4, 0) == b"aaaa"' \
      -c 'h.pwrite (b"over", 0)'
refuses bridge b
stop bridge
stop names
[ "$(head -c 5 files/a)" = overa ] || fail "not written back"

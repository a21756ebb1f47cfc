#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# make install puts the module where nbdkit itself looks for filters, and
# --filter=pcache finds it there; pcachectl, its completion and the man pages to
# where these belong; nothing else; make uninstall takes it all away.

# run-tests: not-asan

. "$(dirname "$0")/functions.sh"
need make

filterdir=$("$NBDKIT" --dump-config | sed -n 's/^filterdir=//p')
[ -n "$filterdir" ] || fail "nbdkit does not say its filterdir"
within 100 make -s -C "$top_builddir" install DESTDIR="$dir/root" \
       > make.log 2>&1 < /dev/null || fail "make install"
find root -type f | sort
module=root$filterdir/nbdkit-pcache-filter.so
[ -f "$module" ] || fail "it is not in $filterdir"
[ -z "$(find root -name '*.la' -o -name '*.a' -o -name '*.h')" ] ||
  fail "it installs what nobody needs"
cmp -s "$module" "$PCACHE_FILTER" || say "(relinked)"
for file in '/bin/pcachectl' '/share/bash-completion/completions/pcachectl' \
            '/nbdkit-pcache-filter.so'; do
  [ "$(find root -type f -path "*$file" | wc -l)" = 1 ] || fail "no $file"
done
[ "$(find root -type f | grep -cv '/man1/')" = 3 ] || fail "something else"
if command -v pod2man >/dev/null; then
  [ "$(find root -name 'pcachectl.1*' | wc -l)" = 1 ] || fail "no pcachectl(1)"
fi
[ -n "$SANITIZERS" ] || "$(find root -path '*/bin/pcachectl')" --version

# A directory of filters that is nbdkit's with this one in it.
if [ -z "$SANITIZERS" ]; then
  mkdir filters
  ln -s "$filterdir"/*.so filters/
  ln -sf "$dir/$module" filters/
  truncate -s 1M disk.img
  "$NBDKIT" --filter="$dir/filters/nbdkit-pcache-filter.so" \
            file disk.img --dump-plugin > dump || true
  grep -qx 'name=file' dump || fail "it cannot be loaded"
  # From nbdkit 1.36 on, filters are in there as well.
  if grep -q '^pcache_path=' dump; then
    grep '^pcache_' dump
    for line in version format_version segment_size gc_percent; do
      grep -qE "^pcache_$line=[0-9.]+\$" dump || fail "pcache_$line is missing"
    done
  fi
fi
if command -v man >/dev/null && find root -name 'nbdkit-pcache-filter.1*' |
     grep -q .; then
  man --warnings -l "$(find root -name 'nbdkit-pcache-filter.1*')" \
      > man.out 2> man.err || fail "man page: $(cat man.err)"
fi
within 100 make -s -C "$top_builddir" uninstall DESTDIR="$dir/root" \
       > make.log 2>&1 < /dev/null || fail "make uninstall"
[ -z "$(find root -type f)" ] || fail "left behind: $(find root -type f)"

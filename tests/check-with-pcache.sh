#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# upstream/nbdkit-with-pcache puts the filter where it belongs, into command
# lines that serve a plugin, and leaves all others as they are.

set -euo pipefail

here=${srcdir:-$(dirname "$0")}/upstream
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
printf '#!/bin/bash\nprintf "[%%s]" "$@"\n' > "$dir/echo"
chmod +x "$dir/echo"
export WITH_PCACHE_NBDKIT=$dir/echo WITH_PCACHE_DIR=$dir WITH_PCACHE_FILTER=F

errors=0
# becomes EXPECTED WORD...: C stands for the parameters, F for the filter.
becomes ()
{
  local expected=$1 is
  shift
  is=$("$here/nbdkit-with-pcache" "$@" |
         sed -E 's/\[pmem=.*pcache-segment-size=1M\]/C/; s/\[--filter=F\]/F/')
  if [ "$is" != "$expected" ]; then
    echo "nbdkit $* became $is, expected $expected"
    errors=1
  fi
}

# Nothing is served.
becomes '[--version]' --version
becomes '[-V]' -V
becomes '[-fV]' -fV
becomes '[--dump-config]' --dump-config
becomes '[null][--dump-plugin]' null --dump-plugin
becomes '[--filter=cow][null][--help]' --filter=cow null --help
becomes '[-U][-]' -U -
[ ! -e "$dir/served" ]

# Next to the plugin, which is wherever the first word is that is no option.
becomes '[null]FC' null
becomes '[-f][-U][null][file][disk]FC' -f -U null file disk
becomes '[-fvU][null][file]FC' -fvU null file
becomes '[-Unull][file]FC' -Unull file
becomes '[--run][null][file]FC' --run null file
becomes '[--run=null][file]FC' --run=null file
becomes '[file][disk][-U][-][--filter=cow]FC' file disk -U - --filter=cow
becomes '[-s][--filter][cow]F[--][file][--version]C' \
        -s --filter cow -- file --version
[ "$(sort "$dir/served" | uniq -c | xargs)" = "2 filters 6 plain" ] ||
  { echo "served: $(xargs < "$dir/served")"; errors=1; }

export WITH_PCACHE_PLACE=outer
becomes 'F[--filter=cow][file][disk]C' --filter=cow file disk
becomes 'F[-D][file=1][--][file]C' -D file=1 -- file

unset WITH_PCACHE_FILTER
becomes '[--filter=cow][file]' --filter=cow file
exit $errors

#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The benchmarks work, as small as they can be, and have each figure that they
# should.  How fast anything is does not matter here.

set -euo pipefail
export LC_ALL=C

srcdir=$(cd "${srcdir:-$(dirname "$0")}" && pwd)
build=$(cd "${top_builddir:-$srcdir/..}" && pwd)
: "${PYTHON3:=python3}" "${TMPDIR:=/tmp}"
tmp=$(mktemp -d "$TMPDIR/XXXXXX")
trap 'rm -rf "$tmp"' EXIT
errors=0

complain ()
{
  echo "$*"
  errors=1
}

engine="engine-randwrite-4k-1t engine-randwrite-4k-2t engine-randread-4k-1t
        engine-randread-4k-2t engine-write-flush-4k engine-scaling-2t
        engine-steady engine-tail-stall engine-full writeback replay-records"
nbd="nbd-randwrite-4k-qd16 nbd-randread-4k-qd16 nbd-qd1 nbd-vs-cache nbd-vs-cow
     nbd-fsync-pmem nbd-fsync-file nbd-copy nbd-slow"

for program in fio nbdcopy; do
  command -v $program >/dev/null || { echo "$program not found"; exit 77; }
done
run_bench=("$PYTHON3" "$srcdir/bench/run-bench" --top-builddir "$build"
           --output "$tmp")

"${run_bench[@]}" --list > "$tmp/list"
for name in $engine $nbd; do
  grep -qxF -e "$name" "$tmp/list" || complain "not in --list: $name"
done

"${run_bench[@]}" --smoke > "$tmp/lines" || complain "run-bench failed"
"$build/tests/bench/engine_bench" --custom --requests 1000 --working-set 4M \
  --cache-size 128M >> "$tmp/lines" || complain "engine_bench failed"
number='[0-9]+\.[0-9]{3}'
for name in $nbd custom; do
  grep -qxE "RATIO $name $number $number $number" "$tmp/lines" ||
    complain "no line for $name"
done
"$PYTHON3" - "$tmp/results.json" $nbd <<'END' || complain "results.json is wrong"
import json
import sys

with open(sys.argv[1], encoding="utf-8") as f:
    figures = {figure["name"]: figure for figure in json.load(f)["figures"]}
for name in sys.argv[2:]:
    figure = figures[name]
    assert 0 < figure["min"] <= figure["median"] <= figure["max"], name
    assert figure["target"] > 0 and figure["higher_is_better"], name
    assert len(figure["reference"]) == len(figure["measured"]) > 0, name
END
if command -v gnuplot >/dev/null; then
  grep -q '<svg' "$tmp/ratios.svg" || complain "no plot"
fi

if [ $errors -ne 0 ]; then
  cat "$tmp/lines"
fi
exit $errors

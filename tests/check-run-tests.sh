#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# run-tests cannot be made to report a success that was none: feed it tests
# that go wrong in every way it knows, and see what it counts.

set -euo pipefail

srcdir=$(cd "${srcdir:-$(dirname "$0")}" && pwd)
: "${TMPDIR:=/tmp}" "${PYTHON3:=python3}"
dir=$(mktemp -d "$TMPDIR/XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir plain san

# test_file NAME <<BODY
test_file ()
{
  { echo '#!/bin/sh'; cat; } > "plain/$1"
  chmod +x "plain/$1"
}

# expect COUNTS EXIT-CODE ARGUMENT...: run, and compare the closing line.
cases=0
expect ()
{
  local want=$1 want_code=$2 code=0 last
  shift 2
  "$PYTHON3" "$srcdir/run-tests" --scratch "$dir" "$@" \
     > output 2>&1 < /dev/null || code=$?
  last=$(tail -n 1 output)
  if [ "$last" != "$want" ] || [ $code -ne "$want_code" ]; then
    echo "$*: wanted \"$want\" and exit code $want_code," \
         "got \"$last\" and $code:"
    cat output
    exit 1
  fi
  cases=$((cases + 1))
}

test_file good <<'EOT'
echo 1..3; echo ok 1 - a; echo ok 2 - b; echo 'not ok 3 # SKIP no time'
EOT
test_file two-groups <<'EOT'
echo 1..1; echo ok 1; echo 1..2; echo ok 1; echo ok 2
EOT
test_file bad <<'EOT'
echo 1..2; echo ok 1 - a; echo not ok 2 - b
EOT
test_file bad-and-error <<'EOT'
echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1
EOT
test_file all-skipped <<'EOT'
echo '1..0 # SKIP there is no such device'
EOT
test_file crash <<'EOT'
echo 1..3; echo ok 1 - a; kill -SEGV $$
EOT
test_file crash-at-end <<'EOT'
echo 1..1; echo ok 1 - a; kill -ABRT $$
EOT
test_file crash-at-start <<'EOT'
kill -ABRT $$
EOT
test_file short <<'EOT'
echo 1..3; echo ok 1; echo ok 2
EOT
test_file long <<'EOT'
echo 1..1; echo ok 1; echo ok 2
EOT
test_file no-plan <<'EOT'
echo ok 1
EOT
test_file silent <<'EOT'
exit 0
EOT
test_file error <<'EOT'
echo 1..1; echo ok 1; exit 1
EOT
test_file slow <<'EOT'
echo 1..2; echo ok 1; sleep 60; echo ok 2
EOT
test_file script-fails <<'EOT'
echo something went wrong; exit 1
EOT
test_file script-skips <<'EOT'
echo there is no such program; exit 77
EOT
test_file leaves-daemon <<'EOT'
setsid sleep 60 > /dev/null 2>&1 &
exit 0
EOT
test_file sanitizer <<'EOT'
p=${TSAN_OPTIONS#log_path=}; echo a race > "${p%%:*}.1"
EOT
test_file not-runnable < /dev/null
chmod -x plain/not-runnable
test_file only-tsan <<'EOT'
# run-tests: tsan
exit 0
EOT
test_file not-asan <<'EOT'
# run-tests: not-asan
exit 0
EOT
test_file long-script <<'EOT'
# run-tests: long
exit 0
EOT

tap () { echo --group g --tap --timeout 2 "plain/$1"; }
script () { echo --group g --timeout 2 "plain/$1"; }

expect '2 passed, 0 failed, 1 skipped' 0 $(tap good)
expect '3 passed, 0 failed, 0 skipped' 0 $(tap two-groups)
expect '2 passed, 0 failed, 1 skipped' 0 $(script good)
expect '1 passed, 1 failed, 0 skipped' 1 $(tap bad)
expect '1 passed, 1 failed, 0 skipped' 1 $(tap bad-and-error)
expect '0 passed, 0 failed, 1 skipped' 1 $(tap all-skipped)
expect '1 passed, 2 failed, 0 skipped' 1 $(tap crash)
expect '1 passed, 1 failed, 0 skipped' 1 $(tap crash-at-end)
expect '0 passed, 1 failed, 0 skipped' 1 $(tap crash-at-start)
expect '0 passed, 1 failed, 0 skipped' 1 $(script crash-at-start)
expect '2 passed, 1 failed, 0 skipped' 1 $(tap short)
expect '2 passed, 1 failed, 0 skipped' 1 $(script short)
expect '2 passed, 1 failed, 0 skipped' 1 $(tap long)
expect '1 passed, 1 failed, 0 skipped' 1 $(tap no-plan)
expect '1 passed, 1 failed, 0 skipped' 1 $(script no-plan)
expect '0 passed, 1 failed, 0 skipped' 1 $(tap silent)
expect '1 passed, 0 failed, 0 skipped' 0 $(script silent)
expect '1 passed, 1 failed, 0 skipped' 1 $(tap error)
expect '1 passed, 1 failed, 0 skipped' 1 $(tap slow)
expect '0 passed, 1 failed, 0 skipped' 1 $(script script-fails)
expect '0 passed, 0 failed, 1 skipped' 1 $(script script-skips)
expect '0 passed, 1 failed, 0 skipped' 1 $(script leaves-daemon)
expect '0 passed, 1 failed, 0 skipped' 1 $(script not-runnable)
expect '0 passed, 1 failed, 0 skipped' 1 $(script does-not-exist)
expect '0 passed, 1 failed, 0 skipped' 1 $(script sanitizer)
expect '3 passed, 2 failed, 1 skipped' 1 $(tap good) $(script silent) \
       $(tap crash-at-start) $(script script-fails)
expect '0 passed, 0 failed, 0 skipped' 1 --group g
expect '0 passed, 0 failed, 0 skipped' 1 --sanitizers thread $(script silent)
expect '1 passed, 0 failed, 0 skipped' 0 --sanitizers thread \
       $(script only-tsan)
expect '0 passed, 0 failed, 0 skipped' 1 --sanitizers address,undefined \
       $(script not-asan)
expect '1 passed, 0 failed, 0 skipped' 0 --sanitizers address,undefined \
       $(script silent)
expect '2 passed, 0 failed, 0 skipped' 0 --jobs 1 $(script silent) \
       $(script long-script)
[ "$(awk '/^PASS/ { print $2 }' output | xargs)" = "g/long-script g/silent" ] ||
  { echo "the long one did not start first:"; cat output; exit 1; }
touch test_listed.c test_forgotten.c
cp plain/good plain/test_listed
expect '2 passed, 1 failed, 1 skipped' 1 --group g --tap \
       --complete "$dir/test_*.c" plain/test_listed

echo "$cases cases"

# SPDX-License-Identifier: BSD-3-Clause

# What the tests of interoperability share; each of them starts with
#
#   . "$(dirname "$0")/functions.sh"
#
# and has all that ../integration/functions.sh has.  A test's name says what it
# puts the cache together with: test-plugin-NAME.sh, test-filter-NAME.sh,
# test-client-NAME.sh, test-load-NAME.sh.  docs/INTEROP.md is the table of what was
# run and what came of it: keep the two together.

. "$(dirname "${BASH_SOURCE[0]}")/../integration/functions.sh"

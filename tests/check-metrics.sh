#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# The metrics keep to Prometheus' text format and rules, and the dashboard uses
# only those that there are.

set -euo pipefail

top=${top_srcdir:-$(dirname "$0")/..}
program=${top_builddir:-$top}/tests/unit/test_status
if [ ! -x "$program" ]; then
  echo "unit/test_status has not been built"
  exit 77
fi
"$program" --metrics |
  "${PYTHON3:-python3}" "$top/tests/metrics_reader.py" \
      --dashboard "$top/docs/grafana-dashboard.json"

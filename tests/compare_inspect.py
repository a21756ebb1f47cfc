#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause

"""Does pcachectl inspect say of a cache device what format_reader.py says?

  compare_inspect.py PCACHECTL DEVICE...

The reader goes by docs/FORMAT.md alone.  Each of its values must be in
inspect's; what inspect says besides is its own matter.  If the reader refuses
the device, inspect must do so as well (exit status 6; 1 if there is not even
a byte)."""

import json
import mmap
import os
import subprocess
import sys

from format_reader import Cache, Refused, as_json

# The reader knows one kind of damage where the engine has several.
VERDICTS = {'checksum wrong': 'damaged', 'media error': 'damaged'}


def differences(want, got, where=''):
    if isinstance(want, dict):
        if not isinstance(got, dict):
            return ['%s: no object' % where]
        return [d for key in want for d in
                differences(want[key], got.get(key, 'missing'),
                            where + '.' + key)]
    if where.endswith('.copies'):
        got = [VERDICTS.get(v, v) for v in got[:2]]
    elif isinstance(want, list):
        if len(want) != len(got):
            return ['%s: %d of them, inspect has %d'
                    % (where, len(want), len(got))]
        return [d for i, (w, g) in enumerate(zip(want, got))
                for d in differences(w, g, '%s[%d]' % (where, i))]
    if want != got:
        return ['%s: %r, inspect has %r' % (where, want, got)]
    return []


def read(path):
    if os.path.getsize(path) == 0:
        return None, 'empty'
    with open(path, 'rb') as f:
        device = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return as_json(Cache(device, rescue=True)), None
    except Refused as e:
        return None, str(e)


def compare(pcachectl, path):
    """A list of what differs."""
    want, refusal = read(path)
    run = subprocess.run([pcachectl, 'inspect', '--json', '--records', path],
                         capture_output=True, timeout=120)
    said = run.stderr.decode(errors='replace')
    if want is None:
        if run.returncode in (1, 6) and not run.stdout:
            return []
        return ['the reader refuses it (%s), inspect ends with %d'
                % (refusal, run.returncode)]
    if run.returncode != 0:
        return ['the reader reads it, inspect ends with %d: %s'
                % (run.returncode, said)]
    return differences(want, json.loads(run.stdout))


def main():
    bad = 0
    for path in sys.argv[2:]:
        for difference in compare(sys.argv[1], path)[:10]:
            print('%s: %s' % (path, difference))
            bad += 1
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())

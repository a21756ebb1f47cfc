#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause

"""metrics_reader.py [--dashboard FILE]: check metrics on standard input.

They must keep to Prometheus' text format 0.0.4 and to its rules for names, more
strictly than a server asks for.  A Grafana dashboard must use only metrics
that are there, counters by their rate, histograms by their buckets.
"""

import argparse
import json
import math
import re
import sys

NAME = r"[a-z][a-z0-9_]*"
SAMPLE = re.compile(
    rf'({NAME})(?:\{{({NAME}="(?:[^"\\\n]|\\[\\"n])*"'
    rf'(?:,{NAME}="(?:[^"\\\n]|\\[\\"n])*")*)\}})? (\S+)')
LABEL = re.compile(rf'({NAME})="((?:[^"\\\n]|\\[\\"n])*)"')
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?|NaN|\+Inf")
NOT_BASE_UNITS = {"ms", "us", "ns", "milliseconds", "minutes", "kb", "mb",
                  "kib", "mib", "percent", "bits"}


def bad(line, why):
    sys.exit(f"line {line}: {why}")


class Family:
    def __init__(self, name, line):
        self.name, self.line, self.type = name, line, None
        self.samples = []               # (name, labels, value)


def read(text):
    """The families, by name."""
    families, current, seen = {}, None, set()
    if not text.endswith("\n"):
        bad("last", "does not end")
    for number, line in enumerate(text[:-1].split("\n"), 1):
        if line.startswith("# HELP "):
            match = re.fullmatch(rf"# HELP ({NAME}) (.+)", line)
            if not match or re.search(r"\\[^\\n]", match[2]):
                bad(number, f"is no HELP: {line}")
            if match[1] in families:
                bad(number, f"{match[1]} comes twice")
            if current and not current.samples:
                bad(number, f"{current.name} has no sample")
            current = families[match[1]] = Family(match[1], number)
        elif line.startswith("# TYPE "):
            match = re.fullmatch(
                rf"# TYPE ({NAME}) (counter|gauge|histogram)", line)
            if not match or not current or current.name != match[1] \
                    or current.type or current.samples:
                bad(number, f"no TYPE is expected here: {line}")
            current.type = match[2]
        else:
            match = SAMPLE.fullmatch(line)
            if not match:
                bad(number, f"is no sample: {line}")
            name, labels, value = match.groups()
            if not current or not current.type:
                bad(number, f"{name}: no HELP and TYPE before")
            suffixes = ("_bucket", "_sum", "_count") \
                if current.type == "histogram" else ("",)
            if name not in [current.name + s for s in suffixes]:
                bad(number, f"{name} stands among {current.name}")
            if not NUMBER.fullmatch(value):
                bad(number, f"{value} is no number")
            pairs = LABEL.findall(labels or "")
            if len({key for key, _ in pairs}) != len(pairs):
                bad(number, "a label comes twice")
            key = (name, tuple(sorted(pairs)))
            if key in seen:
                bad(number, "this sample comes twice")
            seen.add(key)
            current.samples.append((name, dict(pairs), float(value)))
    return families


def check_name(family):
    words = family.name.split("_")
    if words[0] != "pcache":
        bad(family.line, f"{family.name}: does not begin with pcache_")
    if (words[-1] == "total") != (family.type == "counter"):
        bad(family.line, f"{family.name}: _total is for counters, and only")
    if NOT_BASE_UNITS & set(words):
        bad(family.line, f"{family.name}: not in a base unit")
    if family.type == "histogram" and words[-1] != "seconds":
        bad(family.line, f"{family.name}: the unit is missing")


def check_histogram(family):
    """For each set of labels besides le."""
    groups = {}
    for name, labels, value in family.samples:
        le = labels.pop("le", None)
        group = groups.setdefault(tuple(sorted(labels.items())),
                                  {"buckets": []})
        kind = name[len(family.name) + 1:]
        if (le is None) != (kind != "bucket"):
            bad(family.line, f"{name}: le is for buckets")
        if kind == "bucket":
            group["buckets"].append((float(le), value))
        else:
            group[kind] = value
    for group in groups.values():
        bounds, counts = zip(*group["buckets"])
        if list(bounds) != sorted(set(bounds)) or bounds[-1] != math.inf:
            bad(family.line, f"{family.name}: le does not grow to +Inf")
        if list(counts) != sorted(counts):
            bad(family.line, f"{family.name}: buckets are not cumulative")
        if counts[-1] != group["count"] or "sum" not in group:
            bad(family.line, f"{family.name}: sum or count is wrong")


def panels_of(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def check_dashboard(path, families):
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    used, ids = set(), set()
    for panel in panels_of(dashboard):
        if panel["id"] in ids or not panel["title"]:
            sys.exit(f"{path}: panel {panel['id']}: id or title")
        ids.add(panel["id"])
        for target in panel.get("targets", []):
            expr = target["expr"]
            if expr.count("(") != expr.count(")"):
                sys.exit(f"{path}: {panel['title']}: brackets")
            for match in re.finditer(r"\bpcache_[a-z0-9_]+", expr):
                name = match[0]
                base = re.sub("_(bucket|sum|count)$", "", name)
                family = families.get(name)
                if family is None and base in families \
                        and families[base].type == "histogram":
                    family = families[base]
                if family is None:
                    sys.exit(f"{path}: {panel['title']}: there is no {name}")
                grows = family.type != "gauge"
                rated = re.search(r"(rate|increase) ?\($",
                                  expr[:match.start()]) is not None
                if grows != rated:
                    sys.exit(f"{path}: {panel['title']}: rate of {name}?")
                used.add(family.name)
    if len(used) < 20:
        sys.exit(f"{path}: uses only {len(used)} metrics")
    return len(used)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dashboard")
    arguments = parser.parse_args()
    families = read(sys.stdin.read())
    for family in families.values():
        check_name(family)
        if family.type == "histogram":
            check_histogram(family)
    print(f"{len(families)} metrics keep to the rules")
    if arguments.dashboard:
        print(f"{check_dashboard(arguments.dashboard, families)} of them are "
              f"used by {arguments.dashboard}")


main()

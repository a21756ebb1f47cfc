# SPDX-License-Identifier: BSD-3-Clause

"""Plots of results, as SVG, by gnuplot: ratios.svg, all ratios against their
targets, and a curve for each series."""

import os
import re
import subprocess

HEAD = """\
set encoding utf8
set terminal svg size %d,%d font "sans-serif,12" background "#ffffff"
set output "%s"
set border 3
set grid ytics lc rgb "#dddddd"
set tics nomirror
"""
MET, MISSED = 0x2e8b48, 0xc8583c
MOST = 2.5                      # of the target; what is better ends there


def quoted(text):
    return '"%s"' % re.sub(r'["\\`]', "", text)


def draw_ratios(figures, path):
    """A bar for each: how much of its target it reaches."""
    rows = []
    for i, f in enumerate(figures):
        if f["higher_is_better"]:
            share, low, high = (f[k] / f["target"]
                                for k in ("median", "min", "max"))
        else:
            share, low, high = (f["target"] / f[k]
                                for k in ("median", "max", "min"))
        rows.append("%d %.4f %.4f %.4f %d %s %s" % (
            i, min(share, MOST), min(low, MOST), min(high, MOST),
            MET if share >= 1 else MISSED, quoted(f["name"]),
            quoted("%.2f%s" % (f["median"], " ↑" if share > MOST else ""))))
    return HEAD % (90 + 46 * len(rows), 480, path) + """
set title "Ratios against their targets (= 1): median, least and most"
set ylabel "share of the target"
set yrange [0:%g]
set xrange [-0.7:%g]
set xtics rotate by 45 right
set boxwidth 0.7
set style fill solid 1.0 noborder
set key off
$data << END
%s
END
plot $data using 1:2:5:xtic(6) with boxes lc rgb variable, \\
     $data using 1:2:3:4 with yerrorbars pt 7 ps 0 lc rgb "#404040", \\
     $data using 1:(%g):7 with labels font ",10", \\
     1 with lines lw 1.5 lc rgb "#000000"
""" % (MOST * 1.1, len(rows) - 0.3, "\n".join(rows), MOST * 1.06)


def draw_series(name, series, path):
    points = "\n".join("%r %r" % tuple(p) for p in sorted(series["points"]))
    return HEAD % (640, 400, path) + """
set title %s
set xlabel %s
set ylabel %s
set xrange [0:*]
set yrange [0:*]
set offsets graph 0.05, graph 0.05, graph 0.1, 0
set key off
$data << END
%s
END
plot $data using 1:2 with linespoints pt 7 lw 1.5 lc rgb "#1f5a8a"
""" % (quoted(name), quoted(series["x"]), quoted(series["y"]), points)


def draw(gnuplot, results, directory):
    """Returns the files made."""
    scripts = {}
    figures = [f for f in results["figures"] if "target" in f]
    if figures:
        path = os.path.join(directory, "ratios.svg")
        scripts[path] = draw_ratios(figures, path)
    for name, series in results["series"].items():
        if series["points"]:
            path = os.path.join(directory,
                                re.sub(r"[^\w.-]", "-", name) + ".svg")
            scripts[path] = draw_series(name, series, path)
    for script in scripts.values():
        subprocess.run([gnuplot], input=script, text=True, check=True,
                       timeout=60)
    return list(scripts)

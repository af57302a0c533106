"""Histograms, as pictures that stand in a page."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..data.check import Histogram
from .curves import INK, SIZE, STYLE, Curve, inline


def draw_histogram(histogram: Histogram) -> Curve:
    """Draw counts as bars, those of splits on top of each other, with marks as lines."""
    title = histogram.title
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        edges = histogram.edges
        floor = np.zeros(len(edges) - 1)
        for name, counts in histogram.counts.items():
            axes.bar(edges[:-1], counts, np.diff(edges), floor, align="edge", label=name)
            floor = floor + counts
        if histogram.log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(LogLocator(2, numticks=8))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel=histogram.xlabel, ylabel="count")
        low, high = axes.get_xlim()
        for text, value in (histogram.marks or {}).items():
            if low < value < high:
                axes.axvline(value, color=INK, linestyle="--", linewidth=1)
                axes.annotate(text, (value, 1), xycoords=("data", "axes fraction"), rotation=90,
                              xytext=(-2, -2), textcoords="offset points",
                              ha="right", va="top", fontsize=8)  # fmt: skip
        axes.grid(True, axis="y")
        if len(histogram.counts) > 1:
            figure.legend(loc="outside upper left", ncols=4, frameon=False)
        return Curve(title, inline(figure, title), f"{title}: {_words(histogram)}")


def _words(histogram: Histogram) -> str:
    """Say where most are, for who can't see it."""
    total = np.sum([*histogram.counts.values()], 0)
    if not total.sum():
        return "none"
    most = int(total.argmax())
    low, high = histogram.edges[most : most + 2]
    return f"{total.sum():,}, most of them, {total[most]:,}, from {low:.4g} to {high:.4g}"

"""Curves, as pictures that stand in a page: their ink is the page's, dark or light."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from .run import Series

MOST = 400  # points of a line; of more, means are drawn
SIZE = (4.8, 2.9)  # inches
INK = "#010203"  # no line's colour; it becomes the page's
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts stay texts
    "font.size": 9,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "none"),
    **dict.fromkeys(
        (
            "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color",
            "grid.color", "legend.edgecolor",
        ),
        INK,
    ),
    "grid.alpha": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
}  # fmt: skip
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Curve:
    """A picture of curves.

    Attributes:
        svg: inline, its ids are its own.
        words: what it shows, for who can't see it.
    """

    title: str
    svg: str
    words: str


def draw(
    title: str,
    lines: Mapping[str, Series],
    ylabel: str,
    log: bool = False,
    xlabel: str = "iterations",
) -> Curve:
    """Draw a line a series, with its first and last value in words.

    Args:
        log: a logarithmic axis, where all values allow one.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for name, series in lines.items():
            x, y = _thinned(series)
            axes.plot(x, y, label=name, linewidth=1.4, marker="." if len(x) < 30 else "")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if log and all((each.values > 0).all() for each in lines.values()):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        elif max(abs(each.values).max() for each in lines.values()) < 1e-2:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.grid(True)
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=4, frameon=False)
        words = "; ".join(f"{name} {_course(series)}" for name, series in lines.items())
        return Curve(title, inline(figure, title), f"{title}: {words}")


def _course(series: Series) -> str:
    first, last = series.values[0], series.values[-1]
    return f"{first:.4g} at {series.iterations[0]:g}, {last:.4g} at {series.iterations[-1]:g}"


def _thinned(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST` points: the means of as many runs of neighbours."""
    if len(series.values) <= MOST:
        return series.iterations, series.values
    parts = [np.array_split(column, MOST) for column in (series.iterations, series.values)]
    x, y = (np.array([part.mean() for part in column]) for column in parts)
    return x, y


def inline(figure: Figure, title: str) -> str:
    """Return a figure as SVG to stand in a page, in the page's ink; its ids begin as its title."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # An id stands once in a page, which has several pictures.
    own = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", text)
    return text

"""AP over the values of a key (as MS-DETR, arXiv:2401.03989, Fig. 5)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .figures import save

STYLES = {"bbox": ("AP", "-"), "bbox_nms": ("AP after NMS", "--")}


def draw_sweep(rows: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """Write AP over the first key; a colour for each setting of the others, a dot for each run.

    Args:
        rows: of every run ``values`` (texts by key) and ``AP`` (by task, None where there is none).
    """
    first = next(iter(rows[0]["values"]))
    places = _places([row["values"][first] for row in rows])
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        others = ", ".join(f"{k}={v}" for k, v in row["values"].items() if k != first)
        curves.setdefault(others, []).append(row)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (others, runs) in enumerate(curves.items()):
        for task, (name, line) in STYLES.items():
            measured = [
                (places[run["values"][first]], run["AP"][task])
                for run in runs
                if run["AP"].get(task) is not None
            ]
            if not measured:
                continue
            xs = sorted({x for x, _ in measured})
            means = [statistics.mean(ap for x, ap in measured if x == at) for at in xs]
            label = f"{name}, {others}" if others else name
            axes.plot(xs, means, line, color=f"C{number}", label=label)
            axes.plot(*zip(*measured, strict=True), ".", color=f"C{number}")
    axes.set(xlabel=first, ylabel="AP")
    axes.set_xticks(list(places.values()), list(places))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return save(figure, file)


def _places(texts: Sequence[str]) -> dict[str, float]:
    """Where each value lies on the axis: at its number, or one by one if some are none."""
    values = list(dict.fromkeys(texts))
    try:
        places = {text: float(text) for text in values}
    except ValueError:
        places = {}
    if all(math.isfinite(place) for place in places.values()) and places:
        return places
    return {text: float(i) for i, text in enumerate(values)}

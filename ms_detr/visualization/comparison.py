"""AP of several configs, a row each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .figures import save

STYLES = {
    "bbox": ("AP", "C0", "o"),
    "bbox_nms": ("AP after NMS", "C1", "x"),
    "segm": ("mask AP", "C2", "s"),
}


def draw_comparison(runs: Sequence[tuple[str, Mapping[str, float | None]]], file: Path) -> Path:
    """Write a picture with a row a name, from the top: a mark for each run, a line at the mean.

    Args:
        runs: of every run its row's name and its AP by task, None where there is none.
    """
    rows = {name: row for row, name in enumerate(dict.fromkeys(name for name, _ in runs))}
    figure = Figure(figsize=(8, 1.2 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for task, (title, color, mark) in STYLES.items():
        measured = [(value, rows[name]) for name, ap in runs if (value := ap.get(task)) is not None]
        if not measured:
            continue
        axes.plot(*zip(*measured, strict=True), mark, color=color, markersize=5, label=title)
        places = sorted({row for _, row in measured})
        means = [statistics.mean(ap for ap, row in measured if row == place) for place in places]
        axes.plot(means, places, "|", color=color, markersize=14)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set(xlabel="AP", ylim=(len(rows) - 0.5, -0.5))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return save(figure, file)

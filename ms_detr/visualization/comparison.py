"""AP of several configs, a row each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def draw_courses(runs: Sequence[tuple[str, Mapping[int, float]]], file: Path) -> Path:
    """Write AP over iterations: a colour a name, a line at the mean over seeds, thin ones a seed.

    ``ms_detr_NAME`` has the colour of NAME, in dashes.

    Args:
        runs: of every run its name and its AP by iteration, empty where there is none.
    """
    names = list(dict.fromkeys(name for name, _ in runs))
    plain = {name: name.removeprefix("ms_detr_") for name in names}
    plain = {name: base if base in plain else name for name, base in plain.items()}
    colors = {name: f"C{i % 10}" for i, name in enumerate(dict.fromkeys(plain.values()))}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in names:
        courses = [course for other, course in runs if other == name and course]
        if not courses:
            continue
        style: dict[str, Any] = {
            "color": colors[plain[name]],
            "linestyle": "-" if plain[name] == name else "--",
        }
        if len(courses) > 1:
            for course in courses:
                axes.plot(list(course), list(course.values()), linewidth=0.6, alpha=0.5, **style)
        iterations = sorted({at for course in courses for at in course})
        means = [statistics.mean(c[at] for c in courses if at in c) for at in iterations]
        axes.plot(iterations, means, label=name, **style)
    axes.set(xlabel="iteration", ylabel="AP")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return save(figure, file)

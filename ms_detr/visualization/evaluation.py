"""Figures of an evaluation: precision over recall, which classes are confused, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..evaluation.confusion import BACKGROUND, Confusion
from ..evaluation.intervals import Difference
from ..evaluation.resampling import RECALLS
from .figures import save

LINES = 10  # classes that have a line of their own
CELLS = 30  # classes of a confusion matrix
NUMBERS = 15  # classes up to which its cells have numbers
SHOWN = {0: "0.50", 5: "0.75"}  # IoUs by their place


def draw_precision(precision: np.ndarray, class_names: Sequence[str], file: Path) -> Path:
    """Draw precision over recall at IoUs of 0.50 and 0.75, a line a class and one of their mean.

    Of more than ten classes the five best and the five worst have lines.

    Args:
        precision: (IoUs, recalls, classes), NaN of a class without objects.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    known = np.flatnonzero(~np.isnan(precision[0, 0]))
    order = known[np.argsort(-precision[..., known].mean((0, 1)), kind="stable")]
    if len(order) > LINES:
        order = np.concatenate([order[: LINES // 2], order[-LINES // 2 :]])
    for axes, (place, iou) in zip(figure.subplots(1, 2, sharey=True), SHOWN.items(), strict=True):
        for k in order.tolist():
            values = precision[place, :, k]
            label = f"{class_names[k]} {values.mean():.2f}"
            axes.plot(RECALLS, values, linewidth=1.2, label=label)
        if len(known):
            mean = precision[place][:, known].mean(1)
            axes.plot(RECALLS, mean, color="black", linewidth=2.4, label=f"mean {mean.mean():.2f}")
            axes.legend(fontsize="small", title="AP", loc="upper right")
        axes.set(title=f"IoU {iou}", xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("precision")
    return save(figure, file)


def draw_confusion(found: Confusion, file: Path) -> Path:
    """Draw a confusion matrix, each row in shares of its objects.

    Of more than 30 classes those with the most mistakes are there.
    """
    counts, names = found.counts, [*found.class_names, BACKGROUND]
    if len(names) - 1 > CELLS:
        mistakes = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
        chosen = np.sort(np.argsort(-mistakes[:-1], kind="stable")[:CELLS])
        chosen = np.append(chosen, len(names) - 1)
        counts, names = counts[np.ix_(chosen, chosen)], [names[k] for k in chosen]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.5 + 0.35 * min(len(names), 40)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, label="share of the row", shrink=0.8)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="detected", ylabel="there")
    axes.set_title(f"score ≥ {found.threshold:.2f}, IoU ≥ {found.iou:.2f}")
    if len(names) <= NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=7)
    return save(figure, file)


def draw_differences(found: Mapping[str, Mapping[str, Difference]], file: Path) -> Path:
    """Draw differences with their intervals, a row a metric.

    Args:
        found: by the name of a panel and the metric.
    """
    height = 1.4 + 0.3 * max(len(values) for values in found.values())
    figure = Figure(figsize=(1 + 4.5 * len(found), height), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    for axes, (title, values) in zip(panels, found.items(), strict=True):
        for row, each in enumerate(values.values()):
            color = "C0" if each.is_clear else "0.6"
            axes.plot((each.low, each.high), (row, row), color=color, linewidth=3, alpha=0.6)
            axes.plot(each.difference, row, "o", color=color)
        axes.axvline(0, color="black", linewidth=1)
        axes.set_yticks(range(len(values)), list(values))
        axes.set(title=title, xlabel="difference", ylim=(len(values) - 0.5, -0.5))
        axes.grid(axis="x", alpha=0.3)
    return save(figure, file)

"""What analyses of trained models have found: see `ms_detr.analysis`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..analysis import Curve, QueryPlaces
from ..data.images import load_image
from ..files import atomic_path
from .canvas import titled
from .figures import save
from .scene import canvas, enlarged, heated, side_by_side

GROUP_COLORS = ("C0", "C1", "C2", "C4", "C5", "C6", "C8", "C9")  # no red, no grey


def draw_scores(
    record: dict[str, Any], dataset: str, scores: Mapping[str, np.ndarray], file: Path
) -> Path:
    """Write an image's annotations and beside them scores as heat maps, a panel a model.

    Args:
        dataset: its name.
        scores: (h, w) from 0 to 1, of any size, by name.
    """
    image, _ = load_image(record["file_name"])
    metadata = MetadataCatalog.get(dataset)
    truth = canvas(record, metadata).draw_dataset_dict(record).get_image()
    panels = [titled(truth, "annotations")]
    for name, score in scores.items():
        panel = enlarged(heated(image, score), metadata).output.get_image()
        panels.append(titled(panel, name))
    with atomic_path(file) as path:
        Image.fromarray(side_by_side(panels)).save(path, "PNG")
    return file


def draw_curves(curves: Mapping[str, Curve], title: str, background: str, file: Path) -> Path:
    """Write IoF over IoB, a curve a model.

    Args:
        background: what IoB is, for its axis.
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(curve.iob, curve.iof, ".-", markersize=3, label=f"{name}: {curve.area:.3f}")
    axes.set(xlabel=f"IoB: background {background}", ylabel="IoF: objects above", title=title)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(title="area")
    return save(figure, file)


def draw_conflicts(runs: Mapping[str, tuple[Sequence[str], np.ndarray]], file: Path) -> Path:
    """Write the distances between heads as a matrix a model.

    Args:
        runs: of every model its heads, and the distances from the row's to the column's.
    """
    figure = Figure(figsize=(4.5 * len(runs), 4), layout="constrained")
    most = max(matrix.max() for _, matrix in runs.values())
    for axes, (name, (heads, matrix)) in zip(_row_of(figure, len(runs)), runs.items(), strict=True):
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=max(2 * most, 1e-12))  # black is readable
        for (row, column), value in np.ndenumerate(matrix):
            axes.text(column, row, f"{value:.4f}", ha="center", va="center")
        axes.set_xticks(range(len(heads)), heads)
        axes.set_yticks(range(len(heads)), heads)
        axes.set(title=name, xlabel="to", ylabel="from")
    return save(figure, file)


def draw_query_places(
    record: dict[str, Any], g: int, places: Mapping[str, QueryPlaces], file: Path
) -> Path:
    """Write where the queries of an image's object start, a panel a model.

    Grey: primary queries without object; red: the one that is matched with it; a colour a group.

    Args:
        g: the object.
    """
    image, _ = load_image(record["file_name"])
    height, width = image.shape[:2]
    figure = Figure(figsize=(5 * len(places), 5 * height / width + 1), layout="constrained")
    for axes, (name, found) in zip(_row_of(figure, len(places)), places.items(), strict=True):
        primary = found.primary
        shown = [("unmatched", "0.3", ".", primary.points[primary.objects == found.count])]
        for number, (group, placed) in enumerate(found.groups.items()):
            shown.append(
                (
                    group,
                    GROUP_COLORS[number % len(GROUP_COLORS)],
                    "o",
                    placed.points[placed.objects == g],
                )
            )
        shown.append(("matched", "r", "*", primary.points[primary.objects == g]))
        axes.imshow(image, extent=(0, width, height, 0), alpha=0.6)
        for label, color, mark, points in shown:
            x, y = (points.numpy() * (width, height)).T
            axes.scatter(x, y, c=color, marker=mark, label=label, s=60 if mark == "*" else 16)
        axes.set(title=name, xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01), ncols=3)
    return save(figure, file)


def draw_instability(curves: Mapping[str, Sequence[tuple[int, float]]], file: Path) -> Path:
    """Write instability over iterations, a curve a run."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), ".-", label=name)
    axes.set(xlabel="iteration", ylabel="queries that change their object", title="IS, an image")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return save(figure, file)


def _row_of(figure: Figure, count: int) -> list[Axes]:
    """Axes side by side."""
    return list(figure.subplots(1, count, squeeze=False)[0])

"""What analyses of trained models have found: see `ms_detr.analysis`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from ..analysis.curves import Curve
from ..data.images import load_image
from ..files import atomic_path
from .canvas import titled
from .figures import save
from .scene import canvas, enlarged, side_by_side


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
        panel = enlarged(_heated(image, score), metadata).output.get_image()
        panels.append(titled(panel, name))
    with atomic_path(file) as path:
        Image.fromarray(side_by_side(panels)).save(path, "PNG")
    return file


def _heated(image: np.ndarray, score: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) in grey under its heat map."""
    height, width = image.shape[:2]
    shown = Image.fromarray(score.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    heat = colormaps["inferno"](np.asarray(shown))[..., :3] * 255
    grey = image.mean(-1, keepdims=True)
    return (0.35 * grey + 0.65 * heat).round().astype(np.uint8)


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

"""Which queries each supervision term assigns to each object, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from matplotlib import colormaps
from omegaconf import DictConfig

from ..evaluation import evaluating
from ..meta_arch import GeneralizedDETR
from .canvas import titled
from .scene import canvas, choose, pixel_corners, side_by_side, stacked, write_picture


def draw_assignments(
    model: GeneralizedDETR,
    loader: DictConfig,
    folder: Path,
    count: int = 4,
) -> list[Path]:
    """Write a picture an image: a row a term, a column a layer, an object and its queries a colour.

    Dashed: objects; solid: the boxes that the assigned queries predict there.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen, mapper = choose(loader, model.num_classes, count, objects=True)
    metadata = MetadataCatalog.get(loader.dataset.name)
    files = []
    for record in chosen:
        panels = assigned(model, mapper(record), record, metadata)
        files.append(write_picture(folder, record, "assignments", panels))
    return files


def assigned(
    model: GeneralizedDETR,
    inputs: dict[str, Any],
    record: dict[str, Any],
    metadata: Metadata,
    last: bool = False,
) -> np.ndarray:
    """The picture of one image, (H, W, 3) uint8: see `draw_assignments`.

    Args:
        inputs: the image and its objects, as the mapper hands them out in training.
        last: the last layer alone, all terms in a row.
    """
    with evaluating(model):
        images, padding_mask = model.preprocess([inputs])
        targets = model.targets([inputs], (images.shape[-2], images.shape[-1]))
        predictions = model.forward_tensors(images, padding_mask, targets)
        assignments = model.criterion.assign(predictions, targets)
    objects = pixel_corners(targets.boxes[0], inputs)
    rows = []
    for name, assignment in assignments.items():
        predicted = predictions[model.criterion.terms[name].source]
        if not predicted.layered:
            continue
        panels = []
        layers = range(len(predicted.boxes))
        for layer in layers[-1:] if last else layers:
            panel = canvas(record, metadata)
            boxes = pixel_corners(predicted.boxes[layer, 0], inputs)
            for g in range(targets.counts[0]):
                color = colormaps["tab10"](g % 10)
                panel.draw_box(objects[g], alpha=0.9, edge_color=color, line_style="--")
                slots = assignment.query[layer, 0, g][assignment.valid[layer, 0, g]]
                for query in slots.tolist():
                    panel.draw_box(boxes[query], alpha=0.9, edge_color=color)
            panels.append(titled(panel.output.get_image(), f"{name}, layer {layer}"))
        rows.append(side_by_side(panels))
    return side_by_side(rows) if last else stacked(rows)

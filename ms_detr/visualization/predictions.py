"""What a model sees, beside what is there, and alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from PIL import Image

from ..evaluation import evaluating
from ..files import atomic_path
from ..meta_arch import GeneralizedDETR
from .canvas import titled
from .scene import LONG_SIDE, canvas, choose, enlarged, sheet, side_by_side


def draw_predictions(
    model: GeneralizedDETR,
    loader: DictConfig,
    folder: Path,
    count: int = 16,
    threshold: float = 0.3,
) -> list[Path]:
    """Write a picture an image, annotations left and predictions right, and a sheet of them all.

    Masks are drawn where the model predicts them, and where the dataset is loaded with them.

    Args:
        loader: the config's ``dataloader.test``; ``count`` of its images, evenly spread, are drawn.
        threshold: least score that is drawn.

    Returns:
        The files; the sheet is the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen, mapper = choose(loader, model.num_classes, count)
    metadata = MetadataCatalog.get(loader.dataset.name)
    with evaluating(model):
        # One image after the other: masks are large.
        pictures = [
            pair(record, model([mapper(record)])[0]["instances"], threshold, metadata)
            for record in chosen
        ]
    files = [folder / "predictions.png"]
    with atomic_path(files[0]) as path:
        sheet(pictures).save(path, "PNG")
    for record, picture in zip(chosen, pictures, strict=True):
        files.append(folder / f"{record['image_id']}_{Path(record['file_name']).stem}.png")
        with atomic_path(files[-1]) as path:
            picture.save(path, "PNG")
    return files


def pair(
    record: dict[str, Any], instances: Instances, threshold: float, metadata: Metadata
) -> Image.Image:
    """Annotations left, predictions of at least this score right."""
    truth = canvas(record, metadata).draw_dataset_dict(record)
    # Masks may lie on another device than scores.
    likely = instances.to("cpu")
    likely = likely[likely.scores >= threshold]
    guess = canvas(record, metadata).draw_instance_predictions(likely)
    left = titled(truth.get_image(), "annotations")
    right = titled(guess.get_image(), f"predictions (score ≥ {threshold:g})")
    return Image.fromarray(side_by_side([left, right]))


def draw_objects(image: np.ndarray, found: Instances, class_names: Sequence[str]) -> np.ndarray:
    """Return a picture of an image with the objects found in it, uint8 RGB.

    Images with a side of more than `LONG_SIDE` pixels are shrunk by a whole number before, for
    what draws on them takes many times their memory.

    Args:
        image: (H, W, 3) uint8, RGB.
        found: on the CPU; all are drawn.
        class_names: by the number of the class; empty: numbers are written.
    """
    step = math.ceil(max(image.shape[:2]) / LONG_SIDE)
    if step > 1:
        image = np.asarray(Image.fromarray(image).reduce(step))
        found = _shrunk(found, step)
    paper = enlarged(image, Metadata(thing_classes=list(class_names)))
    return paper.draw_instance_predictions(found).get_image()


def _shrunk(found: Instances, step: int) -> Instances:
    """Return objects as they lie in an image of which each ``step`` pixels have become one."""
    height, width = found.image_size
    fields = {**found.get_fields(), "pred_boxes": Boxes(found.pred_boxes.tensor / step)}
    if found.has("pred_masks"):
        fields["pred_masks"] = found.pred_masks[:, ::step, ::step]
    return Instances((math.ceil(height / step), math.ceil(width / step)), **fields)

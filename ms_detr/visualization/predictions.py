"""What a model sees, beside what is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from omegaconf import DictConfig
from PIL import Image

from ..data import check_classes
from ..meta_arch import MSDETR

SHORT_SIDE = 384  # pixels; smaller images are enlarged, or their captions would hide them


def draw_predictions(
    model: MSDETR, loader: DictConfig, folder: Path, count: int = 16, threshold: float = 0.3
) -> list[Path]:
    """Write a picture an image, annotations left and predictions right, and a sheet of them all.

    Args:
        loader: the config's ``dataloader.test``; ``count`` of its images, evenly spread, are drawn.
        threshold: least score that is drawn.

    Returns:
        The files; the sheet is the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset, mapper = instantiate(loader.dataset), instantiate(loader.mapper)
    check_classes(loader.dataset.name, model.num_classes)
    metadata = MetadataCatalog.get(loader.dataset.name)
    chosen = dataset[:: max(1, len(dataset) // count)][:count]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = [model([mapper(record)])[0]["instances"].to("cpu") for record in chosen]
    finally:
        model.train(training)
    pictures = [
        _pair(record, instances[instances.scores >= threshold], metadata)
        for record, instances in zip(chosen, found, strict=True)
    ]
    files = [folder / "predictions.png"]
    _sheet(pictures).save(files[0])
    for record, picture in zip(chosen, pictures, strict=True):
        files.append(folder / f"{record['image_id']}_{Path(record['file_name']).stem}.png")
        picture.save(files[-1])
    return files


def _pair(record: dict[str, Any], instances: Instances, metadata: Metadata) -> Image.Image:
    """Annotations left, predictions right."""
    image = utils.read_image(record["file_name"], "RGB")
    scale = max(1.0, SHORT_SIDE / min(image.shape[:2]))
    truth = Visualizer(image, metadata, scale, ColorMode.IMAGE).draw_dataset_dict(record)
    guess = Visualizer(image, metadata, scale, ColorMode.IMAGE)
    guess = guess.draw_instance_predictions(instances)
    gap = np.full((truth.get_image().shape[0], 8, 3), 255, np.uint8)
    return Image.fromarray(np.hstack((truth.get_image(), gap, guess.get_image())))


def _sheet(pictures: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """All pictures in one, two pairs a row."""
    width = max(picture.width for picture in pictures) + 16
    height = max(picture.height for picture in pictures) + 16
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet

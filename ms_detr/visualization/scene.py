"""What the pictures share: the images that are drawn on, and sheets of pictures."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata
from matplotlib import colormaps
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ..data import check_classes
from ..data.images import load_image
from ..errors import ConfigError
from ..files import atomic_path
from ..structures import output_scale
from .canvas import Canvas

SHORT_SIDE = 384  # pixels; smaller images are enlarged, or their captions would hide them
LONG_SIDE = 4096  # pixels; nothing is enlarged beyond
GAP = 8


def choose(
    loader: DictConfig, num_classes: int, count: int, objects: bool = False
) -> tuple[list[dict[str, Any]], Any]:
    """``count`` evenly spread records of the config's ``dataloader.test``, and its mapper.

    Args:
        objects: the mapper hands out the annotations too.
    """
    mapping = copy.deepcopy(loader.mapper)
    OmegaConf.update(mapping, "is_train", objects, force_add=True)
    dataset, mapper = instantiate(loader.dataset), instantiate(mapping)
    check_classes(loader.dataset.name, num_classes)
    return dataset[:: max(1, len(dataset) // count)][:count], mapper


def canvas(record: dict[str, Any], metadata: Metadata) -> Canvas:
    """The record's image to draw on: see `enlarged`."""
    return enlarged(load_image(record["file_name"])[0], metadata)


def enlarged(image: np.ndarray, metadata: Metadata) -> Canvas:
    """An image (H, W, 3) to draw on, at least `SHORT_SIDE` pixels unless it is long and thin."""
    short, long = sorted(image.shape[:2])
    return Canvas(image, metadata, max(1.0, min(SHORT_SIDE / short, LONG_SIDE / long)))


def heated(
    image: np.ndarray, scores: np.ndarray, part: tuple[float, float] | None = None
) -> np.ndarray:
    """An image (H, W, 3) in grey under its heat map.

    Args:
        scores: (h, w) from 0 to 1.
        part: (width, height) of what the image takes of them, from the upper left corner on; None:
            of all.
    """
    height, width = image.shape[:2]
    shown = Image.fromarray(scores.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR, None if part is None else (0.0, 0.0, *part)
    )
    heat = colormaps["inferno"](np.asarray(shown))[..., :3] * 255
    grey = image.mean(-1, keepdims=True)
    return (0.35 * grey + 0.65 * heat).round().astype(np.uint8)


def pixel_corners(boxes: torch.Tensor, inputs: Mapping[str, Any]) -> np.ndarray:
    """(n, 4) cxcywh in fractions of an input's image -> x1, y1, x2, y2 in pixels of the output."""
    center, size = boxes.cpu().double().split(2, -1)
    corners = torch.cat((center - size / 2, center + size / 2), -1)
    return (corners * corners.new_tensor(output_scale(inputs) * 2)).numpy()


def expect_query(number: int, count: int) -> None:
    """Raise ConfigError unless there is such a query."""
    if not 0 <= number < count:
        raise ConfigError(f"there are queries 0 to {count - 1}, not {number}")


def expect_layer(layer: int, count: int) -> None:
    """Raise ConfigError unless there is such a layer; from -1 on they count from behind."""
    if not -count <= layer < count:
        raise ConfigError(f"there are layers 0 to {count - 1}, not {layer}")


def write_picture(folder: Path, record: Mapping[str, Any], what: str, picture: np.ndarray) -> Path:
    """Write what a record's picture (H, W, 3) shows into a folder, and return the file."""
    file = folder / f"{record['image_id']}_{Path(record['file_name']).stem}_{what}.png"
    with atomic_path(file) as path:
        Image.fromarray(np.ascontiguousarray(picture)).save(path, "PNG")
    return file


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one height in a row."""
    gap = np.full((images[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for image in images for part in (image, gap)]
    return np.hstack(parts[:-1])


def stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of one width, one below the other."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    parts = [part for row in rows for part in (row, gap)]
    return np.vstack(parts[:-1])


def sheet(pictures: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """All pictures in one."""
    width = max(picture.width for picture in pictures) + 2 * GAP
    height = max(picture.height for picture in pictures) + 2 * GAP
    rows = math.ceil(len(pictures) / columns)
    paper = Image.new("RGB", (width * columns, height * rows), "white")
    for index, picture in enumerate(pictures):
        paper.paste(picture, (index % columns * width, index // columns * height))
    return paper

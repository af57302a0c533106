"""What a model can take: how many objects, and of which sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from detectron2.config import instantiate
from detectron2.data.transforms import Augmentation, ResizeTransform
from omegaconf import DictConfig, OmegaConf

from ...errors import ConfigError
from ..augmentation import ResizeShortestEdge

COMMON_QUERIES = (100, 300, 900)  # of DETR, Deformable DETR, DINO


@dataclass(frozen=True)
class Limits:
    """Of a config, or, as they stand here, of most.

    Attributes:
        queries: objects that an image may have at most.
        strides: of the feature levels, in pixels of the image that the model sees; fine to coarse.
        augmentations: of test images, which may resize them.
        name: of the config; None if there is none.
    """

    queries: int = COMMON_QUERIES[-1]
    strides: tuple[int, ...] = (8, 16, 32, 64)
    augmentations: Sequence[Augmentation] = field(
        default_factory=lambda: (ResizeShortestEdge(800, 1333),)
    )
    name: str | None = None

    def scales(self, sizes: np.ndarray) -> np.ndarray:
        """Return by how much images of sizes (n, 2), width and height, are enlarged for a test."""
        unique, place = np.unique(sizes.astype(np.int64), axis=0, return_inverse=True)
        return np.array([self._scale(*size) for size in unique.tolist()])[place.reshape(-1)]

    def _scale(self, width: int, height: int) -> float:
        pixel = np.zeros((1, 1, 3), np.uint8)
        scale = 1.0
        for augmentation in self.augmentations:
            # Of the size alone, in no memory.
            image = np.broadcast_to(pixel, (height, width, 3))
            transform = augmentation.get_transform(image)
            if isinstance(transform, ResizeTransform):
                scale *= ((transform.new_w * transform.new_h) / (width * height)) ** 0.5
                width, height = transform.new_w, transform.new_h
        return scale


def limits_of(cfg: DictConfig, name: str) -> Limits:
    """Return the limits of a config.

    Raises:
        ConfigError: it has no ``model.num_queries``, or no maps of its backbone in ``model.neck``.
    """
    queries = OmegaConf.select(cfg, "model.num_queries")
    names = OmegaConf.select(cfg, "model.neck.in_channels")
    if not isinstance(queries, int) or not names:
        raise ConfigError(f"{name} has no model.num_queries, or no model.neck.in_channels")
    shapes = instantiate(cfg.model.backbone).output_shape()
    strides = [int(shapes[key].stride) for key in names]
    levels = OmegaConf.select(cfg, "model.neck.num_levels") or len(strides)
    while len(strides) < levels:
        strides.append(2 * strides[-1])
    augmentations = OmegaConf.select(cfg, "dataloader.test.mapper.augmentations")
    return Limits(queries, tuple(strides), instantiate(augmentations or []), name)

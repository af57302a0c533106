"""Anchors of one-stage heads, and the boxes that a head's outputs make of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .pyramid import Pyramid

# Of the logarithm of a box's size over its anchor's (Detectron2's and MMDetection's bound).
MOST_SCALING = math.log(1000 / 16)


@dataclass(frozen=True)
class Anchors:
    """Where a head predicts boxes: on all levels, row by row, the anchors of a place together.

    Attributes:
        boxes: (N, 4) as (cx, cy, w, h) in pixels.
        inside: (B, N) bool, those whose place is inside the unpadded image.
        level_sizes: how many of them every level has.
    """

    boxes: Tensor
    inside: Tensor
    level_sizes: tuple[int, ...]


class AnchorGrid:
    """The same anchors at every place, as large as the level's stride makes them.

    Args:
        sizes: square roots of the anchors' areas, in strides.
        aspect_ratios: heights over widths, of every size; sizes are the outer loop.
        offset: of the first place from the image's corner, in strides.
    """

    def __init__(
        self, sizes: Sequence[float], aspect_ratios: Sequence[float] = (1.0,), offset: float = 0.0
    ):
        self.sizes = tuple(sizes)
        self.aspect_ratios = tuple(aspect_ratios)
        self.offset = offset

    @property
    def per_place(self) -> int:
        """Anchors of one place."""
        return len(self.sizes) * len(self.aspect_ratios)

    def __call__(self, pyramid: Pyramid) -> Anchors:
        """The anchors of a batch."""
        like = pyramid.sizes
        shapes = _shapes(self.sizes, self.aspect_ratios, like.dtype, like.device)
        levels = []
        for level, stride in zip(pyramid.maps, pyramid.strides, strict=True):
            y, x = (
                torch.arange(size, dtype=like.dtype, device=like.device) + self.offset
                for size in level.shape[-2:]
            )
            centers = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), -1)
            centers = centers.flatten(0, 1)[:, None].expand(-1, len(shapes), -1)
            boxes = torch.cat((centers, shapes.expand_as(centers)), -1)
            levels.append(boxes.flatten(0, 1) * stride)
        inside = [level.flatten(1) for level in pyramid.inside()]
        return Anchors(
            boxes=torch.cat(levels),
            inside=torch.cat(inside, 1).repeat_interleave(self.per_place, 1),
            level_sizes=tuple(map(len, levels)),
        )


@lru_cache(maxsize=16)
def _shapes(
    sizes: tuple[float, ...],
    aspect_ratios: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Width and height (A, 2) of a place's anchors, in strides.

    Made once a device: they are copied there, for which the host would wait.
    """
    roots = [(size, math.sqrt(ratio)) for size in sizes for ratio in aspect_ratios]
    shapes = [(size / root, size * root) for size, root in roots]
    return torch.tensor(shapes, dtype=dtype, device=device)


class BoxCoder(ABC):
    """What the four numbers mean that a head says of an anchor."""

    @abstractmethod
    def __call__(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        """Boxes of outputs (..., N, 4) and anchors (N, 4); boxes are (cx, cy, w, h)."""


class Deltas(BoxCoder):
    """Shifts in the anchor's size and logarithms of scalings (R-CNN, arXiv:1311.2524, appendix C).

    Both logarithms are kept within ``MOST_SCALING``; Detectron2's Box2BoxTransform bounds them
    above alone.

    Args:
        weights: divide the outputs, of places and of sizes.
    """

    def __init__(self, weights: tuple[float, float] = (1.0, 1.0)):
        self.weights = weights

    def __call__(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        shift, scaling = outputs.split(2, -1)
        center, size = anchors.split(2, -1)
        scaling = (scaling / self.weights[1]).clamp(-MOST_SCALING, MOST_SCALING)
        return torch.cat((center + shift / self.weights[0] * size, size * scaling.exp()), -1)


class Distances(BoxCoder):
    """Distances from the anchor's centre to the four sides (FCOS, arXiv:1904.01355, Eq. 1).

    Outputs are the logarithms of distances in units of the anchor's size over ``units``, kept
    within ``MOST_SCALING``.
    """

    def __init__(self, units: float):
        self.units = units

    def __call__(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        center, size = anchors.split(2, -1)
        distances = outputs.clamp(-MOST_SCALING, MOST_SCALING).exp()
        low, high = (distances * (size / self.units).repeat(1, 2)).split(2, -1)
        return torch.cat((center + 0.5 * (high - low), low + high), -1)

"""What detection heads beside the decoder look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.boxes import cxcywh_to_xyxy
from ..structures import Targets


@dataclass(frozen=True)
class Pyramid:
    """Maps of a batch, from fine to coarse, each half as large as the one before it.

    Attributes:
        maps: (B, C, h, w) of every level.
        strides: pixels from one cell to the next, of every level.
        sizes: (B, 2), width and height of the unpadded images in pixels, in float32 or float64.
    """

    maps: tuple[Tensor, ...]
    strides: tuple[int, ...]
    sizes: Tensor

    @property
    def scale(self) -> Tensor:
        """What fractions of the images' boxes are multiplied by to be pixels, (B, 1, 4)."""
        return self.sizes.repeat(1, 2)[:, None]

    def objects(self, targets: Targets) -> Tensor:
        """The objects' boxes as (x1, y1, x2, y2) in pixels, (B, G, 4)."""
        return cxcywh_to_xyxy(targets.boxes * self.scale)

    def inside(self) -> list[Tensor]:
        """Which cells of every level begin inside the unpadded image, (B, h, w) bool."""
        found = []
        for level, stride in zip(self.maps, self.strides, strict=True):
            columns, rows = (self.sizes / stride).ceil()[:, :, None].unbind(1)
            y, x = (torch.arange(size, device=level.device) for size in level.shape[-2:])
            found.append((y < rows)[:, :, None] & (x < columns)[:, None])
        return found

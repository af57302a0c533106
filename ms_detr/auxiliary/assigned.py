"""What anchors learn, and who decides it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.boxes import cxcywh_to_xyxy
from ..structures import Targets
from .anchors import Anchors
from .pyramid import Pyramid


@dataclass(frozen=True)
class Assigned:
    """The object of every anchor.

    Attributes:
        objects: (B, N) int64; G for background.
        ignored: (B, N) bool, the anchors that learn no class; none of them has an object.
    """

    objects: Tensor
    ignored: Tensor


class AnchorAssigner(ABC):
    """Decides which object every anchor learns. Nothing in it lets the host wait."""

    @abstractmethod
    def __call__(
        self, pyramid: Pyramid, anchors: Anchors, objects: Tensor, targets: Targets
    ) -> Assigned:
        """Assign.

        Args:
            objects: the objects' boxes (B, G, 4) as (cx, cy, w, h) in pixels.
        """


def depth(points: Tensor, boxes: Tensor) -> Tensor:
    """How far points (..., 2) are from the nearest side of boxes (..., 4); outside negative."""
    return sides(points, boxes).amin(-1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """How central points are in boxes that they are in, from 0 to 1 (arXiv:1904.01355, Eq. 3)."""
    left, top, right, bottom = sides(points, boxes).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).sqrt()


def sides(points: Tensor, boxes: Tensor) -> Tensor:
    """From points (..., 2) inwards to the left, top, right and bottom of cxcywh boxes (..., 4)."""
    low, high = cxcywh_to_xyxy(boxes).split(2, -1)
    return torch.cat((points - low, high - points), -1)

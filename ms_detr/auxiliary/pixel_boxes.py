"""Boxes of detection heads, (x1, y1, x2, y2) in pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from .anchors import MOST_SCALING


def decode(
    deltas: Tensor, boxes: Tensor, weights: tuple[float, float, float, float] = (1, 1, 1, 1)
) -> Tensor:
    """Boxes (..., 4) moved and resized by deltas (dx, dy, dw, dh), (..., 4) (arXiv:1311.2524).

    Detectron2's `Box2BoxTransform` bounds dw and dh above alone, and knows float32 alone; Co-DETR
    bounds them on both sides.

    Args:
        weights: the deltas are divided by.
    """
    low, high = boxes.split(2, -1)
    size = high - low
    shift, log_scale = (deltas / deltas.new_tensor(weights)).split(2, -1)
    center = (low + high) * 0.5 + shift * size
    half = 0.5 * size * log_scale.clamp(-MOST_SCALING, MOST_SCALING).exp()
    return torch.cat((center - half, center + half), -1)


def clip(boxes: Tensor, scale: Tensor) -> Tensor:
    """Boxes (..., 4) cut to images of these (width, height, width, height)."""
    return torch.minimum(boxes.clamp(min=0), scale)


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that NMS within every group leaves, best first.

    Groups are laid side by side as Co-DETR's code lays them, whose rounding decides between boxes
    that overlap by just the threshold. Other libraries lay them so for few boxes alone.

    Args:
        boxes: (n, 4), none of them negative.
        scores: (n,).
        groups: (n,) int64 from 0, such as a class each.
    """
    if not len(boxes):
        return groups
    apart = boxes + (groups * (boxes.max() + 1))[:, None]
    kept = torch.zeros_like(groups, dtype=torch.bool)
    for group in groups.unique():
        own = (groups == group).nonzero()[:, 0]
        kept[own[nms(apart[own], scores[own], threshold)]] = True
    index = kept.nonzero()[:, 0]
    return index[scores[index].sort(descending=True, stable=True).indices]

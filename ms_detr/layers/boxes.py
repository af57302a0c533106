"""Box arithmetic; every function works on any leading shape."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> corners."""
    center, size = boxes.split(2, -1)
    return torch.cat((center - 0.5 * size, center + 0.5 * size), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> centre and size."""
    low, high = boxes.split(2, -1)
    return torch.cat((0.5 * (low + high), high - low), -1)


def inverse_sigmoid(x: Tensor, epsilon: float) -> Tensor:
    """Logit of ``x`` clamped to [0, 1], numerator and denominator kept above ``epsilon``.

    Deformable DETR's code has 1e-5, that of DAB-DETR, DN-DETR and DINO 1e-3.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon))


def refine(delta: Tensor, reference: Tensor, epsilon: float) -> Tensor:
    """Boxes (..., 4) from a head's output and the reference it corrects.

    ``reference`` is (..., 4), or (..., 2) points, whose size the head gives alone
    (Deformable DETR, arXiv:2010.04159, appendix A.4).
    """
    logits = inverse_sigmoid(reference, epsilon)
    if reference.shape[-1] == 2:
        logits = F.pad(logits, (0, 2))
    return (delta + logits).sigmoid()


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0, with zero gradient, where the denominator is not above 0."""
    return numerator / F.threshold(denominator, 0.0, float("inf"))


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x1, y1, x2, y2 as dense tensors: arithmetic on an innermost axis of four is slow."""
    x, y, width, height = boxes.unbind(-1)
    half_width, half_height = 0.5 * width, 0.5 * height
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU, union and area of the enclosing box of two broadcastable sets of cxcywh boxes."""
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    return _divide(intersection, union), union, hull_width * hull_height


def box_iou(a: Tensor, b: Tensor, least_union: float = 0.0) -> Tensor:
    """IoU of broadcastable cxcywh boxes, (..., 4) and (..., 4) -> (...).

    Two boxes without area have IoU 0.

    Args:
        least_union: what a smaller union counts as.
    """
    iou, union, _ = _overlap(a, b)
    return iou * (union / least_union).clamp(max=1) if least_union else iou


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (arXiv:1902.09630) of broadcastable cxcywh boxes, (...) in [-1, 1].

    Two boxes without area have no IoU; their enclosing box still counts. If that has no area
    either, the value is 0.
    """
    iou, union, hull = _overlap(a, b)
    return iou - _divide(hull - union, hull)

"""Box arithmetic; every function works on any leading shape."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> corners."""
    center, size = boxes.split(2, -1)
    return torch.cat((center - 0.5 * size, center + 0.5 * size), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> centre and size."""
    low, high = boxes.split(2, -1)
    return torch.cat((0.5 * (low + high), high - low), -1)


def inverse_sigmoid(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Logit of ``x`` clamped to [0, 1], numerator and denominator kept above ``epsilon``."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon))


def refine(delta: Tensor, reference: Tensor, epsilon: float) -> Tensor:
    """Boxes (..., 4) from a head's output and the reference it corrects.

    ``reference`` is (..., 4), or (..., 2) points, whose size the head gives alone
    (Deformable DETR, arXiv:2010.04159, appendix A.4).
    """
    logits = inverse_sigmoid(reference, epsilon)
    if reference.shape[-1] == 2:
        logits = torch.nn.functional.pad(logits, (0, 2))
    return (delta + logits).sigmoid()


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0, with zero gradient, where the denominator is 0."""
    positive = denominator > 0
    return torch.where(positive, numerator / denominator.where(positive, 1.0), 0.0)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """IoU and union of two broadcastable sets of cxcywh boxes, with their corners."""
    a, b = cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(
        min=0
    )
    intersection = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    return _divide(intersection, union), union, a, b


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of broadcastable cxcywh boxes, (..., 4) and (..., 4) -> (...).

    Two boxes without area have IoU 0.
    """
    return _overlap(a, b)[0]


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (arXiv:1902.09630) of broadcastable cxcywh boxes, (...) in [-1, 1].

    Two boxes without area have no IoU; their enclosing box still counts. If that has no area
    either, the value is 0.
    """
    iou, union, a, b = _overlap(a, b)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    area = hull.prod(-1)
    return iou - _divide(area - union, area)

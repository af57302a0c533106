"""Losses: pure functions, and small objects that carry a function's weight.

A loss sees the predictions of all layers at once and returns one sum a layer, (L,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..layers.boxes import generalized_box_iou
from ..structures import Assignment, PredictionSet, Targets

# Logits whose temporaries stay in a CPU core's cache; main memory would take twice the time.
CACHED = 2**17


@dataclass(frozen=True)
class Matches:
    """Predictions side by side with what was assigned to them.

    Attributes:
        logits: (L, B, Q, K).
        labels: (L, B, Q) int64, the class each query learns; ``K`` stands for none.
        boxes: (L, B, G, T, 4), the assigned queries' boxes.
        target_boxes: (L, B, G, T, 4).
        valid: (L, B, G, T) bool.
    """

    logits: Tensor
    labels: Tensor
    boxes: Tensor
    target_boxes: Tensor
    valid: Tensor


def match(predictions: PredictionSet, targets: Targets, assignment: Assignment) -> Matches:
    """Gather what the losses compare."""
    layers, batch = predictions.logits.shape[:2]
    objects, slots = assignment.query.shape[2:]
    index = assignment.query.flatten(2)[..., None].expand(-1, -1, -1, 4)
    boxes = predictions.boxes.gather(2, index).view(layers, batch, objects, slots, 4)
    return Matches(
        logits=predictions.logits,
        labels=query_labels(predictions.logits.shape, assignment),
        boxes=boxes,
        target_boxes=targets.boxes[None, :, :, None].expand_as(boxes),
        valid=assignment.valid,
    )


def query_labels(shape: torch.Size, assignment: Assignment) -> Tensor:
    """The class of every query, (L, B, Q) for logits of ``shape`` (L, B, Q, K); K means none.

    A query that several objects hold takes the class of the object with the highest score; of
    equal ones the lower object.
    """
    layers, _, queries, num_classes = shape
    labels = F.pad(assignment.labels, (0, 1), value=num_classes)
    return labels.expand(layers, -1, -1).gather(2, assignment.owners(queries))


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (arXiv:1708.02002, Eq. 5), summed over queries and classes.

    Args:
        logits: (L, B, Q, K).
        labels: (L, B, Q), K for background.

    Returns:
        (L,).
    """
    return cast(Tensor, _Focal.apply(logits, labels, alpha, gamma))


class _Focal(torch.autograd.Function):
    """The loss of everything as background, corrected where a query has a class.

    Nearly all of a step's loss arithmetic is here: so value and derivative are made together, and
    on a CPU piece by piece.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        rows = logits.flatten(1)
        slopes = torch.empty_like(rows)
        size = max(CACHED // len(rows), 1) if rows.device.type == "cpu" else rows.shape[1]
        pieces = zip(rows.split(size, 1), slopes.split(size, 1), strict=True)
        total = sum(_background(piece, gamma, slope).sum(1) for piece, slope in pieces)

        index = labels.clamp(max=logits.shape[-1] - 1)[..., None]
        own = logits.gather(-1, index)
        background, foreground = torch.empty_like(own), torch.empty_like(own)
        has_class = (labels < logits.shape[-1])[..., None]
        cost = (alpha * _background(-own, gamma, foreground)).sub_(
            (1 - alpha) * _background(own, gamma, background)
        )
        slope = -(alpha * foreground + (1 - alpha) * background) * has_class
        ctx.alpha = alpha
        ctx.save_for_backward(slopes.view_as(logits), index, slope)
        return (1 - alpha) * total + (cost * has_class).flatten(1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        slopes, index, slope = ctx.saved_tensors
        grad = grad[:, None, None, None]
        result = slopes * ((1 - ctx.alpha) * grad)
        return result.scatter_add_(-1, index, slope * grad), None, None, None


def _background(x: Tensor, gamma: float, slope: Tensor) -> Tensor:
    """``p**gamma * -log(1 - p)`` for logits of any shape; its derivative goes to ``slope``."""
    p = x.sigmoid()
    q = 1 - p
    # log(1 - p) without losing digits; F.softplus takes many times as long on a CPU.
    log_q = torch.maximum(p, q).log_().sub_(x.clamp(min=0))
    torch.addcmul(p, q, log_q, value=-gamma, out=slope)
    power = p.pow_(gamma)
    slope.mul_(power)
    return power.mul_(log_q).neg_()


class Weighted(ABC):  # noqa: B024 - what a loss computes hangs on its kind
    """What every loss has: its weight in the sum, at least 0."""

    def __init__(self, weight: float):
        if weight < 0:
            raise ValueError(f"a loss's weight can't be negative, got {weight}")
        self.weight = weight


class Loss(Weighted):
    """A weighted loss over :class:`Matches`."""

    @abstractmethod
    def __call__(self, matches: Matches) -> Tensor:
        """Unweighted sum of every layer, (L,)."""


class FocalLoss(Loss):
    """:func:`focal_loss` of the class logits."""

    def __init__(self, weight: float, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__(weight)
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, matches: Matches) -> Tensor:
        return focal_loss(matches.logits, matches.labels, self.alpha, self.gamma)


class L1Loss(Loss):
    """Absolute difference of the four box values."""

    def __call__(self, matches: Matches) -> Tensor:
        distance = (matches.boxes - matches.target_boxes).abs().sum(-1)
        return (distance * matches.valid).sum((1, 2, 3))


class GIoULoss(Loss):
    """One minus generalised IoU."""

    def __call__(self, matches: Matches) -> Tensor:
        distance = 1 - generalized_box_iou(matches.boxes, matches.target_boxes)
        return (distance * matches.valid).sum((1, 2, 3))


class Losses(dict[str, Weighted]):
    """Losses by name; None drops one."""

    def __init__(self, **losses: Weighted | None):
        super().__init__({name: loss for name, loss in losses.items() if loss is not None})

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
from .masks import MatchedMasks


@dataclass(frozen=True)
class Matches:
    """Predictions side by side with what was assigned to them.

    Attributes:
        logits: (L, B, Q, K).
        labels: (L, B, Q) int64, the class each query learns; ``K`` stands for none.
        boxes: (L, B, G, T, 4), the assigned queries' boxes.
        target_boxes: (L, B, G, T, 4).
        valid: (L, B, G, T) bool.
        masks: of the valid pairs, in the layers that have masks; None unless the term asks.
    """

    logits: Tensor
    labels: Tensor
    boxes: Tensor
    target_boxes: Tensor
    valid: Tensor
    masks: MatchedMasks | None = None


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
    num_classes = logits.shape[-1]

    def cost(x: Tensor, positive: bool) -> Tensor:
        factor, sign = (alpha, -1) if positive else (1 - alpha, 1)
        return factor * (sign * x).sigmoid() ** gamma * F.softplus(sign * x)

    # Everything as background, then corrected where a query has a class.
    positive = labels < num_classes
    own = logits.gather(-1, labels.clamp(max=num_classes - 1)[..., None])[..., 0]
    correction = (cost(own, True) - cost(own, False)) * positive
    background = cast(Tensor, _Background.apply(logits, gamma))
    return (1 - alpha) * background + correction.sum((1, 2))


class _Background(torch.autograd.Function):
    """Sum over all but the first axis of ``p**gamma * -log(1 - p)``, and its derivative with it.

    Nearly all of a step's loss arithmetic is here: in one go it takes a quarter of autograd's time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gamma: float) -> Tensor:
        p = logits.sigmoid()
        q = 1 - p
        # -log(1 - p) = max(x, 0) - log(max(p, 1 - p)): F.softplus is many times slower on a CPU.
        cost = torch.maximum(p, q).log_().neg_().add_(logits.clamp(min=0))
        power = p**gamma
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(q.mul_(cost).mul_(gamma).add_(p).mul_(power))
        return power.mul_(cost).flatten(1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return derivative * grad.view(-1, *[1] * (derivative.dim() - 1)), None


class Loss(ABC):
    """A weighted loss over :class:`Matches`."""

    def __init__(self, weight: float):
        if weight < 0:
            raise ValueError(f"a loss's weight can't be negative, got {weight}")
        self.weight = weight

    @abstractmethod
    def __call__(self, matches: Matches) -> Tensor:
        """Unweighted sum of every layer, or of as many of the last ones as have what it needs."""


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


class PointLoss(Loss):
    """A loss of masks at points, one value a pair."""

    def __call__(self, matches: Matches) -> Tensor:
        assert matches.masks is not None
        return matches.masks.sum_layers(self.of(matches.masks.logits, matches.masks.targets))

    @abstractmethod
    def of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, P) and (N, P) -> (N,)."""


class MaskLoss(PointLoss):
    """Binary cross-entropy, mean over the points."""

    def of(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


class DiceLoss(PointLoss):
    """One minus the Dice coefficient of probabilities, smoothed by 1 (V-Net, arXiv:1606.04797)."""

    def of(self, logits: Tensor, targets: Tensor) -> Tensor:
        p = logits.sigmoid()
        return 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)


class Losses(dict[str, Loss]):
    """Losses by name; None drops one."""

    def __init__(self, **losses: Loss | None):
        super().__init__({name: loss for name, loss in losses.items() if loss is not None})

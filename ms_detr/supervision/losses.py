"""Losses: pure functions, and small objects that carry a function's weight.

A loss sees the predictions of all layers at once and returns one sum a layer, (L,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..errors import ConfigError
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
        assignment: which queries were assigned.
        owners: (L, B, Q) int64, the object that gives each query its class; ``G`` for none.
        ignored: (B, Q) bool or None; queries that no loss counts.
        share: of this process's images in the step; scales what is a mean over the images.
    """

    logits: Tensor
    labels: Tensor
    boxes: Tensor
    target_boxes: Tensor
    assignment: Assignment
    owners: Tensor
    ignored: Tensor | None = None
    share: float = 1.0

    @property
    def valid(self) -> Tensor:
        """(L, B, G, T) bool; False marks an unused slot."""
        return self.assignment.valid


def match(predictions: PredictionSet, targets: Targets, assignment: Assignment) -> Matches:
    """Gather what the losses compare."""
    layers, batch = predictions.logits.shape[:2]
    objects, slots = assignment.query.shape[2:]
    index = assignment.query.flatten(2)[..., None].expand(-1, -1, -1, 4)
    boxes = predictions.boxes.gather(2, index).view(layers, batch, objects, slots, 4)
    owners = assignment.owners(predictions.logits.shape[2])
    return Matches(
        logits=predictions.logits,
        labels=query_labels(predictions.logits.shape[-1], assignment, owners),
        boxes=boxes,
        target_boxes=targets.boxes[None, :, :, None].expand_as(boxes),
        assignment=assignment,
        owners=owners,
        ignored=predictions.ignored,
        share=targets.share,
    )


def query_labels(num_classes: int, assignment: Assignment, owners: Tensor) -> Tensor:
    """The class of every query, (L, B, Q), by its owner; ``num_classes`` means none.

    A query that several objects hold takes the class of the object with the highest score; of
    equal ones the lower object.
    """
    labels = F.pad(assignment.labels, (0, 1), value=num_classes)
    return labels.expand(len(owners), -1, -1).gather(2, owners)


# Value and derivative: autograd would pass over all logits once more.
PositiveCost = Callable[[Tensor], tuple[Tensor, Tensor]]


def class_loss(
    logits: Tensor,
    labels: Tensor,
    positive_cost: PositiveCost,
    background: float,
    gamma: float,
    ignored: Tensor | None = None,
) -> Tensor:
    """Sum over queries and classes, in which only a query's own class isn't background.

    Args:
        logits: (L, B, Q, K).
        labels: (L, B, Q), K for background.
        positive_cost: of the logits (L, B, Q) of the queries' own classes, and its derivative;
            counts where there is a class.
        background, gamma: every other logit costs ``background * p**gamma * -log(1 - p)``.
        ignored: (B, Q) bool or None; queries whose logits cost nothing.

    Returns:
        (L,).
    """
    loss = _ClassLoss.apply(logits, labels, positive_cost, background, gamma, ignored)
    return cast(Tensor, loss)


def focal_loss(
    logits: Tensor, labels: Tensor, alpha: float, gamma: float, ignored: Tensor | None = None
) -> Tensor:
    """Sigmoid focal loss (arXiv:1708.02002, Eq. 5), (L,); tensors as in `class_loss`."""

    def positive_cost(own: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.empty_like(own)
        return alpha * _background(-own, gamma, slope), -alpha * slope

    return class_loss(logits, labels, positive_cost, 1 - alpha, gamma, ignored)


class _ClassLoss(torch.autograd.Function):
    """The loss of everything as background, corrected where a query has a class.

    Nearly all of a step's loss arithmetic is here: so value and derivative are made together, and
    on a CPU piece by piece.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        positive_cost: PositiveCost,
        background: float,
        gamma: float,
        ignored: Tensor | None,
    ) -> Tensor:
        rows = logits.flatten(1)
        slopes = torch.empty_like(rows)
        size = max(CACHED // len(rows), 1) if rows.device.type == "cpu" else rows.shape[1]
        costs = (
            _background(piece, gamma, slope)
            for piece, slope in zip(rows.split(size, 1), slopes.split(size, 1), strict=True)
        )
        has_class = labels < logits.shape[-1]
        if ignored is None:
            total = sum(cost.sum(1) for cost in costs)
        else:
            counted = ~ignored[None, :, :, None].expand_as(logits)
            parts = zip(costs, counted.flatten(1).split(size, 1), strict=True)
            total = sum((cost * kept).sum(1) for cost, kept in parts)
            slopes *= counted.flatten(1)
            has_class = has_class & ~ignored

        index = labels.clamp(max=logits.shape[-1] - 1)[..., None]
        own = logits.gather(-1, index)[..., 0]
        positive, slope = positive_cost(own)
        negative_slope = torch.empty_like(own)
        negative = _background(own, gamma, negative_slope)
        slope = (slope - background * negative_slope) * has_class
        correction = (positive - background * negative) * has_class
        ctx.background = background
        ctx.save_for_backward(slopes.view_as(logits), index, slope[..., None])
        return background * total + correction.flatten(1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes, index, slope = ctx.saved_tensors
        grad = grad[:, None, None, None]
        result = slopes * (ctx.background * grad)
        return result.scatter_add_(-1, index, slope * grad), None, None, None, None, None


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


def check_not_negative(**values: float) -> None:
    """Raise ConfigError for a value of a loss, by its name, that is negative."""
    for name, value in values.items():
        if value < 0:
            raise ConfigError(f"a loss's {name} can't be negative, got {value}")


class Weighted(ABC):  # noqa: B024 - what a loss computes hangs on its kind
    """What every loss has.

    Args:
        weight: of the loss in the sum, at least 0.
    """

    def __init__(self, weight: float):
        check_not_negative(weight=weight)
        self.weight = weight


class Loss(Weighted):
    """A weighted loss over :class:`Matches`.

    Attributes:
        probability: what it takes class logits to mean; None: it doesn't read them.
    """

    probability: Callable[[Tensor], Tensor] | None = None

    @abstractmethod
    def __call__(self, matches: Matches) -> Tensor:
        """Unweighted sum of every layer, (L,)."""

    def divisor(self, matches: Matches, objects: Tensor) -> Tensor:
        """What divides the sum, a scalar or (L,).

        Args:
            objects: (L,), what the term counts, not to be written to. Where it is counted over
                all processes later, so are the losses that return this very tensor.
        """
        return objects


class FocalLoss(Loss):
    """:func:`focal_loss` of the class logits.

    Args:
        alpha: weight of a query's own class, from 0 to 1; every other logit has the rest.
        gamma: power of what is missing to the target, which makes easy ones cost less.
    """

    probability = staticmethod(torch.sigmoid)

    def __init__(self, weight: float, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__(weight)
        check_not_negative(alpha=alpha, gamma=gamma)
        if alpha > 1:
            raise ConfigError(f"a focal loss's alpha is from 0 to 1, got {alpha}")
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, matches: Matches) -> Tensor:
        return focal_loss(matches.logits, matches.labels, self.alpha, self.gamma, matches.ignored)


class BoxLoss(Loss):
    """Sum of a distance over all pairs.

    Args:
        pair_weight: gives every pair a factor, (L, B, G, T); None counts all alike.
    """

    def __init__(self, weight: float, pair_weight: Callable[[Matches], Tensor] | None = None):
        super().__init__(weight)
        self.pair_weight = pair_weight

    @abstractmethod
    def distance(self, matches: Matches) -> Tensor:
        """Of the boxes of every pair, (L, B, G, T)."""

    def __call__(self, matches: Matches) -> Tensor:
        distance = self.distance(matches) * matches.valid
        if self.pair_weight is not None:
            distance = distance * self.pair_weight(matches)
        return distance.sum((1, 2, 3))


class L1Loss(BoxLoss):
    """Absolute difference of the four box values."""

    def distance(self, matches: Matches) -> Tensor:
        return (matches.boxes - matches.target_boxes).abs().sum(-1)


class GIoULoss(BoxLoss):
    """One minus generalised IoU."""

    def distance(self, matches: Matches) -> Tensor:
        return 1 - generalized_box_iou(matches.boxes, matches.target_boxes)


class Losses(dict[str, Weighted]):
    """Losses by name; None drops one."""

    def __init__(self, **losses: Weighted | None):
        super().__init__({name: loss for name, loss in losses.items() if loss is not None})

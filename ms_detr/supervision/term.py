"""A supervision term: which predictions, assigned how, weighed by what."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..structures import Assignment, PredictionSet, Targets
from .assigners import Assigner
from .losses import Loss, Losses, match
from .masks import MaskPoints, PointLoss

# How many objects a term counts, a scalar: from N+ and the objects of this process's own batch.
ObjectCount = Callable[[Tensor, Targets], Tensor]


def average_objects(num_objects: Tensor, targets: Targets) -> Tensor:
    """N+: objects of all processes, per process."""
    return num_objects


class LocalObjects:
    """Objects of this process alone, at least one."""

    def __call__(self, num_objects: Tensor, targets: Targets) -> Tensor:
        return torch.full_like(num_objects, max(sum(targets.counts), 1))


class SupervisionTerm:
    """One source, one assigner, its losses and the weight of them all.

    Args:
        source: name of the predictions that are supervised, e.g. ``"decoder"``.
        weight: multiplies every loss, at least 0.
        mask_points: where masks are compared; needed if there are losses of masks, and only then.
        objects: the number that divides the losses, times the assignment's copies; N+ if None.
    """

    def __init__(
        self,
        source: str,
        assigner: Assigner,
        losses: Losses,
        weight: float = 1.0,
        mask_points: MaskPoints | None = None,
        objects: ObjectCount | None = None,
    ):
        if assigner is None or losses is None:
            raise ValueError(
                f"the term for '{source}' needs an assigner and losses; null in the place of the "
                "whole term drops it"
            )
        if weight < 0:
            raise ValueError(f"a term's weight can't be negative, got {weight} for '{source}'")
        if (mask_points is None) == any(isinstance(loss, PointLoss) for loss in losses.values()):
            raise ValueError(
                f"the term for '{source}' needs both mask_points and losses of masks, or neither"
            )
        self.source = source
        self.assigner = assigner
        self.losses = losses
        self.weight = weight
        self.mask_points = mask_points
        self.objects = objects or average_objects

    def compute(
        self,
        predictions: PredictionSet,
        targets: Targets,
        assignment: Assignment,
        num_objects: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted scalar losses, named ``loss_{name}/{layer}`` (without layer where unlayered).

        Args:
            num_objects: N+, a scalar: objects of the whole batch per process.
        """
        for loss in self.losses.values():
            if isinstance(loss, Loss) and loss.probability is not None:
                predictions.logits_for(type(loss).__name__, loss.probability)
        matches = match(predictions, targets, assignment)
        pairs = self.objects(num_objects, targets) * assignment.copies
        means = {
            name: loss(matches) / loss.divisor(matches, pairs)
            for name, loss in self.losses.items()
            if isinstance(loss, Loss)
        }
        if self.mask_points is not None:
            of_masks = {n: loss for n, loss in self.losses.items() if isinstance(loss, PointLoss)}
            values = self.mask_points.losses(
                predictions, targets, assignment, list(of_masks.values())
            )
            means |= dict(zip(of_masks, values / pairs, strict=True))
        result = {}
        for name, loss in self.losses.items():
            values = self.weight * loss.weight * means[name]
            # Of masks there may be fewer layers, the last ones.
            first = len(predictions.logits) - len(values)
            for layer, value in enumerate(values.unbind(), first):
                result[f"loss_{name}/{layer}" if predictions.layered else f"loss_{name}"] = value
        return result

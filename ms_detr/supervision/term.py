"""A supervision term: which predictions, assigned how, weighed by what."""

from __future__ import annotations

from torch import Tensor

from ..structures import Assignment, PredictionSet, Targets
from .assigners import Assigner
from .losses import Loss, Losses, match
from .masks import MaskPoints, PointLoss


class SupervisionTerm:
    """One source, one assigner, its losses and the weight of them all.

    Args:
        source: name of the predictions that are supervised, e.g. ``"decoder"``.
        weight: multiplies every loss, at least 0.
        mask_points: where masks are compared; needed if there are losses of masks, and only then.
    """

    def __init__(
        self,
        source: str,
        assigner: Assigner,
        losses: Losses,
        weight: float = 1.0,
        mask_points: MaskPoints | None = None,
    ):
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

    def compute(
        self,
        predictions: PredictionSet,
        targets: Targets,
        assignment: Assignment,
        num_objects: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted scalar losses, named ``loss_{name}/{layer}`` (without layer where unlayered).

        Args:
            num_objects: scalar, objects of the whole batch per process; times the assignment's
                copies it divides the losses; see `Loss.divisor`.
        """
        matches = match(predictions, targets, assignment)
        pairs = num_objects * assignment.copies
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

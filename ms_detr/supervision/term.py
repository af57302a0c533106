"""A supervision term: which predictions, assigned how, weighed by what."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..structures import Assignment, PredictionSet, Targets
from .assigners import Assigner
from .losses import Losses, PointLoss, match
from .masks import MaskPoints


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
                copies it divides every loss.
        """
        matches = match(predictions, targets, assignment)
        if self.mask_points is not None:
            masks = self.mask_points.match(predictions, targets, assignment)
            matches = replace(matches, masks=masks)
        result = {}
        layers = len(predictions.logits)
        pairs = num_objects * assignment.copies
        for name, loss in self.losses.items():
            values = self.weight * loss.weight * loss(matches) / pairs
            for layer, value in enumerate(values.unbind(), start=layers - len(values)):
                result[f"loss_{name}/{layer}" if predictions.layered else f"loss_{name}"] = value
        return result

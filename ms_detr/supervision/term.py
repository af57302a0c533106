"""A supervision term: which predictions, assigned how, weighed by what."""

from __future__ import annotations

from fvcore.common.param_scheduler import ParamScheduler

from ..errors import ConfigError
from ..structures import Assignment, CountedLosses, PredictionSet, Source, Step, Targets
from .assigners import Assigner
from .losses import Loss, Losses, match
from .masks import MaskPoints, PointLoss
from .objects import CountedObjects, ObjectCount, all_objects

# Of a training, where schedulers are looked at; they have no value at its very end.
WHERE = (*(step / 100 for step in range(100)), 1 - 1e-5)


class SupervisionTerm:
    """One source, one assigner, its losses and the weight of them all.

    Args:
        source: where the predictions that are supervised come from, e.g. ``"decoder"``.
        weight: multiplies every loss, at least 0; a scheduler of fvcore changes it over a training.
        mask_points: where masks are compared; needed if there are losses of masks, and only then.
        objects: those that are counted; of all processes if None.

    The losses are divided by the objects times the assignment's copies. As published, the number
    of all copies is at least 1, not that of objects: ``max(copies * objects, 1)``.
    """

    def __init__(
        self,
        source: str | Source,
        assigner: Assigner,
        losses: Losses,
        weight: float | ParamScheduler = 1.0,
        mask_points: MaskPoints | None = None,
        objects: CountedObjects | None = None,
    ):
        if assigner is None or losses is None:
            raise ConfigError(
                f"the term for '{source}' needs an assigner and losses; null in the place of the "
                "whole term drops it"
            )
        least = min(map(weight, WHERE)) if isinstance(weight, ParamScheduler) else weight
        if least < 0:
            raise ConfigError(f"a term's weight can't be negative, got {least} for '{source}'")
        if (mask_points is None) == any(isinstance(loss, PointLoss) for loss in losses.values()):
            raise ConfigError(
                f"the term for '{source}' needs both mask_points and losses of masks, or neither"
            )
        self.source = Source.of(source)
        self.assigner = assigner
        self.losses = losses
        self.weight = weight
        self.mask_points = mask_points
        self.objects = objects or all_objects

    def compute(
        self,
        predictions: PredictionSet,
        targets: Targets,
        assignment: Assignment,
        objects: ObjectCount,
    ) -> CountedLosses:
        """Weighted scalar losses, named ``loss_{name}/{layer}`` (without layer where unlayered).

        Args:
            targets: of the batch, which the predictions' own take the place of.
            objects: of the whole batch.

        Raises:
            ConfigError: the weight changes over the training, and the targets don't tell its step.
        """
        weight = self._weight_at(targets.step)
        if predictions.targets is not None:
            targets = predictions.targets
        for loss in self.losses.values():
            if isinstance(loss, Loss) and loss.probability is not None:
                predictions.logits_for(type(loss).__name__, loss.probability)
        matches = match(predictions, targets, assignment)
        copies = assignment.copies
        layers = len(predictions.logits)
        counted = self.objects(objects, targets, assignment)
        pairs = counted.times(copies, max(copies, predictions.peers)).expand(layers)
        of_boxes = {name: loss for name, loss in self.losses.items() if isinstance(loss, Loss)}
        divisors = {name: loss.divisor(matches, pairs) for name, loss in of_boxes.items()}
        means = {name: loss(matches) / divisors[name] for name, loss in of_boxes.items()}
        if self.mask_points is not None:
            of_masks = {n: loss for n, loss in self.losses.items() if isinstance(loss, PointLoss)}
            values = self.mask_points.losses(
                predictions, targets, assignment, list(of_masks.values())
            )
            # Of masks there may be fewer layers, the last ones.
            means |= dict(zip(of_masks, values / pairs[layers - values.shape[1] :], strict=True))
        result = CountedLosses()
        local = None if counted.local is None else counted.local.expand(layers)
        for name, loss in self.losses.items():
            values = predictions.share * weight * loss.weight * means[name]
            for layer, value in enumerate(values.unbind(), layers - len(values)):
                key = f"loss_{name}/{layer}" if predictions.layered else f"loss_{name}"
                result[key] = value
                if local is not None and divisors.get(name, pairs) is pairs:
                    result.counts[key] = local[layer]
        return result

    def _weight_at(self, step: Step | None) -> float:
        if not isinstance(self.weight, ParamScheduler):
            return self.weight
        if step is None:
            raise ConfigError(
                f"the weight of the term for '{self.source}' changes over the training, and nobody "
                "tells how far that is: train with `ms-detr train` or train_net.py"
            )
        return self.weight(step.done)

"""Supervision of masks: points, costs and losses.

Masks are compared at points instead of pixels, and predicted for the pairs of an assignment alone,
a piece of bounded size at a time (Mask2Former, arXiv:2112.01527, section 3.3).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from ..layers.points import sample, uncertain_points
from ..structures import Assignment, PredictionSet, QueryMasks, Targets
from .losses import Weighted

# Pixels of target masks, and values at points, that are held as floats at a time: 128 MiB.
MAX_VALUES = 2**25


class PointLoss(Weighted):
    """A weighted loss of masks, compared at points."""

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Unweighted value of every pair of masks: (N, P) and (N, P) in [0, 1] -> (N,)."""


class MaskLoss(PointLoss):
    """Binary cross-entropy, mean over the points."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


class DiceLoss(PointLoss):
    """One minus the Dice coefficient of probabilities, smoothed by 1 (V-Net, arXiv:1606.04797)."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        p = logits.sigmoid()
        return 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)


class MaskPoints:
    """Where the masks of a term are compared: PointRend's choice of uncertain points.

    Args:
        num_points: points of every pair.
        oversample: how many times as many are drawn to find the uncertain ones.
        importance: share of uncertain points; the rest are uniform.
    """

    def __init__(self, num_points: int = 12544, oversample: float = 3.0, importance: float = 0.75):
        if num_points < 1 or oversample < 1 or not 0 <= importance <= 1:
            raise ConfigError(
                "mask points need num_points and oversample of at least 1 and an importance from 0 "
                f"to 1, got {num_points}, {oversample} and {importance}"
            )
        self.num_points = num_points
        self.oversample = oversample
        self.importance = importance

    def losses(
        self,
        predictions: PredictionSet,
        targets: Targets,
        assignment: Assignment,
        losses: Sequence[PointLoss],
    ) -> Tensor:
        """Sums over the valid pairs of every layer that has masks, (losses, layers).

        The number of pairs is not known on the host: this waits for it.
        """
        masks = masks_of(predictions)
        # Image by image, so that an image's features need not be copied for every pair.
        valid = assignment.valid[-masks.num_layers :].transpose(0, 1)
        image, layer, item, slot = valid.nonzero().unbind(1)
        query = assignment.query[-masks.num_layers :][layer, image, item, slot]
        counts = image.bincount(minlength=len(targets.counts)).tolist()
        held = 8 * int(self.oversample * self.num_points)
        if targets.masks is not None:
            held += targets.masks.shape[1:].numel()
        # Recomputed in backward where there are many: memory holds one piece's masks and no more.
        piece: Callable[..., Tensor] = self._piece
        if sum(counts) * held > MAX_VALUES:
            piece = partial(checkpoint, piece, use_reentrant=False)
        values = []
        for index, pairs in enumerate(
            zip(layer.split(counts), query.split(counts), item.split(counts), strict=True)
        ):
            objects = targets.masks_of(index)
            for part in _pieces(counts[index], held):
                chosen = [x[part] for x in pairs]
                values.append(piece(masks, objects, index, *chosen, losses))
        found = torch.cat(values, 1)
        return found.new_zeros(len(losses), masks.num_layers).index_add(1, layer, found)

    def _piece(
        self,
        masks: QueryMasks,
        objects: Tensor,
        image: int,
        layer: Tensor,
        query: Tensor,
        item: Tensor,
        losses: Sequence[PointLoss],
    ) -> Tensor:
        """Losses of some pairs of one image, (losses, N)."""
        logits = masks.logits(image, layer, query)
        with torch.no_grad():
            points = uncertain_points(logits, self.num_points, self.oversample, self.importance)
            truth = sample(objects[item][:, None].to(logits.dtype), points)[:, 0]
        found = sample(logits[:, None], points)[:, 0]
        return torch.stack([loss(found, truth) for loss in losses])


def masks_of(predictions: PredictionSet) -> QueryMasks:
    """The masks of a source.

    Raises:
        ConfigError: if there are none.
    """
    if predictions.masks is None:
        raise ConfigError(
            "a term supervises masks, but its source has none: set model.masks, which gives them "
            "to the decoder and the groups; the encoder's proposals have none"
        )
    return predictions.masks


def _pieces(count: int, values: int) -> Iterator[slice]:
    """Parts of bounded size; one, if empty, so that every parameter gets a gradient."""
    step = max(1, MAX_VALUES // values)
    return (slice(first, first + step) for first in range(0, max(count, 1), step))


def objects_at(targets: Targets, points: Tensor) -> Tensor:
    """Objects' masks at points that an image's objects share: (B, P, 2) -> (B, G, P); padding 0."""
    values = points.new_zeros(*targets.labels.shape, points.shape[1])
    for image, count in enumerate(targets.counts):
        masks = targets.masks_of(image)
        for part in _pieces(count, masks.shape[1:].numel()):
            chosen = masks[part].to(points.dtype)
            values[image, :count][part] = sample(chosen[None], points[image : image + 1])[0]
    return values


@dataclass(frozen=True)
class PointOverlaps:
    """Predicted and true masks of one layer, compared at shared points.

    Attributes:
        cross_entropy: (B, G, Q), mean over the points.
        intersection: (B, G, Q), of probability and truth.
        predicted: (B, 1, Q), sum of the probabilities.
        truth: (B, G, 1).
    """

    cross_entropy: Tensor
    intersection: Tensor
    predicted: Tensor
    truth: Tensor

    @property
    def dice(self) -> Tensor:
        """Dice loss of every pair, (B, G, Q)."""
        return 1 - (2 * self.intersection + 1) / (self.predicted + self.truth + 1)

    @property
    def iou(self) -> Tensor:
        """Soft IoU of every pair, (B, G, Q); 0 where both are empty."""
        union = self.predicted + self.truth - self.intersection
        return self.intersection / union.clamp(min=1e-6)


@torch.no_grad()
def overlaps(
    predictions: PredictionSet, targets: Targets, num_points: int
) -> Iterator[PointOverlaps]:
    """Every query's mask against every object's, layer by layer, at uniform random points."""
    masks = masks_of(predictions)
    batch = len(targets.counts)
    points = torch.rand(
        batch, num_points, 2, dtype=predictions.boxes.dtype, device=predictions.boxes.device
    )
    truth = objects_at(targets, points)
    for logits in masks.logits_at(points):
        # -log p and -log(1 - p) differ by the logit, so that one product gives both parts. This is
        # softplus, which alone takes six times as long on a CPU.
        nothing = logits.clamp(min=0) - logits.abs().sigmoid().log()
        entropy = nothing.sum(-1)[:, None] - truth @ logits.mT
        p = logits.sigmoid()
        yield PointOverlaps(
            entropy / num_points, truth @ p.mT, p.sum(-1)[:, None], truth.sum(-1, keepdim=True)
        )


class MaskCost:
    """Cost of every pair of masks, for matching (Mask DINO, arXiv:2206.02777, section 3).

    It is 0 in layers without masks, which so are matched on the rest alone.

    Args:
        mask_cost, dice_cost: weights of the cross-entropy and the dice cost.
        num_points: random points at which masks are compared.
    """

    def __init__(self, mask_cost: float = 5.0, dice_cost: float = 5.0, num_points: int = 12544):
        self.mask_cost = mask_cost
        self.dice_cost = dice_cost
        self.num_points = num_points

    def __call__(self, predictions: PredictionSet, targets: Targets) -> Tensor:
        costs = [
            self.mask_cost * pairs.cross_entropy + self.dice_cost * pairs.dice
            for pairs in overlaps(predictions, targets, self.num_points)
        ]
        without = len(predictions.logits) - len(costs)
        return torch.stack([torch.zeros_like(costs[0])] * without + costs)

"""One-to-many assignment of MS-DETR."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..layers.boxes import box_iou
from ..structures import Assignment, PredictionSet, Targets
from .assigners import Assigner, of_objects
from .masks import masks_of, overlaps

Overlap = Callable[[PredictionSet, Targets], Tensor]


def box_overlap(predictions: PredictionSet, targets: Targets) -> Tensor:
    """IoU of boxes, (L, B, G, Q)."""
    return box_iou(predictions.boxes[:, :, None], targets.boxes[None, :, :, None])


class MaskOverlap:
    """IoU of boxes and of masks; layers without masks have that of boxes alone.

    Args:
        share: of the masks' IoU.
        num_points: random points at which masks are compared.
    """

    def __init__(self, share: float = 0.5, num_points: int = 12544):
        _check_share("overlap.share", share)
        self.share = share
        self.num_points = num_points

    def __call__(self, predictions: PredictionSet, targets: Targets) -> Tensor:
        overlap = box_overlap(predictions, targets)
        first = len(overlap) - masks_of(predictions).num_layers
        for layer, pairs in enumerate(overlaps(predictions, targets, self.num_points)):
            overlap[first + layer].lerp_(pairs.iou, self.share)
        return overlap


def match_score(
    predictions: PredictionSet, targets: Targets, alpha: float, overlap: Overlap = box_overlap
) -> Tensor:
    """``alpha * class probability + (1 - alpha) * overlap``, (L, B, G, Q).

    It is -1 for padded objects and ignored queries. MS-DETR, arXiv:2401.03989, section 3.
    """
    score = alpha * of_objects(predictions.probability(predictions.logits), targets.labels)
    score = score + (1 - alpha) * overlap(predictions, targets)
    if predictions.ignored is not None:
        score = score.masked_fill(predictions.ignored[None, :, None], -1.0)
    return score.masked_fill(~targets.valid[None, :, :, None], -1.0)


def stable_topk(score: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` highest of the last axis, best first; of equal ones the lower first."""
    if k > 16:
        return score.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    # topk leaves the order of equal ones open; argmax takes the first one.
    left, best = score.clone(), []
    for _ in range(k):
        best.append(left.argmax(-1, keepdim=True))
        left.scatter_(-1, best[-1], -float("inf"))
    return torch.cat(best, -1)


class OneToManyAssigner(Assigner):
    """The best queries of each object's own ranking; the subclass says how many.

    Args:
        k: most queries an object.
        threshold: least score of a positive query.
        alpha: share of the class probability in the score.
        overlap: the other part of the score.
    """

    def __init__(
        self,
        k: int = 6,
        threshold: float = 0.4,
        alpha: float = 0.3,
        overlap: Overlap = box_overlap,
    ):
        if k < 1:
            raise ConfigError(f"k is the most queries an object gets, at least 1; got {k}")
        for name, value in (("threshold", threshold), ("alpha", alpha)):
            _check_share(name, value)
        self.k = k
        self.threshold = threshold
        self.alpha = alpha
        self.overlap = overlap

    @abstractmethod
    def counts(self, score: Tensor, predictions: PredictionSet, targets: Targets) -> Tensor:
        """How many queries each object may have, (L, B, G), for scores (L, B, G, Q)."""

    def assign(
        self, predictions: PredictionSet, targets: Targets, host_costs: np.ndarray | None
    ) -> Assignment:
        slots = min(self.k, predictions.logits.shape[2])
        score = match_score(predictions, targets, self.alpha, self.overlap)
        ranking = stable_topk(score, slots)
        rank = torch.arange(slots, device=score.device)
        valid = rank < self.counts(score, predictions, targets)[..., None]
        valid = valid & targets.valid[None, :, :, None]
        return Assignment(ranking, valid, targets.labels, score.gather(-1, ranking))


class PaperTopK(OneToManyAssigner):
    """The ``k`` best queries of an object that reach ``threshold``, as the paper describes.

    MS-DETR, arXiv:2401.03989, section 3. An object whose queries all score less gets none.
    """

    def counts(self, score: Tensor, predictions: PredictionSet, targets: Targets) -> Tensor:
        return (score >= self.threshold).sum(-1)


class ReleasedTopK(OneToManyAssigner):
    """Several queries an object, as the published MS-DETR code assigns them.

    Every query belongs to the object it scores highest with, and is positive from ``threshold``
    on; the best query of each object is positive whatever its score. An object then gets as many
    queries, at most ``k``, as positive ones belong to it: the highest of its own ranking, which
    may belong to another object. An object that no positive query belongs to gets none.

    Args:
        quota: share of all queries that may be positive; above it a random choice of them counts.
        options: k, threshold, alpha and overlap, as `OneToManyAssigner` has them.
    """

    def __init__(self, quota: float = 0.25, **options: Any):
        super().__init__(**options)
        _check_share("quota", quota)
        self.quota = quota

    def counts(self, score: Tensor, predictions: PredictionSet, targets: Targets) -> Tensor:
        """Positive queries that belong to each object, (L, B, G)."""
        if score.shape[2] == 0:
            return score.new_zeros(score.shape[:3])
        best, owner = score.max(2)
        positive = (best >= self.threshold).long()
        rescued = score.argmax(-1)
        valid = targets.valid.long().expand_as(rescued)
        positive = positive.scatter_reduce(2, rescued, valid, "amax")
        positive = self._limit(positive.bool(), predictions.ignored)
        return torch.zeros_like(rescued).scatter_add(2, owner, positive.long())

    def _limit(self, positive: Tensor, ignored: Tensor | None) -> Tensor:
        """Keep a random ``quota`` of the queries where more are positive, (L, B, Q)."""
        counted = torch.ones_like(positive[0]) if ignored is None else ~ignored
        most = (self.quota * counted.sum(-1, dtype=torch.float64)).floor()
        # Seeded from the CPU's generator, whose state a checkpoint keeps: a resumed run draws the
        # same, on every device.
        generator = torch.Generator(positive.device)
        generator.manual_seed(int(torch.randint(2**62, ())))
        order = torch.rand(positive.shape, generator=generator, device=positive.device)
        kept = order.masked_fill(~positive, 2.0).argsort(dim=-1, stable=True)
        first = torch.arange(kept.shape[-1], device=kept.device) < most[:, None]
        return positive & torch.zeros_like(positive).scatter_(-1, kept, first.expand_as(positive))


class MergedTopK(ReleasedTopK):
    """`ReleasedTopK` joined with another term's one-to-one assignment, an object a query.

    The published code's index merge, which its authors used with 900 queries: the other term's
    pairs stay unless one-to-many assignment wants their query; of several objects that want one
    query, the one with the highest score has it (ties: the lower object).

    Args:
        merge_with: name of the other term; its layers and queries are the same.
        options: as `ReleasedTopK` has them.
    """

    def __init__(self, merge_with: str = "o2o", **options: Any):
        super().__init__(**options)
        self.merge_with = merge_with

    def combine(
        self, own: Assignment, predictions: PredictionSet, assignments: Mapping[str, Assignment]
    ) -> Assignment:
        if self.merge_with not in assignments:
            raise ConfigError(
                f"one-to-many assignment is to be merged with term '{self.merge_with}', but the "
                f"terms are {sorted(assignments)}: set merge_with to one of them"
            )
        other = assignments[self.merge_with]
        if other.query.shape[:3] != own.query.shape[:3]:
            raise ConfigError(f"term '{self.merge_with}' has other layers: it can't be merged with")
        owner = own.owners(predictions.logits.shape[2])
        objects = own.query.shape[2]

        def owners_of(assignment: Assignment) -> Tensor:
            query = assignment.query
            return owner.gather(2, query.flatten(2)).view_as(query)

        kept = own.valid & (owners_of(own) == torch.arange(objects, device=owner.device)[:, None])
        free = other.valid & (owners_of(other) == objects)
        return Assignment(
            torch.cat((other.query, own.query), -1), torch.cat((free, kept), -1), own.labels
        )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} of the one-to-many assigner is from 0 to 1, got {value}")

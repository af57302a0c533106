"""One-to-many assignment of MS-DETR."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..layers.boxes import box_iou
from ..structures import Assignment, PredictionSet, Targets
from .assigners import Assigner, object_logits


def match_score(predictions: PredictionSet, targets: Targets, alpha: float) -> Tensor:
    """``alpha * class probability + (1 - alpha) * IoU``, (L, B, G, Q); -1 for padding objects.

    MS-DETR, arXiv:2401.03989, section 3.
    """
    iou = box_iou(predictions.boxes[:, :, None], targets.boxes[None, :, :, None])
    score = alpha * object_logits(predictions, targets.labels).sigmoid() + (1 - alpha) * iou
    return score.masked_fill(~targets.valid[None, :, :, None], -1.0)


def stable_topk(score: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` highest of the last axis, best first; of equal ones the lower first."""
    if k == 1:
        return score.argmax(-1, keepdim=True)
    return score.sort(dim=-1, descending=True, stable=True).indices[..., :k]


class ReleasedTopK(Assigner):
    """Several queries an object, as the published MS-DETR code assigns them.

    Every query belongs to the object it scores highest with, and is positive from ``threshold``
    on; the best query of each object is positive whatever its score. An object then gets as many
    queries, at most ``k``, as positive ones belong to it: the highest of its own ranking, which
    may belong to another object. An object that no positive query belongs to gets none.

    Args:
        k: most queries an object.
        threshold: least score of a positive query.
        alpha: share of the class probability in the score.
        quota: share of all queries that may be positive; above it a random choice of them counts.
    """

    def __init__(
        self,
        k: int = 6,
        threshold: float = 0.4,
        alpha: float = 0.3,
        quota: float = 0.25,
    ):
        if k < 1:
            raise ValueError(f"k is the most queries an object gets, at least 1; got {k}")
        for name, value in (("threshold", threshold), ("alpha", alpha), ("quota", quota)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of the one-to-many assigner is from 0 to 1, got {value}")
        self.k = k
        self.threshold = threshold
        self.alpha = alpha
        self.quota = quota

    def assign(
        self, predictions: PredictionSet, targets: Targets, host_costs: np.ndarray | None
    ) -> Assignment:
        slots = min(self.k, predictions.logits.shape[2])
        score = match_score(predictions, targets, self.alpha)
        ranking = stable_topk(score, slots)
        owned = self._owned(score, targets)
        rank = torch.arange(slots, device=score.device)
        valid = (rank < owned[..., None]) & targets.valid[None, :, :, None]
        return Assignment(ranking, valid, targets.labels, score.gather(-1, ranking))

    def _owned(self, score: Tensor, targets: Targets) -> Tensor:
        """Positive queries that belong to each object, (L, B, G)."""
        if score.shape[2] == 0:
            return score.new_zeros(score.shape[:3])
        best, owner = score.max(2)
        positive = (best >= self.threshold).long()
        rescued = score.argmax(-1)
        valid = targets.valid.long().expand_as(rescued)
        positive = positive.scatter_reduce(2, rescued, valid, "amax")
        positive = self._limit(positive.bool())
        return torch.zeros_like(rescued).scatter_add(2, owner, positive.long())

    def _limit(self, positive: Tensor) -> Tensor:
        """Keep a random ``quota`` of the queries where more are positive, (L, B, Q)."""
        most = int(self.quota * positive.shape[-1])
        # Seeded from the CPU's generator, whose state a checkpoint keeps: a resumed run draws the
        # same, on every device.
        generator = torch.Generator(positive.device)
        generator.manual_seed(int(torch.randint(2**62, ())))
        order = torch.rand(positive.shape, generator=generator, device=positive.device)
        rank = order.masked_fill(~positive, 2.0).argsort(-1).argsort(-1)
        return positive & (rank < most)

"""Which queries learn which objects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Assignment:
    """Which queries learn which objects.

    Attributes:
        query: (L, B, G, T) int64, indices into the queries.
        valid: (L, B, G, T) bool; False marks an unused slot.
        labels: (B, G) int64, the class that each object stands for.
        score: (L, B, G, T) or None. Where several objects hold one query, the object of the
            highest score gives the class (ties: the lower object); None means no query is shared.
        copies: how many times every object is learnt; divides the losses. Each has T / copies
            slots, which follow each other.
    """

    query: Tensor
    valid: Tensor
    labels: Tensor
    score: Tensor | None = None
    copies: int = 1

    def without(self, ignored: Tensor | None) -> Assignment:
        """The same but for queries that are ignored, (B, Q) bool, which learn nothing."""
        if ignored is None:
            return self
        layers = self.query.shape[0]
        index = self.query.flatten(2)
        free = ~ignored.expand(layers, -1, -1).gather(2, index).view_as(self.query)
        return replace(self, valid=self.valid & free)

    def owners(self, num_queries: int) -> Tensor:
        """The object that has each query, (L, B, Q) int64; G for none."""
        layers, batch, objects, _ = self.query.shape
        shape = (layers, batch, num_queries)
        nobody = self.query.new_full(shape, objects)
        if objects == 0:
            return nobody
        query, valid = self.query.flatten(2), self.valid.flatten(2)
        owner = torch.arange(objects, device=query.device)[:, None].expand_as(self.query[0, 0])
        owner = owner.flatten().where(valid, objects)
        if self.score is not None:
            score = self.score.flatten(2).where(valid, -float("inf"))
            best = score.new_full(shape, -float("inf")).scatter_reduce(2, query, score, "amax")
            owner = owner.where(score == best.gather(2, query), objects)
        return nobody.scatter_reduce(2, query, owner, "amin")

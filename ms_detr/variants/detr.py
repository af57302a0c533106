"""DETR's queries (arXiv:2005.12872, section 3.2): a learned position and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..modeling import QueryInitializer
from ..structures import Memory, Predictions, Queries


class PositionInitializer(QueryInitializer):
    """Learned positions; the content starts at zero.

    Boxes are predicted without a reference: the middle of the image is one that adds nothing, its
    logits are zero.
    """

    reference_size = 2

    def __init__(self, num_queries: int, embed_dim: int, extra_queries: Sequence[int] = ()):
        super().__init__(num_queries, embed_dim, extra_queries)
        self.position = nn.Parameter(torch.randn(self.rows(supervised=True), embed_dim))

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """The same queries for every image; nothing is predicted."""
        position = self.position[: self.rows(supervised)].expand(len(memory.tokens), -1, -1)
        middle = torch.full_like(position[..., :2], 0.5)
        return Queries(torch.zeros_like(position), position, middle), Predictions({})

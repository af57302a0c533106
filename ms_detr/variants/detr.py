"""DETR's queries (arXiv:2005.12872, section 3.2): a learned position and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from ..modeling import QueryInitializer
from ..structures import Memory, Predictions, Queries


class PositionInitializer(QueryInitializer):
    """Learned positions; the content starts at zero.

    Boxes are predicted without a reference: the middle of the image is one that adds nothing, its
    logits are zero.
    """

    def __init__(self, num_queries: int, embed_dim: int):
        super().__init__(num_queries, embed_dim)
        self.position = nn.Parameter(torch.randn(num_queries, embed_dim))

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """The same queries for every image; nothing is predicted."""
        position = self.position.expand(len(memory.tokens), -1, -1)
        middle = torch.full_like(position[..., :2], 0.5)
        return Queries(torch.zeros_like(position), position, middle), Predictions({})

"""SAM-DETR's queries (arXiv:2203.06883): boxes, and no content but what they will read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..layers.query_position import center_position
from ..modeling import QueryInitializer
from ..structures import Memory, Predictions, Queries


class BoxInitializer(QueryInitializer):
    """Learned boxes, kept as logits; positions follow their centres, the content starts at zero."""

    moving_positions = True

    def __init__(self, num_queries: int, embed_dim: int, extra_queries: Sequence[int] = ()):
        super().__init__(num_queries, embed_dim, extra_queries)
        self.boxes = nn.Parameter(torch.randn(self.count(supervised=True), 4))

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Boxes (B, Q, 4) as references, which learn; nothing is predicted."""
        logits = self.boxes[: self.count(supervised)].to(memory.grid.valid_ratios)
        logits = logits.expand(memory.tokens.shape[0], -1, -1)
        content = memory.tokens.new_zeros(*logits.shape[:2], self.embed_dim)
        queries = Queries(content, center_position, logits.sigmoid(), logits=logits)
        return queries, Predictions({})

"""Conditional DETR's queries (arXiv:2108.06152, section 3): positions that point somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..layers import MLP
from ..layers.query_position import SpatialQuery
from ..layers.transformer import init_transformer
from ..structures import Memory, Predictions, Queries
from .detr import PositionInitializer


class ConditionalInitializer(PositionInitializer):
    """Reference points from the positions; where they lie becomes the spatial query."""

    def __init__(self, num_queries: int, embed_dim: int, extra_queries: Sequence[int] = ()):
        super().__init__(num_queries, embed_dim, extra_queries)
        self.point = MLP(embed_dim, embed_dim, 2, 2)
        init_transformer(self.point)
        self.spatial = SpatialQuery(embed_dim)

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Points (B, Q, 2) as references, which learn; nothing is predicted."""
        queries, predictions = super().forward(memory, supervised)
        points = self.point(self.position[: queries.count]).to(queries.reference).sigmoid()
        points = points.expand_as(queries.reference)
        return replace(queries, reference=points, spatial=self.spatial), predictions

"""DAB-DETR's queries (arXiv:2201.12329): anchor boxes whose size widens what is looked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import MLP
from ..layers.query_position import BoxPosition, SpatialQuery
from ..layers.transformer import init_transformer
from ..modeling import QueryInitializer
from ..structures import Memory, Predictions, Queries
from .dab_deformable import Anchors

# A box's sides as divisors; far below a pixel, and no overflow.
SMALLEST = 1e-5


class ModulatedQuery(SpatialQuery):
    """A spatial query stretched to the box: divided by its sides, times those the content wants.

    Section 4 of the paper: modulated positional attention.
    """

    def __init__(self, embed_dim: int):
        super().__init__(embed_dim)
        self.size = MLP(embed_dim, embed_dim, 2, 2)
        init_transformer(self.size)

    def forward(
        self, layer: int, reference: Tensor, content: Tensor, position: Tensor | None = None
    ) -> Tensor:
        """A :data:`SpatialFunction` of boxes (B, Q, 4)."""
        y, x = super().forward(layer, reference, content).chunk(2, -1)
        sides = self.size(content).sigmoid() / reference[..., 2:].clamp(min=SMALLEST)
        width, height = sides.split(1, -1)
        return torch.cat((y * height, x * width), -1).to(content.dtype)


class DABInitializer(QueryInitializer):
    """Learned anchors; position and spatial query follow the boxes.

    Args:
        fixed_centers: see :class:`Anchors`.
        learned_content: all queries start with one learned content instead of zero, as in DN-DETR
            (arXiv:2203.01305), where it stands for an unknown label.
    """

    moving_positions = True

    def __init__(
        self,
        num_queries: int,
        embed_dim: int,
        fixed_centers: bool = False,
        extra_queries: Sequence[int] = (),
        learned_content: bool = False,
    ):
        super().__init__(num_queries, embed_dim, extra_queries)
        self.content = nn.Parameter(torch.randn(1, embed_dim)) if learned_content else None
        self.anchors = Anchors(self.count(supervised=True), fixed_centers)
        self.position = BoxPosition(embed_dim)
        self.spatial = ModulatedQuery(embed_dim)

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Anchors (B, Q, 4) as references, which learn; nothing is predicted."""
        reference = self.anchors(memory.tokens.shape[0], self.count(supervised))
        content = memory.tokens.new_zeros(*reference.shape[:2], self.embed_dim)
        if self.content is not None:
            content = content + self.content
        return Queries(content, self.position, reference, spatial=self.spatial), Predictions({})

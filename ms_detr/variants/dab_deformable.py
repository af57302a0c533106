"""DAB-Deformable-DETR: learned anchor boxes as queries (arXiv:2201.12329, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers.boxes import inverse_sigmoid
from ..layers.query_position import BoxPosition
from ..modeling import QueryInitializer
from ..structures import Memory, Predictions, Queries


class Anchors(nn.Module):
    """Boxes that are the same for every image, kept as logits.

    Args:
        fixed_centers: scatter the centres evenly and never train them.
    """

    def __init__(self, num_anchors: int, fixed_centers: bool = False):
        super().__init__()
        self.sizes = nn.Parameter(torch.randn(num_anchors, 2))
        if fixed_centers:
            self.register_buffer("centers", inverse_sigmoid(torch.rand(num_anchors, 2)))
        else:
            self.centers = nn.Parameter(torch.randn(num_anchors, 2))

    def forward(self, batch: int) -> Tensor:
        """(B, Q, 4)."""
        return torch.cat((self.centers, self.sizes), -1).sigmoid().expand(batch, -1, -1)


class AnchorInitializer(QueryInitializer):
    """Learned content and anchors; the position follows the boxes through the layers."""

    def __init__(self, num_queries: int, embed_dim: int):
        super().__init__(num_queries, embed_dim)
        self.anchors = Anchors(num_queries)
        self.content = nn.Parameter(torch.randn(num_queries, embed_dim))
        self.position = BoxPosition(embed_dim, scaled=True)

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Anchors (B, Q, 4) as references, which learn; nothing is predicted."""
        reference = self.anchors(len(memory.tokens))
        content = self.content.expand(len(reference), -1, -1)
        position = self.position.on_first_level(memory.grid)
        return Queries(content, position, reference), Predictions({})

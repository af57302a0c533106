"""DAB-Deformable-DETR: learned anchor boxes as queries (arXiv:2201.12329, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.boxes import inverse_sigmoid
from ..layers.query_position import BoxPosition
from ..modeling import QueryInitializer
from ..structures import Memory, Predictions, Queries, Rows, at_least_single


class Anchors(nn.Module):
    """Boxes that are the same for every image, kept as logits.

    Args:
        fixed_centers: scatter the centres evenly and never train them.
    """

    def __init__(self, num_anchors: int, fixed_centers: bool = False):
        super().__init__()
        self.sizes = nn.Parameter(torch.randn(num_anchors, 2))
        if fixed_centers:
            self.register_buffer("centers", inverse_sigmoid(torch.rand(num_anchors, 2), 1e-3))
        else:
            self.centers = nn.Parameter(torch.randn(num_anchors, 2))

    def rows(self) -> dict[str, Rows]:
        """See `ms_detr.structures.HasRows`."""
        return {"sizes": Rows.NUMBERED, "centers": Rows.NUMBERED}

    def forward(self, batch: int, count: int | None = None) -> Tensor:
        """The first ``count`` or all, (B, count, 4)."""
        logits = torch.cat((self.centers[:count], self.sizes[:count]), -1)
        return at_least_single(logits).sigmoid().expand(batch, -1, -1)


class AnchorInitializer(QueryInitializer):
    """Learned content and anchors; the position follows the boxes through the layers."""

    moving_positions = True

    def __init__(self, num_queries: int, embed_dim: int, extra_queries: Sequence[int] = ()):
        super().__init__(num_queries, embed_dim, extra_queries)
        count = self.count(supervised=True)
        self.anchors = Anchors(count)
        self.content = nn.Parameter(torch.randn(count, embed_dim))
        self.position = BoxPosition(embed_dim, scaled=True)

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Anchors (B, Q, 4) as references, which learn; nothing is predicted."""
        count = self.count(supervised)
        reference = self.anchors(memory.tokens.shape[0], count)
        content = self.content[:count].expand(reference.shape[0], -1, -1)
        position = self.position.on_first_level(memory.grid)
        return Queries(content, position, reference), Predictions({})

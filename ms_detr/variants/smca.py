"""SMCA's queries (arXiv:2101.07448, section 3.2): learned positions, each with a centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import MLP
from ..layers.transformer import init_transformer
from ..structures import Memory, Predictions, Queries
from .detr import PositionInitializer


class SMCAInitializer(PositionInitializer):
    """Centres from the positions; they stay, while every layer makes offsets and scales of its own.

    What offsets and scales are made of, ``Queries.spatial``, is a norm of the layer's input and the
    position; in the first layer so is the centre, whose content is zero.

    Args:
        num_layers: of the decoder, a norm each.
    """

    def __init__(
        self,
        num_queries: int,
        embed_dim: int,
        extra_queries: Sequence[int] = (),
        num_layers: int = 6,
    ):
        super().__init__(num_queries, embed_dim, extra_queries)
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(num_layers))
        self.center = MLP(embed_dim, embed_dim, 2, 3)
        init_transformer(self.center)

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Centres (B, Q, 2) as references, which learn; nothing is predicted."""
        queries, predictions = super().forward(memory, supervised)
        centers = self.center(self.norms[0](self.position[: queries.count]))
        centers = centers.to(queries.reference).sigmoid().expand_as(queries.reference)
        return replace(queries, reference=centers, spatial=self.states), predictions

    def states(self, layer: int, reference: Tensor, content: Tensor, position: Tensor) -> Tensor:
        """A :data:`SpatialFunction`."""
        if layer >= len(self.norms):
            raise ConfigError(
                f"model.query_initializer.num_layers is {len(self.norms)}, the decoder has more: "
                "link it with '${model.decoder.num_layers}'"
            )
        return self.norms[layer](content + position)

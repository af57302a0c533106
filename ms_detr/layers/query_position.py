"""What tells queries where they are, recomputed in every decoder layer."""

from __future__ import annotations

from torch import Tensor, nn

from ..structures import PositionFunction, TokenGrid
from .position import sine_embedding
from .transformer import MLP, init_transformer

# Sine embeddings have y before x, as the grid's have.
YX = [1, 0]
YXWH = [1, 0, 2, 3]


class ContentScale(nn.Module):
    """A factor for every channel of a position, from the query's content; 1 in the first layer.

    Conditional DETR, arXiv:2108.06152, section 3.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.mlp = MLP(embed_dim, embed_dim, embed_dim, 2)
        init_transformer(self.mlp)

    def forward(self, layer: int, position: Tensor, content: Tensor) -> Tensor:
        """Scale a position (B, Q, C) by content (B, Q, C)."""
        return position if layer == 0 else position * self.mlp(content)


class BoxPosition(nn.Module):
    """A position from the sine embedding of a box (DAB-DETR, arXiv:2201.12329, section 4).

    Args:
        scaled: by the content, with a :class:`ContentScale`.
    """

    def __init__(self, embed_dim: int, scaled: bool = False):
        super().__init__()
        self.channels = embed_dim // 2
        self.mlp = MLP(2 * embed_dim, embed_dim, embed_dim, 2)
        init_transformer(self.mlp)
        self.scale = ContentScale(embed_dim) if scaled else None

    def forward(self, layer: int, reference: Tensor, content: Tensor) -> Tensor:
        """A :data:`PositionFunction` of boxes (B, Q, 4)."""
        position = self.mlp(_embed(reference[..., YXWH], self.channels, content))
        return position if self.scale is None else self.scale(layer, position, content)

    def on_first_level(self, grid: TokenGrid) -> PositionFunction:
        """The same for boxes as they lie on the padded first level of a pyramid."""

        def position(layer: int, reference: Tensor, content: Tensor) -> Tensor:
            return self(layer, grid.scale_to_levels(reference)[:, :, 0], content)

        return position


class SpatialQuery(nn.Module):
    """The sine embedding of a reference's centre, scaled by the content.

    Conditional DETR, arXiv:2108.06152, section 3.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.channels = embed_dim // 2
        self.scale = ContentScale(embed_dim)

    def forward(
        self, layer: int, reference: Tensor, content: Tensor, position: Tensor | None = None
    ) -> Tensor:
        """A :data:`SpatialFunction` of points or boxes (B, Q, 2 or 4); y's half comes first."""
        return self.scale(layer, _embed(reference[..., YX], self.channels, content), content)


def center_position(layer: int, reference: Tensor, content: Tensor) -> Tensor:
    """The sine embedding of a reference's centre, without gradient; a :data:`PositionFunction`.

    SAM-DETR, arXiv:2203.06883.
    """
    return _embed(reference[..., YX].detach(), content.shape[-1] // 2, content)


def _embed(places: Tensor, channels: int, content: Tensor) -> Tensor:
    """Places keep the grid's precision; the content they are made for may have half of it."""
    return sine_embedding(places, channels).to(content.dtype)

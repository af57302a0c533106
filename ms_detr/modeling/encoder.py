"""The deformable encoder."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers.transformer import FFN, DeformableSublayer, LayerContext, stack
from ..structures import FeaturePyramid, Memory, TokenGrid


class EncoderLayer(nn.Module):
    """Deformable attention of the tokens to all levels, then an FFN."""

    def __init__(self, attention: DeformableSublayer, ffn: FFN):
        super().__init__()
        self.attention = attention
        self.ffn = ffn

    def forward(
        self, tokens: Tensor, position: Tensor, reference: Tensor, grid: TokenGrid
    ) -> Tensor:
        """One layer; tokens and position (B, S, C), reference (B, S, V, 2)."""
        context = LayerContext(position, reference, Memory(tokens, grid))
        return self.ffn(self.attention(tokens, context))


class Encoder(nn.Module):
    """``num_layers`` copies of ``layer`` over the feature pyramid (arXiv:2010.04159, 4.1)."""

    def __init__(self, layer: EncoderLayer, num_layers: int):
        super().__init__()
        self.layers = stack(layer, num_layers)

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """Every token looks from its own centre."""
        grid = pyramid.grid
        reference = grid.scale_to_levels(grid.centers())
        tokens = pyramid.tokens
        for layer in self.layers:
            tokens = layer(tokens, pyramid.position, reference, grid)
        return Memory(tokens, grid)

"""The encoder."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.transformer import FFN, LayerContext, Sublayer, init_transformer, stack
from ..structures import FeaturePyramid, Memory, TokenGrid


class EncoderLayer(nn.Module):
    """Attention of the tokens to each other, deformable or dense, then an FFN.

    Args:
        attention: from the tokens to themselves.
        ffn: what follows it.
    """

    def __init__(self, attention: Sublayer, ffn: FFN):
        super().__init__()
        self.attention = attention
        self.ffn = ffn

    def forward(
        self, tokens: Tensor, position: Tensor, reference: Tensor, grid: TokenGrid
    ) -> Tensor:
        """One layer; tokens and position (B, S, C), reference (B, S, 2)."""
        context = LayerContext(position, reference, Memory(tokens, grid, position))
        return self.ffn(self.attention(tokens, context))


class Encoder(nn.Module):
    """``num_layers`` copies of ``layer`` over the feature pyramid (arXiv:2010.04159, 4.1).

    Args:
        layer: what every layer is a copy of.
        num_layers: layers.
        position_scale: from a layer's input to a factor for every channel of the positions, shared
            by the layers (DAB-DETR, arXiv:2201.12329).
        middle_layer: takes the place of the one in the middle (SMCA, arXiv:2101.07448, 3.3).
    """

    def __init__(
        self,
        layer: EncoderLayer,
        num_layers: int,
        position_scale: nn.Module | None = None,
        middle_layer: EncoderLayer | None = None,
    ):
        super().__init__()
        if middle_layer is not None and num_layers % 2 == 0:
            raise ConfigError(
                "model.encoder.middle_layer needs an odd model.encoder.num_layers, got "
                f"{num_layers}"
            )
        others = {} if middle_layer is None else {num_layers // 2: middle_layer}
        self.layers = stack(layer, num_layers, others)
        self.position_scale = position_scale
        if position_scale is not None:
            init_transformer(position_scale)

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """Every token looks from its own centre."""
        grid = pyramid.grid
        reference = grid.centers()
        tokens = pyramid.tokens
        for layer in self.layers:
            position = pyramid.position
            if self.position_scale is not None:
                position = position * self.position_scale(tokens)
            tokens = layer(tokens, position, reference, grid)
        return Memory(tokens, grid, pyramid.position)

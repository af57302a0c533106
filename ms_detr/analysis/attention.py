"""What the decoder's cross-attention is called with, and what its queries read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import LayerContext, TokenReader
from ..meta_arch import GeneralizedDETR
from ..modeling import DecoderLayer

CROSS_ATTENTION = "cross_attention"


def cross_attentions(model: GeneralizedDETR) -> list[nn.Module]:
    """The sublayers by which the decoder's layers read the image."""
    layers = (cast(DecoderLayer, layer) for layer in model.decoder.layers)
    return [layer.sublayers[CROSS_ATTENTION] for layer in layers]


@dataclass(frozen=True)
class Call:
    """One sublayer, and what it was called with: queries (B, Q, C) and what else it looks at."""

    sublayer: nn.Module
    x: Tensor
    context: LayerContext

    def of(self, chosen: Tensor) -> Call:
        """The call of some queries (n,)."""
        context = replace(
            self.context,
            position=self.context.position[:, chosen],
            reference=self.context.reference[:, chosen],
            spatial=None if self.context.spatial is None else self.context.spatial[:, chosen],
        )
        return replace(self, x=self.x[:, chosen], context=context)

    def token_weights(self, chosen: Tensor) -> Tensor:
        """How much some queries (n,) take of each token, (B, n, S).

        Raises:
            ConfigError: the sublayer can't tell.
        """
        if not isinstance(self.sublayer, TokenReader):
            raise ConfigError(
                f"{type(self.sublayer).__name__}, this model's cross-attention, can't tell how "
                "much it reads of each token: give it a method token_weights"
            )
        some = self.of(chosen)
        return self.sublayer.token_weights(some.x, some.context)


@contextmanager
def watched(model: GeneralizedDETR) -> Iterator[list[Call]]:
    """Write down the calls of the decoder's cross-attention, layer by layer, in the block."""
    calls: list[Call] = []

    def watch(module: nn.Module, arguments: tuple[Tensor, LayerContext]) -> None:
        calls.append(Call(module, *arguments))

    handles = [module.register_forward_pre_hook(watch) for module in cross_attentions(model)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()

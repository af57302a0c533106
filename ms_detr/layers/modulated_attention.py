"""Attention to the memory that Gaussian maps narrow down (SMCA, arXiv:2101.07448)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .gaussian import HeadGaussians
from .transformer import LayerContext, MultiHeadSublayer


@dataclass(frozen=True)
class Compared:
    """What the queries see of one level.

    Attributes:
        query: (B, heads, Q, C / heads).
        key, value: (B, heads, h * w, C / heads).
        bias: (B, heads, Q, h * w), added to the logits; minus infinity for padding.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor

    def read(self, dropout: float) -> Tensor:
        """(B, heads, Q, C / heads)."""
        return F.scaled_dot_product_attention(
            self.query, self.key, self.value, self.bias, dropout_p=dropout
        )

    def weights(self) -> Tensor:
        """How much each query reads of each token, (B, Q, h * w), a mean over heads."""
        logits = self.query @ self.key.transpose(2, 3) / self.query.shape[3] ** 0.5
        return (logits + self.bias).softmax(3).mean(1)


class ModulatedAttention(MultiHeadSublayer):
    """Spatially modulated co-attention: dense attention, plus the logarithm of a Gaussian.

    The Gaussians' centre is the query's reference, their offsets and scales come from
    ``context.spatial``. Of several levels each is attended to by itself; how much of each a query
    takes is up to its ``context.spatial``, too (sections 3.2 and 3.3).

    Args:
        num_levels: of the memory.
        scales, smoothing: see :class:`HeadGaussians`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        num_levels: int = 1,
        scales: int = 2,
        smoothing: float = 8.0,
    ):
        super().__init__(embed_dim, num_heads, dropout)
        self.gaussians = nn.ModuleList(
            HeadGaussians(embed_dim, num_heads, scales, smoothing) for _ in range(num_levels)
        )
        self.selection = nn.Linear(embed_dim, num_levels) if num_levels > 1 else None

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        dropout = self.attention.dropout if self.training else 0.0
        levels = [level.read(dropout) for level in self._levels(x, context)]
        if self.selection is None:
            (read,) = levels
        else:
            shares = self._shares(context)[:, None]
            read = (torch.stack(levels, -1) * shares[..., None, :]).sum(-1)
        return self.add(x, self.attention.out_proj(read.transpose(1, 2).flatten(2)))

    def token_weights(self, x: Tensor, context: LayerContext) -> Tensor:
        """See :class:`TokenReader`."""
        levels = [level.weights() for level in self._levels(x, context)]
        if self.selection is None:
            return levels[0]
        shares = self._shares(context).split(1, -1)
        return torch.cat([w * share for w, share in zip(levels, shares, strict=True)], -1)

    def maps(self, context: LayerContext) -> list[Tensor]:
        """Logarithms of the Gaussians on every level, (B, heads, Q, h * w) each."""
        grid, states = context.memory.grid, context.spatial
        if states is None:
            raise ConfigError(
                "modulated attention asks for states of the queries at the layer's start, which "
                "this query initialiser doesn't make: take SMCAInitializer"
            )
        if len(grid.level_shapes) != len(self.gaussians):
            raise ConfigError(
                f"model.decoder.layer.cross_attention.num_levels is {len(self.gaussians)}, but the "
                f"neck makes {len(grid.level_shapes)} levels"
            )
        centers = context.reference[:, :, None, :2] * grid.extents()[:, None]
        levels = zip(self.gaussians, centers.unbind(2), grid.level_shapes, strict=True)
        return [gaussians(states, center, shape) for gaussians, center, shape in levels]

    def _levels(self, x: Tensor, context: LayerContext) -> Iterator[Compared]:
        memory = context.memory
        query, keys, values = self.project(
            x + context.position, memory.tokens + memory.position, memory.tokens
        )
        sizes = memory.grid.level_sizes
        parts = (
            keys.split(sizes, 2),
            values.split(sizes, 2),
            memory.grid.padding_mask.split(sizes, 1),
        )
        for key, value, padding, bias in zip(*parts, self.maps(context), strict=True):
            bias = bias.masked_fill(padding[:, None, None], -torch.inf)
            yield Compared(query, key, value, narrowed(bias, query.dtype))

    def _shares(self, context: LayerContext) -> Tensor:
        """How much of each level the queries take, (B, Q, V), adding up to 1."""
        shares: Tensor = cast(nn.Linear, self.selection)(context.spatial).softmax(-1)
        return shares


def narrowed(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """A bias in another precision.

    Softmax doesn't see what a row is shifted by: with its largest at 0 half precision neither
    overflows nor loses the differences around it.
    """
    if bias.dtype == dtype:
        return bias
    return (bias - bias.amax(-1, keepdim=True).detach()).to(dtype)

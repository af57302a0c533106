"""Sublayers of a post-norm transformer, and how they are initialised and stacked."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..structures import Memory
from .attention import Visibility, attend
from .deformable_attention import DeformableAttention, check_heads
from .gaussian import HeadGaussians


@dataclass(frozen=True)
class LayerContext:
    """What a sublayer may look at besides its input.

    Attributes:
        position: (B, Q, C), added to queries and keys.
        reference: (B, Q, 2 or 4), the queries' points or boxes.
        memory: the encoded image.
        visibility: which queries see which; None: all see all.
        spatial: (B, Q, C) or None; see :class:`Queries`.
    """

    position: Tensor
    reference: Tensor
    memory: Memory
    visibility: Visibility | None = None
    spatial: Tensor | None = None


class Sublayer(nn.Module):
    """Post-norm residual: ``LayerNorm(x + Dropout(update))``."""

    def __init__(self, embed_dim: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.norm.normalized_shape[0], "dropout": self.dropout.p}

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        """Close the residual branch; both (B, Q, C)."""
        return self.norm(x + self.dropout(update))


@runtime_checkable
class TokenReader(Protocol):
    """A sublayer that reads the memory and can tell what it reads."""

    def token_weights(self, x: Tensor, context: LayerContext) -> Tensor:
        """How much each query takes of each token, (B, Q, S), a mean over heads."""


class MultiHeadSublayer(Sublayer):
    """With the parameters of ``nn.MultiheadAttention``; dropout also on the attention weights."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__(embed_dim, dropout)
        check_heads(embed_dim, num_heads)
        self.attention = nn.MultiheadAttention(
            embed_dim, num_heads, dropout=dropout, batch_first=True
        )

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return super().built_with() | {"num_heads": self.attention.num_heads}

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Each (B, n, C) -> (B, heads, n, C / heads)."""
        attention = self.attention
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        return [
            F.linear(x, weight, bias).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]


class SelfAttention(MultiHeadSublayer):
    """Multi-head attention among the queries; blocks that do not see each other attend apart."""

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        attention, dim = self.attention, x.shape[-1]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        queries_and_keys = F.linear(x + context.position, weight[: 2 * dim], bias[: 2 * dim])
        values = F.linear(x, weight[2 * dim :], bias[2 * dim :])
        query, key, value = (
            part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for part in (*queries_and_keys.chunk(2, 2), values)
        )
        dropout = attention.dropout if self.training else 0.0
        update = attend(query, key, value, context.visibility, dropout).transpose(1, 2).flatten(2)
        return self.add(x, attention.out_proj(update))


class DeformableSublayer(Sublayer):
    """Deformable attention from the queries to the memory, or from the tokens to themselves."""

    def __init__(self, embed_dim: int, attention: DeformableAttention, dropout: float = 0.0):
        super().__init__(embed_dim, dropout)
        self.attention = attention

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        update = self.attention(x + context.position, context.reference, context.memory)
        return self.add(x, update)

    def token_weights(self, x: Tensor, context: LayerContext) -> Tensor:
        """See :class:`TokenReader`."""
        query = x + context.position
        return self.attention.token_weights(query, context.reference, context.memory)


class FFN(Sublayer):
    """Two linear layers with an activation; dropout also behind that.

    Args:
        embed_dim: channels of the input and the output.
        feedforward_dim: channels between the layers.
        dropout: of the activation, and of what is added to the input.
        activation: ReLU unless told.
    """

    def __init__(
        self,
        embed_dim: int,
        feedforward_dim: int,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
    ):
        super().__init__(embed_dim, dropout)
        if feedforward_dim < 1:
            raise ConfigError(f"model.feedforward_dim must be at least 1, got {feedforward_dim}")
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.activation = activation if activation is not None else nn.ReLU()

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return super().built_with() | {"feedforward_dim": self.linear1.out_features}

    def forward(self, x: Tensor, context: LayerContext | None = None) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        return self.add(x, self.linear2(self.dropout(self.activation(self.linear1(x)))))


class MLP(nn.Sequential):
    """``num_layers`` linear layers with ReLU between them.

    Args:
        in_dim: channels of the input.
        hidden_dim: channels between the layers.
        out_dim: channels of the output.
        num_layers: linear layers.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        dims = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(dims):
            modules += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*modules[:-1])


def init_transformer(module: nn.Module) -> None:
    """Xavier for every matrix; what starts otherwise then takes its own initialisation."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for child in module.modules():
        if isinstance(child, DeformableAttention):
            child.reset_parameters()
        elif isinstance(child, HeadGaussians):
            child.reset_scales()


def stack(
    layer: nn.Module, num_layers: int, others: Mapping[int, nn.Module] = MappingProxyType({})
) -> nn.ModuleList:
    """``num_layers`` copies of ``layer``, each drawn anew by :func:`init_transformer`.

    Args:
        others: take the place of the copies of these numbers.
    """
    originals = (others.get(index, layer) for index in range(num_layers))
    layers = nn.ModuleList(copy.deepcopy(original) for original in originals)
    init_transformer(layers)
    return layers

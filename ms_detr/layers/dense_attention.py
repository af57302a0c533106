"""Sublayers that attend to every token of the memory, and conditional attention.

Conditional DETR: arXiv:2108.06152, section 3.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend
from .deformable_attention import check_heads
from .transformer import LayerContext, MultiHeadSublayer, Sublayer


class DenseAttention(MultiHeadSublayer):
    """Multi-head attention from the queries to the memory, or from the tokens to themselves.

    DETR, arXiv:2005.12872, appendix A.3.
    """

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        return self.add(x, self._attend(x, context, need_weights=False)[0])

    def token_weights(self, x: Tensor, context: LayerContext) -> Tensor:
        """See :class:`TokenReader`."""
        return self._attend(x, context, need_weights=True)[1]

    def _attend(
        self, x: Tensor, context: LayerContext, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What is read (B, Q, C) and, if wanted, how much of each token (B, Q, S)."""
        memory = context.memory
        return self.attention(
            x + context.position,
            memory.tokens + memory.position,
            memory.tokens,
            key_padding_mask=memory.grid.padding_mask,
            need_weights=need_weights,
        )


class IntraScaleAttention(DenseAttention):
    """Tokens attend to those of their own level, by the same weights on all levels.

    SMCA, arXiv:2101.07448, section 3.3. It is of encoders alone: queries have no level.
    """

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        memory = context.memory
        sizes = memory.grid.level_sizes
        parts = zip(x.split(sizes, 1), context.position.split(sizes, 1), strict=True)
        levels = [
            super(IntraScaleAttention, self).forward(
                tokens, replace(context, position=position, memory=memory.level(index))
            )
            for index, (tokens, position) in enumerate(parts)
        ]
        return torch.cat(levels, 1)


class SplitAttention(Sublayer):
    """What both conditional sublayers share: projections of their own for content and position."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__(embed_dim, dropout)
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        for name in ("content_query", "position_query", "content_key", "position_key", "value"):
            self.add_module(name, nn.Linear(embed_dim, embed_dim))
        self.output = nn.Linear(embed_dim, embed_dim)
        nn.init.zeros_(self.output.bias)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return super().built_with() | {"num_heads": self.num_heads}

    def split(self, x: Tensor) -> Tensor:
        """(B, n, C) -> (B, heads, n, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    @property
    def weights_dropout(self) -> float:
        """Dropout of the attention weights, as it is now."""
        return self.dropout.p if self.training else 0.0

    def close(self, x: Tensor, read: Tensor) -> Tensor:
        """Join the heads of what was read (B, heads, Q, d), project it, add it to x (B, Q, C)."""
        return self.add(x, self.output(read.transpose(1, 2).flatten(2)))


class ConditionalSelfAttention(SplitAttention):
    """Attention among the queries; content and position are projected apart, then added."""

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        query = self.content_query(x) + self.position_query(context.position)
        key = self.content_key(x) + self.position_key(context.position)
        query, key, value = (self.split(part) for part in (query, key, self.value(x)))
        return self.close(x, attend(query, key, value, context.visibility, self.weights_dropout))


class ConditionalAttention(SplitAttention):
    """Attention to the memory that compares contents and places apart.

    In every head the query is a content part beside the spatial query, the key the token's content
    beside its position.

    Args:
        first_layer: add the positions to the contents too, as the first layer does, whose queries
            have no content yet.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, first_layer: bool = False
    ):
        super().__init__(embed_dim, num_heads, dropout)
        self.first_query = nn.Linear(embed_dim, embed_dim) if first_layer else None

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        memory = context.memory
        read = F.scaled_dot_product_attention(
            *self._compared(x, context),
            self.split(self.value(memory.tokens)),
            attn_mask=~memory.grid.padding_mask[:, None, None],
            dropout_p=self.weights_dropout,
        )
        return self.close(x, read)

    def token_weights(self, x: Tensor, context: LayerContext) -> Tensor:
        """See :class:`TokenReader`."""
        query, key = self._compared(x, context)
        logits = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        padding = context.memory.grid.padding_mask[:, None, None]
        return logits.masked_fill(padding, -torch.inf).softmax(3).mean(1)

    def _compared(self, x: Tensor, context: LayerContext) -> tuple[Tensor, Tensor]:
        """Queries (B, heads, Q, 2 C / heads) and keys (B, heads, S, 2 C / heads)."""
        memory = context.memory
        query, key = self.content_query(x), self.content_key(memory.tokens)
        place = self.position_key(memory.position)
        if self.first_query is not None:
            query, key = query + self.first_query(context.position), key + place
        query = self.beside(query, self.position_query(context.spatial))
        return query, self.beside(key, place)

    def beside(self, content: Tensor, place: Tensor) -> Tensor:
        """Two (B, n, C) -> (B, heads, n, 2 C / heads)."""
        return torch.cat((self.split(content), self.split(place)), -1)

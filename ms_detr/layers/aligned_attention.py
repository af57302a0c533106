"""Cross-attention of SAM-DETR (arXiv:2203.06883): queries are aligned before they are compared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..structures import TokenGrid
from .dense_attention import SplitAttention
from .gaussian import log_gaussian
from .modulated_attention import narrowed
from .semantics_aligner import AlignedQueries, SemanticsAligner, in_cells, only_shape
from .transformer import MLP, LayerContext


class GaussianModulation:
    """SMCA's Gaussian maps (arXiv:2101.07448, Eq. 4), around the salient points.

    Args:
        smoothing: see `log_gaussian`.
    """

    num_scales = 2  # of the distances in x and y, predicted with every point

    def __init__(self, smoothing: float = 8.0):
        if smoothing <= 0:
            raise ConfigError(
                "model.decoder.layer.cross_attention.modulation.smoothing must be above 0, "
                f"got {smoothing}"
            )
        self.smoothing = smoothing

    def __call__(self, aligned: AlignedQueries, grid: TokenGrid) -> Tensor:
        """What is added to the logits, (B, Q, heads, S), for a grid of one level."""
        centers = in_cells(aligned.points, grid)
        return log_gaussian(centers, aligned.scales, only_shape(grid), 0.5, self.smoothing)


class SemanticAlignedAttention(SplitAttention):
    """Attention to one map; in every head all channels of an aligned query ask.

    The heads share their keys, and differ in query and value.

    Args:
        modulation: narrows the attention of each head to the surroundings of its point.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        modulation: GaussianModulation | None = None,
    ):
        super().__init__(embed_dim, num_heads, dropout)
        for name in ("position_query", "position_key"):
            self.add_module(name, MLP(embed_dim, embed_dim, embed_dim, 2))
        num_scales = 0 if modulation is None else modulation.num_scales
        self.aligner = SemanticsAligner(embed_dim, num_heads, num_scales)
        self.modulation = modulation

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        query, key, mask = self._compared(x, context)
        value = self.value(context.memory.tokens)
        read = attend_shared(query, key, value, mask, self.weights_dropout)
        return self.close(x, read)

    def token_weights(self, x: Tensor, context: LayerContext) -> Tensor:
        """See :class:`TokenReader`."""
        return self.head_weights(x, context).mean(1)

    def head_weights(self, x: Tensor, context: LayerContext) -> Tensor:
        """How much each query takes of each token in each head, (B, heads, Q, S)."""
        query, key, mask = self._compared(x, context)
        logits = (query @ key.mT[:, None]) / query.shape[3] ** 0.5
        return (logits + mask).softmax(3).transpose(1, 2)

    def align(self, x: Tensor, context: LayerContext) -> AlignedQueries:
        """What the queries x (B, Q, C) become."""
        aligned: AlignedQueries = self.aligner(x, context.reference, context.memory)
        return aligned

    def _compared(self, x: Tensor, context: LayerContext) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, Q, heads, C), keys (B, S, C), and what is added to their products.

        That is (B, 1 or Q, 1 or heads, S): -inf in padding.
        """
        memory, aligned = context.memory, self.align(x, context)
        query = self.content_query(aligned.content) + self.position_query(aligned.position)
        key = self.content_key(memory.tokens) + self.position_key(memory.position)
        padding = memory.grid.padding_mask[:, None, None]
        if self.modulation is None:
            bias = torch.zeros_like(padding, dtype=query.dtype)
        else:
            bias = self.modulation(aligned, memory.grid)
        mask = narrowed(bias.masked_fill(padding, -torch.inf), query.dtype)
        return query, key, mask


def attend_shared(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float = 0.0
) -> Tensor:
    """Attention whose heads share the keys, and have parts of the values each.

    Heads count as further queries, which read all channels, and then keep their own. So keys are
    never repeated, and fused kernels take it, whose keys and values are of one size:
    ``ms-detr benchmark aligned`` compares with the naive form.

    Args:
        query: (B, Q, heads, E).
        key: (B, S, E).
        value: (B, S, C).
        mask: (B, 1 or Q, 1 or heads, S), added to the logits.

    Returns:
        (B, heads, Q, C / heads).
    """
    shape = query.shape[1:3]
    query, key, value, mask = (
        x[:, None] for x in (query.flatten(1, 2), key, value, mask.flatten(1, 2))
    )
    read = F.scaled_dot_product_attention(query, key, value, mask, dropout)
    read = read[:, 0].unflatten(1, shape).unflatten(3, (shape[1], -1))
    return read.diagonal(dim1=2, dim2=3).permute(0, 3, 1, 2)

"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, section 4.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..ops import fused_deformable_attention
from ..ops.reference import attention_weights, sampling_locations
from ..structures import Memory


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise ConfigError unless the channels can be split into the heads."""
    if num_heads < 1 or embed_dim % num_heads:
        raise ConfigError(f"model.embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")


class DeformableAttention(nn.Module):
    """Each query reads ``num_points`` places a level and head, at offsets it predicts itself.

    Args:
        embed_dim: channels, a multiple of ``num_heads``.
        num_heads: heads, each with places and weights of its own.
        num_levels: feature levels of the memory.
        num_points: places that a head reads in each level.
    """

    def __init__(
        self, embed_dim: int, num_heads: int = 8, num_levels: int = 4, num_points: int = 4
    ):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.value_proj.in_features, "num_heads": self.num_heads}

    def reset_parameters(self) -> None:
        """Heads look in a ring of directions, points at growing distance, weights uniform."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        ring = direction[:, None, None] * distance[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """Read the memory around the references.

        Args:
            query: (B, Q, C).
            reference: points (B, Q, 2) or boxes (B, Q, 4).

        Returns:
            (B, Q, C).
        """
        value = self.value_proj(memory.tokens)
        value = value.masked_fill(memory.grid.padding_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))
        offsets, logits = self._predict(query)
        reference = memory.grid.scale_to_levels(reference)
        attended = fused_deformable_attention(
            value, memory.grid.level_shapes, reference, offsets, logits
        )
        return self.output_proj(attended)

    def _predict(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, Q, heads, V, points, 2) and logits (B, Q, heads, V, points)."""
        per_level = (*query.shape[:2], self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).view(*per_level, 2)
        return offsets, self.attention_weights(query).view(per_level)

    def samples(self, query: Tensor, reference: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Where the queries look and how much each place counts; arguments as in a call.

        Returns:
            Locations (B, Q, heads, V, points, 2) as (x, y) in [0, 1] of each padded level, and
            weights (B, Q, heads, V, points), 1 together for each head.
        """
        offsets, logits = self._predict(query)
        reference = memory.grid.scale_to_levels(reference)
        locations = sampling_locations(reference, offsets, memory.grid.level_shapes)
        return locations, attention_weights(logits)

    def token_weights(self, query: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """How much each query takes of each token, (B, Q, S), a mean over heads.

        What is read between tokens counts for the four around it, as they are interpolated.
        Arguments as in a call.
        """
        locations, weights = self.samples(query, reference, memory)
        levels = zip(locations.unbind(3), weights.unbind(3), memory.grid.level_shapes, strict=True)
        maps = [splat(x.flatten(2, 3), w.flatten(2, 3), shape) for x, w, shape in levels]
        return torch.cat([level.flatten(2) for level in maps], 2) / self.num_heads


def splat(locations: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    """Spread weights over the cells that bilinear interpolation reads; outside they are lost.

    Args:
        locations: (..., N, 2) as (x, y) in [0, 1] of the map.
        weights: (..., N).
        shape: (height, width) of the map.

    Returns:
        (..., height, width).
    """
    rows, columns = (
        (1 - (at[..., None] * size - 0.5 - torch.arange(size).to(at)).abs()).clamp(min=0)
        for at, size in ((locations[..., 1], shape[0]), (locations[..., 0], shape[1]))
    )
    return (weights[..., None] * rows).transpose(-1, -2) @ columns

"""Gaussian maps over a feature map, as logarithms that are added to attention's logits.

SMCA, arXiv:2101.07448, equations 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError


def log_gaussian(
    centers: Tensor,
    scales: Tensor,
    shape: Sequence[int],
    offset: float,
    smoothing: float = 8.0,
) -> Tensor:
    """Minus the squared, scaled distance of every cell to a centre, over ``smoothing``.

    Unlike in equation 3 a scale multiplies distances, as in the published code; 0 at the centre.

    Args:
        centers: (..., 2) in cells as (x, y), which may lie outside of the map.
        scales: (..., 2) for the distances in x and y, or (..., 3): the third for their product.
        shape: (height, width) of the map.
        offset: where in a cell its place is, 0.5 for the middle.

    Returns:
        (..., height * width) in the precision of ``centers``.
    """
    if smoothing <= 0:
        raise ConfigError(f"smoothing of a Gaussian map must be above 0, got {smoothing}")
    height, width = shape
    x, y = (
        (torch.arange(count, dtype=centers.dtype, device=centers.device) + offset - center).square()
        for count, center in zip((width, height), centers.split(1, -1), strict=True)
    )
    weights = scales.to(centers.dtype).square().split(1, -1)
    distance = (y * weights[1])[..., :, None] + (x * weights[0])[..., None, :]
    if len(weights) == 3:
        distance = distance + (y * weights[2])[..., :, None] * x[..., None, :]
    return distance.flatten(-2) / -smoothing


class HeadGaussians(nn.Module):
    """A Gaussian map a head around each query's centre (section 3.2).

    Args:
        scales: how many each head learns, all starting at 1: 2 for x and y; 3, another one for the
            product of both distances; 1, the same for x and y; with 0 both stay 1. The published
            code calls them types 3, 4, 2 and 1.
        smoothing: see :func:`log_gaussian`.
    """

    def __init__(self, embed_dim: int, num_heads: int, scales: int = 2, smoothing: float = 8.0):
        super().__init__()
        if scales not in range(4):
            raise ConfigError(f"a head has 0 to 3 scales, got {scales}")
        self.num_heads = num_heads
        self.smoothing = smoothing
        self.offset = nn.Linear(embed_dim, 2 * num_heads)
        self.scale = nn.Linear(embed_dim, scales * num_heads) if scales else None
        self.reset_scales()

    def reset_scales(self) -> None:
        """Let all scales start at 1."""
        if self.scale is not None:
            nn.init.zeros_(self.scale.weight)
            nn.init.ones_(self.scale.bias)

    def forward(self, states: Tensor, centers: Tensor, shape: Sequence[int]) -> Tensor:
        """Logarithms of the maps, in the precision of the centres.

        Args:
            states: (B, Q, C), what offsets and scales are made of.
            centers: (B, Q, 2) in cells as (x, y).
            shape: (height, width) of the feature map.

        Returns:
            (B, heads, Q, height * width).
        """
        centers = centers[:, None] + self._of_heads(self.offset(states))
        if self.scale is None:
            scales = torch.ones_like(centers)
        else:
            scales = self._of_heads(self.scale(states))
            scales = scales.expand(-1, -1, -1, max(2, scales.shape[-1]))
        return log_gaussian(centers, scales, shape, offset=0.0, smoothing=self.smoothing)

    def _of_heads(self, x: Tensor) -> Tensor:
        """(B, Q, heads * n) -> (B, heads, Q, n)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

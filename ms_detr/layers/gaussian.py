"""Gaussian maps over a feature map, as logarithms that are added to attention's logits.

SMCA, arXiv:2101.07448, equations 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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

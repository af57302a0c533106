"""Multi-scale deformable attention in plain torch.

It runs on every device and dtype that ``grid_sample`` supports and is the oracle that compiled
kernels are tested against.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def deformable_attention(
    value: Tensor,
    level_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted sum of bilinear samples from several feature levels (arXiv:2010.04159, Eq. 3).

    With M heads of D channels, V levels and P points:

    Args:
        value: (B, S, M, D), the levels' cells row by row, one level behind the other.
        level_shapes: (height, width) of the V levels, S cells together.
        sampling_locations: (B, Q, M, V, P, 2) as (x, y); 0 and 1 are the outer edges of a level.
            What lies outside contributes nothing.
        attention_weights: (B, Q, M, V, P).

    Returns:
        (B, Q, M * D).

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    _check_shapes(value, level_shapes, sampling_locations, attention_weights)
    batch, _, heads, channels = value.shape
    _, queries, _, levels, points, _ = sampling_locations.shape
    maps = value.split([height * width for height, width in level_shapes], 1)
    # Level and head go first: grid_sample reads (batch * heads) maps, at coordinates in (-1, 1),
    # and is several times slower on a grid with gaps.
    grids = (2 * sampling_locations - 1).permute(3, 0, 2, 1, 4, 5)
    grids = grids.reshape(levels, batch * heads, queries, points, 2)
    weights = attention_weights.permute(3, 0, 2, 1, 4)
    weights = weights.reshape(levels, batch * heads, 1, queries, points)
    attended = value.new_zeros(())
    for tokens, shape, grid, weight in zip(maps, level_shapes, grids, weights, strict=True):
        pixels = tokens.permute(0, 2, 3, 1).reshape(batch * heads, channels, *shape)
        samples = F.grid_sample(
            pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        attended = attended + (samples * weight).sum(-1)
    return attended.view(batch, heads * channels, queries).transpose(1, 2)


def _check_shapes(
    value: Tensor,
    level_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, heads, channels), got {tuple(value.shape)}")
    cells = sum(height * width for height, width in level_shapes)
    if cells != value.shape[1]:
        raise ValueError(
            f"level_shapes {list(level_shapes)} have {cells} cells, value has {value.shape[1]}"
        )
    batch, _, heads, _ = value.shape
    shape = tuple(sampling_locations.shape)
    expected = (batch, *shape[1:2], heads, len(level_shapes), *shape[4:5], 2)
    if len(shape) != 6 or shape != expected:
        raise ValueError(
            "sampling_locations must be (B, Q, heads, levels, points, 2) with "
            f"B={batch}, heads={heads}, levels={len(level_shapes)}, got {shape}"
        )
    if tuple(attention_weights.shape) != shape[:-1]:
        raise ValueError(
            f"attention_weights must be {shape[:-1]} like sampling_locations, "
            f"got {tuple(attention_weights.shape)}"
        )

"""Multi-scale deformable attention in plain torch.

It runs on every device and dtype that ``grid_sample`` supports, is differentiable as often as that
is, and is the oracle that compiled kernels are tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def deformable_attention(
    value: Tensor,
    level_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    sample: Callable[..., Tensor] = F.grid_sample,
) -> Tensor:
    """`ms_detr.ops.deformable_attention` without its checks; ``sample`` stands for grid_sample."""
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
        samples = sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        attended = attended + (samples * weight).sum(-1)
    return attended.view(batch, heads * channels, queries).transpose(1, 2)


def fused_deformable_attention(
    value: Tensor,
    level_shapes: Sequence[tuple[int, int]],
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
    sample: Callable[..., Tensor] = F.grid_sample,
) -> Tensor:
    """`ms_detr.ops.fused_deformable_attention` without its checks; ``sample`` as above."""
    locations = sampling_locations(reference, offsets, level_shapes)
    weights = attention_weights(logits)
    return deformable_attention(value, level_shapes, locations, weights, sample)


def attention_weights(logits: Tensor) -> Tensor:
    """Softmax over levels and points, (B, Q, M, V, P) -> (B, Q, M, V, P)."""
    return logits.flatten(3).softmax(-1).view_as(logits)


def sampling_locations(
    reference: Tensor, offsets: Tensor, level_shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Where the offsets of a query point (arXiv:2010.04159, appendix A.3 and A.4).

    Args:
        reference: (B, Q, V, 2) points or (B, Q, V, 4) boxes (center, size), in [0, 1] of a level.
        offsets: (B, Q, M, V, P, 2) as (x, y), from a point in cells of its level, from a box in
            halves of its size over P: an offset of P reaches the border.

    Returns:
        (B, Q, M, V, P, 2) in [0, 1] of each level.
    """
    center = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 2:
        # Filled one by one: sizes that are traced can't be made a tensor of otherwise.
        sizes = [offsets.new_full((), size) for shape in level_shapes for size in reversed(shape)]
        return center + offsets / torch.stack(sizes).view(-1, 1, 2)
    points = offsets.shape[-2]
    return center + offsets * (0.5 / points) * reference[:, :, None, :, None, 2:]

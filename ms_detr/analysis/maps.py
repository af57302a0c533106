"""Maps of an image at its own size, from what belongs to the tokens of a memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..structures import Memory, TokenGrid


def unpadded(grid: TokenGrid, values: Tensor) -> list[Tensor]:
    """What belongs to one image's tokens, (1, S, ...), on every level without padding, (h, w, ...).

    The cells that are left are the whole image, as everywhere in the model.
    """
    found = []
    for level, ratio in zip(grid.maps(values), grid.valid_ratios[0], strict=True):
        height, width = level.shape[1:3]
        columns, rows = (ratio * ratio.new_tensor((width, height))).round().int().tolist()
        found.append(level[0, :rows, :columns])
    return found


def chosen_levels(maps: Sequence[Tensor], levels: Sequence[int] | None) -> list[Tensor]:
    """The maps of some levels, from fine (0) to coarse; None stands for all.

    Raises:
        ConfigError: there is no such level.
    """
    if levels is None:
        return list(maps)
    if unknown := [level for level in levels if not 0 <= level < len(maps)]:
        raise ConfigError(f"there is no level {unknown[0]}: the model has 0 to {len(maps) - 1}")
    return [maps[level] for level in levels]


def resized(level: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (h, w) bilinearly interpolated at the centres of (H, W) cells, on the host."""
    return F.interpolate(level[None, None], size, mode="bilinear", align_corners=False)[0, 0].cpu()


def mean_of_shares(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Maps (h, w) of at least 0, each resized and divided by its largest value; their mean (H, W).

    A map of zeros stays one.
    """
    total = torch.zeros(size)
    for level in maps:
        large = resized(level, size)
        total = total + large / large.max().clamp(min=torch.finfo(large.dtype).tiny)
    return total / len(maps)


def discriminability(
    memory: Memory, size: tuple[int, int], levels: Sequence[int] | None = None
) -> Tensor:
    """The discriminability score D of Co-DETR, arXiv:2211.12860, Eq. 7.

    The norm of the features of every level, resized to the image, divided by its largest value
    there; the mean over levels.

    Args:
        memory: of a batch of one image.
        size: (H, W) of the image without padding.
        levels: from fine (0) to coarse; None for all.

    Returns:
        (H, W) in [0, 1], on the host.

    Raises:
        ConfigError: there is no such level.
    """
    norms = unpadded(memory.grid, memory.tokens.norm(dim=-1))
    return mean_of_shares(chosen_levels(norms, levels), size)

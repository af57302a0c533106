"""Where tokens, boxes and points lie.

References and boxes are in fractions of the unpadded image. Who reads a padded map scales them by
the share of it that is not padding, its valid ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ..errors import ConfigError


def valid_ratio(padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The unpadded share of each map's (width, height), (B, 2), by its padding mask (B, h, w)."""
    inside = (~padding_mask).to(dtype)
    return torch.stack((inside[:, 0].mean(-1), inside[:, :, 0].mean(-1)), -1)


def unpadded_sizes(padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Width and height in pixels of the images in a padded batch, (B, 2), by its mask (B, H, W)."""
    inside = (~padding_mask).to(dtype)
    return torch.stack((inside[:, 0].sum(-1), inside[:, :, 0].sum(-1)), -1)


def stride_of(pixels: int, cells: int) -> int:
    """The power of two in which so many pixels have so many cells, the last perhaps but begun.

    Raises:
        ConfigError: there is none.
    """
    found = 1
    while -(-pixels // found) > cells:
        found *= 2
    if -(-pixels // found) < cells:
        raise ConfigError(
            "model.neck.ignore_padding and Gaussian attention need maps whose strides are powers "
            "of two and that keep a cell which is but begun; the backbone makes "
            f"{cells} cells of {pixels} pixels"
        )
    return found


@dataclass(frozen=True)
class TokenGrid:
    """Where the tokens of a feature pyramid lie.

    Attributes:
        level_shapes: (height, width) of every level, as Python ints so that nothing syncs.
        padding_mask: (B, S) bool.
        valid_ratios: (B, V, 2), the unpadded share of every level's (width, height); float32 or
            float64, which all places on the grid take after.
        image_mask: (B, H, W) bool, padding of the images; None where there are maps alone.
    """

    level_shapes: tuple[tuple[int, int], ...]
    padding_mask: Tensor
    valid_ratios: Tensor
    image_mask: Tensor | None = None

    @classmethod
    def of(
        cls,
        padding_masks: Sequence[Tensor],
        dtype: torch.dtype,
        image_mask: Tensor | None = None,
    ) -> TokenGrid:
        """The grid of maps with these padding masks (B, h, w).

        Args:
            dtype: of the places on it.
            image_mask: of the images, (B, H, W).
        """
        return cls(
            level_shapes=tuple((mask.shape[1], mask.shape[2]) for mask in padding_masks),
            padding_mask=torch.cat([mask.flatten(1) for mask in padding_masks], 1),
            valid_ratios=torch.stack([valid_ratio(mask, dtype) for mask in padding_masks], 1),
            image_mask=image_mask,
        )

    @property
    def level_sizes(self) -> list[int]:
        """Tokens of each level."""
        return [height * width for height, width in self.level_shapes]

    def maps(self, tokens: Tensor) -> list[Tensor]:
        """What belongs to the tokens, (B, S, ...), as a map of each level, (B, h, w, ...)."""
        parts = zip(tokens.split(self.level_sizes, 1), self.level_shapes, strict=True)
        return [part.unflatten(1, shape) for part, shape in parts]

    def level(self, index: int) -> TokenGrid:
        """Of one level alone."""
        start = sum(self.level_sizes[:index])
        return replace(
            self,
            level_shapes=(self.level_shapes[index],),
            padding_mask=self.padding_mask.narrow(1, start, self.level_sizes[index]),
            valid_ratios=self.valid_ratios.narrow(1, index, 1),
        )

    def extents(self) -> Tensor:
        """Width and height of the images without padding in cells of every level, (B, V, 2).

        As fractions of cells that pixels have it; whole cells where there are maps alone.
        """
        shapes = self.level_shapes
        if self.image_mask is None:
            return self.valid_ratios * self.valid_ratios.new_tensor(shapes).flip(-1)
        sizes = unpadded_sizes(self.image_mask, self.valid_ratios.dtype)
        return torch.stack([sizes / self._stride(shape) for shape in shapes], 1)

    def _stride(self, level_shape: tuple[int, int]) -> int:
        """Of a level; where it has one row or one column, the other direction tells."""
        pixels = cast(Tensor, self.image_mask).shape[1:]
        return max(stride_of(*counts) for counts in zip(pixels, level_shape, strict=True))

    def centers(self) -> Tensor:
        """Centres of all tokens as (x, y) in fractions of the unpadded image, (B, S, 2)."""
        cells = []
        for (height, width), ratio in zip(
            self.level_shapes, self.valid_ratios.unbind(1), strict=True
        ):
            # Divided once, by whole cells: the validity of a proposal hangs on the last bit.
            columns, rows = (ratio[:, 0] * width).round(), (ratio[:, 1] * height).round()
            x, y = (
                (torch.arange(size, dtype=ratio.dtype, device=ratio.device) + 0.5) / count[:, None]
                for size, count in ((width, columns), (height, rows))
            )
            x = x[:, None].expand(-1, height, -1)
            y = y[:, :, None].expand(-1, -1, width)
            cells.append(torch.stack((x, y), -1).flatten(1, 2))
        return torch.cat(cells, 1)

    def scale_to_levels(self, reference: Tensor) -> Tensor:
        """Move references from the unpadded image to every padded level.

        (B, Q, 2 or 4) -> (B, Q, V, 2 or 4).
        """
        ratios = self.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
        return reference[:, :, None] * ratios[:, None]


@dataclass(frozen=True)
class FeaturePyramid:
    """The neck's output: ``tokens`` (B, S, C), their ``position`` encoding (B, S, C), ``grid``."""

    tokens: Tensor
    position: Tensor
    grid: TokenGrid


@dataclass(frozen=True)
class Memory:
    """The encoder's output: ``tokens`` (B, S, C), their ``grid``, their ``position`` (B, S, C).

    Deformable attention finds tokens by their place on the grid, dense attention by ``position``.
    """

    tokens: Tensor
    grid: TokenGrid
    position: Tensor | None = None

    def level(self, index: int) -> Memory:
        """Of one level alone."""

        def part(x: Tensor) -> Tensor:
            return x.split(self.grid.level_sizes, 1)[index]

        position = None if self.position is None else part(self.position)
        return Memory(part(self.tokens), self.grid.level(index), position)

    def maps(self) -> list[Tensor]:
        """The tokens as a map of each level, (B, C, h, w)."""
        return [level.permute(0, 3, 1, 2) for level in self.grid.maps(self.tokens)]

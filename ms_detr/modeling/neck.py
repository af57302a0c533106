"""From backbone maps to one sequence of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..layers.position import SinePositionEncoding
from ..structures import FeaturePyramid, TokenGrid, at_least_single, stride_of

NORM_GROUPS = 32


class Projection(nn.Sequential):
    """A convolution, and a group norm of its outcome."""

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        kernel_size: int,
        stride: int,
        bias: bool = True,
        xavier: bool = True,
    ):
        conv = nn.Conv2d(in_channels, embed_dim, kernel_size, stride, kernel_size // 2, bias=bias)
        if xavier:
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        super().__init__(conv, nn.GroupNorm(NORM_GROUPS, embed_dim))

    def without_padding(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Of the image alone: what lies in padding is zero, to the convolution and afterwards.

        Args:
            x: (B, C, h, w).
            padding_mask: (B, H, W) of the padded images.
        """
        conv, norm = self
        x = conv(x.masked_fill(_cells_in_padding(padding_mask, x.shape[-2:])[:, None], 0.0))
        return _norm_inside(norm, x, _cells_in_padding(padding_mask, x.shape[-2:])[:, None])


def _norm_inside(norm: nn.GroupNorm, x: Tensor, padding: Tensor) -> Tensor:
    """Group norm (arXiv:1803.08494) with mean and variance of what isn't padding, (B, 1, h, w)."""
    groups = at_least_single(x).unflatten(1, (norm.num_groups, -1))
    outside = padding[:, None]
    count = (~outside).sum((2, 3, 4), keepdim=True) * groups.shape[2]
    mean = groups.masked_fill(outside, 0.0).sum((2, 3, 4), keepdim=True) / count
    centered = (groups - mean).masked_fill(outside, 0.0)
    variance = centered.square().sum((2, 3, 4), keepdim=True) / count
    normal = (centered * (variance + norm.eps).rsqrt()).flatten(1, 2)
    weight, bias = (p[:, None, None] for p in (norm.weight, norm.bias))
    return (normal * weight + bias).masked_fill(padding, 0.0).to(norm.weight.dtype)


class Neck(nn.Module):
    """Project backbone maps to ``embed_dim``, add coarser levels, flatten (arXiv:2010.04159, A.2).

    Args:
        in_channels: channels of every backbone map that is read, by its name, fine to coarse.
        num_levels: feature levels; those beyond the backbone's maps come from strided 3x3
            convolutions, the first one on the coarsest backbone map itself.
        ignore_padding: make of an image in a batch what is made of it alone: norms take its own
            statistics, no convolution sees its padding, and it has as many cells. In the published
            models norms count padding, and how many cells are the image's is rounded in fractions
            of the batch. Not for a decoder that reads maps around boxes (SAM-DETR).
        bias: whether the convolutions have one; those of mmdetection's models have none.
        xavier: let the convolutions start from Glorot's distribution and biases of 0, as Deformable
            DETR's; SAM-DETR's start as PyTorch's do.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        embed_dim: int,
        num_levels: int,
        position: SinePositionEncoding,
        ignore_padding: bool = False,
        bias: bool = True,
        xavier: bool = True,
    ):
        super().__init__()
        if embed_dim < 1 or embed_dim % NORM_GROUPS:
            raise ConfigError(
                f"model.embed_dim must be a multiple of {NORM_GROUPS}, got {embed_dim}"
            )
        if num_levels < len(in_channels):
            raise ConfigError(
                f"model.neck.num_levels is {num_levels}, fewer than the backbone maps that are "
                f"read: {list(in_channels)}"
            )
        self.in_channels = dict(in_channels)
        self.position = position
        self.ignore_padding = ignore_padding
        self.projections = nn.ModuleList(
            Projection(channels, embed_dim, 1, 1, bias, xavier) for channels in in_channels.values()
        )
        coarsest = list(in_channels.values())[-1]
        self.extra_levels = nn.ModuleList(
            Projection(channels, embed_dim, 3, 2, bias, xavier)
            for channels in ([coarsest] + [embed_dim] * num_levels)[: num_levels - len(in_channels)]
        )
        self.level_embedding = nn.Parameter(torch.randn(num_levels, embed_dim))

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.level_embedding.shape[1]}

    def forward(self, features: Mapping[str, Tensor], padding_mask: Tensor) -> FeaturePyramid:
        """Tokens of all levels.

        Args:
            features: backbone maps (B, channels, h, w) by name.
            padding_mask: (B, H, W) of the padded images.
        """
        raw = [features[name] for name in self.in_channels]
        modules = zip(self.projections, raw, strict=True)
        maps = [self._project(module, x, padding_mask) for module, x in modules]
        x = raw[-1]
        for module in self.extra_levels:
            x = self._project(module, x, padding_mask)
            maps.append(x)
        resize = _cells_in_padding if self.ignore_padding else _resize_mask
        masks = [resize(padding_mask, x.shape[-2:]) for x in maps]
        return _pyramid(maps, masks, padding_mask, self.position, self.level_embedding)

    def _project(self, module: nn.Module, x: Tensor, padding_mask: Tensor) -> Tensor:
        if not self.ignore_padding:
            return cast(Tensor, module(x))
        return cast(Projection, module).without_padding(x, padding_mask)


class SingleScaleNeck(nn.Module):
    """One backbone map, projected to ``embed_dim`` and flattened (DETR, arXiv:2005.12872, 3.2).

    Args:
        in_channels: channels of the map, by its name.
        norm: of the projected map (B, C, h, w).
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        embed_dim: int,
        position: SinePositionEncoding,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        if len(in_channels) != 1:
            raise ConfigError(
                f"model.neck.in_channels: one scale needs one backbone map, not {list(in_channels)}"
            )
        self.in_channels = dict(in_channels)
        self.position = position
        (channels,) = in_channels.values()
        self.projection = nn.Conv2d(channels, embed_dim, kernel_size=1)
        self.norm = norm

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.projection.out_channels}

    def forward(self, features: Mapping[str, Tensor], padding_mask: Tensor) -> FeaturePyramid:
        """Tokens of the one level; arguments as those of `Neck`."""
        (name,) = self.in_channels
        x = self.projection(features[name])
        if self.norm is not None:
            x = self.norm(x)
        mask = _resize_mask(padding_mask, x.shape[-2:])
        return _pyramid([x], [mask], padding_mask, self.position)


def _pyramid(
    maps: Sequence[Tensor],
    masks: Sequence[Tensor],
    padding_mask: Tensor,
    position: SinePositionEncoding,
    level_embedding: Tensor | None = None,
) -> FeaturePyramid:
    """Flatten maps (B, C, h, w) and their padding masks (B, h, w), of images' (B, H, W).

    A level's embedding (V, C) belongs to its tokens' positions.
    """
    # Counts of cells and angles: half precision has too few digits for them.
    dtype = torch.promote_types(maps[0].dtype, torch.float32)
    encodings = [position(mask, dtype).to(x.dtype) for mask, x in zip(masks, maps, strict=True)]
    if level_embedding is not None:
        encodings = [x + level for x, level in zip(encodings, level_embedding, strict=True)]
    return FeaturePyramid(
        tokens=torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1),
        position=torch.cat([encoding.flatten(1, 2) for encoding in encodings], 1),
        grid=TokenGrid.of(masks, dtype, padding_mask),
    )


def _resize_mask(padding_mask: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(padding_mask[:, None].float(), size=tuple(size))[:, 0].bool()


def _cells_in_padding(padding_mask: Tensor, size: Sequence[int]) -> Tensor:
    """Mask (B, h, w) of the cells that begin in padding: an image has as many others as alone."""
    whole = padding_mask.shape[1:]
    rows, columns = (stride_of(pixels, cells) for pixels, cells in zip(whole, size, strict=True))
    return padding_mask[:, ::rows, ::columns]

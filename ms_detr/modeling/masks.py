"""Mask branches: from queries and feature maps to instance masks.

A branch prepares what all queries share, once an image; the masks themselves are made for the
queries that are asked for.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..layers.points import sample
from ..layers.rows import rows_of
from ..layers.transformer import MLP
from ..structures import Memory, Predictions, QueryMasks, at_least_single, valid_ratio
from .box_prior import BoxPrior, PriorMasks

# Attention masks pass convolutions one by one: so many at a time bound their memory.
QUERIES_AT_A_TIME = 32


class MaskBranch(nn.Module, ABC):
    """Gives the decoder's predictions their masks."""

    in_channels: dict[str, int]  # of the backbone maps that are read, by name

    def __init__(self, prior: BoxPrior | None = None):
        super().__init__()
        self.prior = prior

    def forward(
        self,
        features: Mapping[str, Tensor],
        memory: Memory,
        padding_mask: Tensor,
        predictions: Predictions,
    ) -> Predictions:
        """The same predictions; those with decoder states have masks.

        Args:
            features: the backbone's maps, (B, channels, H, W).
            padding_mask: (B, H, W) of the images, True in padding.
        """
        # Masks are made where they are compared, which autocast has nothing to do with.
        dtype = next(self.parameters()).dtype
        shared = tuple(
            x.to(dtype) if x.is_floating_point() else x for x in self.prepare(features, memory)
        )
        masked = dict(predictions)
        for source, plain in predictions.items():
            if plain.states is None:
                continue
            states = plain.states.to(dtype)
            masks = self.masks(states, shared)
            if self.prior is not None:
                share = valid_ratio(padding_mask, plain.boxes.dtype).repeat(1, 2)[:, None]
                last = slice(-masks.num_layers, None)
                masks = PriorMasks(masks, self.prior, states[last], plain.boxes[last] * share)
            masked[source] = replace(plain, masks=masks)
        return Predictions(masked)

    @abstractmethod
    def prepare(self, features: Mapping[str, Tensor], memory: Memory) -> tuple[Tensor, ...]:
        """What the masks of all queries have in common."""

    @abstractmethod
    def masks(self, states: Tensor, shared: tuple[Tensor, ...]) -> QueryMasks:
        """Masks of the queries (L, B, Q, C)."""


def _conv(
    in_channels: int, out_channels: int, kernel: int, groups: int, stride: int = 1
) -> nn.Module:
    """Convolution and GroupNorm, of as many groups as divide the channels."""
    conv = _start(nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2))
    return nn.Sequential(conv, nn.GroupNorm(math.gcd(groups, out_channels), out_channels))


def _start(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return conv


@dataclass(frozen=True)
class DotProductMasks(QueryMasks):
    """Products of embedded states (L, B, Q, C) with the pixels' embeddings (B, E, h, w)."""

    embedding: nn.Module
    states: Tensor
    pixels: Tensor

    @cached_property
    def _images(self) -> Sequence[Tensor]:
        # One by one, or the gradient of each image's masks would be as large as the batch. Whoever
        # comes first may want no gradient, as the matcher does; others do.
        with torch.enable_grad():
            return self.pixels.unbind()

    @property
    def num_layers(self) -> int:  # type: ignore[override]
        return len(self.states)

    def logits(self, image: int, layer: Tensor, query: Tensor) -> Tensor:
        chosen = self._embed(self.states[layer, image, query])
        return at_least_single(torch.einsum("nc,chw->nhw", chosen, self._images[image]))

    def of_images(self, query: Tensor) -> Tensor:
        chosen = self._embed(rows_of(self.states[-1], query))
        return at_least_single(torch.einsum("bnc,bchw->bnhw", chosen, self.pixels))

    def logits_at(self, points: Tensor) -> Iterator[Tensor]:
        rows = zip(self._images, points, strict=True)
        pixels = torch.stack([sample(x[None], at[None])[0] for x, at in rows])
        for states in self.states:
            yield at_least_single(self._embed(states) @ pixels)

    def _embed(self, states: Tensor) -> Tensor:
        return at_least_single(self.embedding(states))


class DotProductBranch(MaskBranch):
    """Masks as products of query and pixel embeddings (Mask DINO, arXiv:2206.02777, section 3.2).

    The pixels' embeddings lie at the resolution of a backbone map, usually at stride 4, and add the
    encoder's finest level to it.

    Args:
        in_channels: one backbone map and its channels, e.g. ``{"res2": 256}``.
        scale: how much finer than that map the masks are.
        prior: what the queries' boxes add; nothing if None.
    """

    def __init__(
        self,
        embed_dim: int,
        in_channels: Mapping[str, int],
        num_groups: int = 32,
        scale: int = 1,
        prior: BoxPrior | None = None,
    ):
        super().__init__(prior)
        if len(in_channels) != 1:
            raise ConfigError(
                f"model.masks.in_channels must name one backbone map, got {dict(in_channels)}"
            )
        self.in_channels = dict(in_channels)
        ((self.feature, channels),) = in_channels.items()
        self.lateral = _conv(channels, embed_dim, 1, num_groups)
        self.output = nn.Sequential(
            _conv(embed_dim, embed_dim, 3, num_groups),
            nn.ReLU(),
            nn.Conv2d(embed_dim, embed_dim * scale**2, 1),
            nn.PixelShuffle(scale),
        )
        self.embedding = nn.Sequential(
            nn.LayerNorm(embed_dim), MLP(embed_dim, embed_dim, embed_dim, 3)
        )

    def prepare(self, features: Mapping[str, Tensor], memory: Memory) -> tuple[Tensor, ...]:
        fine = self.lateral(features[self.feature])
        finest = memory.maps()[0]
        encoded = F.interpolate(finest, fine.shape[2:], mode="bilinear", align_corners=False)
        return (self.output(fine + encoded),)

    def masks(self, states: Tensor, shared: tuple[Tensor, ...]) -> QueryMasks:
        (pixels,) = shared
        return DotProductMasks(self.embedding, states, at_least_single(pixels))


class AttentionBranch(MaskBranch):
    """Masks from the attention of queries to the coarsest level (DETR, arXiv:2005.12872, 4.3).

    Convolutions turn each query's attention maps, beside the image's own map, into a mask, and add
    backbone maps from coarse to fine. Only the last decoder layer has masks. As MS-DETR's published
    code holds it, though it does not run there: three maps, each at half its resolution, so that
    masks have stride 16.

    Args:
        in_channels: backbone maps and their channels, coarse to fine.
        stride: by which the backbone maps are reduced first, to half their channels; 1 takes them
            as they are.
        prior: what the queries' boxes add; nothing if None.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        in_channels: Mapping[str, int],
        stride: int = 2,
        num_groups: int = 8,
        prior: BoxPrior | None = None,
    ):
        super().__init__(prior)
        self.in_channels = dict(in_channels)
        self.num_heads = num_heads
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Conv2d(embed_dim, embed_dim, 1)
        for projection in (self.query, self.key):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(cast(Tensor, projection.bias))
        joint = embed_dim + num_heads
        widths = [embed_dim // 2 ** (1 + step) for step in range(len(in_channels) + 1)]

        def block(before: int, after: int) -> nn.Module:
            return nn.Sequential(_conv(before, after, 3, num_groups), nn.ReLU())

        self.head = nn.Sequential(block(joint, joint), block(joint, widths[0]))
        self.reduce, self.adapters = nn.ModuleList(), nn.ModuleList()
        for channels, width in zip(in_channels.values(), widths, strict=False):
            reduced = channels // 2 if stride > 1 else channels
            self.reduce.append(
                nn.Conv2d(channels, reduced, 3, stride, padding=1) if stride > 1 else nn.Identity()
            )
            self.adapters.append(_start(nn.Conv2d(reduced, width, 1)))
        self.blocks = nn.ModuleList(
            block(before, after) for before, after in itertools.pairwise(widths)
        )
        self.output = _start(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def prepare(self, features: Mapping[str, Tensor], memory: Memory) -> tuple[Tensor, ...]:
        maps = [
            adapt(reduce(features[name]))
            for name, reduce, adapt in zip(
                self.in_channels, self.reduce, self.adapters, strict=True
            )
        ]
        padding = memory.grid.maps(memory.grid.padding_mask)
        return (memory.maps()[-1], padding[-1], *maps)

    def masks(self, states: Tensor, shared: tuple[Tensor, ...]) -> QueryMasks:
        image, padding, *maps = shared
        return AttentionMasks(self, states[-1], image, padding, maps)

    def run(self, states: Tensor, image: Tensor, padding: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Masks (B, n, h, w) of as many queries (B, n, C) of every image.

        Args:
            image: (B, C, h', w'), the coarsest level; its ``padding`` (B, h', w').
            maps: (B, width, h, w) of the backbone, adapted.
        """
        shape = states.shape[:2]
        queries = self.query(states).unflatten(2, (self.num_heads, -1))
        keys = self.key(image).unflatten(1, (self.num_heads, -1))
        scores = torch.einsum("bnmc,bmchw->bnmhw", queries, keys) / math.sqrt(queries.shape[-1])
        scores = scores.masked_fill(padding[:, None, None], -math.inf)
        attention = scores.flatten(3).softmax(-1).view_as(scores)
        image = image[:, None].expand(-1, shape[1], -1, -1, -1)
        x = self.head(torch.cat((image, attention), 2).flatten(0, 1))
        for block, extra in zip(self.blocks, maps, strict=True):
            x = F.interpolate(x, extra.shape[-2:], mode="nearest").unflatten(0, shape)
            x = block((x + extra[:, None]).flatten(0, 1))
        return at_least_single(self.output(x)[:, 0]).unflatten(0, shape)


@dataclass(frozen=True)
class AttentionMasks(QueryMasks):
    """Masks of the last layer's queries (B, Q, C) by an `AttentionBranch`."""

    branch: AttentionBranch
    states: Tensor
    image: Tensor
    padding: Tensor
    maps: Sequence[Tensor]
    num_layers: int = 1

    def logits(self, image: int, layer: Tensor, query: Tensor) -> Tensor:
        own = slice(image, image + 1)
        states = self.states[own, query]
        maps = [x[own] for x in self.maps]
        return self.branch.run(states, self.image[own], self.padding[own], maps)[0]

    def of_images(self, query: Tensor) -> Tensor:
        states = rows_of(self.states, query)
        return self.branch.run(states, self.image, self.padding, self.maps)

    def logits_at(self, points: Tensor) -> Iterator[Tensor]:
        index = torch.arange(self.states.shape[1], device=points.device)
        yield torch.stack(
            [
                torch.cat(
                    [
                        sample(self.logits(image, part, part)[None], row[None])[0]
                        for part in index.split(QUERIES_AT_A_TIME)
                    ]
                )
                for image, row in enumerate(points)
            ]
        )

"""Denoising: queries made of noised objects reconstruct them (DN-DETR, arXiv:2203.01305)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..modeling import QueryInitializer
from ..structures import Memory, Predictions, Queries
from .denoising_group import DenoisingGroup, signed_noise


class Denoising(DenoisingGroup):
    """Centres move by up to half of ``box_noise``, sizes by up to all of it; arXiv:2203.01305, 4.3.

    The content's last channel is 1, to tell denoising from other queries: see `Indicated`.

    Args:
        num_groups: noised copies of all objects.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        num_groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
        epsilon: float = 1e-3,
    ):
        super().__init__(num_classes, embed_dim, embed_dim - 1, label_noise, box_noise, epsilon)
        if num_groups < 1:
            raise ConfigError(f"denoising needs at least 1 group, got {num_groups}")
        self.num_groups = num_groups

    def num_copies(self, objects: int) -> int:
        return self.num_groups

    def content(self, labels: Tensor) -> Tensor:
        return F.pad(self.embedding(labels), (0, 1), value=1.0)

    def move(self, boxes: Tensor) -> Tensor:
        size = boxes[..., 2:]
        return boxes + signed_noise(boxes) * self.box_noise * torch.cat((0.5 * size, size), -1)


class Indicated(QueryInitializer):
    """Another initialiser, whose content has 0 in its last channel, where `Denoising` has 1."""

    def __init__(self, initializer: QueryInitializer):
        extra_queries = (initializer.extra_queries,)
        super().__init__(initializer.num_queries, initializer.embed_dim, extra_queries)
        self.sources = initializer.sources
        self.reference_size = initializer.reference_size
        self.initializer = initializer

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        queries, predictions = self.initializer(memory, supervised)
        return replace(queries, indicated=True).not_denoising(), predictions

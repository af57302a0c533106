"""Contrastive denoising: noised objects, and what lies too far off to be one (DINO)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..layers.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from .denoising_group import DenoisingGroup, signed_noise


class ContrastiveDenoising(DenoisingGroup):
    """Negatives lie around the positives (DINO, arXiv:2203.03605, section 3.3).

    Each coordinate of a corner moves by ``box_noise`` times half the size, times 0 to 1 for
    positives and 1 to 2 for negatives. DINO's label noise ratio of 0.5 draws half as many labels
    anew: 0.25 here.

    Args:
        num_queries: positive queries of all copies, about; at least one copy is made.
    """

    negatives = True

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        num_queries: int = 100,
        label_noise: float = 0.25,
        box_noise: float = 0.4,
        epsilon: float = 1e-3,
    ):
        super().__init__(num_classes, embed_dim, embed_dim, label_noise, box_noise, epsilon)
        if num_queries < 1:
            raise ConfigError(
                f"contrastive denoising needs at least 1 query, got {num_queries}; "
                "model.groups.denoising=null drops it, with its term"
            )
        self.num_queries = num_queries

    def num_copies(self, objects: int) -> int:
        return max(1, self.num_queries // max(objects, 1))

    def move(self, boxes: Tensor) -> Tensor:
        noise = signed_noise(boxes)
        outside = torch.arange(2, device=boxes.device).to(boxes)[:, None, None]
        noise = noise + torch.copysign(outside, noise)
        half = 0.5 * torch.cat((boxes[..., 2:], boxes[..., 2:]), -1)
        corners = cxcywh_to_xyxy(boxes) + noise * self.box_noise * half
        return xyxy_to_cxcywh(corners.clamp(0, 1))

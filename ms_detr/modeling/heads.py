"""Prediction heads."""

from __future__ import annotations

import math

from torch import nn

from ..layers.transformer import MLP


class ClassHead(nn.Linear):
    """Class logits; every class starts at probability ``prior`` (focal loss, arXiv:1708.02002)."""

    def __init__(self, embed_dim: int, num_classes: int, prior: float = 0.01):
        self.prior = prior
        super().__init__(embed_dim, num_classes)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.bias, -math.log((1 - self.prior) / self.prior))


class BoxHead(MLP):
    """Corrections (dx, dy, dw, dh) to a reference box in logit space, 0 at the start."""

    def __init__(self, embed_dim: int, num_layers: int = 3):
        super().__init__(embed_dim, embed_dim, 4, num_layers)
        nn.init.zeros_(self[-1].weight)
        nn.init.zeros_(self[-1].bias)

"""Prediction heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..layers.transformer import MLP
from ..structures import Rows


class ClassHead(nn.Linear):
    """Class logits; every class starts at probability ``prior`` (focal loss, arXiv:1708.02002).

    Attributes:
        probability: what its logits (..., K) mean: of every class.
    """

    probability: Callable[[Tensor], Tensor] = staticmethod(torch.sigmoid)

    def __init__(self, embed_dim: int, num_classes: int, prior: float = 0.01):
        self.num_classes = num_classes
        self.prior = prior
        super().__init__(embed_dim, num_classes)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.in_features, "num_classes": self.num_classes}

    def rows(self) -> dict[str, Rows]:
        """See `ms_detr.structures.HasRows`."""
        return {"weight": Rows.CLASSES, "bias": Rows.CLASSES}

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.bias, -math.log((1 - self.prior) / self.prior))


class BoxHead(MLP):
    """Corrections (dx, dy, dw, dh) to a reference box in logit space.

    Args:
        zero: start with corrections of 0; else as linear layers do, as in SMCA's code.
    """

    def __init__(self, embed_dim: int, num_layers: int = 3, zero: bool = True):
        super().__init__(embed_dim, embed_dim, 4, num_layers)
        if zero:
            nn.init.zeros_(self[-1].weight)
            nn.init.zeros_(self[-1].bias)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": cast(nn.Linear, self[0]).in_features}

    def set_size_bias(self, logit: float) -> None:
        """Where width and height start."""
        last = cast(nn.Linear, self[-1])
        nn.init.constant_(last.bias[2:], logit)


class Heads(nn.Module):
    """Heads of a tap's own; None shares the one of the layer's output.

    Args:
        class_head, box_head: copied for every decoder layer.
    """

    def __init__(self, class_head: ClassHead | None = None, box_head: BoxHead | None = None):
        super().__init__()
        self.class_head = class_head
        self.box_head = box_head


class TapHeads(dict[str, Heads]):
    """Heads by the name of the tap that they serve; None shares both heads."""

    def __init__(self, **heads: Heads | None):
        super().__init__({name: own for name, own in heads.items() if own is not None})

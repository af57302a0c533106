"""What detection heads beside the decoder have found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Boxes that a head has compared with the objects, N an image; queries are made of them.

    Attributes:
        boxes: (B, N, 4) in fractions of the unpadded image, which they may reach out of; without
            gradients.
        objects: (B, N) int64, the object that each learns; G for background.
        features: (B, N / per_place, C), what the head looks at there.
        per_place: how many boxes, one behind the other, have one row of features.
    """

    boxes: Tensor
    objects: Tensor
    features: Tensor
    per_place: int = 1


NO_CANDIDATES: Mapping[str, Candidates] = MappingProxyType({})  # of a model without such heads

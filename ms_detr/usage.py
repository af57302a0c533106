"""What a trained model knows about its own use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """How images become inputs of a model, and what its classes are called.

    Attributes:
        mapper: the mapper of the test images, see `ms_detr.data.DetrMapper`.
        batch_size: so many images at most are predicted together.
        class_names: by the number of the class; empty where the weights tell none.
    """

    mapper: Any
    batch_size: int
    class_names: tuple[str, ...] = ()

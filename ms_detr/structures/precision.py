"""Where half precision is not enough."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(x: Tensor) -> Tensor:
    """In float32 where it has half precision, whose sums and logarithms are poor."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

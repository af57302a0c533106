"""Agreement of all processes on whether a step is sound."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.utils import comm
from torch import Tensor, distributed

MAX_NAMED = 8


def largest(value: Tensor) -> int:
    """Return the largest value of a whole number in any process. It is a collective."""
    if comm.get_world_size() > 1:
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    return int(value.item())


def bad_names(values: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the values that are NaN or infinite."""
    if not values:
        return []
    finite = torch.stack([value.detach().float().isfinite().all() for value in values.values()])
    return [name for name, fine in zip(values, finite.tolist(), strict=True) if not fine]

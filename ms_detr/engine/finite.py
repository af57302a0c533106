"""Agreement of all processes on whether a step is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, distributed

from ..errors import listed
from .checkpoint import RESUME

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


def report(
    what: str, iteration: int, batch: Sequence[Mapping[str, Any]], trouble: str, last: str
) -> str:
    """Return the message about a step that isn't finite, the same in all processes.

    It is a collective.

    Args:
        what: what isn't finite, e.g. "loss".
        trouble: what this process knows about it; empty if it saw nothing wrong.
        last: the last good checkpoint, empty if there is none.
    """
    mine = (comm.get_rank(), trouble, [_image(x) for x in batch]) if trouble else None
    places = [place for place in comm.all_gather(mine) if place is not None]
    lines = [
        f"rank {rank}: {trouble}; its images: {listed(images, MAX_NAMED)}"
        for rank, trouble, images in places
    ]
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    again = "; if it fails again at once, delete that checkpoint to go on with the one before it"
    return (
        f"{what} is not finite at iteration {iteration}; {'; '.join(lines)}. "
        f"The weights were not changed, {kept}. Look at the boxes of these images; "
        "if they are sound, lower optimizer.lr or train.clip_grad_norm and go on with "
        f"{RESUME}{again if last else ''}"
    )


def _image(x: Mapping[str, Any]) -> str:
    return f"{x.get('image_id', '?')} ({x.get('file_name', 'no file')})"

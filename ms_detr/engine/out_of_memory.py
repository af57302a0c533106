"""Steps for which the memory doesn't suffice: told apart from bugs, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils import comm

from ..errors import OutOfMemoryError, listed, one_line, shortened
from .checkpoint import RESUME

MAX_NAMED = 8
# Of the CPU's allocator, and of CUDA's driver: they have no type of their own.
MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory")
ADVICE = (
    "Take fewer images at once (train.batch_size=auto, or a number; the step stays the same), "
    "set train.activation_checkpointing.encoder=true, .backbone and .decoder likewise, or "
    "train.amp.enabled=true, or train on smaller images (dataloader.train.mapper.augmentations)"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or Python is about memory that couldn't be had."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


@contextmanager
def advised(advice: str) -> Iterator[None]:
    """Say what to do where the block, no step of a training, runs out of memory.

    Raises:
        OutOfMemoryError: in its place.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(told(error, advice)) from error


def told(error: BaseException, advice: str) -> str:
    """The message about memory that could not be had outside the steps of a training."""
    return f"out of memory ({shortened(one_line(error))}): {advice}"


@contextmanager
def named(
    where: str, iteration: int, batch: Sequence[Mapping[str, Any]], last: Callable[[], str]
) -> Iterator[None]:
    """Say of a step that ran out of memory in the block which images it had, and what to do.

    Other processes wait for this one where it is; the launcher ends them.

    Args:
        where: in the step.
        last: tells the last checkpoint, empty if there is none.

    Raises:
        OutOfMemoryError: in this process.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        place = _place(describe(error, batch))
        raise OutOfMemoryError(_message(where, iteration, [place], last())) from error


def report(where: str, iteration: int, trouble: str, last: str) -> str:
    """Return the message about a step, the same in all processes. It is a collective.

    Args:
        trouble: of this process, as `describe` has it; empty if it has none.
    """
    mine = _place(trouble) if trouble else None
    places = [place for place in comm.all_gather(mine) if place is not None]
    return _message(where, iteration, places, last)


def describe(error: BaseException, batch: Sequence[Mapping[str, Any]]) -> str:
    """What there wasn't memory for, in one line: ids, sizes and objects of the images."""
    reason = shortened(one_line(error))
    return f"{reason}; images at once: {len(batch)}: {listed(map(_image, batch), MAX_NAMED)}"


def _place(trouble: str) -> str:
    return f"rank {comm.get_rank()}: {trouble}"


def _message(where: str, iteration: int, places: Sequence[str], last: str) -> str:
    kept = f"the last checkpoint is {last}" if last else "there is no checkpoint yet"
    after = f"go on with {RESUME}" if last else "start again"
    return (
        f"out of memory at iteration {iteration}, in {where}; {'; '.join(places)}. {ADVICE}; "
        f"{kept}: {after}"
    )


def _image(x: Mapping[str, Any]) -> str:
    image, instances = x.get("image"), x.get("instances")
    height, width = ("?", "?") if image is None else image.shape[-2:]
    objects = "?" if instances is None else len(instances)
    return f"{x.get('image_id', '?')} ({width}x{height}, {objects} objects)"

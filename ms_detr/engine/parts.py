"""A batch in parts, whose gradients are added up: as large as the recipe's on fewer devices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from detectron2.utils import comm

from ..errors import ConfigError
from ..meta_arch import STEP
from ..structures import Step

Batch = list[dict[str, Any]]


def in_parts(batch: Batch, count: int, done: float) -> list[Batch]:
    """This process's batch in parts of nearly the same size, whose images know the whole step.

    Args:
        count: of the parts.
        done: share of the training's iterations that lie behind.

    A collective where the images have objects to learn.

    Raises:
        ConfigError: there are fewer images than parts.
    """
    check_parts(count, len(batch))
    if all("instances" in x for x in batch):
        step = step_of(batch, done)
        batch = [x | {STEP: step} for x in batch]
    bounds = [len(batch) * index // count for index in range(count + 1)]
    return [batch[start:stop] for start, stop in itertools.pairwise(bounds)]


def check_parts(count: int, images: int) -> None:
    """Raise ConfigError unless a process's images can be split into so many parts."""
    if not 1 <= count <= max(images, 1):
        raise ConfigError(
            f"train.accumulate={count} splits the {images} images of a process: lower it, or "
            "raise dataloader.train.total_batch_size"
        )


def step_of(batch: Sequence[dict[str, Any]], done: float) -> Step:
    """What the losses of a step are divided by, and how far it is. A collective."""
    counts = [len(x["instances"]) for x in batch]
    own, most = sum(counts), max(counts, default=0)
    everywhere = comm.all_gather((own, most))
    return Step(
        objects=sum(objects for objects, _ in everywhere),
        own=own,
        most=max(fullest for _, fullest in everywhere),
        images=len(batch),
        processes=len(everywhere),
        done=done,
    )

"""How many objects losses are divided by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from ..structures import Assignment, Targets


@dataclass(frozen=True)
class ObjectCount:
    """The objects of a batch.

    Attributes:
        total: of all processes, a scalar, or (L,) where layers have their own.
        processes: how many there are.
        local: where the total is of this process alone and that of all shall take its place, what
            is counted, of the total's shape, which may be 0; see `CountedLosses`.
    """

    total: Tensor
    processes: int = 1
    local: Tensor | None = None

    def times(self, copies: int, of: int) -> Tensor:
        """Objects per process, each counted ``copies`` times.

        Where there is none, one of the ``of`` copies that an object would have counts as there.
        """
        return self.total.clamp(min=1 / of) / self.processes * copies


# Which objects a term counts: from those of the whole batch, this process's own, and which queries
# were assigned to them.
CountedObjects = Callable[[ObjectCount, Targets, Assignment], ObjectCount]


def all_objects(objects: ObjectCount, targets: Targets, assignment: Assignment) -> ObjectCount:
    """Objects of all processes."""
    return objects


class LocalObjects:
    """Objects of this process alone."""

    def __call__(
        self, objects: ObjectCount, targets: Targets, assignment: Assignment
    ) -> ObjectCount:
        return ObjectCount(torch.full_like(objects.total, targets.own))


class KnownObjects:
    """What a source's own targets hold: Co-DETR's positive queries.

    Of a step's parts each counts its own, and its losses are as much less as it is of the step.
    The forward pass has no collective, so that a process that fails in it leaves none waiting: the
    mean over the processes is for who calls it.
    """

    def __call__(
        self, objects: ObjectCount, targets: Targets, assignment: Assignment
    ) -> ObjectCount:
        count = sum(targets.counts)
        own = torch.full_like(objects.total, max(count, 1) / targets.share)
        return ObjectCount(own, local=torch.full_like(objects.total, count))


class AssignedPairs:
    """Every pair of a query and an object that was assigned, of each layer by itself.

    An object counts as often as it has queries, so that a term's losses are means over its pairs,
    however many queries objects get. At least one pair counts, of each copy where objects have
    several. What several parts and processes count is treated as `KnownObjects` does it.
    """

    def __call__(
        self, objects: ObjectCount, targets: Targets, assignment: Assignment
    ) -> ObjectCount:
        pairs = assignment.valid.flatten(1).sum(1).to(objects.total.dtype) / assignment.copies
        return ObjectCount(pairs.clamp(min=1) / targets.share, local=pairs)


def count_objects(targets: Targets) -> ObjectCount:
    """The objects of all processes in the step. A collective where the targets don't tell."""
    step = targets.step
    total = torch.tensor(float(sum(targets.counts) if step is None else step.objects))
    total = total.to(targets.boxes.device, targets.boxes.dtype, non_blocking=True)
    if step is not None:
        return ObjectCount(total, step.processes)
    if not (distributed.is_available() and distributed.is_initialized()):
        return ObjectCount(total)
    distributed.all_reduce(total)
    return ObjectCount(total, distributed.get_world_size())

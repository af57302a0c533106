"""What this process is doing, as the others may want to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Phase:
    """Something that a process does for a while.

    Attributes:
        text: completes "rank 3 is ...".
        brief: whether it is part of a step, which must not take long; others wait for who is in
            another phase, as long as that one is alive.
    """

    text: str
    brief: bool = True


STARTING = Phase("starting", brief=False)
LOADING = Phase("loading data")
COUNTING = Phase("done with loading data")
FORWARD = Phase("in the forward pass")
AGREEING = Phase("done with the forward pass")
BACKWARD = Phase("in the backward pass")
UPDATING = Phase("updating the weights")
BETWEEN = Phase("between two steps")
SAVING = Phase("saving", brief=False)
PREDICTING = Phase("predicting for the evaluation")
SCORING = Phase("scoring predictions", brief=False)
PHASES = (
    STARTING, LOADING, COUNTING, FORWARD, AGREEING, BACKWARD, UPDATING, BETWEEN, SAVING,
    PREDICTING, SCORING,
)  # fmt: skip


class Progress:
    """How far a process is. Telling it costs next to nothing; a thread reads it, see `watch`.

    All processes of a run go through the same phases in the same order.

    Attributes:
        iteration: -1 before the first one.
        place: phases of this iteration so far: who has fewer is behind.
        ticks: changes whenever something goes on.
    """

    def __init__(self) -> None:
        self.iteration = -1
        self.place = 0
        self.phase = STARTING
        self.ticks = 0

    def begin(self, iteration: int) -> None:
        """An iteration begins, with its data."""
        self.iteration, self.place = iteration, 0
        self.enter(LOADING)

    def enter(self, phase: Phase) -> None:
        """Another phase begins."""
        self.phase = phase
        self.place += 1
        self.ticks += 1

    def tick(self) -> None:
        """The phase goes on, and isn't stuck."""
        self.ticks += 1


progress = Progress()  # of the process


class Predicting:
    """A loader of an evaluation that tells each batch to `progress`, and when it is at its end."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        progress.enter(PREDICTING)
        for batch in self._loader:
            progress.tick()
            yield batch
        progress.enter(SCORING)

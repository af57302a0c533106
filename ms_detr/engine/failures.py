"""What happens where a step isn't finite: it is told and saved, and ends the run or is skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import NonFiniteError, listed
from .checkpoint import RESUME
from .finite import MAX_NAMED
from .parts import Batch

logger = logging.getLogger(__name__)

MAX_SAVING = 8  # processes that save their part of one step


class NotFinite(Exception):
    """A step of which some process has found that it isn't finite; raised in all together.

    Attributes:
        what: isn't finite, e.g. "a loss".
        text: what this process knows about it; empty if it saw nothing wrong.
    """

    def __init__(self, what: str, text: str):
        super().__init__(what, text)
        self.what = what
        self.text = text


@dataclass(frozen=True)
class FailedStep:
    """This process's part of a step that isn't finite.

    Attributes:
        what, trouble: what isn't finite, and what is known of it, as of `NotFinite`.
        seed: of the random draws in the model.
        parts: of the batch, in the order in which they went through the model.
        losses: of each part that came so far.
    """

    what: str
    trouble: str
    iteration: int
    seed: int
    parts: Sequence[Batch]
    losses: Sequence[Mapping[str, Tensor]]


class Recorder(Protocol):
    """Keeps what it takes to run a step again."""

    def save(self, step: FailedStep, mine: bool) -> str:
        """Keep a step; all processes call it, and those whose part is kept say so.

        Returns:
            Where this process's part is, or why it isn't; empty if it has none.
        """


class Failures:
    """Tells of steps that aren't finite, has them saved, and ends the training or passes over them.

    Args:
        limit: so many steps of a whole run may be skipped; 0 ends it at the first.
        recorder: keeps the steps; None keeps nothing.
        last_checkpoint: tells the last good checkpoint for the message.

    Attributes:
        skipped: steps of the run that have changed nothing.
        last_checkpoint: as it was given.
    """

    def __init__(
        self,
        limit: int = 0,
        recorder: Recorder | None = None,
        last_checkpoint: Callable[[], str] = str,
    ):
        self.limit = limit
        self.skipped = 0
        self._recorder = recorder
        self.last_checkpoint = last_checkpoint

    def meet(self, step: FailedStep) -> None:
        """Go on after a step that has changed nothing, if it may be skipped. A collective.

        Raises:
            NonFiniteError: it may not; in all processes, with the same message.
        """
        text = f"{step.what} is not finite at iteration {step.iteration}; {self._where(step)}"
        self.skipped += 1
        if self.skipped <= self.limit:
            logger.warning(
                "%s. The step is skipped, as %d of at most %d", text, self.skipped, self.limit
            )
            return
        if self.limit:
            text += (
                f". So many steps are more than train.max_skipped_steps={self.limit}; the other "
                f"{self.limit} are in the log"
            )
        raise NonFiniteError(f"{text}. {self._advice()}")

    def _where(self, step: FailedStep) -> str:
        """Say what each process saw, with which images, and where that is kept. A collective."""
        images = [_image(x) for part in step.parts for x in part]
        mine = (comm.get_rank(), step.trouble, images) if step.trouble else None
        places = [place for place in comm.all_gather(mine) if place is not None]
        lines = [
            f"rank {rank}: {trouble}; its images: {listed(images, MAX_NAMED)}"
            for rank, trouble, images in places
        ]
        saving = [rank for rank, _, _ in places][:MAX_SAVING]
        if self._recorder is not None:
            kept = comm.all_gather(self._recorder.save(step, comm.get_rank() in saving))
            lines += [line for line in kept if line]
        return "; ".join(lines)

    def _advice(self) -> str:
        last = self.last_checkpoint()
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        again = "; if it fails again at once, delete that checkpoint to go on with the one before"
        return (
            f"The weights were not changed, {kept}. Look at the boxes of these images; "
            "if they are sound, lower optimizer.lr or train.clip_grad_norm and go on with "
            f"{RESUME}{f'{again} it' if last else ''}"
        )

    def scalars(self) -> dict[str, float]:
        """What the metrics tell of it: nothing where no step may be skipped."""
        return {"skipped_steps": self.skipped} if self.limit else {}

    def state_dict(self) -> dict[str, int]:
        """What a resumed run has to know."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on counting from a state of `state_dict`."""
        self.skipped = int(state["skipped"])


class Buffers:
    """Buffers of a model as they were before a step, e.g. the statistics of a BatchNorm.

    The forward pass changes them, in place, before it is known whether the step counts.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._live: list[Tensor] = []
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them."""
        self._live = list(self._model.buffers())
        if [x.shape for x in self._live] != [x.shape for x in self._kept]:
            self._kept = [torch.empty_like(x) for x in self._live]
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them again what they were."""
        for live, kept in zip(self._live, self._kept, strict=True):
            live.copy_(kept)


def _image(x: Mapping[str, Any]) -> str:
    return f"{x.get('image_id', '?')} ({x.get('file_name', 'no file')})"

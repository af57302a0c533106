"""Hooks: what happens between training steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from ..errors import SystemLimitError, short_message
from ..evaluation import UnwrittenError
from ..files import reason
from ..signals import Terminated, termination
from .agreement import in_main_process, raise_in_all
from .best import BestWeights
from .checkpoint import Checkpointer, what_is_safe
from .distribution import average_buffers
from .progress import BETWEEN, SAVING, progress

logger = logging.getLogger(__name__)


class CheckpointHook(HookBase):
    """Saves every ``period`` iterations (0: never), after the last one, and when training stops.

    A periodic checkpoint that can't be written ends no training: the next one is tried all the
    same. Without the last one all processes end with the error.
    """

    def __init__(self, checkpointer: Checkpointer, period: int):
        self._checkpointer = checkpointer
        self._period = period

    def after_step(self) -> None:
        """Save if it is time.

        Raises:
            Terminated: in all processes, once the checkpoint is written.
        """
        done, stopping = self.trainer.iter + 1, self.trainer.stopping
        last = done == self.trainer.max_iter
        if stopping:
            termination.in_order()
        periodic = bool(self._period) and done % self._period == 0
        if last or stopping or periodic:
            for part in self._checkpointer.parts.values():
                if isinstance(part, nn.Module):
                    average_buffers(part)
            progress.enter(SAVING)
        if last or stopping:
            in_main_process(self._save_last)
        elif periodic:
            again = min(done + self._period, self.trainer.max_iter)
            _try_to_save(
                self._checkpointer,
                self.trainer.iter,
                f"training goes on, and saves after iteration {again} again",
            )
        if stopping:
            comm.synchronize()  # who ends first ends the main process, which is still writing
            raise Terminated
        progress.enter(BETWEEN)

    def _save_last(self) -> None:
        """The last checkpoint of a run, or an error that says what is safe."""
        try:
            self._checkpointer.save(
                self.trainer.iter, final=self.trainer.iter + 1 == self.trainer.max_iter
            )
        except OSError as error:
            safe = what_is_safe(self._checkpointer.folder)
            raise OSError(error.errno, f"{reason(error)}; {safe}", error.filename) from error


def _try_to_save(checkpointer: Checkpointer, iteration: int, otherwise: str) -> None:
    """Save, or say why not, what the last checkpoint is, and what happens now."""
    try:
        checkpointer.save(iteration)
    except OSError as error:
        last = checkpointer.last() or "none"
        logger.error(
            "%s; the last checkpoint is %s; %s", short_message(error) or error, last, otherwise
        )


class EvaluationHook(HookBase):
    """Evaluates every ``period`` iterations (0: never) and after training; keeps the best weights.

    Detectron2's own hook evaluates after a run that failed in its last iteration, too.

    Args:
        evaluate: returns nested results in the main process, e.g. ``{"bbox": {"AP": 40.0}}``.
        best: by which metric the best weights are chosen, ``train.best``.
    """

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, Any]],
        period: int,
        checkpointer: Checkpointer,
        best: str | None = None,
    ):
        self._evaluate = evaluate
        self._period = period
        self._checkpointer = checkpointer
        self._best = BestWeights(checkpointer, best)
        self.results: Mapping[str, Any] = {}

    def after_step(self) -> None:
        """Evaluate if it is time."""
        done = self.trainer.iter + 1
        if self._period and done % self._period == 0 and done < self.trainer.max_iter:
            problem = self._run(self.trainer.iter)
            if problem is not None:
                logger.error("%s; training goes on", problem)

    def after_train(self) -> None:
        """Evaluate what a complete training has led to."""
        if self.trainer.iter >= self.trainer.max_iter:
            raise_in_all(self._run(self.trainer.max_iter - 1))

    def _run(self, iteration: int) -> SystemLimitError | None:
        """Evaluate; what kept the results from being written, if anything."""
        problem = None
        try:
            with termination.first(lambda: self._keep(iteration)):
                self.results = self._evaluate()
        except UnwrittenError as error:
            self.results, problem = error.results, SystemLimitError(str(error))
        if comm.is_main_process():
            scalars = {
                name: float(value)
                for name, value in flatten_results_dict(self.results).items()
                if math.isfinite(value)  # no objects of a size or class
            }
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
            self._best.consider(iteration, self.results)
        comm.synchronize()  # so that the next iteration's speed is the step's
        return problem

    def _keep(self, iteration: int) -> None:
        """Save what an evaluation is about that is cut short."""
        if self._checkpointer.saved < iteration:
            _try_to_save(self._checkpointer, iteration, "the evaluation is cut short")

"""Hooks: what happens between training steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from .buffers import average_buffers
from .checkpoint import Checkpointer
from .signals import Terminated, termination

logger = logging.getLogger(__name__)

BOX_AP = "bbox/AP"


class CheckpointHook(HookBase):
    """Save every ``period`` iterations (0: never), after the last one, and when training stops."""

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
        if stopping or last or (self._period and done % self._period == 0):
            average_buffers(self._checkpointer.model)
            self._checkpointer.save(self.trainer.iter, final=last)
        if stopping:
            comm.synchronize()  # who ends first ends the main process, which is still writing
            raise Terminated


class EvaluationHook(HookBase):
    """Evaluate every ``period`` iterations (0: never) and after training; keep the best weights.

    Detectron2's own hook evaluates after a run that failed in its last iteration, too.

    Args:
        evaluate: returns nested results in the main process, e.g. ``{"bbox": {"AP": 40.0}}``.
    """

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, Any]],
        period: int,
        checkpointer: Checkpointer | None = None,
    ):
        self._evaluate = evaluate
        self._period = period
        self._checkpointer = checkpointer
        self.results: Mapping[str, Any] = {}

    def after_step(self) -> None:
        """Evaluate if it is time."""
        done = self.trainer.iter + 1
        if self._period and done % self._period == 0 and done < self.trainer.max_iter:
            self._run(self.trainer.iter)

    def after_train(self) -> None:
        """Evaluate what a complete training has led to."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._run(self.trainer.max_iter - 1)

    def _run(self, iteration: int) -> None:
        with termination.first(lambda: self._keep(iteration)):
            self.results = self._evaluate()
        if comm.is_main_process():
            scalars = {
                name: float(value)
                for name, value in flatten_results_dict(self.results).items()
                if math.isfinite(value)  # no objects of a size or class
            }
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
            if self._checkpointer is not None and BOX_AP in scalars:
                best = self._checkpointer.best_ap()
                if best is None or scalars[BOX_AP] > best:
                    self._checkpointer.save_best(iteration, scalars[BOX_AP])
        comm.synchronize()  # so that the next iteration's speed is the step's

    def _keep(self, iteration: int) -> None:
        """Save what an evaluation is about that is cut short."""
        if self._checkpointer is not None and self._checkpointer.saved < iteration:
            self._checkpointer.save(iteration)

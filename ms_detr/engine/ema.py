"""Averages of the weights over the steps of a training, evaluated beside the weights themselves."""

from __future__ import annotations

import logging

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..run_folder import EMA
from .checkpoint import Checkpointer

logger = logging.getLogger(__name__)


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential averages of a model's weights, with the buffers as they are.

    The average of the first step is its weights; then it is ``decay`` times the average before,
    plus ``1 - decay`` times the weights.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


class EMAHook(HookBase):
    """Average the bare model after every step, and write the result of a complete training.

    It comes before the hooks that save and evaluate.
    """

    def __init__(self, average: AveragedModel, model: nn.Module, checkpointer: Checkpointer):
        self._average = average
        self._model = model
        self._checkpointer = checkpointer

    def after_step(self) -> None:
        """Take the step's weights into the average."""
        self._average.update_parameters(self._model)

    def after_train(self) -> None:
        """Write the average as a file like that of the weights."""
        if comm.is_main_process() and self.trainer.iter >= self.trainer.max_iter:
            last = self.trainer.max_iter - 1
            self._checkpointer.export(EMA, self._average.module, last)

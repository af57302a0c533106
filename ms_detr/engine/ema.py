"""Averages of the weights over the steps of a training, evaluated beside the weights themselves."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data.workers import named_worker_errors
from ..errors import short_message
from ..evaluation import evaluate
from ..run_folder import EMA
from .best import expect_metric
from .building import build
from .checkpoint import Checkpointer
from .distribution import average_buffers
from .progress import SAVING, Predicting, progress
from .state import plain_state

logger = logging.getLogger(__name__)


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential averages of a model's weights, with the buffers as they are.

    The average of the first step is its weights; then it is ``decay`` times the average before,
    plus ``1 - decay`` times the weights.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def begin_average(average: AveragedModel, model: nn.Module) -> None:
    """Let an average that has taken in no step yet be the weights that a training starts from."""
    if not average.n_averaged:
        average.module.load_state_dict(plain_state(model.state_dict()))


class EMAHook(HookBase):
    """Average the bare model after every step, and write the result of a complete training.

    It comes before the hooks that save and evaluate.
    """

    def __init__(self, average: AveragedModel, model: nn.Module, checkpointer: Checkpointer):
        self._average = average
        self._model = model
        self._checkpointer = checkpointer

    def after_step(self) -> None:
        """Take the step's weights into the average, unless the step was passed over."""
        if not self.trainer.skipped:
            self._average.update_parameters(self._model)

    def after_train(self) -> None:
        """Write the average as a file like that of the weights; the last checkpoint has it, too."""
        if self.trainer.iter < self.trainer.max_iter:
            return
        progress.enter(SAVING)
        try:
            self._checkpointer.export(EMA, self._average.module, self.trainer.max_iter - 1)
        except OSError as error:
            where = self._checkpointer.last()
            logger.error("%s; the average is in %s, as 'ema'", short_message(error) or error, where)


def evaluation_of(
    cfg: DictConfig, loader: Any, model: nn.Module, average: AveragedModel | None
) -> Callable[[], Mapping[str, Any]]:
    """Return what evaluates a model and, under the name ``ema``, the average of its weights.

    Raises:
        ConfigError: none of it measures ``train.best``.
    """
    evaluated = {"": (model, build(cfg, "dataloader.evaluator"))}
    if average is not None:
        beside = copy.deepcopy(cfg)
        if folder := OmegaConf.select(cfg, "dataloader.evaluator.output_dir"):
            beside.dataloader.evaluator.output_dir = f"{folder}_ema"
        evaluated["ema"] = (average.module, build(beside, "dataloader.evaluator"))
    expect_metric(cfg.train.best, {name: evaluator for name, (_, evaluator) in evaluated.items()})

    def evaluation() -> Mapping[str, Any]:
        results: dict[str, Any] = {}
        for name, (candidate, evaluator) in evaluated.items():
            if name:
                logger.info("what follows is the evaluation of the weights' average, train.ema")
            average_buffers(candidate)
            with named_worker_errors():
                found = evaluate(candidate, Predicting(loader), evaluator)
            results.update({name: found} if name and found else found)
        return results

    return evaluation

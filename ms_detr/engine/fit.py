"""The course of a training: how long it is, and what happens when."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.engine.hooks import LRScheduler, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from omegaconf import DictConfig

from ..data import TrainLoader, iterations_per_epoch
from ..errors import ConfigError
from ..signals import termination
from .checkpoint import Checkpointer
from .hooks import CheckpointHook, EvaluationHook
from .live import FirstSteps, LiveLine
from .metrics import writers
from .timing import StepTimer
from .trainer import Trainer

logger = logging.getLogger(__name__)


def fit(
    settings: DictConfig,
    start: int,
    loader: TrainLoader,
    trainer: Trainer,
    multiplier: Any,
    checkpointer: Checkpointer,
    evaluation: Callable[[], Mapping[str, Any]],
    services: Sequence[EventWriter] = (),
) -> Mapping[str, Any]:
    """Train from an iteration to the end, and return the results of the last evaluation.

    Args:
        settings: the config's ``train`` node.
        multiplier: of the learning rate, over the course of the run.
        services: further writers, which the main process has begun.
    """
    loader.start_at(start)
    epoch = epoch_of(loader)
    max_iter = run_length(settings, epoch)
    logger.info(
        "%d images, %d iterations an epoch; training from iteration %d to %d",
        loader.dataset_size, epoch, start, max_iter,
    )  # fmt: skip
    if start >= max_iter:
        logger.warning(
            "nothing is left to train, the checkpoint has %d iterations: it is only evaluated; "
            "raise train.max_iter or train.epochs to train on", start,
        )  # fmt: skip
        start = max_iter
    live = LiveLine()
    evaluation_hook = EvaluationHook(
        evaluation, _iterations(settings.eval_epochs, epoch), checkpointer, settings.best
    )
    trainer.register_hooks(
        [
            StepTimer(trainer.device),
            LRScheduler(trainer.optimizer, multiplier),
            # Saved first: an evaluation that is interrupted costs no training.
            CheckpointHook(checkpointer, _iterations(settings.checkpoint_epochs, epoch)),
            evaluation_hook,
            PeriodicWriter(
                [*writers(settings.output_dir, start, max_iter), *services], settings.log_period
            )
            if comm.is_main_process()
            else None,
            FirstSteps(settings.log_period),
            live,
        ]
    )
    with termination.noted(), live.shown(start, max_iter):
        trainer.train(start, max_iter)
    return evaluation_hook.results


def epoch_of(loader: TrainLoader) -> int:
    """Return the iterations of an epoch."""
    return iterations_per_epoch(loader.dataset_size, loader.total_batch_size)


def run_length(train: Any, epoch: int) -> int:
    """Return a run's iterations: ``train.max_iter``, else ``train.epochs`` times an epoch's."""
    max_iter = _iterations(train.epochs or 0, epoch) if train.max_iter is None else train.max_iter
    if max_iter < 1:
        raise ConfigError(
            f"nothing to train: train.epochs={train.epochs} train.max_iter={train.max_iter}; "
            "set one of them above 0"
        )
    return max_iter


def kept_every(train: Any, epoch: int) -> int:
    """Return every how many iterations a periodic checkpoint is kept for good; 0 for none."""
    if not train.keep_every_epochs:
        return 0
    count = round(train.keep_every_epochs / train.checkpoint_epochs)
    return count * _iterations(train.checkpoint_epochs, epoch)


def _iterations(epochs: float, epoch: int) -> int:
    """Return the iterations of so many epochs, rounded; 0 for none alone."""
    return max(1, round(epochs * epoch)) if epochs > 0 else 0

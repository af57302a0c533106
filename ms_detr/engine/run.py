"""A run: train, or evaluate, what a config describes."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.engine.hooks import IterationTimer, LRScheduler, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..config import describe, expand_paths
from ..data import TrainLoader, iterations_per_epoch
from ..data.workers import named_worker_errors
from ..errors import ConfigError
from ..evaluation import evaluate as evaluate_model
from ..files import write_text
from ..run_folder import CONFIG, EVAL_ONLY, METRICS
from ..signals import termination
from .agreement import alone, in_main_process
from .buffers import average_buffers, keep_gradient_layout, synchronise_batchnorm
from .building import build, building
from .checkpoint import Checkpointer
from .checks import check_config
from .datasets import (
    LOADERS,
    build_like_training,
    check_datasets,
    naming,
    order_classes,
    tell_changes,
)
from .device import prepare
from .ema import EMAHook, average_of
from .hooks import CheckpointHook, EvaluationHook
from .limits import check_limits
from .logs import environment, setup_logging
from .metrics import Expendable, ExpendableOnce, ProgressPrinter, forget_metrics_from
from .optimizer import build_optimizer
from .pairs import check_pairs, check_start
from .precision import Precision
from .start import Start, begin, choose_start, weights_to_evaluate
from .state import FINE_TUNE
from .trainer import Trainer
from .weights import load_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where a config comes from, for the log and for what a checkpoint keeps of it.

    Attributes:
        file: the config's file, as it was given; empty for a config that was made in Python.
        overrides: what was changed on the command line.
    """

    file: str = ""
    overrides: Sequence[str] = ()

    def __str__(self) -> str:
        if not self.file:
            return "a config made in Python"
        return " ".join([f"--config-file {self.file}", *self.overrides])

    def names_weights(self) -> bool:
        """Whether the overrides say what to start from."""
        given = dict(text.lstrip("+").partition("=")[::2] for text in self.overrides)
        return given.get("train.init_checkpoint", "") not in ("", "null", '""', "''")


HERE = Origin()


def train(cfg: DictConfig, resume: bool = False, origin: Origin = HERE) -> Mapping[str, Any]:
    """Train what a config describes, and evaluate it.

    Checkpoints, the log, curves and results go to ``train.output_dir``; see docs/training.md.

    Args:
        cfg: see `ms_detr.config.load`; its ``train`` node is documented in
            `ms_detr.recipes.training`.
        resume: go on from the newest checkpoint in ``train.output_dir``, if there is one.
        origin: where the config comes from.

    Returns:
        Results of the last evaluation, such as ``{"bbox": {"AP": 40.0, ...}}``, in the main
        process; elsewhere it is empty.

    Raises:
        UserError: about the config, the data or a checkpoint, by its kind.
        NonFiniteError: a loss became NaN or infinite.
    """
    cfg = _checked(cfg)
    check_start(cfg)
    with alone(cfg.train.output_dir):
        return _train(cfg, resume, origin)


def evaluate(
    cfg: DictConfig, weights: str | None = None, origin: Origin = HERE
) -> Mapping[str, Any]:
    """Evaluate a trained model on the test dataset of a config.

    Log and results go to the folder ``eval_only`` in ``train.output_dir``. What a training has left
    there stays, and one that is running isn't disturbed.

    Args:
        cfg: the config that the model was trained with; its datasets may be others.
        weights: a ``.pth`` file or a URL; None takes the newest checkpoint in
            ``train.output_dir``.
        origin: where the config comes from.

    Returns:
        The results in the main process, as of `train`.

    Raises:
        UserError: about the config, the data or the weights, which must be those of a whole model,
            by its kind.
    """
    cfg = _checked(cfg)
    folder = Path(cfg.train.output_dir)
    cfg.train.output_dir = str(folder / EVAL_ONLY)
    with alone(cfg.train.output_dir):
        device = _set_up(cfg, origin)
        model = build(cfg, "model").to(device)
        start = weights_to_evaluate(weights, folder)
        order_classes(cfg, start.classes, ("test",))
        with naming(start.path):
            loader = build(cfg, "dataloader.test")
            check_datasets(cfg, ("test",), start.classes)
        evaluator = build(cfg, "dataloader.evaluator")
        load_whole(model, start.path)
        with named_worker_errors():
            return evaluate_model(model, loader, evaluator)


def _checked(cfg: DictConfig) -> DictConfig:
    """Return a copy of the caller's config that is fit for a run.

    Raises:
        ConfigError: keys are missing, wrong, or contradict each other.
    """
    cfg = copy.deepcopy(cfg)
    expand_paths(cfg)  # of a config that was changed since it was loaded
    check_config(cfg)
    check_pairs(cfg)
    check_limits(cfg)
    return cfg


def _set_up(cfg: DictConfig, origin: Origin) -> torch.device:
    """Begin the log of a run, and return the device that it takes."""
    setup_logging(cfg.train.output_dir)
    device = prepare(cfg.train)
    logger.info("environment:\n%s", environment())
    logger.info("config: %s", origin)
    return device


def _train(cfg: DictConfig, resume: bool, origin: Origin) -> Mapping[str, Any]:
    """Train as `train` does, with ``train.output_dir`` to itself."""
    settings = cfg.train
    limit = TimeLimit(settings.get("max_hours"))
    folder = Path(settings.output_dir)
    description = describe(origin.file, origin.overrides, cfg)
    device = _set_up(cfg, origin)
    # Before weights are downloaded, which is for nothing if the model can't be built.
    model = build(cfg, "model").to(device)
    start = choose_start(settings, resume)
    if start.resumed and origin.names_weights():
        logger.info("train.init_checkpoint is where a run starts: not read, this one goes on")
    # The data take the order of classes that the weights have: nothing in these, nor in what an
    # optimiser knows of them, depends on the files' ids.
    order_classes(cfg, start.order)
    if settings.get("sync_batchnorm"):
        model = synchronise_batchnorm(model, device)
    with building("optimizer"):
        optimizer = build_optimizer(cfg.optimizer, model)
    multiplier = build(cfg, "lr_multiplier")
    train_loader, test_loader, datasets = _build_data(cfg, start)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    precision = precision_of(settings, device)
    if precision.may_overflow():
        parts["precision"] = precision
    decay = OmegaConf.select(settings, "ema.decay")
    if decay is not None:
        parts["ema"] = average_of(model, decay)
    checkpointer = Checkpointer(
        folder,
        keep=settings.checkpoints_to_keep,
        extra={"config": description, **datasets},
        **parts,
    )
    evaluation = _evaluation_of(cfg, test_loader, model, parts.get("ema"))
    first = begin(start, model, checkpointer, datasets["classes"])
    if start.resumed:
        tell_changes(start.datasets, datasets["datasets"], start.path)
    in_main_process(lambda: _prepare_folder(folder, first, origin, description["text"]))
    trainer = Trainer(
        distribute(model),
        train_loader,
        optimizer,
        seed=settings.seed,
        clip_grad_norm=settings.clip_grad_norm,
        accumulate=settings.get("accumulate", 1),
        precision=precision,
        log_period=settings.log_period,
        last_checkpoint=checkpointer.last,
        asked_to_stop=lambda: termination.requested or limit.is_over(),
    )
    if "ema" in parts:
        trainer.register_hooks([EMAHook(parts["ema"], model, checkpointer)])
    return fit(settings, first, train_loader, trainer, multiplier, checkpointer, evaluation)


class TimeLimit:
    """How long a process may train, from now on; the run is resumed in another one.

    Args:
        hours: None for no limit.
    """

    def __init__(self, hours: float | None):
        self._end = math.inf if hours is None else time.monotonic() + 3600 * hours
        self._told = False

    def is_over(self) -> bool:
        """Whether it is time to save and end; the first time a line says so."""
        over = time.monotonic() > self._end
        if over and not self._told:
            self._told = True
            logger.info("train.max_hours are over: saving, to go on with --resume")
        return over


def _build_data(cfg: DictConfig, start: Start) -> tuple[TrainLoader, Any, dict[str, Any]]:
    """Build the loaders of a training, and return them with what a checkpoint keeps of the data.

    Raises:
        UserError: about the data, or their classes and those of the weights.
    """
    with naming(start.path, "" if start.resumed else f"; {FINE_TUNE}"):
        train_loader = build(cfg, "dataloader.train")
        # Weights without names take the training's order of classes.
        test_loader = build(cfg, "dataloader.test") if start.order else build_like_training(cfg)
        return train_loader, test_loader, check_datasets(cfg, LOADERS, start.order)


def _prepare_folder(folder: Path, first: int, origin: Origin, text: str) -> None:
    """Write the config for people to read, and drop the metrics of what is trained again."""
    header = f"# for reading only, can't be loaded; made by: {origin}\n"
    write_text(folder / CONFIG, header + text)
    forget_metrics_from(folder / METRICS, first)


def precision_of(settings: DictConfig, device: torch.device) -> Precision:
    """Return the precision that a config's ``train`` node asks for."""
    enabled = OmegaConf.select(settings, "amp.enabled", default=False)
    return Precision(device, OmegaConf.select(settings, "amp.dtype") if enabled else None)


def _evaluation_of(
    cfg: DictConfig, loader: Any, model: nn.Module, average: AveragedModel | None
) -> Callable[[], Mapping[str, Any]]:
    """Return what evaluates a model and, under the name ``ema``, the average of its weights."""
    evaluated = {"": (model, build(cfg, "dataloader.evaluator"))}
    if average is not None:
        evaluated["ema"] = (average.module, build(_beside(cfg, "ema"), "dataloader.evaluator"))

    def evaluation() -> Mapping[str, Any]:
        results: dict[str, Any] = {}
        for name, (candidate, evaluator) in evaluated.items():
            average_buffers(candidate)
            with named_worker_errors():
                found = evaluate_model(candidate, loader, evaluator)
            results.update({name: found} if name and found else found)
        return results

    return evaluation


def _beside(cfg: DictConfig, name: str) -> DictConfig:
    """Return a config whose evaluator writes into a folder of its own, beside that of the first."""
    cfg = copy.deepcopy(cfg)
    if OmegaConf.select(cfg, "dataloader.evaluator.output_dir"):
        cfg.dataloader.evaluator.output_dir = f"{cfg.dataloader.evaluator.output_dir}_{name}"
    return cfg


def fit(
    settings: DictConfig,
    start: int,
    loader: TrainLoader,
    trainer: Trainer,
    multiplier: Any,
    checkpointer: Checkpointer,
    evaluation: Callable[[], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Train from an iteration to the end, and return the results of the last evaluation.

    Args:
        settings: the config's ``train`` node.
        multiplier: of the learning rate, over the course of the run.
    """
    loader.start_at(start)
    epoch = iterations_per_epoch(loader.dataset_size, loader.total_batch_size)
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
    evaluation_hook = EvaluationHook(evaluation, round(settings.eval_epochs * epoch), checkpointer)
    trainer.register_hooks(
        [
            IterationTimer(),
            LRScheduler(trainer.optimizer, multiplier),
            # Saved first: an evaluation that is interrupted costs no training.
            CheckpointHook(checkpointer, round(settings.checkpoint_epochs * epoch)),
            evaluation_hook,
            PeriodicWriter(writers(settings.output_dir, start, max_iter), settings.log_period)
            if comm.is_main_process()
            else None,
        ]
    )
    with termination.noted():
        trainer.train(start, max_iter)
    return evaluation_hook.results


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model where there are several processes; Detectron2's wrapper knows no CPU."""
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    keep_gradient_layout(model)
    # Buffers are averaged where they are needed. The old name is deprecated.
    known = inspect.signature(DistributedDataParallel).parameters
    key = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {key: False}
    return DistributedDataParallel(model, device_ids=ids, **options)


def run_length(train: Any, epoch: int) -> int:
    """Return a run's iterations: ``train.max_iter``, else ``train.epochs`` times an epoch's."""
    max_iter = train.max_iter
    if max_iter is None:
        max_iter = round((train.epochs or 0) * epoch)
    if max_iter < 1:
        raise ConfigError(
            f"nothing to train: train.epochs={train.epochs} train.max_iter={train.max_iter}; "
            "set one of them above 0"
        )
    return max_iter


def writers(folder: str | os.PathLike[str], start: int, max_iter: int) -> list[Any]:
    """Return what writes progress to the terminal, ``metrics.json`` and TensorBoard.

    Args:
        start: the first iteration; TensorBoard forgets what a resumed run had written after it.
    """
    path = Path(folder, METRICS)
    found = [ProgressPrinter(max_iter), Expendable(JSONWriter(str(path)), path)]
    try:
        importlib.import_module("torch.utils.tensorboard")
    except (ImportError, AttributeError) as error:  # missing, or too old for its neighbours
        logger.warning(
            "no curves for TensorBoard, %s has them all (%s): python -m pip install tensorboard",
            METRICS, error,
        )  # fmt: skip
        return found
    curves = TensorboardXWriter(str(folder), purge_step=start)
    return [*found, ExpendableOnce(curves, Path(folder))]

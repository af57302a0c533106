"""A run: train, or evaluate, what a config describes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig

from .. import __version__
from ..config import describe, expand_paths
from ..data import TrainLoader
from ..data.workers import named_worker_errors
from ..evaluation import evaluate as evaluate_model
from ..files import write_text
from ..overrides import values
from ..run_folder import CONFIG, EVAL_ONLY, METRICS
from ..signals import Terminated, termination
from .agreement import alone, in_main_process
from .batch_size import batching, tell_other_batch
from .building import build
from .checkpoint import Checkpointer
from .checks import check_config
from .closing import report
from .datasets import (
    LOADERS,
    build_like_training,
    check_datasets,
    naming,
    order_classes,
    tell_changes,
)
from .device import prepare
from .distribution import distribute
from .ema import EMAHook, evaluation_of
from .external import begin_writers, service_writers
from .failures import Failures
from .fit import epoch_of, fit, kept_every
from .job import TimeLimit, goes_on, seconds_before
from .learner import Learner
from .limits import check_limits
from .logs import FOR_THE_FILE, environment, setup_logging, versions
from .metrics import forget_metrics_from
from .pairs import check_pairs, check_training
from .pictures import with_pictures
from .progress import Predicting
from .record import StepRecorder
from .start import Start, begin, choose_start, weights_to_evaluate
from .state import FINE_TUNE
from .trainer import Trainer
from .trial import largest_that_fits
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
        return bool(values(self.overrides).get("train.init_checkpoint"))


HERE = Origin()


def train(cfg: DictConfig, resume: bool = False, origin: Origin = HERE) -> Mapping[str, Any]:
    """Train what a config describes, and evaluate it.

    Checkpoints, the log, curves and results go to ``train.output_dir``; see docs/training.md.

    Args:
        cfg: see `ms_detr.config.load`; its ``train`` node is documented in
            `ms_detr.recipes.training`.
        resume: go on from the newest checkpoint in ``train.output_dir``, if there is one. What
            torchrun starts again goes on with what it has saved itself.
        origin: where the config comes from.

    Returns:
        Results of the last evaluation, such as ``{"bbox": {"AP": 40.0, ...}}``, in the main
        process; elsewhere it is empty.

    Raises:
        UserError: about the config, the data or a checkpoint, by its kind.
        NonFiniteError: a loss became NaN or infinite.
    """
    cfg = _checked(cfg)
    check_training(cfg)
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
            return evaluate_model(model, Predicting(loader), evaluator)


def _checked(cfg: DictConfig) -> DictConfig:
    """Return a copy of the caller's config that is complete and fit for a run.

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
    logger.info("environment:\n%s", environment(), extra=FOR_THE_FILE)
    logger.info("%s, on %s", versions(), device)
    logger.info("config: %s", origin)
    return device


def _train(cfg: DictConfig, resume: bool, origin: Origin) -> Mapping[str, Any]:
    """Train as `train` does, with ``train.output_dir`` to itself."""
    settings = cfg.train
    limit = TimeLimit(settings.max_hours, seconds_before())
    folder = Path(settings.output_dir)
    description = describe(origin.file, origin.overrides, cfg)
    device = _set_up(cfg, origin)
    if any(comm.all_gather(limit.spent)):
        # For torchrun status 143 is a failure as any other, after which it starts all again.
        logger.info("train.max_hours were over before this attempt: nothing is trained")
        raise Terminated
    services = service_writers(cfg)
    # Before weights are downloaded, which is for nothing if the model can't be built.
    model = build(cfg, "model").to(device)
    start = choose_start(settings, resume or goes_on(folder))
    if start.resumed and origin.names_weights():
        logger.info("train.init_checkpoint is where a run starts: not read, this one goes on")
    # The data take the order of classes that the weights have: nothing in these, nor in what an
    # optimiser knows of them, depends on the files' ids.
    order_classes(cfg, start.order)
    learner = Learner.of(cfg, model, device)
    multiplier = build(cfg, "lr_multiplier")
    train_loader, test_loader, datasets = _build_data(cfg, start)
    images = train_loader.total_batch_size
    extra = {"version": __version__, "config": description, "images_a_step": images, **datasets}
    failures = Failures(
        settings.max_skipped_steps,
        StepRecorder(folder, learner.model, learner.precision, extra),
        last_checkpoint=lambda: checkpointer.last(),
    )
    checkpointer = Checkpointer(
        folder,
        keep=settings.checkpoints_to_keep,
        keep_every=kept_every(settings, epoch_of(train_loader)),
        extra=extra,
        **learner.parts(failures),
    )
    evaluation = evaluation_of(cfg, test_loader, learner.model, learner.average)
    evaluation = with_pictures(evaluation, cfg, learner.model)
    first = begin(start, learner.model, checkpointer, datasets["classes"])
    learner.begin_average()
    if start.resumed:
        tell_changes(start.datasets, datasets["datasets"], start.path)
        tell_other_batch(start.images_a_step, images, start.path)
    in_main_process(lambda: _prepare_folder(folder, first, origin, description["text"]))
    begin_writers(services, folder, cfg)
    trainer = _trainer(settings, learner, train_loader, failures, limit)
    if learner.average is not None:
        trainer.register_hooks([EMAHook(learner.average, learner.model, checkpointer)])
    results = fit(
        settings, first, train_loader, trainer, multiplier, checkpointer, evaluation, services
    )
    if settings.report:
        report(folder)
    return results


def _trainer(
    settings: DictConfig,
    learner: Learner,
    loader: TrainLoader,
    failures: Failures,
    limit: TimeLimit,
) -> Trainer:
    """Make the trainer, and say what a step is. A collective."""
    distributed = distribute(learner.model)
    split = batching(
        settings,
        loader.total_batch_size,
        lambda: largest_that_fits(learner.model, learner.optimizer, loader, learner.precision),
    )
    logger.info("%s; %s", split, learner.rate)
    return Trainer(
        distributed,
        loader,
        learner.optimizer,
        seed=settings.seed,
        clip_grad_norm=settings.clip_grad_norm,
        accumulate=split.parts,
        precision=learner.precision,
        log_period=settings.log_period,
        failures=failures,
        asked_to_stop=lambda: termination.requested or limit.is_over(),
    )


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

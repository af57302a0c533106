"""One recipe on any number of devices: a step's images in parts, and the rate for another batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError

logger = logging.getLogger(__name__)

AUTO = "auto"
TOTAL = "dataloader.train.total_batch_size"
BASE = "optimizer.params.base_lr"  # the same rate as optimizer.lr, as far as it is there
# Factor of the learning rate by how many times as large the batch is.
SCALINGS: dict[str, Callable[[float], float]] = {
    "none": lambda _: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": math.sqrt,
}


@dataclass(frozen=True)
class Batching:
    """How the images of a step go through the model.

    Attributes:
        processes: how many share the step's images.
        images: of a step, in each process.
        parts: in which they go through the model, one after the other.
    """

    processes: int
    images: int
    parts: int

    @property
    def at_once(self) -> int:
        """Images of the largest part."""
        return -(-self.images // self.parts)

    def __str__(self) -> str:
        at_most = "at most " if self.images % self.parts else ""
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        parts = f"{self.parts} part{'s' if self.parts > 1 else ''}"
        plural = "s" if self.at_once > 1 else ""
        return (
            f"{processes} x {at_most}{self.at_once} image{plural} at once x {parts} = "
            f"{self.processes * self.images} images a step"
        )


def batching(settings: DictConfig, total: int, largest: Callable[[], int]) -> Batching:
    """Return how a run's steps go through the model.

    Args:
        settings: the config's ``train`` node.
        total: images of a step, of all processes.
        largest: finds how many images fit into memory at once; asked where that is left to it.
    """
    processes = comm.get_world_size()
    images = total // processes
    at_once = settings.batch_size
    if at_once is None:
        return Batching(processes, images, settings.accumulate)
    at_once = min(largest() if at_once == AUTO else at_once, images)
    return Batching(processes, images, -(-images // at_once))


def check_batch_size(cfg: DictConfig) -> None:
    """Raise ConfigError where keys about the batch contradict each other, or one is missing."""
    settings = cfg.train
    if settings.batch_size is not None and settings.accumulate > 1:
        raise ConfigError(
            f"train.batch_size={settings.batch_size} and train.accumulate={settings.accumulate} "
            "both say how many images are taken at once: set one of them alone"
        )
    if settings.batch_size == AUTO and settings.sync_batchnorm and comm.get_world_size() > 1:
        raise ConfigError(
            "train.batch_size=auto tries each process by itself, and train.sync_batchnorm=true "
            "lets them wait for one another: set train.batch_size to a number"
        )
    if settings.lr_scaling == "none":
        return
    for key, wanted in (
        ("train.lr_batch_size", "the total batch size that optimizer.lr is made for"),
        ("optimizer.lr", "the learning rate to scale"),
        (TOTAL, "images a step"),
    ):
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, Real):
            raise ConfigError(
                f"train.lr_scaling={settings.lr_scaling} needs {key}, {wanted}, which is {value}: "
                "set it, or train.lr_scaling=none"
            )


def scale_learning_rate(cfg: DictConfig) -> str:
    """Scale ``optimizer.lr``, in place, to the total batch size, and say how it came about."""
    settings = cfg.train
    rate: Any = OmegaConf.select(cfg, "optimizer.lr")
    total, made_for = OmegaConf.select(cfg, TOTAL), settings.lr_batch_size
    how = f"train.lr_scaling={settings.lr_scaling}"
    if settings.lr_scaling == "none":
        known = "of the optimiser" if rate is None else rate
        others = isinstance(made_for, int) and total != made_for
        return f"learning rate {known} ({how}{f', made for {made_for} images' if others else ''})"
    factor = SCALINGS[settings.lr_scaling](total / made_for)
    cfg.optimizer.lr = rate * factor
    if OmegaConf.select(cfg, BASE) is not None:  # a link, or a number of its own
        OmegaConf.update(cfg, BASE, rate * factor)
    _tell_of_steps(settings, total)
    return (
        f"learning rate {cfg.optimizer.lr:g} = {rate} x {factor:g} ({how}, made for {made_for} "
        "images)"
    )


def _tell_of_steps(settings: DictConfig, total: int) -> None:
    """Say what a length in steps means for another batch size; one in epochs follows."""
    if settings.max_iter is not None and total != settings.lr_batch_size:
        logger.info(
            "train.max_iter=%d counts steps, whatever their size: %d images in all, not %d; "
            "train.epochs counts images", settings.max_iter, settings.max_iter * total,
            settings.max_iter * settings.lr_batch_size,
        )  # fmt: skip


def tell_other_batch(before: int | None, now: int, path: str) -> None:
    """Warn where a run goes on with other batches than its checkpoint was written with.

    Args:
        before: images of a step then; None of an older version.
    """
    if before is not None and before != now:
        logger.warning(
            "%s was written with %d images a step, and this run has %d (%s): its iterations count "
            "as iterations of this size, so the place in the data, in the schedule and in the run "
            "are others than the images seen so far",
            path, before, now, TOTAL,
        )  # fmt: skip

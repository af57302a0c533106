"""A model in training, and what changes its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim.swa_utils import AveragedModel

from .batch_size import scale_learning_rate
from .building import building
from .checkpoint import Stateful
from .compilation import check_compiler, compile_parts
from .distribution import synchronise_batchnorm
from .ema import average_of, begin_average
from .failures import Failures
from .memory import recompute
from .optimizer import build_optimizer
from .precision import Precision


@dataclass(frozen=True)
class Learner:
    """What a config's keys make of a model that is built.

    Attributes:
        model: bare, not distributed.
        rate: the learning rate, and how it came about, in words.
        average: of the weights; None for none.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rate: str
    precision: Precision
    average: AveragedModel | None

    @classmethod
    def of(cls, cfg: DictConfig, model: nn.Module, device: torch.device) -> Learner:
        """Make a model ready, in place as far as that goes; the learning rate in the config, too.

        Raises:
            ConfigError: keys don't fit the model or the device.
        """
        settings = cfg.train
        if settings.sync_batchnorm:
            model = synchronise_batchnorm(model, device)
        recompute(model, settings.activation_checkpointing)
        if settings.compile:
            check_compiler(device)
            compile_parts(model, settings.activation_checkpointing)
        rate = scale_learning_rate(cfg)
        with building("optimizer"):
            optimizer = build_optimizer(cfg.optimizer, model)
        precision = Precision(device, settings.amp.dtype if settings.amp.enabled else None)
        average = None if settings.ema.decay is None else average_of(model, settings.ema.decay)
        return cls(model, optimizer, rate, precision, average)

    def parts(self, failures: Failures) -> dict[str, Stateful]:
        """What a checkpoint keeps, by name: the model, the optimiser, and what else has a state."""
        parts: dict[str, Stateful] = {"model": self.model, "optimizer": self.optimizer}
        if self.precision.may_overflow():
            parts["precision"] = self.precision
        if self.average is not None:
            parts["ema"] = self.average
        if failures.limit:
            parts["failures"] = failures
        return parts

    def begin_average(self) -> None:
        """Let an average without steps be the weights that training starts from."""
        if self.average is not None:
            begin_average(self.average, self.model)

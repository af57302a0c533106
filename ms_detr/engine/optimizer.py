"""From a config to an optimiser."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig
from torch import nn

from ..errors import ConfigError, listed

logger = logging.getLogger(__name__)

MAX_NAMED = 4


def parameter_groups(
    model: nn.Module, base_lr: float, lr_factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return an optimiser's parameter groups: one for every learning rate, base rate first.

    Weight decay is the optimiser's, the same for all parameters, norms and biases included
    (Deformable DETR's recipe).

    Args:
        base_lr: learning rate of what no factor matches.
        lr_factors: factor by a part of the parameter's name, e.g. ``{"backbone": 0.1}``. The
            longest part that matches counts.

    Returns:
        Groups of all trainable parameters, each parameter in one group; frozen ones in none.

    Raises:
        ConfigError: for a negative rate or factor, a factor that matches no parameter, frozen ones
            included, or when nothing in the model is trainable.
    """
    if not isinstance(base_lr, Real) or not 0 <= base_lr < math.inf:
        raise ConfigError(f"optimizer.lr must be a number of at least 0, got {base_lr}")
    factors = dict(lr_factors or {})
    for part, factor in factors.items():
        if factor < 0:
            raise ConfigError(f"optimizer.params.lr_factors.{part} is negative: {factor}")
    names = [name for name, _ in model.named_parameters()]
    _check_parts(factors, names)
    by_length = sorted(factors, key=len, reverse=True)
    part_of = {name: next((part for part in by_length if part in name), None) for name in names}
    parameters: dict[float, list[nn.Parameter]] = {}
    trained: dict[str | None, list[str]] = {part: [] for part in (None, *factors)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of[name]
            factor = 1.0 if part is None else factors[part]
            parameters.setdefault(factor, []).append(parameter)
            trained[part].append(name)
    if not parameters:
        raise ConfigError("the model has no trainable parameter")
    for part, of_part in trained.items():
        rate, which = base_lr * factors.get(part or "", 1.0), part or "all others"
        shown = f" ({listed(of_part, MAX_NAMED)})" if part and of_part else ""
        logger.info("learning rate %g: %s, %d tensors%s", rate, which, len(of_part), shown)
    return [
        {"params": parameters[factor], "lr": base_lr * factor}
        for factor in sorted(parameters, key=lambda factor: (factor != 1.0, -factor))
    ]


def _check_parts(parts: Iterable[str], names: Sequence[str]) -> None:
    """Raise if a factor names no parameter; frozen ones count, they were frozen on purpose."""
    for part in parts:
        if not any(part in name for name in names):
            pieces = sorted({piece for name in names for piece in name.split(".")})
            nearest = difflib.get_close_matches(part, pieces, n=3)
            hint = f"; the nearest names are {', '.join(nearest)}" if nearest else ""
            raise ConfigError(
                f"optimizer.params.lr_factors.{part} matches no parameter of the model{hint} "
                f"(~optimizer.params.lr_factors.{part} drops it)"
            )


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build ``cfg.optimizer`` for a model.

    Following Detectron2's habit, ``cfg.optimizer.params`` is a call that lacks its ``model``.
    """
    cfg.params.model = model
    try:
        optimizer = instantiate(cfg)
    finally:
        del cfg.params.model  # a config holds no weights
    for group in optimizer.param_groups:
        for key, value in group.items():
            if isinstance(value, ListConfig):  # a tuple of the config; checkpoints keep plain types
                group[key] = tuple(value)
    return optimizer

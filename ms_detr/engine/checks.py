"""A config against what a run needs: it is complete, and its ``train`` node is sound."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import ConfigError
from .batch_size import AUTO, SCALINGS
from .building import building
from .memory import PARTS
from .precision import DTYPES

REQUIRED = (
    "model",
    "dataloader.train",
    "dataloader.test",
    "dataloader.evaluator",
    "optimizer",
    "lr_multiplier",
)
MAX_SEED = 2**32 - 1  # numpy's

Check = Callable[[Any], bool]


def _of(kind: type, fine: Check = lambda v: True) -> Check:
    """Whether a value is fine and of a kind; true and false are no numbers."""
    return lambda v: isinstance(v, kind) and isinstance(v, bool) == (kind is bool) and fine(v)


def _null_or(fine: Check) -> Check:
    return lambda v: v is None or fine(v)


BOOLEAN = _of(bool)
TEXT = _of(str)
COUNT = _of(int, lambda v: v >= 1)
ABOVE_0 = _of(Real, lambda v: 0 < v < math.inf)
AT_LEAST_0 = _of(Real, lambda v: 0 <= v < math.inf)
MAX_MINUTES = 1e6  # two years, which torch's clocks still count

METRIC = "a metric such as bbox/AP or ema/segm/AP50, or null (segm/AP, without masks bbox/AP)"

# Key of the train node -> which values are fine, and that in words.
TRAIN: dict[str, tuple[Check, str]] = {
    "output_dir": (_of(str, lambda v: bool(v.strip())), "the name of a folder"),
    "init_checkpoint": (_null_or(TEXT), 'a file, a URL, or ""'),
    "epochs": (_null_or(AT_LEAST_0), "a number of at least 0"),
    "max_iter": (_null_or(_of(int, lambda v: v >= 0)), "a whole number, or null for epochs"),
    "seed": (_of(int, lambda v: 0 <= v <= MAX_SEED), f"a whole number from 0 to {MAX_SEED}"),
    "device": (TEXT, "auto, cpu, cuda or cuda:N"),
    "threads": (_null_or(COUNT), "at least 1, or null to leave it to torch"),
    "clip_grad_norm": (_null_or(ABOVE_0), "a number above 0, or null for no clipping"),
    "log_period": (COUNT, "at least 1 (iterations)"),
    "eval_epochs": (AT_LEAST_0, "a number of at least 0 (0: at the end)"),
    "checkpoint_epochs": (AT_LEAST_0, "a number of at least 0 (0: at the end)"),
    "checkpoints_to_keep": (COUNT, "at least 1"),
}
# The same, of keys that a config may lack, behind the value that they have then.
OPTIONAL: dict[str, tuple[Any, Check, str]] = {
    "sync_batchnorm": (False, BOOLEAN, "true or false"),
    "fine_tune": (False, BOOLEAN, "true or false"),
    "best": (None, _null_or(_of(str, lambda v: bool(v.strip()))), METRIC),
    "keep_every_epochs": (0.0, AT_LEAST_0, "a number of at least 0 (0: none for good)"),
    "writers": ([], _of(ListConfig), "a list of writers such as L(WandbWriter)(project=...)"),
    "report": (True, BOOLEAN, "true or false"),
    "pictures": (4, _of(int, lambda v: v >= 0), "a whole number of at least 0 (0: none)"),
    "max_hours": (None, _null_or(ABOVE_0), "a number above 0, or null for no limit"),
    "compile": (False, BOOLEAN, "true or false"),
    "batch_size": (
        None,
        lambda v: v is None or v == AUTO or COUNT(v),
        "at least 1 (images at once), auto, or null for all of a process's",
    ),
    "lr_scaling": ("none", lambda v: v in SCALINGS, " or ".join(SCALINGS)),
    "lr_batch_size": (None, _null_or(COUNT), "at least 1, or null where it is unknown"),
    "timeout_minutes": (
        30.0,
        _of(Real, lambda v: 0 < v <= MAX_MINUTES),
        f"a number above 0 and at most {MAX_MINUTES:.0f}",
    ),
    "max_skipped_steps": (
        0,
        _of(int, lambda v: v >= 0),
        "a whole number of steps that aren't finite (0: the first one ends the training)",
    ),
    "accumulate": (1, COUNT, "at least 1 (parts of a process's batch)"),
    **{f"activation_checkpointing.{part}": (False, BOOLEAN, "true or false") for part in PARTS},
    "amp.enabled": (False, BOOLEAN, "true or false"),
    "amp.dtype": ("bfloat16", lambda v: v in DTYPES, " or ".join(DTYPES)),
    "ema.decay": (
        None,
        _null_or(_of(Real, lambda v: 0 <= v < 1)),
        "at least 0 and below 1, or null for no averages",
    ),
}
# What Detectron2's own tools/lazyconfig_train_net.py reads and a run of ours does not: the recipes'
# values, and what to take here instead.
DETECTRON2S: dict[str, tuple[Any, str]] = {
    "ddp": (
        dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
        "nothing in its place: processes are wrapped as the run needs it",
    ),
    "checkpointer": (
        dict(period=5000, max_to_keep=2),
        "train.checkpoint_epochs, train.checkpoints_to_keep and train.keep_every_epochs",
    ),
    "eval_period": (5000, "train.eval_epochs"),
}


def check_config(cfg: DictConfig) -> None:
    """Give a config, in place, the optional keys of its train node that it lacks, and check it.

    Raises:
        ConfigError: it isn't complete, or its train node not sound; names keys.
    """
    missing = [key for key in (*REQUIRED, *(f"train.{key}" for key in TRAIN)) if not _has(cfg, key)]
    if missing:
        raise ConfigError(f"the config lacks {', '.join(missing)}; see ms_detr.recipes")
    if OmegaConf.select(cfg, "dataloader.own.folder") is not None:
        raise ConfigError(
            "dataloader.own.folder is what a config is made for, and no run's own key: `ms-detr "
            "train` takes it on the command line, ms_detr.train_on in Python; evaluate the "
            "config.py that is left in the run's folder"
        )
    _expect_no_slips(cfg.train)
    _expect_ours(cfg.train)
    for key, (default, _, _) in OPTIONAL.items():
        _fill_in(cfg, f"train.{key}", default)
    optional = {key: (fine, wanted) for key, (_, fine, wanted) in OPTIONAL.items()}
    for key, (fine, wanted) in (TRAIN | optional).items():
        with building(f"train.{key}"):  # it may be a link
            value = OmegaConf.select(cfg, f"train.{key}", throw_on_missing=True)
        if not fine(value):
            shown = "null" if value is None else repr(value)
            raise ConfigError(f"train.{key} must be {wanted}, got {shown}")


def _expect_no_slips(train: DictConfig) -> None:
    """Raise ConfigError for a key that looks like one that is read; others are somebody's own."""
    known = {
        name for key in (*TRAIN, *OPTIONAL, *DETECTRON2S) for name in (key, key.partition(".")[0])
    }
    written: Any = OmegaConf.to_container(train, resolve=False)
    for name, value in written.items():
        nested = isinstance(value, dict) and name not in DETECTRON2S
        inner = [f"{name}.{key}" for key in value] if nested else []
        for key in {name, *inner} - known:
            if near := difflib.get_close_matches(key, known, 1, 0.75):
                raise ConfigError(f"nothing reads train.{key}; did you mean train.{near[0]}?")


def _expect_ours(train: DictConfig) -> None:
    """Raise ConfigError where a key is set that would act under Detectron2's own tool alone."""
    written: Any = OmegaConf.to_container(train, resolve=False)
    for key, (default, instead) in DETECTRON2S.items():
        if written.get(key, default) != default:
            raise ConfigError(
                f"train.{key} is read by Detectron2's lazyconfig_train_net.py alone; here take "
                f"{instead}"
            )


def _fill_in(cfg: DictConfig, key: str, default: Any) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent)
    if not isinstance(node, DictConfig | None):
        raise ConfigError(f"{parent} must have keys of its own, such as {name}, got {node!r}")
    if not _has(cfg, key):
        OmegaConf.update(cfg, key, default, force_add=True)


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and name in node

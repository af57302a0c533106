"""Keys that say the same thing twice: they must agree, since one would silently beat the other."""

from __future__ import annotations

import math
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ..errors import ConfigError
from .batch_size import TOTAL, check_batch_size
from .datasets import LOADERS
from .parts import check_parts
from .zoo import MSRA, TORCHVISION

# A key, and the one that is linked to it unless someone has set that one by itself.
SAME = (
    ("dataloader.test.dataset.name", "dataloader.evaluator.dataset_name"),
    ("optimizer.lr", "optimizer.params.base_lr"),
)
IMAGENET = {"RGB": TORCHVISION.mean, "BGR": MSRA.mean}  # means of the channels
# Of a pair, one that does what the other one doesn't.
WITHOUT_MASKS = "configs/ms_detr/ms_detr_r50_300q_12ep.py"
WITH_MASKS = "configs/ms_detr/ms_detr_masks_r50_300q_12ep.py"


def check_pairs(cfg: DictConfig) -> None:
    """Raise ConfigError, naming both keys, where two keys of a config contradict each other."""
    _check_length(cfg)
    for key, other in SAME:
        one, two = _value(cfg, key), _value(cfg, other)
        if None not in (one, two) and one != two:
            raise ConfigError(
                f"{key} is {one!r}, and {other} {two!r}: set the first one alone; the other is "
                f"'${{{key}}}' in ms_detr.recipes"
            )
    _check_masks(cfg)
    _check_channels(cfg)


def _check_length(cfg: DictConfig) -> None:
    epochs, max_iter = _value(cfg, "train.epochs"), _value(cfg, "train.max_iter")
    if None not in (epochs, max_iter):
        raise ConfigError(
            f"train.epochs={epochs} and train.max_iter={max_iter} both say how long to train: let "
            "the config set one of them to None"
        )


def check_training(cfg: DictConfig) -> None:
    """Raise ConfigError where keys that a training alone reads don't go together."""
    check_batch_size(cfg)
    images = _value(cfg, TOTAL)
    if isinstance(images, int):  # else the loader is somebody's own
        check_parts(cfg.train.accumulate, images // comm.get_world_size())
    _check_kept(cfg.train)
    source = _value(cfg, "train.init_checkpoint")
    if _value(cfg, "train.fine_tune") and not source:
        raise ConfigError(
            "train.fine_tune=true takes over what fits of train.init_checkpoint, which is empty: "
            "name the weights"
        )
    if source and _value(cfg, "model.backbone.pretrained"):
        raise ConfigError(
            "model.backbone.pretrained=true takes timm's weights, and train.init_checkpoint="
            f'{source} would replace them: set train.init_checkpoint="" for timm\'s, or '
            "model.backbone.pretrained=false for those of the file"
        )


def _check_channels(cfg: DictConfig) -> None:
    """Raise ConfigError where ImageNet's means are in another order than the images' channels."""
    mean = _value(cfg, "model.pixel_mean")
    for loader in LOADERS:
        key = f"dataloader.{loader}.mapper.image_format"
        order = _value(cfg, key)
        other = IMAGENET.get({"RGB": "BGR", "BGR": "RGB"}.get(order, ""))
        if mean is not None and other is not None and list(mean) == list(other):
            raise ConfigError(
                f"model.pixel_mean={list(mean)} are ImageNet's means in another order than the "
                f"channels of {key}={order}: for these they are {list(IMAGENET[order])}"
            )


def _check_kept(train: DictConfig) -> None:
    """Raise ConfigError where checkpoints are to be kept that aren't written."""
    every, period = train.keep_every_epochs, train.checkpoint_epochs
    count = every / period if period else 0.0
    if every and (count < 1 or not math.isclose(count, round(count))):
        raise ConfigError(
            f"train.keep_every_epochs={every} must be a multiple of train.checkpoint_epochs="
            f"{period}, which says what is written"
        )


def _check_masks(cfg: DictConfig) -> None:
    """Raise ConfigError where only some of model and data have masks that need each other."""
    pasted = [f"dataloader.train.{part}.masks" for part in ("mapper", "dataset")]
    lacking = [key for key in pasted if _value(cfg, key) is False]
    if lacking and _value(cfg, "dataloader.train.copy_paste") is not None:
        raise ConfigError(
            f"dataloader.train.copy_paste needs masks, and {lacking[0]} is false: set "
            f"{'=true and '.join(pasted)}=true, or dataloader.train.copy_paste=null"
        )
    predicted = _value(cfg, "model.masks") is not None
    if predicted and _value(cfg, "dataloader.train.mapper.masks") is False:
        raise ConfigError(
            "model.masks predicts masks, but none are loaded: set dataloader.masks=true, or "
            f"choose a config without masks, such as {WITHOUT_MASKS}"
        )
    if not predicted and _value(cfg, "dataloader.evaluator.masks"):
        raise ConfigError(
            "dataloader.masks is true, but the model predicts no masks: set "
            f"dataloader.masks=false, choose a config with masks, such as {WITH_MASKS}, or let "
            "yours call ms_detr.recipes.with_masks(model)"
        )
    head = _value(cfg, "model.evaluate_head")
    if head is not None and _value(cfg, "dataloader.evaluator.masks"):
        raise ConfigError(
            f"model.evaluate_head={head} detects boxes without masks: set "
            "dataloader.evaluator.masks=false to evaluate boxes alone"
        )
    for loader in LOADERS:
        wanted, loaded = (f"dataloader.{loader}.{part}.masks" for part in ("mapper", "dataset"))
        if _value(cfg, wanted) and _value(cfg, loaded) is False:
            raise ConfigError(f"{wanted} is true and {loaded} false: set dataloader.masks alone")


def _value(cfg: DictConfig, key: str) -> Any:
    """Return a key's value, None where it or its link's end is missing: others complain of that."""
    try:
        return OmegaConf.select(cfg, key)
    except InterpolationResolutionError:
        return None

"""A run's datasets and the weights that it starts from: the same classes, the same data."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ..data import (
    OtherClassesError,
    changes,
    check_classes,
    check_order,
    check_same_classes,
    class_names,
    fingerprint_of,
)
from ..run_folder import BEST
from .building import build
from .limits import warn_of_limits

logger = logging.getLogger(__name__)

LOADERS = ("test", "train")
CONSEQUENCES = {
    "train": "the order of the data follows from the number of images and the seed, an iteration's "
    "epoch from that number: what follows isn't the run that was interrupted",
    "test": f"AP before and after can't be compared, and {BEST} is chosen anew",
}


def order_classes(
    cfg: DictConfig, classes: Sequence[str], loaders: Sequence[str] = LOADERS
) -> list[str]:
    """Let the datasets of a config, in place, number their classes as weights do.

    Their functions need an argument ``classes`` for that, as `ms_detr.data.coco_dataset` has it,
    and ``partial``, to evaluate on files that list a part of the classes.

    Args:
        classes: names in the order of the weights; empty where it is unknown.
        loaders: whose datasets.

    Returns:
        Keys of the datasets whose functions can't be told: they keep an order of their own.
    """
    untold: list[str] = []
    for loader in loaders if classes else ():
        node = OmegaConf.select(cfg, f"dataloader.{loader}.dataset")
        if isinstance(node, DictConfig) and "_target_" in node:
            target = node["_target_"]
            function = locate(target) if isinstance(target, str) else target
            keys = {"classes": list(classes), "partial": loader == "test"}
            known = inspect.signature(function).parameters.keys()
            for key in keys.keys() & known:
                OmegaConf.update(node, key, keys[key], force_add=True)
            untold += [f"dataloader.{loader}.dataset"] if "classes" not in known else []
    return untold


def build_like_training(cfg: DictConfig) -> Any:
    """Build the test loader with classes numbered as those of the loaded training dataset.

    Raises:
        DataError: its file lists other classes; says which file lacks what.
    """
    names = [OmegaConf.select(cfg, f"dataloader.{x}.dataset.name") for x in ("train", "test")]
    if None in names:
        return build(cfg, "dataloader.test")
    alone = copy.deepcopy(cfg)
    order_classes(cfg, class_names(names[0]), ("test",))
    try:
        return build(cfg, "dataloader.test")
    except OtherClassesError:
        build(alone, "dataloader.test")
        check_same_classes(*names)
        raise


@contextmanager
def naming(path: str, advice: str = "") -> Iterator[None]:
    """Name the weights in an error about their classes.

    Args:
        path: of the weights.
        advice: what else can be done about it.
    """
    try:
        yield
    except OtherClassesError as error:
        raise OtherClassesError(f"{path}: {error}{advice}") from error


def check_datasets(
    cfg: DictConfig, loaders: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """Return what a checkpoint keeps of the loaded datasets: ``classes`` and ``datasets``.

    Args:
        classes: the names that the weights know, in their order; empty where they are unknown.

    Raises:
        ConfigError: the classes aren't the model's in number.
        DataError: they aren't those of the weights, or not the same in both datasets.
    """
    selected = {x: OmegaConf.select(cfg, f"dataloader.{x}.dataset.name") for x in loaders}
    names = {loader: name for loader, name in selected.items() if name is not None}
    for name in names.values():
        check_classes(name, cfg.model.num_classes)
        if classes:
            check_order(class_names(name), classes, name)
    warn_of_limits(cfg, list(names.values()))
    if len(names) == 2:
        check_same_classes(names["train"], names["test"])
    found = {loader: fingerprint_of(name) for loader, name in names.items()}
    return {
        "classes": class_names(next(iter(names.values()))) if names else [],
        "datasets": {loader: known for loader, known in found.items() if known is not None},
    }


def tell_changes(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> None:
    """Warn where datasets have changed since the checkpoint that a run goes on from was written.

    Args:
        before, now: fingerprints by loader; a checkpoint of an older version has none.
    """
    for loader in before.keys() & now.keys():
        found = changes(before[loader], now[loader])
        if found:
            logger.warning(
                "dataloader.%s.dataset has changed since %s was written: %s; %s",
                loader, path, ", ".join(found), CONSEQUENCES[loader],
            )  # fmt: skip

"""A config out of a checkpoint, which anybody may have written.

A checkpoint keeps its config as text. From it come numbers, words and names; a name is followed
only into the packages below, to something that is defined there, so that what can be built is a
part of a model or an augmentation and nothing else.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import yaml
from detectron2.data.transforms import Augmentation
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.transforms.transform import Transform
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .. import computed_keys
from ..errors import CheckpointError
from .archive import read_checkpoint

# Package -> the kinds of classes that may be taken from it; of our own rooms, functions too.
ANY = (object,)
ROOMS: dict[str, tuple[type, ...]] = {
    "ms_detr.backbones": ANY,
    "ms_detr.layers": ANY,
    "ms_detr.meta_arch": ANY,
    "ms_detr.modeling": ANY,
    "ms_detr.supervision": ANY,
    "ms_detr.auxiliary": ANY,
    "ms_detr.variants": ANY,
    "ms_detr.data.augmentation": ANY,
    "ms_detr.data.image_counts": ANY,
    "ms_detr.data.mapper": ANY,
    "torch.nn": (nn.Module,),
    "fvcore.common.param_scheduler": (ParamScheduler,),
    "detectron2.layers": (nn.Module,),
    "detectron2.modeling": (nn.Module,),
    "detectron2.data.transforms": (Augmentation, Transform),
}
BARRED = ("detectron2.modeling.mmdet_wrapper",)  # builds whatever its own config names
READ = ("model", "dataloader.test.mapper", "dataloader.test.batch_size")
MODEL = ("model",)
TARGET = "_target_"
# The weights come from the checkpoint: no part reads or downloads others.
UNWANTED = {"pretrained": False, "checkpoint_path": None}
MAX_NODES = 100_000  # of a config; aliases in a few lines of YAML stand for any number
# Of all links those to other keys alone are followed, and what we compute ourselves.
LINKS = re.compile(r"([^$]|\$\{[\w.]+\})*")
COMPUTED = (
    computed_keys.EXTRA_QUERIES,
    computed_keys.SOURCES,
    computed_keys.MOVING_POSITIONS,
)
HOW = "give the config that it was trained with: load_model(weights, cfg)"


def read_config(path: str | os.PathLike[str], keys: tuple[str, ...] = READ) -> DictConfig:
    """Return the model, its test mapper and batch size as a checkpoint of ours describes them.

    All links are resolved, and every ``_target_`` is a class or function of `ROOMS`.

    Args:
        keys: what is returned.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: the file can't be read, keeps no config, or one that names other things.
    """
    content = read_checkpoint(path, mmap=True)
    kept = content.get("config") if isinstance(content, dict) else None
    text = kept.get("text") if isinstance(kept, dict) else None
    if not isinstance(text, str):
        raise CheckpointError(f"{path} keeps no config, only weights: {HOW}")
    try:
        tree = _renewed(_read(yaml.safe_load(text), itertools.count()))
        whole = OmegaConf.create(tree, flags={"allow_objects": True})
        chosen = OmegaConf.create(flags={"allow_objects": True})
        for key in keys:
            node = OmegaConf.select(whole, key, throw_on_missing=True)
            if OmegaConf.is_config(node):
                node = OmegaConf.to_container(node, resolve=True)
            OmegaConf.update(chosen, key, _with_objects(node), force_add=True)
        if keys == READ and not isinstance(chosen.dataloader.test.batch_size, int):
            raise ValueError("dataloader.test.batch_size is no number")
    except Exception as error:  # the text leads its readers to whatever errors
        raise CheckpointError(
            f"{path}: its config can't be used ({' '.join(str(error).split())}): {HOW}"
        ) from error
    return chosen


def _renewed(config: dict[str, Any]) -> dict[str, Any]:
    """Change what earlier versions wrote otherwise, in place; the config as of today."""
    model = config["model"]
    if "decoder" in model:
        model["decoder"].setdefault("sources", computed_keys.SOURCES)
    hybrid = (model.get("groups") or {}).get("hybrid") or {}
    if "rows" in hybrid:
        hybrid["num_queries"] = hybrid.pop("rows")
    return config


def _read(node: Any, count: Iterator[int]) -> Any:
    """Return a copy of a tree that is of bounded size and has no links but harmless ones.

    The classes of groups, of which `computed_keys` asks something, are in it as objects.

    Raises:
        ValueError: it has other links, or is too large.
    """
    if next(count) > MAX_NODES:
        raise ValueError("it is too large")
    if isinstance(node, dict):
        found = {_read(key, count): _read(value, count) for key, value in node.items()}
        return found | ({TARGET: _part(found[TARGET])} if TARGET in found else {})
    if isinstance(node, list):
        return [_read(item, count) for item in node]
    if isinstance(node, str) and node not in COMPUTED and not LINKS.fullmatch(node):
        raise ValueError(f"'{node}' is more than a link to another key")
    return node


def _with_objects(node: Any) -> Any:
    """Return a tree with the objects that its names stand for, less what is unwanted.

    Raises:
        ValueError: something would be built that no room holds, or a link is left.
    """
    if isinstance(node, dict):
        changed = {key: _with_objects(value) for key, value in node.items()}
        if TARGET in changed and not callable(changed[TARGET]):
            raise ValueError(f"{TARGET} '{changed[TARGET]}' is no part that a checkpoint may name")
        return changed | {key: UNWANTED[key] for key in UNWANTED.keys() & changed.keys()}
    if isinstance(node, list):
        return [_with_objects(item) for item in node]
    if isinstance(node, str) and "${" in node:
        raise ValueError(f"'{node}' is a link behind a link")
    return _named(node) if isinstance(node, str) else node


def _part(name: Any) -> Any:
    """Return the part that a target names, or what stands for one that may not be built."""
    found = _named(name) if isinstance(name, str) else name
    return found if callable(found) else Foreign(name)


class Foreign:
    """Something out of no room; it is neither called nor imported."""

    def __init__(self, name: Any):
        self.name = name

    def __str__(self) -> str:
        return str(self.name)


def _named(text: str) -> Callable[..., Any] | str:
    """Return the class or function of `ROOMS` that a text names, and any other text as it is."""
    module, _, name = text.rpartition(".")
    if _room(module) is None or name.startswith("_"):
        return text
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return text
    return found if _is_permitted(found) else text


def _is_permitted(found: Any) -> bool:
    """Return whether something is defined in a room, and of a kind that may be taken from it."""
    room = _room(getattr(found, "__module__", None))
    if room is None:
        return False
    if isinstance(found, type):
        return issubclass(found, ROOMS[room])
    return ROOMS[room] is ANY and isinstance(found, FunctionType)


def _room(module: str | None) -> str | None:
    """Return the room that a module belongs to, if any."""
    if module in BARRED:
        return None
    names = [name for name in ROOMS if f"{module}.".startswith(f"{name}.")]
    return names[0] if names else None

"""Which keys a config needs for data: each choice with its reason, and what changes it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..engine.pairs import WITH_MASKS, WITHOUT_MASKS
from ..engine.weights import local_file
from ..errors import ConfigError, DataError, MissingFileError, SystemLimitError, counted, listed
from ..evaluation import MAX_DETECTIONS
from .facts import Facts, Split
from .source import Source

STEPS = 3000  # of a training at least, if that isn't more than so many epochs
MOST_EPOCHS = 300
EVALUATIONS = 10  # of a training
IMAGES = 4  # of a step, for each process
MOST_QUERIES = 2000


@dataclass(frozen=True)
class Recipes:
    """A pair of shipped configs for a kind of device."""

    boxes: str
    masks: str


ON_CPU = Recipes("demo/small.py", "demo/small_masks.py")
ON_GPU = Recipes(
    "ms_detr/ms_detr_pp_r50_300q_12ep.py", "ms_detr/ms_detr_masks_r50_300q_12ep.py"
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Something that was chosen.

    Attributes:
        what: it is about.
        chosen: what, and why.
        change: what changes it; empty where nothing does.
        keys: values of the config's keys.
    """

    what: str
    chosen: str
    change: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.what:<8} {self.chosen}" + (f"  [{self.change}]" if self.change else "")


@dataclass(frozen=True)
class Measured:
    """Data with their counts.

    Attributes:
        evaluated: the split that is.
    """

    source: Source
    train: Facts
    test: Facts
    evaluated: str

    @property
    def masks(self) -> bool:
        """Whether all objects have masks."""
        return self.train.masks and (self.test.masks or not self.test.objects)

    def split(self, loader: str) -> Split:
        """The files of a loader's split."""
        return self.source.splits["train" if loader == "train" else self.evaluated]


def data(measured: Measured) -> Iterator[Choice]:
    """Say what the data are, and name them in a config.

    Raises:
        DataError: there is nothing to learn.
    """
    source, train, test = measured.source, measured.train, measured.test
    if not train.objects:
        raise DataError(
            f"no training image has an object ({train.images} images in "
            f"{source.splits['train'].annotations}): nothing can be learnt"
        )
    keys: dict[str, Any] = {"model.num_classes": len(train.classes)}
    for loader in ("train", "test"):
        split = measured.split(loader)
        prefix = f"dataloader.{loader}.dataset"
        keys[f"{prefix}.name"] = f"{source.name}_{'train' if loader == 'train' else 'val'}"
        keys[f"{prefix}.images"] = str(split.images.resolve())
        keys[f"{prefix}.annotations"] = str(split.annotations.resolve())
    classes = f"{counted(len(train.classes), 'class', 'classes')} ({listed(train.classes, 6)})"
    counts = f"{_counts('train', train)}; {_counts(measured.evaluated, test)}"
    made = "divided here" if source.made_splits else "as divided there"
    yield Choice("data", f"{source.form}, {classes}", "--format", keys)
    yield Choice("splits", f"{counts}, {made}", "--split 0.8")
    if measured.evaluated == "train":
        yield Choice("", "evaluated on the training images: AP says nothing about others")
    if source.folder is not None:
        when = "converted to" if source.is_new else "converted before, in"
        yield Choice("", f"{when} {source.folder}", "--converted DIR")
    if unseen := sorted(test.used - train.used):
        yield Choice("", f"no training image has {listed(unseen, 6)}: never learnt")


def _counts(split: str, facts: Facts) -> str:
    empty = f", {facts.empty:,} of them without any" if facts.empty else ""
    return (
        f"{split} {counted(facts.images, 'image')} with {counted(facts.objects, 'object')}{empty}"
    )


def masks(measured: Measured, cfg: DictConfig) -> Iterator[Choice]:
    """Switch masks as data and config have them.

    Raises:
        ConfigError: the config learns masks, and the data have none.
    """
    learns = bool(OmegaConf.select(cfg, "dataloader.masks"))
    if learns and not measured.masks:
        raise ConfigError(
            "the config learns masks, and not every object of the data has one: take a config "
            f"without, such as {WITHOUT_MASKS}, or none for a choice by the data"
        )
    if learns:
        yield Choice("masks", "learnt, as every object has one", "--config, one without masks")
    elif measured.masks:
        yield Choice("masks", "the data have some, the config learns boxes alone",
                     f"--config, such as {WITH_MASKS}")  # fmt: skip
    elif OmegaConf.select(cfg, "dataloader.train.copy_paste") is not None:
        pasted = {f"dataloader.train.{part}.masks": False for part in ("mapper", "dataset")}
        yield Choice("masks", "none, so that no objects are copied and pasted", "",
                     {"dataloader.train.copy_paste": None, **pasted})  # fmt: skip


def queries(measured: Measured, cfg: DictConfig) -> Iterator[Choice]:
    """Have twice the queries that the fullest image has objects, and as many detections.

    Several queries of an object learn in one-to-many supervision, and some have to learn nothing.
    """
    most = max(measured.train.most, measured.test.most)
    own = OmegaConf.select(cfg, "model.num_queries")
    top_k = OmegaConf.select(cfg, "model.postprocess.top_k")
    keys: dict[str, Any] = {}
    wanted = min(-(-2 * most // 10) * 10, max(MOST_QUERIES, most))
    if isinstance(own, int) and own < wanted:
        keys["model.num_queries"] = wanted
    if isinstance(top_k, int) and top_k < wanted:
        keys["model.postprocess.top_k"] = wanted
    alike = max(measured.train.most_of_class, measured.test.most_of_class)
    if alike > MAX_DETECTIONS:
        keys["dataloader.evaluator.max_detections"] = wanted
    count = keys.get("model.num_queries", own)
    yield Choice("queries", f"{count}, for up to {most} objects in an image", "model.num_queries",
                 keys)  # fmt: skip


def schedule(
    measured: Measured, cfg: DictConfig, said: Mapping[str, Any], processes: int
) -> Iterator[Choice]:
    """Choose a step's images, and with them the rate, and how long to train."""
    keys: dict[str, Any] = {}
    lengths: dict[str, Any] = {}
    total = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    if not isinstance(total, int):  # a loader of somebody's own
        return
    if "dataloader.train.total_batch_size" not in said:
        total = min(total, IMAGES * processes)
        if measured.train.images >= processes:  # else the sampler tells
            total = min(total, measured.train.images // processes * processes)
        keys["dataloader.train.total_batch_size"] = total
    settings = cfg.train
    scaled = settings.get("lr_batch_size") and not said.keys() & {
        "optimizer.lr", "train.lr_scaling", "train.lr_batch_size"
    }  # fmt: skip
    if scaled and settings.lr_batch_size != total:
        keys["train.lr_scaling"] = "linear"
    steps = max(measured.train.images // max(total, 1), 1)
    if not said.keys() & {"train.epochs", "train.max_iter"}:
        usual = settings.get("epochs") or 0
        epochs = float(max(usual, min(math.ceil(STEPS / steps), MOST_EPOCHS)))
        length = f"{epochs:g} epochs of {steps:,} steps, {round(epochs * steps):,} in all"
        change = "train.epochs"
        every = float(max(1, round(epochs / EVALUATIONS)))
        lengths = {"train.epochs": epochs, "train.eval_epochs": every,
                   "train.checkpoint_epochs": every}  # fmt: skip
    else:
        length = f"as you say; an epoch has {steps:,} steps"
        change = ""
    rate = " at a rate in proportion" if "train.lr_scaling" in keys else ""
    yield Choice("step", f"{total} images{rate}", "dataloader.train.total_batch_size", keys)
    yield Choice("length", length, change, lengths)


def weights(cfg: DictConfig, said: Mapping[str, Any], given: str | None) -> Iterator[Choice]:
    """Choose what the training starts from.

    Raises:
        ConfigError: they are given twice.
        MissingFileError: those that are given aren't there.
    """
    key = "train.init_checkpoint"
    if given is not None:
        if key in said:
            raise ConfigError(f"--weights and {key} say the same thing: give one of them")
        file = local_file(given)
        if not Path(file).is_file():
            raise MissingFileError(f"--weights {given}: there is no such file")
        yield Choice("weights", f"what fits of {given}, as in fine-tuning", "--weights",
                     {key: os.path.abspath(file), "train.fine_tune": True})  # fmt: skip
    elif key in said:
        yield Choice("weights", f"{said[key] or 'none: from scratch'}", key)
    else:
        yield _of_config(OmegaConf.select(cfg, key), cfg)


def _of_config(source: str | None, cfg: DictConfig) -> Choice:
    if not source and OmegaConf.select(cfg, "model.backbone.pretrained"):
        return Choice("weights", "timm's of the backbone", "--weights FILE")
    if not source:
        return Choice("weights", "none: from scratch, as the recipe is made", "--weights FILE")
    try:
        file = local_file(source)
        if not Path(file).is_file():
            raise MissingFileError(f"{file} is not there")
    except (SystemLimitError, MissingFileError) as error:
        keys: dict[str, Any] = {"train.init_checkpoint": ""}
        # Norms that are frozen as they were drawn, and layers, would be noise.
        for name, value in (("norm", "BN"), ("freeze_at", 0)):
            if OmegaConf.select(cfg, f"model.backbone.{name}") is not None:
                keys[f"model.backbone.{name}"] = value
        return Choice("weights", f"none: all from scratch, which takes far longer ({error})",
                      "--weights FILE", keys)  # fmt: skip
    return Choice("weights", f"of the backbone, {file}", "--weights FILE")

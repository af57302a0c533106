"""What a run starts from: a checkpoint of its own, other weights, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError, MissingFileError
from .agreement import in_main_process
from .archive import read_facts
from .checkpoint import Checkpointer, expect_unused, newest, remove_leftovers
from .fine_tune import fine_tune
from .weights import load_weights, local_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where the first weights come from.

    Attributes:
        path: of a checkpoint or of weights, empty for none.
        resumed: whether it is a checkpoint of this run, to go on from.
        tuned: whether a training takes what fits of it and no more.
        classes: names in the order of the class scores, empty where the file tells none.
        datasets: fingerprints of the data by loader, see `ms_detr.data.fingerprint`.
        images_a_step: in all processes; None where the file doesn't tell.
    """

    path: str = ""
    resumed: bool = False
    tuned: bool = False
    classes: list[str] = field(default_factory=list)
    datasets: Mapping[str, Any] = field(default_factory=dict)
    images_a_step: int | None = None

    @property
    def order(self) -> list[str]:
        """The classes that the data must have, in their order; empty where any will do."""
        return [] if self.tuned else self.classes


def choose_start(settings: DictConfig, resume: bool) -> Start:
    """Choose what a training starts from. Nothing is loaded yet. It is a collective.

    Args:
        settings: the config's ``train`` node.

    Raises:
        ConfigError: a new run in the folder of an old one, whose checkpoints it would replace.
        MissingFileError: the weights aren't there.
        SystemLimitError: they can't be downloaded.
    """
    folder, weights = Path(settings.output_dir), settings.init_checkpoint
    if folder.is_dir():
        in_main_process(lambda: remove_leftovers(folder))
    if resume and (path := newest(folder)):
        return _start(path, resumed=True)
    if resume:
        logger.info("nothing to resume: no checkpoint in %s, starting at iteration 0", folder)
    in_main_process(lambda: expect_unused(folder))
    if not weights:
        return Start()
    return _start(local_file(weights), tuned=settings.fine_tune)


def weights_to_evaluate(weights: str | None, folder: Path) -> Start:
    """Choose the weights of an evaluation: a file, or the newest checkpoint in a folder.

    It is a collective.

    Raises:
        ConfigError: neither is there.
        MissingFileError, SystemLimitError: the weights aren't there, or can't be downloaded.
    """
    if weights:
        file = local_file(weights)
        if not Path(file).is_file():
            raise MissingFileError(f"checkpoint {file} not found")
        return _start(file)
    path = newest(folder) if weights is None else ""
    if not path:
        raise ConfigError(
            f"train.output_dir {folder} holds no checkpoint to evaluate: name the weights "
            "(train.init_checkpoint=FILE without --resume; in Python weights=FILE)"
        )
    return _start(path)


def begin(
    start: Start, model: nn.Module, checkpointer: Checkpointer, classes: Sequence[str]
) -> int:
    """Load what a training starts from, and return the iteration to start with.

    Args:
        classes: names of the model's classes, to which weights of others are tuned.

    Raises:
        CheckpointError: it doesn't fit.
    """
    if start.resumed:
        return checkpointer.resume(start.path)
    if start.tuned:
        fine_tune(model, start.path, start.classes, classes)
    else:
        load_weights(model, start.path)
    return 0


def _start(path: str, resumed: bool = False, tuned: bool = False) -> Start:
    facts = read_facts(path)
    told = {name: facts[name] for name in ("classes", "datasets", "images_a_step") if name in facts}
    return Start(path, resumed, tuned, **told)

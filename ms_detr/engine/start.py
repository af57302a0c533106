"""What a run starts from: a checkpoint of its own, other weights, or nothing."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .agreement import in_main_process
from .checkpoint import Checkpointer, expect_unused, newest, remove_leftovers
from .state import read_facts
from .weights import load_weights, local_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where the first weights come from.

    Attributes:
        path: of a checkpoint or of weights, empty for none.
        resumed: whether it is a checkpoint of this run, to go on from.
        classes: names in the order of the class scores, empty where the file tells none.
        datasets: fingerprints of the data by loader, see `ms_detr.data.fingerprint`.
    """

    path: str = ""
    resumed: bool = False
    classes: list[str] = field(default_factory=list)
    datasets: Mapping[str, Any] = field(default_factory=dict)


def choose_start(init_checkpoint: str | None, folder: Path, args: argparse.Namespace) -> Start:
    """What to start from; nothing is loaded yet. A collective.

    Raises:
        ConfigError: nothing to evaluate, or a new run in the folder of an old one.
        MissingFileError: the weights aren't there.
        SystemLimitError: they can't be downloaded.
    """
    if not args.eval_only and folder.is_dir():
        in_main_process(lambda: remove_leftovers(folder))
    if args.resume and (path := newest(folder)):
        if args.eval_only and _names_weights(args.opts):
            raise ConfigError(
                "--resume evaluates the last checkpoint, train.init_checkpoint another one: give "
                "one of them"
            )
        if _names_weights(args.opts):
            logger.info("train.init_checkpoint is where a run starts: not read, this one goes on")
        return _start(path, resumed=True)
    if args.resume and args.eval_only:
        raise ConfigError(
            f"--resume: train.output_dir {folder} holds no checkpoint to evaluate; without "
            "--resume train.init_checkpoint is evaluated"
        )
    if args.resume:
        logger.info("--resume: no checkpoint in %s, starting at iteration 0", folder)
    if not args.eval_only:
        in_main_process(lambda: expect_unused(folder))
    elif not init_checkpoint:
        raise ConfigError(_nothing_to_evaluate(folder))
    return _start(local_file(init_checkpoint)) if init_checkpoint else Start()


def begin(start: Start, checkpointer: Checkpointer, args: argparse.Namespace) -> int:
    """Load what was chosen; the iteration to start with.

    Raises:
        CheckpointError: it doesn't fit.
        ConfigError: it has a backbone alone where a model is to be evaluated.
    """
    if start.resumed:
        return checkpointer.resume(start.path)
    whole = load_weights(checkpointer.model, start.path)
    if args.eval_only and not whole:
        raise ConfigError(_nothing_to_evaluate(checkpointer.folder))
    return 0


def _start(path: str, resumed: bool = False) -> Start:
    facts = read_facts(path)
    return Start(path, resumed, facts.get("classes", []), facts.get("datasets", {}))


def _names_weights(opts: Sequence[str]) -> bool:
    """Whether overrides say what to start from."""
    given = dict(opt.lstrip("+").partition("=")[::2] for opt in opts)
    return given.get("train.init_checkpoint", "") not in ("", "null", '""', "''")


def _nothing_to_evaluate(folder: Path) -> str:
    return (
        "--eval-only needs a trained model: train.init_checkpoint=FILE, or --resume for "
        f"the last checkpoint in {folder}"
    )

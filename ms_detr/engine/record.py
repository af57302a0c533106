"""Steps that weren't finite, kept in files with all that it takes to run them again."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from .. import __version__
from ..errors import CheckpointError, MissingFileError, short_message
from .archive import read_checkpoint, write_checkpoint
from .failures import FailedStep
from .parts import Batch
from .plain import from_plain, plain_batch
from .precision import Precision
from .state import plain_state

logger = logging.getLogger(__name__)

FOLDER = "failed_steps"  # in train.output_dir
WEIGHTS = "weights.pth"  # beside the processes' files
FORMAT = 1
MAX_STEPS = 3  # that are kept in a folder, the newest


class StepRecorder:
    """Writes a step that isn't finite to a folder of its own, in at most `MAX_STEPS` of a run.

    The main process writes the weights, as a file of weights like any other, and each process
    whose part is kept its batch. A file that can't be written is no reason to end: there is one.

    Args:
        folder: ``train.output_dir``.
        model: the bare model.
        extra: goes beside the weights, as into checkpoints: the config and names of the classes.
    """

    def __init__(
        self, folder: str | os.PathLike[str], model: nn.Module, precision: Precision,
        extra: Mapping[str, Any],
    ):  # fmt: skip
        self._folder = Path(folder) / FOLDER
        self._model = model
        self._precision = precision
        self._extra = extra

    def save(self, step: FailedStep, mine: bool) -> str:
        """Write this process's files, and return what there is to say of it."""
        folder = self._folder / f"{step.iteration:07d}"
        path = folder / f"rank{comm.get_rank()}.pth"
        try:
            if comm.is_main_process():
                _forget_all_but(self._folder, MAX_STEPS - 1, folder)
                weights = {"model": plain_state(self._model.state_dict())}
                content = {**weights, "iteration": step.iteration - 1, **self._extra}
                write_checkpoint(folder / WEIGHTS, content)
            if mine:
                write_checkpoint(path, _content(step, self._precision))
                return f"to run it again: ms-detr replay {path}"
        except Exception as error:  # whatever it is, it mustn't hide the first error
            logger.exception("the step can't be kept")
            return f"what it takes to run it again can't be kept ({short_message(error) or error})"
        return ""


def _content(step: FailedStep, precision: Precision) -> dict[str, Any]:
    batches = [plain_batch(part) for part in step.parts]
    return {
        "format": FORMAT,
        "version": __version__,
        "torch": str(torch.__version__),
        "what": step.what,
        "trouble": step.trouble,
        "iteration": step.iteration,
        "rank": comm.get_rank(),
        "processes": comm.get_world_size(),
        "seed": step.seed,
        "parts": [samples for samples, _ in batches],
        "left_out": sorted({key for _, keys in batches for key in keys}),
        "losses": [{name: x.cpu() for name, x in part.items()} for part in step.losses],
        "amp": precision.dtype_name,
        "device": precision.device_type,
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
    }


def _forget_all_but(folder: Path, count: int, new: Path) -> None:
    """Leave room for a new step: remove all but so many of the others, the oldest first."""
    others = [path for path in folder.glob("*") if path.is_dir() and path != new]
    others.sort(key=lambda path: path.stat().st_mtime)
    for old in others[: max(0, len(others) - count)]:
        shutil.rmtree(old)


@dataclass(frozen=True)
class Record:
    """A process's part of a step, out of a file.

    Attributes:
        content: what `StepRecorder` has written, without the batch.
        parts: the batch, as it went through the model.
        weights: the file of the weights.
    """

    content: Mapping[str, Any]
    parts: list[Batch]
    weights: Path


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a file of `StepRecorder`, without running code.

    Raises:
        MissingFileError: it isn't there, or is the folder of such files.
        CheckpointError: it is damaged, or no such file.
    """
    if files := sorted(Path(path).glob("rank*.pth")):
        raise MissingFileError(f"{path} is a folder: give a file in it, such as {files[0]}")
    content = read_checkpoint(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no step that wasn't finite: give a file rank....pth of the folder {FOLDER}"
        )
    try:
        parts = from_plain(content.pop("parts"))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"{path}: its batch can't be read: {error}") from error
    return Record(content, parts, Path(path).with_name(WEIGHTS))

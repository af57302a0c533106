"""Checkpoints of a run: written whole or not at all, read without running code."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from detectron2.utils import comm
from torch import nn

from ..errors import CheckpointError, ConfigError, MissingFileError
from ..files import PARTIAL, write_text
from ..run_folder import BEST, FINAL, LAST, PERIODIC, periodic
from .archive import read_checkpoint, write_checkpoint
from .state import load_strictly, plain_state

logger = logging.getLogger(__name__)

KEPT = "kept"  # in a checkpoint: kept for good, whatever a later leg keeps
RESUME = "--resume (in Python resume=True)"  # for messages about what to do
# Of a group of parameters: no hyper-parameters of the optimiser.
NOT_ITS_OWN = {"params", "param_names", "initial_lr"}
CLASS = "class"  # in an optimiser's state: whose it is; earlier checkpoints lack it


class Stateful(Protocol):
    """Something whose state a checkpoint can keep."""

    def state_dict(self) -> Any:
        """Return the state, made of tensors and plain types."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take a state over."""


class Checkpointer:
    """Writes and resumes the checkpoints of a run in one folder.

    A checkpoint holds the state of every part under its name, ``iteration`` (the last one that was
    run), and what else is given, such as ``config``. Detectron2's DetectionCheckpointer can read
    it.

    Args:
        folder: ``train.output_dir``; shared by all processes.
        keep: so many of the newest periodic checkpoints are kept.
        keep_every: those after a multiple of so many iterations are kept for good; 0 for none.
        extra: stored as it is: tensors and plain types.
        parts: what is saved and resumed, by name: ``model``, the bare model and not a distributed
            wrapper; ``optimizer``; and others that a run has.

    Raises:
        ConfigError: ``keep`` is too small.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 2,
        keep_every: int = 0,
        extra: Mapping[str, Any] | None = None,
        **parts: Stateful,
    ):
        if keep < 1:
            raise ConfigError(f"train.checkpoints_to_keep must be at least 1, got {keep}")
        self.folder = Path(folder)
        self.parts = parts
        self.keep = keep
        self.keep_every = keep_every
        self.extra = dict(extra or {})
        self.saved = -1  # the newest iteration that is
        self._kept: set[int] = set()  # iterations that an earlier leg has kept for good

    def save(self, iteration: int, final: bool = False) -> None:
        """Write the state after ``iteration`` (0-based) and drop what is too old.

        Raises:
            OSError: the system can't write there; names the file.
        """
        if not comm.is_main_process():
            return
        name = FINAL if final else periodic(iteration)
        content = {part: _state(stateful) for part, stateful in self.parts.items()}
        content |= {"iteration": iteration, **self.extra}
        if not final and self._is_kept(iteration):
            content[KEPT] = True
        write_checkpoint(self.folder / name, content)
        if not final:
            self._kept.discard(iteration)  # that was of a run that was gone back behind
        write_text(self.folder / LAST, name)
        self.saved = iteration
        logger.info("saved %s", self.folder / name)
        # Those of a later iteration are of a run that was gone back behind, not older ones.
        own = [path for path in periodic_checkpoints(self.folder) if _iteration(path) <= iteration]
        for old in own[self.keep :]:
            if not self._is_kept(_iteration(old)) and _iteration(old) not in self._kept:
                old.unlink()

    def _is_kept(self, iteration: int) -> bool:
        """Whether this leg keeps the checkpoint after an iteration for good."""
        return bool(self.keep_every) and (iteration + 1) % self.keep_every == 0

    def save_best(
        self, iteration: int, score: float, metric: str = "box_ap", model: Stateful | None = None
    ) -> None:
        """Write weights as the best so far by a metric; not meant for resuming.

        Args:
            metric: the name of the score in the file.
            model: whose weights; None takes the part ``model``.
        """
        self.export(BEST, model or self.parts["model"], iteration, **{metric: score})
        logger.info("%s: %s %.2f", BEST, shown(metric), score)

    def export(self, name: str, model: Stateful, iteration: int, **scores: float) -> None:
        """Write a model's weights to a file in the folder; not meant for resuming.

        Raises:
            OSError: the system can't write there; names the file.
        """
        if comm.is_main_process():
            content = {"model": _state(model), "iteration": iteration, **scores}
            write_checkpoint(self.folder / name, {**content, **self.extra})
            logger.info("saved %s", self.folder / name)

    def best_score(self, metric: str = "box_ap") -> float | None:
        """Return the score of the best checkpoint so far.

        It is None where the best one was chosen by another metric or on another test dataset.
        """
        best = self._read_best()
        before, now = (x.get("datasets", {}).get("test") for x in (best, self.extra))
        return best.get(metric) if before is None or now is None or before == now else None

    def other_best(self, metric: str) -> str:
        """Say that the best checkpoint was chosen by another metric; empty if it was not."""
        others = [name for name in self._read_best() if _is_score(name)]
        if not others or metric in others:
            return ""
        named = ", ".join(map(shown, others))
        return f"{BEST} was chosen by {named}: it is chosen anew, by {shown(metric)}"

    def _read_best(self) -> dict[str, Any]:
        """What lies beside the best weights so far, empty where there are none."""
        path = self.folder / BEST
        if not path.is_file():
            return {}
        try:
            return read_checkpoint(path, mmap=True)
        except CheckpointError as error:
            logger.warning("%s; the best weights are chosen anew", error)
            return {}

    def last(self) -> str:
        """Return the newest checkpoint that can be resumed, empty if there is none."""
        return str(next(iter(resumable(self.folder)), ""))

    def resume(self, path: str) -> int:
        """Go on from a checkpoint, such as :func:`newest` finds, and return the next iteration.

        The optimiser's hyper-parameters stay the config's; its state is the checkpoint's.

        Raises:
            CheckpointError: it can't be read, or doesn't fit the model or the optimiser.
        """
        state = _read_whole(Path(path))
        for name, part in self.parts.items():
            if name not in state:  # of a run that had no such part
                logger.warning("%s holds no '%s', which starts anew", path, name)
            elif isinstance(part, nn.Module):
                load_strictly(part, state[name], path)
            elif isinstance(part, torch.optim.Optimizer):
                _load_optimizer(part, state[name], path)
            else:
                part.load_state_dict(state[name])
        for name in state.keys() - self.parts.keys() - self.extra.keys() - {"iteration", KEPT}:
            logger.warning("%s holds '%s', which this run goes on without", path, name)
        logger.info("resuming from %s", path)
        if comm.is_main_process():  # who writes and removes
            self._kept = {_iteration(p) for p in periodic_checkpoints(self.folder) if _marked(p)}
        self.saved = int(state["iteration"])
        return self.saved + 1


def _is_score(name: str) -> bool:
    return name.endswith("_ap") or name.startswith("best/")


def shown(metric: str) -> str:
    """The name of a score in a file, for people."""
    return metric.removeprefix("best/").replace("_ap", " AP")


def _state(part: Stateful) -> Any:
    state = part.state_dict()
    if isinstance(part, torch.optim.Optimizer):
        return {**state, CLASS: type(part).__name__}
    return plain_state(state) if isinstance(part, nn.Module) else state


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: str) -> None:
    """Load an optimiser's state, but for its hyper-parameters: someone may resume to change one.

    They are put into the state before it is loaded, since some of them (``fused``) decide how.

    Raises:
        CheckpointError: the state is another optimiser's; names the file.
    """
    written_by = state.get(CLASS, "")
    if written_by and written_by not in {base.__name__ for base in type(optimizer).__mro__}:
        raise _another(optimizer, path, f"it is {written_by}'s")
    for theirs, ours in zip(state["param_groups"], optimizer.param_groups, strict=False):
        # Another version of torch has more of them, or fewer, but not other ones.
        more = theirs.keys() - ours.keys() - NOT_ITS_OWN
        if more and ours.keys() - theirs.keys() - NOT_ITS_OWN:
            raise _another(optimizer, path, f"it has {', '.join(sorted(more))}")
        theirs.update({key: value for key, value in ours.items() if key != "params"})
        if "initial_lr" in theirs:  # what a scheduler multiplies
            theirs["initial_lr"] = ours["lr"]
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"the optimiser in {path} doesn't fit this config ({error}): resume with the "
            "config and overrides of the run that wrote it"
        ) from error


def _another(optimizer: torch.optim.Optimizer, path: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the optimiser's state in {path} is not {type(optimizer).__name__}'s ({why}): resume with "
        "the config and overrides of the run that wrote it"
    )


def newest(folder: str | os.PathLike[str]) -> str:
    """Return the newest checkpoint of a run that can be read, empty if there is none.

    It is a collective: all processes take what the main process finds. A checkpoint that is
    damaged is reported and passed over.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    path, problems = "", []
    if comm.is_main_process():
        for candidate in resumable(folder):
            try:
                _read_whole(candidate)
                path = str(candidate)
                break
            except (CheckpointError, MissingFileError) as error:  # a training drops old ones
                problems.append(str(error))
                logger.warning("%s; trying the checkpoint before it", error)
    path, problems = comm.all_gather((path, problems))[0]
    if problems and not path:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(problems)}")
    return path


def expect_unused(folder: Path) -> None:
    """Make sure that a new run overwrites nothing.

    Raises:
        ConfigError: the folder holds checkpoints of an earlier run.
    """
    found = [path.name for path in (*resumable(folder), folder / BEST) if path.is_file()]
    if found:
        raise ConfigError(
            f"train.output_dir {folder} holds checkpoints of an earlier run "
            f"({', '.join(found)}): continue it with {RESUME}, or choose another folder with "
            "train.output_dir=..."
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run has left half-written. The caller has the folder to itself."""
    for leftover in folder.glob(f"*{PARTIAL}"):
        if leftover.is_file():
            leftover.unlink()


def what_is_safe(folder: str | os.PathLike[str]) -> str:
    """Say what a run that has ended early leaves behind, and what to do with it."""
    last = next(iter(resumable(folder)), None)
    if last is None:
        return f"no checkpoint was saved in {folder}: a new start begins at iteration 0"
    return f"the last checkpoint is {last}: go on with --resume"


def resumable(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the checkpoints in a folder that can be resumed, the newest one first."""
    folder = Path(folder)
    tag = folder / LAST
    tagged = (
        [folder / tag.read_text(encoding="utf-8", errors="replace").strip()]
        if tag.is_file()
        else []
    )
    final, others = folder / FINAL, periodic_checkpoints(folder)
    newer = []
    if final not in tagged and final.is_file():  # it may be an earlier, shorter leg's
        done = _iteration_in(final)
        newer = [path for path in others if _iteration(path) > done]
    found = [*tagged, *newer, final, *others]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def periodic_checkpoints(folder: Path) -> list[Path]:
    """Return a run's periodic checkpoints, the newest one first."""
    found = [path for path in folder.glob("*.pth") if PERIODIC.fullmatch(path.name)]
    return sorted(found, key=_iteration, reverse=True)


def _iteration(path: Path) -> int:
    """The iteration of a periodic checkpoint, by its name."""
    return int(path.stem.removeprefix("model_"))


def _iteration_in(path: Path) -> int:
    """The iteration of a checkpoint, by its content; -1 where it can't be read."""
    iteration = _beside_weights(path).get("iteration")
    return iteration if isinstance(iteration, int) else -1


def _marked(path: Path) -> bool:
    """Whether a checkpoint says that it is kept for good."""
    return KEPT in _beside_weights(path)


def _beside_weights(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, its tensors unread; empty where it can't be read."""
    try:
        content = read_checkpoint(path, mmap=True)
    except (CheckpointError, MissingFileError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_whole(path: Path) -> dict[str, Any]:
    """A checkpoint that has all that resuming needs."""
    state = read_checkpoint(path)
    needed = ("model", "optimizer", "iteration")
    if not isinstance(state, dict) or not all(key in state for key in needed):
        raise CheckpointError(f"{path} is no checkpoint of a run: it needs {', '.join(needed)}")
    return state

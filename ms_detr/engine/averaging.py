"""The mean of several checkpoints' weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, listed
from ..run_folder import FINAL
from .archive import read_checkpoint, read_facts
from .checkpoint import periodic_checkpoints
from .weights import state_of

KEPT = ("config", "datasets", "version")  # of the last one, beside its classes


def average_checkpoints(paths: Sequence[Path]) -> dict[str, Any]:
    """Return a checkpoint with the mean of the weights of others, which are read one by one.

    Means are taken in float64. Tensors that are the same everywhere stay as they are, whole numbers
    (steps that were counted) are the last one's, and names of one tensor share the mean, too.

    Args:
        paths: at least two files, in their order. Config and version are those of the last one.

    Raises:
        ConfigError: fewer than two files, or one of them twice.
        MissingFileError: there is no such file.
        CheckpointError: one can't be read, or has other names, shapes, types or classes than the
            first.
    """
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise ConfigError(
            f"an average is of two or more different checkpoints, got {listed(paths) or 'none'}"
        )
    first = _read(paths[0])
    classes = read_facts(paths[0]).get("classes")
    means = {name: _Mean(tensor) for name, tensor in first.items()}
    for path in paths[1:]:
        state = _read(path)
        _expect_alike(path, state, paths[0], first)
        if read_facts(path).get("classes") != classes:
            raise CheckpointError(f"{path} has other classes than {paths[0]}")
        for name, tensor in state.items():
            means[name].add(tensor)
    last = read_facts(paths[-1])
    names = {} if classes is None else {"classes": classes}
    facts = {name: last[name] for name in KEPT if name in last}
    averaged = [path.name for path in paths]
    return {"model": _tied(first, means), **names, **facts, "averaged": averaged}


def newest_of(folder: Path, count: int) -> list[Path]:
    """Return the newest checkpoints of a run, its periodic ones and the final one, oldest first.

    Raises:
        ConfigError: there are fewer.
        CheckpointError: the final one can't be read.
    """
    found = list(checkpoints_of(folder).values())
    if len(found) < count:
        raise ConfigError(
            f"{folder} holds {len(found)} checkpoints, not {count}: train.checkpoints_to_keep and "
            "train.keep_every_epochs say which a run leaves"
        )
    return found[-count:]


def checkpoints_of(folder: Path) -> dict[int, Path]:
    """Return a run's checkpoints by iteration, its periodic ones and the final one, oldest first.

    Raises:
        CheckpointError: the final one can't be read.
    """
    found = {_iteration_of(path): path for path in periodic_checkpoints(folder)}
    if (folder / FINAL).is_file():
        found[_iteration_of(folder / FINAL)] = folder / FINAL
    return dict(sorted(found.items()))


class _Mean:
    """A mean in the making, of tensors of one shape and type."""

    def __init__(self, first: Tensor):
        self._last = first
        self._sum = first.double() if first.is_floating_point() else None
        self._count = 1
        self._same = True

    def add(self, tensor: Tensor) -> None:
        self._same = self._same and torch.equal(self._last, tensor)
        self._last = tensor
        self._count += 1
        if self._sum is not None:
            self._sum = self._sum + tensor.double()

    def value(self) -> Tensor:
        if self._sum is None or self._same:
            return self._last.clone()
        return (self._sum / self._count).to(self._last.dtype)


def _read(path: Path) -> dict[str, Tensor]:
    return state_of(read_checkpoint(path), str(path))


def _expect_alike(
    path: Path, state: Mapping[str, Tensor], first: Path, expected: Mapping[str, Tensor]
) -> None:
    """Raise CheckpointError unless two state dicts have the same names, shapes and types."""
    problems = [
        f"{len(names)} {word} ({listed(names, 3)})"
        for names, word in (
            ([n for n in expected if n not in state], "missing"),
            ([n for n in state if n not in expected], "more"),
            ([n for n in state if _kind(state[n]) != _kind(expected.get(n, state[n]))], "unlike"),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} has other tensors than {first}: {'; '.join(problems)}")


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype


def _tied(first: Mapping[str, Tensor], means: Mapping[str, _Mean]) -> dict[str, Tensor]:
    """The means by name; where the first checkpoint has one tensor, and all agree, one again."""
    names: dict[tuple[Any, ...], str] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in first.items():
        result[name] = means[name].value()
        if tensor.numel():
            original = names.setdefault((tensor.data_ptr(), *_kind(tensor)), name)
            if torch.equal(result[original], result[name]):
                result[name] = result[original]
    return result


def _iteration_of(path: Path) -> int:
    content = read_checkpoint(path, mmap=True)
    iteration = content.get("iteration") if isinstance(content, dict) else None
    if not isinstance(iteration, int):
        raise CheckpointError(f"{path} is no checkpoint of a run: it has no iteration")
    return iteration

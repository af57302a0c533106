"""What a training run reports about itself."""

from __future__ import annotations

import datetime
import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage
from torch import Tensor, distributed

from ..files import reason, write_text
from ..run_folder import METRICS, TOTAL, read_metrics

logger = logging.getLogger(__name__)


class RunningMean:
    """Keeps means of named scalars over steps and processes, on the device until asked for.

    Reading dozens of losses one by one in every step would make the host wait for the device
    dozens of times; here a step costs one `stack` and one addition, and `read` one transfer.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sum: Tensor | None = None
        self._steps = 0

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count one step. Names that differ from the last step's start a new mean."""
        names = tuple(values)
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self._sum is None or names != self._names:
            self._names, self._sum, self._steps = names, torch.zeros_like(stacked), 0
        self._sum += stacked
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Return the means since the last call. All processes must call it together."""
        if self._sum is None:
            return {}
        mean = self._sum / self._steps
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(mean)
            mean /= distributed.get_world_size()
        self._sum = None
        return dict(zip(self._names, mean.tolist(), strict=True))


def term_sums(losses: Mapping[str, float]) -> dict[str, float]:
    """Sum losses named ``{term}/loss_{name}/{layer}`` by term: ``{term}/loss``."""
    sums: dict[str, float] = {}
    for name, value in losses.items():
        term, separator, _ = name.partition("/loss_")
        if separator:
            sums[f"{term}/loss"] = sums.get(f"{term}/loss", 0.0) + value
    return sums


class ProgressPrinter(EventWriter):
    """Prints progress in one line: total loss, loss per term, learning rate, speed, time left.

    Detectron2's printer would list every layer's losses; those go to ``metrics.json``.
    """

    def __init__(self, max_iter: int):
        self._max_iter = max_iter

    def write(self) -> None:
        """Print the line if this iteration's losses are there: not after a run that failed."""
        storage = get_event_storage()
        if storage.latest().get(TOTAL, (0.0, -1))[1] != storage.iter:
            return
        latest = {name: value for name, (value, _) in storage.latest().items()}
        done = storage.iter + 1
        parts = [f"iter {done}/{self._max_iter}"]
        histories = storage.histories()
        if "time" in histories:  # not in the first iterations, which are slow and don't count
            seconds = histories["time"].median(1000)
            left = datetime.timedelta(seconds=int(seconds * (self._max_iter - done)))
            parts.append(f"eta {left}")
        parts.append(f"loss {latest[TOTAL]:.4g}")
        terms = [name for name in latest if name.endswith("/loss")]
        parts += [f"{name.removesuffix('/loss')} {latest[name]:.4g}" for name in terms]
        if "grad_norm" in latest:
            parts.append(f"grad {latest['grad_norm']:.3g}")
        if "lr" in latest:
            parts.append(f"lr {latest['lr']:.3g}")
        if "time" in histories:
            data = histories["data_time"].avg(20) if "data_time" in histories else 0.0
            parts.append(f"{histories['time'].avg(20):.3f} s/iter (data {data:.3f})")
        if torch.cuda.is_available():
            parts.append(f"mem {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        logger.info("  ".join(parts))


class Expendable(EventWriter):
    """A writer that training can go without. Where it fails, that is said once, and tried again.

    Args:
        path: what it writes.
    """

    def __init__(self, writer: EventWriter, path: Path):
        self._writer = writer
        self._path = path
        self._failing = False

    def write(self) -> None:
        """Write, or say what is in the way."""
        self._try(self._writer.write)

    def close(self) -> None:
        """Close, or say what is in the way."""
        self._try(self._writer.close)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._path.stat()  # an open file that was removed takes everything
        except OSError as error:
            if not self._failing:
                logger.error(
                    "%s can't write to %s (%s): training goes on without",
                    type(self._writer).__name__, self._path, reason(error),
                )  # fmt: skip
            self._failing = True
        else:
            self._failing = False


class ExpendableOnce(Expendable):
    """A writer that is of no use any more once it has failed, as TensorBoard's with its thread."""

    def _try(self, work: Callable[[], None]) -> None:
        if not self._failing:
            super()._try(work)


def writers(folder: str | os.PathLike[str], start: int, max_iter: int) -> list[Any]:
    """Return what writes progress to the terminal, ``metrics.json`` and TensorBoard.

    Args:
        start: the first iteration; TensorBoard forgets what a resumed run had written after it.
    """
    path = Path(folder, METRICS)
    found = [ProgressPrinter(max_iter), Expendable(JSONWriter(str(path)), path)]
    try:
        importlib.import_module("torch.utils.tensorboard")
    except (ImportError, AttributeError) as error:  # missing, or too old for its neighbours
        logger.warning(
            "no curves for TensorBoard, %s has them all (%s): python -m pip install tensorboard",
            METRICS, error,
        )  # fmt: skip
        return found
    there = (line.get("iteration") for line in read_metrics(Path(folder))) if path.is_file() else ()
    # What was kept of a resumed run's iterations is kept here, too.
    curves = TensorboardXWriter(str(folder), purge_step=start + (start in there))
    return [*found, ExpendableOnce(curves, Path(folder))]


def forget_metrics_from(path: str | Path, iteration: int) -> None:
    """Drop the lines of a metrics file from an iteration on: a resumed run writes them again.

    The evaluation after a training that ended there stays, which no one repeats where it is
    extended: it is logged as of the iteration that comes next.
    """
    path = Path(path)
    if not path.is_file():
        return
    kept, ended = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
            at = found["iteration"]
            final = ended and at == iteration and TOTAL not in found
            if at < iteration or final:
                kept.append(line + "\n")
            ended = at == iteration - 1 and TOTAL in found
        except (ValueError, KeyError, TypeError):
            continue  # half a line, of a run that was killed
    write_text(path, "".join(kept))

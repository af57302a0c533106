"""A line at the bottom of a terminal that tells how a training stands, step by step."""

from __future__ import annotations

import datetime
import logging
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, cast

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from rich.console import Console, ConsoleDimensions
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from .logs import through
from .metrics import TOTAL

logger = logging.getLogger(__name__)

FIRST = 3  # steps; the next ones are as fast as all others
PAUSE = 0.25  # seconds between two looks
APS = ("segm/AP", "bbox/AP")  # the first one that there is


class FirstSteps(HookBase):
    """Says once that a training moves, where its losses are not read before long.

    Args:
        log_period: iterations until they are.
    """

    def __init__(self, log_period: int):
        self._log_period = log_period
        self._start = 0.0

    def before_train(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Log the line, if it is time."""
        trainer = self.trainer
        done = trainer.iter + 1 - trainer.start_iter
        if done == FIRST < self._log_period and comm.is_main_process():
            seconds = (time.perf_counter() - self._start) / FIRST
            logger.info(
                "iter %d/%d  %.3f s/iter in the first %d; losses follow every %d",
                trainer.iter + 1, trainer.max_iter, seconds, FIRST, self._log_period,
            )  # fmt: skip


class LiveLine(HookBase):
    """Keeps the line true while :meth:`shown`; elsewhere, and where there is no terminal, nothing.

    Of what other writers say nothing changes: their lines scroll by above it.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._next = 0.0

    @contextmanager
    def shown(self, start: int, max_iter: int) -> Iterator[None]:
        """Show the line in the block, if stdout is a terminal that can."""
        stream = sys.stdout
        console = _Console(file=stream, soft_wrap=True)
        if not (comm.is_main_process() and stream.isatty()) or console.is_dumb_terminal:
            yield
            return
        progress = Progress(
            TextColumn("iter {task.completed:.0f}/{task.total:.0f}", markup=False),
            BarColumn(bar_width=16),
            TextColumn(
                "{task.fields[state]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            auto_refresh=False,  # a thread that holds a lock is nothing to fork workers beside
            redirect_stderr=False,  # it may be a file
            transient=True,
        )
        self._task = progress.add_task("", total=max_iter, completed=start, state="")
        try:
            with through(cast(TextIO, FileProxy(console, stream))):
                with suppress(OSError):
                    progress.start()
                self._progress = progress
                yield
        finally:
            self._progress = None
            with suppress(OSError):  # a terminal that is gone costs no training
                progress.stop()

    def after_step(self) -> None:
        """Show how it stands; not more often than anybody can read."""
        now = time.monotonic()
        trainer = self.trainer
        if self._progress is not None and (
            now >= self._next or trainer.iter + 1 == trainer.max_iter
        ):
            self._next = now + PAUSE
            done, left = trainer.iter + 1, trainer.max_iter - trainer.iter - 1
            state = describe(trainer.storage, left)
            with suppress(OSError):
                self._progress.update(self._task, completed=done, state=state, refresh=True)


def describe(storage: EventStorage, left: int) -> str:
    """How a training stands: time left, loss, AP so far, speed, memory; what there is of them.

    Args:
        left: iterations.
    """
    histories, latest = storage.histories(), storage.latest()
    parts = []
    if "time" in histories:
        seconds = int(histories["time"].median(1000) * left)
        parts.append(f"eta {datetime.timedelta(seconds=seconds)}")
    if TOTAL in latest:
        parts.append(f"loss {latest[TOTAL][0]:.4g}")
    for name in [name for name in APS if name in histories][:1]:
        measured = [value for value, _ in histories[name].values()]
        best = f" (best {max(measured):.1f})" if max(measured) > measured[-1] else ""
        parts.append(f"AP {measured[-1]:.1f}{best}")
    if "time" in histories:
        parts.append(f"{histories['time'].avg(20):.3f} s/iter")
    return "  ".join([*parts, f"{_memory() / 2**20:.0f} MiB"])


def _memory() -> int:
    """The most that was in use so far, in bytes: of the GPU, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):  # Linux: what `resource` tells there is the parent's peak, too
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if peak := re.search(r"VmHWM:\s*(\d+) kB", status):
            return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Console(Console):
    """Of the size of its own terminal, whatever stdin is.

    It leaves the cursor where it can be seen: a run may end at once, and not put it back.
    """

    @property  # type: ignore[misc]  # rich's can be set, too
    def size(self) -> ConsoleDimensions:
        return ConsoleDimensions(*os.get_terminal_size(self.file.fileno()))

    def show_cursor(self, show: bool = True) -> bool:
        return False

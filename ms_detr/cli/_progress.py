"""How far a verb is: a line at the bottom of a terminal, plain lines elsewhere; on stderr."""

import datetime
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

PERIOD = 10.0  # seconds between two plain lines


class Counter(AbstractContextManager):
    """Counts what is done.

    Args:
        total: how much there is; an estimate will do.
        what: it is.
    """

    def __init__(self, total: int, what: str):
        self.done = 0
        self._total = total
        self._what = what
        self._start = self._said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Counter":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        console = Console(stderr=True)
        if sys.stderr.isatty() and not console.is_dumb_terminal:
            columns = TextColumn(self._what), BarColumn(16), MofNCompleteColumn(), TextColumn("eta")
            self._bar = Progress(*columns, TimeLeft(), console=console, transient=True)
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, total=max(self._total, self.done))
        elif (now := time.monotonic()) - self._said >= PERIOD and self.done != self._total:
            self._said = now
            left = (now - self._start) / self.done * max(0, self._total - self.done)
            eta = datetime.timedelta(seconds=round(left))
            self.say(f"{self.done}/{self._total} {self._what}, eta {eta}")

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

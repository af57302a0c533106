"""Processes that verbs start, and that live no longer than these."""

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ms_detr.signals import raised


class Processes:
    """The processes that are running, which several threads may have started: see `processes`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._ended = False

    def run(self, command: Sequence[str], **options: Any) -> int:
        """Run a command and return its exit status, SIGTERM's where all have been ended already."""
        with self._lock:
            if self._ended:
                return -signal.SIGTERM
            process = subprocess.Popen(command, **options)
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.remove(process)
        return status

    def end(self) -> None:
        """End those that still run, and wait for them: they may have a checkpoint to write."""
        with self._lock:
            self._ended = True
            if self._running:
                print(
                    f"trainings ended early: {len(self._running)}; call again to go on", flush=True
                )
            for process in self._running:
                process.terminate()
        for process in list(self._running):
            process.wait()


@contextmanager
def processes() -> Iterator[Processes]:
    """In the block processes can be started; an interrupt or SIGTERM ends it, and these with it.

    It belongs into the main thread, where signals arrive.
    """
    started = Processes()
    try:
        with raised():
            yield started
    finally:
        started.end()

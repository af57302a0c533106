"""Processes that live no longer than what started them."""

from __future__ import annotations

import os
import signal
import threading
import time

PERIOD = 1.0  # seconds


def end_with_parent(parent: int | None = None) -> None:
    """From now on this process dies once its parent has, however that came about.

    Linux can do so by itself (``PR_SET_PDEATHSIG``), but for the thread that started a process
    instead of its process, and other systems can't.

    Args:
        parent: its number, where it may have died already.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PERIOD)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end_with_parent").start()

"""A job may need several attempts, by torchrun: how many there were, and how long they may take."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from detectron2.utils import comm

from .checkpoint import resumable

logger = logging.getLogger(__name__)


def is_started_again(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun has started this process in place of one that has ended early."""
    count = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return "TORCHELASTIC_RUN_ID" in environ and count != "0"


def seconds_before(environ: Mapping[str, str] = os.environ) -> float:
    """Seconds that torchrun's earlier attempts at this job have taken; 0 in the first one.

    They are those that torchrun, the parent of this process, has lived; where a system doesn't
    tell them, as only Linux does, each attempt is a job of its own.
    """
    return age(os.getppid()) if is_started_again(environ) else 0.0


def goes_on(folder: Path) -> bool:
    """Whether an earlier attempt at this job has left checkpoints in a run's folder. A collective.

    Those of another job don't count: the first attempt may have ended because of them.
    """
    began = time.time() - seconds_before()
    saved = (path for path in resumable(folder) if path.is_file())
    ours = is_started_again() and any(path.stat().st_mtime > began for path in saved)
    return comm.all_gather(ours)[0]


def age(process: int) -> float:
    """Seconds that a process has lived; 0 where the system doesn't tell."""
    try:
        # Behind the name in brackets, which may hold anything: see proc_pid_stat(5).
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError):
        return 0.0


class TimeLimit:
    """How long a job may train; the run is resumed in another one.

    Args:
        hours: None for no limit.
        before: seconds that earlier attempts at this job have taken.
    """

    def __init__(self, hours: float | None, before: float = 0.0):
        left = math.inf if hours is None else 3600 * hours - before
        self._end = time.monotonic() + left
        self.spent = left <= 0
        self._told = False

    def is_over(self) -> bool:
        """Whether it is time to save and end; the first time a line says so."""
        over = time.monotonic() > self._end
        if over and not self._told:
            self._told = True
            logger.info("train.max_hours are over: saving, to go on with --resume")
        return over

"""Seconds of a step and of its wait for data, also where the host runs ahead of its device.

On a GPU the host's clock tells when work was asked for. What it waited for data meanwhile may have
cost nothing, since the GPU was busy. So there the GPU itself notes when it comes by.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.engine.hooks import IterationTimer
from fvcore.common.timer import Timer

MAX_PENDING = 8
CUDA_EVENT = partial(torch.cuda.Event, enable_timing=True)


def timer_of(device: torch.device) -> Any:
    """What measures from ``reset()`` to ``seconds()`` on a device."""
    return EventTimer() if device.type == "cuda" else Timer()


class EventTimer:
    """Measures by events in the device's queue, without waiting for it.

    A measurement is read once the device has come to its end, mostly with the next one: what is
    told is the newest that is known, a step late.

    Args:
        make_event: an event that keeps its time.
    """

    def __init__(self, make_event: Callable[[], Any] = CUDA_EVENT):
        self._make_event = make_event
        self._pending: deque[tuple[Any, Any]] = deque(maxlen=MAX_PENDING)
        self._known: float | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a measurement where the device is once it has done what it was asked for."""
        self._begin = self._mark()
        self._since = time.perf_counter()

    def seconds(self) -> float:
        """End a measurement, and return the newest that is known; at first the host's."""
        self._pending.append((self._begin, self._mark()))
        while self._pending and self._pending[0][1].query():
            begin, end = self._pending.popleft()
            self._known = begin.elapsed_time(end) / 1000
        return time.perf_counter() - self._since if self._known is None else self._known

    def _mark(self) -> Any:
        event = self._make_event()
        event.record()
        return event


class StepTimer(IterationTimer):
    """Detectron2's hook, which logs ``time``, with the time of the device."""

    def __init__(self, device: torch.device):
        super().__init__()
        if device.type == "cuda":
            self._step_timer = EventTimer()

"""What a machine can do at best, measured, and how much memory a call takes."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch


def measure_limits(device: str = "cpu") -> dict[str, float]:
    """Arithmetic (a large matrix product), main memory (copying), caches (adding in place).

    On a GPU the caches' rate is given as main memory's.
    """
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)
    large = torch.randn(64 * 1024**2, device=device)
    target = torch.empty_like(large)
    limits = {
        "GFLOP/s": 2 * size**3 / _least(lambda: a @ b, device) * 1e-9,
        "memory GB/s": 8 * large.numel() / _least(lambda: target.copy_(large), device) * 1e-9,
    }
    # Adding in place, on what may lie in some cache; on a GPU the call itself would count too much.
    sizes = [640_000, 2_000_000, 8_000_000] if device == "cpu" else []
    rates = [_adding_rate(size // 4) for size in sizes]
    return limits | {"cache GB/s": max([limits["memory GB/s"], *rates])}


def _adding_rate(count: int) -> float:
    """GB/s of reading and writing so many floats, again and again."""
    small, repeats = torch.zeros(count), 100

    def touch() -> None:
        for _ in range(repeats):
            small.add_(1.0)

    return 8 * count * repeats / _least(touch, "cpu") * 1e-9


def _least(run: Callable[[], object], device: str, rounds: int = 7) -> float:
    return min(timed(run, device) for _ in range(rounds))


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds that a call takes, a GPU's work included."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_peak(run: Callable[[], None], device: str) -> float:
    """Megabytes (1e6) that a call takes above what was in use; NaN where the system can't say."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) * 1e-6
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)  # freed memory is no longer in use
    clear.write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) * 1e-6


def _resident(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0

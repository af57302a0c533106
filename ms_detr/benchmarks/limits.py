"""What a machine can do at best, measured, and how much time and memory a call takes."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

HEAD_START = 10_000_000  # cycles: some milliseconds
L1_BYTES = 128  # that a multiprocessor's first cache delivers a cycle, from Volta to Hopper


def measure_limits(device: str = "cpu") -> dict[str, float]:
    """Arithmetic (a large matrix product), main memory (copying), caches (adding in place).

    A GPU's caches are not measured: what its first ones deliver at the highest clock.
    """
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)
    large = torch.randn(64 * 1024**2, device=device)
    target = torch.empty_like(large)
    limits = {
        "GFLOP/s": 2 * size**3 / _least(lambda: a @ b, device) * 1e-9,
        "memory GB/s": 8 * large.numel() / _least(lambda: target.copy_(large), device) * 1e-9,
    }
    if device == "cuda":
        rates = [_first_cache_rate()]
    else:  # adding in place, on what may lie in some cache
        rates = [_adding_rate(size // 4) for size in (640_000, 2_000_000, 8_000_000)]
    return limits | {"cache GB/s": max([limits["memory GB/s"], *rates])}


def _first_cache_rate() -> float:
    """GB/s of all multiprocessors' first caches; 0 where PyTorch does not know the clock."""
    gpu = torch.cuda.get_device_properties()
    kilohertz = getattr(gpu, "clock_rate", 0)
    return gpu.multi_processor_count * L1_BYTES * kilohertz * 1e-6


def _adding_rate(count: int) -> float:
    """GB/s of reading and writing so many floats, again and again."""
    small, repeats = torch.zeros(count), 100

    def touch() -> None:
        for _ in range(repeats):
            small.add_(1.0)

    return 8 * count * repeats / _least(touch, "cpu") * 1e-9


def _least(run: Callable[[], object], device: str, rounds: int = 7) -> float:
    return min(interleaved([run], device, rounds)[0])


def interleaved(
    runs: Sequence[Callable[[], object]], device: str, rounds: int
) -> list[list[float]]:
    """Seconds of each call in every round, turn by turn; a first round warms up."""
    measure = gpu_seconds if device == "cuda" else wall_seconds
    times = [[measure(run) for run in runs] for _ in range(rounds + 1)]
    return [list(seconds) for seconds in zip(*times[1:], strict=True)]


def gpu_seconds(run: Callable[[], object]) -> float:
    """Seconds of the GPU: it begins when the host has asked for everything, or for some of it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(HEAD_START)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3


def wall_seconds(run: Callable[[], object]) -> float:
    """Seconds of the host."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds that a call takes, a GPU's work included."""

    def finish() -> None:
        run()
        synchronize(device)

    synchronize(device)
    return wall_seconds(finish)


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_peak(run: Callable[[], object], device: str) -> float:
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


def measure_retained(forward: Callable[[], Tensor], leaves: Sequence[Tensor]) -> float:
    """Megabytes (1e6) that stay allocated between forward and backward: output and what is saved.

    The leaves, which were there before, do not count.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        keep(forward())
    before = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    return sum(size for start, size in kept.items() if start not in before) * 1e-6

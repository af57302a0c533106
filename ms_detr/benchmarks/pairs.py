"""Two ways to compute the same, forward and backward."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from .limits import interleaved, measure_peak, measure_retained


def choose_machine(device: str, threads: int | None) -> None:
    """Let torch have so many CPU threads, if told.

    Raises:
        ConfigError: the device is a GPU, and PyTorch sees none.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("PyTorch sees no GPU here")


def compare_two(
    ways: Mapping[str, Callable[[], Tensor]], leaves: Sequence[Tensor], device: str, rounds: int
) -> dict[str, float]:
    """Time two ways turn by turn, and measure what they take.

    Args:
        ways: two of them by name; the ratio is the first one's time over the second's.
        leaves: what gets gradients, and is there before.

    Returns:
        Medians in milliseconds, the median of the rounds' ratios, megabytes that are retained for
        the backward pass and that a call takes at most, and the largest difference of the outputs.
    """
    with torch.no_grad():
        first, second = (run() for run in ways.values())
        difference = (first - second).abs().max().item()
    steps = [lambda run=run: run().sum().backward() for run in ways.values()]
    times = interleaved(steps, device, rounds)
    retained = [measure_retained(run, leaves) for run in ways.values()]
    peak = [measure_peak(step, device) for step in steps]
    milliseconds = [statistics.median(seconds) * 1e3 for seconds in times]
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return {
        **{f"{name} ms": value for name, value in zip(ways, milliseconds, strict=True)},
        "ratio": ratio,
        **{f"{name} MB retained": value for name, value in zip(ways, retained, strict=True)},
        **{f"{name} MB peak": value for name, value in zip(ways, peak, strict=True)},
        "largest difference": difference,
    }

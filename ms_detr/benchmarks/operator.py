"""How fast the compiled operator is, against pure torch and against this machine's limits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import deformable_attention, fused_deformable_attention, reference, status
from .limits import measure_limits, measure_peak, timed

# An image of 800 x 1333 at strides 8 to 64, as the published configs see it.
LEVEL_SHAPES = ((100, 167), (50, 84), (25, 42), (13, 21))
HEADS, CHANNELS, POINTS = 8, 32, 4
CELLS = sum(height * width for height, width in LEVEL_SHAPES)
CASES = ("encoder", "encoder, uniform", "decoder 900", "decoder 300")


@dataclass(frozen=True)
class Inputs:
    """Of one attention: what a layer predicts, and the locations and weights that follow."""

    value: Tensor
    references: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor

    def leaves(self, *names: str) -> list[Tensor]:
        """Copies that want gradients."""
        return [getattr(self, name).detach().clone().requires_grad_() for name in names]


def make_inputs(
    case: str, device: str = "cpu", dtype: torch.dtype = torch.float32, batch: int = 1
) -> Inputs:
    """Random inputs as a trained layer has them: the initial ring of offsets, one cell of noise.

    The encoder's queries are the centres of all cells (in "encoder, uniform" they sample anywhere,
    the worst case for caches), the decoder's are boxes of up to 0.4 of the image.
    """
    generator = torch.Generator().manual_seed(0)
    encoder = case.startswith("encoder")
    queries = CELLS if encoder else int(case.split()[-1])
    shape = (batch, queries, HEADS, len(LEVEL_SHAPES), POINTS)
    angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
    direction = torch.stack((angle.cos(), angle.sin()), -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    ring = direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]
    offsets = ring + torch.randn(*shape, 2, generator=generator)
    references = _centers() if encoder else torch.rand(1, queries, 4, generator=generator)
    references = references * torch.tensor([1.0, 1.0, 0.4, 0.4])[: references.shape[-1]]
    references = references[:, :, None].repeat(batch, 1, len(LEVEL_SHAPES), 1)
    if case == "encoder, uniform":
        sizes = torch.tensor([(width, height) for height, width in LEVEL_SHAPES])
        anywhere = torch.rand(*shape, 2, generator=generator)
        offsets = (anywhere - references[:, :, None, :, None]) * sizes[:, None]
    logits = torch.randn(shape, generator=generator)
    value = torch.randn(batch, CELLS, HEADS, CHANNELS, generator=generator)
    locations = reference.sampling_locations(references, offsets, LEVEL_SHAPES)
    weights = reference.attention_weights(logits)
    rest = (references, offsets, logits, locations, weights)
    return Inputs(value.to(device, dtype), *(tensor.contiguous().to(device) for tensor in rest))


def _centers() -> Tensor:
    """Centres of all cells, (1, S, 2)."""
    grids = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1)
        for h, w in LEVEL_SHAPES
    ]
    return torch.cat(grids)[None]


Attention = Callable[..., Tensor]


def _parts(value: Tensor, shapes: Any, references: Tensor, offsets: Tensor, logits: Tensor):
    locations = reference.sampling_locations(references, offsets, shapes)
    return deformable_attention(value, shapes, locations, reference.attention_weights(logits))


@dataclass(frozen=True)
class Entry:
    """What is measured against what, on which inputs."""

    baseline: Attention
    compiled: Attention
    names: tuple[str, ...]


OF_LAYER = ("value", "offsets", "logits")
ENTRIES = {
    "operator": Entry(
        reference.deformable_attention, deformable_attention, ("value", "locations", "weights")
    ),
    "fused": Entry(reference.fused_deformable_attention, fused_deformable_attention, OF_LAYER),
    # What the fused front end is worth: against softmax and locations by torch in front.
    "fused against parts": Entry(_parts, fused_deformable_attention, OF_LAYER),
}


def runner(function: Attention, inputs: Inputs, names: tuple[str, ...], backward: bool) -> Callable:
    """One forward, or forward and backward, with gradients of all that a layer trains."""
    leaves = inputs.leaves(*names)
    fixed = (inputs.references,) if "offsets" in names else ()
    batch, queries = inputs.locations.shape[:2]
    gradient = torch.randn_like(inputs.value.new_empty(batch, queries, HEADS * CHANNELS))

    def forward() -> Tensor:
        return function(leaves[0], LEVEL_SHAPES, *fixed, *leaves[1:])

    def forward_only() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.grad(forward(), leaves, gradient)

    return both if backward else forward_only


def compare_operator(
    device: str = "cpu",
    cases: Sequence[str] = CASES,
    entries: Sequence[str] = tuple(ENTRIES),
    rounds: int = 9,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time compiled against baseline (pure torch), turn by turn; the first round warms up.

    Returns:
        ``machine``: what it can do; ``rows``: a dict an entry, case and direction with medians in
        milliseconds, the median of the rounds' ratios, and peak memory above the inputs.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device not in status().devices:
        reason = status().reasons.get(device, "there is no such kernel")
        raise ValueError(f"no compiled operator for {device}: {reason}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the operator is compiled for CUDA, but PyTorch sees no GPU here")
    limits = measure_limits(device)
    rows = [
        _row(device, case, entry, backward, rounds, limits)
        for case in cases
        for entry in entries
        for backward in (False, True)
    ]
    machine = {"threads": torch.get_num_threads(), "kernel": status().instruction_set}
    return {"machine": machine | limits, "rows": rows}


def _row(
    device: str, case: str, name: str, backward: bool, rounds: int, limits: dict[str, float]
) -> dict[str, Any]:
    entry = ENTRIES[name]
    inputs = make_inputs(case, device)
    functions = (entry.baseline, entry.compiled)
    runs = [runner(function, inputs, entry.names, backward) for function in functions]
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for run, seconds in zip(runs, times, strict=True):
            seconds.append(timed(run, device))
    base, mine = (seconds[1:] for seconds in times)
    milliseconds = statistics.median(mine) * 1e3
    base_peak, peak = (measure_peak(run, device) for run in runs)
    return {
        "case": case,
        "entry": name,
        "direction": "forward + backward" if backward else "forward",
        "baseline ms": statistics.median(base) * 1e3,
        "ms": milliseconds,
        "ratio": statistics.median(a / b for a, b in zip(base, mine, strict=True)),
        "of the limit": bound(case, backward, limits) / milliseconds,
        "baseline MB": base_peak,
        "MB": peak,
    }


def bound(case: str, backward: bool, limits: dict[str, float]) -> float:
    """The least milliseconds that the machine's limits allow: arithmetic, memory, gathering.

    Tensors pass main memory once. Every sample reads four rows of channels, which a cache serves
    at best; backward reads them again and reads and writes four rows of gradients.
    """
    queries = CELLS if case.startswith("encoder") else int(case.split()[-1])
    samples = queries * HEADS * len(LEVEL_SHAPES) * POINTS
    rows = samples * 4 * CHANNELS * 4  # bytes
    tensors = 4 * ((CELLS + queries) * HEADS * CHANNELS + 3 * samples)
    flops = samples * 4 * CHANNELS * 2
    if backward:
        rows, tensors, flops = 4 * rows, 3 * tensors, 3 * flops
    nanoseconds = max(
        flops / limits["GFLOP/s"], tensors / limits["memory GB/s"], rows / limits["cache GB/s"]
    )
    return nanoseconds * 1e-6

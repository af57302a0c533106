"""How fast the compiled operator is, against others that do the same, and this machine's limits."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..ops import deformable_attention, fused_deformable_attention, reference, status
from . import im2col, usual_operator
from .inputs import CASES, LEVEL_SHAPES, Inputs, make_inputs
from .limits import interleaved, measure_limits, measure_peak, measure_retained

DIRECTIONS = ("forward", "forward + backward")
# Mean error over mean size that still is rounding: a sample on a kink may take the other slope.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
# With these set, glibc keeps memory and does not return it to the system after every call.
MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")

Attention = Callable[..., Tensor]


def _parts(
    value: Tensor, shapes: Any, references: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    locations = reference.sampling_locations(references, offsets, shapes)
    return deformable_attention(value, shapes, locations, reference.attention_weights(logits))


@dataclass(frozen=True)
class Entry:
    """What is measured against what, on which inputs.

    Attributes:
        names: what both take, with gradients, after value and shapes; references go before offsets.
        dtype: of the compiled operator's values; the baseline's are float32.
        goals: least and wanted ratio of a direction.
    """

    baseline: Attention
    compiled: Attention
    names: tuple[str, ...]
    dtype: torch.dtype = torch.float32
    goals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


GIVEN = ("value", "locations", "weights")
OF_LAYER = ("value", "offsets", "logits")
ENTRIES = {
    "usual formulation": Entry(usual_operator.deformable_attention, deformable_attention, GIVEN),
    "operator": Entry(reference.deformable_attention, deformable_attention, GIVEN),
    "fused": Entry(reference.fused_deformable_attention, fused_deformable_attention, OF_LAYER),
    # What the fused front end is worth: against softmax and locations by torch in front.
    "fused against parts": Entry(_parts, fused_deformable_attention, OF_LAYER),
}
# Against the original scheme, on a GPU alone.
ORIGINAL = {
    "original": Entry(
        im2col.deformable_attention,
        deformable_attention,
        GIVEN,
        goals=dict(zip(DIRECTIONS, ((1.4, 2.0), (1.25, 2.0)), strict=True)),
    ),
    "original, ours bfloat16": Entry(
        im2col.deformable_attention,
        deformable_attention,
        GIVEN,
        torch.bfloat16,
        dict(zip(DIRECTIONS, ((2.0, 3.5), (1.5, 2.5)), strict=True)),
    ),
    "original layer, ours fused": Entry(
        im2col.attention_core,
        fused_deformable_attention,
        OF_LAYER,
        goals=dict.fromkeys(DIRECTIONS, (2.0, 3.0)),
    ),
}


def entries_for(device: str) -> dict[str, Entry]:
    """All that can be measured on a device."""
    return ENTRIES | ORIGINAL if device == "cuda" else ENTRIES


def cases_for(device: str) -> list[str]:
    """What is measured where nobody chooses: a CPU takes its time with several images."""
    return [name for name, case in CASES.items() if device == "cuda" or case.images == 1]


class Call:
    """A function on inputs of its own."""

    def __init__(self, function: Attention, inputs: Inputs, names: tuple[str, ...]) -> None:
        self.function = function
        self.leaves = [getattr(inputs, name).clone().requires_grad_() for name in names]
        self.fixed = (inputs.references,) if "offsets" in names else ()
        self.gradient = inputs.gradient

    def forward(self) -> Tensor:
        """The output, to be differentiated."""
        return self.function(self.leaves[0], LEVEL_SHAPES, *self.fixed, *self.leaves[1:])

    def infer(self) -> Tensor:
        """The output alone."""
        with torch.no_grad():
            return self.forward()

    def train(self) -> tuple[Tensor, ...]:
        """Output, and the gradients of all that a layer trains."""
        out = self.forward()
        return out.detach(), *torch.autograd.grad(out, self.leaves, self.gradient)


def compare_operator(
    device: str = "cpu",
    cases: Sequence[str] | None = None,
    entries: Sequence[str] | None = None,
    rounds: int = 9,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time compiled against baseline, turn by turn; the first round warms up.

    Returns:
        ``machine``: what it can do; ``left out``: entries that can't be measured here, and why;
        ``rows``: a dict an entry, case and direction with medians in milliseconds, the median of
        the rounds' ratios, memory in megabytes: peak above the inputs, and what stays between
        forward and backward, and the largest difference from the operator on the CPU.

    Raises:
        ConfigError: nothing is compiled for the device.
        ValueError: results differ.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device not in status().devices:
        reason = status().reasons.get(device, "there is no such kernel")
        raise ConfigError(f"no compiled operator for {device}: {reason}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the operator is compiled for CUDA, but PyTorch sees no GPU here")
    chosen = {name: entries_for(device)[name] for name in entries or entries_for(device)}
    left_out = {}
    if (original := chosen.keys() & ORIGINAL) and (reason := im2col.why_not()):
        left_out = {name: reason for name in chosen if name in original}
    limits = measure_limits(device)
    rows = []
    for case in cases or cases_for(device):
        inputs = make_inputs(CASES[case])
        for name, entry in chosen.items():
            if name not in left_out:
                found = compare(entry, inputs, device, limits, rounds)
                rows += [{"case": case, "entry": name} | row for row in found]
    return {"machine": machine(device) | limits, "left out": left_out, "rows": rows}


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on, next to the machine's limits."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        return {"torch": torch.__version__, "CUDA": torch.version.cuda, "gpu": name}
    pinned = all(name in os.environ for name in MALLOC)
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernel": status().instruction_set,
        "malloc": "pinned" if pinned else "default",
    }


def compare(
    entry: Entry, inputs: Inputs, device: str, limits: dict[str, float], rounds: int
) -> list[dict[str, Any]]:
    """Measure one entry in both directions, after a look at its results."""
    sides = ((entry.baseline, torch.float32), (entry.compiled, entry.dtype))
    calls = [Call(function, inputs.to(device, dtype), entry.names) for function, dtype in sides]
    differences = [
        difference(call, entry.compiled, inputs.to("cpu", dtype), entry.names)
        for call, (_, dtype) in zip(calls, sides, strict=True)
    ]
    retained = [measure_retained(call.forward, (*call.leaves, *call.fixed)) for call in calls]
    rows = []
    for direction in DIRECTIONS:
        backward = direction != "forward"
        runs = [call.train if backward else call.infer for call in calls]
        base, mine = interleaved(runs, device, rounds)
        milliseconds = statistics.median(mine) * 1e3
        peaks = [measure_peak(run, device) for run in runs]
        floor, target = entry.goals.get(direction, (None, None))
        row = {
            "direction": direction,
            "baseline ms": statistics.median(base) * 1e3,
            "ms": milliseconds,
            "ratio": statistics.median(a / b for a, b in zip(base, mine, strict=True)),
            "of the limit": bound(calls[1], backward, limits) / milliseconds,
            "baseline MB": peaks[0],
            "MB": peaks[1],
            "baseline retained MB": retained[0] if backward else None,
            "retained MB": retained[1] if backward else None,
            "difference": max(differences),
            "floor": floor,
            "target": target,
        }
        rows.append(row)
    return rows


def difference(call: Call, exact: Attention, inputs: Inputs, names: tuple[str, ...]) -> float:
    """Mean error over mean size of output or a gradient, whichever is largest.

    Args:
        exact: what the CPU runs on the same inputs, in float32.

    Raises:
        ValueError: it is more than rounding.
    """
    dtype = inputs.value.dtype
    expected = Call(exact, inputs.to("cpu", torch.float32), names).train()
    largest = max(
        float((one.cpu().float() - other).abs().mean() / other.abs().mean())
        for one, other in zip(call.train(), expected, strict=True)
    )
    if not largest <= TOLERANCES[dtype]:  # NaN neither
        name = f"{call.function.__module__}.{call.function.__name__}"
        raise ValueError(
            f"{name} in {dtype} differs from the operator on the CPU by {largest:.1e} of the mean"
        )
    return largest


def bound(call: Call, backward: bool, limits: dict[str, float]) -> float:
    """The least milliseconds that the machine's limits allow: arithmetic, memory, gathering.

    Tensors pass main memory once. Every sample reads four rows of channels, which a cache serves
    at best; backward reads them again and reads and writes four rows of gradients in float32.
    """
    per_sample, out = call.leaves[-1], call.gradient
    channels = out.shape[-1] // per_sample.shape[2]
    scalars = per_sample.numel() * 4 * channels
    rows = scalars * out.element_size()
    tensors = sum(tensor.nbytes for tensor in (*call.leaves, out))
    flops = scalars * 2
    if backward:
        rows, tensors, flops = 2 * rows + 2 * 4 * scalars, 3 * tensors, 3 * flops
    nanoseconds = max(
        flops / limits["GFLOP/s"], tensors / limits["memory GB/s"], rows / limits["cache GB/s"]
    )
    return nanoseconds * 1e-6

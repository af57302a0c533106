"""Self-attention among groups of queries: block by block against one dense mask."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..layers.attention import Visibility, attend
from .limits import interleaved, measure_peak, measure_retained

HEADS, CHANNELS = 8, 32
# Primary queries, and blocks of further ones with whether they see the primary.
SCHEMES: dict[str, tuple[int, list[tuple[int, bool]]]] = {
    "Hybrid": (300, [(1500, False)]),
    "Group": (300, [(300, False)] * 10),
    "DN, 20 objects": (300, [(20, True)] * 5),
    "CDN, 2 objects": (900, [(4, True)] * 50),
    "CDN, 20 objects": (900, [(40, True)] * 5),
    "Hybrid and DN": (300, [(1500, False), *[(20, True)] * 5]),
    "Group and CDN": (300, [*[(300, False)] * 10, *[(40, True)] * 5]),
}


def compare_groups(
    device: str = "cpu", batch: int = 2, rounds: int = 9, threads: int | None = None
) -> list[dict[str, Any]]:
    """Time attention forward and backward, turn by turn; its projections are left out.

    Returns:
        A dict a scheme: medians in milliseconds, the median of the rounds' ratios, megabytes that
        are retained for the backward pass and that a call takes at most, and the largest
        difference between the outputs.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("PyTorch sees no GPU here")
    return [_row(scheme, device, batch, rounds) for scheme in SCHEMES]


def _row(scheme: str, device: str, batch: int, rounds: int) -> dict[str, Any]:
    visibility = Visibility.around(*SCHEMES[scheme])
    assert visibility is not None
    mask = visibility.mask(torch.device(device))
    generator = torch.Generator().manual_seed(0)
    # As a projection leaves them: heads next to channels.
    shape = (batch, len(mask), HEADS, CHANNELS)
    leaves = [torch.randn(shape, generator=generator).to(device).requires_grad_() for _ in range(3)]

    def dense() -> Tensor:
        query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
        return F.scaled_dot_product_attention(query, key, value, mask)

    def blocks() -> Tensor:
        query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
        return attend(query, key, value, visibility)

    both = (dense, blocks)
    with torch.no_grad():
        difference = (dense() - blocks()).abs().max().item()
    steps = [lambda run=run: run().sum().backward() for run in both]
    times = interleaved(steps, device, rounds)
    retained = [measure_retained(run, leaves) for run in both]
    peak = [measure_peak(step, device) for step in steps]
    return {
        "scheme": scheme,
        "queries": len(mask),
        "dense ms": statistics.median(times[0]) * 1e3,
        "blocks ms": statistics.median(times[1]) * 1e3,
        "ratio": statistics.median(a / b for a, b in zip(*times, strict=True)),
        "dense MB retained": retained[0],
        "blocks MB retained": retained[1],
        "dense MB peak": peak[0],
        "blocks MB peak": peak[1],
        "largest difference": difference,
    }

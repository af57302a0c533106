"""Self-attention among groups of queries: block by block against one dense mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..layers.attention import Visibility, attend
from .pairs import choose_machine, compare_two

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
        A dict a scheme; see `compare_two`.
    """
    choose_machine(device, threads)
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

    ways = {"dense": dense, "blocks": blocks}
    return {
        "scheme": scheme,
        "queries": len(mask),
        **compare_two(ways, leaves, device, rounds),
    }

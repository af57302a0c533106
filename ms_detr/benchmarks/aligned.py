"""SAM-DETR's attention of one decoder layer: as the layer calls it against the naive form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..layers.aligned_attention import attend_shared
from .pairs import choose_machine, compare_two

HEADS, CHANNELS = 8, 256
# Maps of an image of 800 x 1333 pixels.
MAPS = {"stride 32": (25, 42), "stride 16": (50, 84), "stride 8": (100, 167)}


def naive(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """What `attend_shared` computes, with keys repeated for the heads and weights at hand."""
    heads = query.shape[2]
    key = key[:, None].repeat(1, heads, 1, 1)
    value = value.unflatten(-1, (heads, -1)).transpose(1, 2)
    logits = query.transpose(1, 2) @ key.mT / query.shape[-1] ** 0.5
    return (logits + mask.transpose(1, 2)).softmax(-1) @ value


def compare_aligned(
    device: str = "cpu",
    batch: int = 2,
    queries: int = 300,
    rounds: int = 9,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time both forward and backward, turn by turn; projections and the aligner are left out.

    Returns:
        A dict a map, without and with SMCA's modulation; see `compare_two`.
    """
    choose_machine(device, threads)
    return [
        _row(name, modulated, device, batch, queries, rounds)
        for name in MAPS
        for modulated in (False, True)
    ]


def _row(
    name: str, modulated: bool, device: str, batch: int, queries: int, rounds: int
) -> dict[str, Any]:
    height, width = MAPS[name]
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device).requires_grad_()

    query, mask = leaf(batch, queries, HEADS, CHANNELS), torch.zeros(batch, 1, 1, height * width)
    leaves = [query, *(leaf(batch, height * width, CHANNELS) for _ in range(2))]
    if modulated:
        mask = leaf(batch, queries, HEADS, height * width)
        leaves.append(mask)
    else:
        mask = mask.to(device)
    _, key, value = leaves[:3]

    ways = {
        "naive": lambda: naive(query, key, value, mask),
        "layer": lambda: attend_shared(query, key, value, mask),
    }
    return {
        "map": name,
        "SMCA": "yes" if modulated else "no",
        **compare_two(ways, leaves, device, rounds),
    }

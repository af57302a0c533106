"""SAM-DETR's and SMCA's attention of a decoder layer: as the layer calls it, and the naive form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..layers.aligned_attention import attend_shared
from ..layers.modulated_attention import Compared
from .pairs import choose_machine, compare_two

HEADS, CHANNELS = 8, 256
# Maps of an image of 800 x 1333 pixels.
MAPS = {"stride 32": (25, 42), "stride 16": (50, 84), "stride 8": (100, 167)}


def naive(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention with the weights at hand; all are (B, heads, queries or tokens, channels)."""
    logits = query @ key.mT / query.shape[-1] ** 0.5
    return (logits + bias).softmax(-1) @ value


def naive_shared(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """What `attend_shared` computes, with keys repeated for the heads."""
    heads = query.shape[2]
    key = key[:, None].repeat(1, heads, 1, 1)
    value = value.unflatten(-1, (heads, -1)).transpose(1, 2)
    return naive(query.transpose(1, 2), key, value, mask.transpose(1, 2))


def compare_aligned(
    device: str = "cpu",
    batch: int = 2,
    queries: int = 300,
    rounds: int = 9,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time both forward and backward, turn by turn; projections and the aligner are left out.

    Returns:
        A dict a map and attention; see `compare_two`.
    """
    choose_machine(device, threads)
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device).requires_grad_()

    rows = []
    for name, (height, width) in MAPS.items():
        for attention, inputs in ATTENTIONS.items():
            ways, tensors = inputs(leaf, batch, queries, height * width)
            leaves = [tensor for tensor in tensors if tensor.requires_grad]
            calls = {way: lambda f=f, t=tensors: f(*t) for way, f in ways.items()}
            rows.append(
                {"attention": attention, "map": name, **compare_two(calls, leaves, device, rounds)}
            )
    return rows


Leaf = Callable[..., Tensor]
Ways = dict[str, Callable[..., Tensor]]


def _shared(leaf: Leaf, batch: int, queries: int, tokens: int) -> tuple[Ways, list[Tensor]]:
    tensors = [leaf(batch, queries, HEADS, CHANNELS)]
    tensors += [leaf(batch, tokens, CHANNELS) for _ in range(2)]
    tensors.append(tensors[0].new_zeros(batch, 1, 1, tokens))
    return {"naive": naive_shared, "layer": attend_shared}, tensors


def _shared_and_modulated(
    leaf: Leaf, batch: int, queries: int, tokens: int
) -> tuple[Ways, list[Tensor]]:
    ways, tensors = _shared(leaf, batch, queries, tokens)
    return ways, [*tensors[:3], leaf(batch, queries, HEADS, tokens)]


def _modulated(leaf: Leaf, batch: int, queries: int, tokens: int) -> tuple[Ways, list[Tensor]]:
    channels = CHANNELS // HEADS
    tensors = [leaf(batch, HEADS, queries, channels)]
    tensors += [leaf(batch, HEADS, tokens, channels) for _ in range(2)]
    tensors.append(leaf(batch, HEADS, queries, tokens))
    return {"naive": naive, "layer": lambda *inputs: Compared(*inputs).read(0.0)}, tensors


# What is compared, and on which tensors.
ATTENTIONS = {"SAM": _shared, "SAM with SMCA": _shared_and_modulated, "SMCA": _modulated}

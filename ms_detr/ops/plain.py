"""Operators as plainer ones, for graphs that run elsewhere: what exported models are made of.

Deformable attention becomes samples of ``grid_sample``, as in `ms_detr.ops.reference`, or gathers,
for runtimes whose ``grid_sample`` is not to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import reference
from .deformable_attention import status


class PlainOperators(TorchFunctionMode):
    """In the block operators that other runtimes don't know, or compute otherwise, are plainer.

    Values stay the same. It works in tracing as in eager mode, without a compiled operator too.

    Args:
        gather: let ``grid_sample`` be gathers, wherever it is called.
    """

    def __init__(self, gather: bool = False):
        super().__init__()
        self._replaced = _replacements(grid_sample_by_gather if gather else F.grid_sample)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        func = self._replaced.get(getattr(func, "overloadpacket", func), func)
        return func(*args, **(kwargs or {}))


def _replacements(sample: Callable[..., Tensor]) -> dict[Any, Callable[..., Any]]:
    """What is called instead of a function."""
    replaced: dict[Any, Callable[..., Any]] = {
        F.interpolate: interpolate,
        F.grid_sample: sample,
        F.scaled_dot_product_attention: attend,
    }
    if not status().compiled:
        return replaced

    def attention(value: Tensor, shapes: list[int], at: Tensor, weights: Tensor) -> Tensor:
        return reference.deformable_attention(value, _pairs(shapes), at, weights, sample)

    def fused(
        value: Tensor, shapes: list[int], places: Tensor, offsets: Tensor, logits: Tensor
    ) -> Tensor:
        return reference.fused_deformable_attention(
            value, _pairs(shapes), places, offsets, logits, sample
        )

    ours = torch.ops.ms_detr
    return replaced | {ours.deformable_attention: attention, ours.fused_deformable_attention: fused}


def _pairs(level_shapes: list[int]) -> list[tuple[int, int]]:
    return list(zip(level_shapes[::2], level_shapes[1::2], strict=True))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    **options: Any,
) -> Tensor:
    """``F.scaled_dot_product_attention`` as two products.

    What is traced of the fused one relies on where its kernel leaves the result in memory, and
    can't be translated.
    """
    if dropout_p or options:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p=dropout_p, **options
        )
    logits = (query / query.shape[-1] ** 0.5) @ key.mT
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits.softmax(-1) @ value


def interpolate(
    input: Tensor,
    size: Sequence[int] | None = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    **options: Any,
) -> Tensor:
    """``F.interpolate``, whose nearest cells of maps are found by PyTorch's own arithmetic.

    Runtimes divide otherwise, and at some sizes find another cell.
    """
    if mode != "nearest" or size is None or input.dim() != 4:
        return F.interpolate(input, size, scale_factor, mode, **options)
    for axis, cells in zip((2, 3), size, strict=True):
        known = input.shape[axis]
        place = torch.arange(cells, dtype=torch.float32, device=input.device) * (known / cells)
        input = input.index_select(axis, place.floor().long().clamp(max=known - 1))
    return input


def grid_sample_by_gather(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """``F.grid_sample`` as gathers of the four cells around every place.

    Args:
        input: maps (N, C, h, w).
        grid: (N, H, W, 2) as (x, y); -1 and 1 are the outer edges of a map.

    Returns:
        (N, C, H, W), bilinear; zeros lie around a map.

    Raises:
        NotImplementedError: other modes are asked for.
    """
    if (mode, padding_mode, bool(align_corners)) != ("bilinear", "zeros", False):
        raise NotImplementedError("gathers read bilinear samples, with zeros around a map")
    height, width = input.shape[2:]
    x, y = grid.unbind(-1)
    x, y = 0.5 * ((x + 1) * width - 1), 0.5 * ((y + 1) * height - 1)
    left, top = x.floor(), y.floor()
    cells = input.flatten(2)
    sampled = input.new_zeros(())
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
        weight = weight.where(inside, 0.0)
        # As whole numbers: float32 knows no others than even ones beyond 2**24.
        row, column = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
        index = (row * width + column).flatten(1)[:, None].expand(-1, input.shape[1], -1)
        read = cells.gather(2, index).unflatten(2, grid.shape[1:3])
        sampled = sampled + read * weight[:, None]
    return sampled

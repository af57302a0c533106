"""What the operator's arguments have to be; in eager mode, in tracing, with the same words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_value(value: Tensor, level_shapes: Sequence[tuple[int, int]]) -> None:
    """Raise unless ``value`` is (B, S, heads, channels) with as many cells as the levels.

    Raises:
        ValueError: a shape is wrong.
        TypeError: the dtype is.
    """
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, heads, channels), got {tuple(value.shape)}")
    if value.dtype not in DTYPES:
        raise TypeError(f"value must be float16, bfloat16, float32 or float64, got {value.dtype}")
    if not all(_is_shape(shape) for shape in level_shapes):
        raise ValueError(
            f"level_shapes must be (height, width) of every level, got {list(level_shapes)}"
        )
    cells = sum(height * width for height, width in level_shapes)
    if cells != value.shape[1]:
        raise ValueError(
            f"level_shapes {list(level_shapes)} have {cells} cells, value has {value.shape[1]}"
        )


def _is_shape(shape: Sequence[int]) -> bool:
    """Whether it is (height, width), positive integers; tracing has its own kind of them."""
    if not isinstance(shape, Sequence) or len(shape) != 2:
        return False
    return all(isinstance(size, int | torch.SymInt) and size > 0 for size in shape)


def check_per_sample(
    name: str, tensor: Tensor, value: Tensor, level_shapes: Sequence[tuple[int, int]]
) -> None:
    """Raise unless ``tensor`` is (B, Q, heads, levels, points, 2)."""
    batch, _, heads, _ = value.shape
    shape = tuple(tensor.shape)
    expected = (batch, *shape[1:2], heads, len(level_shapes), *shape[4:5], 2)
    if len(shape) != 6 or shape != expected:
        raise ValueError(
            f"{name} must be (B, Q, heads, levels, points, 2) with "
            f"B={batch}, heads={heads}, levels={len(level_shapes)}, got {shape}"
        )
    _check_kind(name, tensor, value)


def check_shape(
    name: str, tensor: Tensor, shape: tuple[int, ...], like: str, value: Tensor
) -> None:
    """Raise unless ``tensor`` has the shape that another argument asks for."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {shape} like {like}, got {tuple(tensor.shape)}")
    _check_kind(name, tensor, value)


def check_reference(reference: Tensor, offsets: Tensor, value: Tensor) -> None:
    """Raise unless ``reference`` is (B, Q, levels, 2 or 4)."""
    batch, queries, _, levels = offsets.shape[:4]
    shape = tuple(reference.shape)
    if shape[:-1] != (batch, queries, levels) or shape[-1] not in (2, 4):
        raise ValueError(
            f"reference must be (B, Q, levels, 2) or (B, Q, levels, 4) with B={batch}, "
            f"Q={queries}, levels={levels}, got {shape}"
        )
    _check_kind("reference", reference, value)


def _check_kind(name: str, tensor: Tensor, value: Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.device != value.device:
        raise ValueError(f"{name} is on {tensor.device}, value on {value.device}")

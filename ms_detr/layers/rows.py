"""Rows that an index chooses."""

from __future__ import annotations

from torch import Tensor


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """Rows (B, n, C) of x (B, N, C) at index (B, n)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

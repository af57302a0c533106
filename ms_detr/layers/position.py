"""Sine encodings of grid positions and of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError


def sine_embedding(values: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """Encode scalars as interleaved sines and cosines.

    Args:
        values: (..., n), one turn of the lowest frequency per unit.
        channels: encoding size of one scalar, even.

    Returns:
        (..., n * channels), the scalars' encodings one behind the other.
    """
    index = torch.arange(channels // 2, dtype=values.dtype, device=values.device)
    frequency = 2 * math.pi / temperature ** (2 * index / channels)
    angle = values[..., None] * frequency
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(-3)


class SinePositionEncoding(nn.Module):
    """Two-dimensional sine encoding of the unpadded cells (DETR, arXiv:2005.12872, A.4).

    Args:
        embed_dim: channels; half encode y, half x.
        temperature: base of the wavelengths, as of a transformer's positions.
        offset: added to a cell's count before it is normalised; -0.5 in Deformable DETR.
    """

    def __init__(self, embed_dim: int, temperature: float = 10000.0, offset: float = -0.5):
        super().__init__()
        if embed_dim % 4:
            raise ConfigError(f"model.embed_dim must be a multiple of 4, got {embed_dim}")
        self.channels = embed_dim // 2
        self.temperature = temperature
        self.offset = offset

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": 2 * self.channels}

    def forward(self, padding_mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, H, W) padding mask -> (B, H, W, embed_dim), computed in ``dtype``."""
        inside = (~padding_mask).to(dtype)
        y, x = inside.cumsum(1), inside.cumsum(2)
        y = (y + self.offset) / (y[:, -1:] + 1e-6)
        x = (x + self.offset) / (x[:, :, -1:] + 1e-6)
        return sine_embedding(torch.stack((y, x), -1), self.channels, self.temperature)


class SAMPositionEncoding(SinePositionEncoding):
    """The same as SAM-DETR's code computes it, to the last bit and always in float32.

    That tells only in rows and columns of padding alone, which regions of the decoder may reach
    into: no cell is counted there, places lie far outside, and an angle is what its last bits are.
    """

    def forward(self, padding_mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, H, W) padding mask -> (B, H, W, embed_dim), as ``dtype``."""
        inside = (~padding_mask).float()
        y, x = inside.cumsum(1) + self.offset, inside.cumsum(2) + self.offset
        y = y / (y[:, -1:] + 1e-6 - self.offset)
        x = x / (x[:, :, -1:] + 1e-6 - self.offset)
        index = torch.arange(self.channels // 2, dtype=y.dtype, device=y.device)
        turns = torch.stack((y, x), -1) * (2 * math.pi)
        angle = turns[..., None] / self.temperature ** (2 * index / self.channels)
        return torch.stack((angle.sin(), angle.cos()), -1).flatten(-3).to(dtype)

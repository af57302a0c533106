"""What the operator is measured on: attention as an encoder's and a decoder's layers have it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..ops import reference

# An image of 800 x 1333 at strides 8 to 64, as the published configs see it.
LEVEL_SHAPES = ((100, 167), (50, 84), (25, 42), (13, 21))
HEADS, CHANNELS, POINTS = 8, 32, 4
CELLS = sum(height * width for height, width in LEVEL_SHAPES)


@dataclass(frozen=True)
class Case:
    """Whose attention it is.

    Attributes:
        queries: of a decoder, boxes of up to 0.4 of the image; None: the encoder's, all cells.
        uniform: samples anywhere, the worst case for caches.
        images: in a batch.
    """

    queries: int | None = None
    uniform: bool = False
    images: int = 1


CASES = {
    "encoder": Case(),
    "encoder, uniform": Case(uniform=True),
    "encoder, 2 images": Case(images=2),
    "decoder 900": Case(900),
    "decoder 300": Case(300),
}


@dataclass(frozen=True)
class Inputs:
    """Of one attention: what a layer predicts, and the locations and weights that follow.

    ``gradient`` (B, Q, heads * channels) is the output's.
    """

    value: Tensor
    references: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor
    gradient: Tensor

    def to(self, device: str, dtype: torch.dtype) -> Inputs:
        """On a device; value and gradient in `dtype`, the rest in float32."""
        tensors = {field.name: getattr(self, field.name).to(device) for field in fields(self)}
        typed = {name: tensors[name].to(dtype) for name in ("value", "gradient")}
        return Inputs(**(tensors | typed))


def make_inputs(case: Case) -> Inputs:
    """Random inputs as a trained layer has them: the initial ring of offsets, a cell of noise."""
    generator = torch.Generator().manual_seed(0)
    queries = CELLS if case.queries is None else case.queries
    shape = (case.images, queries, HEADS, len(LEVEL_SHAPES), POINTS)
    angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
    direction = torch.stack((angle.cos(), angle.sin()), -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    ring = direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]
    offsets = ring + torch.randn(*shape, 2, generator=generator)
    references = _centers()
    if case.queries is not None:
        boxes = torch.rand(1, queries, 4, generator=generator)
        references = boxes * torch.tensor([1.0, 1.0, 0.4, 0.4])
    references = references[:, :, None].repeat(case.images, 1, len(LEVEL_SHAPES), 1)
    if case.uniform:
        sizes = torch.tensor([(width, height) for height, width in LEVEL_SHAPES])
        anywhere = torch.rand(*shape, 2, generator=generator)
        offsets = (anywhere - references[:, :, None, :, None]) * sizes[:, None]
    logits = torch.randn(shape, generator=generator)
    value = torch.randn(case.images, CELLS, HEADS, CHANNELS, generator=generator)
    gradient = torch.randn(case.images, queries, HEADS * CHANNELS, generator=generator)
    locations = reference.sampling_locations(references, offsets, LEVEL_SHAPES).contiguous()
    weights = reference.attention_weights(logits)
    return Inputs(value, references, offsets, logits, locations, weights, gradient)


def _centers() -> Tensor:
    """Centres of all cells, (1, S, 2)."""
    grids = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1)
        for h, w in LEVEL_SHAPES
    ]
    return torch.cat(grids)[None]

"""What a query's box says about its mask before any pixel is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.rows import rows_of
from ..structures import QueryMasks, at_least_single

# Places count as no farther from the centre than this, in half sizes of the box.
FARTHEST = 2.0


class BoxPrior(nn.Module):
    """A logit for every place, from where it lies in the query's box; it is added to the mask's.

    In coordinates (u, v) of the box, -1 to 1, it is ``a u + b u^2 + c v + d v^2`` with coefficients
    that are linear in the query's state, less ``slope`` for each half size outside, up to one. So
    the pixels' embeddings need not tell one object from the next, and masks, which would else have
    to learn it, take less from the boxes' training; compare the relative coordinates of CondInst
    (arXiv:2003.05664) and the cut at the box of YOLACT (arXiv:1904.02689). Boxes get no gradient.

    Args:
        embed_dim: channels of the queries' states.
        slope: what the logit loses for each half size outside of the box.
    """

    def __init__(self, embed_dim: int, slope: float = 10.0):
        super().__init__()
        if slope < 0:
            raise ConfigError(f"model.masks.prior.slope must be at least 0, got {slope}")
        self.slope = slope
        self.coefficients = nn.Linear(embed_dim, 4)
        nn.init.zeros_(self.coefficients.weight)
        nn.init.zeros_(self.coefficients.bias)

    def forward(self, states: Tensor, boxes: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the logit that hang on x, (..., X), and on y, (..., Y).

        Args:
            states: (..., C).
            boxes: (..., 4), in the units of x and y.
            x, y: (..., X) and (..., Y), or what broadcasts to them.
        """
        coefficients = at_least_single(self.coefficients(states))
        boxes = at_least_single(boxes.detach())
        parts = []
        for axis, places in enumerate((x, y)):
            half = 0.5 * boxes[..., axis + 2, None]
            # A box without extent contains its centre alone.
            u = (places - boxes[..., axis, None]) / half.clamp(min=torch.finfo(half.dtype).tiny)
            u = u.clamp(-FARTHEST, FARTHEST)
            linear, square = coefficients[..., 2 * axis : 2 * axis + 2].split(1, -1)
            parts.append((linear + square * u) * u - self.slope * (u.abs() - 1).clamp(min=0))
        return parts[0], parts[1]


@dataclass(frozen=True)
class PriorMasks(QueryMasks):
    """Masks of queries (L, B, Q, C) with the prior of their boxes (L, B, Q, 4).

    The layers are those that have masks; the boxes are in fractions of the padded images.
    """

    masks: QueryMasks
    prior: BoxPrior
    states: Tensor
    boxes: Tensor

    @property
    def num_layers(self) -> int:  # type: ignore[override]
        return len(self.states)

    def logits(self, image: int, layer: Tensor, query: Tensor) -> Tensor:
        logits = self.masks.logits(image, layer, query)
        chosen = (layer, image, query)
        return self._with_prior(logits, self.states[chosen], self.boxes[chosen])

    def of_images(self, query: Tensor) -> Tensor:
        logits = self.masks.of_images(query)
        states, boxes = (rows_of(x[-1], query) for x in (self.states, self.boxes))
        return self._with_prior(logits, states, boxes)

    def _with_prior(self, logits: Tensor, states: Tensor, boxes: Tensor) -> Tensor:
        """Logits (..., h, w) of masks whose queries' states are (..., C), boxes (..., 4)."""
        x, y = (
            (torch.arange(size, dtype=logits.dtype, device=logits.device) + 0.5) / size
            for size in (logits.shape[-1], logits.shape[-2])
        )
        across, down = self.prior(states, boxes, x, y)
        return logits + across[..., None, :] + down[..., :, None]

    def logits_at(self, points: Tensor) -> Iterator[Tensor]:
        x, y = points[:, None].unbind(-1)
        for logits, states, boxes in zip(
            self.masks.logits_at(points), self.states, self.boxes, strict=True
        ):
            across, down = self.prior(states, boxes, x, y)
            yield logits + across + down

"""Pyramids and objects for the tests of Faster R-CNN and its region proposal network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ms_detr.auxiliary.pyramid import Pyramid
from ms_detr.auxiliary.sampling import RandomSampler
from ms_detr.structures import Targets

C = 8  # channels
STRIDES = (8, 16, 32)


class GivenDraws(RandomSampler):
    """Draws from a generator of its own and remembers it."""

    def __init__(self, number: int, positive_fraction: float):
        super().__init__(number, positive_fraction)
        self.draws: list[list[int]] = []
        self.generator = torch.Generator().manual_seed(5)

    def draw(self, count: int) -> Tensor:
        found = torch.randperm(count, generator=self.generator)
        self.draws.append(found.tolist())
        return found


def make_pyramid(
    *sizes: tuple[float, float],
    strides: tuple[int, ...] = STRIDES,
    channels: int = C,
    seed: int = 0,
) -> Pyramid:
    """Maps of a padded batch of images of these widths and heights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    width, height = (max(side) for side in zip(*sizes, strict=True))
    maps = tuple(
        torch.randn(
            (len(sizes), channels, math.ceil(height / s), math.ceil(width / s)),
            generator=generator,
            dtype=torch.float64,
        ).requires_grad_()
        for s in strides
    )
    return Pyramid(maps, strides, torch.tensor(sizes, dtype=torch.float64))


def make_targets(*counts: int, classes: int = 5, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    images = []
    for count in counts:
        size = 0.1 + 0.5 * torch.rand((count, 2), generator=generator, dtype=torch.float64)
        center = torch.rand((count, 2), generator=generator, dtype=torch.float64)
        center = size / 2 + center * (1 - size)
        labels = torch.randint(classes, (count,), generator=generator)
        images.append({"labels": labels, "boxes": torch.cat((center, size), 1)})
    return Targets.from_list(images)


def shapes(pyramid: Pyramid) -> list[tuple[int, int]]:
    return [(x.shape[2], x.shape[3]) for x in pyramid.maps]


def pixels(pyramid: Pyramid, targets: Targets, image: int) -> list[list[float]]:
    """An image's objects as corners in pixels."""
    width, height = pyramid.sizes[image].tolist()
    return [
        [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        for x, y, w, h in targets.boxes[image, : targets.counts[image]].tolist()
    ]

"""Which anchors or regions learn which objects, and which of them are trained."""

from __future__ import annotations

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor

from ..errors import ConfigError


class ReassigningMatcher(Matcher):
    """Detectron2's matcher, but for objects that no anchor fits well.

    Every anchor that overlaps an object best of all, by ``floor`` at least, learns that object;
    the last one of several. Detectron2 makes it positive, but leaves it the object that the anchor
    itself overlaps best, and knows no floor.
    """

    def __init__(self, negative: float, positive: float, floor: float):
        super().__init__([negative, positive], [0, -1, 1])
        self.floor = floor

    def __call__(self, overlaps: Tensor) -> tuple[Tensor, Tensor]:
        """IoU (G, N) to the object of each anchor (N,) and its label: 1, 0, or -1 for ignored."""
        matches, labels = super().__call__(overlaps)
        if not len(overlaps):
            return matches, labels
        best = overlaps.amax(1, keepdim=True)
        fitting = (overlaps == best) & (best >= self.floor)
        # The first in reversed order, of bytes: indices would take eight times as many.
        last = len(overlaps) - 1 - fitting.flip(0).view(torch.uint8).argmax(0)
        found = fitting.any(0)
        return torch.where(found, last, matches), labels.masked_fill(found, 1)


class RandomSampler:
    """Draws as mmdetection does, so that equal seeds draw equally, on the host's generator.

    Args:
        number: to draw.
        positive_fraction: how many of them may be positive; negatives take what is left.
    """

    def __init__(self, number: int, positive_fraction: float):
        if number < 1 or not 0 <= positive_fraction <= 1:
            raise ConfigError(
                "a sampler draws 1 or more, of which a fraction in [0, 1] may be positive, got "
                f"{number} and {positive_fraction}"
            )
        self.number = number
        self.positive_fraction = positive_fraction

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of drawn positives and negatives, ascending, on the host.

        Args:
            labels: (N,), 1 for positive, 0 for negative; nothing else is drawn.
        """
        labels = labels.cpu()  # once, instead of waiting for every count
        most = int(self.number * self.positive_fraction)
        positives = self._some((labels == 1).nonzero()[:, 0], most)
        negatives = self._some((labels == 0).nonzero()[:, 0], self.number - len(positives))
        return positives, negatives

    def draw(self, count: int) -> Tensor:
        """A permutation, of which the first ones are taken."""
        return torch.randperm(count)

    def _some(self, index: Tensor, most: int) -> Tensor:
        if len(index) <= most:
            return index
        return index[self.draw(len(index))[:most]].sort().values

"""How well a score tells objects from background: the IoF-IoB curve of Co-DETR."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError

BACKGROUND, OBJECTS = 0, 1


@dataclass(frozen=True)
class Curve:
    """A curve over thresholds, from the lowest to the highest.

    Attributes:
        thresholds: (T,) float64.
        iof: share of the objects' pixels whose score is above the threshold (arXiv:2211.12860,
            Eq. 8), (T,) float64.
        iob: share of the background's pixels whose score is below it, or above it.
        area: under IoF over IoB, by trapezoids, ends at thresholds below and above all included.
    """

    thresholds: Tensor
    iof: Tensor
    iob: Tensor
    area: float


class Separation:
    """Scores of pixels in objects and in the background, counted by thresholds.

    All pixels of all images count alike. What is kept doesn't grow with the images.

    Args:
        thresholds: how many, evenly spread from 0 to 1.
    """

    def __init__(self, thresholds: int = 101):
        self.thresholds = torch.arange(thresholds, dtype=torch.float64) / (thresholds - 1)
        self.above = torch.zeros(2, thresholds, dtype=torch.int64)
        self.below = torch.zeros(2, thresholds, dtype=torch.int64)
        self.pixels = torch.zeros(2, dtype=torch.int64)
        self.sums = torch.zeros(2, dtype=torch.float64)
        self.images = 0

    def add(self, score: Tensor, foreground: Tensor) -> None:
        """Count an image: its score (H, W) and which pixels lie in objects, (H, W) bool."""
        self.images += 1
        for row, chosen in ((OBJECTS, foreground), (BACKGROUND, ~foreground)):
            values = score[chosen].double()
            self.pixels[row] += len(values)
            self.sums[row] += values.sum()
            self.above[row] += len(values) - self._at_most(torch.bucketize(values, self.thresholds))
            self.below[row] += self._at_most(torch.bucketize(values, self.thresholds, right=True))

    def _at_most(self, places: Tensor) -> Tensor:
        """Of places among the thresholds how many are not behind each, (T,)."""
        count = len(self.thresholds)
        return torch.bincount(places, minlength=count + 1).cumsum(0)[:count]

    def means(self) -> tuple[float, float]:
        """The mean score in objects and in the background; raises as `curve` does."""
        self._check()
        means = self.sums / self.pixels
        return float(means[OBJECTS]), float(means[BACKGROUND])

    def curve(self, exceeding: bool = False) -> Curve:
        """The curve.

        Args:
            exceeding: take for IoB the share of the background above the threshold, so that it
                becomes one of true over false positives.

        Raises:
            DataError: no pixel was in an object, or none in the background.
        """
        self._check()
        above = self.above.double() / self.pixels[:, None]
        below = self.below.double() / self.pixels[:, None]
        iof, iob = above[OBJECTS], (above if exceeding else below)[BACKGROUND]
        ends = (1.0, 0.0) if exceeding else (0.0, 1.0)
        x = torch.cat([iob.new_tensor(ends[:1]), iob, iob.new_tensor(ends[1:])])
        y = torch.cat([iof.new_tensor([1.0]), iof, iof.new_tensor([0.0])])
        area = float(torch.trapezoid(y, x).abs())
        return Curve(self.thresholds, iof, iob, area)

    def _check(self) -> None:
        for row, name in ((OBJECTS, "an object"), (BACKGROUND, "the background")):
            if not self.pixels[row]:
                raise DataError(
                    f"no pixel of the {self.images} images lies in {name}: take more images, or "
                    "others"
                )

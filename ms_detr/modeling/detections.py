"""What a detector has detected."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """The best (query, class) pairs of every image, best first.

    Attributes:
        boxes: (B, n, 4) as (x1, y1, x2, y2) in fractions of the image, cut to it.
        scores: (B, n) in [0, 1].
        labels: (B, n) int64.
        queries: (B, n) int64, where each came from.
        counts: how many of each image there are, the first ones; None: all n.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    queries: Tensor
    counts: tuple[int, ...] | None = None

    def of(self, image: int) -> Detections:
        """Those of one image, as a batch of one."""
        kept = None if self.counts is None else self.counts[image]
        one = slice(image, image + 1)
        parts = (x[one, :kept] for x in (self.boxes, self.scores, self.labels, self.queries))
        return Detections(*parts)

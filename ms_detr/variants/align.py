"""Align-DETR's mixed matching (arXiv:2304.07527): several queries an object, one in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..structures import Assignment, PredictionSet, Targets
from ..supervision import HungarianAssigner


class MixedHungarianAssigner(HungarianAssigner):
    """``k`` queries an object in all layers but the last, which has ``last_k``.

    No more than half of an image's queries are matched, unless its objects are more than that;
    each then gets one. The losses of an object's queries are added up, not averaged: their ranks
    weigh them, see :class:`.iou_aware.RankWeight`.

    Args:
        k: queries of an object in all layers but the last.
        last_k: queries of an object in the last layer, ``k`` at most.
        options: as `HungarianAssigner` has them.
    """

    def __init__(self, k: int = 2, last_k: int = 1, **options: Any):
        super().__init__(**options)
        if not 1 <= last_k <= k:
            raise ConfigError(
                f"mixed matching needs k >= last_k >= 1 queries an object, got {k} and {last_k}"
            )
        self.k = k
        self.last_k = last_k

    def repeats(self, objects: int, queries: int, last: bool) -> int:
        half = queries // max(2 * objects, 1)
        return max(1, min(half, self.last_k if last else self.k))

    def assign(
        self, predictions: PredictionSet, targets: Targets, host_costs: np.ndarray | None
    ) -> Assignment:
        found = super().assign(predictions, targets, host_costs)
        return replace(found, copies=max(len(self.blocks(predictions)), 1))

"""Hybrid DETR: more queries in training, learnt one-to-many (arXiv:2207.13080)."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from ..modeling import QueryGroup
from ..structures import GroupQueries, Queries, Targets


class HybridQueries(QueryGroup):
    """The initialiser's next ``rows`` queries as one block, apart from the primary ones.

    Its term repeats the objects: `RepeatedHungarianAssigner`.
    """

    def __init__(self, rows: int = 1500):
        super().__init__()
        if rows < 1:
            raise ConfigError(f"the hybrid group needs at least 1 row, got {rows}")
        self.rows = self.count_rows(rows)

    @staticmethod
    def count_rows(rows: int = 1500, **_: Any) -> int:
        return rows

    def forward(self, primary: Queries, spare: Queries, targets: Targets) -> GroupQueries:
        return GroupQueries(spare, (spare.count,))

"""Hybrid DETR: more queries in training, learnt one-to-many (arXiv:2207.13080)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..modeling import QueryGroup
from ..structures import NO_CANDIDATES, Candidates, GroupQueries, Queries, Targets


class HybridQueries(QueryGroup):
    """The initialiser's next ``num_queries`` queries as one block, apart from the primary ones.

    Its term repeats the objects: `RepeatedHungarianAssigner`.

    Args:
        num_queries: queries in training, beside the primary ones.
    """

    def __init__(self, num_queries: int = 1500):
        super().__init__()
        if num_queries < 1:
            raise ConfigError(f"the hybrid group needs at least 1 query, got {num_queries}")
        self.extra_queries = self.count_extra_queries(num_queries)

    @staticmethod
    def count_extra_queries(num_queries: int = 1500, **_: Any) -> int:
        return num_queries

    def forward(
        self,
        primary: Queries,
        extra: Queries,
        targets: Targets,
        candidates: Mapping[str, Candidates] = NO_CANDIDATES,
    ) -> GroupQueries:
        return GroupQueries(extra, (extra.count,))

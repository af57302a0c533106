"""Group DETR: several groups of queries, each learnt one-to-one (arXiv:2207.13085)."""

from __future__ import annotations

from ..modeling import QueryGroup
from ..structures import GroupQueries, Queries, Targets


class FurtherGroups(QueryGroup):
    """All groups but the first, which the primary queries are; none sees another.

    They take the initialiser's next queries, in two stages those from the next best proposals; if
    there are fewer, all groups shrink. Its term matches in every group:
    `GroupedHungarianAssigner`.

    Args:
        num_groups: the primary queries counted.
        num_queries: of one group.
    """

    def __init__(self, num_groups: int = 11, num_queries: int = 300):
        super().__init__()
        if num_groups < 2:
            raise ValueError(f"Group DETR has at least 2 groups, got {num_groups}")
        self.num_blocks = num_groups - 1
        self.rows = self.num_blocks * num_queries

    def forward(self, primary: Queries, spare: Queries, targets: Targets) -> GroupQueries:
        size, more = divmod(spare.count, self.num_blocks)
        blocks = (size + 1,) * more + (size,) * (self.num_blocks - more)
        return GroupQueries(spare, blocks)

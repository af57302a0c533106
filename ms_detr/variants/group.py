"""Group DETR: several groups of queries, each learnt one-to-one (arXiv:2207.13085)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..modeling import ProposalInitializer, QueryGroup, QueryInitializer
from ..modeling.query_initializer import PROPOSALS
from ..structures import (
    NO_CANDIDATES,
    Candidates,
    GroupQueries,
    Memory,
    Predictions,
    PredictionSet,
    Queries,
    Rows,
    Targets,
)


class FurtherGroups(QueryGroup):
    """All groups but the first, which the primary queries are; none sees another.

    They take the initialiser's next queries, in two stages those from the next best proposals; if
    there are fewer, all groups shrink. Every group is matched by itself.

    Args:
        num_groups: the primary queries counted.
        num_queries: of one group.
    """

    def __init__(self, num_groups: int = 11, num_queries: int = 300):
        super().__init__()
        if num_groups < 2:
            raise ConfigError(f"Group DETR has at least 2 groups, got {num_groups}")
        self.num_blocks = num_groups - 1
        self.extra_queries = self.count_extra_queries(num_groups, num_queries)

    @staticmethod
    def count_extra_queries(num_groups: int = 11, num_queries: int = 300, **_: Any) -> int:
        return (num_groups - 1) * num_queries

    def forward(
        self,
        primary: Queries,
        extra: Queries,
        targets: Targets,
        candidates: Mapping[str, Candidates] = NO_CANDIDATES,
    ) -> GroupQueries:
        size, more = divmod(extra.count, self.num_blocks)
        blocks = (size + 1,) * more + (size,) * (self.num_blocks - more)
        # A group without queries learns nothing, and is none of those that are averaged.
        return GroupQueries(extra, tuple(size for size in blocks if size), averaged=True)


class OwnProposer(nn.Module):
    """A `Proposer` like an initialiser's, with a projection drawn anew."""

    def __init__(self, initializer: ProposalInitializer):
        super().__init__()
        self.token_projection = copy.deepcopy(initializer.token_projection)
        nn.init.xavier_uniform_(self.token_projection.weight)
        self.token_norm = copy.deepcopy(initializer.token_norm)
        self.class_head = copy.deepcopy(initializer.class_head)
        self.box_head = copy.deepcopy(initializer.box_head)


class OwnSelections(QueryInitializer):
    """Another initialiser, whose extra queries come from proposers of their own.

    Each of the further groups has one, which looks for ``num_queries`` among all tokens, as LW-DETR
    trains (arXiv:2406.03459). What they predict is the source ``{group}.encoder``, in a block a
    group. Where there are fewer tokens than ``num_queries`` there are no extra queries. Without
    extra queries, the groups being dropped, it is the other initialiser.

    Args:
        group: the name of the `FurtherGroups` in ``model.groups``.
    """

    def __init__(self, initializer: ProposalInitializer, group: str = "group"):
        if not isinstance(initializer, ProposalInitializer):
            raise ConfigError(
                "further groups with proposers of their own select from the encoder's proposals, "
                f"which {type(initializer).__name__} does not: wrap an initialiser that does, such "
                "as TwoStageInitializer, and put what wraps it around OwnSelections"
            )
        num_queries, extra = initializer.num_queries, initializer.extra_queries
        super().__init__(num_queries, initializer.embed_dim, (extra,))
        groups, rest = divmod(extra, num_queries)
        if rest:
            raise ConfigError(
                f"further groups with proposers of their own have {num_queries} queries each, as "
                f"many as the primary ones, but {extra} extra queries are asked for"
            )
        self.proposals = replace(PROPOSALS, group=group)
        self.sources = initializer.sources | ({self.proposals} if groups else set())
        self.initializer = initializer
        self.proposers = nn.ModuleList(OwnProposer(initializer) for _ in range(groups))

    def rows(self) -> dict[str, Rows]:
        """Rows of the proposers' heads are what those of the initialiser's are."""
        heads = {name: kind for name, kind in self.initializer.rows().items() if "." in name}
        count = range(len(self.proposers))
        return {f"proposers.{i}.{name}": kind for i in count for name, kind in heads.items()}

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        search = self.initializer
        if not supervised or not self.proposers:
            return search(memory, supervised)
        selections = [
            search.select(proposer, memory, self.num_queries, supervised)
            for proposer in (search, *self.proposers)
        ]
        boxes, predictions = zip(*selections, strict=True)
        if boxes[0].shape[1] < self.num_queries:
            boxes = boxes[:1]
        queries = search.queries(torch.cat(boxes, 1), memory)
        first = replace(predictions[0], peers=len(predictions))
        further = _in_blocks(predictions[1:])
        return queries, Predictions({PROPOSALS: first, self.proposals: further})


def _in_blocks(groups: tuple[PredictionSet, ...]) -> PredictionSet:
    """The further groups' proposals as one source."""
    return replace(
        groups[0],
        peers=len(groups) + 1,
        logits=torch.cat([x.logits for x in groups], 2),
        boxes=torch.cat([x.boxes for x in groups], 2),
        anchors=torch.cat([cast(Tensor, x.anchors) for x in groups], 1),
        blocks=tuple(x.boxes.shape[2] for x in groups),
    )

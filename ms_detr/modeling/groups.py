"""Query groups: queries that a model has in training only, decoded with the primary ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from torch import nn

from ..errors import ConfigError
from ..layers.attention import Visibility
from ..structures import GroupQueries, Predictions, PredictionSet, Queries, Targets

EMPTY = -1e4  # a logit whose focal loss and gradient are 0, in half precision too


class QueryGroup(nn.Module, ABC):
    """Makes a group's queries.

    Attributes:
        rows: how many of the query initialiser's extra queries it takes.
        needs_boxes: whether references have to be boxes.
    """

    rows: int = 0
    needs_boxes: bool = False

    @staticmethod
    def count_rows(**options: Any) -> int:
        """`rows` of a group with these options, which a config links to its initialiser."""
        return 0

    @abstractmethod
    def forward(self, primary: Queries, spare: Queries, targets: Targets) -> GroupQueries:
        """The group's queries for a batch.

        Args:
            spare: the initialiser's extra queries, ``rows`` or as many as there are.
        """


class Groups(nn.ModuleDict):
    """Query groups by name; None drops one, and with it the terms that supervise it.

    Attributes:
        dropped: names of the groups that are None.
    """

    def __init__(self, **groups: QueryGroup | None):
        super().__init__({name: group for name, group in groups.items() if group is not None})
        self.dropped = frozenset(groups.keys() - self.keys())

    @property
    def rows(self) -> dict[str, int]:
        """How many extra queries each group takes."""
        return {name: cast(QueryGroup, group).rows for name, group in self.items()}

    def forward(
        self, queries: Queries, num_primary: int, targets: Targets | None
    ) -> tuple[Queries, dict[str, GroupQueries]]:
        """Split an initialiser's queries into the primary ones and those of the groups."""
        if not len(self):
            return queries, {}
        if targets is None:
            raise ConfigError(
                "query groups are made from targets: call the model in evaluation mode, or with "
                "targets"
            )
        primary = queries.part(0, num_primary)
        made, start = {}, num_primary
        for name, rows in self.rows.items():
            made[name] = self[name](primary, queries.part(start, start + rows), targets)
            start += rows
        return primary, made


def join(primary: Queries, groups: Mapping[str, GroupQueries]) -> tuple[Queries, Visibility | None]:
    """All queries, the primary ones first, and who sees whom; None if all see all."""
    if not groups:
        return primary, None
    blocks = [(size, group.sees_primary) for group in groups.values() for size in group.blocks]
    queries = primary.join([group.queries for group in groups.values()])
    return queries, Visibility.around(primary.count, blocks)


def split(
    predictions: Predictions, num_primary: int, groups: Mapping[str, GroupQueries]
) -> Predictions:
    """Predictions for all queries by group: ``{group}.{source}``, without prefix the primary.

    Sources that were predicted for the primary queries alone stay as they are.
    """
    if not groups:
        return predictions
    sizes = [num_primary, *(group.queries.count for group in groups.values())]
    peers = 1 + sum(len(group.blocks) for group in groups.values() if group.peers)
    sources: dict[str, PredictionSet] = {}
    for source, made in predictions.items():
        primary = made
        if made.logits.shape[2] == sum(sizes):
            primary, *parts = _split(made, sizes)
            for (name, group), part in zip(groups.items(), parts, strict=True):
                sources[f"{name}.{source}"] = _describe(part, group, peers)
        sources[source] = replace(primary, peers=peers)
    return Predictions(sources)


def _split(made: PredictionSet, sizes: list[int]) -> list[PredictionSet]:
    states = [None] * len(sizes) if made.states is None else made.states.split(sizes, 2)
    parts = zip(made.logits.split(sizes, 2), made.boxes.split(sizes, 2), states, strict=True)
    return [
        replace(made, logits=logits, boxes=boxes, states=state) for logits, boxes, state in parts
    ]


def _describe(made: PredictionSet, group: GroupQueries, peers: int) -> PredictionSet:
    logits = made.logits
    if group.padding is not None:
        logits = logits.masked_fill(group.padding[None, :, :, None], EMPTY)
    return replace(
        made,
        logits=logits,
        blocks=group.blocks,
        assignment=group.assignment,
        peers=peers if group.peers else len(group.blocks),
    )

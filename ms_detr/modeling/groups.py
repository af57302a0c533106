"""Query groups: queries that a model has in training only, beside the primary ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.attention import Visibility
from ..structures import (
    DECODER,
    ENCODER,
    NO_CANDIDATES,
    Candidates,
    GroupQueries,
    PredictionSet,
    Queries,
    Targets,
)

PRIMARY = ""  # in the place of a group's name


class QueryGroup(nn.Module, ABC):
    """Makes a group's queries.

    Attributes:
        extra_queries: how many of the query initialiser's extra queries it takes.
        needs_boxes: whether references have to be boxes.
        head: whose candidates it makes queries of, by the name in ``model.auxiliary.heads``; None:
            of no head's.
    """

    extra_queries: int = 0
    needs_boxes: bool = False
    head: str | None = None

    @staticmethod
    def count_extra_queries(**options: Any) -> int:
        """`extra_queries` of a group with these options, which a config links to its initialiser.

        A group that takes extra queries also takes its own attribute from here.
        """
        return 0

    @abstractmethod
    def forward(
        self,
        primary: Queries,
        extra: Queries,
        targets: Targets,
        candidates: Mapping[str, Candidates] = NO_CANDIDATES,
    ) -> GroupQueries:
        """The group's queries for a batch.

        Args:
            extra: the group's part of the initialiser's extra queries, ``extra_queries`` of them
                or as many as there are.
            candidates: of the auxiliary heads, by their names.
        """


class Groups(nn.ModuleDict):
    """Query groups by name; None drops one, and with it the terms that supervise it.

    Attributes:
        dropped: names of the groups that are None.
    """

    def __init__(self, **groups: QueryGroup | None):
        for name in groups.keys() & {DECODER, ENCODER}:
            raise ConfigError(f"model.groups.{name}: '{name}' is a place in the model, no group")
        super().__init__({name: group for name, group in groups.items() if group is not None})
        self.dropped = frozenset(groups.keys() - self.keys())

    @property
    def extra_queries(self) -> dict[str, int]:
        """How many extra queries each group takes."""
        return {name: cast(QueryGroup, group).extra_queries for name, group in self.items()}

    def forward(
        self,
        queries: Queries,
        num_primary: int,
        targets: Targets | None,
        candidates: Mapping[str, Candidates] = NO_CANDIDATES,
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
        groups, start = {}, num_primary
        for name, count in self.extra_queries.items():
            extra = queries.part(start, start + count)
            groups[name] = self[name](primary, extra, targets, candidates)
            start += count
        return primary, groups


@dataclass(frozen=True)
class Layout:
    """Whose the queries of a decoder pass are: the primary ones come first, then group by group.

    Attributes:
        primary: the primary queries; None where a group has a pass of its own.
        groups: the others, by the names of their groups.
    """

    primary: Queries | None
    groups: Mapping[str, GroupQueries]

    @classmethod
    def passes(cls, primary: Queries, groups: Mapping[str, GroupQueries]) -> list[Layout]:
        """Those queries that are decoded together, and behind them those of each other group."""
        alone = {name for name, group in groups.items() if group.own_pass and group.queries.count}
        together = {name: group for name, group in groups.items() if name not in alone}
        own = [cls(None, {name: group}) for name, group in groups.items() if name in alone]
        return [cls(primary, together), *own]

    @property
    def sizes(self) -> dict[str, int]:
        """Queries of each group, in their order; the primary ones are those of `PRIMARY`."""
        return {name: queries.count for name, queries in self._queries().items()}

    def join(self) -> tuple[Queries, Visibility | None]:
        """All queries, and who sees whom; None if all see all."""
        groups = self.groups.values()
        blocks = [(size, group.sees_primary) for group in groups for size in group.blocks]
        first, *others = self._queries().values()
        queries = first.join(others) if others else first
        return queries, Visibility.around(self.sizes.get(PRIMARY, 0), blocks, self._hidden())

    def _queries(self) -> dict[str, Queries]:
        groups = {name: group.queries for name, group in self.groups.items()}
        return groups if self.primary is None else {PRIMARY: self.primary, **groups}

    def _hidden(self) -> Tensor | None:
        """Which of all queries none but themselves see, (B, Q) bool, if there are any."""
        hidden = {name: group.hidden for name, group in self.groups.items()}
        if all(own is None for own in hidden.values()):
            return None
        parts = []
        for name, queries in self._queries().items():
            own = hidden.get(name)
            shown = torch.zeros_like(queries.content[..., 0], dtype=torch.bool)
            parts.append(shown if own is None else own)
        return torch.cat(parts, 1)

    def up_to(self, wanted: Collection[str]) -> dict[str, int]:
        """`sizes` up to the last group that is wanted."""
        names = list(self.sizes)
        last = max((names.index(name) for name in wanted if name in names), default=-1)
        return {name: self.sizes[name] for name in names[: last + 1]}

    def split(
        self, predictions: PredictionSet, wanted: Collection[str]
    ) -> dict[str, PredictionSet]:
        """Predictions for the queries of `up_to` as those of each group that is wanted."""
        sizes = self.up_to(wanted)
        parts = predictions.split(list(sizes.values()))
        return {
            name: self._described(name, part)
            for name, part in zip(sizes, parts, strict=True)
            if name in wanted
        }

    def _described(self, name: str, predictions: PredictionSet) -> PredictionSet:
        """A group's predictions with what is known of its queries."""
        peers = 1 + sum(len(group.blocks) for group in self.groups.values() if group.averaged)
        if name == PRIMARY:
            return replace(predictions, peers=peers)
        group = self.groups[name]
        return replace(
            predictions,
            blocks=group.blocks,
            assignment=group.assignment,
            ignored=group.ignored,
            targets=group.targets,
            peers=peers if group.averaged else len(group.blocks),
        )

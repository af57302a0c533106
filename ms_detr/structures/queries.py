"""What the decoder starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ..errors import ConfigError
from .assignment import Assignment
from .targets import Targets

# Methods whose queries move with their boxes recompute the position in every layer:
# (layer index, reference, content) -> (B, Q, C).
PositionFunction = Callable[[int, Tensor, Tensor], Tensor]
# (layer index, reference, content, position) -> (B, Q, C).
SpatialFunction = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    Attributes:
        content: (B, Q, C).
        position: (B, Q, C), or a function that the decoder calls in every layer.
        reference: (B, Q, 4) boxes or (B, Q, 2) points; either may be learned.
        position_of: the position (B, n, C) of any boxes (B, n, 4), where ``position`` is a tensor
            that comes from the references; None where it is learned.
        spatial: makes, in every layer, the spatial part (B, Q, C) of what conditional attention
            asks for, or what modulated attention shapes its Gaussians by; None without either.
    """

    content: Tensor
    position: Tensor | PositionFunction
    reference: Tensor
    position_of: Callable[[Tensor], Tensor] | None = None
    spatial: SpatialFunction | None = None

    @property
    def count(self) -> int:
        """Q."""
        return self.content.shape[1]

    def part(self, start: int, stop: int) -> Queries:
        """The queries from ``start`` to ``stop``, as many of them as there are."""
        position = self.position
        if isinstance(position, Tensor):
            position = position[:, start:stop]
        content, reference = self.content[:, start:stop], self.reference[:, start:stop]
        return replace(self, content=content, position=position, reference=reference)

    def at(self, content: Tensor, reference: Tensor) -> Queries:
        """Other queries, content (B, n, C) at boxes (B, n, 4), positioned as these are.

        Raises:
            ConfigError: if these can't tell the position of a box.
        """
        if not isinstance(self.position, Tensor):
            return replace(self, content=content, reference=reference)
        if self.position_of is None or self.reference.shape[-1] != 4:
            raise ConfigError(
                "queries with learned positions or points as references can't tell the position "
                "of a box, as denoising and BoxEncoding need it: take a query initialiser whose "
                "references are boxes"
            )
        position = self.position_of(reference)
        return replace(self, content=content, position=position, reference=reference)

    def join(self, others: Sequence[Queries]) -> Queries:
        """These queries and then the others, which are parts of the same or placed by `at`."""
        every = (self, *others)
        position = self.position
        if isinstance(position, Tensor):
            position = torch.cat([cast(Tensor, x.position) for x in every], 1)
        content = torch.cat([x.content for x in every], 1)
        reference = torch.cat([x.reference for x in every], 1)
        return replace(self, content=content, position=position, reference=reference)


@dataclass(frozen=True)
class GroupQueries:
    """Queries that a group adds in training; no other query sees them in self-attention.

    Attributes:
        queries: of the group.
        blocks: sizes of the blocks of consecutive queries that do not see each other.
        sees_primary: whether they see the primary queries.
        assignment: the objects that they learn, if known, for one layer that stands for all.
        ignored: (B, Q) bool, True for queries that stand for nothing; see :class:`PredictionSet`.
        hidden: (B, Q) bool, queries that none but themselves see.
        targets: what the queries learn instead of the batch's objects, if they do: the objects of
            ``assignment``.
        averaged: whether each block learns what the primary queries learn: the loss is then the
            average over these and all such blocks.
    """

    queries: Queries
    blocks: tuple[int, ...]
    sees_primary: bool = False
    assignment: Assignment | None = None
    ignored: Tensor | None = None
    hidden: Tensor | None = None
    targets: Targets | None = None
    averaged: bool = False

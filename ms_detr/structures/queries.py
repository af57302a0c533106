"""What the decoder starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

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
        indicated: whether the content's last channel is 1 in denoising queries and 0 in all others
            (DN-DETR, arXiv:2203.01305, section 4.2).
        logits: of boxes that are kept as such, (B, Q, 4): near 0 and 1 ``reference`` has lost
            digits; None where there are no others than the references'.
    """

    content: Tensor
    position: Tensor | PositionFunction
    reference: Tensor
    position_of: Callable[[Tensor], Tensor] | None = None
    spatial: SpatialFunction | None = None
    indicated: bool = False
    logits: Tensor | None = None

    @property
    def count(self) -> int:
        """Q."""
        return self.content.shape[1]

    @property
    def box_logits(self) -> Tensor:
        """``logits``, or those of the references, (B, Q, 4), finite where boxes reach 0 or 1."""
        if self.logits is not None:
            return self.logits
        return self.reference.logit(torch.finfo(self.reference.dtype).eps)

    def part(self, start: int, stop: int) -> Queries:
        """The queries from ``start`` to ``stop``, as many of them as there are."""
        position = self.position
        if isinstance(position, Tensor):
            position = position[:, start:stop]
        content, reference = self.content[:, start:stop], self.reference[:, start:stop]
        logits = None if self.logits is None else self.logits[:, start:stop]
        return replace(self, content=content, position=position, reference=reference, logits=logits)

    def at(self, content: Tensor, reference: Tensor) -> Queries:
        """Other queries, content (B, n, C) at boxes (B, n, 4), positioned as these are.

        Raises:
            ConfigError: if these can't tell the position of a box.
        """
        if not isinstance(self.position, Tensor):
            return replace(self, content=content, reference=reference, logits=None)
        if self.position_of is None or self.reference.shape[-1] != 4:
            raise ConfigError(
                "queries with learned positions or points as references can't tell the position "
                "of a box, as denoising and BoxEncoding need it: take a query initialiser whose "
                "references are boxes"
            )
        position = self.position_of(reference)
        return replace(self, content=content, position=position, reference=reference, logits=None)

    def not_denoising(self) -> Queries:
        """The same, which the last channel tells from denoising queries where it is to do so."""
        if not self.indicated:
            return self
        return replace(self, content=F.pad(self.content[..., :-1], (0, 1)))

    def join(self, others: Sequence[Queries]) -> Queries:
        """These queries and then the others, which are parts of the same or placed by `at`."""
        every = (self, *others)
        position = self.position
        if isinstance(position, Tensor):
            position = torch.cat([cast(Tensor, x.position) for x in every], 1)
        content = torch.cat([x.content for x in every], 1)
        reference = torch.cat([x.reference for x in every], 1)
        kept = any(x.logits is not None for x in every)
        logits = torch.cat([x.box_logits for x in every], 1) if kept else None
        return replace(self, content=content, position=position, reference=reference, logits=logits)


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
        own_pass: whether the decoder runs once more for these queries alone.

    Raises:
        ConfigError: if queries of a pass of their own need the primary ones.
    """

    queries: Queries
    blocks: tuple[int, ...]
    sees_primary: bool = False
    assignment: Assignment | None = None
    ignored: Tensor | None = None
    hidden: Tensor | None = None
    targets: Targets | None = None
    averaged: bool = False
    own_pass: bool = False

    def __post_init__(self) -> None:
        if self.own_pass and (self.sees_primary or self.averaged):
            raise ConfigError(
                "queries that the decoder runs for alone can neither see the primary queries nor "
                "be averaged with them: make the group without own_pass"
            )

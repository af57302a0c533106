"""Co-DETR's customised positive queries (arXiv:2211.12860, section 3.3).

What an auxiliary head has found positive becomes queries whose objects are known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..layers.boxes import inverse_sigmoid
from ..layers.position import sine_embedding
from ..layers.rows import rows_of
from ..layers.transformer import init_transformer
from ..modeling import QueryGroup
from ..structures import (
    NO_CANDIDATES,
    Assignment,
    Candidates,
    GroupQueries,
    Queries,
    Targets,
)

# Of the logits that keep encoded boxes inside the image; the queries' own boxes may reach out.
EPSILON = 1e-5


class Encoding(nn.Module, ABC):
    """Makes queries at the boxes of candidates.

    Boxes are encoded by sines, as two-stage proposals are (arXiv:2010.04159, A.4).
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.embed_dim = embed_dim

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.embed_dim}

    @abstractmethod
    def forward(self, primary: Queries, boxes: Tensor, features: Tensor) -> Queries:
        """Queries at boxes (B, n, 4), of what lies there, (B, n, C).

        Raises:
            ConfigError: if the primary queries are positioned in a way that doesn't fit.
        """

    def sines(self, boxes: Tensor, weight: Tensor) -> Tensor:
        """Boxes (B, n, 4), moved into the image, as (B, n, 2C) for what this weight multiplies."""
        inside = inverse_sigmoid(boxes, EPSILON).sigmoid()
        return sine_embedding(inside, self.embed_dim // 2).to(weight.dtype)


class BoxEncoding(Encoding):
    """Content from the box alone; positioned as the primary queries are. Co-DINO's."""

    def __init__(self, embed_dim: int):
        super().__init__(embed_dim)
        self.box_projection = nn.Linear(2 * embed_dim, embed_dim)
        self.box_norm = nn.LayerNorm(embed_dim)
        init_transformer(self)

    def forward(self, primary: Queries, boxes: Tensor, features: Tensor) -> Queries:
        content = self.box_projection(self.sines(boxes, self.box_projection.weight))
        return primary.at(self.box_norm(content), boxes)


class BoxAndFeatureEncoding(Encoding):
    """Position and content from the box, what the head looks at added: Co-Deformable-DETR's.

    Args:
        scalar_embedding: tell the head's queries by one number that is added to all channels of
            the position, as the released weights do, instead of one a channel.
    """

    def __init__(self, embed_dim: int, scalar_embedding: bool = False):
        super().__init__(embed_dim)
        self.box_projection = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.box_norm = nn.LayerNorm(2 * embed_dim)
        self.feature_projection = nn.Linear(embed_dim, embed_dim)
        self.feature_norm = nn.LayerNorm(embed_dim)
        channels = 1 if scalar_embedding else embed_dim
        self.head_embedding = nn.Parameter(torch.empty(1, channels))
        init_transformer(self)

    def forward(self, primary: Queries, boxes: Tensor, features: Tensor) -> Queries:
        if not isinstance(primary.position, Tensor):
            raise ConfigError(
                "BoxAndFeatureEncoding gives queries a position of their own, but this model's "
                "positions follow the boxes from layer to layer: give the group a BoxEncoding"
            )
        encoded = self.box_projection(self.sines(boxes, self.box_projection.weight))
        position, content = self.box_norm(encoded).chunk(2, -1)
        return replace(
            primary,
            content=content + self._look(features),
            position=position + self.head_embedding,
            reference=boxes,
        )

    def _look(self, features: Tensor) -> Tensor:
        features = features.to(self.feature_projection.weight.dtype)
        return self.feature_norm(self.feature_projection(features))


def fitting_encoding(moving: bool, embed_dim: int, scalar_embedding: bool = False) -> Encoding:
    """An encoding for a host's queries.

    Args:
        moving: whether their positions follow their boxes, as in DINO.
        scalar_embedding: see `BoxAndFeatureEncoding`; a `BoxEncoding` tells no heads apart.
    """
    if moving:
        return BoxEncoding(embed_dim)
    return BoxAndFeatureEncoding(embed_dim, scalar_embedding)


class Padding(ABC):
    """Gives images with fewer positives as many queries as the others have.

    Attributes:
        hidden: whether queries that stand for nothing are seen by none but themselves.
    """

    hidden = False

    @abstractmethod
    def rows(self, positives: int, candidates: int, missing: int) -> Tensor:
        """Further queries, as rows of an image's candidates whose positives come first, (n,) int64.

        Args:
            missing: how many are needed, at least 1; fewer are made where there are too few.
        """


class NegativePadding(Padding):
    """Candidates that are background, drawn at random, which learn the background."""

    def rows(self, positives: int, candidates: int, missing: int) -> Tensor:
        return positives + torch.randperm(candidates - positives)[:missing]


class ZeroPadding(Padding):
    """Queries of zeros, which learn nothing.

    Args:
        hidden: whether the others can't see them. They can in Co-DINO's released code.
    """

    def __init__(self, hidden: bool = True):
        self.hidden = hidden

    def rows(self, positives: int, candidates: int, missing: int) -> Tensor:
        return torch.full((missing,), candidates)


class PositiveQueries(QueryGroup):
    """Queries from an auxiliary head's candidates; those that are positive know their object.

    Every image has as many as the image of the batch with the most positives: these in their
    order, or, if there are too many, some drawn at random; then what ``padding`` adds. Each query
    is an object of its own in `GroupQueries.targets`. They see each other and no others.

    The CPU's generator, whose state a checkpoint keeps, draws image by image one permutation, if
    any: of the positives where there are too many, of the other candidates where negatives fill up.

    Where a head has too few candidates there are fewer queries than ``min_queries``; the released
    code leaves out the group's losses there.

    Args:
        head: whose candidates; its name in ``model.auxiliary.heads``.
        encoding: makes queries of them.
        padding: `NegativePadding` if None.
        max_queries: most queries of an image.
        min_queries: least queries of an image, whatever ``max_queries`` is.
        own_pass: whether the decoder runs once more for them alone, as in the released code; they
            learn the same, for they see no others anyway, but dropout draws otherwise.
    """

    needs_boxes = True

    def __init__(
        self,
        head: str,
        encoding: Encoding,
        padding: Padding | None = None,
        max_queries: int = 300,
        min_queries: int = 9,
        own_pass: bool = False,
    ):
        super().__init__()
        if max_queries < 1 or min_queries < 1:
            raise ConfigError(
                f"positive queries need max_queries and min_queries of at least 1, "
                f"got {max_queries} and {min_queries}"
            )
        self.head = head
        self.encoding = encoding
        self.padding = padding if padding is not None else NegativePadding()
        self.max_queries = max_queries
        self.min_queries = min_queries
        self.own_pass = own_pass

    def forward(
        self,
        primary: Queries,
        extra: Queries,
        targets: Targets,
        candidates: Mapping[str, Candidates] = NO_CANDIDATES,
    ) -> GroupQueries:
        found = candidates[cast(str, self.head)]
        nothing = targets.labels.shape[1]
        chosen, empty, counts = self._choose(found.objects < nothing)
        boxes, features = found.boxes, found.features
        if empty is not None:
            boxes, features = (F.pad(x, (0, 0, 0, 1)) for x in (boxes, features))
        boxes, features = rows_of(boxes, chosen), rows_of(features, chosen // found.per_place)
        objects = F.pad(found.objects, (0, 1), value=nothing).gather(1, chosen)
        own = targets_of(objects, targets, counts)
        queries = self.encoding(primary, boxes, features).not_denoising()
        index = torch.arange(queries.count, device=chosen.device).expand_as(chosen)
        return GroupQueries(
            queries,
            blocks=(queries.count,) if queries.count else (),
            assignment=Assignment(index[None, ..., None], own.valid[None, ..., None], own.labels),
            ignored=empty,
            hidden=empty if self.padding.hidden else None,
            targets=own,
            own_pass=self.own_pass,
        )

    def _choose(self, positive: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
        """Which of the candidates, told by what is positive, (B, N) bool, become queries.

        Returns:
            Their rows (B, n); which stand for none, (B, n) bool, if any; and how many of each
            image are positive, which come first.
        """
        candidates = positive.shape[1]
        found = positive.sum(1).tolist()  # the one copy to the host
        size = max(self.min_queries, min(self.max_queries, max(found)))
        rows = torch.stack([self._rows_of(count, candidates, size) for count in found])
        empty = rows == candidates
        rows = rows.to(positive.device, non_blocking=True)
        # Positives come first, an empty candidate last.
        order = (~positive).to(torch.uint8).argsort(dim=1, stable=True)
        order = F.pad(order, (0, 1), value=candidates)
        marked = empty.to(positive.device, non_blocking=True) if bool(empty.any()) else None
        return order.gather(1, rows), marked, tuple(min(count, size) for count in found)

    def _rows_of(self, positives: int, candidates: int, size: int) -> Tensor:
        """``size`` rows of an image's candidates, of which the positives come first."""
        if positives > size:
            return torch.randperm(positives)[:size]
        kept = torch.arange(positives)
        if positives == size:
            return kept
        return torch.cat((kept, self.padding.rows(positives, candidates, size - positives)))


def targets_of(objects: Tensor, targets: Targets, counts: tuple[int, ...]) -> Targets:
    """What queries learn that know their objects.

    Args:
        objects: (B, n) int64, indices into the targets; G where there is none, behind the others.
        counts: objects of each image that aren't G.
    """
    batch, nothing = targets.labels.shape
    image = F.pad(targets.boxes.new_full((batch, 1, 2), 0.5), (0, 2), value=1.0)
    return replace(
        targets,
        labels=F.pad(targets.labels, (0, 1)).gather(1, objects),
        boxes=rows_of(torch.cat((targets.boxes, image), 1), objects),
        valid=objects < nothing,
        counts=counts,
        masks=None,
    )

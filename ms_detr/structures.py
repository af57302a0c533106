"""The records that travel between the rooms of a detector.

Shape letters, used in every docstring of the package:

=====  =====================================================================
``B``  images of a batch
``C``  channels of a token (``embed_dim``)
``G``  objects of an image, padded to the largest count of the batch
``K``  classes
``L``  decoder layers (the leading axis of predictions and assignments)
``Q``  queries; for the encoder's proposals the tokens ``S`` take their place
``S``  tokens of all feature levels together
``T``  queries assigned to one object (1 for one-to-one supervision)
``V``  feature levels
=====  =====================================================================

Boxes are ``(cx, cy, w, h)`` in fractions of the unpadded image unless a name says otherwise.
A padding mask is True where there is padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from .errors import ConfigError


def at_least_single(x: Tensor) -> Tensor:
    """In float32 where it has half precision, whose sums and logarithms are poor."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class TokenGrid:
    """Where the tokens of a feature pyramid lie.

    Attributes:
        level_shapes: (height, width) of every level, as Python ints so that nothing syncs.
        padding_mask: (B, S) bool.
        valid_ratios: (B, V, 2), the unpadded share of every level's (width, height); float32 or
            float64, which all places on the grid take after.
    """

    level_shapes: tuple[tuple[int, int], ...]
    padding_mask: Tensor
    valid_ratios: Tensor

    @property
    def level_sizes(self) -> list[int]:
        """Tokens of each level."""
        return [height * width for height, width in self.level_shapes]

    def centers(self) -> Tensor:
        """Centres of all tokens as (x, y) in fractions of the unpadded image, (B, S, 2)."""
        cells = []
        for (height, width), ratio in zip(
            self.level_shapes, self.valid_ratios.unbind(1), strict=True
        ):
            # Divided once, by whole cells: the validity of a proposal hangs on the last bit.
            columns, rows = (ratio[:, 0] * width).round(), (ratio[:, 1] * height).round()
            x, y = (
                (torch.arange(size, dtype=ratio.dtype, device=ratio.device) + 0.5) / count[:, None]
                for size, count in ((width, columns), (height, rows))
            )
            x = x[:, None].expand(-1, height, -1)
            y = y[:, :, None].expand(-1, -1, width)
            cells.append(torch.stack((x, y), -1).flatten(1, 2))
        return torch.cat(cells, 1)

    def scale_to_levels(self, reference: Tensor) -> Tensor:
        """Move references from the unpadded image to every padded level.

        (B, Q, 2 or 4) -> (B, Q, V, 2 or 4).
        """
        ratios = self.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
        return reference[:, :, None] * ratios[:, None]


@dataclass(frozen=True)
class FeaturePyramid:
    """The neck's output: ``tokens`` (B, S, C), their ``position`` encoding (B, S, C), ``grid``."""

    tokens: Tensor
    position: Tensor
    grid: TokenGrid


@dataclass(frozen=True)
class Memory:
    """The encoder's output: ``tokens`` (B, S, C), their ``grid``, their ``position`` (B, S, C).

    Deformable attention finds tokens by their place on the grid, dense attention by ``position``.
    """

    tokens: Tensor
    grid: TokenGrid
    position: Tensor | None = None


# Methods whose queries move with their boxes recompute the position in every layer:
# (layer index, reference, content) -> (B, Q, C).
PositionFunction = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    Attributes:
        content: (B, Q, C).
        position: (B, Q, C), or a function that the decoder calls in every layer.
        reference: (B, Q, 4) boxes or (B, Q, 2) points; either may be learned.
        position_of: the position (B, n, C) of any boxes (B, n, 4), where ``position`` is a tensor
            and comes from the references; None where nothing can say it.
        spatial: makes the spatial part (B, Q, C) of what conditional attention asks for, if any.
    """

    content: Tensor
    position: Tensor | PositionFunction
    reference: Tensor
    position_of: Callable[[Tensor], Tensor] | None = None
    spatial: PositionFunction | None = None

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
            ValueError: if these can't tell the position of a box.
        """
        if not isinstance(self.position, Tensor):
            return replace(self, content=content, reference=reference)
        if self.position_of is None or self.reference.shape[-1] != 4:
            raise ConfigError(
                "queries with learned positions or points as references can't tell the position "
                "of a box: denoising needs a query initialiser whose references are boxes"
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
        padding: (B, Q) bool, True for queries that stand for nothing and cost nothing.
        peers: whether each block learns what the primary queries learn: the loss is the average
            over them and the peers' blocks.
    """

    queries: Queries
    blocks: tuple[int, ...]
    sees_primary: bool = False
    assignment: Assignment | None = None
    padding: Tensor | None = None
    peers: bool = False


class QueryMasks(ABC):
    """Masks of one source's queries, computed for those that are asked for, float32 at least.

    Attributes:
        num_layers: how many of the source's last layers have masks.
    """

    num_layers: int

    @abstractmethod
    def logits(self, image: int, layer: Tensor, query: Tensor) -> Tensor:
        """Masks of N queries of one image, (N, h, w), over the padded image.

        Args:
            layer: (N,) int64, from the first layer that has masks.
            query: (N,) int64.
        """

    @abstractmethod
    def logits_at(self, points: Tensor) -> Iterator[Tensor]:
        """All queries at points that an image's queries share, layer by layer.

        Points (B, P, 2) as (x, y) in fractions of the padded images -> (B, Q, P) of each layer that
        has masks. Only one layer's are held at a time.
        """


@dataclass(frozen=True)
class PredictionSet:
    """Predictions of one source.

    Attributes:
        logits: (L, B, Q, K).
        boxes: (L, B, Q, 4).
        anchors: (B, Q, 4) or None; what the boxes were refined from.
        layered: False where there is but one layer by nature, as for the encoder's proposals.
        states: (L, B, Q, C) or None; the decoder's queries that the predictions were made of.
        masks: None where the model has no mask branch.
        blocks: sizes of the blocks of queries that are matched apart; None: all are one.
        assignment: what the queries learn, where it is known, for one layer that stands for all.
        probability: of every class, from logits (..., K).
        peers: how many blocks of queries, in other sources too, the losses are an average over.
    """

    logits: Tensor
    boxes: Tensor
    anchors: Tensor | None = None
    layered: bool = True
    states: Tensor | None = None
    masks: QueryMasks | None = None
    blocks: tuple[int, ...] | None = None
    assignment: Assignment | None = None
    probability: Callable[[Tensor], Tensor] = torch.sigmoid
    peers: int = 1

    @property
    def share(self) -> float:
        """How much of that average these queries are."""
        return (1 if self.blocks is None else len(self.blocks)) / max(self.peers, 1)

    def logits_for(self, reader: str, probability: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits, for what takes them to mean this probability; a ValueError for others."""
        if self.probability is not probability:
            raise ConfigError(
                f"{reader} takes class logits through {probability.__name__}, the model's class "
                f"head through {self.probability.__name__}: choose what fits the head"
            )
        return self.logits

    def at_least_single(self) -> PredictionSet:
        """The same with logits and boxes as :func:`at_least_single` has them."""
        return replace(
            self,
            logits=at_least_single(self.logits),
            boxes=at_least_single(self.boxes),
            anchors=None if self.anchors is None else at_least_single(self.anchors),
        )


class Predictions(Mapping[str, PredictionSet]):
    """Prediction sets by source: ``decoder``, ``decoder.cross_attention``, ``encoder``, ..."""

    def __init__(self, sources: Mapping[str, PredictionSet]):
        self._sources = dict(sources)

    def __getitem__(self, source: str) -> PredictionSet:
        return self._sources[source]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded; never written to.

    Attributes:
        labels: (B, G) int64, 0 in padding.
        boxes: (B, G, 4); the whole image in padding, so that arithmetic stays finite.
        valid: (B, G) bool, False in padding.
        counts: objects of every image, known on the host.
        masks: (N, H, W) bool over the padded images, or None; the objects of all images one after
            the other, without padding among them.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor
    counts: tuple[int, ...]
    masks: Tensor | None = None

    @classmethod
    def from_list(cls, images: Sequence[Mapping[str, Tensor]]) -> Targets:
        """Batch per-image ``{"labels": (n,), "boxes": (n, 4)}``, with ``"masks"`` (n, H, W) or not.

        Raises:
            ValueError: for an empty batch, or labels, boxes and masks that do not fit each other.
        """
        if not images:
            raise ConfigError("targets of at least one image are needed, got an empty list")
        counts = tuple(len(image["labels"]) for image in images)
        for index, (image, count) in enumerate(zip(images, counts, strict=True)):
            if tuple(image["boxes"].shape) != (count, 4):
                raise ConfigError(
                    f"targets of image {index}: {count} labels need boxes of shape ({count}, 4), "
                    f"got {tuple(image['boxes'].shape)}"
                )
        boxes = images[0]["boxes"]
        size = (len(images), max(counts))
        labels = torch.zeros(size, dtype=torch.int64, device=boxes.device)
        padded = boxes.new_tensor((0.5, 0.5, 1.0, 1.0)).repeat(*size, 1)
        for row, (image, count) in enumerate(zip(images, counts, strict=True)):
            labels[row, :count] = image["labels"]
            padded[row, :count] = image["boxes"]
        valid = torch.arange(size[1])[None] < torch.tensor(counts)[:, None]
        valid = valid.to(boxes.device, non_blocking=True)
        return cls(labels, padded, valid, counts, _join_masks(images, counts))

    def to(self, device: torch.device) -> Targets:
        """The same targets on a device; padded on the host first, they need a copy a field."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            labels=move(self.labels),
            boxes=move(self.boxes),
            valid=move(self.valid),
            masks=None if self.masks is None else move(self.masks),
        )

    def masks_of(self, image: int) -> Tensor:
        """Masks (n, H, W) of an image's objects.

        Raises:
            ValueError: if the targets have none.
        """
        if self.masks is None:
            raise ConfigError(
                "a term supervises masks, but the targets have none: set masks=True for the mapper "
                "and the dataset of dataloader.train"
            )
        first = sum(self.counts[:image])
        return self.masks[first : first + self.counts[image]]


def _join_masks(images: Sequence[Mapping[str, Tensor]], counts: Sequence[int]) -> Tensor | None:
    given = [image["masks"] for image in images if "masks" in image]
    if not given:
        return None
    shapes = [tuple(masks.shape) for masks in given]
    expected = [(count, *given[0].shape[1:]) for count in counts]
    if shapes != expected:
        raise ConfigError(
            f"targets: either no image has masks or every one, all of one size (n, H, W) with n "
            f"labels; the images have {list(counts)} labels and masks of {shapes}"
        )
    return torch.cat(given)


@dataclass(frozen=True)
class Assignment:
    """Which queries learn which objects.

    Attributes:
        query: (L, B, G, T) int64, indices into the queries.
        valid: (L, B, G, T) bool; False marks an unused slot.
        labels: (B, G) int64, the class that each object stands for.
        score: (L, B, G, T) or None. Where several objects hold one query, the object of the
            highest score gives the class (ties: the lower object); None means no query is shared.
        copies: how many times every object is learnt; divides the losses. Each has T / copies
            slots, which follow each other.
    """

    query: Tensor
    valid: Tensor
    labels: Tensor
    score: Tensor | None = None
    copies: int = 1

    def owners(self, num_queries: int) -> Tensor:
        """The object that has each query, (L, B, Q) int64; G for none."""
        layers, batch, objects, _ = self.query.shape
        shape = (layers, batch, num_queries)
        nobody = self.query.new_full(shape, objects)
        if objects == 0:
            return nobody
        query, valid = self.query.flatten(2), self.valid.flatten(2)
        owner = torch.arange(objects, device=query.device)[:, None].expand_as(self.query[0, 0])
        owner = owner.flatten().where(valid, objects)
        if self.score is not None:
            score = self.score.flatten(2).where(valid, -float("inf"))
            best = score.new_full(shape, -float("inf")).scatter_reduce(2, query, score, "amax")
            owner = owner.where(score == best.gather(2, query), objects)
        return nobody.scatter_reduce(2, query, owner, "amin")

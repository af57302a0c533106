"""What a detector predicts, and where in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from ..errors import ConfigError
from .assignment import Assignment
from .precision import at_least_single
from .targets import Targets

DECODER = "decoder"
ENCODER = "encoder"


@dataclass(frozen=True)
class Source:
    """Where in a detector predictions are made; written ``{group}.{place}.{tap}``.

    Attributes:
        place: ``decoder``, ``encoder`` for the proposals, or the name of another head.
        group: the query group that predicts; empty for the primary queries.
        tap: the tap that hands out queries inside the decoder's layers; empty for their output.
    """

    place: str
    group: str = ""
    tap: str = ""

    @classmethod
    def of(cls, text: str | Source) -> Source:
        """A source by its text, such as ``decoder``, ``hybrid.decoder`` or ``decoder.ffn``.

        Raises:
            ConfigError: if it isn't written like that.
        """
        if isinstance(text, Source):
            return text
        parts = text.split(".") if isinstance(text, str) else []
        before, place, after = _around_place(parts)
        if place is None or len(before) > 1 or len(after) > 1 or not all((*before, place, *after)):
            raise ConfigError(
                f"'{text}' is no source of predictions: write {DECODER}, {ENCODER}, "
                f"{DECODER}.TAP, GROUP.{DECODER} or GROUP.{DECODER}.TAP"
            )
        return cls(place, "".join(before), "".join(after))

    def __str__(self) -> str:
        return ".".join(part for part in (self.group, self.place, self.tap) if part)


def _around_place(parts: list[str]) -> tuple[list[str], str | None, list[str]]:
    """What is before the place, the place, and what is behind it."""
    for index, part in enumerate(parts):
        if part in (DECODER, ENCODER):
            return parts[:index], part, parts[index + 1 :]
    return ([], parts[0], []) if len(parts) == 1 else (parts, None, [])


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

    def of_images(self, query: Tensor) -> Tensor:
        """The last layer's masks of some queries (B, n) of every image, (B, n, h, w)."""
        last = torch.full_like(query, self.num_layers - 1)
        pairs = zip(last, query, strict=True)
        return torch.stack([self.logits(image, *pair) for image, pair in enumerate(pairs)])

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
        ignored: (B, Q) bool or None; queries that stand for nothing: they are matched with no
            object, cost nothing and count nowhere.
        targets: what the queries learn instead of the batch's objects, if they do.
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
    ignored: Tensor | None = None
    targets: Targets | None = None
    probability: Callable[[Tensor], Tensor] = torch.sigmoid
    peers: int = 1

    @property
    def share(self) -> float:
        """How much of that average these queries are."""
        return (1 if self.blocks is None else len(self.blocks)) / max(self.peers, 1)

    def split(self, sizes: list[int]) -> list[PredictionSet]:
        """The decoder's predictions in parts, one behind the other, of so many queries each."""
        if len(sizes) == 1:
            return [self]
        states = [None] * len(sizes) if self.states is None else self.states.split(sizes, 2)
        parts = zip(self.logits.split(sizes, 2), self.boxes.split(sizes, 2), states, strict=True)
        return [
            replace(self, logits=logits, boxes=boxes, states=state)
            for logits, boxes, state in parts
        ]

    def logits_for(self, reader: str, probability: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits, for what takes them to mean this probability; a ConfigError for others."""
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


class Predictions(Mapping[Source, PredictionSet]):
    """Prediction sets by their source, which may be given as its text, too.

    Attributes:
        losses: weighted scalars by name, of heads that assign and compare by themselves, which may
            be `CountedLosses`.
    """

    def __init__(
        self,
        sources: Mapping[Source, PredictionSet] | Mapping[str, PredictionSet],
        losses: Mapping[str, Tensor] = MappingProxyType({}),
    ):
        self._sources = {Source.of(source): made for source, made in sources.items()}
        self.losses = losses

    def __getitem__(self, source: Source | str) -> PredictionSet:
        return self._sources[Source.of(source)]

    def __contains__(self, source: object) -> bool:
        return isinstance(source, (Source, str)) and Source.of(source) in self._sources

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def at_least_single(self) -> Predictions:
        """The same with logits and boxes as :func:`at_least_single` has them."""
        single = {source: half.at_least_single() for source, half in self.items()}
        return Predictions(single, self.losses)
